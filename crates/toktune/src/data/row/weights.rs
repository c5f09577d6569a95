//! The keys `loss_weight` and `loss_weights`.

use super::{DataError, Form, Reader, Value};
use crate::data::weights::{EXPECTED, LossWeights, is_weight};

/// What all labels of a row count.
pub(super) const OF_ROW: &str = "loss_weight";
/// What each label counts.
const OF_TOKENS: &str = "loss_weights";

impl Reader<'_> {
    /// What the labels of the row count.
    pub(super) fn weights(&self, form: Form) -> Result<LossWeights, DataError> {
        let of_row = self.fields.get(OF_ROW).map(|value| self.weight(OF_ROW.to_owned(), value));
        let of_row = of_row.transpose()?.unwrap_or(1.0);
        let Some(of_tokens) = self.fields.get(OF_TOKENS) else {
            return Ok(if of_row == 1.0 { LossWeights::Once } else { LossWeights::Row(of_row) });
        };
        if form != Form::Ids {
            let problem = format!(
                "found in a row with `{}`; it goes with `input_ids`, one a label, and `{OF_ROW}` with every row",
                form.key()
            );
            return Err(DataError::NotObeyed { at: self.at(), key: OF_TOKENS.to_owned(), problem });
        }
        let Value::Array(items) = of_tokens else {
            return Err(self.wrong(OF_TOKENS, Some(of_tokens), "a list of numbers"));
        };
        let of_key = |key: &str| self.fields.get(key).and_then(Value::as_array).map(Vec::len);
        let labels = of_key("labels").or(of_key("input_ids")).unwrap_or_default();
        if items.len() != labels {
            return Err(DataError::WeightLength { at: self.at(), weights: items.len(), labels });
        }
        let weight = |(index, item): (usize, &Value)| {
            let key = || format!("{OF_TOKENS}[{index}]");
            let weight = self.weight(key(), item)? * of_row;
            match is_weight(weight) {
                true => Ok(weight),
                // each was one, but not the two together
                false => Err(self.not_a_weight(format!("{OF_ROW} * {}", key()), item)),
            }
        };
        Ok(LossWeights::Tokens(items.iter().enumerate().map(weight).collect::<Result<_, _>>()?))
    }

    fn weight(&self, key: String, value: &Value) -> Result<f32, DataError> {
        let weight = value.as_f64().map(|weight| weight as f32).filter(|weight| is_weight(*weight));
        weight.ok_or_else(|| self.not_a_weight(key, value))
    }

    fn not_a_weight(&self, key: String, value: &Value) -> DataError {
        self.wrong(key, Some(value), EXPECTED)
    }
}
