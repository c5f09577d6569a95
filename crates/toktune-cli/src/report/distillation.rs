//! What a distillation came to: how near the tokens are to the pieces of their words.

use super::format::plural;
use super::style::Style;
use super::table::pairs;
use serde_json::{Value, json};
use toktune::distill::{DistilledWord, Likeness, Snippets};
use toktune::train::TrainOutput;

/// A distillation that has ended.
pub struct Distilled<'a> {
    /// What the run came to.
    pub output: &'a TrainOutput,
    /// The words.
    pub words: &'a [DistilledWord],
    /// The texts around them.
    pub snippets: &'a Snippets,
    /// Measured with the rows that the run began with.
    pub untrained: Likeness,
    /// And at its end.
    pub trained: Likeness,
    /// Of everything, the reading of texts too.
    pub seconds: f64,
}

impl Distilled<'_> {
    /// For programs; what was not measured is null.
    pub fn json(&self) -> Value {
        let Self { untrained, trained, .. } = self;
        let of_words = self.words.iter().zip(&self.snippets.words).map(|(word, found)| {
            json!({
                "token": word.text, "id": word.id, "places": found.places, "train": found.train,
                "held_out": found.held_out,
            })
        });
        let measured = trained.rows > 0;
        json!({
            "event": "end",
            "steps": self.output.global_step,
            "seconds": self.seconds,
            "peak_memory_bytes": toktune::train::peak_memory_bytes(),
            "before": measured.then_some(untrained),
            "after": measured.then_some(trained),
            "loss_gap_closed": measured.then(|| trained.gap_closed(untrained)),
            "kl_closed": measured.then(|| trained.kl_closed(untrained)),
            "words": of_words.collect::<Vec<_>>(),
        })
    }

    /// What was measured, for people.
    pub fn lines(&self, style: Style) -> Vec<String> {
        let mut lines = vec![String::new()];
        if self.trained.rows == 0 {
            lines.push("no text was held out: nothing was measured".into());
        } else {
            lines
                .push(style.bold(&format!("held out ({})", plural(self.snippets.held_out.len(), "snippet"))));
            lines.extend(pairs(&self.measured(), style));
            lines.push(String::new());
        }
        lines
    }

    /// How long it took.
    pub fn time(&self) -> String {
        let steps = plural(self.output.steps as usize, "step");
        format!("{steps} in {:.1} s, everything in {:.1} s", self.output.seconds, self.seconds)
    }

    /// What was measured, by name.
    fn measured(&self) -> [(String, String); 3] {
        let (before, after) = (&self.untrained, &self.trained);
        let percent = |x: f64| format!("{:.1} %", 100.0 * x);
        let gap = percent(after.gap_closed(before));
        let loss = format!(
            "{:.3} before, {:.3} after; {:.3} with the pieces ({gap} of the gap closed)",
            before.loss, after.loss, after.teacher_loss
        );
        let gone = percent(after.kl_closed(before));
        let divergence = format!("{:.4} before, {:.4} after ({gone} gone)", before.kl, after.kl);
        let leak = format!("{} probability before, {} after", percent(before.leak), percent(after.leak));
        let named = |name: &str, value| (name.to_owned(), value);
        [
            named("loss of what follows", loss),
            named("divergence", divergence),
            named("where none belongs", leak),
        ]
    }
}
