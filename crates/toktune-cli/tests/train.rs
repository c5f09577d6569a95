//! `toktune train`, as a user calls it.

mod common;
use common::{TOKENS, Work};
use serde_json::json;

const CALC: [&str; 4] = ["--add-token", "<calc>", "--add-token", "</calc>"];

#[test]
fn tokens_by_id_and_by_name_are_trained_and_saved_as_pefts_files() {
    let work = Work::new();
    let told = work.train(&["--token-ids", "44,43", "--token", "w7", "--batch-size", "4"]).ok();
    let config = work.read_json("out/adapter_config.json");
    assert_eq!(config["token_indices"], json!([44, 43, 10]));
    assert_eq!(config["peft_type"], "TRAINABLE_TOKENS");
    let base = config["base_model_name_or_path"].as_str().expect("a path");
    assert!(std::path::Path::new(base).is_absolute() && base.ends_with("model"), "{base}");
    for name in ["adapter_model.safetensors", "README.md", "train_log.jsonl"] {
        assert!(!work.read(&format!("out/{name}")).is_empty());
    }
    assert!(!work.path("out/tokenizer.json").exists(), "no token was added");
    for part in [
        "rows: 3 of model.embed_tokens, to which lm_head is tied",
        "learning rate: ",
        "step 1/3",
        "step 3/3",
        "training loss",
        "toktune generate",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    assert!(told.err.is_empty(), "{}", told.err);
}

#[test]
fn added_tokens_take_padding_rows_before_the_model_grows() {
    let work = Work::new();
    let told = work.train(&[&CALC[..], &["--add-special-token", "<end>", "--add-token", "w5"]].concat()).ok();
    let ids = work.read_json("out/adapter_config.json")["token_indices"].clone();
    assert_eq!(ids, json!([TOKENS, TOKENS + 1, 8, TOKENS + 2]));
    assert!(!told.err.contains("grows"), "{}", told.err);
    assert!(told.err.contains("'w5' is in the tokenizer already (id 8)"), "{}", told.err);
    assert!(told.err.contains("warning: '<end>' (id 99) is nowhere in the data"), "{}", told.err);
    let tokenizer = String::from_utf8(work.read("out/tokenizer.json")).expect("text");
    assert!(tokenizer.contains("</calc>"));
    // the same again with more tokens than there are padding rows
    let more: Vec<String> = (0..5).map(|i| format!("<extra{i}>")).collect();
    let flags: Vec<&str> = more.iter().flat_map(|token| ["--add-token", token.as_str()]).collect();
    let flags = [&CALC[..], &flags, &["--output", "grown"]].concat();
    let told =
        work.call(&[&["train", "--model", "model", "--data", "train.jsonl"][..], &flags].concat()).ok();
    assert!(told.err.contains("the model grows from 101 to 104 rows"), "{}", told.err);
}

#[test]
fn rows_start_as_asked() {
    let work = Work::new();
    let first = |more: &[&str], output: &str| -> Vec<u8> {
        // a rate this small leaves the rows where they start
        let usual = ["train", "--model", "model", "--data", "train.jsonl", "--max-steps", "1"];
        let flags =
            ["--learning-rate", "1e-30", "--output", output, "--token", "w7", "--add-token", "<calc>"];
        work.call(&[&usual[..], &flags, more].concat()).ok();
        work.read(&format!("{output}/adapter_model.safetensors"))
    };
    let rows = |bytes: &[u8]| -> (Vec<u8>, Vec<u8>) {
        let data = &bytes[8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize..];
        let (k, width) = (2, 32 * 4);
        (data[..width].to_vec(), data[width..k * width].to_vec())
    };
    let (default, base) = (first(&[], "a"), first(&["--init", "base"], "b"));
    let (mean, random) = (first(&["--init", "mean"], "c"), first(&["--init", "random"], "d"));
    assert_eq!(rows(&default).0, rows(&base).0, "a known token starts as it is");
    assert_ne!(rows(&default).1, rows(&base).1);
    assert_ne!(rows(&mean).0, rows(&mean).1, "tokens never start alike");
    let alike = first(&["--init", "mean", "--init-spread", "0"], "g");
    assert_eq!(rows(&alike).0, rows(&alike).1, "an explicit start is for all");
    assert_eq!(rows(&alike).1, rows(&default).1);
    assert_ne!(rows(&random).0, rows(&random).1);
    assert_eq!(random, first(&["--init", "random"], "e"));
    assert_ne!(random, first(&["--init", "random", "--seed", "7"], "f"));
}

#[test]
fn an_untied_head_is_trained_with_added_tokens() {
    let work = Work::with("llama_untied");
    let told = work.train(&CALC).ok();
    assert!(told.err.contains("the head lm_head is not tied to model.embed_tokens"), "{}", told.err);
    assert!(told.err.contains("grows from 97 to 99"), "{}", told.err);
    let target = work.read_json("out/adapter_config.json")["target_modules"].clone();
    assert_eq!(target, json!(["model.embed_tokens", "lm_head"]));
    let flags = [&CALC[..], &["--target-modules", "embed_tokens", "--output", "one"]].concat();
    let told =
        work.call(&[&["train", "--model", "model", "--data", "train.jsonl"][..], &flags].concat()).ok();
    assert!(!told.err.contains("tied"), "{}", told.err);
    let known = ["train", "--model", "model", "--data", "train.jsonl", "--token", "w7", "--output", "known"];
    let told = work.call(&known).ok();
    assert!(told.err.is_empty(), "known tokens are generated without their head's row: {}", told.err);
}

#[test]
fn json_lines_have_their_shape() {
    let work = Work::new();
    let more =
        ["--log-format", "json", "--batch-size", "4", "--eval-data", "train.jsonl", "--eval-every", "1"];
    let told = work.train(&[&CALC[..], &more, &["--save-every", "2", "--log-every", "2"]].concat()).ok();
    let lines = told.json();
    let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    let expected =
        ["header", "eval", "step", "eval", "step", "eval", "saved", "step", "eval", "saved", "end"];
    assert_eq!(events, expected);
    let header = &lines[0];
    assert_eq!((&header["family"], &header["steps"]), (&json!("Llama"), &json!(3)));
    assert_eq!(
        header["tokens"][0],
        json!({"id": 97, "token": "<calc>", "added": true, "inputs": 12, "labels": 12})
    );
    assert!(header["learning_rate"].as_f64().is_some_and(|rate| rate > 0.0));
    assert_eq!((&header["device"], &header["precision"]), (&json!("cpu"), &json!("f32")));
    let step = &lines[2];
    for key in ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "loss_tokens", "seconds"] {
        assert!(step[key].is_number(), "{key}: {step}");
    }
    assert!(
        lines[1]["token_loss"].is_number() && lines[1]["tokens"][1]["token"] == "</calc>",
        "{}",
        lines[1]
    );
    let end = lines.last().expect("an end");
    assert!(end["after"]["loss"].as_f64() < end["before"]["loss"].as_f64(), "{end}");
    let log = String::from_utf8(work.read("out/train_log.jsonl")).expect("text");
    assert_eq!(log.lines().count(), 3, "the file has every step");
}

