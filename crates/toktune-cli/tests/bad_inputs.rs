//! Everything that can be wrong with what `train` is given: the message says what, and nothing is written.

mod common;
use common::{Called, Work};
use serde_json::Value;

/// A call that fails before anything is written.
#[track_caller]
fn refused(work: &Work, told: Called, code: i32, parts: &[&str]) {
    let told = told.fails(code, parts);
    assert!(told.out.is_empty(), "nothing is told before all is checked: {}", told.out);
    work.is_untouched();
}

#[test]
fn tokens() {
    let work = Work::new();
    for (flags, parts) in [
        (
            &["--token-ids", "101"][..],
            &["--token-ids: token id 101 is out of range", "101 rows (0 to 100)"][..],
        ),
        (&["--token-ids", "7,8,7"], &["token id 7 is chosen twice", "--token-ids 7"]),
        (&["--token-ids", "10", "--token", "w7"], &["token id 10 is chosen twice", "--token 'w7'"]),
        (&["--add-token", "<a>", "--add-token", "<a>"], &["token id 97 is chosen twice"]),
        (&["--token-ids", "-3"], &["invalid value '-3'", "--token-ids"]),
        (&["--token-ids", "x"], &["invalid value 'x'", "--token-ids"]),
        (&["--token", "w1111"], &["--token 'w1111': the tokenizer has no", "the nearest are 'w1"]),
        (&["--token", "W7"], &["it encodes to one token, 'w7'", "--token-ids 10"]),
        (&["--token", "w7 w8"], &["it encodes to 2 tokens ('w7' 'w8')", "use --add-token 'w7 w8'"]),
        (&["--add-token", " "], &["--add-token ' ': expected a token"]),
        (&["--add-token", "<a>", "--token-ids", "100"], &["--token-ids 100", "the tokenizer has 98 tokens"]),
        (&[], &["no token to train", "--add-token"]),
    ] {
        refused(&work, work.train(flags), 2, parts);
    }
    let unseen = work.train(&["--token-ids", "95", "--token", "w91"]);
    refused(&work, unseen, 1, &["nothing to learn of the chosen tokens", "'w92' (id 95)", "'w91' (id 94)"]);
    std::fs::remove_file(work.path("model/tokenizer.json")).expect("removed");
    refused(&work, work.train(&["--token", "w7"]), 1, &["--token needs a tokenizer", "tokenizer.json"]);
    refused(&work, work.train(&["--token-ids", "7"]), 1, &["train.jsonl:1: `prompt` needs a tokenizer"]);
}

#[test]
fn targets_and_settings() {
    let work = Work::new();
    for (flags, parts) in [
        (
            &["--target-modules", "embeddings"][..],
            &["--target-modules", "matches no module", "model.embed_tokens, lm_head"][..],
        ),
        (&["--target-modules", "q_proj"], &["--target-modules", "no embedding or output head", "q_proj"]),
        (&["--target-modules", "(x"], &["--target-modules '(x'"]),
        (&["--lora-r", "0"], &["--lora-r: expected at least 1 and at most 65536, found 0"]),
        (
            &["--lora-r", "99999999999"],
            &["--lora-r: expected at least 1 and at most 65536, found 99999999999"],
        ),
        (&["--lora-r", "4", "--lora-dropout", "1"], &["--lora-dropout: expected at least 0 and below 1"]),
        (&["--lora-target-modules", "q_prj"], &["--lora-target-modules", "did you mean 'q_proj'"]),
        (&["--lora-target-modules", "lm_head"], &["--lora-target-modules", "a token matrix"]),
        (&["--lora-alpha", "4"], &["--lora-alpha needs LoRA", "--lora-r"]),
        (&["--lora-r", "4", "--lora-learning-rate", "0"], &["--lora-learning-rate: expected more than 0"]),
        (&["--mlm-probability", "0.3"], &["--mlm-probability: the model is a causal language model"]),
        (&["--mask-trained-tokens", "false"], &["--mask-trained-tokens: the model is a causal"]),
        (&["--mask-trained-tokens", "maybe"], &["invalid value 'maybe'", "--mask-trained-tokens"]),
        (&["--save-embedding-layers", "maybe"], &["--save-embedding-layers", "auto"]),
        (&["--batch-size", "0"], &["--batch-size: expected at least 1, found 0"]),
        (&["--max-steps", "0"], &["--max-steps: expected at least 1"]),
        (&["--learning-rate", "-1"], &["--learning-rate: expected more than 0, found -1"]),
        (&["--num-epochs", "nan"], &["--num-epochs: expected more than 0"]),
        (&["--threads", "0"], &["--threads: expected at least 1"]),
        (&["--log-every", "0"], &["--log-every"]),
        (&["--eval-every", "2"], &["--eval-data"]),
        (&["--num-epochs", "1", "--max-steps", "2"], &["--num-epochs", "cannot be used with", "--max-steps"]),
        (
            &["--memory-budget", "2 apples"],
            &["--memory-budget", "expected free, min, or a size as 900MB or 2GB"],
        ),
        (&["--cache-limit", "2GB"], &["--cache-constants"]),
        (
            &["--cache-constants", "nowhere"],
            &["--cache-constants: expected RAM or a folder that exists, found nowhere"],
        ),
        (&["--precision", "f61"], &["invalid value 'f61'", "f32"]),
        (&["--device", "cuda"], &["--device cuda:0", "no backend for it yet", "use --device cpu"]),
        (&["--device", "metal"], &["--device metal", "use --device cpu"]),
        (&["--device", "gpu"], &["invalid value 'gpu'", "expected cpu, cuda, cuda:N or metal"]),
    ] {
        refused(&work, work.train(&[&["--token", "w7"], flags].concat()), 2, parts);
    }
    let arguments =
        ["train", "--model", "model", "--data", "train.jsonl", "--output", "out", "--token", "w7"];
    let output = work.command(&arguments).env("TOKTUNE_ISA", "avx1024").output().expect("started");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("TOKTUNE_ISA is 'avx1024'; expected one of"), "{told}");
    work.is_untouched();
}

