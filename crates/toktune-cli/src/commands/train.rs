//! `toktune train`.
//!
//! Everything is checked before anything is written: arguments, output folder, machine, model, tokens, data.

use crate::args::{LogFormat, TrainArgs};
use crate::audit::Audit;
use crate::choose::{Chosen, Texts, choose};
use crate::data::{self, Sources};
use crate::failure::{Failure, Outcome};
use crate::load::{self, Tokenizer};
use crate::machine::Machine;
use crate::proof::{self, Proof};
use crate::report::{self, Header, LoraLine, Progress, TokenLine};
use crate::signals::Signals;
use crate::starts::{self, Starts};
use crate::typed::Typed;
use serde_json::json;
use std::path::Path;
use toktune::Recipe;
use toktune::config::{TargetModules, check_tokens};
use toktune::data::{Collator, TokenUse};
use toktune::emission::{Cause, Emission};
use toktune::models::{ModelKind, PretrainedModel};
use toktune::peft::PeftModel;
use toktune::text::AutoTokenizer;
use toktune::train::{MemoryRoom, TensorBoard, TrainOutput, Trainer, TrainingArguments};

/// A model ready to train, with what belongs to it.
struct Prepared {
    model: PeftModel,
    tokenizer: Tokenizer,
    chosen: Chosen,
    /// What each row starts from; nothing where they are an adapter's.
    starts: Option<Starts>,
}

