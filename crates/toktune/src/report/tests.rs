//! Whole pages of made-up runs: well-formed, complete, bounded, and harmless whatever their data hold.

use super::examples::{ShownExample, ShownWindow};
use super::rows::{LayerRows, RowMap};
use super::texts::{Cut, WrittenText};
use super::*;
use crate::data::{ModelKind, ShownToken, TokenUse};
use crate::distill::{DistilledWord, Likeness};
use crate::emission::{Cause, Emission, TokenEmission};
use crate::peft::{RowInit, RowPlace};
use crate::train::{Evaluation, StepLog, TokenEvaluation};

const HOSTILE: &str =
    "</script></style><img src=x onerror=alert(1)>\" onload='x' \u{202e}&amp;\u{0}\u{1b}[2J";

/// The elements of a page: each that is opened is closed in its turn, values are quoted, and no `<` or bare `&` stands in a text.
/// Gives the names of the elements, each with its attributes.
fn elements(page: &str) -> Vec<(String, String)> {
    const VOID: [&str; 1] = ["meta"];
    let (mut open, mut found, mut rest) = (Vec::<String>::new(), Vec::new(), page);
    while let Some((text, behind)) = rest.split_once('<') {
        check_text(text);
        // nothing in an attribute is a bare `>`
        let (inside, behind) = behind.split_once('>').expect("an element ends");
        rest = behind;
        if inside == "!DOCTYPE html" {
            continue;
        }
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in its turn");
            continue;
        }
        let (name, attributes) = inside.split_once(' ').unwrap_or((inside, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
        assert_eq!(attributes.matches('"').count() % 2, 0, "{inside}");
        check_text(attributes);
        for pair in attributes.split("\" ").filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once("=\"").expect("a value in quotes");
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{key}");
            assert!(!value.trim_end_matches('"').contains('"'), "{pair}");
            assert!(!key.starts_with("on"), "{pair}");
        }
        found.push((name.to_owned(), attributes.to_owned()));
        if name == "style" {
            let (css, behind) = rest.split_once("</style>").expect("the style sheet ends");
            assert!(!css.contains('<') && !css.contains("url(") && !css.contains("@import"));
            rest = behind;
        } else if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    found
}

/// Every `&` begins one of the five that are written, and nothing hidden is left.
fn check_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        assert!(known.iter().any(|entity| text[at..].starts_with(entity)), "{}", &text[at..]);
    }
    let hidden = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(hidden), "{text:?}");
}

/// The page of a report, checked.
fn page(report: &Report) -> String {
    let page = report.html();
    let found = elements(&page);
    for id in ["verdict", "curves", "tokens", "texts", "map", "data", "run"] {
        assert!(found.contains(&("section".to_owned(), format!("id=\"{id}\""))), "{id}");
    }
    for (name, attributes) in &found {
        let known = [
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "header",
            "main",
            "footer",
            "nav",
            "a",
            "section",
            "article",
            "h1",
            "h2",
            "h3",
            "p",
            "div",
            "span",
            "b",
            "i",
            "small",
            "mark",
            "code",
            "pre",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "dl",
            "dt",
            "dd",
            "details",
            "summary",
            "figure",
            "figcaption",
            "svg",
            "g",
            "path",
            "line",
            "circle",
            "text",
        ];
        assert!(known.contains(&name.as_str()), "{name}");
        assert!(!attributes.contains("src=\"") && !attributes.contains("style=\""), "{attributes}");
        assert!(!attributes.contains("href=\"") || attributes.starts_with("href=\"#"), "{attributes}");
    }
    assert!(!page.contains("NaN") && !page.contains("://"));
    page
}

fn step(step: u64, loss: f64) -> StepLog {
    let of = serde_json::json!({
        "step": step, "epoch": 0.5, "loss": loss, "learning_rate": 0.01, "grad_norm": 2.0, "tokens": 30, "loss_tokens": 4,
        "seconds": 0.5, "tokens_per_second": 60.0, "peak_memory_bytes": null,
        "norms": {"median": 1.5, "largest": 2.5},
    });
    serde_json::from_value(of).expect("a step")
}

fn emission(written: usize) -> Emission {
    let token = TokenEmission {
        id: 7,
        labels: 9,
        probability: Some(0.5),
        rank: Some(3),
        top1: Some(0.2),
        elsewhere: 0.000_2,
        expected: 10,
        written,
        unexpected: 1,
    };
    let tokens = vec![token.clone(), TokenEmission { id: 8, expected: 0, written: 0, ..token }];
    Emission { prompts: 10, tokens, ..Emission::default() }
}

