//! Which rows of a token matrix no training has moved.
//!
//! A row of zeros and one that is equal to another are told apart by themselves. Others are compared with rows that are known to be
//! unused: those without a token, those of tokens in reserve, and those that [`MatrixSurvey`] finds untrained. The measure is the
//! distance to the mean of these, which of the indicators of *Fishing for Magikarp* (Land and Bartolo, arXiv 2405.05417) works
//! best; the bound lies half way between what unused rows have in the middle and what the lowest hundredth of ordinary tokens has.

use crate::models::{MatrixSurvey, PretrainedModel, TokenMatrix};
use crate::text::{AutoTokenizer, TokenKind};
use std::collections::HashSet;

/// The share of ordinary tokens that may lie nearer to the unused rows.
const LOWEST: f64 = 0.01;
/// Unused rows are no measure when they lie as far from their mean as this share of the nearest ordinary ones.
const APART: f64 = 0.9;
/// Rows that are looked through at a time for an equal one.
const BLOCK: usize = 1024;

/// What a row looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowState {
    /// Like the rows of ordinary tokens.
    Learnt,
    /// All zeros (no entry above 1e-16, the bound of Unsloth's `fix_untrained_tokens`).
    Zero,
    /// Number for number the row of another token.
    Duplicate {
        /// The lowest such token.
        of: u32,
    },
    /// Near the rows that are known to be unused, or next to nothing beside the others.
    NearUnused,
    /// Appended for a token that the tokenizer did not have, or a row without a token until now.
    New,
}

impl RowState {
    /// Whether the row knows nothing of its token.
    pub fn is_unlearnt(self) -> bool {
        self != RowState::Learnt
    }
}

/// A token's row in one of the model's token matrices.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TemplateRow {
    /// The module.
    pub module: String,
    /// What it looks like.
    pub state: RowState,
    /// Its distance to the mean unused row; `None` of new rows, and where there are no unused ones to measure by.
    pub distance: Option<f64>,
}

/// The distances of a matrix's rows to the mean of those that are known to be unused.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct UnusedRows {
    /// How many unused rows there are.
    pub count: usize,
    /// Their own distance in the middle, each to the mean of the others.
    pub own: f64,
    /// The distance that all but a hundredth of ordinary tokens have at least.
    pub lowest: f64,
    /// The distance of ordinary tokens, in the middle.
    pub usual: f64,
    /// What is nearer is untrained; `None` where unused rows do not differ from those of ordinary tokens.
    pub bound: Option<f64>,
}

/// A matrix with what is known of its rows.
pub(super) struct Measured<'m> {
    matrix: &'m TokenMatrix,
    survey: MatrixSurvey,
    distances: Vec<f32>,
    pub(super) unused: Option<UnusedRows>,
}

impl<'m> Measured<'m> {
    /// The matrices of a model whose rows belong to tokens: the embedding, and a head that is not tied to it.
    pub(super) fn of_model(
        model: &'m PretrainedModel,
        tokenizer: &AutoTokenizer,
        tested: &HashSet<u32>,
    ) -> Vec<Self> {
        let head = (model.has_head() && !model.is_tied()).then(|| model.head());
        let matrices = std::iter::once(model.embedding()).chain(head);
        matrices.map(|matrix| Self::of(matrix, tokenizer, tested)).collect()
    }

    fn of(matrix: &'m TokenMatrix, tokenizer: &AutoTokenizer, tested: &HashSet<u32>) -> Self {
        let survey = matrix.survey();
        let rows = matrix.frozen().rows() as u32;
        let kinds: Vec<Option<TokenKind>> = (0..rows).map(|id| tokenizer.kind(id)).collect();
        let is_unused = |id: &u32| {
            let by_name = matches!(kinds[*id as usize], None | Some(TokenKind::Reserved));
            !tested.contains(id) && (by_name || survey.untrained.binary_search(id).is_ok())
        };
        let unused: Vec<u32> = (0..rows).filter(is_unused).collect();
        if unused.is_empty() {
            return Self { matrix, survey, distances: Vec::new(), unused: None };
        }
        let distances = matrix.distances_to(&mean(matrix, &unused));
        let sorted = |ids: &mut dyn Iterator<Item = u32>| {
            let mut found: Vec<f32> = ids.map(|id| distances[id as usize]).collect();
            found.sort_unstable_by(f32::total_cmp);
            found
        };
        // each stands apart from the mean of the others: of few rows it would hide in a mean that it is a part of
        let others = unused.len().saturating_sub(1);
        let apart = if others > 0 { unused.len() as f64 / others as f64 } else { 0.0 };
        let own = sorted(&mut unused.iter().copied());
        let is_ordinary = |id: &u32| kinds[*id as usize] == Some(TokenKind::Normal) && !is_unused(id);
        let ordinary = sorted(&mut (0..rows).filter(is_ordinary));
        let at = |of: &[f32], share: f64| {
            of.get((of.len() as f64 * share) as usize).map_or(0.0, |distance| f64::from(*distance))
        };
        let (own, lowest, usual) = (apart * at(&own, 0.5), at(&ordinary, LOWEST), at(&ordinary, 0.5));
        let bound = (own < APART * lowest).then_some((own + lowest) / 2.0);
        let told = UnusedRows { count: unused.len(), own, lowest, usual, bound };
        Self { matrix, survey, distances, unused: Some(told) }
    }

    /// What the row of a token looks like.
    pub(super) fn row(&self, id: u32, is_new: bool) -> TemplateRow {
        let module = self.matrix.name().to_owned();
        if is_new || id as usize >= self.matrix.frozen().rows() {
            return TemplateRow { module, state: RowState::New, distance: None };
        }
        let distance = self.distances.get(id as usize).map(|distance| f64::from(*distance));
        let is_near = || {
            let bound = self.unused.and_then(|unused| unused.bound);
            distance.zip(bound).is_some_and(|(distance, bound)| distance <= bound)
        };
        let state = match self.survey.untrained.binary_search(&id) {
            Ok(_) => self.untrained(id),
            Err(_) if is_near() => RowState::NearUnused,
            Err(_) => RowState::Learnt,
        };
        TemplateRow { module, state, distance }
    }

    /// Why a row counts as untrained by itself.
    fn untrained(&self, id: u32) -> RowState {
        let row = self.matrix.gather(&[id]);
        if row.iter().all(|x| x.abs() <= MatrixSurvey::ZERO) {
            return RowState::Zero;
        }
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let own = bits(&row);
        for few in self.survey.untrained.chunks(BLOCK) {
            let others = self.matrix.gather(few);
            let mut rows = few.iter().zip(others.chunks_exact(self.matrix.width().max(1)));
            if let Some((of, _)) = rows.find(|(other, row)| **other != id && bits(row) == own) {
                return RowState::Duplicate { of: *of };
            }
        }
        // shorter than a hundredth of the middle row
        RowState::NearUnused
    }
}

/// The mean of some rows, summed in `f64`.
fn mean(matrix: &TokenMatrix, ids: &[u32]) -> Vec<f32> {
    let width = matrix.width().max(1);
    let mut sums = vec![0f64; matrix.width()];
    for few in ids.chunks(BLOCK) {
        for row in matrix.gather(few).chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
    }
    sums.iter().map(|sum| (sum / ids.len() as f64) as f32).collect()
}