#[test]
fn a_resumed_run_ends_with_the_same_bytes() {
    let work = Work::new();
    let train = |output: &str, more: &[&str]| {
        let usual =
            ["train", "--model", "model", "--data", "train.jsonl", "--batch-size", "5", "--save-every", "2"];
        work.call(&[&usual[..], &CALC, &["--output", output], more].concat()).ok()
    };
    train("whole", &["--max-steps", "7"]);
    train("parts", &["--max-steps", "4"]);
    let told = train("parts", &["--max-steps", "7", "--resume", "--threads", "1"]);
    assert!(told.err.contains("going on after step 4"), "{}", told.err);
    for name in ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"] {
        assert_eq!(work.read(&format!("whole/{name}")), work.read(&format!("parts/{name}")), "{name}");
    }
    let told = train("parts", &["--max-steps", "7", "--resume"]);
    assert!(told.out.contains("step 7/7") || told.out.contains("none to take"), "{}", told.out);
    work.call(&[
        "train",
        "--model",
        "model",
        "--data",
        "train.jsonl",
        "--output",
        "parts",
        "--resume",
        "--seed",
        "1",
        "--batch-size",
        "5",
        "--add-token",
        "<calc>",
        "--add-token",
        "</calc>",
    ])
    .fails(2, &["the run was begun otherwise", "seed was 42, is 1 now"]);
}

#[test]
fn an_adapter_is_gone_on_from_with_its_tokenizer() {
    let work = Work::new();
    work.train(&CALC).ok();
    let usual =
        ["train", "--model", "model", "--data", "train.jsonl", "--adapter", "out", "--output", "more"];
    let told = work.call(&[&usual[..], &["--log-format", "json"]].concat()).ok();
    assert_eq!(told.json()[0]["tokens"][1]["token"], "</calc>");
    assert!(work.path("more/tokenizer.json").exists());
    assert_ne!(work.read("more/adapter_model.safetensors"), work.read("out/adapter_model.safetensors"));
    work.call(&[&usual[..], &["--token", "w7"]].concat())
        .fails(2, &["--adapter", "--token", "cannot be used with"]);
    // the fixture that PEFT wrote
    let pefts = concat!(env!("CARGO_MANIFEST_DIR"), "/../toktune/tests/fixtures/llama_tied/adapter");
    work.call(&[
        "train",
        "--model",
        "model",
        "--data",
        "ids.jsonl",
        "--adapter",
        pefts,
        "--output",
        "theirs",
    ])
    .ok();
    assert_eq!(work.read_json("theirs/adapter_config.json")["token_indices"], json!([57, 3, 90, 21]));
}

#[test]
fn a_reader_that_goes_away_ends_the_output_and_not_the_run() {
    use std::process::Stdio;
    let work = Work::new();
    let arguments =
        ["train", "--model", "model", "--data", "train.jsonl", "--output", "out", "--token", "w7"];
    let mut child = work.command(&arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
    drop(child.stdout.take());
    assert!(child.wait().expect("an end").success());
    assert!(work.path("out/adapter_model.safetensors").exists());
    let mut child = work.command(&["inspect", "model"]).stdout(Stdio::piped()).spawn().expect("started");
    drop(child.stdout.take());
    assert!(child.wait().expect("an end").success());
}

#[test]
fn tensorboard_gets_a_file_of_its_own() {
    let work = Work::new();
    let flags = ["--add-token", "<calc>", "--eval-data", "train.jsonl", "--tensorboard"];
    work.train(&[&flags[..], &["--max-steps", "3", "--save-every", "3"]].concat()).ok();
    let files = |work: &Work| std::fs::read_dir(work.path("out/runs")).expect("a folder").count();
    assert_eq!(files(&work), 1);
    // a run that goes on writes another one
    work.train(&[&flags[..], &["--max-steps", "5", "--resume"]].concat()).ok();
    assert_eq!(files(&work), 2);
}
