//! `toktune preview`: rows as the model will see them.

use crate::args::{LogFormat, PreviewArgs};
use crate::audit::Audit;
use crate::choose::{Texts, choose};
use crate::data::{self, Sources};
use crate::failure::{Outcome, usage};
use crate::load::{self, Loaded};
use crate::report::{self, Style};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use toktune::data::{Collator, DataOptions, Dataset, ModelKind, ShownToken};
use toktune::text::AutoTokenizer;

/// Reads the data as training would and shows some rows.
pub fn run(args: &PreviewArgs) -> Outcome {
    if args.from == 0 {
        return usage("--from is 0, expected at least 1: rows are counted from 1");
    }
    let (model, mut tokenizer) = Loaded::to_look_at(&args.model)?;
    let (base, mut trained) = (model.base(), model.tokens());
    load::set_languages(&mut tokenizer, &args.languages)?;
    let sources = Sources::find(&args.data, true)?;
    let plain = data::options(&args.options, &Collator::Causal, base.vocabulary());
    let texts = Texts { sources: &sources, options: &plain };
    // without a token there is nothing to mark, and the rows are worth a look all the same
    let chosen = choose(&args.tokens, true, base, &mut tokenizer, texts)?;
    trained.extend(&chosen.ids);
    let rows = base.vocabulary().max(tokenizer.as_ref().map_or(0, AutoTokenizer::required_rows));
    let collator = Collator::of(base, tokenizer.as_ref().ok(), 0);
    let mut options = data::options(&args.options, &collator, rows);
    options.max_length = options.max_length.or(base.sentence().max_seq_length);
    let data = data::read_sources(&sources, &tokenizer, &options)?;
    if args.from > data.len() {
        return usage(format!(
            "--from is {}, but the data give {}",
            args.from,
            report::plural(data.len(), "row")
        ));
    }
    let preview = Preview {
        data: &data,
        tokenizer: tokenizer.as_ref().ok(),
        trained: trained.iter().copied().collect(),
    };
    let shown = args.from - 1..data.len().min((args.from - 1).saturating_add(args.rows));
    match args.output.log_format {
        LogFormat::Json => preview.json(shown, &trained)?,
        LogFormat::Text => preview.text(shown, &trained, &options)?,
    }
    let audit = Audit::of(&data, &trained, tokenizer.as_ref().ok());
    audit.with_texts(texts, &chosen.added.difference(&chosen.words).copied().collect())?.tell();
    Ok(())
}

/// Data with what is needed to show them.
struct Preview<'p> {
    data: &'p Dataset,
    tokenizer: Option<&'p AutoTokenizer>,
    trained: HashSet<u32>,
}

