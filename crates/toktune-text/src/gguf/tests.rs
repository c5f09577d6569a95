mod patches;

use super::*;
use crate::testing::{byte_level, sentence_piece};

fn spelled(tokenizer: &AutoTokenizer, text: &str, special: bool) -> Vec<String> {
    let ids = tokenizer.encode(text, special).unwrap();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

fn fault(metadata: GgufTokenizer) -> TextError {
    match metadata.build() {
        Err(error) => error,
        Ok(_) => panic!("built without an error"),
    }
}

#[test]
fn byte_level_text_is_cut_by_rule_and_merges() {
    let tokenizer = byte_level().build().unwrap();
    assert_eq!(spelled(&tokenizer, "the the12", false), ["the", "Ġthe", "1", "2"]);
    let gpt2 = GgufTokenizer { pre: None, ..byte_level() }.build().unwrap();
    assert_eq!(spelled(&gpt2, "the the12", false), ["the", "Ġthe", "12"]);
    assert_eq!(spelled(&gpt2, "é", false), ["Ã", "©"]);
    for text in ["the the12", "é\u{1f600} \n\t x", "<think>a<|end|>", "two words"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn whole_tokens_are_matched_whole_and_only_control_tokens_are_special() {
    let tokenizer = byte_level().build().unwrap();
    assert_eq!(spelled(&tokenizer, "a<think>b<|end|>", false), ["a", "<think>", "b", "<|end|>"]);
    // Spelled outside the alphabet of bytes, and still matched.
    assert_eq!(spelled(&tokenizer, "two words", false), ["two words"]);
    let ids = tokenizer.encode("a<think>b<|end|>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a<think>b");
    assert!(tokenizer.is_special(ids[3]) && !tokenizer.is_special(ids[1]));
}

#[test]
fn a_normal_token_in_plain_text_is_respelled_in_letters_of_bytes() {
    let mut metadata = byte_level();
    metadata.tokens.push("a b".to_owned());
    metadata.token_types.push(1);
    let tokenizer = metadata.build().unwrap();
    assert!(tokenizer.token_to_id("aĠb").is_some() && tokenizer.token_to_id("a b").is_none());
}

#[test]
fn bos_and_eos_follow_the_switches() {
    let plain = byte_level().build().unwrap();
    assert_eq!(spelled(&plain, "a", true), ["a"]);
    let both = GgufTokenizer { add_bos: Some(true), add_eos: Some(true), ..byte_level() };
    assert_eq!(spelled(&both.build().unwrap(), "a", true), ["<|end|>", "a", "<|end|>"]);
    let llama3 = GgufTokenizer { pre: Some("llama-bpe".to_owned()), ..byte_level() };
    assert_eq!(spelled(&llama3.build().unwrap(), "a", true), ["<|end|>", "a"]);
    // SentencePiece kinds put bos in front unless the file says no.
    assert_eq!(spelled(&sentence_piece("gemma").build().unwrap(), "a", true), ["<s>", "a"]);
    let off = GgufTokenizer { add_bos: Some(false), ..sentence_piece("gemma") };
    assert_eq!(spelled(&off.build().unwrap(), "a", true), ["a"]);
}

#[test]
fn sentence_piece_text_is_merged_by_rank_with_bytes_as_last_resort() {
    let llama = sentence_piece("llama").build().unwrap();
    assert_eq!(spelled(&llama, "abc é", false), ["▁ab", "c", "▁", "é"]);
    assert_eq!(spelled(&llama, "aß", false), ["▁a", "<0xC3>", "<0x9F>"]);
    // A piece after a whole token gets its space too, as in llama.cpp.
    assert_eq!(spelled(&llama, "a<turn>a", false), ["▁a", "<turn>", "▁a"]);
    for text in ["abc é", "aß\u{1f600}", "a\nb"] {
        assert_eq!(llama.decode(&llama.encode(text, false).unwrap(), false).unwrap(), text);
    }
    let bare = GgufTokenizer { add_space_prefix: Some(false), ..sentence_piece("llama") }.build().unwrap();
    assert_eq!(spelled(&bare, "abc", false), ["abc"]);
}

#[test]
fn gemma_reaches_several_spaces_by_merges_and_ignores_scores() {
    let mut metadata = sentence_piece("gemma3");
    // Scores that would make `▁`, `abc` by merging `bc` first.
    metadata.scores = (0..metadata.tokens.len()).map(|id| id as f32).collect();
    let gemma = metadata.build().unwrap();
    assert_eq!(spelled(&gemma, " abc", false), ["▁ab", "c"]);
    assert_eq!(spelled(&gemma, "a  b", false), ["a", "▁▁", "b"]);
    assert_eq!(gemma.decode(&gemma.encode(" a  b", false).unwrap(), false).unwrap(), " a  b");
    assert!(gemma.token_to_id("  ").is_none());
    // Elsewhere such a token is matched whole.
    assert_eq!(spelled(&sentence_piece("llama").build().unwrap(), "a  b", false), ["▁a", "  ", "▁", "b"]);
}

#[test]
fn every_fault_of_the_metadata_is_named() {
    let cases: Vec<(GgufTokenizer, &str)> = vec![
        (
            GgufTokenizer { model: "t5".into(), ..byte_level() },
            "tokenizer.ggml.model is `t5`; supported: gpt2, llama",
        ),
        (GgufTokenizer { pre: Some("smolm".into()), ..byte_level() }, "did you mean `smollm`?"),
        (GgufTokenizer { tokens: vec![], ..byte_level() }, "tokens is empty"),
        (GgufTokenizer { merges: vec![], ..byte_level() }, "merges is empty"),
        (GgufTokenizer { token_types: vec![1], ..byte_level() }, "token_type has 1 entries, expected 264"),
        (GgufTokenizer { scores: vec![0.0; 3], ..sentence_piece("llama") }, "scores has 3 entries"),
        (
            GgufTokenizer { bos_id: Some(9999), ..byte_level() },
            "bos_token_id is 9999, but the vocabulary has 264",
        ),
        (GgufTokenizer { eot_id: Some(264), ..byte_level() }, "eot_token_id is 264"),
        (GgufTokenizer { token_types: vec![7; 264], ..byte_level() }, "token 0 (`Ā`) has type 7"),
        (GgufTokenizer { merges: vec!["t q".into()], ..byte_level() }, "`tq` is not a token"),
    ];
    for (metadata, expected) in cases {
        let error = fault(metadata).to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    let mut twice = byte_level();
    twice.tokens[260] = "th".to_owned();
    assert!(fault(twice).to_string().contains("tokens 256 and 260 are both spelled `th`"));
}

#[test]
fn the_chat_template_and_stop_ids_come_along() {
    let metadata = GgufTokenizer { chat_template: Some("{{ x }}".into()), eot_id: Some(262), ..byte_level() };
    let tokenizer = metadata.build().unwrap();
    assert_eq!(tokenizer.chat_template(), Some("{{ x }}"));
    assert_eq!(tokenizer.eos_token_ids(), [261, 262]);
    assert_eq!(tokenizer.eos_token(), Some("<|end|>"));
}