/// Trains; `typed` is what a run that is stopped goes on by.
pub fn run(args: &TrainArgs, typed: Typed<'_>) -> Outcome {
    let arguments = args.training_arguments();
    arguments.check()?;
    arguments.check_output()?;
    let mut machine = load::machine(&args.machine)?;
    let (mut base, mut tokenizer) = load::model(&args.model, &machine.handle)?;
    load::set_languages(&mut tokenizer, &args.languages)?;
    let sources = Sources::find(&args.data, true)?;
    let mut collator = Collator::of(&base, tokenizer.as_ref().ok(), args.steps.seed);
    machine.set_precision(&mut base);
    let Prepared { mut model, tokenizer, chosen, starts } = match &args.tokens.adapter {
        Some(folder) => from_adapter(args, base, tokenizer, folder)?,
        None => from_flags(args, base, tokenizer, &sources)?,
    };
    let resized = chosen.changed_tokenizer
        || model.base().embedding().rows() > model.base().embedding().frozen().rows();
    let lost = model.layers_lost_by_resize().join(", ");
    let opened = match resized && !lost.is_empty() {
        true => {
            report::warning(&format!(
                "{lost} is one module with {} in a model that was resized for added tokens: PEFT cannot open this adapter, \
                 and a merged model has one matrix for both; toktune alone can use it (--target-modules {0} for rows that \
                 both sides share)",
                model.base().embedding_name()
            ));
            Opened::ByToktune
        }
        false => Opened::of(model.base()),
    };
    if model.base().is_untied_by_its_file() {
        report::warning(&format!(
            "config.json says that {} is {}, and the model's files have another matrix for it, which is used: PEFT would put \
             the trained rows into both; set `tie_word_embeddings` to false in the model's config.json before PEFT opens \
             this adapter",
            model.base().head_name(),
            model.base().embedding_name()
        ));
    }
    let kind = model.base().kind();
    model.set_base_name(&load::base_name(&args.model));
    args.masks.apply(&mut collator, &model.token_indices()).map_err(Failure::Usage)?;
    let train = data::read(&sources, &tokenizer, &args.options, model.base(), &collator)?;
    let eval = match args.run.eval_data.as_slice() {
        [] => None,
        files => {
            let sources = Sources::find(files, false)?;
            Some(data::read(&sources, &tokenizer, &args.options, model.base(), &collator)?)
        }
    };
    // a new token's row of the head learns in every place where it is not to be said
    let learns_unseen = !chosen.added.is_empty() && model.base().has_head();
    let plain = data::options(&args.options, &Collator::Causal, model.base().vocabulary());
    let texts = Texts { sources: &sources, options: &plain };
    let audit = Audit::of(&train, &model.token_indices(), tokenizer.as_ref().ok());
    let audit = audit.with_texts(texts, &chosen.added.difference(&chosen.words).copied().collect())?;
    // an adapter's tokens were not chosen for these data
    let uses = audit.tell_or_refuse(args.run.allow_unseen || args.tokens.adapter.is_some(), learns_unseen)?;
    let tokenizer = tokenizer.as_ref().ok();
    let saved = tokenizer.filter(|_| chosen.changed_tokenizer);
    // the estimate of the run's memory counts what is held now
    toktune::runtime::release_freed_memory();
    let mut trainer = Trainer::new(model, arguments, train)?;
    if let Some(eval) = eval {
        trainer = trainer.with_eval(eval)?;
    }
    if let Some(saved) = saved {
        trainer = trainer.with_tokenizer(saved.clone());
    }
    let json = args.run.log_format == LogFormat::Json;
    let total = trainer.schedule().total_steps;
    let mut progress = Progress::new(json, args.run.log_every, total, tokenizer);
    let memory = trainer.memory_estimate()?;
    if let MemoryRoom::Process(budget) = trainer.memory_room()
        && memory > budget
    {
        report::warning(&format!(
            "--memory-budget: about {} are needed when nothing is kept, more than {}; smaller batches need less",
            report::bytes(memory),
            report::bytes(budget)
        ));
    }
    let mut header = header(args, machine, &trainer, &chosen, &uses, tokenizer)?;
    if let (Some(starts), false) = (&starts, args.run.resume || args.run.resume_anyway) {
        header.starts = starts::told(starts, &trainer, tokenizer)?;
    }
    let proof = Proof::of(&args.emission, 30, (kind, trainer.eval_data()), &trainer.model.token_indices())?;
    progress.header(&header);
    report::tell_prior(&header.starts, trainer.model.base().vocabulary());
    let signals = Signals::listen();
    progress.listen(signals.clone());
    // a run that is resumed has begun with other rows than it has now
    let is_fresh = !(args.run.resume || args.run.resume_anyway);
    let before = match proof.as_ref().filter(|_| is_fresh) {
        Some(proof) => try_tokens(proof, &trainer, tokenizer, &signals)?,
        None => None,
    };
    if args.run.profile {
        toktune::profile::start();
    }
    let mut board = args.run.tensorboard.then(|| TensorBoard::new(&args.output));
    let result = trainer.train(&mut (Some(&mut progress), board.as_mut()));
    progress.finish();
    if let Some(fault) = board.as_ref().and_then(TensorBoard::fault) {
        report::warning(&format!("--tensorboard: {fault}; no more of the run was written there"));
    }
    let output = result?;
    if let (true, Some(status)) = (output.stopped, signals.status()) {
        stopped(&progress, &output, total, typed);
        return Err(Failure::Stopped(status));
    }
    let after = match &proof {
        Some(proof) => try_tokens(proof, &trainer, tokenizer, &signals)?,
        None => None,
    };
    let told = after.as_ref().map(|after| {
        let labels = |id: u32| uses.iter().find(|of| of.id == id).map(|of| of.labels);
        let causes = proof::causes(after, trainer.model.base(), &trainer.model.active(), tokenizer, &labels);
        Tried { before: before.as_ref(), after, causes }
    });
    close(args, (kind, opened), &progress, (&output, told.as_ref()), tokenizer);
    if args.run.profile {
        report::profile(&progress, &toktune::profile::finish(), output.seconds);
    }
    match (&proof, &after) {
        (Some(proof), Some(after)) => proof.check(after, tokenizer),
        (Some(_), None) => Err(Failure::Stopped(signals.status().unwrap_or(1))),
        (None, _) => Ok(()),
    }
}

/// How the tokens did.
struct Tried<'a> {
    before: Option<&'a Emission>,
    after: &'a Emission,
    causes: Vec<Option<Cause>>,
}

