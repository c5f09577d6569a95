//! `toktune distill`.

use crate::args::{DistillArgs, LogFormat};
use crate::data::Sources;
use crate::failure::{Failure, Outcome};
use crate::load;
use crate::page::{Page, files};
use crate::report::{self, Distilled, Progress};
use crate::signals::Signals;
use crate::typed::Typed;
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Instant;
use toktune::data::{DataError, DataOptions, Dataset, RowKeys};
use toktune::distill::{
    DistilledWord, FoundWord, Likeness, Snippets, Teacher, generated_texts, measure_each,
};
use toktune::engine::objective::DistillationWeights;
use toktune::models::{ModelKind, PretrainedModel};
use toktune::peft::{PeftModel, RowInit};
use toktune::report::{Distillation, DistilledToken, Report};
use toktune::text::{AutoTokenizer, ListedToken, TextError, WordUse};
use toktune::train::Trainer;
use toktune::weights::{WeightsError, write_atomically};
use toktune::{Error, Recipe};

/// What is written into the output folder beside the adapter.
const MEASUREMENTS: &str = "distillation.json";

/// Tokens that a text of the model's own goes on for, at most.
const WRITTEN_TOKENS: usize = 64;

/// Where the texts are.
enum Corpus {
    Files(Sources, Box<DataOptions>),
    Written(Vec<String>),
}

impl Corpus {
    /// Calls `take` with every text, until a signal ends it.
    fn each(&self, signals: &Signals, take: &mut dyn FnMut(&str) -> Result<(), DataError>) -> Outcome {
        let mut next = |text: &str| match signals.status() {
            // an error is what ends reading early; it is not told
            Some(_) => Err(WeightsError::io("corpus")(ErrorKind::Interrupted.into()).into()),
            None => take(text),
        };
        let result = match self {
            Corpus::Files(sources, options) => toktune::data::texts(&sources.list, options, &mut next),
            Corpus::Written(texts) => texts.iter().try_for_each(|text| next(text)),
        };
        match signals.status() {
            Some(status) => Err(Failure::Stopped(status)),
            None => Ok(result?),
        }
    }
}

/// What a run began with.
struct Prepared {
    words: Vec<DistilledWord>,
    snippets: Snippets,
    before: AutoTokenizer,
    with_words: AutoTokenizer,
}

/// Distils.
pub fn run(args: &DistillArgs, typed: Typed<'_>) -> Outcome {
    let start = Instant::now();
    let arguments = args.training_arguments();
    arguments.check()?;
    arguments.check_output().map_err(|error| match error {
        Error::OutputNotEmpty { folder, .. } => {
            Failure::Usage(format!("--output: {} is not empty; choose another folder", folder.display()))
        }
        other => other.into(),
    })?;
    let mut machine = load::machine(&args.machine)?;
    let (mut base, tokenizer) = load::model(&args.model, &machine.handle)?;
    if base.kind() != ModelKind::Causal {
        return Err(Failure::Failed(format!(
            "{}: expected a causal language model, found {}",
            args.model,
            base.kind()
        )));
    }
    let before =
        tokenizer.map_err(|reason| Failure::Failed(format!("distilling needs a tokenizer: {reason}")))?;
    machine.set_precision(&mut base);
    let signals = Signals::listen();
    let Prepared { words, snippets, before, with_words } = prepare(args, &base, before, &signals)?;
    tell_words(args, &words, &snippets.words);
    if snippets.train.is_empty() {
        return Err(Failure::Failed(format!(
            "no word has {} snippets to train on (--min-snippets)",
            args.snippets.min_snippets
        )));
    }
    let stop = |_| signals.asked();
    let Some(teacher) = Teacher::read(&base, &snippets.train, args.loss, &mut { stop })? else {
        return Err(Failure::Stopped(signals.status().unwrap_or(1)));
    };
    let model = student(args, base, &words, (&before, &with_words))?;
    let ids = model.token_indices();
    let each_before = measure_each(model.base(), model.active(), &snippets.held_out, &ids)?;
    let options = DataOptions::for_model(model.base(), Some(&with_words));
    let data = Dataset::from_rows(snippets.train.iter().map(|of| of.row()), None, &options)?;
    toktune::runtime::release_freed_memory();
    let mut trainer =
        Trainer::new(model, arguments, data)?.with_teacher(teacher)?.with_tokenizer(with_words.clone());
    let total = trainer.schedule().total_steps;
    let json = args.told.log_format == LogFormat::Json;
    let mut progress = Progress::new(json, args.log_every, total, Some(&with_words));
    progress.listen(signals.clone());
    let page = args.report.then(|| Page::of(&trainer, typed));
    let result = trainer.train(&mut progress);
    progress.finish();
    let output = result?;
    if let (true, Some(status)) = (output.stopped, signals.status()) {
        return Err(Failure::Stopped(status));
    }
    let model = &trainer.model;
    let each_after = measure_each(model.base(), model.active(), &snippets.held_out, &ids)?;
    let (untrained, trained) = (Likeness::mean(&each_before), Likeness::mean(&each_after));
    let seconds = start.elapsed().as_secs_f64();
    let distilled =
        Distilled { output: &output, words: &words, snippets: &snippets, untrained, trained, seconds };
    let page = page.and_then(|page| {
        let report = paged(&page, &trainer, &distilled, (&each_before, &each_after), &with_words);
        let report = report.map(|mut report| {
            report.loss_unit = loss_unit(args.loss);
            report
        });
        page.write(report, files([("--corpus", &args.corpus[..])]), &args.output)
    });
    close(args, &progress, &distilled, page.as_deref())
}

