//! The frame of a text: the special tokens that a tokenizer puts before and behind it.

use serde_json::{Map, Value, json};
use tokenizers::processors::template::TemplateProcessing;

use crate::{AutoTokenizer, Result, TextError};

impl AutoTokenizer {
    /// What the tokenizer puts before and behind a text: the frame is not stated anywhere, so it is read off an
    /// example.
    ///
    /// # Errors
    /// When the tokenizer's model fails on it.
    pub fn frame_around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let (bare, mut framed) = (self.encode("a", false)?, self.encode("a", true)?);
        let Some(start) = framed.windows(bare.len().max(1)).position(|window| window == bare) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let behind = framed.split_off(start + bare.len());
        framed.truncate(start);
        Ok((framed, behind))
    }

    /// What the tokenizer puts before a text.
    pub(super) fn frame_before(&self) -> Result<Vec<u32>> {
        Ok(self.frame_around()?.0)
    }

    /// The ids of a text that is to be gone on from: what the tokenizer puts before a text (often `bos`), then the text,
    /// and nothing behind it.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.frame_before()?;
        ids.extend(self.encode(text, false)?);
        Ok(ids)
    }

    /// Puts tokens before and behind every text that is encoded with special tokens; the crate's name for this is a
    /// template. Tokens that the vocabulary has not are left out.
    pub(crate) fn frame(&mut self, before: &[&str], behind: &[&str]) -> Result<(), TextError> {
        let known = |tokens: &[&str]| -> Vec<(String, u32)> {
            let of = |token: &&str| Some(((*token).to_owned(), self.token_to_id(token)?));
            tokens.iter().filter_map(of).collect()
        };
        let (before, behind) = (known(before), known(behind));
        let pieces = |tokens: &[(String, u32)], kind: u32| -> Vec<Value> {
            tokens.iter().map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": kind}})).collect()
        };
        let framed = |sequence: &str, kind: u32| -> Vec<Value> {
            let middle = vec![json!({"Sequence": {"id": sequence, "type_id": kind}})];
            [pieces(&before, kind), middle, pieces(&behind, kind)].concat()
        };
        let pair = [framed("A", 0), framed("B", 1)].concat();
        let tokens: Map<String, Value> = before
            .iter()
            .chain(&behind)
            .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        // As JSON, because the crate's own builder cuts a token at `:` and takes `$` for a sequence.
        let processor: TemplateProcessing = serde_json::from_value(json!({
            "type": "TemplateProcessing",
            "single": framed("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
        .map_err(|reason| TextError::Tokenizer { action: "set the frame", reason: reason.to_string() })?;
        self.inner.with_post_processor(Some(processor));
        Ok(())
    }
}
