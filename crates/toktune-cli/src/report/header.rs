//! What a training run is, said before its first step.

use super::format::{bytes, count, number, percent, plural};
use super::starts::StartLine;
use super::style::Style;
use super::table::boxed;
use crate::machine::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use toktune::config::PeftConfig;
use toktune::data::ModelKind;
use toktune::train::{MemoryRoom, Trainer};

/// A chosen token and what training will see of it.
#[derive(Clone, Debug, Serialize)]
pub struct TokenLine {
    /// Its id.
    pub id: u32,
    /// Its spelling, where there is a tokenizer.
    pub token: Option<String>,
    /// Whether the tokenizer did not have it.
    pub added: bool,
    /// How often it is an input.
    pub inputs: usize,
    /// How often it is learnt.
    pub labels: usize,
}

/// The updates of linear layers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LoraLine {
    /// The rank of most layers.
    pub r: usize,
    /// The factor's numerator.
    pub alpha: f64,
    /// How many layers.
    pub layers: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
}

impl LoraLine {
    /// What a run trains of them; `None` without LoRA.
    pub fn of(trainer: &Trainer) -> Option<Self> {
        let PeftConfig::Lora(config) = trainer.model.active_config()? else { return None };
        Some(Self {
            r: config.r,
            alpha: config.lora_alpha,
            layers: trainer.model.lora_layers().len(),
            learning_rate: trainer.lora_schedule().learning_rate,
        })
    }
}

/// The processes that take the steps together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ProcessesLine {
    /// How many there are.
    pub count: usize,
    /// How many of them on the first one's machine.
    pub on_this_machine: usize,
    /// Bytes of the sums that each sends a step, at most.
    pub step_bytes: usize,
}

/// How two answers to one prompt are learnt.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PreferenceLine {
    /// The form of the loss.
    pub loss_type: &'static str,
    /// What rewards are scaled by.
    pub beta: f64,
    /// The share of pairs that are taken to be the wrong way round.
    pub label_smoothing: f64,
}

impl PreferenceLine {
    /// Of a run on such rows.
    pub fn of(trainer: &Trainer) -> Option<Self> {
        let dpo = trainer.arguments().dpo;
        trainer.train_data().is_preference().then(|| Self {
            loss_type: dpo.loss_type.name(),
            beta: dpo.beta,
            label_smoothing: dpo.label_smoothing,
        })
    }

    fn text(self) -> String {
        let smoothing = match self.label_smoothing {
            0.0 => String::new(),
            share => format!(", label smoothing {}", number(share)),
        };
        let Self { loss_type, beta, .. } = self;
        format!("{loss_type}, beta {}{smoothing}, beside the model as the run begins", number(beta))
    }
}

/// Rows, tokens and labels of data.
#[derive(Clone, Debug, Serialize)]
pub struct DataLine {
    /// Rows.
    pub rows: usize,
    /// Rows by the key that their form is known by.
    pub kinds: BTreeMap<String, usize>,
    /// Sequences that the rows give, which are what batches count.
    pub sequences: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// Labels of all rows.
    pub labels: usize,
    /// Whether the rows are pairs, which are learnt as a whole and have no labels.
    #[serde(skip)]
    pub pairs: bool,
    /// Rows cut by the length limit.
    pub cut_rows: usize,
}

impl From<&toktune::data::Dataset> for DataLine {
    fn from(data: &toktune::data::Dataset) -> Self {
        let (rows, tokens, sequences) = (data.rows(), data.tokens(), data.len());
        Self {
            rows,
            kinds: data.notes().forms,
            sequences,
            tokens,
            labels: data.label_tokens(),
            pairs: data.collator().kind() == ModelKind::SentencePairs,
            cut_rows: data.cut_rows(),
        }
    }
}

impl DataLine {
    fn text(&self) -> String {
        let mut rows = plural(self.rows, "row");
        match self.kinds.len() {
            0 | 1 => rows.extend(self.kinds.keys().map(|kind| format!(" of `{kind}`"))),
            _ => {
                let kinds = self.kinds.iter().map(|(kind, rows)| format!("{} `{kind}`", count(*rows as u64)));
                rows.push_str(&format!(" ({})", kinds.collect::<Vec<_>>().join(", ")));
            }
        }
        if self.sequences != self.rows {
            rows.push_str(&format!(" in {}", plural(self.sequences, "sequence")));
        }
        let mut parts = vec![rows, plural(self.tokens, "token")];
        parts.extend((!self.pairs).then(|| plural(self.labels, "label")));
        let cut = match self.cut_rows {
            0 => String::new(),
            rows => format!(" ({} cut)", plural(rows, "row")),
        };
        format!("{}{cut}", parts.join(", "))
    }
}

/// The header of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Header {
    /// The model as it was named.
    pub model: String,
    /// Its family.
    pub family: &'static str,
    /// Numbers of the model.
    pub parameters: u64,
    /// Numbers that are trained.
    pub trainable_parameters: u64,
    /// The modules whose rows are trained.
    pub modules: Vec<String>,
    /// Those that share these rows with one of them.
    pub tied_modules: Vec<String>,
    /// The chosen tokens.
    pub tokens: Vec<TokenLine>,
    /// What the rows of the first of them start from; none of a run that goes on.
    pub starts: Vec<StartLine>,
    /// Data to train on.
    pub data: DataLine,
    /// Data to evaluate on.
    pub eval_data: Option<DataLine>,
    /// Tokens of the data that are computed with those of other sequences which begin alike.
    pub shared_rows: u64,
    /// On what it runs.
    #[serde(flatten)]
    pub machine: Machine,
    /// The processes that take its steps together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<ProcessesLine>,
    /// Updates of linear layers beside the rows.
    pub lora: Option<LoraLine>,
    /// How two answers to one prompt are learnt, where the rows are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceLine>,
    /// The highest learning rate of the rows.
    pub learning_rate: f64,
    /// Whether it follows from the embedding.
    pub learning_rate_is_relative: bool,
    /// The share of the embedding's root mean square that the rate is then.
    pub relative_learning_rate: f64,
    /// The schedule's name.
    pub lr_scheduler: &'static str,
    /// Steps of the run.
    pub steps: u64,
    /// Sequences of a micro-step.
    pub batch_size: usize,
    /// Micro-steps of a step.
    pub gradient_accumulation_steps: usize,
    /// Memory that the steps are expected to need.
    pub expected_memory_bytes: u64,
    /// What they may take.
    pub memory_room: MemoryRoom,
    /// Where the adapter goes.
    pub output: String,
}

