//! How trained tokens did on held-out rows, before and after.

use super::format::{plural, spelling};
use super::style::Style;
use super::table::columns;
use serde_json::{Value, json};
use toktune::emission::{Cause, Emission};
use toktune::text::AutoTokenizer;

/// Tokens that a table lists; JSON has them all.
const LISTED: usize = 24;

fn share(of: Option<f64>) -> String {
    of.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share))
}

/// A table of what was tried, each with its heading, all of the same prompts; `causes` belong to the last. The last line is the verdict.
pub fn emission_table(
    tried: &[(&str, &Emission)],
    causes: &[Option<Cause>],
    tokenizer: Option<&AutoTokenizer>,
    style: Style,
) -> Vec<String> {
    let Some((_, last)) = tried.last() else { return Vec::new() };
    let name = |id: u32| spelling(tokenizer, id).unwrap_or_else(|| id.to_string());
    let arrow = |of: &dyn Fn(&Emission) -> String| {
        tried.iter().map(|(_, emission)| of(emission)).collect::<Vec<_>>().join(" → ")
    };
    let of_token = |at: usize| {
        vec![
            name(last.tokens[at].id),
            arrow(&|e| share(e.tokens[at].probability)),
            arrow(&|e| e.tokens[at].rank.map_or("-".into(), |rank| rank.to_string())),
            format!("{} of {}", arrow(&|e| e.tokens[at].written.to_string()), last.tokens[at].expected),
            arrow(&|e| e.tokens[at].unexpected.to_string()),
            arrow(&|e| format!("{:.2} %", 100.0 * e.tokens[at].elsewhere)),
        ]
    };
    let rows: Vec<Vec<String>> = (0..last.tokens.len().min(LISTED)).map(of_token).collect();
    let headings = ["", "where it belongs", "rank", "written", "unasked", "elsewhere"];
    let mut lines = columns(&headings, &rows, style);
    if last.tokens.len() > LISTED {
        lines.push(style.dim(&format!("  and {}", plural(last.tokens.len() - LISTED, "more token"))));
    }
    for (at, pair) in last.pairs.iter().enumerate() {
        let rate = arrow(&|e| e.pairs.get(at).map_or("-".into(), |pair| share(pair.rate())));
        lines.push(format!(
            "{} … {} balanced in {rate} of texts with one of them",
            name(pair.open),
            name(pair.close)
        ));
    }
    if last.has_end() && last.to_end > 0 {
        lines.push(format!(
            "stops by itself in {} of {}",
            arrow(&|e| e.ended.to_string()),
            plural(last.to_end, "row")
        ));
    }
    let mut wrong: Vec<String> = grouped(last, causes, &name);
    let untried: Vec<u32> = last.tokens.iter().filter(|of| of.expected == 0).map(|of| of.id).collect();
    if !untried.is_empty() {
        wrong.push(format!("{}: in no row that was tried", named(&untried, &name)));
    }
    lines.push(match wrong.is_empty() {
        true => style.green(&format!(
            "the tokens work: written in {} of the rows that have them, at the least",
            share(last.least_rate())
        )),
        false => style.yellow(&wrong.join("; ")),
    });
    lines
}

/// What is wrong with tokens, those with one cause together.
fn grouped(of: &Emission, causes: &[Option<Cause>], name: &dyn Fn(u32) -> String) -> Vec<String> {
    let mut groups: Vec<(Cause, Vec<u32>)> = Vec::new();
    for (token, cause) in of.tokens.iter().zip(causes) {
        let Some(cause) = cause else { continue };
        match groups.iter_mut().find(|(known, _)| known == cause) {
            Some((_, ids)) => ids.push(token.id),
            None => groups.push((*cause, vec![token.id])),
        }
    }
    groups.iter().map(|(cause, ids)| format!("{}: {cause}", named(ids, name))).collect()
}

/// Some names, and how many more there are.
fn named(ids: &[u32], name: &dyn Fn(u32) -> String) -> String {
    const NAMED: usize = 6;
    let shown = ids.iter().take(NAMED).map(|id| name(*id)).collect::<Vec<_>>().join(", ");
    match ids.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// The same as JSON, with the tokens' spellings.
pub fn emission_json(
    emission: &Emission,
    causes: &[Option<Cause>],
    tokenizer: Option<&AutoTokenizer>,
) -> Value {
    let tokens = emission.tokens.iter().enumerate().map(|(at, token)| {
        json!({
            "id": token.id,
            "token": spelling(tokenizer, token.id),
            "labels": token.labels,
            "probability": token.probability,
            "rank": token.rank,
            "top1": token.top1,
            "elsewhere": token.elsewhere,
            "expected": token.expected,
            "written": token.written,
            "unexpected": token.unexpected,
            "cause": causes.get(at).copied().flatten().map(|cause| cause.to_string()),
        })
    });
    let pairs = emission.pairs.iter().map(|pair| {
        json!({
            "open": spelling(tokenizer, pair.open),
            "close": spelling(tokenizer, pair.close),
            "texts": pair.texts,
            "balanced": pair.balanced,
        })
    });
    json!({
        "prompts": emission.prompts,
        "least_rate": emission.least_rate(),
        "to_end": emission.to_end,
        "ended": emission.ended,
        "tokens": tokens.collect::<Vec<_>>(),
        "pairs": pairs.collect::<Vec<_>>(),
    })
}
