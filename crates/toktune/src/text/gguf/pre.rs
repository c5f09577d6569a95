//! llama.cpp's names for the rules that split text before byte-level merges, and what they stand for.
//!
//! The name comes from `tokenizer.ggml.pre`. Where llama.cpp and transformers' GGUF import disagree
//! (`smollm`, whose digits stand alone), the rule here is llama.cpp's, because that is what the model was
//! trained with.

use tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::super::TextError;
use crate::error::nearest;

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// One way to split.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// GPT-2's expression.
    Gpt2,
    /// Every digit alone, then GPT-2's expression.
    DigitsGpt2,
    /// An expression of its own.
    Regex(&'static str),
}

/// A family of names.
struct Family {
    names: &'static [&'static str],
    rule: Rule,
    /// A word that is a token as it stands is not built from merges.
    ignore_merges: bool,
    /// `bos` is put in front unless the file says otherwise.
    add_bos: bool,
}

const fn family(names: &'static [&'static str], rule: Rule) -> Family {
    Family { names, rule, ignore_merges: false, add_bos: false }
}

static FAMILIES: &[Family] = &[
    family(&["default", "gpt-2", "gpt2", "phi-2", "mellum", "modern-bert", "roberta-bpe"], Rule::Gpt2),
    family(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        Rule::DigitsGpt2,
    ),
    Family {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        rule: Rule::Regex(LLAMA3),
        ignore_merges: true,
        add_bos: true,
    },
    family(&["dbrx", "smaug-bpe"], Rule::Regex(LLAMA3)),
    Family { names: &["tekken"], rule: Rule::Regex(TEKKEN), ignore_merges: true, add_bos: true },
    family(&["qwen2", "stablelm2", "deepseek-r1-qwen", "kormo", "megrez", "f2llmv2"], Rule::Regex(QWEN2)),
    family(&["qwen35"], Rule::Regex(QWEN35)),
    family(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], Rule::Regex(GPT4O)),
];

/// What a pre-tokenizer's name asks for.
pub(super) struct PreTokenizer {
    /// The splitter, the mapping of bytes to letters included.
    pub(super) splitter: PreTokenizerWrapper,
    /// See [`Family::ignore_merges`].
    pub(super) ignore_merges: bool,
    /// See [`Family::add_bos`].
    pub(super) add_bos: bool,
}

/// Looks a name up; a file without one means `default`.
pub(super) fn pre_tokenizer(name: Option<&str>) -> Result<PreTokenizer, TextError> {
    let name = name.unwrap_or("default");
    let Some(family) = FAMILIES.iter().find(|family| family.names.contains(&name)) else {
        let names: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        return Err(TextError::GgufPreTokenizer {
            found: name.to_owned(),
            nearest: nearest(name, names.iter().copied()).map(str::to_owned),
            supported: names.join(", "),
        });
    };
    let gpt2 = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
    let splitter = match family.rule {
        Rule::Gpt2 => gpt2,
        Rule::DigitsGpt2 => PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            gpt2,
        ])),
        Rule::Regex(expression) => {
            let pattern = SplitPattern::Regex(expression.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(TextError::tokenizer("compile the split expression"))?;
            let bytes = ByteLevel::new(false, true, false);
            PreTokenizerWrapper::Sequence(Sequence::new(vec![
                PreTokenizerWrapper::Split(split),
                PreTokenizerWrapper::ByteLevel(bytes),
            ]))
        }
    };
    Ok(PreTokenizer { splitter, ignore_merges: family.ignore_merges, add_bos: family.add_bos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_builds_and_no_name_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for name in FAMILIES.iter().flat_map(|family| family.names) {
            assert!(seen.insert(name), "{name} is listed twice");
            assert!(pre_tokenizer(Some(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_with_a_suggestion() {
        let error = pre_tokenizer(Some("qwen")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`qwen`") && error.contains("did you mean `qwen2`?"), "{error}");
    }
}
