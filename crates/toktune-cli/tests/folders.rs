//! What model folders bring that a user must be told.

mod common;
use common::Work;
use serde_json::{Value, json};

/// Changes a key of the model's configuration.
fn configure(work: &Work, key: &str, value: Value) {
    let mut config = work.read_json("model/config.json");
    config[key] = value;
    work.write("model/config.json", config.to_string());
}

#[test]
fn a_head_that_is_tied_by_name_and_differs_in_the_file_is_told() {
    let work = Work::with("llama_untied");
    configure(&work, "tie_word_embeddings", json!(true));
    let told = work.train(&["--token", "w7", "--max-steps", "1"]).ok();
    assert!(told.err.contains("set `tie_word_embeddings` to false"), "{}", told.err);
    let work = Work::with("llama_untied");
    configure(&work, "tie_word_embeddings", json!(false));
    let told = work.train(&["--token", "w7", "--max-steps", "1"]).ok();
    assert!(!told.err.contains("tie_word_embeddings"), "{}", told.err);
}

#[test]
fn an_adapter_that_peft_cannot_open_is_told_before_training() {
    let work = Work::with("bart");
    let train = |target: &str, output: &str| {
        let usual =
            ["train", "--model", "model", "--data", "ids.jsonl", "--max-steps", "1", "--add-token", "<calc>"];
        work.call(&[&usual[..], &["--target-modules", target, "--output", output]].concat()).ok()
    };
    let told = train("encoder.embed_tokens", "one");
    assert!(told.err.contains("PEFT cannot open this adapter"), "{}", told.err);
    assert!(!told.out.contains("AutoPeftModel"), "{}", told.out);
    let told = train("shared", "both");
    assert!(!told.err.contains("PEFT cannot open"), "{}", told.err);
    assert!(told.out.contains("AutoPeftModelForSeq2SeqLM"), "{}", told.out);
}

#[test]
fn the_pooling_of_a_sentence_encoder_is_shown_and_its_folders_are_merged() {
    let work = Work::with("bert_pairs");
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]);
    work.write("model/modules.json", modules.to_string());
    std::fs::create_dir(work.path("model/1_Pooling")).expect("made");
    let size = work.read_json("model/config.json")["hidden_size"].clone();
    let pooling = json!({"word_embedding_dimension": size, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false});
    work.write("model/1_Pooling/config.json", pooling.to_string());
    let shown = work.call(&["inspect", "model", "--log-format", "json"]).ok();
    assert_eq!(shown.json()[0]["pooling"]["modes"], json!(["cls"]), "{}", shown.out);
    let usual = ["train", "--model", "model", "--data", "ids.jsonl", "--output", "out", "--max-steps", "1"];
    work.call(&[&usual[..], &["--token-ids", "7,8,9,10,11,12", "--allow-unseen"]].concat()).ok();
    work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"]).ok();
    assert_eq!(work.read_json("merged/1_Pooling/config.json"), pooling);
    assert_eq!(work.read_json("merged/modules.json"), modules);
}
