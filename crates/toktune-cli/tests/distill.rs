//! `toktune distill`: words in texts to tokens that the model reads as it read their pieces.

mod common;

use common::{Called, Work};
use serde_json::json;

/// Texts in which `w11 w12` stands for something, and one that only begins like it.
fn corpus(texts: usize) -> String {
    let text = |i: usize| {
        let at = |n: usize| 20 + (i * 7 + n * 13) % 70;
        format!("w{} w{} w11 w12 w{} w{} w{} w{}", at(0), at(1), at(2), at(3), at(4), at(5))
    };
    (0..texts).map(|i| format!("{}\n", json!({"text": text(i)}))).collect()
}

fn distill(work: &Work, more: &[&str]) -> Called {
    let usual = [
        "distill",
        "--model",
        "model",
        "--words",
        "words.txt",
        "--corpus",
        "corpus.jsonl",
        "--output",
        "out",
    ];
    work.call(&[&usual[..], more].concat())
}

fn work() -> Work {
    let work = Work::new();
    work.write("words.txt", "w11 w12\n");
    work.write("corpus.jsonl", corpus(60));
    work
}

#[test]
fn a_token_comes_near_to_its_pieces() {
    let work = work();
    let called =
        distill(&work, &["--log-format", "json", "--max-steps", "200", "--learning-rate", "0.02"]).ok();
    let end = called.json().pop().expect("an end");
    let number = |part: &str, name: &str| end[part][name].as_f64().expect("a number");
    assert!(number("after", "kl") < number("before", "kl"), "{end:#}");
    let log = String::from_utf8(work.read("out/train_log.jsonl")).expect("text");
    let losses: Vec<f64> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["loss"].as_f64().expect("a loss")
        })
        .collect();
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    assert!(mean(&losses[180..]) < 0.8 * mean(&losses[..4]), "{losses:?}");
    let closed = 1.0 - number("after", "kl") / number("before", "kl");
    assert!((end["kl_closed"].as_f64().expect("a share") - closed).abs() < 1e-9, "{end:#}");
    assert_eq!(end["words"][0]["token"], "w11 w12");
    assert_eq!(work.read_json("out/distillation.json")["after"], end["after"]);
    // the tokenizer lies beside the rows, and the adapter opens
    let opened = work
        .call(&["tokens", "--model", "model", "--adapter", "out", "w1 w11 w12 w3", "--log-format", "json"])
        .ok();
    assert!(opened.out.contains("w11 w12"), "{}", opened.out);
    work.call(&["eval", "--model", "model", "--adapter", "out", "--data", "corpus.jsonl"]).ok();
    // the same flags give the same bytes, on any number of threads
    let again = Work::new();
    again.write("words.txt", "w11 w12\n");
    again.write("corpus.jsonl", corpus(60));
    distill(&again, &["--max-steps", "200", "--learning-rate", "0.02", "--threads", "1"]).ok();
    assert_eq!(work.read("out/adapter_model.safetensors"), again.read("out/adapter_model.safetensors"));
}

#[test]
fn every_loss_brings_it_nearer() {
    for loss in ["kl", "ce", "mse+0.5kl"] {
        let work = work();
        let flags = ["--loss", loss, "--log-format", "json", "--max-steps", "200", "--learning-rate", "0.02"];
        let end = distill(&work, &flags).ok().json().pop().expect("an end");
        let of = |part: &str, name: &str| end[part][name].as_f64().expect("a number");
        let name = if loss == "ce" { "loss" } else { "kl" };
        assert!(of("after", name) < of("before", name), "{loss}: {end:#}");
    }
}

#[test]
fn words_that_cannot_be_learnt_are_named() {
    let work = work();
    work.write("words.txt", "w11 w12\nw13\nnowhere at all\nw20 w33 w46\n");
    let called = distill(&work, &["--max-steps", "2"]).ok();
    for part in ["w13", "nowhere at all: it stands nowhere", "left out"] {
        assert!(called.err.contains(part), "{part}: {}", called.err);
    }
    let work = self::work();
    work.write("corpus.jsonl", corpus(3));
    distill(&work, &[]).fails(1, &["no word has 4 snippets", "--min-snippets"]);
    work.is_untouched();
}

#[test]
fn arguments_that_cannot_be_used_are_refused() {
    let work = work();
    distill(&work, &["--loss", "mae"]).fails(2, &["--loss", "expected mse, kl, ce"]);
    distill(&work, &["--generate", "4"]).fails(2, &["--generate", "--corpus"]);
    let without = ["distill", "--model", "model", "--words", "words.txt", "--output", "out"];
    work.call(&without).fails(2, &["--corpus"]);
    distill(&work, &["--batch-size", "0"]).fails(2, &["--batch-size"]);
    let bert = Work::with("bert");
    bert.write("words.txt", "w11 w12\n");
    bert.write("corpus.jsonl", corpus(9));
    distill(&bert, &[]).fails(1, &["expected a causal language model", "masked"]);
    bert.is_untouched();
}

#[test]
fn the_model_can_write_the_texts_itself() {
    let work = work();
    let called = work
        .call(&[
            "distill",
            "--model",
            "model",
            "--words",
            "words.txt",
            "--generate",
            "12",
            "--output",
            "out",
            "--max-steps",
            "2",
        ])
        .ok();
    assert!(called.err.contains("12 texts written, 100 %"), "{}", called.err);
    assert!(work.path("out/adapter_model.safetensors").exists());
}
