//! Forward passes: logits, hidden rows, sentence vectors, losses on held-out rows.

use crate::array::Array;
use crate::dataset::Dataset;
use crate::errors::{argument, raise};
use crate::interrupt::{asked, raised};
use crate::model::{Model, Seen};
use crate::values::written;
use pyo3::prelude::*;
use std::ops::Range;
use toktune::data::ModelKind;
use toktune::data::RaggedBatch;
use toktune::engine::runner::TokenRows;
use toktune::peft::{ActiveRows, BASE_ADAPTER};
use toktune::train::evaluate_until;
use toktune::{EngineError, Result};

/// Sequences one after the other, and where each starts.
fn joined(sequences: &[Vec<u32>]) -> Result<(Vec<u32>, Vec<usize>)> {
    if sequences.iter().any(Vec::is_empty) {
        return Err(EngineError::EmptyPrompt.into());
    }
    let mut starts = vec![0];
    starts.extend(sequences.iter().scan(0, |end, ids| {
        *end += ids.len();
        Some(*end)
    }));
    Ok((sequences.concat(), starts))
}

fn check_ids(seen: Seen<'_>, sequences: &[Vec<u32>]) -> Result<()> {
    let rows = seen.base().vocabulary();
    match sequences.iter().flatten().find(|id| **id as usize >= rows) {
        Some(&id) => Err(EngineError::TokenOutOfRange { id: id.into(), rows }.into()),
        None => Ok(()),
    }
}

/// What the decoder of an encoder-decoder reads for labels: what comes before each.
fn decoder_inputs(seen: Seen<'_>, labels: &[Vec<i64>]) -> Vec<Vec<u32>> {
    let Some(inputs) = seen.base().decoder_inputs() else { return Vec::new() };
    let of = |labels: &Vec<i64>| -> Vec<Option<u32>> {
        labels.iter().map(|label| u32::try_from(*label).ok()).collect()
    };
    labels.iter().map(|labels| inputs.of(&of(labels)).collect()).collect()
}

/// The logits of each sequence, `[tokens, vocabulary]`. Those of an encoder-decoder are its decoder's, which reads what comes before
/// each of the `labels`. With names, each sequence has an adapter of its own.
#[pyfunction]
pub fn logits(
    py: Python<'_>,
    model: &Model,
    sequences: Vec<Vec<u32>>,
    labels: Option<Vec<Vec<i64>>>,
    adapter_names: Option<Vec<String>>,
) -> PyResult<Vec<Array>> {
    let names: Option<Vec<&str>> = adapter_names.as_ref().map(|of| of.iter().map(String::as_str).collect());
    if let Some(names) = names.as_ref().filter(|names| names.len() != sequences.len()) {
        return Err(argument("adapter_names", "one for each sequence", names.len()));
    }
    model.look(py, |seen| {
        check_ids(seen, &sequences).map_err(raise)?;
        let width = seen.base().vocabulary();
        let decoded = match seen.base().kind() {
            ModelKind::Seq2Seq => Some(decoder_inputs(seen, labels.as_deref().unwrap_or_default())),
            _ => None,
        };
        let mut found = Vec::with_capacity(sequences.len());
        for some in passes(&sequences) {
            // Ctrl-C
            py.check_signals()?;
            let names = names.as_ref().map(|names| &names[some.clone()]);
            let read = &sequences[some.clone()];
            let pass = || match &decoded {
                Some(decoded) => {
                    decoder_logits(seen, (read, decoded.get(some.clone()).unwrap_or_default()), names)
                }
                None => plain_logits(seen, read, names),
            };
            let shaped = |logits: Vec<f32>| {
                let rows = logits.len() / width.max(1);
                Array::new(logits, &[rows, width])
            };
            found.extend(py.detach(pass).map_err(raise)?.into_iter().map(shaped));
        }
        Ok(found)
    })
}

/// Sequences that are computed in one pass: as many as have no more than some tokens together, so that Ctrl-C is heard in between.
fn passes(sequences: &[Vec<u32>]) -> Vec<Range<usize>> {
    const TOKENS: usize = 8192;
    let (mut passes, mut begun, mut tokens) = (Vec::new(), 0, 0);
    for (at, ids) in sequences.iter().enumerate() {
        if at > begun && tokens + ids.len() > TOKENS {
            passes.push(begun..at);
            (begun, tokens) = (at, 0);
        }
        tokens += ids.len();
    }
    passes.push(begun..sequences.len());
    passes
}

