//! Tests of the tokenizer, its folder and its stream on tiny vocabularies built here.

use std::fs;

use crate::testing::{byte_level, sentence_piece};
use crate::{AutoTokenizer, GgufTokenizer, NewToken, TokenKind};

fn spelled(tokenizer: &AutoTokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, true).unwrap();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

#[test]
fn added_tokens_get_the_next_ids_and_are_matched_whole() {
    let mut tokenizer = byte_level().build().unwrap();
    let size = tokenizer.vocab_size() as u32;
    let ids = tokenizer.add_tokens(&["<calc>", "th", "<calc>", " x"]).unwrap();
    assert_eq!(ids, [size, 256, size, size + 1]);
    assert_eq!(tokenizer.add_special_tokens(&["<s>", "<calc>"]).unwrap(), [size + 2, size]);
    assert_eq!(tokenizer.vocab_size() as u32, size + 3);
    assert_eq!(spelled(&tokenizer, "a<calc>b x"), ["a", "<calc>", "b", " x"]);
    // `th` is a piece that the vocabulary has: other text is cut as before.
    assert_eq!(spelled(&tokenizer, "the"), ["the"]);
    // Added again as special: from now on special.
    assert!(tokenizer.is_special(size) && tokenizer.is_special(size + 2) && !tokenizer.is_special(size + 1));
    // Added again as ordinary: stays special.
    tokenizer.add_tokens(&["<s>"]).unwrap();
    assert!(tokenizer.is_special(size + 2));
}

#[test]
fn an_added_token_is_found_in_the_middle_of_prefixed_text() {
    // With a normaliser that prepends a space, transformers' flags would look for `▁<calc>` and miss it.
    let mut tokenizer = sentence_piece("llama").build().unwrap();
    tokenizer.add_tokens(&["<calc>"]).unwrap();
    assert_eq!(spelled(&tokenizer, "ab<calc>c"), ["<s>", "▁ab", "<calc>", "▁", "c"]);
    let mut gemma = sentence_piece("gemma").build().unwrap();
    gemma.add_tokens(&["a b"]).unwrap();
    assert_eq!(spelled(&gemma, "ca bc"), ["<s>", "c", "a b", "c"]);
}

#[test]
fn bad_tokens_to_add_are_refused() {
    let mut tokenizer = byte_level().build().unwrap();
    let error = tokenizer.add_tokens(&["x", ""]).unwrap_err().to_string();
    assert!(error.contains("empty token (number 2"), "{error}");
}

/// A folder with a `tokenizer.json` of this vocabulary and these other parts.
fn whole(vocab: &str, parts: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"post_processor":null,{parts},
        "model":{{"type":"BPE","vocab":{vocab},"merges":[]}}}}"#
    );
    fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    dir
}

const PLAIN: &str = r#""added_tokens":[],"pre_tokenizer":null,"decoder":null"#;

#[test]
fn holes_of_a_vocabulary_are_filled_and_rows_counted_by_the_highest_id() {
    let dir = whole(r#"{"a":0,"b":2,"c":5}"#, PLAIN);
    let mut tokenizer = AutoTokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.required_rows()), (3, 6));
    // By its count the crate would give 3, 4, and then 5, which is `c`.
    let ids = tokenizer.add_tokens(&["<x>", "<y>", "a", "<z>", "<v>"]).unwrap();
    assert_eq!(ids, [1, 3, 0, 4, 6]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.required_rows()), (7, 7));
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save_pretrained(saved.path()).unwrap();
    let again = AutoTokenizer::from_pretrained(saved.path()).unwrap();
    assert_eq!(again.encode("a<x>b<v><y>c", false).unwrap(), [0, 1, 2, 6, 3, 5]);
}

