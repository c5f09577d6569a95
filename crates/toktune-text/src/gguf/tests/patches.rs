//! Token lists of files for tokenizers with more tokens.

use super::*;
use crate::{NewToken, patch_gguf_tokens};
use std::path::Path;
use toktune_weights::testing::{GgufBytes, array, text};
use toktune_weights::{Bytes, Gguf, GgufPatch, Value, WeightsError};

/// The lists as a file holds them.
fn file(metadata: &GgufTokenizer, with_types: bool) -> Vec<u8> {
    let count = metadata.tokens.len() as u64;
    let list = |texts: &[String]| texts.iter().flat_map(text).collect::<Vec<u8>>();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let mut file = GgufBytes::new()
        .pair("general.architecture", 8, &text(&metadata.architecture))
        .pair(key("model"), 8, &text(&metadata.model))
        .pair(key("tokens"), 9, &array(8, count, &list(&metadata.tokens)))
        .pair(format!("{}.vocab_size", metadata.architecture), 4, &(count as u32).to_le_bytes());
    if let Some(pre) = &metadata.pre {
        file = file.pair(key("pre"), 8, &text(pre));
    }
    if !metadata.merges.is_empty() {
        file = file.pair(key("merges"), 9, &array(8, metadata.merges.len() as u64, &list(&metadata.merges)));
    }
    if !metadata.scores.is_empty() {
        let scores: Vec<u8> = metadata.scores.iter().flat_map(|x| x.to_le_bytes()).collect();
        file = file.pair(key("scores"), 9, &array(6, count, &scores));
    }
    if with_types {
        let types: Vec<u8> = metadata.token_types.iter().flat_map(|x| x.to_le_bytes()).collect();
        file = file.pair(key("token_type"), 9, &array(5, count, &types));
    }
    let ids = [("bos", metadata.bos_id), ("eos", metadata.eos_id), ("unknown", metadata.unk_id)];
    for (name, id) in ids.into_iter().filter_map(|(name, id)| Some((name, id?))) {
        file = file.pair(key(&format!("{name}_token_id")), 4, &id.to_le_bytes());
    }
    let mut bytes = file.build();
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

fn opened(bytes: &[u8]) -> Gguf {
    Gguf::from_bytes(Path::new("m.gguf"), Bytes::owned(bytes.to_vec())).expect("a sound file")
}

/// The file with what the tokenizer has.
fn patched(
    bytes: &[u8],
    tokenizer: &AutoTokenizer,
    trained: &[u32],
    rows: usize,
) -> (Gguf, crate::PatchedTokens) {
    let mut patch = GgufPatch::default();
    let told =
        patch_gguf_tokens(&opened(bytes), Some(tokenizer), trained, rows, &mut patch).expect("patched");
    (opened(&rewritten(bytes, &patch)), told)
}

fn rewritten(bytes: &[u8], patch: &GgufPatch) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let [from, to] = ["from.gguf", "to.gguf"].map(|name| folder.path().join(name));
    std::fs::write(&from, bytes).expect("written");
    Gguf::write_patched(&from, &to, patch).expect("written");
    std::fs::read(&to).expect("read")
}

fn types(gguf: &Gguf) -> Vec<i64> {
    gguf.metadata().require("tokenizer.ggml.token_type").expect("types")
}

#[test]
fn added_tokens_are_in_the_lists_and_cut_as_before() {
    for metadata in [byte_level(), sentence_piece("llama"), sentence_piece("gemma3")] {
        let bytes = file(&metadata, true);
        let mut tokenizer = AutoTokenizer::from_gguf(&opened(&bytes)).expect("a tokenizer");
        let count = metadata.tokens.len();
        let word = NewToken { single_word: true, ..NewToken::new("ab ab") };
        tokenizer
            .add_new_tokens(&[NewToken::new("<calc>"), NewToken::special("<end>"), word])
            .expect("added");
        let (gguf, told) = patched(&bytes, &tokenizer, &[count as u32], count + 4);
        assert_eq!((told.added.len(), told.changed.len()), (3, 0));
        assert_eq!(
            (told.added[0].as_str(), told.single_word.as_slice()),
            ("<calc>", &["ab ab".to_owned()][..])
        );
        assert_eq!(types(&gguf)[count..], [4, 3, 4, 5], "user-defined, control, and a row without a token");
        assert_eq!(
            types(&gguf)[..count],
            metadata.token_types.iter().map(|x| i64::from(*x)).collect::<Vec<_>>()
        );
        let tokens = gguf.metadata().require::<&[String]>("tokenizer.ggml.tokens").expect("tokens");
        assert_eq!((tokens.len(), tokens[count + 3].clone()), (count + 4, format!("[PAD{}]", count + 3)));
        let size = format!("{}.vocab_size", metadata.architecture);
        assert_eq!(gguf.metadata().require::<u32>(&size).expect("a size"), count as u32 + 4);
        if let Some(scores) = gguf.metadata().get::<&[f32]>("tokenizer.ggml.scores").expect("scores") {
            assert_eq!(scores[count..], [-1000.0; 4]);
        }
        let again = AutoTokenizer::from_gguf(&gguf).expect("a tokenizer");
        for text in ["a<calc>b<end>", "<calc>ab ab<calc>", "<calc> <calc>"] {
            assert_eq!(spelled(&again, text, true), spelled(&tokenizer, text, true), "{text}");
        }
    }
}

