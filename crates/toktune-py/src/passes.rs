//! Forward passes: logits, hidden rows, sentence vectors, losses on held-out rows.

use crate::array::Array;
use crate::dataset::Dataset;
use crate::errors::argument;
use crate::model::{Model, Seen};
use crate::values::written;
use pyo3::prelude::*;
use toktune::data::ModelKind;
use toktune::data::RaggedBatch;
use toktune::engine::runner::TokenRows;
use toktune::peft::{ActiveRows, BASE_ADAPTER};
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
    model.compute(py, |seen| {
        check_ids(seen, &sequences)?;
        let base = seen.base();
        let width = base.vocabulary();
        let all = match (seen, base.kind()) {
            (_, ModelKind::Seq2Seq) => {
                let decoded = decoder_inputs(seen, labels.as_deref().unwrap_or_default());
                let (ids, starts) = joined(&decoded)?;
                let (read, read_starts) = joined(&sequences)?;
                let whole = |ids: &[u32], starts: &[usize], read: TokenRows<'_>, rows: ActiveRows<'_>| {
                    Ok::<_, toktune::Error>(base.runner().logits(
                        TokenRows { ids, starts },
                        Some(read),
                        &rows.trained(),
                    )?)
                };
                match &names {
                    None => {
                        whole(&ids, &starts, TokenRows { ids: &read, starts: &read_starts }, seen.active())?
                    }
                    // each with its own
                    Some(names) => {
                        if names.len() != decoded.len() {
                            return Err(toktune::Error::Argument {
                                name: "adapter_names",
                                expected: "one for each sequence",
                                found: names.len().to_string(),
                            });
                        }
                        let mut all = Vec::with_capacity(decoded.len());
                        for ((ids, read), name) in decoded.iter().zip(&sequences).zip(names) {
                            let rows = match (seen, *name) {
                                (_, BASE_ADAPTER) => ActiveRows::default(),
                                (Seen::Adapted(adapted), name) => adapted.rows_of_adapter(name)?,
                                (Seen::Base(_), _) => ActiveRows::default(),
                            };
                            let read = TokenRows { ids: read, starts: &[0, read.len()] };
                            all.extend(whole(ids, &[0, ids.len()], read, rows)?);
                        }
                        all
                    }
                }
            }
            (Seen::Adapted(adapted), _) => {
                let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
                adapted.forward(&sequences, names.as_deref())?
            }
            (Seen::Base(_), _) => {
                if !base.has_head() {
                    return Err(toktune::models::wrong_kind(base, ModelKind::Causal).into());
                }
                let (ids, starts) = joined(&sequences)?;
                let tokens = TokenRows { ids: &ids, starts: &starts };
                base.runner().logits(tokens, None, &seen.active().trained())?
            }
        };
        let shaped = |logits: Vec<f32>| {
            let rows = logits.len() / width.max(1);
            Array::new(logits, &[rows, width])
        };
        Ok(all.into_iter().map(shaped).collect())
    })
}

/// The last hidden rows of each sequence, `[tokens, d]`, as they meet the head of a decoder.
#[pyfunction]
pub fn hidden_states(py: Python<'_>, model: &Model, sequences: Vec<Vec<u32>>) -> PyResult<Vec<Array>> {
    model.compute(py, |seen| {
        check_ids(seen, &sequences)?;
        let active = seen.active();
        let mut found = Vec::with_capacity(sequences.len());
        for ids in &sequences {
            let mut batch = RaggedBatch::new(seen.base().kind());
            // rows that are labelled are read out; what they are labelled with plays no part
            batch.push(ids.iter().copied(), ids.iter().map(|id| Some(*id)), &[]);
            let rows = seen.base().runner().teach(&batch, &active.trained(), false)?;
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
        toktune::train::evaluate(seen.base(), seen.active(), &data.inner, batch_size, &chosen)
    })?;
    written(&evaluation)
}