fn shown(text: &str, learnt: bool, trained: bool) -> ShownToken {
    ShownToken { id: 7, text: text.into(), learnt, weight: learnt.then_some(0.5), trained }
}

fn evaluation(loss: f64) -> Evaluation {
    let tokens = vec![
        TokenEvaluation { id: 7, labels: 9, loss: Some(loss), elsewhere: None },
        TokenEvaluation { id: 8, labels: 0, loss: None, elsewhere: None },
    ];
    Evaluation {
        loss,
        perplexity: loss.exp(),
        labels: 40,
        nearest: None,
        preference: None,
        token_loss: Some(loss),
        leak: None,
        emission: None,
        tokens,
    }
}

/// A run with everything in it, all of whose texts are `text`.
fn full(text: &str) -> Report {
    let place = |id| RowPlace {
        layer: text.into(),
        id,
        norm: 1.5,
        percentile: 40.0,
        nearest: vec![(100, 0.75), (101, 0.5)],
    };
    let map = RowMap {
        share: 0.05,
        vocabulary: (100..180).map(|i| (i, (f64::from(i % 9), f64::from(i % 7)))).collect(),
        neighbours: vec![(100, (1.0, 1.0)), (101, (2.0, 2.0))],
        tokens: vec![(7, Some((0.0, 0.0)), (5.0, 3.0)), (8, None, (1.0, 4.0))],
    };
    let rows = LayerRows {
        layer: text.into(),
        tied: vec![text.into()],
        before: vec![place(7)],
        after: vec![place(7), place(8)],
        map: Some(map),
    };
    let cut =
        |trained| Cut { tokens: vec![shown(text, false, false), shown(text, false, trained)], left_out: 5 };
    let written = WrittenText {
        number: 3,
        prompt: cut(false),
        expected: cut(true),
        before: Some(cut(false)),
        after: cut(true),
        missing: vec![7],
        unasked: vec![8],
    };
    let proof = TokenProof {
        before: Some(emission(0)),
        after: emission(6),
        causes: vec![Some(Cause::Leaking), None],
        texts: vec![written],
    };
    let window = ShownWindow {
        name: "encoder",
        beginning: vec![shown(text, true, true), shown(text, false, false)],
        skipped: 12,
        rest: vec![shown(text, true, false)],
        left_out: 3,
    };
    let example = ShownExample { number: 1, source: text.into(), parts: vec![window], cut: 2 };
    let mut facts = Facts::new(text);
    facts.add(text, text);
    let used = |id| TokenUse { id, inputs: 3, labels: 2, cut: 0, acting: 3 };
    Report {
        title: text.into(),
        command: Some(text.into()),
        facts: vec![facts],
        notes: vec![text.into()],
        loss_unit: text.into(),
        log: (1..=5).map(|n| step(n, 5.0 / n as f64)).collect(),
        before: Some(evaluation(4.0)),
        after: Some(evaluation(1.0)),
        kept_step: Some(3),
        max_grad_norm: Some(1.0),
        names: (0..200).map(|id| (id, text.to_owned())).collect(),
        uses: vec![used(7), used(8)],
        starts: [(7, RowInit::Pieces(vec![100; 9])), (8, RowInit::Mean)].into(),
        added: [7].into(),
        special: [8].into(),
        rows: vec![rows],
        emission: Some(proof),
        examples: vec![example],
        ..Report::default()
    }
}

#[test]
fn whatever_data_hold_is_text() {
    for text in [
        HOSTILE,
        "'\"><svg/onload=alert(1)>",
        "<!--",
        "]]>",
        "&#x3c;script&#x3e;",
        "\u{2066}a\u{feff}",
        "",
        "{{x}}",
    ] {
        let page = page(&full(text));
        assert!(!page.contains("<img") && !page.contains("<script") && !page.contains("<!--"), "{text}");
    }
    let page = page(&full(HOSTILE));
    assert!(
        page.contains("&lt;/script&gt;") && page.contains("⟨U+202E⟩") && page.contains("⟨U+0000⟩"),
        "{page}"
    );
}

