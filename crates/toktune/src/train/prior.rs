//! How likely the trained tokens are before training, in places that belong to others.
//!
//! The same is measured of held-out rows at every evaluation of a run, where it is what leaks.
//!
//! A row of the head decides that alone. One that starts too near to what the model says everywhere takes probability from
//! every other token; one that starts far away has to be brought back before it is ever said.

use crate::data::Dataset;
use crate::engine::batch::{RaggedBatch, RaggedRows};
use crate::engine::runner::{StepOptions, Wanted};
use crate::error::Result;
use crate::models::{ModelKind, PretrainedModel};
use crate::peft::{ActiveRows, PeftModel};
use std::collections::HashSet;
use std::ops::Range;

/// Labels that are looked at.
const PLACES: usize = 64;
/// Of one sequence, at most.
const OF_SEQUENCE: usize = 16;
/// Rows of the head that are compared in all where every token is asked for by itself: places by tokens.
const COMPARED: usize = 256;
/// Tokens that are read before the first of a sequence's places, at most.
const BEFORE: usize = 128;
/// Tokens that are read in all.
const READ: usize = 512;
/// The same of a first sequence that is longer.
const MOST_READ: usize = 2048;
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// Examples that are looked into for places, at most.
const LOOKED_AT: usize = 256;

/// How likely some tokens are before training.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prior {
    /// The labels that were looked at, none of them a trained token.
    pub places: usize,
    /// For each of the tokens its mean probability there.
    pub probabilities: Vec<f64>,
}

/// A part of an example's sequence with some of its places, as a batch has them.
struct Window {
    ids: Vec<u32>,
    /// Whether a row is one of the places.
    is_place: Vec<bool>,
    encoder: Option<Vec<u32>>,
}

/// The mean probability of each of `tokens` in labelled places of `data` that belong to tokens which `model` does not train:
/// some 64 places, evenly over the data. `None` where there is no such place, or no vocabulary that is compared (sentence
/// encoders).
///
/// # Errors
/// As [`Runner::step`](crate::engine::runner::Runner::step).
pub fn prior(model: &PeftModel, data: &Dataset, tokens: &[u32]) -> Result<Option<Prior>> {
    let trained = model.token_indices().into_iter().collect();
    Elsewhere { model: model.base(), data, tokens, trained }.measure(model.active())
}

/// What is asked for where it does not belong.
pub(super) struct Elsewhere<'e> {
    pub(super) model: &'e PretrainedModel,
    pub(super) data: &'e Dataset,
    /// What is asked for.
    pub(super) tokens: &'e [u32],
    /// Labels that are no such places.
    pub(super) trained: HashSet<u32>,
}

impl Elsewhere<'_> {
    /// As [`prior`], with `rows`.
    pub(super) fn measure(&self, rows: ActiveRows<'_>) -> Result<Option<Prior>> {
        let Self { model, data, tokens, trained } = self;
        data.check_for(model)?;
        let kind = data.collator().kind();
        if kind == ModelKind::SentencePairs || tokens.is_empty() {
            return Ok(None);
        }
        // a decoder gives the logits of a place, and so all tokens at once
        let asked = if kind == ModelKind::Causal { 1 } else { tokens.len() };
        let windows = windows(data, trained, asked)?;
        let places: usize = windows.iter().map(|window| window.places()).sum();
        if places == 0 {
            return Ok(None);
        }
        let sums = match kind {
            ModelKind::Causal => self.of_logits(&windows, rows)?,
            _ => self.of_losses(&windows, rows)?,
        };
        let probabilities = sums.into_iter().map(|sum| sum / places as f64).collect();
        Ok(Some(Prior { places, probabilities }))
    }

    /// The tokens' probabilities added up over the places.
    fn of_logits(&self, windows: &[Window], rows: ActiveRows<'_>) -> Result<Vec<f64>> {
        let mut sums = vec![0f64; self.tokens.len()];
        // a place is a label, of whatever token
        let batch = batch(self.model.kind(), windows, &self.tokens[..1]);
        self.model.runner().each_logits(&batch, &rows.trained(), &mut |_, logits| {
            let largest = logits.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
            let all: f64 = logits.iter().map(|x| f64::from((x - largest).exp())).sum();
            for (sum, id) in sums.iter_mut().zip(self.tokens) {
                *sum += logits.get(*id as usize).map_or(0.0, |x| f64::from((x - largest).exp()) / all);
            }
        })?;
        Ok(sums)
    }

    /// The same of models that give no logits of labelled rows, by the losses that the tokens would have.
    fn of_losses(&self, windows: &[Window], rows: ActiveRows<'_>) -> Result<Vec<f64>> {
        let mut sums = vec![0f64; self.tokens.len()];
        let batch = batch(self.model.kind(), windows, self.tokens);
        let output = self.model.step(&batch, &rows.trained(), Wanted::Losses, StepOptions::default())?;
        for loss in &output.losses.losses {
            if let Some(at) = self.tokens.iter().position(|id| Some(*id) == loss.target) {
                sums[at] += f64::from(-loss.value).exp();
            }
        }
        Ok(sums)
    }
}

