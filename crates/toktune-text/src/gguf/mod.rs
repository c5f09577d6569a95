//! A tokenizer from a GGUF file's metadata.
//!
//! GGUF stores tokens, their types and scores, sometimes merges, and names of rules; the rules themselves
//! live in llama.cpp. Two kinds are built here: `gpt2`, byte-level merges, and `llama`, SentencePiece's
//! merges with bytes as a last resort. This module knows the meaning of the fields and not the file: the
//! reader fills [`GgufTokenizer`].

mod merges;
mod metadata;
mod patch;
mod pre;
#[cfg(test)]
mod tests;

pub use patch::{PatchedTokens, patch_gguf_tokens};
pub(crate) use pre::QWEN2;

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer};

use crate::guard::guarded;
use crate::spelling::byte_letters;
use crate::{AutoTokenizer, Result, TextError};

/// SentencePiece's mark for a space.
const SPACE: &str = "\u{2581}";

/// llama.cpp's token types, as far as they matter here.
mod kind {
    /// A token that text is cut into.
    pub const NORMAL: i32 = 1;
    /// The token for what cannot be spelled.
    pub const UNKNOWN: i32 = 2;
    /// A special token.
    pub const CONTROL: i32 = 3;
    /// A token that is matched whole, and shown.
    pub const USER_DEFINED: i32 = 4;
    /// A row without a token.
    pub const UNUSED: i32 = 5;
    /// The highest type there is.
    pub const LAST: i32 = 6;
}

/// What a GGUF file says about its tokenizer: the values of its `tokenizer.*` keys.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `general.architecture`: Gemma's files need a rule of their own.
    pub architecture: String,
    /// `tokenizer.ggml.model`: the kind.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the spelling of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`: empty, or one a token.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`: empty, or one a token.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: two pieces a line, best first; empty when there are none.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad_id: Option<u32>,
    /// `tokenizer.ggml.seperator_token_id` (llama.cpp's spelling).
    pub sep_id: Option<u32>,
    /// `tokenizer.ggml.cls_token_id`.
    pub cls_id: Option<u32>,
    /// `tokenizer.ggml.mask_token_id`.
    pub mask_id: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: ends a turn.
    pub eot_id: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: ends a message.
    pub eom_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// The vocabulary as it will be, and what is known of each token.
struct Vocabulary {
    tokens: Vec<String>,
    /// Multi-space tokens of Gemma, reached by merges and therefore not matched whole.
    respelled: Vec<bool>,
}

impl GgufTokenizer {
    /// Builds the tokenizer.
    ///
    /// # Errors
    /// A kind or splitting rule that is not known, arrays of different lengths, ids outside the vocabulary, a
    /// spelling with two ids, a merge of unknown pieces.
    pub fn build(mut self) -> Result<AutoTokenizer> {
        let byte_level = match self.model.as_str() {
            "gpt2" => true,
            "llama" => false,
            _ => {
                let supported = "gpt2, llama".to_owned();
                return Err(TextError::GgufModel { found: self.model, supported });
            }
        };
        self.check()?;
        let tokens = std::mem::take(&mut self.tokens);
        let (vocabulary, inner, add_bos) = if byte_level {
            let vocabulary = self.byte_level_vocabulary(tokens);
            let (inner, add_bos) = self.byte_level(&vocabulary.tokens)?;
            (vocabulary, inner, add_bos)
        } else {
            let vocabulary = self.sentence_piece_vocabulary(tokens);
            let inner = self.sentence_piece(&vocabulary.tokens)?;
            // llama.cpp adds bos to a SentencePiece vocabulary that does not say otherwise.
            (vocabulary, inner, true)
        };
        let add_bos = self.add_bos.unwrap_or(add_bos);
        self.finish(vocabulary, inner, add_bos)
    }

    /// The ids of the named tokens, with their key and the name transformers uses.
    fn named_ids(&self) -> [(&'static str, &'static str, Option<u32>); 9] {
        [
            ("tokenizer.ggml.bos_token_id", "bos_token", self.bos_id),
            ("tokenizer.ggml.eos_token_id", "eos_token", self.eos_id),
            ("tokenizer.ggml.unknown_token_id", "unk_token", self.unk_id),
            ("tokenizer.ggml.padding_token_id", "pad_token", self.pad_id),
            ("tokenizer.ggml.seperator_token_id", "sep_token", self.sep_id),
            ("tokenizer.ggml.cls_token_id", "cls_token", self.cls_id),
            ("tokenizer.ggml.mask_token_id", "mask_token", self.mask_id),
            ("tokenizer.ggml.eot_token_id", "", self.eot_id),
            ("tokenizer.ggml.eom_token_id", "", self.eom_id),
        ]
    }

