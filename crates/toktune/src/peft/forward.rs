//! Running a model with its adapters, several of them in one batch.

use super::active::ActiveRows;
use super::model::PeftModel;
use crate::engine::runner::TokenRows;
use crate::models::{ModelKind, wrong_kind};
use crate::peft::error::Result;
use toktune_engine::EngineError;

impl PeftModel {
    /// The logits of each sequence, `[tokens, vocabulary]`, without a gradient.
    ///
    /// `adapter_names` gives each sequence an adapter of its own, [`BASE_ADAPTER`](super::BASE_ADAPTER) for none;
    /// without it the active ones act on all. The active adapters are not changed. Sequences of one adapter are computed
    /// together, so that a mixed batch costs what its parts do.
    ///
    /// # Errors
    /// The model is an encoder-decoder, or has no head; a sequence has an id past the vocabulary; there is another number of
    /// names than of sequences, or no such adapter, or some are merged.
    pub fn forward(&self, sequences: &[&[u32]], adapter_names: Option<&[&str]>) -> Result<Vec<Vec<f32>>> {
        let Some(names) = adapter_names else {
            return self.logits(sequences, self.active());
        };
        let mut all: Vec<Option<Vec<f32>>> = vec![None; sequences.len()];
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

    fn logits(&self, sequences: &[&[u32]], rows: ActiveRows<'_>) -> Result<Vec<Vec<f32>>> {
        let model = &self.base;
        if !model.has_head() || model.kind() == ModelKind::Seq2Seq {
            return Err(wrong_kind(model, ModelKind::Causal).into());
        }
        if sequences.iter().any(|ids| ids.is_empty()) {
            return Err(EngineError::EmptyPrompt.into());
        }
        let ids = sequences.concat();
        let mut starts = vec![0];
        starts.extend(sequences.iter().scan(0, |end, ids| {
            *end += ids.len();
            Some(*end)
        }));
        let tokens = TokenRows { ids: &ids, starts: &starts };
        Ok(model.runner().logits(tokens, None, &rows.trained())?)
    }
}
