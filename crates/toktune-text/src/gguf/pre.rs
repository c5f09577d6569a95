//! llama.cpp's names for the rules that split text before byte-level merges, and what they stand for.
//!
//! The name comes from `tokenizer.ggml.pre`. Where llama.cpp and transformers' GGUF import disagree
//! (`smollm`, whose digits stand alone), the rule here is llama.cpp's, because that is what the model was
//! trained with. Where llama.cpp's own differs from the model's tokenizer (`falcon`, whose numbers leave the space
//! before them), it is the tokenizer's.

use tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use crate::TextError;
use toktune_weights::nearest;

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// How Qwen 2's text is split.
pub(crate) const QWEN2: &str = concat!(
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

const BLOOM: &str = " ?[^(\\s|.,!?…。，、।۔،)]+";

/// DeepSeek 3's expressions, which Hunyuan's dense models have too.
const DEEPSEEK3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];

/// One way to split.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// GPT-2's expression.
    Gpt2,
    /// Every digit alone, then GPT-2's expression.
    DigitsGpt2,
    /// Punctuation, GPT-2's expression, numbers without the space before them, then digits by threes.
    Falcon,
    /// An expression of its own.
    Regex(&'static str),
    /// Expressions one after the other, each on what the ones before have left.
    InTurn(&'static [&'static str; 3]),
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
    family(
        &[
            "default",
            "gpt-2",
            "gpt2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "mellum",
            "modern-bert",
            "roberta-bpe",
            "exaone4",
        ],
        Rule::Gpt2,
    ),
    family(&["falcon"], Rule::Falcon),
    family(&["bloom", "gpt3-finnish", "poro-chat"], Rule::Regex(BLOOM)),
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
    family(&["hunyuan-dense", "deepseek-v3"], Rule::InTurn(&DEEPSEEK3)),
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
        Rule::DigitsGpt2 => sequence([PreTokenizerWrapper::Digits(Digits::new(true)), gpt2]),
        Rule::Falcon => sequence([
            PreTokenizerWrapper::Punctuation(Punctuation::new(SplitDelimiterBehavior::Contiguous)),
            gpt2,
            PreTokenizerWrapper::Digits(Digits::new(false)),
            split("[0-9][0-9][0-9]")?,
        ]),
        Rule::Regex(expression) => {
            let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
            sequence([split(expression)?, bytes])
        }
        Rule::InTurn([first, second, third]) => {
            let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
            sequence([split(first)?, split(second)?, split(third)?, bytes])
        }
    };
    Ok(PreTokenizer { splitter, ignore_merges: family.ignore_merges, add_bos: family.add_bos })
}

fn sequence<const N: usize>(steps: [PreTokenizerWrapper; N]) -> PreTokenizerWrapper {
    PreTokenizerWrapper::Sequence(Sequence::new(steps.into()))
}

/// Matches of `expression` and what lies between them.
fn split(expression: &str) -> Result<PreTokenizerWrapper, TextError> {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(PreTokenizerWrapper::Split)
        .map_err(TextError::tokenizer("compile the split expression"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

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

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut text = PreTokenizedString::from(text);
        pre_tokenizer(Some(name)).unwrap().splitter.pre_tokenize(&mut text).unwrap();
        let pieces = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        pieces.into_iter().map(|(piece, _, _)| piece.to_owned()).collect()
    }

    /// What HuggingFace's tokenizers give of the same expressions.
    #[test]
    fn hunyuan_splits_in_three_turns() {
        for (text, expected) in [
            ("12345 = 9, isn't", "123 45 Ġ= Ġ 9 , Ġisn 't"),
            ("你好 the カナ", "ä½łå¥½ Ġthe Ġ ãĤ«ãĥĬ"),
            ("a_b  c\n\nd", "a _b Ġ Ġc ĊĊ d"),
        ] {
            assert_eq!(pieces("hunyuan-dense", text).join(" "), expected);
        }
    }

    /// What the models' own `tokenizer.json` gives, by HuggingFace's tokenizers.
    #[test]
    fn falcon_and_bloom_split_as_their_own_tokenizers_do() {
        let text = "Falcon's 12345 (x+y)  end... a1b22 `q` 7\n ok";
        let pieces = |name| pieces(name, text);
        let falcon = "Falcon ' s Ġ 123 45 Ġ ( x + y ) Ġ Ġend ... Ġa 1 b 22 Ġ ` q ` Ġ 7 Ċ Ġok";
        assert_eq!(pieces("falcon").join(" "), falcon);
        assert_eq!(pieces("bloom").join(" "), "Falcon's Ġ12345 Ġ( x+y )Ġ Ġend ... Ġa1b22 Ġ`q` Ġ7 Ċ Ġok");
        assert_eq!(pieces("olmo"), pieces("gpt-2"));
    }
}
