//! What is told when a run has ended.

use super::opened::Opened;
use super::ready::Ready;
use crate::args::TrainArgs;
use crate::report::{self, Progress};
use serde_json::{Value, json};
use std::path::Path;
use toktune::emission::{Cause, Emission};
use toktune::models::ModelKind;
use toktune::text::AutoTokenizer;
use toktune::train::TrainOutput;

/// How the tokens did.
pub(super) struct Tried<'a> {
    pub(super) before: Option<&'a Emission>,
    pub(super) after: &'a Emission,
    pub(super) causes: Vec<Option<Cause>>,
}

/// A run that came to its end.
pub(super) struct Closing<'a> {
    pub(super) args: &'a TrainArgs,
    pub(super) ready: &'a Ready<'a>,
    pub(super) output: &'a TrainOutput,
    pub(super) tried: Option<&'a Tried<'a>>,
    /// Where the page of the run is.
    pub(super) page: Option<&'a Path>,
    pub(super) tokenizer: Option<&'a AutoTokenizer>,
}

impl Closing<'_> {
    /// Tells what the run came to.
    pub(super) fn tell(&self, progress: &Progress<'_>) {
        if progress.is_json() {
            return progress.json(&self.json());
        }
        let style = report::stdout_style();
        let mut lines = self.tables(style);
        let mut rows = self.training();
        rows.extend(self.next());
        let rows: Vec<(String, String)> =
            rows.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        lines.extend(report::pairs(&rows, style));
        progress.lines(&lines);
    }

    fn json(&self) -> Value {
        let &Self { args, output, tried, tokenizer, .. } = self;
        let evaluation = |of: &Option<_>| of.as_ref().map(|e| report::evaluation_json(e, tokenizer));
        let emission = tried.map(|tried| {
            json!({
                "before": tried.before.map(|before| report::emission_json(before, &[], tokenizer)),
                "after": report::emission_json(tried.after, &tried.causes, tokenizer),
            })
        });
        json!({
            "event": "end",
            "emission": emission,
            "steps": output.global_step,
            "waited_seconds": self.ready.process.as_ref().map(|_| output.waited_seconds.clone()),
            "sent_bytes": self.ready.process.as_ref().map(|_| output.sent_bytes),
            "seconds": output.seconds,
            "tokens": output.tokens,
            "tokens_per_second": self.speed(),
            "peak_memory_bytes": toktune::train::peak_memory_bytes(),
            "first_loss": output.first_and_last.as_ref().map(|(first, _)| first.loss),
            "last_loss": output.first_and_last.as_ref().map(|(_, last)| last.loss),
            "before": evaluation(&output.before),
            "after": evaluation(&output.after),
            "best": output.best.as_ref().map(|best| json!({
                "step": best.step, "loss": best.evaluation.loss, "emission": best.evaluation.emission,
            })),
            "ended_early": output.ended_early,
            "output": args.output,
            "report": self.page,
        })
    }

    /// In tokens a second.
    fn speed(&self) -> f64 {
        self.output.tokens as f64 / self.output.seconds.max(f64::MIN_POSITIVE)
    }

    /// Held-out losses, and what the model writes by itself.
    fn tables(&self, style: report::Style) -> Vec<String> {
        let &Self { output, tried, tokenizer, .. } = self;
        let mut lines = vec![String::new()];
        if let (Some(before), Some(after)) = (&output.before, &output.after) {
            lines.push(style.bold("held out"));
            lines.extend(report::evaluation_table(&[("before", before), ("after", after)], tokenizer, style));
            lines.push(String::new());
        }
        if let Some(Tried { before, after, causes }) = tried {
            lines.push(
                style.bold(&format!(
                    "written by the model itself ({})",
                    report::plural(after.prompts, "prompt")
                )),
            );
            let shown: Vec<_> =
                before.iter().map(|before| ("before", *before)).chain([("after", *after)]).collect();
            lines.extend(report::emission_table(&shown, causes, tokenizer, style));
            lines.push(String::new());
        }
        lines
    }

    /// How training went, and what of it was kept.
    fn training(&self) -> Vec<(&'static str, String)> {
        let &Self { args, output, .. } = self;
        let (speed, memory) = (self.speed(), toktune::train::peak_memory_bytes());
        let mut rows = Vec::new();
        match &output.first_and_last {
            Some((first, last)) => {
                rows.push((
                    "training loss",
                    format!(
                        "{:.4} at step {}, {:.4} at step {}",
                        first.loss, first.step, last.loss, last.step
                    ),
                ));
                let memory =
                    memory.map_or(String::new(), |n| format!(", {} of memory at most", report::bytes(n)));
                let steps = report::plural(output.steps as usize, "step");
                rows.push((
                    "time",
                    format!("{steps} in {:.1} s, {speed:.0} tokens/s{memory}", output.seconds),
                ));
            }
            None => rows.push(("steps", format!("none to take: {} were taken before", output.global_step))),
        }
        if let Some(process) = &self.ready.process {
            let waited = &output.waited_seconds;
            let mean = waited.iter().sum::<f64>() / waited.len().max(1) as f64;
            let most = waited.iter().copied().fold(0.0, f64::max);
            let share = |seconds: f64| 100.0 * seconds / output.seconds.max(f64::MIN_POSITIVE);
            rows.push((
                "processes",
                format!(
                    "{}; {:.1} % of their time was waiting for others ({:.1} % at most), and {} were sent",
                    process.count,
                    share(mean),
                    share(most),
                    report::bytes(output.sent_bytes)
                ),
            ));
        }
        if let Some(best) =
            output.best.as_ref().filter(|_| args.run.keep_best.is_some() || output.ended_early)
        {
            let (step, loss) = (best.step, best.evaluation.loss);
            let kept = if args.run.keep_best.is_some() {
                "the rows of"
            } else {
                "the last rows; the best were those of"
            };
            let why = match (output.ended_early, args.run.early_stopping_patience) {
                (true, Some(n)) => {
                    format!("; ended, since {} gave none better", report::plural(n as usize, "evaluation"))
                }
                _ => String::new(),
            };
            let by = match best.evaluation.emission {
                Some(rate) => {
                    format!(
                        "whose tokens the model writes most often, in {:.0} %, at a held-out loss of {loss:.4}",
                        100.0 * rate
                    )
                }
                None => format!("with the lowest held-out loss, {loss:.4}"),
            };
            rows.push(("kept", format!("{kept} step {step}, {by}{why}")));
        }
        rows
    }

    /// Where the adapter is, and what can be done with it.
    fn next(&self) -> Vec<(&'static str, String)> {
        let args = self.args;
        let mut rows = Vec::new();
        let folder = args.output.display();
        rows.push(("adapter", folder.to_string()));
        rows.extend(self.page.map(|page| ("report", page.display().to_string())));
        if matches!(self.ready.trainer.model.base().kind(), ModelKind::Causal | ModelKind::Seq2Seq) {
            let command =
                format!("toktune generate --model {} --adapter {folder} --prompt '...'", args.model);
            rows.push(("try it", command));
        }
        // transformers needs a folder beneath the adapter
        rows.push(match self.ready.opened {
            _ if args.model.to_lowercase().ends_with(".gguf") => ("for Python", merge_command(args)),
            Opened::ByToktune => {
                ("in Python", "not at all: PEFT does not find its module after the resize".into())
            }
            Opened::Alone(class) => ("in Python", format!("{class}.from_pretrained(\"{folder}\")")),
            Opened::OverBase(class) => {
                ("in Python", format!("PeftModel.from_pretrained({class}..., \"{folder}\")"))
            }
        });
        rows
    }
}

fn merge_command(args: &TrainArgs) -> String {
    format!("toktune merge --model {} --adapter {} --output merged", args.model, args.output.display())
}