impl Preview<'_> {
    fn json(&self, shown: std::ops::Range<usize>, trained: &[u32]) -> Outcome {
        for index in shown {
            let example = self.data.example(index)?;
            let parts = self.data.shown((index, &example), self.tokenizer, &self.trained)?;
            let parts: Vec<Value> =
                parts.iter().map(|part| json!({"part": part.name, "tokens": part.tokens})).collect();
            report::json_line(&json!({
                "event": "row", "row": index + 1, "source": example.source.to_string(),
                "cut_tokens": example.cut.len(), "parts": parts,
            }))?;
        }
        let uses = self.data.uses(trained);
        let tokens = uses.iter().map(|token| {
            json!({"id": token.id, "token": report::spelling(self.tokenizer, token.id), "inputs": token.inputs,
                "labels": token.labels, "cut": token.cut})
        });
        Ok(report::json_line(&json!({
            "event": "data", "rows": self.data.rows(), "sequences": self.data.len(), "kinds": self.data.notes().forms,
            "input_tokens": self.data.tokens(), "labels": self.data.label_tokens(),
            "cut_rows": self.data.cut_rows(), "rows_without_labels": self.data.rows_without_labels(),
            "tokens": tokens.collect::<Vec<_>>(),
        }))?)
    }

    fn text(&self, shown: std::ops::Range<usize>, trained: &[u32], options: &DataOptions) -> Outcome {
        let style = report::stdout_style();
        let mut out = std::io::stdout().lock();
        for index in shown {
            let example = self.data.example(index)?;
            let parts = self.data.shown((index, &example), self.tokenizer, &self.trained)?;
            let tokens = || parts.iter().flat_map(|part| &part.tokens);
            let count = |of: &dyn Fn(&ShownToken) -> bool| tokens().filter(|token| of(token)).count();
            let (learnt, marked) = (count(&|token| token.learnt), count(&|token| token.trained));
            let both = count(&|token| token.trained && token.learnt);
            let cut = match example.cut.len() {
                0 => String::new(),
                n => format!(", {} cut off", report::plural(n, "token")),
            };
            let pairs = self.data.collator().kind() == ModelKind::SentencePairs;
            let learnt =
                if pairs { String::new() } else { format!(", {} learnt", report::count(learnt as u64)) };
            let of_trained = match (trained.is_empty(), pairs) {
                (true, _) => String::new(),
                (false, true) => format!("; trained tokens: {marked}"),
                (false, false) => format!("; trained tokens: {marked}, {both} of them learnt"),
            };
            let title = format!(
                "row {} of {}",
                report::count(index as u64 + 1),
                report::count(self.data.len() as u64)
            );
            let read = tokens().count();
            writeln!(
                out,
                "{}  {}  {}{learnt}{of_trained}{cut}",
                style.bold(&title),
                example.source,
                report::plural(read, "token"),
            )?;
            let lines = parts.iter().flat_map(|part| report::shown_lines(&part.tokens, part.name, style));
            let lines: Vec<_> = lines.collect();
            let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0).max(8);
            for line in &lines {
                writeln!(out, "  {:>width$} | {}", line.name, line.text)?;
            }
            writeln!(out)?;
        }
        self.totals(&mut out, trained, options, style)
    }

    fn totals(&self, out: &mut impl Write, trained: &[u32], options: &DataOptions, style: Style) -> Outcome {
        let (rows, sequences) = (self.data.rows(), self.data.len());
        let kinds: Vec<String> = self
            .data
            .notes()
            .forms
            .iter()
            .map(|(form, rows)| format!("{} `{form}`", report::count(*rows as u64)))
            .collect();
        let sequences = match sequences == rows {
            true => String::new(),
            false => format!(", {} sequences", report::count(sequences as u64)),
        };
        let mut lines = vec![
            ("rows".to_string(), format!("{}: {}{sequences}", report::count(rows as u64), kinds.join(", "))),
            (
                "tokens".to_string(),
                format!(
                    "{} read, {} of them learnt",
                    report::count(self.data.tokens() as u64),
                    report::count(self.data.label_tokens() as u64)
                ),
            ),
        ];
        if let (cut @ 1.., Some(most)) = (self.data.cut_rows(), options.max_length) {
            lines.push(("cut".to_string(), format!("{} at {most} tokens", report::plural(cut, "row"))));
        }
        if let without @ 1.. = self.data.rows_without_labels() {
            lines.push(("nothing learnt".to_string(), format!("in {}", report::plural(without, "row"))));
        }
        for (at, token) in self.data.uses(trained).iter().enumerate() {
            let name =
                report::spelling(self.tokenizer, token.id).map_or(String::new(), |token| format!("{token} "));
            let cut = if token.cut > 0 {
                format!(", {}x cut off", report::count(token.cut as u64))
            } else {
                String::new()
            };
            lines.push((
                if at == 0 { "trained" } else { "" }.to_string(),
                format!(
                    "{name}({}): {}x read, {}x learnt{cut}",
                    token.id,
                    report::count(token.inputs as u64),
                    report::count(token.labels as u64)
                ),
            ));
        }
        for line in report::pairs(&lines, style) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}