/// Tries the tokens as they are now; nothing when a signal ends it.
fn try_tokens(
    proof: &Proof,
    trainer: &Trainer,
    tokenizer: Option<&AutoTokenizer>,
    signals: &Signals,
) -> Outcome<Option<Emission>> {
    proof.run(trainer.model.base(), trainer.model.active(), tokenizer, &mut || signals.asked())
}

/// Goes on from an adapter: its tokens, its rows and, where it has one, its tokenizer.
fn from_adapter(
    args: &TrainArgs,
    base: PretrainedModel,
    tokenizer: Tokenizer,
    folder: &Path,
) -> Outcome<Prepared> {
    let changed_tokenizer = load::adapter_tokenizer(folder)?.is_some();
    let (model, mut tokenizer) = load::with_adapter(base, tokenizer, folder)?;
    load::set_languages(&mut tokenizer, &args.languages)?;
    let chosen = Chosen { ids: model.token_indices(), changed_tokenizer, ..Chosen::default() };
    Ok(Prepared { model, tokenizer, chosen, starts: None })
}

/// Starts from the chosen tokens.
fn from_flags(
    args: &TrainArgs,
    mut base: PretrainedModel,
    mut tokenizer: Tokenizer,
    sources: &Sources,
) -> Outcome<Prepared> {
    let flags = &args.tokens;
    let lora = args.lora.config().map_err(Failure::Usage)?;
    let chosen = choose(
        &flags.choice,
        lora.is_some(),
        &mut tokenizer,
        Texts { sources, options: &data::options(&args.options, &Collator::Causal, base.vocabulary()) },
    )?;
    if let (true, Ok(tokenizer)) = (chosen.changed_tokenizer, &tokenizer) {
        let (before, size) = (base.vocabulary(), tokenizer.required_rows());
        base.resize_token_embeddings(size);
        if size > before {
            report::note(&format!("the model grows from {before} to {size} rows"));
        }
        // transformers gives the model as many rows as the tokenizer has tokens
        if let Some(id) = chosen.ids.iter().find(|&&id| id as usize >= size) {
            return Err(Failure::Usage(format!(
                "--token-ids {id}: the tokenizer has {size} tokens with those added, and a model that is \
                 loaded with it has no row {id}"
            )));
        }
    }
    if lora.is_none() || !chosen.ids.is_empty() {
        check_tokens(&chosen.ids, base.vocabulary())
            .map_err(|e| Failure::Usage(format!("--token-ids: {e}")))?;
    }
    let is_added = |id: &u32| chosen.added.contains(id);
    let mut recipe = Recipe::new(chosen.ids.clone());
    recipe.added = chosen.ids.iter().copied().filter(is_added).collect();
    recipe.target_modules = flags.target_modules.as_deref().map(TargetModules::parse);
    recipe.lora = lora;
    recipe.seed = args.steps.seed;
    let starts = starts::of(flags, &chosen, &tokenizer, args.steps.seed)?;
    recipe.inits = starts.clone();
    recipe.spread = Some(flags.init_spread);
    if recipe.trains_untied_head(&base) {
        let (embedding, head) = (base.embedding_name(), base.head_name());
        report::note(&format!(
            "the head {head} is not tied to {embedding}: rows of both are trained, or the added tokens \
             could never be generated (--target-modules {embedding} for the embedding alone)"
        ));
    }
    let model = recipe.apply(base)?;
    if args.run.cache_constants.is_some() && !model.lora_layers().is_empty() {
        report::note("with LoRA every row depends on what is trained: --cache-constants keeps nothing");
    }
    tell_one_end(&model, chosen.added.is_empty());
    let head = model.base().head_name();
    if model.base().is_tied() && model.layers().iter().any(|layer| layer.name() == head) {
        report::warning(&format!(
            "the rows of {head} are trained apart from the embedding, with which it is one matrix: such an adapter \
             cannot be merged"
        ));
    }
    Ok(Prepared { model, tokenizer, chosen, starts: Some(starts) })
}

