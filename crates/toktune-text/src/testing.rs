//! Small tokenizers, for tests.

use crate::spelling::byte_letters;
use crate::{AutoTokenizer, GgufTokenizer};

/// A byte-level vocabulary: every byte's letter, a few merged pieces, two whole tokens.
pub fn byte_level() -> GgufTokenizer {
    let mut tokens: Vec<String> = byte_letters().iter().map(char::to_string).collect();
    let pieces = ["th", "the", "Ġthe", "12", "ab"];
    tokens.extend(pieces.map(str::to_owned));
    tokens.extend(["<|end|>", "<think>", "two words"].map(str::to_owned));
    let mut token_types = vec![1; tokens.len()];
    let count = tokens.len();
    token_types[count - 3] = 3;
    token_types[count - 2] = 4;
    token_types[count - 1] = 4;
    GgufTokenizer {
        architecture: "llama".to_owned(),
        model: "gpt2".to_owned(),
        pre: Some("smollm".to_owned()),
        merges: ["t h", "th e", "Ġ the", "1 2", "a b"].map(str::to_owned).to_vec(),
        token_types,
        bos_id: Some(count as u32 - 3),
        eos_id: Some(count as u32 - 3),
        tokens,
        ..Default::default()
    }
}

/// A SentencePiece-like vocabulary with all bytes, scores that fall with the id, and no merges.
pub fn sentence_piece(architecture: &str) -> GgufTokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut token_types = vec![2, 3, 3];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    token_types.extend([6; 256]);
    let pieces = ["▁", "a", "b", "c", "é", "ab", "▁a", "▁ab", "bc", "abc", "\n"];
    tokens.extend(pieces.map(str::to_owned));
    token_types.extend([1; 11]);
    tokens.extend(["  ", "<turn>"].map(str::to_owned));
    token_types.extend([4, 4]);
    GgufTokenizer {
        architecture: architecture.to_owned(),
        model: "llama".to_owned(),
        scores: (0..tokens.len()).map(|id| -(id as f32)).collect(),
        tokens,
        token_types,
        bos_id: Some(1),
        eos_id: Some(2),
        unk_id: Some(0),
        ..Default::default()
    }
}

/// Gives a token of the vocabulary one of transformers' names, as `mask_token`.
pub fn name_token(tokenizer: &mut AutoTokenizer, name: &str, token: &str) {
    tokenizer.special.set(name, token);
}