#[test]
fn a_run_is_told_in_full() {
    let page = page(&full("<calc>"));
    for part in [
        "The token does not work as it should. One more was in no row that was tried.",
        "✗ likely where it does not belong",
        "0 → 6 of 10",
        "in no row that was tried",
        "5 → 1",
        "4 → 1",
        "Gradient norm",
        "clipped above",
        "Learning rate",
        "the vocabulary&#39;s median",
        "pieces <code class=\"token\">&lt;calc&gt;</code>",
        "added",
        "special",
        "0.75",
        "✗ misses ",
        "[… 5 tokens …]",
        "5 % of their variance",
        "[… 12 tokens …]",
        "class=\"learnt\" title=\"id 7, counts 0.5\"",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // what works is said to
    let mut report = full("<calc>");
    if let Some(proof) = &mut report.emission {
        proof.causes = vec![None, None];
        proof.after = emission(10);
    }
    assert!(
        self::page(&report).contains("The token works: it is written in 100 % of the rows that have it.")
    );
}

#[test]
fn a_run_of_which_little_is_known_has_a_page() {
    let empty = page(&Report::default());
    for part in ["No step was taken.", "No step was logged.", "No token was trained.", "No row of the data"] {
        assert!(empty.contains(part), "{part}: {empty}");
    }
    // ids alone, one step, no evaluation
    let mut report = full("x");
    (report.names, report.emission, report.before, report.after) = (Default::default(), None, None, None);
    report.log.truncate(1);
    let page = self::page(&report);
    for part in ["was not tried", "<code class=\"token\">7</code>", "No rows were held out"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    for kind in [ModelKind::MaskedLm, ModelKind::Seq2Seq, ModelKind::SentencePairs] {
        report.kind = kind;
        assert!(self::page(&report).contains("writes no text that goes on"), "{kind}");
    }
}

#[test]
fn numbers_that_are_none_are_left_out() {
    let mut report = full("x");
    report.log[2].loss = f64::NAN;
    report.log[3].grad_norm = f64::INFINITY;
    report.log[1].norms = None;
    for places in report.rows.iter_mut().map(|rows| &mut rows.map) {
        places.as_mut().expect("a map").tokens[0].2 = (f64::NAN, 0.0);
    }
    page(&report);
    report.log.iter_mut().for_each(|step| step.loss = f64::NAN);
    report.log.truncate(4);
    report.log[3].loss = 1.0;
    page(&report);
}

#[test]
fn a_long_run_of_many_tokens_has_a_page_of_a_bounded_size() {
    let mut report = full(&"long ".repeat(5000));
    report.loss_unit = "nats a label".into();
    report.log = (1..=50_000).map(|n| step(n, 1.0 + 1.0 / n as f64)).collect();
    report.uses = (0..5000).map(|id| TokenUse { id, inputs: 1, labels: 1, cut: 0, acting: 1 }).collect();
    let evaluation = |step| crate::train::EvaluatedStep::new(step, 1.0, None);
    report.evaluations = (0..5000).map(evaluation).collect();
    let (texts, example) =
        (Cut { tokens: vec![shown("word ", false, false); 300], left_out: 0 }, &mut report.examples[0]);
    example.parts[0].rest = texts.tokens.clone();
    if let Some(proof) = &mut report.emission {
        proof.texts.iter_mut().for_each(|of| (of.prompt, of.after) = (texts.clone(), texts.clone()));
    }
    example.parts[0].beginning.clear();
    // what is shown of a text is bounded by its tokens, which texts of this test are not
    for of in report.emission.iter_mut().flat_map(|proof| &mut proof.texts) {
        (of.expected, of.before) = (Cut::default(), None);
    }
    let page = page(&report);
    assert!(page.len() < 400_000, "{}", page.len());
    assert!(page.contains("And 4,960 more tokens.") && page.contains("mean of 209 steps"), "{page}");
    // those that do not work are in the table, however late they come
    let mut tokens = emission(0).tokens;
    tokens[0].id = 4999;
    if let Some(proof) = &mut report.emission {
        (proof.after.tokens, proof.causes) = (tokens, vec![Some(Cause::NeverReached), None]);
    }
    assert_eq!(report.listed().first(), Some(&4999));
}

#[test]
fn a_distillation_has_a_table_of_its_own() {
    let of = |kl, loss, rows| Likeness { kl, loss, teacher_loss: 2.0, leak: 0.001, rows };
    let mut report = full("w");
    report.emission = None;
    let mut result = Distillation::new(of(0.4, 3.0, 9), of(0.1, 2.25, 9));
    let word = |text: &str| DistilledWord { id: 7, text: text.into() };
    result.words.push(DistilledToken::new(word(" naïve"), (20, 4), (of(0.4, 3.0, 9), of(0.1, 2.25, 9))));
    result.words.push(DistilledToken::new(word(HOSTILE), (1, 0), (of(0.0, 0.0, 0), of(0.0, 0.0, 0))));
    report.distillation = Some(result);
    let page = self::page(&report);
    for part in [
        "75 % of the gap",
        "0.4 → 0.1",
        "3 → 2.25",
        "20 trained on, 4 held out",
        "A distillation writes nothing",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}