/// What the loss of a run is made of.
fn loss_unit(DistillationWeights { mse, kl, ce }: DistillationWeights) -> String {
    let parts = [("mse", mse), ("kl", kl), ("ce", ce)].into_iter().filter(|(_, weight)| *weight > 0.0);
    let parts =
        parts.map(|(name, weight)| if weight == 1.0 { name.to_owned() } else { format!("{weight} {name}") });
    format!("{} to the pieces", parts.collect::<Vec<_>>().join(" + "))
}

/// The page of a distillation: what was measured of each word beside what any run has.
fn paged(
    page: &Page,
    trainer: &Trainer,
    distilled: &Distilled<'_>,
    (before, after): (&[Likeness], &[Likeness]),
    tokenizer: &AutoTokenizer,
) -> toktune::Result<Report> {
    let mut report = Report::of(trainer, Some(distilled.output), Some(tokenizer))?;
    let mut result = Distillation::new(distilled.untrained, distilled.trained);
    let Snippets { held_out, words: found, .. } = distilled.snippets;
    for (at, (word, found)) in distilled.words.iter().zip(found).enumerate() {
        let of_word = |each: &[Likeness]| {
            let own = held_out.iter().zip(each).filter(|(snippet, _)| snippet.word == at);
            Likeness::mean(own.map(|(_, of)| of))
        };
        let likeness = (of_word(before), of_word(after));
        result.words.push(DistilledToken::new(word.clone(), (found.train, found.held_out), likeness));
    }
    report.distillation = Some(result);
    report.added = distilled.words.iter().map(|word| word.id).collect();
    let seed = trainer.arguments().seed;
    report.add_rows(&trainer.model, Some(page.start()), seed, Some(tokenizer));
    Ok(report)
}

