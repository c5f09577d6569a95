//! Evaluations, one or two beside each other.

use super::format::{count, number, plural, spelling};
use super::style::Style;
use super::table::columns;
use serde_json::{Value, json};
use toktune::text::AutoTokenizer;
use toktune::train::{Evaluation, PreferenceMetrics};

/// Tokens that a table lists; JSON has them all.
const LISTED: usize = 24;

/// A table of evaluations: each with its heading, all of the same labels.
pub fn evaluation_table(
    evaluations: &[(&str, &Evaluation)],
    tokenizer: Option<&AutoTokenizer>,
    style: Style,
) -> Vec<String> {
    let Some((_, first)) = evaluations.first() else { return Vec::new() };
    let row = |name: String, of: &dyn Fn(&Evaluation) -> String, labels: usize| {
        let values = evaluations.iter().map(|(_, evaluation)| of(evaluation));
        std::iter::once(name).chain(values).chain([count(labels as u64)]).collect::<Vec<String>>()
    };
    let loss = |loss: Option<f64>| loss.map_or("-".to_string(), |loss| format!("{loss:.4}"));
    let mut rows = vec![row("loss".into(), &|e| loss(Some(e.loss)), first.labels)];
    let are_pairs = first.nearest.is_some() || first.preference.is_some();
    // pairs have no labels that are tokens
    let of_tokens = if are_pairs { &[][..] } else { &first.tokens[..] };
    match (first.nearest, &first.preference) {
        (None, Some(_)) => {
            let of = |e: &Evaluation, value: fn(&PreferenceMetrics) -> String| {
                e.preference.as_ref().map_or("-".into(), value)
            };
            let accuracy = |e: &Evaluation| of(e, |of| format!("{:.1} %", 100.0 * of.accuracies));
            rows.push(row("accuracy".into(), &accuracy, first.labels));
            rows.push(row("margin".into(), &|e| of(e, |of| format!("{:.4}", of.margins)), first.labels));
            let chosen = |e: &Evaluation| of(e, |of| format!("{:.4}", of.rewards_chosen));
            rows.push(row("reward of the chosen".into(), &chosen, first.labels));
            let rejected = |e: &Evaluation| of(e, |of| format!("{:.4}", of.rewards_rejected));
            rows.push(row("reward of the rejected".into(), &rejected, first.labels));
        }
        (Some(_), _) => {
            let share =
                |e: &Evaluation| e.nearest.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
            rows.push(row("nearest is its own".into(), &share, first.labels));
        }
        (None, None) => rows.push(row("perplexity".into(), &|e| number(e.perplexity), first.labels)),
    }
    if !of_tokens.is_empty() {
        let labels = of_tokens.iter().map(|token| token.labels).sum();
        rows.push(row("loss at the tokens".into(), &|e| loss(e.token_loss), labels));
    }
    for (at, token) in of_tokens.iter().enumerate().take(LISTED) {
        let name = match spelling(tokenizer, token.id) {
            Some(name) => format!("  {name} ({})", token.id),
            None => format!("  {}", token.id),
        };
        rows.push(row(name, &|e| loss(e.tokens[at].loss), token.labels));
    }
    let counted = if are_pairs { "pairs" } else { "labels" };
    let names = evaluations.iter().map(|(name, _)| *name);
    let headings: Vec<&str> = std::iter::once("").chain(names).chain([counted]).collect();
    let mut lines = columns(&headings, &rows, style);
    if of_tokens.len() > LISTED {
        lines.push(style.dim(&format!("  and {}", plural(of_tokens.len() - LISTED, "more token"))));
    }
    lines
}

/// An evaluation as JSON, with the tokens' spellings.
pub fn evaluation_json(evaluation: &Evaluation, tokenizer: Option<&AutoTokenizer>) -> Value {
    let tokens: Vec<Value> = evaluation
        .tokens
        .iter()
        .map(|t| {
            json!({
                "id": t.id, "token": spelling(tokenizer, t.id), "labels": t.labels, "loss": t.loss,
                "elsewhere": t.elsewhere,
            })
        })
        .collect();
    let mut object = json!({
        "loss": evaluation.loss,
        "perplexity": evaluation.perplexity,
        "labels": evaluation.labels,
        "token_loss": evaluation.token_loss,
        "leak": evaluation.leak,
        "tokens": tokens,
    });
    if let Some(rate) = evaluation.emission {
        object["emission"] = rate.into();
    }
    if let Some(nearest) = evaluation.nearest {
        object["nearest"] = nearest.into();
    }
    for (name, value) in evaluation.preference.iter().flat_map(|of| of.named()) {
        object[name] = value.into();
    }
    object
}
