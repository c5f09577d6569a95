//! `toktune combine`: one adapter of several, by what their tokens are called.

mod common;

use common::{Called, Work};
use serde_json::json;

/// A short run on rows with `tokens`, which are added, into `output`.
fn adapter(work: &Work, output: &str, tokens: &[&str], more: &[&str]) {
    let rows: String = (0..6)
        .map(|i| format!("{}\n", json!({"prompt": format!("w{i} w{}", 2 * i), "completion": tokens.join(&format!(" w{} ", 30 + i))})))
        .collect();
    work.write("rows.jsonl", rows);
    let mut flags =
        vec!["train", "--model", "model", "--data", "rows.jsonl", "--output", output, "--max-steps", "3"];
    tokens.iter().for_each(|token| flags.extend(["--add-token", token]));
    work.call(&[&flags[..], more].concat()).ok();
}

fn combine(work: &Work, more: &[&str]) -> Called {
    work.call(&[&["combine", "one", "two", "--output", "both"], more].concat())
}

/// What the model gives for a text with an adapter.
fn loss(work: &Work, adapter: &str, text: &str) -> f64 {
    work.write("text.jsonl", format!("{}\n", json!({"text": text})));
    let eval =
        ["eval", "--model", "model", "--adapter", adapter, "--data", "text.jsonl", "--log-format", "json"];
    work.call(&eval).ok().json().pop().expect("a line")["loss"].as_f64().expect("a loss")
}

#[test]
fn tokens_that_have_one_id_get_two() {
    let work = Work::new();
    adapter(&work, "one", &["<a>", "<b>"], &[]);
    adapter(&work, "two", &["<c>"], &["--seed", "9"]);
    let told = combine(&work, &[]).ok();
    assert!(told.out.contains("3 tokens of 2 adapters in both"), "{}", told.out);
    assert!(told.err.contains("<c> of two: id 97 becomes 99"), "{}", told.err);
    let config = work.read_json("both/adapter_config.json");
    assert_eq!(config["token_indices"], json!([97, 98, 99]));
    // a token reads as it did, where nothing is predicted that the other adapter has
    for (adapter, token) in [("one", "<a>"), ("two", "<c>")] {
        let rows = |folder: &str| {
            let inspected = work.call(&["inspect", folder, "--log-format", "json"]).ok();
            inspected.out
        };
        assert!(rows("both").contains(token) && rows(adapter).contains(token));
    }
    assert!(loss(&work, "both", "w1 <a> w2 <c> w3").is_finite());
    combine(&work, &[]).fails(2, &["both"]);
    let merged = work.call(&["merge", "--model", "model", "--adapter", "both", "--output", "merged"]).ok();
    assert!(merged.out.contains("3 tokens merged"), "{}", merged.out);
}

#[test]
fn rows_that_differ_are_named_and_decided() {
    let work = Work::new();
    adapter(&work, "one", &["<a>", "<b>"], &[]);
    adapter(&work, "two", &["<b>"], &["--seed", "9"]);
    combine(&work, &[]).fails(1, &["several adapters have other rows for <b>", "--on-conflict"]);
    assert!(!work.path("both").exists());
    let norms = |folder: &str| -> Vec<f64> {
        let inspected =
            work.call(&["inspect", folder, "--log-format", "json"]).ok().json().pop().expect("a line");
        let tensors = inspected["tensors"].as_array().expect("tensors").clone();
        serde_json::from_value(tensors[0]["norms"].clone()).expect("norms")
    };
    combine(&work, &["--on-conflict", "first"]).ok();
    assert_eq!(norms("both"), norms("one"));
    let mean = work
        .call(&["combine", "one", "two", "-o", "mean", "--on-conflict", "mean", "--log-format", "json"])
        .ok();
    assert_eq!(mean.json()[0]["conflicts"], json!(["<b>"]));
    let (mean, first) = (norms("mean"), norms("one"));
    assert_eq!(mean[0], first[0]);
    assert_ne!(mean[1], first[1]);
    // the same adapter twice is no conflict, and changes nothing
    work.call(&["combine", "one", "one", "-o", "same"]).ok();
    assert_eq!(work.read("same/adapter_model.safetensors"), work.read("one/adapter_model.safetensors"));
}

#[test]
fn tokens_stay_what_they_are() {
    let work = Work::new();
    adapter(&work, "one", &["<a>", "<b>"], &[]);
    adapter(&work, "two", &["<c>"], &["--add-special-token", "<b>", "--allow-unseen"]);
    combine(&work, &["--on-conflict", "first"]).ok();
    let added = work.read_json("both/tokenizer.json")["added_tokens"].clone();
    let flags = |content: &str| {
        let found = added.as_array().and_then(|all| all.iter().find(|token| token["content"] == content));
        found.map(|token| token["special"] == true)
    };
    // `<b>` is special in one of the two
    assert_eq!(["<a>", "<b>", "<c>"].map(flags), [Some(false), Some(true), Some(false)]);
}

#[test]
fn what_cannot_be_combined_is_refused() {
    let work = Work::new();
    adapter(&work, "one", &["<a>"], &[]);
    adapter(&work, "two", &["<c>"], &["--lora-r", "2"]);
    combine(&work, &[]).fails(1, &["trained rows alone", "LORA"]);
    work.call(&["combine", "one", "-o", "x"]).fails(2, &["DIR"]);
    work.call(&["combine", "one", "model", "-o", "x"]).fails(1, &["model"]);
    // without its tokenizer an added token has no name, and the other's is not its own
    adapter(&work, "three", &["<d>"], &[]);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::remove_file(work.path("three").join(file)).expect("removed");
    }
    work.call(&["combine", "one", "three", "-o", "x", "--on-conflict", "first"])
        .fails(1, &["three: has no tokenizer that names token 97", "`<a>`"]);
    let refuses = |other: &Work, parts: &[&str]| {
        adapter(other, "two", &["<c>"], &[]);
        let two = other.path("two");
        work.call(&["combine", "one", two.to_str().expect("a path"), "-o", "x"]).fails(1, parts);
    };
    refuses(&Work::with("gpt2"), &["trains", "transformer.wte (width"]);
    // the same model with two of its words the other way round
    let other = Work::new();
    let text = String::from_utf8(other.read("model/tokenizer.json")).expect("text");
    let swapped =
        text.replace("\"w5\":", "\"x\":").replace("\"w6\":", "\"w5\":").replace("\"x\":", "\"w6\":");
    assert_ne!(text, swapped);
    other.write("model/tokenizer.json", swapped);
    refuses(&other, &["token 8 is `w6`, and `w5` in one", "different models"]);
    assert!(!work.path("x").exists());
}