#[test]
fn data() {
    let work = Work::new();
    let call = |files: &[&str]| {
        let flags = ["--output", "out", "--token", "w7"];
        work.call(&[&["train", "--model", "model", "--data"][..], files, &flags].concat())
    };
    let good = r#"{"input_ids": [10, 11, 12]}"#;
    for (content, parts) in [
        (format!("{good}\n{{\"text\": \n"), &["bad.jsonl:2", "not JSON"][..]),
        (format!("{good}\n\n{{\"txet\": \"w7\"}}\n"), &["bad.jsonl:3", "did you mean `text`?"]),
        (String::new(), &["bad.jsonl: no rows"]),
        (
            r#"{"input_ids": [1, 2], "labels": [1, 2, 3]}"#.into(),
            &["bad.jsonl:1: labels longer than input: 3 labels, 2"],
        ),
        (r#"{"input_ids": [1, 101]}"#.into(), &["bad.jsonl:1: `input_ids[1]` is 101"]),
    ] {
        work.write("bad.jsonl", content);
        refused(&work, call(&["ids.jsonl", "bad.jsonl"]), 1, parts);
    }
    // rotations have no end, as in transformers: such rows are computed, and told of
    work.write("bad.jsonl", format!("{{\"input_ids\": {:?}}}", vec![10; 65]));
    let eval = work.call(&["eval", "--model", "model", "--data", "bad.jsonl"]).ok();
    assert!(eval.err.contains("1 sequence is longer than the 64 positions"), "{}", eval.err);
    // beside rows that have labels, rows without are no fault
    work.write("bad.jsonl", r#"{"input_ids": [10, 2], "labels": [-100, -100]}"#);
    refused(&work, call(&["bad.jsonl"]), 1, &["no label to learn from"]);
    work.write("text.jsonl", r#"{"text": "w7 w8"}"#);
    refused(&work, call(&["none.jsonl"]), 1, &["none.jsonl", "No such file"]);
    refused(
        &work,
        work.train(&["--token", "w7", "--loss-on", "completion", "--eval-data", "text.jsonl"]),
        1,
        &["text.jsonl:1: --loss-on is completion"],
    );
    refused(&work, work.train(&["--token", "w7", "--max-length", "0"]), 1, &["--max-length is 0"]);
}

#[test]
fn an_output_folder_that_is_in_use() {
    let work = Work::new();
    std::fs::create_dir(work.path("out")).expect("a folder");
    work.write("out/thesis.txt", "years of work");
    work.train(&["--token", "w7"]).fails(2, &["--output", "is not empty", "thesis.txt"]);
    work.train(&["--token", "w7", "--resume"]).fails(2, &["is not empty"]);
    assert_eq!(std::fs::read_dir(work.path("out")).expect("a folder").count(), 1);
    work.write("file", "");
    let told = work.call(&[
        "train",
        "--model",
        "model",
        "--data",
        "train.jsonl",
        "--output",
        "file",
        "--token",
        "w7",
    ]);
    told.fails(1, &["file"]);
    std::fs::remove_dir_all(work.path("out")).expect("removed");
    work.train(&["--token", "w7"]).ok();
    work.train(&["--token", "w7"]).fails(2, &["go on with that run by --resume"]);
}

/// The model's file with its header changed, and shorter by `less`.
fn changed(work: &Work, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    let bytes = work.read("model/model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    change(header.as_object_mut().expect("an object"));
    let header = header.to_string();
    let data = &bytes[8 + length..];
    work.write(
        "model/model.safetensors",
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat(),
    );
}

const EMBEDDING: &str = "model.embed_tokens.weight";

#[test]
fn model_files() {
    let train = |work: &Work| work.train(&["--token", "w7"]);
    let work = Work::new();
    let sound = work.read("model/model.safetensors");
    work.write("model/model.safetensors", &sound[..sound.len() / 2]);
    refused(&work, train(&work), 1, &["model.safetensors", "is said to lie at bytes"]);
    work.write("model/model.safetensors", &sound[..5]);
    refused(&work, train(&work), 1, &["model.safetensors", "truncated or damaged"]);
    work.write("model/model.safetensors", [&u64::MAX.to_le_bytes()[..], &sound[8..]].concat());
    refused(&work, train(&work), 1, &["model.safetensors", "header"]);
    work.write("model/model.safetensors", &sound);
    changed(&work, |header| header[EMBEDDING]["shape"] = serde_json::json!([1u64 << 40, 1u64 << 40]));
    refused(&work, train(&work), 1, &["model.safetensors", EMBEDDING]);
    work.write("model/model.safetensors", &sound);
    changed(&work, |header| header[EMBEDDING]["dtype"] = "I32".into());
    refused(&work, train(&work), 1, &[EMBEDDING, "I32", "supported are"]);
    work.write("model/model.safetensors", &sound);
    changed(&work, |header| {
        let tensor = header.remove(EMBEDDING).expect("the embedding");
        header.insert("model.embed_token.weight".into(), tensor);
    });
    refused(
        &work,
        train(&work),
        1,
        &["there is no tensor 'model.embed_tokens.weight'", "model.embed_token.weight"],
    );

    let config = String::from_utf8(work.read("model/config.json")).expect("text");
    work.write("model/model.safetensors", &sound);
    work.write("model/config.json", config.replace("\"llama\"", "\"lama\""));
    refused(&work, train(&work), 1, &["model_type 'lama' is not supported", "did you mean 'llama'?"]);

    std::fs::remove_file(work.path("model/model.safetensors")).expect("removed");
    refused(&work, train(&work), 1, &["no model found"]);
    let index = serde_json::json!({"weight_map": {EMBEDDING: "../model.safetensors"}});
    work.write("model/model.safetensors.index.json", index.to_string());
    refused(&work, train(&work), 1, &["../model.safetensors", "not inside the folder"]);
}

#[test]
fn gguf_files() {
    let work = Work::new();
    let whole =
        [&b"GGUF"[..], &3u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
    for (content, part) in
        [(&b"GGML0000"[..], "not a GGUF file"), (&whole[..10], "truncated"), (&whole, "damaged")]
    {
        work.write("model.gguf", content);
        let told = work.call(&[
            "train",
            "--model",
            "model.gguf",
            "--data",
            "train.jsonl",
            "--output",
            "out",
            "--token",
            "w7",
        ]);
        refused(&work, told, 1, &["model.gguf", part]);
    }
    let told = work.call(&[
        "train",
        "--model",
        "none.gguf",
        "--data",
        "train.jsonl",
        "--output",
        "out",
        "--token",
        "w7",
    ]);
    refused(&work, told, 1, &["none.gguf"]);
}

#[test]
fn numbers_that_are_none() {
    let work = Work::new();
    let mut bytes = work.read("model/model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let start = header[EMBEDDING]["data_offsets"][0].as_u64().expect("an offset") as usize + 8 + length;
    // row 5, which neither data nor flags name
    bytes[start + 5 * 32 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    work.write("model/model.safetensors", bytes);
    work.train(&["--token", "w7"]).fails(1, &["not a finite number", "model.embed_tokens"]);
    work.is_untouched();
    work.train(&["--token", "w7", "--learning-rate", "0.1"]).fails(1, &["model.embed_tokens.weight, row 5"]);
    work.is_untouched();
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_rows() {
    let work = Work::new();
    let told = work.train(&[
        "--add-token",
        "<calc>",
        "--learning-rate",
        "1e36",
        "--batch-size",
        "2",
        "--max-grad-norm",
        "0",
    ]);
    told.fails(1, &["step", "has become", "the learning rate is far too high", "rows", "out"]);
    let bytes = work.read("out/adapter_model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut values =
        bytes[8 + length..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
    assert!(values.all(f32::is_finite));
    assert!(work.path("out/tokenizer.json").exists(), "without it the rows are of unknown tokens");
}