#[test]
fn ids_out_of_proportion_and_rules_that_panic_are_errors() {
    for id in ["4294967295", "1000000000", "18446744073709551615"] {
        let dir = whole(&format!(r#"{{"a":0,"b":{id}}}"#), PLAIN);
        let error = AutoTokenizer::from_pretrained(dir.path()).unwrap_err().to_string();
        assert!(error.contains(id) && error.contains("expected ids up to 65540"), "{error}");
    }
    let listed = r#""added_tokens":[{"id":1,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,
        "normalized":false,"special":false}],"pre_tokenizer":null,"decoder":null"#;
    let error =
        AutoTokenizer::from_pretrained(whole(r#"{"a":0,"b":2}"#, listed).path()).unwrap_err().to_string();
    assert!(error.contains("`<x>` is said to be id 1, but the tokenizer gives it id 2"), "{error}");
    let far = listed.replace(r#""id":1,"#, r#""id":1000000000,"#);
    let error =
        AutoTokenizer::from_pretrained(whole(r#"{"a":0,"b":1}"#, &far).path()).unwrap_err().to_string();
    assert!(error.contains("the id 1000000000"), "{error}");
    // an empty pattern, and a frame of tokens that nothing defines
    for rule in [
        r#""pre_tokenizer":{"type":"FixedLength","length":0}"#,
        r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="},"pre_tokenizer":null"#,
    ] {
        let parts = format!(r#""added_tokens":[],"decoder":null,{rule}"#);
        let tokenizer = AutoTokenizer::from_pretrained(whole(r#"{"a":0,"b":1}"#, &parts).path());
        let error = tokenizer.and_then(|tokenizer| tokenizer.encode("ab", true)).unwrap_err().to_string();
        assert!(error.contains("the tokenizer's rules do not fit together"), "{error}");
    }
}

#[test]
fn spellings_of_the_vocabulary_are_understood() {
    let mut tokenizer = byte_level().build().unwrap();
    let ids = tokenizer.add_tokens(&["\u{120}5", "\u{120}the", "é"]).unwrap();
    assert_eq!(tokenizer.encode("a 5 the é", false).unwrap()[1..3], [ids[0], ids[1]]);
    assert_eq!(tokenizer.id_to_token(ids[0]).as_deref(), Some(" 5"));
    assert_eq!(tokenizer.id_to_token(ids[2]).as_deref(), Some("é"));
    assert_eq!(tokenizer.piece_text(ids[1]).as_deref(), Some(" the"));
    let mut gemma = sentence_piece("gemma").build().unwrap();
    let id = gemma.add_tokens(&["\u{2581}xyz"]).unwrap()[0];
    assert!(gemma.encode("a xyz", false).unwrap().contains(&id));
}

#[test]
fn tokens_have_a_twin_with_the_space() {
    for (tokenizer, bare, spaced) in
        [(byte_level(), "the", "\u{120}the"), (sentence_piece("gemma"), "ab", "\u{2581}ab")]
    {
        let tokenizer = tokenizer.build().unwrap();
        let [bare, spaced] = [bare, spaced].map(|token| tokenizer.token_to_id(token).unwrap());
        assert_eq!((tokenizer.space_twin(bare), tokenizer.space_twin(spaced)), (Some(spaced), Some(bare)));
    }
    let tokenizer = byte_level().build().unwrap();
    for alone in ["th", "\u{120}"] {
        assert_eq!(tokenizer.space_twin(tokenizer.token_to_id(alone).unwrap()), None);
    }
}

#[test]
fn reserved_tokens_are_renamed_where_they_stand() {
    let names = ["<|reserved_special_token_1|>", "<|reserved_special_token_0|>", "<calc>"];
    let mut tokenizer = byte_level().build().unwrap();
    let first = tokenizer.add_special_tokens(&names).unwrap()[0];
    tokenizer.config.insert("additional_special_tokens".into(), serde_json::json!([names[0], names[1]]));
    let size = tokenizer.vocab_size();
    assert_eq!(tokenizer.kind(first), Some(TokenKind::Reserved));
    let new = [NewToken::new("<one>"), NewToken::special("<two>"), NewToken::new("<calc>")];
    // by their numbers, and a name that is there keeps its id
    assert_eq!(tokenizer.use_reserved_tokens(&new).unwrap(), [first + 1, first, first + 2]);
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save_pretrained(saved.path()).unwrap();
    let mut again = AutoTokenizer::from_pretrained(saved.path()).unwrap();
    assert_eq!((again.vocab_size(), again.required_rows()), (size, size));
    assert_eq!(spelled(&again, "a<one><two>"), ["a", "<one>", "<two>"]);
    assert!(!again.is_special(first + 1) && again.is_special(first));
    assert_eq!(again.config["additional_special_tokens"], serde_json::json!(["<two>"]));
    let error = again.use_reserved_tokens(&[NewToken::new("<three>")]).unwrap_err().to_string();
    assert!(error.contains("has 0 reserved tokens") && error.contains("and 1 are to be renamed"), "{error}");
    // pieces of a vocabulary that no list names
    let dir = whole(r#"{"a":0,"[unused1]":1,"[unused0]":2,"<unk>":3}"#, PLAIN);
    let mut bert = AutoTokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!(bert.use_reserved_tokens(&new[..1]).unwrap(), [2]);
    assert_eq!(bert.encode("a<one>", false).unwrap(), [0, 2]);
}

#[test]
fn the_post_processor_decides_beside_a_tokenizer_json() {
    for (switches, class) in
        [("true", "LlamaTokenizerFast"), ("false", "GemmaTokenizer"), ("true", "Unknown")]
    {
        let config = format!(
            r#"{{"bos_token": "<think>", "eos_token": "<|end|>", "add_bos_token": {switches}, "add_eos_token": {switches},
            "tokenizer_class": "{class}"}}"#
        );
        let dir = folder(&[("tokenizer_config.json", &config)]);
        let tokenizer = AutoTokenizer::from_pretrained(dir.path()).unwrap();
        assert_eq!(spelled(&tokenizer, "a"), ["a"], "{class}");
    }
    // classes that set their own
    let config = r#"{"cls_token": "<think>", "sep_token": "<|end|>", "tokenizer_class": "RobertaTokenizer"}"#;
    let tokenizer =
        AutoTokenizer::from_pretrained(folder(&[("tokenizer_config.json", config)]).path()).unwrap();
    assert_eq!(spelled(&tokenizer, "a"), ["<think>", "a", "<|end|>"]);
    // without the tokens it cannot
    let config = r#"{"tokenizer_class": "BertTokenizer"}"#;
    let tokenizer =
        AutoTokenizer::from_pretrained(folder(&[("tokenizer_config.json", config)]).path()).unwrap();
    assert_eq!(spelled(&tokenizer, "a"), ["a"]);
}

#[test]
fn near_names_are_found() {
    let mut tokenizer = byte_level().build().unwrap();
    tokenizer.add_tokens(&["<calc>", "<calculator>"]).unwrap();
    assert_eq!(tokenizer.nearest_tokens("<clac>", 1), ["<calc>"]);
    assert!(
        tokenizer.nearest_tokens("Ġthe", 3).contains(&"the".to_owned())
            || tokenizer.nearest_tokens("the", 3).contains(&"Ġthe".to_owned())
    );
    assert!(tokenizer.nearest_tokens("entirely different", 3).is_empty());
}

#[test]
fn a_saved_folder_gives_the_same_tokenizer() {
    for metadata in [byte_level(), sentence_piece("llama"), sentence_piece("gemma")] {
        let metadata = GgufTokenizer { chat_template: Some("hi".into()), add_bos: Some(true), ..metadata };
        let mut tokenizer = metadata.build().unwrap();
        tokenizer.add_tokens(&["<calc>", " x"]).unwrap();
        let special = tokenizer.add_special_tokens(&["<mark>"]).unwrap();
        tokenizer.templates.insert("tool_use".to_owned(), "tools".to_owned());
        tokenizer.templates.insert("../out".to_owned(), "must not be written".to_owned());
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("saved");
        tokenizer.save_pretrained(&folder).unwrap();
        assert!(!folder.join("added_tokens.json").exists() && !dir.path().join("out.jinja").exists());
        let again = AutoTokenizer::from_pretrained(&folder).unwrap();
        for text in ["the ab<calc> x", "a<mark>b", "é<turn><think>"] {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(again.encode(text, true).unwrap(), ids);
            assert_eq!(again.decode(&ids, true).unwrap(), tokenizer.decode(&ids, true).unwrap());
        }
        assert!(again.is_special(special[0]));
        assert_eq!(again.vocab_size(), tokenizer.vocab_size());
        assert_eq!(again.bos_token_id(), tokenizer.bos_token_id());
        assert_eq!((again.pad_token(), again.unk_token()), (tokenizer.pad_token(), tokenizer.unk_token()));
        assert_eq!(again.chat_template(), Some("hi"));
        assert_eq!(again.chat_templates()["tool_use"], "tools");
        // Nothing temporary is left.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
    }
}

/// A folder with a tiny tokenizer and the given further files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    byte_level().build().unwrap().save_pretrained(dir.path()).unwrap();
    fs::remove_file(dir.path().join("special_tokens_map.json")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn a_transformers_folder_is_read_with_all_that_lies_around() {
    let config = r#"{"eos_token": {"content": "<|end|>", "special": true}, "pad_token": null, "other": [1],
        "model_max_length": 1000000000000000019884624838656, "add_bos_token": true,
        "added_tokens_decoder": {"264": {"content": "<new>", "special": true}, "261": {"content": "<|end|>"}},
        "chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]}"#;
    let map = r#"{"bos_token": "<think>", "eos_token": "the map is older"}"#;
    let dir = folder(&[
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", map),
        ("generation_config.json", r#"{"eos_token_id": [261, 5]}"#),
    ]);
    let mut tokenizer = AutoTokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!((tokenizer.eos_token(), tokenizer.bos_token()), (Some("<|end|>"), Some("<think>")));
    assert_eq!(tokenizer.token_to_id("<new>"), Some(264));
    assert_eq!(spelled(&tokenizer, "a"), ["a"]);
    assert_eq!(tokenizer.eos_token_ids(), [261, 5]);
    assert_eq!((tokenizer.chat_template(), tokenizer.chat_templates()["rag"].as_str()), (Some("D"), "R"));
    tokenizer.add_tokens(&["<calc>"]).unwrap();

    let saved = tempfile::tempdir().unwrap();
    tokenizer.save_pretrained(saved.path()).unwrap();
    let text = fs::read_to_string(saved.path().join("tokenizer_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["other"][0], 1);
    assert_eq!(config["eos_token"]["content"], "<|end|>");
    assert_eq!(config["added_tokens_decoder"]["265"]["content"], "<calc>");
    assert!(config.get("model_max_length").is_none() && config.get("chat_template").is_none());
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
}

#[test]
fn faults_of_a_folder_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = AutoTokenizer::from_pretrained(empty.path()).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json, and no vocabulary file"), "{error}");
    let listed = r#"{"added_tokens_decoder": {"7": {"content": "the"}}}"#;
    let beyond = r#"{"added_tokens_decoder": {"999": {"content": "<new>"}}}"#;
    let cases = [
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer_config.json", "{", "not a JSON object"),
        ("tokenizer_config.json", "[1]", "found [1]"),
        ("tokenizer_config.json", r#"{"eos_token": 3}"#, "field `eos_token` is 3, expected a string"),
        ("tokenizer_config.json", r#"{"add_bos_token": 3}"#, "field `add_bos_token` is 3"),
        ("tokenizer_config.json", r#"{"chat_template": 3}"#, "field `chat_template` is 3"),
        ("tokenizer_config.json", listed, "`the` is said to be id 7, but the tokenizer gives it id 257"),
        ("tokenizer_config.json", beyond, "`<new>` is said to be id 999, but the tokenizer gives it id 264"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": []}"#, "expected an object"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {}}}"#, "added_tokens_decoder.x"),
        ("generation_config.json", r#"{"eos_token_id": -1}"#, "field `eos_token_id` is -1"),
    ];
    for (name, text, expected) in cases {
        let dir = folder(&[(name, text)]);
        let error = AutoTokenizer::from_pretrained(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(name), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn truncation_in_the_file_does_not_cut_texts() {
    let dir = folder(&[]);
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    );
    fs::write(&path, json.to_string()).unwrap();
    let tokenizer = AutoTokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("a b c", false).unwrap().len(), 5);
}

#[test]
fn a_stream_never_tears_a_character_and_loses_nothing() {
    for tokenizer in [byte_level(), sentence_piece("llama"), sentence_piece("gemma")] {
        let tokenizer = tokenizer.build().unwrap();
        for text in ["the é\u{1f600} the", "a<turn> ab\u{1f600}\u{1f600}", "\u{1f600}"] {
            let mut stream = tokenizer.decode_stream(true);
            let mut pieces = Vec::new();
            let ids = tokenizer.encode(text, false).unwrap();
            for id in &ids {
                pieces.extend(stream.push(*id).unwrap());
            }
            assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
            assert_eq!(stream.finish().unwrap(), None);
            assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap());
        }
    }
}

#[test]
fn a_stream_gives_broken_bytes_out_in_the_end() {
    let tokenizer = byte_level().build().unwrap();
    let first = tokenizer.encode("\u{1f600}", false).unwrap()[0];
    let mut stream = tokenizer.decode_stream(false);
    assert_eq!(stream.push(first).unwrap(), None);
    assert_eq!(stream.finish().unwrap().as_deref(), Some("\u{fffd}"));
    let mut stream = tokenizer.decode_stream(false);
    let given = (0..100).filter_map(|_| stream.push(first).unwrap()).count();
    assert!(given > 3, "broken bytes must not be held for ever");
}