/// Says it where tokens are trained at one end of a model that has a matrix for each.
fn tell_one_end(model: &PeftModel, known: bool) {
    let base = model.base();
    let (embedding, head) = (base.embedding_name(), base.head_name());
    let has = |name: &str| model.layers().iter().any(|layer| layer.modules().any(|module| module == name));
    if base.is_tied() || !base.has_head() {
        return;
    }
    let both = format!("(--target-modules {embedding},{head} trains both)");
    match (has(embedding), has(head)) {
        (true, false) => report::note(&format!(
            "{head} is a matrix of its own, of which no row is trained: the tokens are read anew, and said {} {both}",
            if known { "as before" } else { "by rows that know nothing of them" }
        )),
        (false, true) => report::note(&format!(
            "only rows of {head} are trained: the tokens are said anew, and read as {embedding} has them {both}"
        )),
        _ => {}
    }
}

fn header(
    args: &TrainArgs,
    machine: Machine,
    trainer: &Trainer,
    chosen: &Chosen,
    uses: &[TokenUse],
    tokenizer: Option<&AutoTokenizer>,
) -> Outcome<Header> {
    let (model, schedule, arguments) = (&trainer.model, trainer.schedule(), trainer.arguments());
    let TrainingArguments { per_device_train_batch_size, gradient_accumulation_steps, .. } = arguments;
    let tokens = uses.iter().map(|token| TokenLine {
        id: token.id,
        token: report::spelling(tokenizer, token.id),
        added: chosen.added.contains(&token.id),
        inputs: token.inputs,
        labels: token.labels,
    });
    Ok(Header {
        model: args.model.clone(),
        family: model.base().family().name,
        parameters: model.base().num_parameters(),
        trainable_parameters: model.parameter_counts().0,
        modules: model.layers().iter().map(|layer| layer.name().to_string()).collect(),
        tied_modules: model.layers().iter().flat_map(|layer| layer.tied().to_vec()).collect(),
        tokens: tokens.collect(),
        starts: Vec::new(),
        data: trainer.train_data().into(),
        eval_data: trainer.eval_data().map(Into::into),
        shared_rows: trainer.prefixes().shared_rows(),
        machine,
        lora: LoraLine::of(trainer),
        learning_rate: schedule.learning_rate,
        learning_rate_is_relative: arguments.learning_rate.is_none(),
        relative_learning_rate: arguments.relative_learning_rate,
        lr_scheduler: schedule.kind.name(),
        steps: schedule.total_steps,
        expected_memory_bytes: trainer.memory_estimate()?,
        memory_room: trainer.memory_room(),
        batch_size: *per_device_train_batch_size,
        gradient_accumulation_steps: *gradient_accumulation_steps,
        output: args.output.display().to_string(),
    })
}

/// Tells how a run that was stopped goes on.
fn stopped(progress: &Progress<'_>, output: &TrainOutput, total: u64, typed: Typed<'_>) {
    let step = output.global_step;
    if progress.is_json() {
        return progress.json(
            &json!({"event": "stopped", "step": step, "steps": total, "resume": typed.resume_command()}),
        );
    }
    progress.lines(&[
        format!("stopped after step {step} of {total}; to go on:"),
        format!("  {}", typed.resume_command()),
    ]);
}

