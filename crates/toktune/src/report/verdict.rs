//! Whether the run did what it was for: the first thing on the page.

use super::contents::{Distillation, Report, TokenProof};
use super::format::{number, plural};
use super::html::{Html, shortened};
use super::table::{arrow, share, table, token};
use crate::data::ModelKind;
use crate::train::Evaluation;

/// Letters of a note.
const NOTE: usize = 1000;

/// How the run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Good,
    Bad,
    Unknown,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Good => "verdict good",
            Tone::Bad => "verdict bad",
            Tone::Unknown => "verdict",
        }
    }
}

/// The section.
pub(super) fn section(report: &Report, html: &mut Html) {
    let (tone, text) = verdict(report);
    html.leaf("p", &[("class", tone.class())], &text);
    for note in &report.notes {
        html.leaf("p", &[("class", "banner")], &shortened(note, NOTE));
    }
    tiles(report, html);
    match (&report.distillation, report.uses.is_empty()) {
        (Some(of), _) => words(of, html),
        (None, false) => tokens(report, html),
        (None, true) => html.leaf("p", &[("class", "dim")], "No token was trained."),
    }
    if let Some(proof) = &report.emission {
        pairs(report, proof, html);
    }
}

fn verdict(report: &Report) -> (Tone, String) {
    if let Some(of) = &report.distillation {
        return of_distillation(of);
    }
    match &report.emission {
        Some(proof) => of_proof(proof),
        None => (Tone::Unknown, of_losses(report)),
    }
}

fn of_proof(proof: &TokenProof) -> (Tone, String) {
    let (fine, wrong, untried) = proof.tally();
    let least = proof.after.least_rate().map(share).unwrap_or_default();
    let rest = match untried {
        0 => String::new(),
        1 => " One more was in no row that was tried.".into(),
        n => format!(" {n} more were in no row that was tried."),
    };
    let all = fine + wrong;
    match (fine, wrong) {
        (0, 0) => (Tone::Unknown, format!("{} in no row that was tried.", are(untried))),
        (1, 0) => {
            (Tone::Good, format!("The token works: it is written in {least} of the rows that have it.{rest}"))
        }
        (_, 0) => (
            Tone::Good,
            format!("The tokens work: each is written in {least} or more of the rows that have it.{rest}"),
        ),
        (_, 1) if all == 1 => (Tone::Bad, format!("The token does not work as it should.{rest}")),
        (0, _) => (Tone::Bad, format!("None of the {all} tokens works as it should.{rest}")),
        (_, 1) => (Tone::Bad, format!("One of the {all} tokens does not work as it should.{rest}")),
        _ => (Tone::Bad, format!("{wrong} of the {all} tokens do not work as they should.{rest}")),
    }
}

fn are(tokens: usize) -> String {
    if tokens == 1 { "The token was".into() } else { format!("The {tokens} tokens were") }
}

fn of_losses(report: &Report) -> String {
    let text = match (&report.before, &report.after) {
        (Some(Evaluation { nearest: Some(before), .. }), Some(Evaluation { nearest: Some(after), .. })) => {
            format!(
                "The nearest of a held-out sentence is its own in {}.",
                arrow(Some(share(*before)), Some(share(*after)))
            )
        }
        (Some(Evaluation { preference: Some(_), .. }), Some(Evaluation { preference: Some(after), .. })) => {
            format!(
                "The chosen answer of {} of the held-out pairs is preferred more than the model preferred it as the run began, \
                 by a margin of {} on average.",
                share(after.accuracies),
                number(after.margins)
            )
        }
        (Some(before), Some(after)) => match (before.token_loss, after.token_loss) {
            (Some(was), Some(is)) => {
                format!("Held-out loss at the tokens: {} → {}.", number(was), number(is))
            }
            _ => format!("Held-out loss: {} → {}.", number(before.loss), number(after.loss)),
        },
        _ => match report.first_and_last() {
            Some(((_, first), (_, last))) => format!("Training loss: {} → {}.", number(first), number(last)),
            None => "No step was taken.".into(),
        },
    };
    let text = match report.before.is_none() && report.after.is_none() {
        true => format!("{text} No rows were held out."),
        false => text,
    };
    let why = match report.kind {
        ModelKind::Causal => "Whether the model writes the tokens by itself was not tried.".to_owned(),
        kind => format!("The model is {kind}, which writes no text that goes on, so that nothing was tried."),
    };
    format!("{text} {why}")
}

