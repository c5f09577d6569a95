//! How likely the trained tokens are before training, in places that belong to others.
//!
//! A row of the head decides that alone. One that starts too near to what the model says everywhere takes probability from
//! every other token; one that starts far away has to be brought back before it is ever said.

use crate::data::Dataset;
use crate::engine::batch::{RaggedBatch, RaggedRows};
use crate::engine::prefixes::Prefixes;
use crate::engine::runner::{StepOptions, Wanted};
use crate::error::Result;
use crate::models::{ModelKind, PretrainedModel};
use crate::peft::PeftModel;
use std::collections::HashSet;
use std::ops::Range;

/// Labels that are looked at.
const PLACES: usize = 64;
/// Of one sequence, at most.
const OF_SEQUENCE: usize = 16;
/// Rows of the head that are compared in all: places by tokens.
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
    data.check_for(model.base())?;
    if data.collator().kind() == ModelKind::SentencePairs || tokens.is_empty() {
        return Ok(None);
    }
    let windows = windows(model, data, tokens.len())?;
    let places: usize = windows.iter().map(|window| window.places()).sum();
    if places == 0 {
        return Ok(None);
    }
    let batch = batch(model.base(), &windows, tokens);
    let active = model.active();
    let output = model.base().step(&batch, &active.trained(), Wanted::Losses, StepOptions::default())?;
    let mut sums = vec![0f64; tokens.len()];
    for loss in &output.losses.losses {
        if let Some(at) = tokens.iter().position(|id| Some(*id) == loss.target) {
            sums[at] += f64::from(-loss.value).exp();
        }
    }
    let probabilities = sums.into_iter().map(|sum| sum / places as f64).collect();
    Ok(Some(Prior { places, probabilities }))
}

/// Sequences with the places that are looked at.
fn windows(model: &PeftModel, data: &Dataset, tokens: usize) -> Result<Vec<Window>> {
    let trained: HashSet<u32> = model.token_indices().into_iter().collect();
    let most = (COMPARED / tokens).clamp(OF_SEQUENCE, PLACES);
    // only what a causal model reads is shared by the copies that ask for another token each
    let copies = if data.collator().kind() == ModelKind::Causal { 1 } else { tokens };
    let (mut windows, mut places, mut read) = (Vec::<Window>::new(), 0, 0);
    let looked_at = data.len().min(LOOKED_AT);
    for nth in 0..looked_at {
        // multiples of the golden ratio fall evenly, however few are taken
        let share = (nth as f64 * GOLDEN).fract();
        let batch = data.batch(&[(share * data.len() as f64) as usize], 0)?;
        let left = (most - places).min(OF_SEQUENCE);
        let Some(window) = Window::of(&batch, &trained, left, data.collator().kind()) else { continue };
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
    /// The first `most` places of the one sequence of a batch, with what stands before them.
    fn of(batch: &RaggedBatch, trained: &HashSet<u32>, most: usize, kind: ModelKind) -> Option<Self> {
        let is_other = |target: &Option<u32>| target.is_some_and(|id| !trained.contains(&id));
        let found = batch.targets.iter().enumerate().filter(|(_, target)| is_other(target));
        let rows: Vec<usize> = found.map(|(row, _)| row).take(most).collect();
        let (first, last) = (*rows.first()?, *rows.last()?);
        // an encoder reads all of a sequence, and a decoder what stands before
        let seen: Range<usize> = match kind {
            ModelKind::Causal => first.saturating_sub(BEFORE)..(last + 1).min(first + READ),
            _ => 0..batch.ids.len(),
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

/// The sequences once for each token, which is what every place is asked for; what causal models read of them is computed
/// once.
fn batch(model: &PretrainedModel, windows: &[Window], tokens: &[u32]) -> RaggedBatch {
    let mut batch = RaggedBatch::new(model.kind());
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
    match model.kind() {
        ModelKind::Causal => {
            let token = |sequence: usize, at: usize| copies[sequence].0.ids.get(at).copied();
            let class = |sequence: usize| model.rotation_class(copies[sequence].0.ids.len());
            let prefixes = Prefixes::of(copies.len(), token, class);
            batch.segments = (0..copies.len()).map(|sequence| prefixes.of_sequence(sequence)).collect();
        }
        ModelKind::Seq2Seq => batch.encoder = Some(encoder),
        _ => {}
    }
    batch
}
