//! LoRA, whole embeddings and `--resize` on the command line.

mod common;
use common::Work;
use serde_json::json;

const LORA: [&str; 8] = [
    "--lora-r",
    "4",
    "--lora-alpha",
    "8",
    "--lora-target-modules",
    "all-linear",
    "--lora-learning-rate",
    "0.01",
];

/// A workplace with an adapter of added tokens and LoRA in `out`.
fn trained(fixture: &str) -> Work {
    let work = Work::with(fixture);
    let tokens = ["--add-token", "<calc>", "--add-token", "</calc>", "--num-epochs", "6"];
    work.train(&[&LORA[..], &tokens[..]].concat()).ok();
    work
}

#[test]
fn tokens_and_updates_are_trained_evaluated_merged_and_inspected() {
    for fixture in ["llama_tied", "llama_untied"] {
        let work = trained(fixture);
        let config = work.read_json("out/adapter_config.json");
        assert_eq!(
            (&config["peft_type"], &config["r"], &config["lora_alpha"]),
            (&json!("LORA"), &json!(4), &json!(8))
        );
        let eval = |model: &str, more: &[&str]| {
            let usual = ["eval", "--model", model, "--data", "train.jsonl", "--log-format", "json"];
            work.call(&[&usual[..], more].concat()).ok().json()[0].clone()
        };
        let adapted = eval("model", &["--adapter", "out", "--compare-base"]);
        let loss = |value: &serde_json::Value| value["loss"].as_f64().expect("a loss");
        assert!(loss(&adapted) < loss(&adapted["base"]) - 0.3, "{adapted}");
        work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"]).ok();
        assert!((loss(&eval("merged", &[])) - loss(&adapted)).abs() < 1e-4 * loss(&adapted));
        let told = work.call(&["inspect", "out"]).ok().out;
        for part in ["LoRA and trained tokens, r 4, alpha 8", "<calc>", "norm", "in the folder"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let json = &work.call(&["inspect", "out", "--log-format", "json"]).ok().json()[0];
        assert_eq!((&json["peft_type"], &json["r"]), (&json!("LORA"), &json!(4)));
        let generate = ["generate", "--model", "model", "--adapter", "out", "--prompt", "w10 w20 w30"];
        work.call(&[&generate[..], &["--max-new-tokens", "8"]].concat()).ok();
        // on from the adapter
        let usual = ["train", "--model", "model", "--data", "train.jsonl", "--output", "more"];
        work.call(&[&usual[..], &["--adapter", "out", "--max-steps", "2"]].concat()).ok();
        assert_eq!(work.read_json("more/adapter_config.json")["r"], 4);
    }
}

#[test]
fn updates_can_be_trained_without_tokens() {
    let work = Work::new();
    let flags = ["--lora-r", "2", "--max-steps", "2", "--lora-dropout", "0.1", "--cache-constants", "RAM"];
    let told = work.train(&flags).ok();
    assert!(told.err.contains("--cache-constants keeps nothing"), "{}", told.err);
    let card = String::from_utf8(work.read("out/README.md")).expect("text");
    for part in ["- lora", "LoRA (r 2, alpha 8) on 4 of its linear layers", "learning rate of LoRA"] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(told.out.contains("LoRA: 4 layers, r 2, alpha 8"), "{}", told.out);
    let config = work.read_json("out/adapter_config.json");
    assert_eq!((&config["trainable_token_indices"], &config["lora_dropout"]), (&json!(null), &json!(0.1)));
}

#[test]
fn a_configuration_file_holds_the_same() {
    let work = Work::new();
    work.write("run.toml", "lora-r = 3\nlora-target-modules = 'v_proj'\ntoken = 'w7'\nmax-steps = 1\n");
    work.train(&["--config", "run.toml"]).ok();
    let config = work.read_json("out/adapter_config.json");
    assert_eq!((&config["r"], &config["target_modules"]), (&json!(3), &json!(["v_proj"])));
}

#[test]
fn whole_embeddings_are_stored_when_asked_for() {
    // the committed model has padding rows, which the two tokens fill: four more make it grow
    let tokens = ["<a>", "<b>", "<calc>", "</calc>", "<e>", "<f>"];
    let work = Work::new();
    let added: Vec<&str> = tokens.iter().flat_map(|token| ["--add-token", *token]).collect();
    let train = |output: &str, more: &[&str]| {
        let usual = [
            "train",
            "--model",
            "model",
            "--data",
            "train.jsonl",
            "--max-steps",
            "2",
            "--allow-unseen",
            "--output",
            output,
        ];
        work.call(&[&usual[..], &added, more].concat()).ok();
        work.read(&format!("{output}/adapter_model.safetensors")).len()
    };
    let (no, auto) = (train("no", &[]), train("auto", &["--save-embedding-layers", "auto"]));
    assert!(auto > no + 2 * 103 * 32 * 4, "{no} and {auto}");
    assert_eq!(train("yes", &["--save-embedding-layers", "yes"]), auto);
    let eval = |adapter: &str, more: &[&str]| {
        let usual =
            ["eval", "--model", "model", "--data", "ids.jsonl", "--log-format", "json", "--adapter", adapter];
        work.call(&[&usual[..], more].concat())
    };
    let loss =
        |adapter: &str, more: &[&str]| eval(adapter, more).ok().json()[0]["loss"].as_f64().expect("a loss");
    let expected = loss("no", &[]);
    for adapter in ["no", "auto"] {
        // without the tokenizer nothing tells how many rows there were
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::remove_file(work.path(&format!("{adapter}/{name}"))).expect("removed");
        }
    }
    eval("no", &[]).fails(1, &["token 101", "model.embed_tokens has 101 rows", "--resize"]);
    assert_eq!(loss("no", &["--resize", "103"]), expected);
    assert_eq!(loss("auto", &[]), expected);
    let merge = ["merge", "--model", "model", "--adapter", "no", "--output", "merged"];
    work.call(&merge).fails(1, &["--resize"]);
    work.call(&[&merge[..], &["--resize", "103"]].concat()).ok();
    work.call(&[&merge[..], &["--resize", "99999999999"]].concat()).fails(2, &["--resize: expected at most"]);
}

#[test]
fn a_tied_head_alone_is_trained_with_a_warning() {
    let work = Work::new();
    let told = work.train(&["--token", "w7", "--target-modules", "lm_head", "--max-steps", "2"]).ok();
    assert!(told.err.contains("cannot be merged"), "{}", told.err);
    work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"])
        .fails(1, &["one matrix with model.embed_tokens"]);
}
