//! What a run knows, put together for its report.

use super::contents::{Facts, Report, TokenProof};
use super::examples::examples;
use super::format::{bytes, count, duration, number, percent, plural};
use super::rows::{StartRows, layer_rows};
use super::texts::written_texts;
use crate::config::PeftConfig;
use crate::data::ModelKind;
use crate::emission::{Cause, Emission, Prompt};
use crate::error::Result;
use crate::peft::PeftModel;
use crate::text::AutoTokenizer;
use crate::train::{TrainOutput, Trainer, peak_memory_bytes, read_log};

impl Report {
    /// What a trainer knows after a run, and the log in its folder: curves, evaluations, settings, the tokens' places in the data
    /// and some rows. `output` is what the run came to; nothing where it ended in an error.
    ///
    /// # Errors
    /// A row of the data cannot be read, or the tokenizer's decoder fails.
    pub fn of(
        trainer: &Trainer,
        output: Option<&TrainOutput>,
        tokenizer: Option<&AutoTokenizer>,
    ) -> Result<Self> {
        let (model, arguments, data) = (&trainer.model, trainer.arguments(), trainer.train_data());
        let tokens = model.token_indices();
        let folder = &arguments.output_dir;
        let mut report = Report {
            title: folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
            kind: data.collator().kind(),
            loss_unit: "nats a label".into(),
            log: read_log(folder),
            uses: data.uses(&tokens),
            examples: examples(data, tokenizer, &tokens)?,
            max_grad_norm: Some(arguments.max_grad_norm).filter(|norm| *norm > 0.0),
            ..Report::default()
        };
        if report.kind == ModelKind::SentencePairs || data.is_preference() {
            report.loss_unit = "nats a pair".into();
        }
        if let Some(output) = output {
            report.evaluations.clone_from(&output.evaluations);
            report.before.clone_from(&output.before);
            report.after.clone_from(&output.after);
            let best = output.best.as_ref().map(|best| best.step);
            let kept = best.filter(|step| *step != output.global_step);
            report.kept_step = kept.filter(|_| arguments.load_best_model_at_end && !output.stopped);
            if output.stopped {
                let (taken, total) = (output.global_step, trainer.schedule().total_steps);
                report.notes.push(format!("The run was stopped after step {taken} of {total}."));
            }
        }
        report.special =
            tokens.iter().copied().filter(|id| tokenizer.is_some_and(|of| of.is_special(*id))).collect();
        report.learn_names(&tokens, tokenizer);
        report.facts =
            vec![model_facts(model), data_facts(trainer), settings(trainer), report.spent(), machine(model)];
        Ok(report)
    }

    /// Adds what came of trying the tokens on `prompts`, with what is probably wrong with each of them.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn add_emission(
        &mut self,
        prompts: &[Prompt],
        (before, after): (Option<&Emission>, &Emission),
        causes: &[Option<Cause>],
        tokenizer: Option<&AutoTokenizer>,
    ) -> Result<()> {
        let chosen: Vec<u32> = after.tokens.iter().map(|token| token.id).collect();
        let texts = written_texts(prompts, (before, after), &chosen, tokenizer)?;
        let pairs = after.pairs.iter().flat_map(|pair| [pair.open, pair.close]);
        let ids: Vec<u32> = chosen.iter().copied().chain(pairs).collect();
        self.learn_names(&ids, tokenizer);
        let (before, after) = (before.cloned(), after.clone());
        self.emission = Some(TokenProof { before, after, causes: causes.to_vec(), texts });
        Ok(())
    }

    /// Adds where the rows of `model` lie among those of the vocabulary, and where they lay at the `start`. Tokens with which
    /// something is wrong are listed first, so [`add_emission`](Self::add_emission) comes before. `seed` draws the vocabulary's rows on the map.
    pub fn add_rows(
        &mut self,
        model: &PeftModel,
        start: Option<&StartRows>,
        seed: u64,
        tokenizer: Option<&AutoTokenizer>,
    ) {
        self.rows = layer_rows(model, start, &self.listed(), seed);
        let mut ids = Vec::new();
        for rows in &self.rows {
            let places = rows.before.iter().chain(&rows.after);
            ids.extend(places.flat_map(|place| place.nearest.iter().map(|near| near.0)));
            let map = rows.map.iter().flat_map(|map| map.vocabulary.iter().chain(&map.neighbours));
            ids.extend(map.map(|of| of.0));
        }
        let sources: Vec<u32> = self.starts.values().flat_map(|start| start.sources().to_vec()).collect();
        self.learn_names(&[ids, sources].concat(), tokenizer);
    }

    fn learn_names(&mut self, ids: &[u32], tokenizer: Option<&AutoTokenizer>) {
        let Some(tokenizer) = tokenizer else { return };
        for id in ids {
            if let (false, Some(name)) = (self.names.contains_key(id), tokenizer.id_to_token(*id)) {
                self.names.insert(*id, name);
            }
        }
    }

    /// Time, speed and memory, over the whole log.
    fn spent(&self) -> Facts {
        let mut facts = Facts::new("Time and memory");
        let seconds: f64 = self.log.iter().map(|step| step.seconds).filter(|x| x.is_finite()).sum();
        let tokens: usize = self.log.iter().map(|step| step.tokens).sum();
        facts.add("steps", format!("{} in {}", count(self.log.len() as u64), duration(seconds)));
        if seconds > 0.0 {
            let speed = tokens as f64 / seconds;
            facts.add(
                "speed",
                format!("{} tokens/s ({} read)", number(speed.round()), plural(tokens, "token")),
            );
        }
        if let Some(peak) = peak_memory_bytes() {
            facts.add("memory", format!("{} at most, mapped weights included", bytes(peak)));
        }
        facts
    }
}

