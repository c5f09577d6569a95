//! The tensors of a checkpoint that hold one token matrix under several names.
//!
//! Checkpoints of tied models may hold their matrix once, or again under the names of the modules that share it
//! (`shared.weight`, `encoder.embed_tokens.weight`, `lm_head.weight`). One is read; whoever writes the matrix writes all.

use super::model::PretrainedModel;
use rayon::prelude::*;
use std::borrow::Cow;
use toktune_weights::{Checkpoint, RowOrder, WeightType};

impl PretrainedModel {
    /// The tensors that hold the embedding: the one that is read, then its copies, those of a tied head too.
    pub fn embedding_tensors(&self) -> Vec<String> {
        let names = &self.spec().names;
        let head = self.is_tied().then_some(names.head);
        let head = head.into_iter().chain(names.head_files.iter().copied().filter(|_| self.is_tied()));
        let own = [names.embed].into_iter().chain(names.embed_files.iter().copied());
        let modules = own.chain(names.embed_aliases.iter().copied()).chain(head);
        self.tensors_like(self.embedding().frozen().name(), modules)
    }

    /// The tensors that hold an untied head: the one that is read, then its copies.
    pub fn head_tensors(&self) -> Vec<String> {
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
    pub fn head_bias_tensors(&self) -> Vec<String> {
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

/// Rows that are compared at a time where the types differ.
const ROWS: usize = 256;

/// Whether two tensors hold the same: all of both is compared, since a head that this method trained differs in a few rows
/// only. Two names of one place in the file are equal at once.
pub(super) fn same_rows(checkpoint: &Checkpoint, a: &str, b: &str) -> bool {
    let (Some(x), Some(y)) = (checkpoint.stored_bytes(a), checkpoint.stored_bytes(b)) else { return false };
    if checkpoint.shape(a) != checkpoint.shape(b) {
        return false;
    }
    if checkpoint.type_name(a) != checkpoint.type_name(b) {
        return same_numbers(checkpoint, a, b).unwrap_or(false);
    }
    let one_place = x.as_ptr() == y.as_ptr();
    x.len() == y.len() && (one_place || x.par_chunks(PIECE).zip(y.par_chunks(PIECE)).all(|(x, y)| x == y))
}

/// Whether two matrices of unlike floating-point types hold the same numbers: transformers has loaded both in one type when
/// it compares them. `None` for what is no such matrix.
fn same_numbers(checkpoint: &Checkpoint, a: &str, b: &str) -> Option<bool> {
    let &[rows, cols] = checkpoint.shape(a)? else { return None };
    let open = |name: &str| {
        let matrix = checkpoint.matrix(name, rows, cols, RowOrder::Plain).ok()?;
        matches!(matrix.dtype(), WeightType::F32 | WeightType::F16 | WeightType::BF16).then_some(matrix)
    };
    let (a, b) = (open(a)?, open(b)?);
    let alike = |piece: usize| {
        let part = piece * ROWS..rows.min((piece + 1) * ROWS);
        a.decode_rows(part.clone()) == b.decode_rows(part)
    };
    Some((0..rows.div_ceil(ROWS)).into_par_iter().all(alike))
}

#[cfg(test)]
mod tests {
    use super::*;
    use toktune_weights::testing::{safetensors, safetensors_f32};

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

    #[test]
    fn numbers_are_compared_where_the_types_differ() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let same = |last: f32| {
            let mut values: Vec<f32> = (0..600).map(|x| x as f32).collect();
            let half: Vec<u8> = values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
            values[599] = last;
            let single: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let header = r#"{"a": {"dtype": "F32", "shape": [300, 2], "data_offsets": [0, 2400]},
                "b": {"dtype": "F16", "shape": [300, 2], "data_offsets": [2400, 3600]}}"#;
            std::fs::write(&path, safetensors(header, &[single, half].concat())).expect("written");
            same_rows(&Checkpoint::open(&path).expect("a checkpoint"), "a", "b")
        };
        assert!(same(599.0) && !same(599.01));
    }
}
