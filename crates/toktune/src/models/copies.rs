//! The tensors of a checkpoint that hold one token matrix under several names.
//!
//! Checkpoints of tied models may hold their matrix once, or again under the names of the modules that share it
//! (`shared.weight`, `encoder.embed_tokens.weight`, `lm_head.weight`). One is read; whoever writes the matrix writes all.

use super::model::PretrainedModel;
use crate::weights::Checkpoint;
use rayon::prelude::*;
use std::borrow::Cow;

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
            for name in self.spec().names.forms(&format!("{module}.weight")) {
                if !found.iter().any(|known| *known == name) && same_rows(self.checkpoint(), tensor, &name) {
                    found.push(name.into_owned());
                }
            }
        }
        found
    }

    /// The tensors that hold the logits' biases, under every name that they have.
    pub(crate) fn head_bias_tensors(&self) -> Vec<String> {
        let names = &self.spec().names;
        let own = [names.head_bias.to_owned(), format!("{}.bias", names.head)];
        let forms = own.iter().flat_map(|name| names.forms(name));
        let forms = forms.filter(|name| self.checkpoint().contains(name));
        let mut found: Vec<String> = forms.map(Cow::into_owned).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Bytes that are compared at a time: the first difference ends the comparison early.
const PIECE: usize = 1 << 22;

/// Whether two tensors hold the same: all of both is compared, since a head that this method trained differs in a few rows
/// only. Two names of one place in the file are equal at once.
pub(super) fn same_rows(checkpoint: &Checkpoint, a: &str, b: &str) -> bool {
    let (Some(x), Some(y)) = (checkpoint.stored_bytes(a), checkpoint.stored_bytes(b)) else { return false };
    let alike =
        checkpoint.type_name(a) == checkpoint.type_name(b) && checkpoint.shape(a) == checkpoint.shape(b);
    let one_place = x.as_ptr() == y.as_ptr();
    alike
        && x.len() == y.len()
        && (one_place || x.par_chunks(PIECE).zip(y.par_chunks(PIECE)).all(|(x, y)| x == y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::testing::safetensors_f32;

    #[test]
    fn one_number_anywhere_makes_two_matrices_of_two_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let values: Vec<f32> = (0..6000).map(|x| x as f32).collect();
        let same = |change: Option<usize>, shape: &[usize]| {
            let mut other = values.clone();
            change.into_iter().for_each(|at| other[at] += 0.5);
            let file = safetensors_f32(&[("a", &[3000, 2], &values), ("b", shape, &other)]);
            std::fs::write(&path, file).expect("written");
            let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
            same_rows(&checkpoint, "a", "b") && same_rows(&checkpoint, "a", "a")
        };
        assert!(same(None, &[3000, 2]) && !same(None, &[2000, 3]));
        assert!((0..6000).step_by(37).chain([5999]).all(|at| !same(Some(at), &[3000, 2])));
    }
}
