//! Running a model with its adapters, several of them in one batch.

use super::active::ActiveRows;
use super::model::PeftModel;
use crate::error::{Error, Result};
use crate::models::{ModelKind, TokenRows, wrong_kind};
use candle_core::Tensor;

impl PeftModel {
    /// The logits `[tokens, vocabulary]` of each sequence, without a gradient.
    ///
    /// `adapter_names` gives each sequence an adapter of its own, [`BASE_ADAPTER`](super::BASE_ADAPTER) for none;
    /// without it the active ones act on all. The active adapters are not changed. Sequences of one adapter are computed
    /// together, so that a mixed batch costs what its parts do.
    ///
    /// # Errors
    /// The model is an encoder-decoder, or has no head; a sequence has an id past the vocabulary; there is another number of names than of sequences, or no such adapter,
    /// or some are merged.
    pub fn forward(&self, sequences: &[&[u32]], adapter_names: Option<&[&str]>) -> Result<Vec<Tensor>> {
        let Some(names) = adapter_names else {
            return self.logits(sequences, self.active());
        };
        let mut all: Vec<Option<Tensor>> = vec![None; sequences.len()];
        for (name, members) in self.groups(names, sequences.len())? {
            let rows = match name.filter(|_| self.enabled) {
                Some(name) => self.rows_of_adapter(&name)?,
                None => ActiveRows::default(),
            };
            let chosen: Vec<&[u32]> = members.iter().map(|&at| sequences[at]).collect();
            for (at, logits) in members.into_iter().zip(self.logits(&chosen, rows)?) {
                all[at] = Some(logits);
            }
        }
        Ok(all.into_iter().flatten().collect())
    }

    fn logits(&self, sequences: &[&[u32]], rows: ActiveRows<'_>) -> Result<Vec<Tensor>> {
        let model = &self.base;
        if !model.has_head() {
            return Err(wrong_kind(model, ModelKind::Causal));
        }
        if sequences.iter().any(|ids| ids.is_empty()) {
            return Err(Error::EmptyPrompt);
        }
        let ids = sequences.concat();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut starts = vec![0];
        starts.extend(sequences.iter().scan(0, |end, ids| {
            *end += ids.len();
            Some(*end)
        }));
        let updates = rows.updates(model)?;
        let tokens = TokenRows { ids: &ids, starts: &starts, trained: rows.input_rows() };
        let hidden = model.before_head(&model.hidden(tokens, None, updates.as_deref())?)?;
        starts
            .windows(2)
            .map(|w| {
                let hidden = hidden.narrow(0, w[0], w[1] - w[0])?.contiguous()?;
                model.logits(&hidden, rows.output_rows())
            })
            .collect()
    }
}
