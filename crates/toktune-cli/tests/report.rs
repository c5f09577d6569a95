//! The page of a run, as `train` and `distill` write it.

mod common;

use common::{Called, Work};

const CALC: [&str; 4] = ["--add-token", "<calc>", "--add-token", "</calc>"];
const SECTIONS: [&str; 7] = ["verdict", "curves", "tokens", "texts", "map", "data", "run"];

/// The page in a folder: its elements are closed in their turn, and nothing is fetched or run.
#[track_caller]
fn page(work: &Work, folder: &str) -> String {
    let page = String::from_utf8(work.read(&format!("{folder}/report.html"))).expect("text");
    let (mut open, mut rest) = (Vec::new(), page.as_str());
    while let Some((_, behind)) = rest.split_once('<') {
        let (inside, behind) = behind.split_once('>').expect("an element ends");
        rest = behind;
        let name = inside.split(' ').next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closed in its turn"),
            None if ["!DOCTYPE", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    for id in SECTIONS {
        assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
    }
    for outside in ["<script", "http://", "https://", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    page
}

fn has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn a_run_leaves_a_page() {
    let work = Work::new();
    let more = ["--eval-data", "train.jsonl", "--eval-every", "2", "--max-steps", "6", "--batch-size", "2"];
    let told = work.train(&[&CALC[..], &more].concat()).ok();
    assert!(told.out.contains("report") && told.out.contains("out/report.html"), "{}", told.out);
    assert!(told.err.is_empty() || !told.err.contains("--report"), "{}", told.err);
    let page = page(&work, "out");
    has(
        &page,
        &[
            "&lt;calc&gt;",
            "Prompt 1",
            "the mean of the trained rows",
            "12×",
            "nearest before",
            "Row 1",
            "train.jsonl:1",
            "held out, at the tokens",
            "--add-token &#39;&lt;calc&gt;&#39;",
            "train.jsonl, ",
            "Learning rate",
            "seed",
        ],
    );
    // each evaluation is a point: before, two between, and the last
    assert_eq!(page.matches("<title>held out at step ").count(), 4, "{page}");
    assert!(page.len() < 300_000, "{}", page.len());
    let told = work.call(&["inspect", "out"]).ok();
    assert!(told.out.contains("out/report.html"), "{}", told.out);
    let json = work.call(&["inspect", "out", "--log-format", "json"]).ok().json();
    assert_eq!(json[0]["report"], "out/report.html", "{json:?}");
}

#[test]
fn a_page_can_be_done_without() {
    let work = Work::new();
    let told = work.train(&[&CALC[..], &["--report", "false", "--max-steps", "1"]].concat()).ok();
    assert!(!work.path("out/report.html").exists() && !told.out.contains("report.html"));
}

#[test]
fn hostile_tokens_rows_and_folders_are_text() {
    let work = Work::new();
    let token = "</script><img src=x onerror=alert(1)>";
    let row =
        serde_json::json!({"prompt": "w1 <script>alert(2)</script> w2", "completion": format!("{token} w3")});
    work.write("rows.jsonl", format!("{row}\n").repeat(3));
    let flags = [
        "train",
        "--model",
        "model",
        "--data",
        "rows.jsonl",
        "--output",
        "<b onclick=x>",
        "--add-token",
        token,
    ];
    work.call(&[&flags[..], &["--eval-data", "rows.jsonl", "--max-steps", "2"]].concat()).ok();
    let page = page_of_hostile(&work);
    has(&page, &["&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;", "&lt;b onclick=x&gt;"]);
}

/// The words of an attack are on this page, as text.
fn page_of_hostile(work: &Work) -> String {
    let page = String::from_utf8(work.read("<b onclick=x>/report.html")).expect("text");
    for markup in ["<script", "<img", "<b on"] {
        assert!(!page.contains(markup), "{markup}");
    }
    page
}

#[test]
fn a_run_that_goes_on_tells_of_all_its_steps() {
    let work = Work::new();
    let more = ["--eval-data", "train.jsonl", "--eval-every", "2", "--batch-size", "4"];
    let flags = |steps: &'static str| [&CALC[..], &more, &["--max-steps", steps]].concat();
    work.train(&flags("4")).ok();
    let first = page(&work, "out");
    has(&first, &["training at step 4", "<title>held out at step 2"]);
    work.train(&[&flags("7")[..], &["--resume"]].concat()).ok();
    let page = page(&work, "out");
    for step in 1..=7 {
        assert!(page.contains(&format!("training at step {step}: ")), "{step}: {page}");
    }
    for step in [0, 2, 4, 6, 7] {
        assert!(page.contains(&format!("<title>held out at step {step}: ")), "{step}: {page}");
    }
    has(&page, &["The run was resumed", "nearest before", "--resume"]);
    // nothing is left to do, and what is known of the run stays
    work.train(&[&flags("7")[..], &["--resume"]].concat()).ok();
    assert_eq!(self::page(&work, "out"), page);
}

#[test]
fn models_of_every_kind_have_a_page() {
    let causal = |folder: &str| {
        let work = Work::with(folder);
        trained_on_ids(&work);
        page(&work, "out")
    };
    has(&causal("llama_untied_head"), &["Rows of <code>model.embed_tokens</code>"]);
    has(&causal("bert"), &["hidden and to be guessed"]);
    has(&causal("bert_pairs"), &["Pairs are learnt as a whole", "anchor"]);
    has(&causal("t5"), &["encoder", "decoder"]);
}

/// Ids alone: the model has no tokenizer that fits.
#[track_caller]
fn trained_on_ids(work: &Work) -> Called {
    std::fs::remove_file(work.path("model/tokenizer.json")).expect("removed");
    let flags =
        ["train", "--model", "model", "--data", "ids.jsonl", "--output", "out", "--token-ids", "57,3,90"];
    work.call(&[&flags[..], &["--eval-data", "ids.jsonl", "--max-steps", "2", "--allow-unseen"]].concat())
        .ok()
}

#[test]
fn a_run_that_diverges_has_a_page_too() {
    let work = Work::new();
    let told = work.train(&[&CALC[..], &["--learning-rate", "1e4", "--max-steps", "9"]].concat());
    assert_eq!(told.code, 1, "{}", told.err);
    has(&page(&work, "out"), &["far too high", "nearest before"]);
}

#[test]
fn a_distillation_has_a_table_of_its_own() {
    let work = Work::new();
    let text = |i: usize| {
        format!("{{\"text\": \"w{} w{} w11 w12 w{} w{} w{}\"}}\n", 20 + i, 30 + i, 40 + i, 25 + i, 35 + i)
    };
    work.write("corpus.jsonl", (0..40).map(text).collect::<String>());
    work.write("words.txt", "w11 w12\n");
    let flags =
        ["distill", "--model", "model", "--words", "words.txt", "--corpus", "corpus.jsonl", "--output"];
    let told = work.call(&[&flags[..], &["out", "--max-steps", "4"]].concat()).ok();
    assert!(told.out.contains("out/report.html"), "{}", told.out);
    let page = page(&work, "out");
    has(
        &page,
        &[
            "of the gap between the new tokens",
            "where none belongs",
            "w11 w12",
            "mse to the pieces",
            "pieces",
        ],
    );
    work.call(&[&flags[..], &["none", "--max-steps", "1", "--report", "false"]].concat()).ok();
    assert!(!work.path("none/report.html").exists());
}