/// The logits of a model without an encoder before its decoder.
fn plain_logits(seen: Seen<'_>, sequences: &[Vec<u32>], names: Option<&[&str]>) -> Result<Vec<Vec<f32>>> {
    match seen {
        Seen::Adapted(adapted) => {
            let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            Ok(adapted.forward(&sequences, names)?)
        }
        Seen::Base(base) => {
            if !base.has_head() {
                return Err(toktune::models::wrong_kind(base, ModelKind::Causal).into());
            }
            let (ids, starts) = joined(sequences)?;
            let tokens = TokenRows { ids: &ids, starts: &starts };
            Ok(base.runner().logits(tokens, None, &seen.active().trained())?)
        }
    }
}

/// The logits of an encoder-decoder for what it reads and what its decoder reads.
fn decoder_logits(
    seen: Seen<'_>,
    (read, decoded): (&[Vec<u32>], &[Vec<u32>]),
    names: Option<&[&str]>,
) -> Result<Vec<Vec<f32>>> {
    let whole = |read: &[Vec<u32>], decoded: &[Vec<u32>], rows: ActiveRows<'_>| -> Result<Vec<Vec<f32>>> {
        let (ids, starts) = joined(decoded)?;
        let (read, read_starts) = joined(read)?;
        let read = TokenRows { ids: &read, starts: &read_starts };
        let tokens = TokenRows { ids: &ids, starts: &starts };
        Ok(seen.base().runner().logits(tokens, Some(read), &rows.trained())?)
    };
    let Some(names) = names else { return whole(read, decoded, seen.active()) };
    // each with its own
    let mut all = Vec::with_capacity(decoded.len());
    for (at, name) in names.iter().enumerate() {
        let rows = match (seen, *name) {
            (_, BASE_ADAPTER) | (Seen::Base(_), _) => ActiveRows::default(),
            (Seen::Adapted(adapted), name) => adapted.rows_of_adapter(name)?,
        };
        all.extend(whole(&read[at..=at], &decoded[at..=at], rows)?);
    }
    Ok(all)
}

/// The last hidden rows of each sequence, `[tokens, d]`, as they meet the head of a decoder.
#[pyfunction]
pub fn hidden_states(py: Python<'_>, model: &Model, sequences: Vec<Vec<u32>>) -> PyResult<Vec<Array>> {
    model.look(py, |seen| {
        check_ids(seen, &sequences).map_err(raise)?;
        let active = seen.active();
        let mut found = Vec::with_capacity(sequences.len());
        for ids in &sequences {
            // Ctrl-C
            py.check_signals()?;
            let mut batch = RaggedBatch::new(seen.base().kind());
            // rows that are labelled are read out; what they are labelled with plays no part
            batch.push(ids.iter().copied(), ids.iter().map(|id| Some(*id)), &[]);
            let teach = || seen.base().runner().teach(&batch, &active.trained(), false);
            let rows = py.detach(teach).map_err(raise)?;
            let width = rows.states.len() / ids.len().max(1);
            found.push(Array::new(rows.states, &[ids.len(), width]));
        }
        Ok(found)
    })
}

/// A vector for each sequence, `[sequences, d]`, as the files of a model of sentences say.
#[pyfunction]
pub fn sentence_embeddings(py: Python<'_>, model: &Model, sequences: Vec<Vec<u32>>) -> PyResult<Array> {
    if sequences.is_empty() {
        return Err(argument("sentences", "at least one", "none"));
    }
    model.compute(py, |seen| {
        check_ids(seen, &sequences)?;
        if seen.base().kind() != ModelKind::SentencePairs {
            return Err(toktune::models::wrong_kind(seen.base(), ModelKind::SentencePairs).into());
        }
        let (ids, starts) = joined(&sequences)?;
        let tokens = TokenRows { ids: &ids, starts: &starts };
        let vectors = seen.base().runner().vectors(tokens, &seen.active().trained())?;
        let (count, width) = (vectors.len(), vectors.first().map_or(0, Vec::len));
        Ok(Array::new(vectors.concat(), &[count, width]))
    })
}

/// Loss and perplexity on a dataset, as JSON.
#[pyfunction]
pub fn evaluate(py: Python<'_>, model: &Model, data: &Dataset, batch_size: usize) -> PyResult<String> {
    if batch_size == 0 {
        return Err(argument("per_device_eval_batch_size", "at least 1", 0));
    }
    let evaluation = model.compute(py, |seen| {
        data.inner.check_for(seen.base())?;
        let chosen = match seen {
            Seen::Adapted(model) => model.token_indices(),
            Seen::Base(_) => Vec::new(),
        };
        evaluate_until(seen.base(), seen.active(), &data.inner, batch_size, &chosen, &mut asked)
    })?;
    match evaluation {
        Some(evaluation) => written(&evaluation),
        None => Err(raised(py)),
    }
}