/// Tokens that the header names one by one.
pub const NAMED: usize = 8;

impl Header {
    fn rows(&self) -> Vec<(String, String)> {
        let share = 100.0 * self.trainable_parameters as f64 / self.parameters as f64;
        let machine = &self.machine;
        let relative = match self.learning_rate_is_relative {
            true => format!(" ({} x the embedding's RMS)", self.relative_learning_rate),
            false => String::new(),
        };
        let batch = match self.gradient_accumulation_steps {
            1 => plural(self.batch_size, "row"),
            n => format!("{} x {n}", plural(self.batch_size, "row")),
        };
        let mut rows = vec![
            ("model", self.model.clone()),
            (
                "parameters",
                format!(
                    "{} trained of {} ({} %), {}",
                    count(self.trainable_parameters),
                    count(self.parameters),
                    percent(share),
                    self.family
                ),
            ),
        ];
        if !self.modules.is_empty() {
            let modules = self.modules.join(" and as many of ");
            rows.push(("rows", format!("{} of {modules}{}", self.tokens.len(), self.tied())));
        }
        if let Some(lora) = &self.lora {
            let LoraLine { r, alpha, learning_rate, .. } = lora;
            let layers = plural(lora.layers, "layer");
            rows.push((
                "LoRA",
                format!("{layers}, r {r}, alpha {alpha}, learning rate {}", number(*learning_rate)),
            ));
        }
        for (at, token) in self.tokens.iter().take(NAMED).enumerate() {
            rows.push((if at == 0 { "tokens" } else { "" }, token.text()));
        }
        if self.tokens.len() > NAMED {
            rows.push(("", format!("and {} more", self.tokens.len() - NAMED)));
        }
        for (at, start) in self.starts.iter().enumerate() {
            rows.push((if at == 0 { "starts" } else { "" }, start.text()));
        }
        rows.push(("data", self.data.text()));
        if self.shared_rows > 0 {
            let (shared, all) = (self.shared_rows, self.data.tokens as u64);
            let text = format!(
                "{} of {} tokens begin as others do, and are computed with them",
                count(shared),
                count(all)
            );
            rows.push(("shared", text));
        }
        if let Some(data) = &self.eval_data {
            rows.push(("held out", data.text()));
        }
        rows.extend(self.preference.map(|of| ("preference", of.text())));
        rows.push(("steps", format!("{} of {batch}", count(self.steps))));
        rows.push((
            "learning rate",
            format!("{}{relative}, {}", number(self.learning_rate), self.lr_scheduler),
        ));
        rows.push((
            "machine",
            format!(
                "{}, {}, {}, {}",
                machine.device,
                machine.precision,
                machine.instruction_set,
                plural(machine.threads, "thread")
            ),
        ));
        if let Some(of) = &self.processes {
            let text = format!(
                "{}, {} of them on this machine, each on {}; up to {} a step from each",
                of.count,
                of.on_this_machine,
                plural(machine.threads, "thread"),
                bytes(of.step_bytes as u64)
            );
            rows.push(("processes", text));
        }
        let expected = bytes(self.expected_memory_bytes);
        rows.push(("memory", format!("about {expected} expected{}", room_text(self.memory_room))));
        rows.push(("output", self.output.clone()));
        rows.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    fn tied(&self) -> String {
        match self.tied_modules.as_slice() {
            [] => String::new(),
            names => format!(", to which {} is tied", names.join(", ")),
        }
    }

    /// In a box, for a terminal.
    pub fn boxed(&self, style: Style) -> Vec<String> {
        boxed("toktune train", &self.rows(), style)
    }

    /// A line an item, for a file.
    pub fn lines(&self) -> Vec<String> {
        let mut last = String::new();
        let of = |(key, value): (String, String)| {
            if !key.is_empty() {
                last = key;
            }
            format!("{last}: {value}")
        };
        self.rows().into_iter().map(of).collect()
    }
}

/// What a run may take of memory, behind what is expected.
fn room_text(room: MemoryRoom) -> String {
    match room {
        MemoryRoom::Process(most) => format!(", of {} that may be taken", bytes(most)),
        MemoryRoom::HalfOfFree(most) => format!("; {} may be taken (half of what is free)", bytes(most)),
        MemoryRoom::BesideWeights(most) => {
            format!("; {} may be taken (what the weights leave of what is free)", bytes(most))
        }
        MemoryRoom::Min => ", with little kept".into(),
        _ => "; what is free is not known".into(),
    }
}

impl TokenLine {
    fn text(&self) -> String {
        let name = self.token.as_ref().map_or(String::new(), |token| format!("{token} "));
        let added = if self.added { ", added" } else { "" };
        format!(
            "{name}({}{added}): {}x read, {}x learnt",
            self.id,
            count(self.inputs as u64),
            count(self.labels as u64)
        )
    }
}
