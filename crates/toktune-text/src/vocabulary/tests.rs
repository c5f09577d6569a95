//! Tests of vocabulary files against transformers, and of their faults.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::AutoTokenizer;

/// Made by `tools/fixtures/make_vocabulary_cases.py`.
fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/vocabulary/testdata")
}

/// The folder of a case.
fn folder(case: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, source) in case["files"].as_object().unwrap() {
        fs::copy(testdata().join(source.as_str().unwrap()), dir.path().join(name)).unwrap();
    }
    let write = |name: &str, value: &Value| fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("config.json", &json!({"model_type": case["model_type"]}));
    write("tokenizer_config.json", &case["config"]);
    for (name, value) in case["other"].as_object().unwrap() {
        write(name, value);
    }
    dir
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_class_gives_the_ids_of_transformers_and_so_does_its_saved_folder() {
    let cases: Value = serde_json::from_slice(&fs::read(testdata().join("cases.json")).unwrap()).unwrap();
    let mut faults = Vec::new();
    for case in cases.as_array().unwrap() {
        let name = &case["name"];
        let dir = folder(case);
        let tokenizer = match AutoTokenizer::from_pretrained(dir.path()) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                faults.push(format!("{name}: {error}"));
                continue;
            }
        };
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save_pretrained(saved.path()).unwrap();
        let again = AutoTokenizer::from_pretrained(saved.path()).unwrap();
        for row in case["rows"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            for (tokenizer, whose) in [(&tokenizer, ""), (&again, " saved")] {
                for (key, special) in [("ids", true), ("bare", false)] {
                    let found = tokenizer.encode(text, special).unwrap();
                    if found != ids(&row[key]) {
                        faults.push(format!("{name}{whose} {key} {text:?}: {found:?}, not {}", row[key]));
                    }
                }
            }
        }
        if let Some(target) = case.get("target") {
            for mut tokenizer in [tokenizer, again] {
                tokenizer.set_languages(None, target["language"].as_str()).unwrap();
                let found = tokenizer.encode_target("the cat").unwrap();
                if found != Some(ids(&target["ids"])) {
                    faults.push(format!("{name} target: {found:?}, not {}", target["ids"]));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn faults_of_vocabulary_files_are_named() {
    // a message that ends within its own length, one of an unknown wire type, and one whose score is no number
    let long: &[u8] = &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x01];
    let unknown: &[u8] = &[0x0f];
    let nan: &[u8] = &[0x0a, 0x08, 0x0a, 0x01, b'a', 0x15, 0, 0, 0xc0, 0x7f];
    let model = fs::read(testdata().join("unigram.model")).unwrap();
    let cut = &model[..model.len() - 3];
    let cases: Vec<(&str, &str, &[u8], &str)> = vec![
        ("t5", "spiece.model", long, "its fields cannot be read"),
        ("t5", "spiece.model", unknown, "its fields cannot be read"),
        ("t5", "spiece.model", cut, "its fields cannot be read"),
        ("t5", "spiece.model", b"", "it has no pieces"),
        ("t5", "spiece.model", nan, "has the score NaN"),
        ("llama", "tokenizer.model", b"IQ== 0\nIg== 1\n", "not a SentencePiece model"),
        ("gpt2", "vocab.json", b"[1]", "expected an object"),
        ("gpt2", "vocab.json", b"{\"a\": -1}", "token `a` has no id"),
        ("gpt2", "vocab.json", b"{\"a\": 4000000000}", "a token has the id 4000000000"),
        ("bert", "vocab.txt", b"a\nb\n", "no `[UNK]`"),
        ("bert", "vocab.txt", b"\xff\n", "not UTF-8"),
        ("marian", "vocab.json", b"{}", "marian is not built from vocab.json"),
    ];
    for (model_type, name, bytes, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), json!({"model_type": model_type}).to_string()).unwrap();
        fs::write(dir.path().join("merges.txt"), "#version\n").unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
        let error = AutoTokenizer::from_pretrained(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    // CamemBERT's pieces have other ids than those in its model.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "CamembertTokenizer"}"#)
        .unwrap();
    fs::write(dir.path().join("sentencepiece.bpe.model"), &model).unwrap();
    let error = AutoTokenizer::from_pretrained(dir.path()).unwrap_err().to_string();
    assert!(error.contains("CamembertTokenizer is not built from sentencepiece.bpe.model"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    fs::write(dir.path().join("vocab.json"), r#"{"a": 0, "b": 1}"#).unwrap();
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b\n").unwrap();
    let error = AutoTokenizer::from_pretrained(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("merges.txt") && error.contains("line 2: `ab` is not in the vocabulary"),
        "{error}"
    );
}

#[test]
fn languages_decide_how_a_target_begins_and_wrong_ones_are_named() {
    let cases: Value = serde_json::from_slice(&fs::read(testdata().join("cases.json")).unwrap()).unwrap();
    let open = |name: &str| {
        let case = cases.as_array().unwrap().iter().find(|case| case["name"] == name).unwrap();
        AutoTokenizer::from_pretrained(folder(case).path()).unwrap()
    };
    for (name, language, token, starts, forced) in [
        ("mbart", "de_DE", "de_DE", true, false),
        ("mbart50", "de_DE", "de_DE", false, true),
        ("nllb", "fra_Latn", "fra_Latn", false, true),
        ("m2m100", "de", "__de__", false, true),
    ] {
        let mut tokenizer = open(name);
        assert_eq!(
            (tokenizer.forced_bos_token_id(), tokenizer.decoder_start_token_id()),
            (None, None),
            "{name}"
        );
        tokenizer.set_languages(None, Some(language)).unwrap();
        let id = tokenizer.token_to_id(token);
        assert_eq!(tokenizer.forced_bos_token_id() == id, forced, "{name}");
        assert_eq!(tokenizer.decoder_start_token_id() == id, starts, "{name}");
        assert!(tokenizer.languages().contains(&token.to_owned()), "{name}");
    }
    let error = open("mbart").set_languages(Some("fr_XY"), None).unwrap_err().to_string();
    assert!(error.contains("`fr_XY` (did you mean `fr_XX`?); its languages are ar_AR"), "{error}");
    // a word of the vocabulary is no language
    let error = open("nllb").set_languages(None, Some("the")).unwrap_err().to_string();
    assert!(error.contains("no token for the language `the`"), "{error}");
    let error = open("bert").set_languages(None, Some("de")).unwrap_err().to_string();
    assert!(error.contains("has no languages"), "{error}");
}
