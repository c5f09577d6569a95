//! The tensors of a checkpoint that hold one token matrix under several names.
//!
//! Checkpoints of tied models may hold their matrix once, or again under the names of the modules that share it
//! (`shared.weight`, `encoder.embed_tokens.weight`, `lm_head.weight`). One is read; whoever writes the matrix writes all.

use super::model::PretrainedModel;
use crate::weights::Checkpoint;

impl PretrainedModel {
    /// The tensors that hold the embedding: the one that is read, then its copies, those of a tied head too.
    pub(crate) fn embedding_tensors(&self) -> Vec<String> {
        let names = &self.spec().names;
        let head = self.is_tied().then_some(names.head);
        let head = head.into_iter().chain(names.head_files.iter().copied().filter(|_| self.is_tied()));
        let own = [names.embed].into_iter().chain(names.embed_files.iter().copied());
        let modules = own.chain(names.embed_aliases.iter().copied()).chain(head);
        self.tensors_like(self.embedding().frozen().name(), modules)
    }

    /// The tensors that hold an untied head: the one that is read, then its copies.
    pub(crate) fn head_tensors(&self) -> Vec<String> {
        let names = &self.spec().names;
        let modules = [names.head].into_iter().chain(names.head_files.iter().copied());
        self.tensors_like(self.head().frozen().name(), modules)
    }

    /// `tensor`, and the weights of `modules`, with the model's prefix or without it, that hold the same.
    fn tensors_like(&self, tensor: &str, modules: impl Iterator<Item = &'static str>) -> Vec<String> {
        let mut found = vec![tensor.to_owned()];
        for module in modules {
            for name in self.forms(&format!("{module}.weight")) {
                if !found.contains(&name) && same_rows(self.checkpoint(), tensor, &name) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// The tensors that hold the logits' biases, under every name that they have.
    pub(crate) fn head_bias_tensors(&self) -> Vec<String> {
        let names = &self.spec().names;
        let own = [names.head_bias.to_owned(), format!("{}.bias", names.head)];
        let forms = own.iter().flat_map(|name| self.forms(name));
        let mut found: Vec<String> = forms.filter(|name| self.checkpoint().contains(name)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The names that a tensor may have in a checkpoint.
    fn forms(&self, name: &str) -> [String; 3] {
        let prefix = self.spec().names.prefix;
        let bare = name.strip_prefix(prefix).unwrap_or(name);
        [name.to_owned(), bare.to_owned(), format!("{prefix}{name}")]
    }
}

/// Pieces that are compared; matrices that were trained apart differ everywhere.
const COMPARED_PIECES: usize = 64;

/// Whether two tensors hold the same, judged by pieces from all over them.
pub(super) fn same_rows(checkpoint: &Checkpoint, a: &str, b: &str) -> bool {
    let (Some(x), Some(y)) = (checkpoint.stored_bytes(a), checkpoint.stored_bytes(b)) else { return false };
    let piece = (x.len() / COMPARED_PIECES).clamp(1, 4096);
    let starts = (0..COMPARED_PIECES).map(|i| i * x.len().saturating_sub(piece) / COMPARED_PIECES);
    x.len() == y.len()
        && checkpoint.type_name(a) == checkpoint.type_name(b)
        && starts.chain([x.len().saturating_sub(piece)]).all(|at| {
            let end = (at + piece).min(x.len());
            x[at..end] == y[at..end]
        })
}