fn of_distillation(of: &Distillation) -> (Tone, String) {
    if of.trained.rows == 0 {
        return (Tone::Unknown, "No text was held out: nothing was measured.".into());
    }
    let closed = of.trained.gap_closed(&of.untrained);
    let tone = if closed > 0.0 { Tone::Good } else { Tone::Bad };
    (
        tone,
        format!(
            "{} of the gap between the new tokens and the pieces of their words is closed.",
            share(closed)
        ),
    )
}

/// The numbers that tell most.
fn tiles(report: &Report, html: &mut Html) {
    let mut tiles: Vec<(&str, String, String)> = Vec::new();
    if let Some(((began, first), (ended, last))) = report.first_and_last() {
        let values = arrow(Some(number(first)), Some(number(last)));
        tiles.push(("Training loss", values, format!("step {began} → {ended}, {}", report.loss_unit)));
    }
    if let Some(after) = &report.after {
        let of = |value: &dyn Fn(&Evaluation) -> Option<f64>| {
            arrow(report.before.as_ref().and_then(value).map(number), value(after).map(number))
        };
        let pairs = after.nearest.is_some();
        let unit = if pairs { "pair" } else { "label" };
        tiles.push(("Held-out loss", of(&|e| Some(e.loss)), plural(after.labels, unit)));
        if after.token_loss.is_some() {
            let labels = after.tokens.iter().map(|token| token.labels).sum();
            tiles.push(("Held-out loss at the tokens", of(&|e| e.token_loss), plural(labels, "label")));
        }
        if let Some(nearest) = after.nearest {
            let before = report.before.as_ref().and_then(|before| before.nearest).map(share);
            tiles.push((
                "Nearest is its own",
                arrow(before, Some(share(nearest))),
                plural(after.labels, "pair"),
            ));
        }
    }
    if let Some(TokenProof { before, after, .. }) = &report.emission
        && let Some(least) = after.least_rate()
    {
        let before = before.as_ref().and_then(|before| before.least_rate()).map(share);
        let tried = format!(
            "the least of {}, {}",
            plural(after.tokens.len(), "token"),
            plural(after.prompts, "prompt")
        );
        tiles.push(("Written where it was to be", arrow(before, Some(share(least))), tried));
    }
    if let Some(Distillation { untrained, trained, .. }) =
        report.distillation.as_ref().filter(|of| of.trained.rows > 0)
    {
        let between = |a: f64, b: f64| arrow(Some(number(a)), Some(number(b)));
        let pieces = format!("{} with the pieces", number(trained.teacher_loss));
        tiles.push(("Loss of what follows", between(untrained.loss, trained.loss), pieces));
        let gone = format!("{} gone", share(trained.kl_closed(untrained)));
        tiles.push(("Divergence", between(untrained.kl, trained.kl), gone));
        let leak = arrow(Some(share(untrained.leak)), Some(share(trained.leak)));
        tiles.push(("Where none belongs", leak, "probability of the new tokens".into()));
    }
    html.tag("div", &[("class", "tiles")], |html| {
        for (name, value, about) in &tiles {
            html.tag("div", &[("class", "tile")], |html| {
                html.leaf("span", &[("class", "name")], name);
                html.leaf("b", &[], value);
                html.leaf("span", &[("class", "dim")], about);
            });
        }
    });
}

