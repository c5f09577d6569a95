//! What the model writes, before and after, side by side.

use super::contents::Report;
use super::format::{count, plural};
use super::html::Html;
use super::table::token;
use super::texts::{Cut, WrittenText};
use crate::data::{ModelKind, ShownToken};

/// The section.
pub(super) fn section(report: &Report, html: &mut Html) {
    let Some(proof) = report.emission.as_ref().filter(|proof| !proof.texts.is_empty()) else {
        let text = match report.kind {
            _ if report.distillation.is_some() => "A distillation writes nothing.".to_owned(),
            ModelKind::Causal => {
                "Nothing was written: there were no held-out rows with a trained token to go on with."
                    .to_owned()
            }
            kind => format!("Nothing was written: the model is {kind}, which writes no text that goes on."),
        };
        html.leaf("p", &[("class", "dim")], &text);
        return;
    };
    let mut text = format!(
        "{} of {} held-out prompts that the model went on with, taking the likeliest token each time.",
        proof.texts.len(),
        count(proof.after.prompts as u64)
    );
    if proof.texts.iter().any(|of| !(of.missing.is_empty() && of.unasked.is_empty())) {
        text.push_str(" Those that miss a token, or have one too many, come first.");
    }
    if proof.before.is_none() {
        text.push_str(" What it wrote before was not tried.");
    }
    html.leaf("p", &[], &text);
    proof.texts.iter().for_each(|of| one(report, of, html));
}

fn one(report: &Report, of: &WrittenText, html: &mut Html) {
    html.tag("article", &[("class", "text")], |html| {
        html.tag("h3", &[], |html| {
            html.text(&format!("Prompt {}", count(of.number as u64)));
            for (word, ids) in [("misses", &of.missing), ("has unasked", &of.unasked)] {
                if !ids.is_empty() {
                    html.tag("span", &[("class", "mark bad")], |html| {
                        html.text(&format!("✗ {word} "));
                        ids.iter().take(6).for_each(|id| token(html, &report.name(*id)));
                    });
                }
            }
        });
        block(html, "prompt", "prompt", &of.prompt, true);
        html.tag("div", &[("class", "sides")], |html| {
            if let Some(before) = &of.before {
                block(html, "before", "side", before, false);
            }
            block(html, if of.before.is_some() { "after" } else { "written" }, "side", &of.after, false);
        });
        html.tag("details", &[], |html| {
            html.leaf("summary", &[], "what was to be written");
            block(html, "expected", "side", &of.expected, false);
        });
    });
}

/// A text under its name; of a prompt the beginning is what is left out.
fn block(html: &mut Html, name: &str, class: &str, cut: &Cut, at_start: bool) {
    html.tag("div", &[("class", class)], |html| {
        html.leaf("span", &[("class", "name")], name);
        html.tag("div", &[("class", "prose")], |html| {
            if at_start {
                left_out(html, cut.left_out);
            }
            runs(html, &cut.tokens);
            if cut.tokens.is_empty() && cut.left_out == 0 {
                html.leaf("span", &[("class", "dim")], "nothing");
            }
            if !at_start {
                left_out(html, cut.left_out);
            }
        });
    });
}

/// That some tokens are not shown.
pub(super) fn left_out(html: &mut Html, tokens: usize) {
    if tokens > 0 {
        html.leaf("span", &[("class", "cut")], &format!("[… {} …]", plural(tokens, "token")));
    }
}

/// Text with its trained tokens marked.
fn runs(html: &mut Html, tokens: &[ShownToken]) {
    for run in tokens.chunk_by(|a, b| !a.trained && !b.trained) {
        let text: String = run.iter().map(|token| token.text.as_str()).collect();
        match run.first().is_some_and(|token| token.trained) {
            true => html.tag("mark", &[], |html| html.prose(&text)),
            false => html.prose(&text),
        }
    }
}