#[test]
fn a_renamed_token_and_one_that_is_matched_whole_from_now_on_are_changed() {
    let mut metadata = byte_level();
    let count = metadata.tokens.len() as u32;
    metadata.tokens.extend(["<|reserved_special_token_0|>", "<unk_x>"].map(str::to_owned));
    metadata.token_types.extend([3, 1]);
    let bytes = file(&metadata, true);
    let mut tokenizer = AutoTokenizer::from_gguf(&opened(&bytes)).expect("a tokenizer");
    let before = tokenizer.clone();
    assert_eq!(tokenizer.use_reserved_tokens(&[NewToken::new("<calc>")]).expect("renamed"), [count]);
    assert_eq!(tokenizer.add_special_tokens(&["<unk_x>"]).expect("added"), [count + 1]);
    let rows = metadata.tokens.len();
    let (gguf, told) = patched(&bytes, &tokenizer, &[count, count + 1], rows);
    assert_eq!((told.added.len(), told.changed), (0, vec!["<calc>".to_owned(), "<unk_x>".to_owned()]));
    assert_eq!(types(&gguf)[count as usize..], [4, 3]);
    let again = AutoTokenizer::from_gguf(&gguf).expect("a tokenizer");
    assert_eq!(spelled(&again, "a<calc><unk_x>", false), ["a", "<calc>", "<unk_x>"]);
    // a token that is not trained is left as it is
    let (gguf, told) = patched(&bytes, &tokenizer, &[count], rows);
    assert_eq!((told.changed, types(&gguf)[count as usize + 1]), (vec!["<calc>".to_owned()], 1));
    // and so is everything where the tokenizer is the file's
    let mut patch = GgufPatch::default();
    patch_gguf_tokens(&opened(&bytes), Some(&before), &[5], rows, &mut patch).expect("patched");
    assert!(patch.arrays.is_empty() && patch.integers.is_empty() && patch.added.is_empty());
}

#[test]
fn a_turn_that_ends_and_a_chat_template_are_put_into_the_file() {
    for has_both in [false, true] {
        let metadata = sentence_piece("gemma3");
        let count = metadata.tokens.len() as u32;
        let bytes = file(&metadata, true);
        let bytes = match has_both {
            false => bytes,
            true => {
                let mut patch = GgufPatch::default();
                patch.added.insert("tokenizer.chat_template".into(), Value::String("old".into()));
                patch.added.insert("tokenizer.ggml.eot_token_id".into(), Value::U32(3));
                rewritten(&bytes, &patch)
            }
        };
        let mut tokenizer = AutoTokenizer::from_gguf(&opened(&bytes)).expect("a tokenizer");
        let ids = tokenizer.add_special_tokens(&["<|im_start|>", "<|im_end|>"]).expect("added");
        tokenizer.set_chat_template("new");
        tokenizer.add_stop_ids(&ids[1..]);
        let (gguf, told) = patched(&bytes, &tokenizer, &ids, count as usize + 2);
        assert_eq!((told.end_of_turn.as_deref(), told.chat_template), (Some("<|im_end|>"), true));
        let again = AutoTokenizer::from_gguf(&gguf).expect("a tokenizer");
        assert_eq!((again.chat_template(), again.eos_token_ids()), (Some("new"), vec![2, count + 1]));
        // what the file says already is left
        let mut patch = GgufPatch::default();
        let told =
            patch_gguf_tokens(&gguf, Some(&again), &ids, count as usize + 2, &mut patch).expect("patched");
        assert_eq!(told, crate::PatchedTokens::default());
        assert!(patch.integers.is_empty() && patch.texts.is_empty() && patch.added.is_empty());
    }
}

#[test]
fn a_file_without_types_gets_them() {
    let mut metadata = byte_level();
    metadata.token_types.clear();
    let bytes = file(&metadata, false);
    let mut tokenizer = AutoTokenizer::from_gguf(&opened(&bytes)).expect("a tokenizer");
    tokenizer.add_tokens(&["<calc>"]).expect("added");
    let count = metadata.tokens.len();
    let (gguf, _) = patched(&bytes, &tokenizer, &[], count + 1);
    assert_eq!((types(&gguf)[count], types(&gguf)[0]), (4, 1));
    assert_eq!(types(&gguf).len(), count + 1);
}

#[test]
fn another_tokenizer_and_a_file_without_tokens_are_refused() {
    let bytes = file(&sentence_piece("llama"), true);
    let other = byte_level().build().unwrap();
    let mut patch = GgufPatch::default();
    let error = patch_gguf_tokens(&opened(&bytes), Some(&other), &[], 300, &mut patch).expect_err("refused");
    assert!(matches!(error, TextError::OtherTokenizer { .. }), "{error}");
    assert!(error.to_string().contains("in the file it is \"<unk>\""), "{error}");
    let none = GgufBytes::new().pair("general.architecture", 8, &text("llama")).build();
    let error = patch_gguf_tokens(&opened(&none), None, &[], 5, &mut patch).expect_err("refused");
    assert!(matches!(error, TextError::Weights(WeightsError::MissingMetadata { .. })), "{error}");
}