/// Each token in a line.
fn tokens(report: &Report, html: &mut Html) {
    let listed = report.listed();
    let proof = report.emission.as_ref();
    let has_losses =
        report.after.as_ref().is_some_and(|after| after.tokens.iter().any(|of| of.loss.is_some()));
    let mut headings = vec!["token", "verdict"];
    headings.extend(proof.is_some().then_some("written where it was to be"));
    headings.extend(has_losses.then_some("held-out loss at it"));
    if headings.len() == 2 {
        return;
    }
    table(html, &headings, listed.len(), |html, row, column| match headings[column] {
        "token" => token(html, &report.name(listed[row])),
        "verdict" => token_verdict(report, listed[row], html),
        "held-out loss at it" => {
            let loss = |of: &Option<Evaluation>| {
                let found = of.as_ref()?.tokens.iter().find(|of| of.id == listed[row])?;
                found.loss.map(number)
            };
            html.text(&arrow(loss(&report.before), loss(&report.after)));
        }
        _ => html.text(&proof.map(|proof| written(proof, listed[row])).unwrap_or_default()),
    });
    unlisted(report, html);
}

fn token_verdict(report: &Report, id: u32, html: &mut Html) {
    let Some(proof) = &report.emission else {
        return html.leaf("span", &[("class", "dim")], "not tried");
    };
    let tried =
        proof.after.tokens.iter().find(|token| token.id == id).is_some_and(|token| token.expected > 0);
    match (proof.cause(id), tried) {
        (Some(cause), _) => html.leaf("span", &[("class", "mark bad")], &format!("✗ {cause}")),
        (None, true) => html.leaf("span", &[("class", "mark good")], "✓ works"),
        (None, false) => html.leaf("span", &[("class", "dim")], "in no row that was tried"),
    }
}

fn written(proof: &TokenProof, id: u32) -> String {
    let of = |emission: &crate::emission::Emission| {
        emission.tokens.iter().find(|token| token.id == id).map(|token| (token.written, token.expected))
    };
    match (proof.before.as_ref().and_then(of), of(&proof.after)) {
        (Some((before, _)), Some((after, all))) => format!("{before} → {after} of {all}"),
        (None, Some((after, all))) => format!("{after} of {all}"),
        _ => "–".into(),
    }
}

/// What tables leave out.
pub(super) fn unlisted(report: &Report, html: &mut Html) {
    if report.unlisted() > 0 {
        let text = format!("And {}.", plural(report.unlisted(), "more token"));
        html.leaf("p", &[("class", "note")], &text);
    }
}

fn pairs(report: &Report, proof: &TokenProof, html: &mut Html) {
    for (at, pair) in proof.after.pairs.iter().enumerate() {
        let before = proof.before.as_ref().and_then(|before| before.pairs.get(at)?.rate()).map(share);
        let rate = arrow(before, pair.rate().map(share));
        html.tag("p", &[], |html| {
            token(html, &report.name(pair.open));
            html.text(" … ");
            token(html, &report.name(pair.close));
            html.text(&format!(" balanced in {rate} of the texts that have one of them"));
        });
    }
}

/// Each distilled word in a line.
fn words(of: &Distillation, html: &mut Html) {
    const LISTED: usize = 60;
    let headings = [
        "word",
        "gap closed",
        "loss of what follows",
        "with the pieces",
        "divergence",
        "where none belongs",
        "snippets",
    ];
    table(html, &headings, of.words.len().min(LISTED), |html, row, column| {
        let word = &of.words[row];
        let (before, after) = &word.likeness;
        let measured = |text: String| if after.rows > 0 { text } else { "–".into() };
        let between = |a: f64, b: f64| arrow(Some(number(a)), Some(number(b)));
        match column {
            0 => token(html, &word.word.text),
            1 => html.text(&measured(share(after.gap_closed(before)))),
            2 => html.text(&measured(between(before.loss, after.loss))),
            3 => html.text(&measured(number(after.teacher_loss))),
            4 => html.text(&measured(between(before.kl, after.kl))),
            5 => html.text(&measured(arrow(Some(share(before.leak)), Some(share(after.leak))))),
            _ => html.text(&format!("{} trained on, {} held out", word.train, word.held_out)),
        }
    });
    if of.words.len() > LISTED {
        html.leaf(
            "p",
            &[("class", "note")],
            &format!("And {}.", plural(of.words.len() - LISTED, "more word")),
        );
    }
    html.leaf(
        "p",
        &[("class", "note")],
        "Measured on held-out texts, at the tokens behind a word: the loss with the word as one token beside that of the frozen \
         model on its pieces, how far the two distributions are apart (in nats), and the probability that all new tokens together \
         have where none of them stands.",
    );
}
