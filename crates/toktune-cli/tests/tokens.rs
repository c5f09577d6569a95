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
    // spellings that lie in longer tokens, and those that are in pieces
    work.write("signs.jsonl", r#"{"text": "w7 w7, w8+"}"#);
    let data = ["train", "--model", "model", "--data", "signs.jsonl", "--output", "signs", "--word", "w7"];
    let called = work.call(&[&data[..], &ONE].concat()).ok();
    let warning = "--word w7: ' w7' 1 time in the data, cut into other tokens, which are not trained\n";
    assert!(called.err.contains(warning), "{}", called.err);
    // the same word, or the same token, twice
    let chosen = ["--token", "w7", "--word", "w7", "--word", "W7", "--word", "w8"];
    work.write("both.jsonl", r#"{"text": "w7 w8 W7"}"#);
    let data = ["train", "--model", "model", "--data", "both.jsonl", "--output", "both"];
    let called = work.call(&[&data[..], &chosen, &ONE].concat()).ok();
    assert!(called.err.contains("--word W7: the same word as --word w7"), "{}", called.err);
    assert!(called.err.contains("--word w7: token id 10 is chosen by --token 'w7' too"), "{}", called.err);
    assert_eq!(trained(&work, "both"), json!([10, 11]));
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
        "[tokens]\n'w9' = 'known'\n'<calc>' = 'opens a sum'\n'</calc>' = {special = true}\n",
    );
    work.train(&[&["--tokens", "tokens.toml", "--allow-unseen"][..], &ONE].concat()).ok();
    // in the order of the file
    assert_eq!(trained(&work, "out"), json!([12, 97, 98]));
    let card = String::from_utf8(work.read("out/README.md")).expect("text");
    assert!(
        card.contains("| id | token | meaning |") && card.contains("| 97 | `<calc>` | opens a sum |"),
        "{card}"
    );
    let work = Work::new();
    let many: String = (0..3000).map(|number| format!("<tool_{number}>\n")).collect();
    work.write("many.txt", many + "<calc>\n");
    let called = work.train(&[&["--tokens", "many.txt", "--allow-unseen"][..], &ONE].concat()).ok();
    assert_eq!(trained(&work, "out").as_array().map(Vec::len), Some(3001));
    assert!(called.err.contains("2,976 more of the chosen tokens are never learnt"), "{}", called.err);
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
    work.train(&["--add-token", "<calc>", "--use-reserved"])
        .fails(1, &["has 0 reserved tokens", "leave out --use-reserved: the model grows instead"]);
    work.train(&["--token-ids", "10", "--use-reserved"])
        .fails(2, &["--use-reserved renames reserved tokens"]);
    let mut tokenizer = work.read_json("model/tokenizer.json");
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let id = vocab.shift_remove("w90").expect("a token");
    vocab.insert("<unused3>".into(), id.clone());
    work.write("model/tokenizer.json", tokenizer.to_string());
    let called = work.train(&[&["--add-token", "<calc>", "--use-reserved"][..], &ONE].concat()).ok();
    assert!(called.err.contains("'<calc>' takes the place of '<unused3>' (id 93)"), "{}", called.err);
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
fn a_token_with_its_space_is_understood_and_shown_beside_its_twin() {
    let work = Work::new();
    let mut tokenizer = work.read_json("model/tokenizer.json");
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let id = vocab.shift_remove("w90").expect("a token");
    vocab.insert("▁w7".into(), id);
    tokenizer["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true});
    work.write("model/tokenizer.json", tokenizer.to_string());
    let called = work.train(&[&["--token", " w7"][..], &ONE].concat()).ok();
    assert!(called.err.contains("--token ' w7': the vocabulary spells it '▁w7' (id 93)"), "{}", called.err);
    assert_eq!(trained(&work, "out"), json!([93]));
    // of several tokens, or of another text
    work.call(&["train", "--model", "model", "--data", "train.jsonl", "--output", "no", "--token", " w8"])
        .fails(2, &["--token ' w8': the tokenizer has no"]);
    for (text, which, id) in
        [("w7", "with a space before it", "93"), (" w7", "without the space before it", "10")]
    {
        let shown = work.call(&["tokens", "--model", "model", text]).ok().out;
        assert!(shown.contains(&format!("{which}\n  {id} ")), "{shown}");
    }
    let json = work.call(&["tokens", "--model", "model", "w7", "w8", "--log-format", "json"]).ok().json();
    assert_eq!((&json[0]["space_twin"]["id"], &json[1]["space_twin"]), (&json!(93), &Value::Null));
}

#[test]
fn many_reserved_tokens_are_told_in_one_line() {
    let work = Work::new();
    let mut tokenizer = work.read_json("model/tokenizer.json");
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    for number in 0..40 {
        let id = vocab.shift_remove(&format!("w{}", 54 + number)).expect("a token");
        vocab.insert(format!("<unused{number}>"), id);
    }
    work.write("model/tokenizer.json", tokenizer.to_string());
    work.write("many.txt", (0..40).map(|number| format!("<t{number}>\n")).collect::<String>());
    let called = work.train(&[&["--tokens", "many.txt", "--use-reserved"][..], &ONE].concat()).ok();
    let line = "40 tokens take the places of '<unused0>' (id 57) to '<unused39>' (id 96)";
    assert!(called.err.contains(line) && !called.err.contains("takes the place"), "{}", called.err);
}

#[test]
fn languages_are_for_translation_models() {
    let work = Work::new();
    work.train(&["--token-ids", "10", "--source-lang", "fr"])
        .fails(2, &["--source-lang: the tokenizer", "no languages"]);
}
