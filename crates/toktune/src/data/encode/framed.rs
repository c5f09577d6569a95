//! Rows for models with an encoder: texts in the tokenizer's own frame.
//!
//! - a masked language model: `text`, or `input_ids`; without `labels` the tokens to guess are chosen later.
//! - an encoder-decoder model: `prompt` for the encoder, `completion` and `eos` for the decoder (with the frame of
//!   its language where the tokenizer has languages); or `input_ids` and
//!   `labels` of a length of their own.
//! - sentence pairs: `anchor` and `positive`, texts or lists of ids.
//!
//! What the tokenizer puts behind a text stays when `max_length` cuts the text, as transformers truncates.

use super::{Encoder, end, in_place, learn};
use crate::data::error::Result;
use crate::data::row::{Row, Sequence, Words};
use crate::data::{Collator, DataError, Example, Masking, Source};

impl Encoder<'_> {
    /// A row for a masked language model.
    pub(super) fn masked(&self, row: Row, at: Source) -> Result<Example> {
        let key = row.key;
        self.refuse_completion(key, &at)?;
        let (mut input_ids, mut labels, behind) = match row.words {
            Words::Ids { input_ids, labels, padding } => {
                let labels =
                    labels.map(|labels| in_place(labels, input_ids.len(), padding, &at)).transpose()?;
                (input_ids, labels.unwrap_or_default(), 0)
            }
            Words::Text(text) => (self.framed(&text, key, &at)?, Vec::new(), self.behind),
            _ => return Err(self.wrong_kind(key, &at)),
        };
        if let (true, Collator::MaskedLm(Masking { mask_token: None, .. })) =
            (labels.is_empty(), &self.options.collator)
        {
            return Err(DataError::NoMaskToken { at, key });
        }
        let cut = self.cut(&mut input_ids, behind);
        labels.truncate(input_ids.len());
        Ok(Example { input_ids, second: Vec::new(), labels, weights: Vec::new(), cut, source: at })
    }

    /// A row for an encoder-decoder model.
    pub(super) fn seq2seq(&self, row: Row, at: Source) -> Result<Example> {
        let key = row.key;
        let (mut input_ids, mut labels, behind) = match row.words {
            Words::Ids { input_ids, labels: Some(labels), .. } if !labels.is_empty() => {
                (input_ids, labels, 0)
            }
            Words::Ids { labels: Some(_), .. } => {
                return Err(DataError::EmptyRow { at, key: "labels".to_owned() });
            }
            Words::Ids { labels: None, .. } => {
                return Err(DataError::MissingKey { at, found: key, missing: "labels" });
            }
            Words::Prompt { prompt, completion } => {
                let tokenizer = self.tokenizer(key, &at)?;
                let target = match tokenizer.encode_target(&completion)? {
                    Some(target) => target,
                    None => {
                        let mut target = tokenizer.encode(&completion, true)?;
                        end(&mut target, tokenizer);
                        target
                    }
                };
                (self.framed(&prompt, key, &at)?, learn(&target), self.behind)
            }
            _ => return Err(self.wrong_kind(key, &at)),
        };
        let mut cut = self.cut(&mut input_ids, behind);
        if let Some(most) = self.options.max_length.filter(|most| labels.len() > *most) {
            // a target that is cut does not end there: its `eos` goes
            cut.extend(labels.split_off(most).into_iter().flatten());
        }
        Ok(Example { input_ids, second: Vec::new(), labels, weights: Vec::new(), cut, source: at })
    }

    /// A pair.
    pub(super) fn pair(&self, row: Row, at: Source) -> Result<Example> {
        let key = row.key;
        let Words::Pair { anchor, positive } = row.words else {
            return Err(self.wrong_kind(key, &at));
        };
        let (mut cut, mut sequences) = (Vec::new(), [Vec::new(), Vec::new()]);
        for ((key, sequence), ids) in
            [("anchor", anchor), ("positive", positive)].into_iter().zip(&mut sequences)
        {
            let behind = match sequence {
                Sequence::Ids(given) => {
                    *ids = given;
                    0
                }
                Sequence::Text(text) => {
                    *ids = self.framed(&text, key, &at)?;
                    self.behind
                }
            };
            cut.extend(self.cut(ids, behind));
        }
        let [input_ids, second] = sequences;
        Ok(Example { input_ids, second, labels: Vec::new(), weights: Vec::new(), cut, source: at })
    }

    /// A text in the tokenizer's own frame.
    fn framed(&self, text: &str, key: &'static str, at: &Source) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer(key, at)?;
        if text.is_empty() {
            return Err(DataError::EmptyRow { at: at.clone(), key: key.to_owned() });
        }
        Ok(tokenizer.encode(text, true)?)
    }
}
