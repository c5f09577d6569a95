//! Weights that an adapter brings whole, in the place of a model's own.
//!
//! The model is put together anew from its files with the other values in them, so that nothing has to know how each part
//! keeps its weights; files are mapped, and nothing but the values is copied.

use super::PretrainedModel;
use crate::error::EngineError;
use toktune_weights::{Checkpoint, WeightsError};

impl PretrainedModel {
    /// Puts other values in the place of weights, by the names of transformers: a norm's, a bias, a linear layer's weight. The
    /// token matrices stay as they are.
    ///
    /// # Errors
    /// The problem with a tensor, after its name: the files do not hold it so, or another adapter has brought some before.
    pub fn replace_tensors(
        &mut self,
        tensors: &[(String, Vec<f32>)],
    ) -> std::result::Result<(), ReplaceError> {
        let first = |problem| {
            tensors.first().map_or(Ok(()), |(name, _)| Err(ReplaceError::Name(name.clone(), problem)))
        };
        if self.checkpoint.as_gguf().is_some() {
            return first("but the base is a GGUF file; expected the folder it was made from");
        }
        if self.checkpoint.replaced().next().is_some() {
            return first(
                "but another adapter has brought its own before; expected one such adapter on a model",
            );
        }
        let mut checkpoint = Checkpoint::open(self.checkpoint.path())?;
        for (name, values) in tensors {
            let is_head_bias =
                *name == self.spec.names.head_bias || *name == format!("{}.bias", self.spec.names.head);
            let stored: Vec<String> = match is_head_bias {
                true => self.head_bias_tensors(),
                false => {
                    let mut forms = self.spec.names.forms(name);
                    forms
                        .find(|form| checkpoint.contains(form))
                        .map(|form| form.into_owned())
                        .into_iter()
                        .collect()
                }
            };
            if stored.is_empty() {
                let problem = "which the files of the base do not hold under such a name";
                return Err(ReplaceError::Name(name.clone(), problem));
            }
            stored.iter().try_for_each(|stored| checkpoint.replace(stored, values))?;
        }
        let place = (self.device, self.isa);
        let mut model = Self::load(&self.path, self.family, self.config.clone(), checkpoint, place)?;
        self.mode.into_iter().for_each(|mode| model.set_precision(mode));
        std::mem::swap(&mut model.embedding, &mut self.embedding);
        std::mem::swap(&mut model.head, &mut self.head);
        model.runner.set_tokens(&model.embedding, model.head.as_ref());
        *self = model;
        Ok(())
    }
}

/// Why tensors were not replaced.
#[derive(Debug)]
pub enum ReplaceError {
    /// A tensor, and what stands against it.
    Name(String, &'static str),
    /// The files.
    Other(EngineError),
}

impl From<WeightsError> for ReplaceError {
    fn from(error: WeightsError) -> Self {
        Self::Other(error.into())
    }
}

impl From<EngineError> for ReplaceError {
    fn from(error: EngineError) -> Self {
        Self::Other(error)
    }
}
