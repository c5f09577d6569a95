//! A run as it goes on: a bar on a terminal, lines in a file, JSON for programs.

use super::evaluation::evaluation_json;
use super::format::{bytes, duration, number};
use super::header::Header;
use super::json_line;
use super::style::{Style, stdout_style};
use crate::signals::Signals;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;
use toktune::peft::PeftModel;
use toktune::text::AutoTokenizer;
use toktune::train::{Evaluation, Leak, PreferenceMetrics, StepLog, TrainerCallback, TrainerWarning};

/// How a run is told of.
#[derive(Clone, Debug)]
enum Mode {
    /// A bar on the standard error, everything else on the standard output.
    Terminal(ProgressBar),
    /// Lines on the standard output.
    Plain,
    /// JSON on the standard output.
    Json,
}

/// Tells of a run. When the reader of the standard output goes away, the run goes on in silence: its result
/// is a file.
#[derive(Debug)]
pub struct Progress<'a> {
    mode: Mode,
    every: Option<u64>,
    total: u64,
    first: Option<u64>,
    /// Of the steps so far; evaluations and checkpoints between them would spoil the bar's own estimate.
    seconds: f64,
    tokenizer: Option<&'a AutoTokenizer>,
    style: Style,
    /// Ask for the end of the run.
    signals: Signals,
    /// Whether `mpirun` carries what is told.
    is_carried: bool,
}

/// How two answers compare, shortly.
fn compared(of: &PreferenceMetrics) -> String {
    format!("accuracy {:.1} %  margin {:.4}", 100.0 * of.accuracies, of.margins)
}

/// What a leak is, and what helps.
fn leaking(leak: &Leak, tokenizer: Option<&AutoTokenizer>) -> String {
    let token = super::spelling(tokenizer, leak.token);
    let token = token.map_or_else(|| leak.token.to_string(), |token| format!("'{token}'"));
    let percent = |share: f64| number(100.0 * share);
    format!(
        "after step {} the trained tokens take {} % of the probability in held-out places of other tokens, {token} {} % of it \
         alone: they will be written where they do not belong; a lower --learning-rate leaks less, and so does --norm \
         clamp:X; the tokens of words can be distilled instead (toktune distill)",
        leak.step,
        percent(leak.probability),
        percent(leak.of_token / leak.probability),
    )
}

const BAR: &str = "{bar:24.green/dim} {pos}/{len}  {wide_msg}";

impl<'a> Progress<'a> {
    /// For a run of `total` steps.
    pub fn new(json: bool, every: Option<u64>, total: u64, tokenizer: Option<&'a AutoTokenizer>) -> Self {
        let mode = if json {
            Mode::Json
        } else if !super::is_silent() && std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
            Mode::Terminal(ProgressBar::hidden())
        } else {
            Mode::Plain
        };
        let (style, signals) = (stdout_style(), Signals::default());
        Self { mode, every, total, first: None, seconds: 0.0, tokenizer, style, signals, is_carried: false }
    }

    /// From now on a signal asks for the end of the run instead of ending the program.
    pub fn listen(&mut self, signals: Signals) {
        self.signals = signals;
    }

    /// From now on nothing is told once a signal has come: `mpirun`, which carries what is told, no longer reads then, and a run that
    /// waits for it would not save.
    pub fn carried(&mut self) {
        self.is_carried = true;
    }

    /// Whether there is nobody to tell anything.
    fn is_silent(&self) -> bool {
        super::is_silent() || self.is_carried && self.signals.status().is_some()
    }

    /// Tells what the run is.
    pub fn header(&self, header: &Header) {
        let lines = match &self.mode {
            Mode::Json => {
                let mut value = serde_json::to_value(header).unwrap_or_default();
                if let Value::Object(fields) = &mut value {
                    fields.shift_insert(0, "event".into(), "header".into());
                }
                self.json(&value);
                return;
            }
            Mode::Terminal(_) => header.boxed(self.style),
            Mode::Plain => header.lines(),
        };
        self.lines(&lines);
    }

    /// Lines on the standard output, above the bar.
    pub fn lines(&self, lines: &[String]) {
        if self.is_silent() {
            return;
        }
        let write = || {
            let mut out = std::io::stdout().lock();
            lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush())
        };
        let _ = match &self.mode {
            Mode::Terminal(bar) => bar.suspend(write),
            _ => write(),
        };
    }

    /// Says something on the standard error, above the bar.
    fn aside(&self, tell: impl FnOnce()) {
        match &self.mode {
            Mode::Terminal(bar) => bar.suspend(tell),
            _ => tell(),
        }
    }

    /// A JSON line.
    pub fn json(&self, value: &Value) {
        if self.is_silent() {
            return;
        }
        let _ = json_line(value);
    }

    /// Whether JSON is wanted.
    pub fn is_json(&self) -> bool {
        matches!(self.mode, Mode::Json)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Mode::Terminal(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }

    fn is_due(&self, step: u64) -> bool {
        let terminal = matches!(self.mode, Mode::Terminal(_));
        match self.every.or((!terminal).then_some(1)) {
            Some(every) => step.is_multiple_of(every) || step == self.total || self.first == Some(step),
            None => false,
        }
    }

    fn step_line(&self, log: &StepLog) -> String {
        let memory = log.peak_memory_bytes.map_or(String::new(), |n| format!("  {}", bytes(n)));
        let answers = log.preference.as_ref().map_or(String::new(), |of| format!("  {}", compared(of)));
        format!(
            "step {}/{}  epoch {:.2}  loss {:.4}{answers}  lr {}  grad norm {}  {:.0} tokens/s{memory}",
            log.step,
            self.total,
            log.epoch,
            log.loss,
            number(log.learning_rate),
            number(log.grad_norm),
            log.tokens_per_second
        )
    }
}

