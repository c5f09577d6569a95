//! The token table: what is known of each trained token, and where its row lies.

use super::contents::Report;
use super::format::{count, number};
use super::html::{Html, shortened};
use super::rows::LayerRows;
use super::table::{arrow, share, table, token};
use super::verdict::unlisted;
use crate::emission::{Emission, TokenEmission};
use crate::peft::{RowInit, RowPlace};

/// Tokens that a start is made of, at most.
const SOURCES: usize = 6;

/// Letters of a module's name.
const MODULE: usize = 160;

/// The section.
pub(super) fn section(report: &Report, html: &mut Html) {
    if report.uses.is_empty() {
        html.leaf("p", &[("class", "dim")], "No token was trained.");
        return;
    }
    about(report, html);
    unlisted(report, html);
    for rows in &report.rows {
        layer(report, rows, html);
    }
}

/// What each token is, where the data have it, and how the model says it.
fn about(report: &Report, html: &mut Html) {
    let listed = report.listed();
    let mut headings = vec!["token", "id", "starts from", "read", "learnt"];
    let proof = report.emission.as_ref();
    if proof.is_some() {
        headings.extend(["where it belongs", "rank there", "elsewhere", "unasked"]);
    }
    let both = |id: u32, of: &dyn Fn(&TokenEmission) -> Option<String>| {
        let Some(proof) = proof else { return String::new() };
        let find = |of: &Emission| of.tokens.iter().find(|token| token.id == id).cloned();
        arrow(
            proof.before.as_ref().and_then(find).and_then(|t| of(&t)),
            find(&proof.after).and_then(|t| of(&t)),
        )
    };
    table(html, &headings, listed.len(), |html, row, column| {
        let id = listed[row];
        let of = report.uses.iter().find(|of| of.id == id);
        match headings[column] {
            "token" => {
                token(html, &report.name(id));
                let kinds =
                    [("added", report.added.contains(&id)), ("special", report.special.contains(&id))];
                for (kind, _) in kinds.into_iter().filter(|of| of.1) {
                    html.leaf("span", &[("class", "tag")], kind);
                }
            }
            "id" => html.text(&id.to_string()),
            "starts from" => start(report, report.starts.get(&id), html),
            "read" => html.text(&of.map_or("–".into(), |of| format!("{}×", count(of.inputs as u64)))),
            "learnt" => html.text(&of.map_or("–".into(), |of| format!("{}×", count(of.labels as u64)))),
            "where it belongs" => html.text(&both(id, &|token| token.probability.map(share))),
            "rank there" => html.text(&both(id, &|token| token.rank.map(|rank| count(rank as u64)))),
            "elsewhere" => html.text(&both(id, &|token| Some(share(token.elsewhere)))),
            _ => html.text(&both(id, &|token| Some(token.unexpected.to_string()))),
        }
    });
    if proof.is_some() {
        html.leaf(
            "p",
            &[("class", "note")],
            "Where it belongs: its mean probability, and its median rank, at the labels that are it, everything before given. \
             Elsewhere: its mean probability at other labels. Unasked: rows that were not to have it and had it.",
        );
    }
}

fn start(report: &Report, start: Option<&RowInit>, html: &mut Html) {
    let Some(start) = start else { return html.text("–") };
    let text = match start {
        RowInit::Base => "its row as it is",
        RowInit::Mean => "the mean of the trained rows",
        RowInit::Random { .. } => "random numbers",
        RowInit::Pieces(_) => "pieces ",
        RowInit::Description(_) => "description ",
        RowInit::Like(_) => "like ",
    };
    html.text(text);
    let sources = start.sources();
    for id in sources.iter().take(SOURCES) {
        token(html, &report.name(*id));
    }
    if sources.len() > SOURCES {
        html.text(" …");
    }
}

/// Where the rows of a layer lie.
fn layer(report: &Report, rows: &LayerRows, html: &mut Html) {
    html.tag("h3", &[], |html| {
        html.text("Rows of ");
        html.leaf("code", &[], &shortened(&rows.layer, MODULE));
        if !rows.tied.is_empty() {
            html.text(" and, since it is tied, ");
            html.leaf("code", &[], &shortened(&rows.tied.join(", "), MODULE));
        }
    });
    let has_before = !rows.before.is_empty();
    let mut headings = vec!["token", "norm", "longer than"];
    headings.extend(has_before.then_some("nearest before"));
    headings.push(if has_before { "nearest after" } else { "nearest" });
    table(html, &headings, rows.after.len(), |html, row, column| {
        let after = &rows.after[row];
        let before = rows.before.iter().find(|place| place.id == after.id);
        let of = |value: &dyn Fn(&RowPlace) -> String| arrow(before.map(value), Some(value(after)));
        match headings[column] {
            "token" => token(html, &report.name(after.id)),
            "norm" => html.text(&of(&|place| number(place.norm))),
            "longer than" => {
                html.text(&of(&|place| format!("{:.0} %", place.percentile)));
                html.leaf("span", &[("class", "dim")], " of rows");
            }
            "nearest before" => before.into_iter().for_each(|place| nearest(report, place, html)),
            _ => nearest(report, after, html),
        }
    });
    html.leaf(
        "p",
        &[("class", "note")],
        "Nearest are the rows of the vocabulary with the largest cosine, trained ones left out; longer than: of the rows that \
         some text has moved.",
    );
}

fn nearest(report: &Report, place: &RowPlace, html: &mut Html) {
    html.tag("span", &[("class", "nearest")], |html| {
        for (id, cosine) in &place.nearest {
            html.tag("span", &[], |html| {
                token(html, &report.name(*id));
                html.leaf("small", &[], &format!("{cosine:.2}"));
            });
        }
        if place.nearest.is_empty() {
            html.text("–");
        }
    });
}