/// Sequences with the places that are looked at, each of which is read in so many `copies`.
fn windows(data: &Dataset, trained: &HashSet<u32>, copies: usize) -> Result<Vec<Window>> {
    let most = (COMPARED / copies).clamp(OF_SEQUENCE, PLACES);
    let (mut windows, mut places, mut read) = (Vec::<Window>::new(), 0, 0);
    let looked_at = data.len().min(LOOKED_AT);
    for nth in 0..looked_at {
        // multiples of the golden ratio fall evenly, however few are taken
        let share = (nth as f64 * GOLDEN).fract();
        let batch = data.batch(&[(share * data.len() as f64) as usize], 0)?;
        let left = (most - places).min(OF_SEQUENCE);
        let Some(window) = Window::of(&batch, trained, left, data.collator().kind()) else { continue };
        let size = copies * window.size();
        if read + size > if windows.is_empty() { MOST_READ } else { READ } {
            continue;
        }
        places += window.places();
        read += size;
        windows.push(window);
        if places >= most || read >= READ {
            break;
        }
    }
    Ok(windows)
}

impl Window {
    /// The first `most` places of the first sequence of a batch, with what stands before them; of two answers that is the chosen one.
    fn of(batch: &RaggedBatch, trained: &HashSet<u32>, most: usize, kind: ModelKind) -> Option<Self> {
        let is_other = |target: &Option<u32>| target.is_some_and(|id| !trained.contains(&id));
        let end = batch.starts.get(1).copied()?;
        let found = batch.targets.iter().take(end).enumerate().filter(|(_, target)| is_other(target));
        let rows: Vec<usize> = found.map(|(row, _)| row).take(most).collect();
        let (first, last) = (*rows.first()?, *rows.last()?);
        // an encoder reads all of a sequence, and a decoder what stands before
        let seen: Range<usize> = match kind {
            ModelKind::Causal => first.saturating_sub(BEFORE)..(last + 1).min(first + READ),
            _ => 0..end,
        };
        let is_place = seen.clone().map(|row| rows.binary_search(&row).is_ok()).collect();
        let encoder = batch.encoder.as_ref().map(|encoder| encoder.ids.clone());
        Some(Window { ids: batch.ids[seen].to_vec(), is_place, encoder })
    }

    fn places(&self) -> usize {
        self.is_place.iter().filter(|is_place| **is_place).count()
    }

    /// Tokens that a model reads.
    fn size(&self) -> usize {
        self.ids.len() + self.encoder.as_ref().map_or(0, Vec::len)
    }
}

/// The sequences once for each token, which is what every place is asked for.
fn batch(kind: ModelKind, windows: &[Window], tokens: &[u32]) -> RaggedBatch {
    let mut batch = RaggedBatch::new(kind);
    let mut encoder = RaggedRows { ids: Vec::new(), starts: vec![0] };
    let copies: Vec<(&Window, u32)> =
        tokens.iter().flat_map(|id| windows.iter().map(move |window| (window, *id))).collect();
    for (window, id) in &copies {
        let targets = window.is_place.iter().map(|is_place| is_place.then_some(*id));
        batch.push(window.ids.iter().copied(), targets, &[]);
        if let Some(ids) = &window.encoder {
            encoder.ids.extend(ids);
            encoder.starts.push(encoder.ids.len());
        }
    }
    if kind == ModelKind::Seq2Seq {
        batch.encoder = Some(encoder);
    }
    batch
}
