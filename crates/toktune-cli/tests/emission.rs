//! Whether trained tokens are written where they belong: tried by `train` and `eval`, and required.

mod common;

use common::Work;
use serde_json::Value;

const TOKENS: [&str; 4] = ["--add-token", "<calc>", "--add-token", "</calc>"];

fn trained(work: &Work, more: &[&str]) -> common::Called {
    let held_out = ["--eval-data", "train.jsonl", "--log-format", "json"];
    work.train(&[&TOKENS[..], &held_out, more].concat())
}

/// The numbers of a token in the last line.
fn token(end: &Value, side: &str, at: usize, name: &str) -> f64 {
    end["emission"][side]["tokens"][at][name].as_f64().unwrap_or_else(|| panic!("{name}: {end:#}"))
}

#[test]
fn a_run_tells_whether_its_tokens_are_written() {
    let work = Work::new();
    let long = ["--max-steps", "200", "--learning-rate", "0.05", "--require-emission", "0.5"];
    let end = trained(&work, &long).ok().json().pop().expect("an end");
    assert_eq!(end["emission"]["after"]["prompts"], 12, "{end:#}");
    for at in [0, 1] {
        assert_eq!(token(&end, "after", at, "expected"), 12.0);
        assert!(token(&end, "after", at, "written") >= 6.0, "{end:#}");
        assert!(token(&end, "before", at, "written") < token(&end, "after", at, "written"), "{end:#}");
        assert!(
            token(&end, "after", at, "probability") > token(&end, "before", at, "probability"),
            "{end:#}"
        );
        assert!(token(&end, "after", at, "rank") <= token(&end, "before", at, "rank"), "{end:#}");
    }
    let pair = &end["emission"]["after"]["pairs"][0];
    assert_eq!((&pair["open"], &pair["close"]), (&Value::from("<calc>"), &Value::from("</calc>")), "{end:#}");
    // `eval` finds the same of the adapter
    let data = ["--data", "train.jsonl", "--adapter", "out", "--model", "model"];
    let eval =
        [&["eval"][..], &data, &["--emission-prompts", "30", "--compare-base", "--log-format", "json"]]
            .concat();
    let found = work.call(&eval).ok().json().pop().expect("a line");
    assert_eq!(found["emission"]["tokens"][0]["written"], end["emission"]["after"]["tokens"][0]["written"]);
    assert!(found["base"]["emission"]["tokens"].is_array(), "{found:#}");
    let told = work.call(&[&["eval"][..], &data, &["--require-emission", "0.5"]].concat()).ok();
    for part in
        ["written by the model itself (12 prompts)", "<calc> … </calc> balanced in", "where it belongs"]
    {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
}

#[test]
fn what_is_required_and_not_reached_ends_with_status_3() {
    let work = Work::new();
    let called = trained(&work, &["--max-steps", "1", "--require-emission", "0.85"]);
    let called = called.fails(3, &["--require-emission 0.85", "<calc> in", "of 12"]);
    // the run itself is whole
    assert!(work.path("out/adapter_model.safetensors").exists());
    let end = called.json().pop().expect("an end");
    assert!(end["emission"]["after"]["tokens"][0]["cause"].is_string(), "{end:#}");
    let eval =
        ["eval", "--model", "model", "--adapter", "out", "--data", "train.jsonl", "--require-emission", "1"];
    work.call(&eval).fails(3, &["written too rarely"]);
}

#[test]
fn a_token_that_no_row_has_is_not_proven() {
    let work = Work::new();
    let flags = ["--add-token", "<calc>", "--add-token", "<end>", "--allow-unseen", "--max-steps", "1"];
    let held_out = ["--eval-data", "train.jsonl", "--require-emission", "0"];
    let told = work.train(&[&flags[..], &held_out].concat()).fails(3, &["<end> in 0 of 0"]);
    assert!(
        told.out.contains("<end>: in no row that was tried") || told.out.contains("<end>: never"),
        "{}",
        told.out
    );
}

#[test]
fn what_cannot_be_tried_is_refused_where_it_is_asked_for() {
    let work = Work::new();
    let refused = |more: &[&str], parts: &[&str]| {
        trained(&work, more).fails(2, parts);
        work.is_untouched();
    };
    refused(&["--require-emission", "1.5"], &["--require-emission", "from 0 to 1"]);
    refused(&["--require-emission", "0.5", "--emission-prompts", "0"], &["no prompts"]);
    work.train(&[&TOKENS[..], &["--require-emission", "0.5"]].concat()).fails(2, &["--eval-data"]);
    work.is_untouched();
    // rows without the tokens prove nothing
    work.write("others.jsonl", "{\"prompt\": \"w1 w2\", \"completion\": \"w3 w4\"}\n");
    let others = ["--eval-data", "others.jsonl", "--emission-prompts", "5"];
    work.train(&[&TOKENS[..], &others].concat()).fails(2, &["no held-out row has a trained token"]);
    work.is_untouched();
    // and where nothing was asked for, nothing is tried
    let quiet = ["--eval-data", "others.jsonl", "--max-steps", "1", "--log-format", "json"];
    let end = work.train(&[&TOKENS[..], &quiet].concat()).ok().json().pop().expect("an end");
    assert!(end["emission"].is_null(), "{end:#}");
}

#[test]
fn the_rows_that_write_their_tokens_are_kept() {
    let work = Work::new();
    let flags =
        ["--max-steps", "24", "--learning-rate", "0.05", "--eval-every", "8", "--emission-prompts", "6"];
    let lines = trained(&work, &[&flags[..], &["--keep-best", "emission"]].concat()).ok().json();
    let evaluations: Vec<&Value> = lines.iter().filter(|line| line["event"] == "eval").collect();
    let rate = |line: &Value| line["emission"].as_f64().expect("tried");
    assert_eq!(evaluations.len(), 4);
    assert!(evaluations.iter().all(|line| line["leak"].as_f64().is_some_and(|leak| leak > 0.0)));
    assert!(evaluations[0]["tokens"][0]["elsewhere"].as_f64().is_some());
    let end = lines.last().expect("an end");
    let most = evaluations[1..].iter().map(|line| rate(line)).fold(0.0, f64::max);
    assert_eq!(end["best"]["emission"].as_f64(), Some(most), "{end:#}");
    let kept = evaluations.iter().find(|line| line["step"] == end["best"]["step"]).expect("an evaluation");
    assert_eq!((rate(kept), &kept["loss"]), (most, &end["after"]["loss"]));
    let log = String::from_utf8(work.read("out/train_log.jsonl")).expect("text");
    let of_log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(of_log[7]["emission"], evaluations[1]["emission"]);
    assert_eq!((of_log.len(), &of_log[6]["leak"]), (24, &Value::Null));
    // the same from a file, for people
    let work = Work::new();
    work.write("run.toml", "keep-best = 'emission'\neval-every = 1\nmax-steps = 2\n");
    let told =
        work.train(&[&TOKENS[..], &["--config", "run.toml", "--eval-data", "train.jsonl"]].concat()).ok();
    for part in ["  leak ", "  written ", "whose tokens the model writes most often, in"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
}

#[test]
fn rows_are_not_kept_by_what_cannot_be_tried() {
    let work = Work::new();
    let flags = ["--add-token", "<end>", "--allow-unseen", "--eval-every", "1", "--keep-best", "emission"];
    work.train(&[&flags[..], &["--eval-data", "train.jsonl"]].concat())
        .fails(2, &["--keep-best emission: ", "no held-out row has a trained token"]);
    work.train(&flags).fails(2, &["--eval-data"]);
    let other = ["--eval-data", "train.jsonl", "--eval-every", "1", "--keep-best", "rate"];
    work.train(&[&TOKENS[..], &other].concat()).fails(2, &["expected loss or emission"]);
    let none = ["--eval-data", "train.jsonl", "--eval-every", "1", "--keep-best", "emission"];
    work.train(&[&TOKENS[..], &none, &["--emission-prompts", "0"]].concat())
        .fails(2, &["--emission-prompts: expected at least 1"]);
}

#[test]
fn a_run_that_leaks_is_told_what_helps() {
    let work = Work::new();
    let wild =
        ["--max-steps", "12", "--learning-rate", "2", "--eval-every", "2", "--eval-data", "train.jsonl"];
    let told = work.train(&[&TOKENS[..], &wild].concat()).ok();
    assert_eq!(
        told.err.matches("in held-out places of other tokens").count(),
        1,
        "{} {}",
        told.out,
        told.err
    );
    assert!(told.err.contains("toktune distill"), "{}", told.err);
}