/// Finds the words, makes them tokens, and chooses the texts around them.
fn prepare(
    args: &DistillArgs,
    base: &PretrainedModel,
    before: AutoTokenizer,
    signals: &Signals,
) -> Outcome<Prepared> {
    let names: Vec<String> = ListedToken::read(&args.words)?
        .into_iter()
        .map(|listed| listed.token.content.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let corpus = corpus(args, base, &before, (&names, signals))?;
    let mut with_words = before.clone();
    let words = add_words(&names, (&corpus, signals), &before, &mut with_words)?;
    if words.is_empty() {
        return Err(Failure::Failed(format!("{}: no word to distil", args.words.display())));
    }
    let mut finder = Snippets::find(&words, args.snippet_options());
    corpus.each(signals, &mut |text| {
        finder.read(text);
        Ok(())
    })?;
    let snippets = finder.finish(&before, &with_words)?;
    Ok(Prepared { words, snippets, before, with_words })
}

fn corpus(
    args: &DistillArgs,
    base: &PretrainedModel,
    tokenizer: &AutoTokenizer,
    (names, signals): (&[String], &Signals),
) -> Outcome<Corpus> {
    let Some(count) = args.generate else {
        let mut options = DataOptions::new(base.vocabulary());
        options.keys = RowKeys { text: args.snippets.text_key.clone(), ..RowKeys::default() };
        options.sample_by = args.snippets.sample_by;
        return Ok(Corpus::Files(Sources::find(&args.corpus, false)?, options.into()));
    };
    let spaced = |name: &String| DistilledWord { id: 0, text: format!(" {name}") };
    let words: Vec<DistilledWord> = names.iter().map(spaced).collect();
    let (mut texts, mut tenths) = (Vec::new(), 0);
    let length = (count as usize, WRITTEN_TOKENS);
    generated_texts(base, tokenizer, &words, length, &mut |text, share| {
        texts.push(text.to_owned());
        let now = (share * 10.0) as u32;
        if now > tenths {
            tenths = now;
            report::note(&format!("{} written, {}0 %", report::plural(texts.len(), "text"), now));
        }
        signals.asked()
    })?;
    match signals.status() {
        Some(status) => Err(Failure::Stopped(status)),
        None => Ok(Corpus::Written(texts)),
    }
}

/// Makes each word that comes up a token, and says which do not, or are one already.
fn add_words(
    names: &[String],
    (corpus, signals): (&Corpus, &Signals),
    before: &AutoTokenizer,
    with_words: &mut AutoTokenizer,
) -> Outcome<Vec<DistilledWord>> {
    let mut uses: Vec<WordUse> = Vec::new();
    for word in names.iter().map(|name| WordUse::new(name)) {
        if !uses.iter().any(|earlier| earlier.is_same_word(&word)) {
            uses.push(word);
        }
    }
    corpus.each(signals, &mut |text| Ok(uses.iter_mut().try_for_each(|word| word.read(before, text))?))?;
    let mut words = Vec::new();
    for word in &uses {
        let name = word.word();
        match with_words.add_word(word) {
            Ok(found) => match (found.added, found.ids.as_slice()) {
                (Some(text), [id]) => words.push(DistilledWord { id: *id, text }),
                (_, ids) => report::note(&format!(
                    "{name}: one token already (id {}), left out",
                    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
                )),
            },
            Err(TextError::Word { reason, .. }) => report::warning(&format!("{name}: {reason}; left out")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(words)
}

/// The model with a row for each word, which starts from the word's pieces.
fn student(
    args: &DistillArgs,
    mut base: PretrainedModel,
    words: &[DistilledWord],
    (before, with_words): (&AutoTokenizer, &AutoTokenizer),
) -> Outcome<PeftModel> {
    base.resize_token_embeddings(with_words.required_rows());
    let mut recipe = Recipe::for_added(words.iter().map(|word| word.id).collect::<Vec<_>>());
    for word in words {
        recipe.inits.insert(word.id, RowInit::Pieces(before.encode(&word.text, false)?));
    }
    recipe.seed = args.steps.seed;
    let mut model = recipe.apply(base)?;
    model.set_base_name(&load::base_name(&args.model));
    Ok(model)
}

/// Says what was found of the words.
fn tell_words(args: &DistillArgs, words: &[DistilledWord], found: &[FoundWord]) {
    for (word, found) in words.iter().zip(found).filter(|(_, found)| found.train == 0) {
        report::warning(&format!(
            "'{}': no snippets of its own to train on ({} in the texts that no other word's snippet covers, {} of no use, {} held out; at \
             least {} are wanted, --min-snippets): its row moves only where it stands in snippets of other words",
            word.text,
            report::plural(found.places, "place"),
            found.left_out,
            found.held_out,
            args.snippets.min_snippets
        ));
    }
}

/// Tells what the run came to, and keeps it beside the adapter.
fn close(
    args: &DistillArgs,
    progress: &Progress<'_>,
    distilled: &Distilled<'_>,
    page: Option<&Path>,
) -> Outcome {
    let mut all = distilled.json();
    all["output"] = json!(args.output);
    all["report"] = json!(page);
    let text = format!("{all:#}\n");
    let path = args.output.join(MEASUREMENTS);
    let write = |file: &mut File| file.write_all(text.as_bytes()).map_err(WeightsError::io(&path));
    write_atomically(&path, write).map_err(Error::from)?;
    if progress.is_json() {
        progress.json(&all);
        return Ok(());
    }
    let style = report::stdout_style();
    let folder = args.output.display().to_string();
    let try_it = format!("toktune generate --model {} --adapter {folder} --prompt '...'", args.model);
    let mut lines = distilled.lines(style);
    let mut rows = vec![("time", distilled.time()), ("adapter", folder), ("try it", try_it)];
    rows.extend(page.map(|page| ("report", page.display().to_string())));
    let rows: Vec<(String, String)> =
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    lines.extend(report::pairs(&rows, style));
    progress.lines(&lines);
    Ok(())
}