fn model_facts(model: &PeftModel) -> Facts {
    let base = model.base();
    let mut facts = Facts::new("Model");
    if let Some(name) = model.active_config().and_then(|of| of.common().base_model_name_or_path.clone()) {
        facts.add("model", name);
    }
    facts.add("family", format!("{}, {}", base.family().name, base.kind()));
    let (trained, all) = model.parameter_counts();
    let share = percent(100.0 * trained as f64 / all.max(1) as f64);
    facts.add("parameters", format!("{} trained of {} ({share} %)", count(trained), count(all)));
    for layer in model.layers() {
        let tied = match layer.tied() {
            [] => String::new(),
            names => format!(", to which {} is tied", names.join(", ")),
        };
        let rows = layer.rows().indices().len();
        facts.add("rows", format!("{} of {}{tied}", count(rows as u64), layer.name()));
    }
    if let Some(PeftConfig::Lora(config)) = model.active_config() {
        let layers = plural(model.lora_layers().len(), "layer");
        facts.add("LoRA", format!("{layers}, r {}, alpha {}", config.r, number(config.lora_alpha)));
    }
    facts
}

fn data_facts(trainer: &Trainer) -> Facts {
    let mut facts = Facts::new("Data");
    let sets = [("trained on", Some(trainer.train_data())), ("held out", trainer.eval_data())];
    for (name, data) in sets.into_iter().filter_map(|(name, data)| Some((name, data?))) {
        let mut parts = vec![plural(data.rows(), "row")];
        parts.extend((data.len() != data.rows()).then(|| plural(data.len(), "sequence")));
        parts.push(plural(data.tokens(), "token"));
        if data.collator().kind() != ModelKind::SentencePairs {
            parts.push(plural(data.label_tokens(), "label"));
        }
        parts.extend(
            Some(data.cut_rows()).filter(|cut| *cut > 0).map(|cut| format!("{} cut", plural(cut, "row"))),
        );
        facts.add(name, parts.join(", "));
    }
    facts
}

fn settings(trainer: &Trainer) -> Facts {
    let (of, schedule) = (trainer.arguments(), trainer.schedule());
    let mut facts = Facts::new("Settings");
    let batch = match of.gradient_accumulation_steps {
        1 => plural(of.per_device_train_batch_size, "row"),
        n => format!("{} x {n}", plural(of.per_device_train_batch_size, "row")),
    };
    facts.add("steps", format!("{} of {batch}", count(schedule.total_steps)));
    let relative = match of.learning_rate {
        None => format!(" ({} x the embedding's RMS)", of.relative_learning_rate),
        Some(_) => String::new(),
    };
    facts.add("learning rate", format!("{}{relative}", number(schedule.learning_rate)));
    facts.add(
        "schedule",
        format!("{}, warm-up {}", schedule.kind.name(), plural(schedule.warmup_steps as usize, "step")),
    );
    if !trainer.model.lora_layers().is_empty() {
        facts.add("learning rate of LoRA", number(trainer.lora_schedule().learning_rate));
    }
    facts.add("weight decay", number(of.weight_decay));
    facts.add(
        "gradients scaled to",
        if of.max_grad_norm > 0.0 { number(of.max_grad_norm) } else { "never".into() },
    );
    facts.add("norms of rows", of.norm.to_string());
    facts.add("order", if of.shuffle { "shuffled" } else { "as in the files" });
    facts.add("seed", of.seed.to_string());
    if let Some(every) = of.eval_steps {
        let best = match of.load_best_model_at_end {
            true => format!(", the best rows kept by their {}", of.metric_for_best_model),
            false => String::new(),
        };
        facts.add("evaluated", format!("every {}{best}", plural(every as usize, "step")));
    }
    facts
}

fn machine(model: &PeftModel) -> Facts {
    let mut facts = Facts::new("Machine");
    facts.add("toktune", env!("CARGO_PKG_VERSION"));
    facts.add("products in", if model.base().uses_bf16() { "bf16" } else { "f32" });
    if let Ok(isa) = crate::runtime::instruction_set() {
        facts.add("instruction set", isa.name());
    }
    facts.add("threads", crate::runtime::num_threads().to_string());
    facts.add("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH));
    facts
}