    fn check(&self) -> Result<(), TextError> {
        let expected = self.tokens.len();
        if expected == 0 {
            return Err(TextError::GgufNoTokens);
        }
        let lengths = [
            ("tokenizer.ggml.scores", self.scores.len()),
            ("tokenizer.ggml.token_type", self.token_types.len()),
        ];
        for (array, found) in lengths {
            if found != 0 && found != expected {
                return Err(TextError::GgufLength { array, found, expected });
            }
        }
        for (key, _, id) in self.named_ids() {
            if let Some(id) = id.filter(|id| *id as usize >= expected) {
                return Err(TextError::GgufTokenId { key, id, tokens: expected });
            }
        }
        match self.token_types.iter().position(|found| !(0..=kind::LAST).contains(found)) {
            None => Ok(()),
            Some(index) => {
                let (token, found) = (self.tokens[index].clone(), self.token_types[index]);
                Err(TextError::GgufTokenType { index, token, found })
            }
        }
    }

    fn token_type(&self, id: usize) -> i32 {
        self.token_types.get(id).copied().unwrap_or(kind::NORMAL)
    }

    /// Tokens that text is cut into must be spelled in the alphabet of bytes. A few files hold plain text
    /// there; transformers respells it. Tokens that are matched whole keep their spelling.
    fn byte_level_vocabulary(&self, mut tokens: Vec<String>) -> Vocabulary {
        let letters = byte_letters();
        let alphabet: std::collections::HashSet<char> = letters.iter().copied().collect();
        for (id, token) in tokens.iter_mut().enumerate() {
            if self.token_type(id) == kind::NORMAL && !token.chars().all(|letter| alphabet.contains(&letter))
            {
                *token = token.bytes().map(|byte| letters[usize::from(byte)]).collect();
            }
        }
        Vocabulary { respelled: vec![false; tokens.len()], tokens }
    }

