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
