//! `toktune export`: every form from one adapter, and what each says.

mod common;

use common::{TOKENS, Work};

/// An adapter for two added tokens, one of them special.
fn trained(fixture: &str) -> Work {
    let work = Work::with(fixture);
    let tokens = ["--add-token", "<calc>", "--add-special-token", "</calc>", "--learning-rate", "0.1"];
    work.train(&[&tokens[..], &["--max-steps", "3"]].concat()).ok();
    work
}

fn export<'a>(form: &'a str, output: &'a str) -> [&'a str; 9] {
    ["export", "--model", "model", "--adapter", "out", "--to", form, "--output", output]
}

#[test]
fn peft_is_the_default_and_takes_checkpoints() {
    let work = trained("llama_tied");
    let told = work.call(&["export", "--model", "model", "--adapter", "out", "--output", "small"]).ok();
    assert!(told.out.starts_with("2 tokens as PEFT's files in small ("), "{}", told.out);
    assert_eq!(work.read("small/adapter_model.safetensors"), work.read("out/adapter_model.safetensors"));
    assert_eq!(work.read("small/tokenizer.json"), work.read("out/tokenizer.json"));
    let checkpoint = ["export", "--model", "model", "--adapter", "out/checkpoint-3", "--output", "other"];
    work.call(&checkpoint).ok();
    assert_eq!(work.read("other/adapter_model.safetensors"), work.read("out/adapter_model.safetensors"));
    work.call(&checkpoint).fails(2, &["--output: other", "expected a new or empty folder"]);
    // a resized base has whole matrices to store
    let whole = [&checkpoint[..6], &["whole", "--save-embedding-layers", "yes"]].concat();
    let whole: Vec<&str> = whole.iter().map(|a| if *a == "--output" { "--output" } else { a }).collect();
    work.call(&whole).ok();
    assert!(work.read("whole/adapter_model.safetensors").len() > 2 * 101 * 32 * 4);
}

#[test]
fn lora_onehot_says_its_rank_and_how_many_rows_it_needs() {
    let work = trained("llama_untied");
    let told = work.call(&export("lora-onehot", "served")).ok();
    assert!(told.out.starts_with("2 tokens as LoRA of rank 2 in served ("), "{}", told.out);
    // the untied model has a row for each token of its tokenizer and none to spare
    let rows = TOKENS + 2;
    for part in [
        "rank 2: servers cap",
        &format!("the base has {TOKENS} rows"),
        &format!("resize_token_embeddings({rows})"),
        "give it the merged model",
    ] {
        assert!(told.err.contains(part), "{part}: {}", told.err);
    }
    let config = work.read_json("served/adapter_config.json");
    assert_eq!(
        (&config["peft_type"], &config["r"], &config["lora_alpha"]),
        (&"LORA".into(), &2.into(), &2.into())
    );
    assert!(work.path("served/tokenizer.json").exists());
    // rows of padding need no resize
    let work = trained("llama_tied");
    let told = work.call(&export("lora-onehot", "served")).ok();
    assert!(told.err.contains("cannot merge it") && !told.err.contains("rows"), "{}", told.err);
}

#[test]
fn forms_that_a_model_cannot_have_are_unusable_arguments() {
    let work = trained("llama_tied");
    work.call(&export("gguf", "model.gguf")).fails(2, &["model", "is no GGUF file"]);
    work.call(&export("gguf-lora", "lora.gguf")).fails(2, &["is no GGUF file"]);
    work.call(&export("onnx", "x")).fails(2, &["peft"]);
    work.call(&["export", "--model", "model", "--adapter", "model", "--output", "x"])
        .fails(1, &["adapter_config.json"]);
    for name in ["model.gguf", "lora.gguf", "x"] {
        assert!(!work.path(name).exists(), "{name}");
    }
}