    /// Returns the tokenizer and whether its splitting rule goes with a `bos`.
    fn byte_level(&self, tokens: &[String]) -> Result<(Tokenizer, bool), TextError> {
        if self.merges.is_empty() {
            return Err(TextError::GgufNoMerges);
        }
        let pre = pre::pre_tokenizer(self.pre.as_deref())?;
        let ids = ids_of(tokens)?;
        let merges = merges::parse(&self.merges, &ids)?;
        let model = BPE::builder()
            .vocab_and_merges(owned(&ids), merges)
            .ignore_merges(pre.ignore_merges)
            .build()
            .map_err(TextError::tokenizer("build the byte-level model"))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(pre.splitter));
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        Ok((tokenizer, pre.add_bos))
    }

    fn is_gemma(&self) -> bool {
        self.architecture.starts_with("gemma")
    }

    /// Gemma's files spell tokens of several spaces as spaces, while text reaches the model with `▁` for
    /// each.
    fn sentence_piece_vocabulary(&self, mut tokens: Vec<String>) -> Vocabulary {
        let mut respelled = vec![false; tokens.len()];
        if self.is_gemma() {
            let taken: std::collections::HashSet<usize> = tokens
                .iter()
                .filter(|token| !token.is_empty() && token.chars().all(|letter| letter == '\u{2581}'))
                .map(|token| token.chars().count())
                .collect();
            for (token, respelled) in tokens.iter_mut().zip(&mut respelled) {
                let spaces = token.len();
                if spaces > 0 && token.bytes().all(|byte| byte == b' ') && !taken.contains(&spaces) {
                    *token = SPACE.repeat(spaces);
                    *respelled = true;
                }
            }
        }
        Vocabulary { tokens, respelled }
    }

    fn sentence_piece(&self, tokens: &[String]) -> Result<Tokenizer, TextError> {
        let ids = ids_of(tokens)?;
        let merges = if !self.merges.is_empty() {
            merges::parse(&self.merges, &ids)?
        } else if self.is_gemma() || self.scores.is_empty() {
            // Gemma's scores do not follow the order of its merges; the order of its tokens does.
            merges::rebuild(tokens, &ids, |id| -(id as f32))
        } else {
            merges::rebuild(tokens, &ids, |id| self.scores[id as usize])
        };
        let mut builder =
            BPE::builder().vocab_and_merges(owned(&ids), merges).fuse_unk(true).byte_fallback(true);
        if let Some(unk) = self.unk_id {
            builder = builder.unk_token(tokens[unk as usize].clone());
        }
        let model = builder.build().map_err(TextError::tokenizer("build the SentencePiece model"))?;
        let mut tokenizer = Tokenizer::new(model);

        let prefix = self.add_space_prefix.unwrap_or(!self.is_gemma());
        let replace = |from: &str, to: &str| {
            Replace::new(from, to).map_err(TextError::tokenizer("compile the space replacement"))
        };
        let spaces = NormalizerWrapper::Replace(replace(" ", SPACE)?);
        let normalizer = if prefix {
            // A space goes before each piece of text between whole tokens, as in llama.cpp.
            let prepend = NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned()));
            NormalizerWrapper::Sequence(Normalizers::new(vec![prepend, spaces]))
        } else {
            spaces
        };
        tokenizer.with_normalizer(Some(normalizer)).map_err(TextError::tokenizer("set the normalizer"))?;
        let mut decoders = vec![
            DecoderWrapper::Replace(replace(SPACE, " ")?),
            DecoderWrapper::ByteFallback(ByteFallback::new()),
            DecoderWrapper::Fuse(Fuse::new()),
        ];
        if prefix {
            decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
        }
        tokenizer.with_decoder(Some(Decoders::new(decoders)));
        Ok(tokenizer)
    }

    /// Whole tokens, names, frame and template: the same for both kinds.
    fn finish(self, vocabulary: Vocabulary, inner: Tokenizer, add_bos: bool) -> Result<AutoTokenizer> {
        let mut tokenizer = AutoTokenizer::from_inner(inner)?;
        let tokens = vocabulary.tokens;
        let named: Vec<usize> =
            self.named_ids().into_iter().filter_map(|(_, _, id)| Some(id? as usize)).collect();
        let whole =
            tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()).filter_map(|(id, token)| {
                let special = match self.token_type(id) {
                    kind::CONTROL | kind::UNKNOWN => true,
                    _ if named.contains(&id) => true,
                    kind::USER_DEFINED if !vocabulary.respelled[id] => false,
                    _ => return None,
                };
                Some(AddedToken::from(token.as_str(), special).normalized(false))
            });
        let whole: Vec<AddedToken> = whole.collect();
        guarded("add tokens", || tokenizer.inner.add_tokens(whole))?;
        for (_, name, id) in self.named_ids() {
            if let Some(id) = id {
                tokenizer.special.set(name, &tokens[id as usize]);
            }
        }
        // transformers 4 would tidy decoded spaces unless told not to.
        tokenizer.config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
        tokenizer.stop_ids = [self.eot_id, self.eom_id].into_iter().flatten().collect();
        let bos = tokenizer.bos_token().filter(|_| add_bos).map(str::to_owned);
        let eos = tokenizer.eos_token().filter(|_| self.add_eos.unwrap_or(false)).map(str::to_owned);
        if bos.is_some() || eos.is_some() {
            tokenizer.frame(bos.as_deref().as_slice(), eos.as_deref().as_slice())?;
        }
        if let Some(template) = self.chat_template {
            tokenizer.set_chat_template(template);
        }
        Ok(tokenizer)
    }
}

impl TryFrom<GgufTokenizer> for AutoTokenizer {
    type Error = TextError;

    fn try_from(metadata: GgufTokenizer) -> Result<Self> {
        metadata.build()
    }
}

/// The id of each spelling.
fn ids_of(tokens: &[String]) -> Result<HashMap<&str, u32>, TextError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        let id = id as u32;
        if let Some(first) = ids.insert(token.as_str(), id) {
            return Err(TextError::GgufDuplicateToken { token: token.clone(), first, second: id });
        }
    }
    Ok(ids)
}

/// The crate's own kind of map, with its own strings.
fn owned(ids: &HashMap<&str, u32>) -> Vocab {
    ids.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect()
}
