//! `toktune distill`.

mod teaching;
mod words;

use crate::args::{DistillArgs, LogFormat};
use crate::data::Sources;
use crate::failure::{Failure, Outcome};
use crate::load;
use crate::page::{Page, files};
use crate::report::{self, Distilled, Progress};
use crate::signals::Signals;
use crate::starts::{self, Starts};
use crate::typed::Typed;
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Instant;
use toktune::data::{DataError, DataOptions, Dataset, Piece, RowKeys};
use toktune::distill::{DistilledWord, FoundWord, Likeness, Snippets, generated_texts, measure_each};
use toktune::engine::objective::DistillationWeights;
use toktune::models::{ModelKind, PretrainedModel};
use toktune::peft::PeftModel;
use toktune::report::{Distillation, DistilledToken, Report};
use toktune::text::{AutoTokenizer, ListedToken};
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
    /// Calls `take` with every text, long ones in parts, until a signal ends it.
    fn each(&self, signals: &Signals, take: &mut dyn FnMut(&Piece<'_>) -> Result<(), DataError>) -> Outcome {
        let mut next = |piece: Piece<'_>| match signals.status() {
            // an error is what ends reading early; it is not told
            Some(_) => Err(WeightsError::io("corpus")(ErrorKind::Interrupted.into()).into()),
            None => take(&piece),
        };
        let result = match self {
            Corpus::Files(sources, options) => toktune::data::pieces(&sources.list, options, &mut next),
            Corpus::Written(texts) => texts.iter().try_for_each(|text| next(Piece::whole(text))),
        };
        match signals.status() {
            Some(_) => Err(teaching::stopped(signals)),
            None => Ok(result?),
        }
    }
}

/// What a run began with.
struct Prepared {
    words: Vec<DistilledWord>,
    starts: Starts,
    snippets: Snippets,
    with_words: AutoTokenizer,
}

/// Distils; `typed` is what a run that is stopped goes on by.
pub fn run(args: &DistillArgs, typed: Typed<'_>) -> Outcome {
    let start = Instant::now();
    let mut arguments = args.training_arguments();
    arguments.check()?;
    arguments.check_output()?;
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
    let Prepared { words, starts, snippets, with_words } = prepare(args, &base, before, &signals)?;
    arguments.per_device_train_batch_size = args.batch_size(words.len());
    tell_words(args, &words, &snippets.words);
    if snippets.train.is_empty() {
        return Err(Failure::Failed(format!(
            "no word has {} snippets to train on (--min-snippets)",
            args.snippets.min_snippets
        )));
    }
    let teacher = teaching::teacher(args, &base, &snippets.train, &signals)?;
    let model = student(args, base, starts, &with_words)?;
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
        super::stopped::tell(&progress, &output, total, typed);
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
    let listed = words::read(&args.words)?;
    let corpus = corpus(args, base, &before, (&listed, signals))?;
    let mut with_words = before.clone();
    let (words, chosen) = words::add(&listed, (&corpus, signals), &before, &mut with_words)?;
    if words.is_empty() {
        return Err(Failure::Failed(format!("{}: no word to distil", args.words.display())));
    }
    let starts = starts::of_list("--words", &chosen, &Ok(with_words.clone()), args.steps.seed)?;
    let mut finder = Snippets::find(&words, args.snippet_options());
    corpus.each(signals, &mut |piece| {
        finder.read_piece(piece);
        Ok(())
    })?;
    let snippets = finder.finish(&before, &with_words)?;
    Ok(Prepared { words, starts, snippets, with_words })
}

fn corpus(
    args: &DistillArgs,
    base: &PretrainedModel,
    tokenizer: &AutoTokenizer,
    (listed, signals): (&[ListedToken], &Signals),
) -> Outcome<Corpus> {
    let Some(count) = args.generate else {
        let mut options = DataOptions::new(base.vocabulary());
        options.keys = RowKeys { text: args.snippets.text_key.clone(), ..RowKeys::default() };
        options.sample_by = args.snippets.sample_by;
        return Ok(Corpus::Files(Sources::find(&args.corpus, false)?, options.into()));
    };
    let spaced = |of: &ListedToken| DistilledWord { id: 0, text: format!(" {}", of.token.content) };
    let words: Vec<DistilledWord> = listed.iter().map(spaced).collect();
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
        Some(_) => Err(teaching::stopped(signals)),
        None => Ok(Corpus::Written(texts)),
    }
}

/// The model with a row for each word, which starts from what the list says, or the word's pieces.
fn student(
    args: &DistillArgs,
    mut base: PretrainedModel,
    starts: Starts,
    with_words: &AutoTokenizer,
) -> Outcome<PeftModel> {
    base.resize_token_embeddings(with_words.required_rows());
    let mut recipe = Recipe::for_added(starts.keys().copied().collect::<Vec<_>>());
    recipe.inits = starts;
    recipe.seed = args.steps.seed;
    let mut model = recipe.apply(base)?;
    model.set_base_name(&load::base_name(&args.model));
    Ok(model)
}

/// Says what was found of the words.
fn tell_words(args: &DistillArgs, words: &[DistilledWord], found: &[FoundWord]) {
    for (word, found) in words.iter().zip(found).filter(|(_, found)| found.train == 0) {
        report::warning(&format!(
            "'{}': no snippets of its own to train on ({} in the texts, {} of no use, {} held out; at \
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
