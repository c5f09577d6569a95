//! Some rows of the data, and what of them is learnt.

use super::contents::Report;
use super::examples::ShownExample;
use super::format::{count, plural};
use super::html::{Html, shortened};
use super::written::left_out;
use crate::data::{ModelKind, ShownToken};

/// Letters of where a row stands.
const SOURCE: usize = 200;

/// The section.
pub(super) fn section(report: &Report, html: &mut Html) {
    if report.examples.is_empty() {
        html.leaf("p", &[("class", "dim")], "No row of the data is shown.");
        return;
    }
    html.tag("p", &[("class", "legend")], |html| {
        let learnt = match report.kind {
            ModelKind::SentencePairs => None,
            ModelKind::MaskedLm => Some("hidden and to be guessed, in the first epoch"),
            _ => Some("learnt"),
        };
        for (class, name) in [("read", "read, without loss"), ("learnt", learnt.unwrap_or_default())] {
            if learnt.is_some() {
                html.tag("span", &[], |html| {
                    html.leaf("i", &[("class", &format!("sample {class}"))], "abc");
                    html.text(name);
                });
            }
        }
        html.tag("span", &[], |html| {
            html.leaf("mark", &[], "abc");
            html.text("a trained token");
        });
        if learnt.is_none() {
            html.leaf("span", &[], "Pairs are learnt as a whole: no token is a label.");
        }
    });
    let masked = report.kind != ModelKind::SentencePairs;
    report.examples.iter().for_each(|example| one(example, masked, html));
}

fn one(example: &ShownExample, masked: bool, html: &mut Html) {
    html.tag("article", &[("class", "text")], |html| {
        html.tag("h3", &[], |html| {
            html.text(&format!("Row {}", count(example.number as u64)));
            html.leaf("small", &[("class", "dim")], &format!(" {}", shortened(&example.source, SOURCE)));
            if example.cut > 0 {
                html.leaf(
                    "small",
                    &[("class", "dim")],
                    &format!(", {} cut off", plural(example.cut, "token")),
                );
            }
        });
        for part in &example.parts {
            html.tag("div", &[("class", "side")], |html| {
                if !part.name.is_empty() {
                    html.leaf("span", &[("class", "name")], part.name);
                }
                let class = if masked { "prose row" } else { "prose row whole" };
                html.tag("div", &[("class", class)], |html| {
                    tokens(html, &part.beginning);
                    left_out(html, part.skipped);
                    tokens(html, &part.rest);
                    left_out(html, part.left_out);
                });
            });
        }
    });
}

/// One element a token, so that the eye sees where it begins.
fn tokens(html: &mut Html, tokens: &[ShownToken]) {
    for token in tokens {
        let weight = token.weight.map_or(String::new(), |weight| format!(", counts {weight}"));
        let about = format!("id {}{weight}", token.id);
        let class = if token.learnt { "learnt" } else { "read" };
        html.tag("i", &[("class", class), ("title", &about)], |html| match token.trained {
            true => html.tag("mark", &[], |html| html.prose(&token.text)),
            false => html.prose(&token.text),
        });
    }
}