impl TrainerCallback for Progress<'_> {
    fn on_train_begin(&mut self, _: &PeftModel, step: u64) {
        self.first = Some(step + 1);
        if step > 0 {
            super::note(&format!("going on after step {step}"));
        }
        if let Mode::Terminal(bar) = &mut self.mode {
            *bar = ProgressBar::new(self.total);
            // the template is a constant, which the tests parse
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style.progress_chars("━━─"));
            }
            bar.set_position(step);
            bar.set_message("starting");
            bar.enable_steady_tick(Duration::from_millis(500));
        }
    }

    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        if self.signals.first_status().is_some() {
            self.aside(|| {
                super::note("stopping: the step is done, and is being saved; a second signal ends at once")
            });
        }
        self.seconds += log.seconds;
        if let Mode::Terminal(bar) = &self.mode {
            let taken = log.step + 1 - self.first.unwrap_or(log.step);
            let left = self.seconds / taken as f64 * self.total.saturating_sub(log.step) as f64;
            let memory = log.peak_memory_bytes.map_or(String::new(), |n| format!("  {}", bytes(n)));
            bar.set_message(format!(
                "loss {:.4}  lr {}  {:.0} tokens/s{memory}  {} left",
                log.loss,
                number(log.learning_rate),
                log.tokens_per_second,
                duration(left)
            ));
            bar.set_position(log.step);
        }
        if !self.is_due(log.step) {
            return self.signals.asked();
        }
        if self.is_json() {
            let mut value = serde_json::to_value(log).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.shift_insert(0, "event".into(), "step".into());
            }
            self.json(&value);
        } else {
            self.lines(&[self.step_line(log)]);
        }
        self.signals.asked()
    }

    fn on_prediction_step(&mut self) -> ControlFlow<()> {
        self.signals.asked()
    }

    fn should_save(&mut self) -> bool {
        self.signals.save_asked()
    }

    fn on_evaluate(&mut self, _: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        if self.is_json() {
            let mut value = evaluation_json(evaluation, self.tokenizer);
            if let Value::Object(fields) = &mut value {
                fields.shift_insert(0, "event".into(), "eval".into());
                fields.shift_insert(1, "step".into(), step.into());
            }
            self.json(&value);
            return self.signals.asked();
        }
        let at_tokens =
            evaluation.token_loss.map_or(String::new(), |loss| format!("  loss at the tokens {loss:.4}"));
        let quality = match (evaluation.nearest, &evaluation.preference) {
            (Some(share), _) => format!("nearest is its own {:.1} %", 100.0 * share),
            (None, Some(of)) => compared(of),
            (None, None) => format!("perplexity {}", number(evaluation.perplexity)),
        };
        let loss = evaluation.loss;
        let leak = evaluation.leak.map_or(String::new(), |leak| format!("  leak {} %", number(100.0 * leak)));
        let written =
            evaluation.emission.map_or(String::new(), |rate| format!("  written {:.0} %", 100.0 * rate));
        self.lines(&[format!(
            "held out after step {step}: loss {loss:.4}  {quality}{at_tokens}{leak}{written}"
        )]);
        self.signals.asked()
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        let tell = || match warning {
            TrainerWarning::NoCheckpoint => {
                super::note(
                    "--resume: there is no checkpoint in the output folder; the run begins with its first step",
                );
            }
            TrainerWarning::OtherSettings(changes) => {
                for change in changes {
                    super::warning(&format!("{} was {}, is {} now", change.name, change.was, change.is));
                }
            }
            TrainerWarning::CacheEnded { reason } => super::warning(&format!(
                "--cache-constants: {reason}; no more is kept, and the rest is computed in every epoch"
            )),
            TrainerWarning::OddNorm(odd) => {
                let token = super::spelling(self.tokenizer, odd.token);
                let token = token.map_or_else(|| odd.token.to_string(), |token| format!("'{token}'"));
                super::warning(&format!(
                    "the row of {token} in {} is {:.2} times as long as the median row of the vocabulary now: a lower \
                     --learning-rate keeps it nearer, and so does --norm clamp:X or fixed",
                    odd.layer, odd.times
                ));
            }
            TrainerWarning::Leaking(leak) => super::warning(&leaking(leak, self.tokenizer)),
            other => super::warning(&format!("{other:?}")),
        };
        self.aside(tell);
    }

    fn on_save(&mut self, folder: &Path) {
        if self.is_json() {
            self.json(&json!({"event": "saved", "path": folder}));
        } else {
            self.lines(&[format!("saved {}", folder.display())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_a_sound_template() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }

    #[test]
    fn the_first_and_the_last_step_are_always_told() {
        let progress = Progress { first: Some(4), ..Progress::new(true, Some(5), 12, None) };
        let told: Vec<u64> = (4..=12).filter(|step| progress.is_due(*step)).collect();
        assert_eq!(told, [4, 5, 10, 12]);
    }
}