/// How an adapter is opened in Python.
#[derive(Clone, Copy)]
enum Opened {
    /// By a class of PEFT's that finds the base itself.
    Alone(&'static str),
    /// By `PeftModel`, over a base of this class.
    OverBase(&'static str),
    /// Not at all.
    ByToktune,
}

impl Opened {
    fn of(base: &PretrainedModel) -> Self {
        base.auto_peft_class().map_or(Self::OverBase(base.auto_class()), Self::Alone)
    }
}

fn merge_command(args: &TrainArgs) -> String {
    format!("toktune merge --model {} --adapter {} --output merged", args.model, args.output.display())
}

/// Tells what the run came to.
fn close(
    args: &TrainArgs,
    (kind, opened): (ModelKind, Opened),
    progress: &Progress<'_>,
    (output, tried): (&TrainOutput, Option<&Tried<'_>>),
    tokenizer: Option<&AutoTokenizer>,
) {
    let speed = output.tokens as f64 / output.seconds.max(f64::MIN_POSITIVE);
    let memory = toktune::train::peak_memory_bytes();
    let evaluation = |of: &Option<_>| of.as_ref().map(|e| report::evaluation_json(e, tokenizer));
    if progress.is_json() {
        let emission = tried.map(|tried| {
            json!({
                "before": tried.before.map(|before| report::emission_json(before, &[], tokenizer)),
                "after": report::emission_json(tried.after, &tried.causes, tokenizer),
            })
        });
        return progress.json(&json!({
            "event": "end",
            "emission": emission,
            "steps": output.global_step,
            "seconds": output.seconds,
            "tokens": output.tokens,
            "tokens_per_second": speed,
            "peak_memory_bytes": memory,
            "first_loss": output.first_and_last.as_ref().map(|(first, _)| first.loss),
            "last_loss": output.first_and_last.as_ref().map(|(_, last)| last.loss),
            "before": evaluation(&output.before),
            "after": evaluation(&output.after),
            "best": output.best.as_ref().map(|best| json!({"step": best.step, "loss": best.evaluation.loss})),
            "ended_early": output.ended_early,
            "output": args.output,
        }));
    }
    let style = report::stdout_style();
    let mut lines = vec![String::new()];
    if let (Some(before), Some(after)) = (&output.before, &output.after) {
        lines.push(style.bold("held out"));
        lines.extend(report::evaluation_table(&[("before", before), ("after", after)], tokenizer, style));
        lines.push(String::new());
    }
    if let Some(Tried { before, after, causes }) = tried {
        lines.push(
            style.bold(&format!("written by the model itself ({})", report::plural(after.prompts, "prompt"))),
        );
        let shown: Vec<_> =
            before.iter().map(|before| ("before", *before)).chain([("after", *after)]).collect();
        lines.extend(report::emission_table(&shown, causes, tokenizer, style));
        lines.push(String::new());
    }
    let mut rows = Vec::new();
    match &output.first_and_last {
        Some((first, last)) => {
            rows.push((
                "training loss",
                format!("{:.4} at step {}, {:.4} at step {}", first.loss, first.step, last.loss, last.step),
            ));
            let memory =
                memory.map_or(String::new(), |n| format!(", {} of memory at most", report::bytes(n)));
            let steps = report::plural(output.steps as usize, "step");
            rows.push(("time", format!("{steps} in {:.1} s, {speed:.0} tokens/s{memory}", output.seconds)));
        }
        None => rows.push(("steps", format!("none to take: {} were taken before", output.global_step))),
    }
    if let Some(best) = output.best.as_ref().filter(|_| args.run.keep_best || output.ended_early) {
        let (step, loss) = (best.step, best.evaluation.loss);
        let kept = if args.run.keep_best { "the rows of" } else { "the last rows; the best were those of" };
        let why = match (output.ended_early, args.run.early_stopping_patience) {
            (true, Some(n)) => {
                format!("; ended, since {} gave none lower", report::plural(n as usize, "evaluation"))
            }
            _ => String::new(),
        };
        rows.push(("kept", format!("{kept} step {step}, with the lowest held-out loss, {loss:.4}{why}")));
    }
    let folder = args.output.display();
    rows.push(("adapter", folder.to_string()));
    if matches!(kind, ModelKind::Causal | ModelKind::Seq2Seq) {
        let command = format!("toktune generate --model {} --adapter {folder} --prompt '...'", args.model);
        rows.push(("try it", command));
    }
    // transformers needs a folder beneath the adapter
    rows.push(match opened {
        _ if args.model.to_lowercase().ends_with(".gguf") => ("for Python", merge_command(args)),
        Opened::ByToktune => {
            ("in Python", "not at all: PEFT does not find its module after the resize".into())
        }
        Opened::Alone(class) => ("in Python", format!("{class}.from_pretrained(\"{folder}\")")),
        Opened::OverBase(class) => {
            ("in Python", format!("PeftModel.from_pretrained({class}..., \"{folder}\")"))
        }
    });
    let rows: Vec<(String, String)> =
        rows.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    lines.extend(report::pairs(&rows, style));
    progress.lines(&lines);
}
