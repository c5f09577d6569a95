//! Choosing tokens through the real program: words, lists, reserved ones, and the command that shows them.

mod common;
use common::Work;
use serde_json::{Value, json};

/// The ids of an adapter.
fn trained(work: &Work, folder: &str) -> Value {
    work.read_json(&format!("{folder}/adapter_config.json"))["token_indices"].clone()
}

const ONE: [&str; 2] = ["--max-steps", "1"];

#[test]
fn a_word_is_found_in_the_data_or_refused() {
    let work = Work::new();
    let called = work.train(&[&["--word", "w7"][..], &ONE].concat()).ok();
    assert!(called.err.contains("--word w7: 'w7' (id 10, 12 times)"), "{}", called.err);
    assert_eq!(trained(&work, "out"), json!([10]));
    // the tokenizer is the base's, and is not the adapter's
    assert!(!work.path("out/tokenizer.json").exists());
    let refused = |word: &str, parts: &[&str]| {
        work.call(&["train", "--model", "model", "--data", "train.jsonl", "--output", "no", "--word", word])
            .fails(2, parts);
    };
    refused("w7x", &["--word 'w7x': it stands nowhere in the data as a word", "near tokens are 'w7"]);
    refused(" ", &["--word ' ': expected a word"]);
    work.write("words.jsonl", r#"{"text": "w1 medical w2 medical"}"#);
    let data = ["--model", "model", "--data", "words.jsonl", "--output", "words", "--word", "medical"];
    let called = work.call(&[&["train"][..], &data, &ONE].concat()).ok();
    assert!(called.err.contains("medical' (id 97, new)"), "{}", called.err);
    assert_eq!(trained(&work, "words"), json!([97]));
    let called = work
        .call(&["tokens", "--model", "model", "--adapter", "words", "w1 medical", "--log-format", "json"])
        .ok();
    let tokens = called.json()[0]["tokens"].clone();
    assert!(
        tokens.as_array().unwrap().iter().any(|token| token["id"] == 97 && token["trained"] == true),
        "{tokens}"
    );
}

#[test]
fn a_list_gives_tokens_with_what_they_mean() {
    let work = Work::new();
    work.write(
        "tokens.toml",
        "[tokens]\n'<calc>' = 'opens a sum'\n'</calc>' = {special = true}\n'w9' = 'known'\n",
    );
    work.train(&[&["--tokens", "tokens.toml"][..], &ONE].concat()).ok();
    assert_eq!(trained(&work, "out"), json!([97, 98, 12]));
    let card = String::from_utf8(work.read("out/README.md")).expect("text");
    assert!(
        card.contains("| id | token | meaning |") && card.contains("| 98 | `<calc>` | opens a sum |"),
        "{card}"
    );
    let work = Work::new();
    let many: String = (0..3000).map(|number| format!("<tool_{number}>\n")).collect();
    work.write("many.txt", many + "<calc>\n");
    let called = work.train(&[&["--tokens", "many.txt"][..], &ONE].concat()).ok();
    assert_eq!(trained(&work, "out").as_array().map(Vec::len), Some(3001));
    assert!(called.err.contains("2,976 more of the chosen tokens are nowhere in the data"), "{}", called.err);
    let work = Work::new();
    work.write("twice.txt", "<a>\n<a>\n");
    work.train(&["--tokens", "twice.txt"]).fails(1, &["twice.txt", "`<a>`, stands twice"]);
}

#[test]
fn an_existing_token_is_trained_and_the_tokenizer_stays() {
    let work = Work::new();
    let called = work.train(&[&["--add-token", "w7"][..], &ONE].concat()).ok();
    assert!(called.err.contains("'w7' is in the tokenizer already (id 10)"), "{}", called.err);
    assert_eq!(trained(&work, "out"), json!([10]));
    assert!(!work.path("out/tokenizer.json").exists());
}

#[test]
fn reserved_tokens_are_renamed_or_told_to_be_missing() {
    let work = Work::new();
    work.train(&["--add-token", "<calc>", "--use-reserved"]).fails(1, &["has 0 reserved tokens"]);
    work.train(&["--token-ids", "10", "--use-reserved"])
        .fails(2, &["--use-reserved renames reserved tokens"]);
    let mut tokenizer = work.read_json("model/tokenizer.json");
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let id = vocab.shift_remove("w90").expect("a token");
    vocab.insert("<unused3>".into(), id.clone());
    work.write("model/tokenizer.json", tokenizer.to_string());
    work.train(&[&["--add-token", "<calc>", "--use-reserved"][..], &ONE].concat()).ok();
    assert_eq!(trained(&work, "out"), json!([id]));
    let saved = work.read_json("out/tokenizer.json");
    assert_eq!(saved["model"]["vocab"]["<calc>"], id);
    let listed = work.call(&["tokens", "--model", "model"]).ok();
    assert!(listed.out.contains("reserved: 1 token") && listed.out.contains("<unused3>"), "{}", listed.out);
}

#[test]
fn a_token_that_is_not_there_names_its_neighbour() {
    let work = Work::new();
    let mut tokenizer = work.read_json("model/tokenizer.json");
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let id = vocab.shift_remove("w90").expect("a token");
    vocab.insert("W7".into(), id);
    work.write("model/tokenizer.json", tokenizer.to_string());
    work.train(&["--token", "W7"]).fails(1, &["'W7' (id 93)", "'w7' (id 10) is there 12 times"]);
}

#[test]
fn languages_are_for_translation_models() {
    let work = Work::new();
    work.train(&["--token-ids", "10", "--source-lang", "fr"])
        .fails(2, &["--source-lang: the tokenizer", "no languages"]);
}
