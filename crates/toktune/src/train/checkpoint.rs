//! Checkpoints of a run: the adapter as PEFT's files, and what it takes to go on exactly.
//!
//! A checkpoint loads as an adapter: its tokenizer is in it when tokens were added.
//! It is a folder `checkpoint-N` that is put together under another name and renamed when it is whole.

use super::best::BestSoFar;
use super::callback::ChangedSetting;
use super::evaluate::Evaluation;
use super::history::EvaluatedStep;
use super::log::StepLog;
use super::optimizer::AdamW;
use super::settings::Settings;
use crate::data::Position;
use crate::error::{Error, Result};
use crate::peft::{PeftModel, SaveEmbeddingLayers};
use crate::text::AutoTokenizer;
use crate::weights::WeightsError;
use crate::weights::{Checkpoint, write_atomically};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

const STATE_FILE: &str = "trainer_state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const BEST_FILE: &str = "best.safetensors";

/// Where a run stands, and the settings that must be the same for it to go on exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainerState {
    pub(super) step: u64,
    pub(super) position: Position,
    pub(super) settings: Settings,
    /// The evaluation before the first step of all, and that step.
    pub(super) beginning: (Option<Evaluation>, Option<StepLog>),
    /// The norms that the rows of each layer started with, where they keep them.
    #[serde(default)]
    pub(super) norms: Option<Vec<Vec<f64>>>,
    /// The best evaluation so far; the values that gave it are in a file of their own.
    #[serde(default)]
    pub(super) best: BestSoFar,
    /// The evaluations so far.
    #[serde(default)]
    pub(super) evaluations: Vec<EvaluatedStep>,
}

/// Writes the checkpoint of `state` into `folder` and returns its folder.
pub(super) fn save(
    folder: &Path,
    model: &PeftModel,
    optimizer: &AdamW,
    tokenizer: Option<&AutoTokenizer>,
    state: &TrainerState,
) -> Result<PathBuf> {
    let done = folder.join(format!("checkpoint-{}", state.step));
    let part = folder.join(format!(".checkpoint-{}.part", state.step));
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(WeightsError::io(&part))?;
    }
    let name = model.trained_adapter()?.name();
    model.save_adapter(name, &part, SaveEmbeddingLayers::No)?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save_pretrained(&part)?;
    }
    let moments = optimizer
        .moments
        .iter()
        .flat_map(|(name, (m, v))| [(format!("{name}.m"), m.as_slice()), (format!("{name}.v"), v)]);
    write_tensors(&part.join(OPTIMIZER_FILE), moments)?;
    if !state.best.values.is_empty() {
        let best = state.best.values.iter().map(|(name, values)| (name.clone(), values.as_slice()));
        write_tensors(&part.join(BEST_FILE), best)?;
    }
    let json = serde_json::to_string_pretty(state).map_err(|e| WeightsError::Serialise(e.to_string()))?;
    write(&part.join(STATE_FILE), json.as_bytes())?;
    // the old one of this step goes when the new one is whole
    if done.exists() {
        std::fs::remove_dir_all(&done).map_err(WeightsError::io(&done))?;
    }
    std::fs::rename(&part, &done).map_err(WeightsError::io(&done))?;
    Ok(done)
}

/// Writes vectors by their names.
fn write_tensors<'v>(path: &Path, vectors: impl Iterator<Item = (String, &'v [f32])>) -> Result<()> {
    let fault = |e: safetensors::SafeTensorError| WeightsError::Serialise(e.to_string());
    let bytes =
        |(name, x): (String, &[f32])| (name, x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let vectors: Vec<(String, Vec<u8>)> = vectors.map(bytes).collect();
    let views = vectors
        .iter()
        .map(|(name, bytes)| {
            let length = vec![bytes.len() / size_of::<f32>()];
            Ok((name.as_str(), TensorView::new(Dtype::F32, length, bytes).map_err(fault)?))
        })
        .collect::<Result<Vec<_>>>()?;
    write(path, &serialize(views, None).map_err(fault)?)
}

/// Removes all checkpoints in `folder` but the `most` newest ones.
pub(super) fn prune(folder: &Path, most: u64) -> Result<()> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    for old in all(folder)?.into_iter().filter(|path| path.join(STATE_FILE).is_file()).skip(most) {
        // under the name of one that is not whole, so that nothing half removed is taken for a checkpoint
        let name = old.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let going = folder.join(format!(".{name}.part"));
        std::fs::rename(&old, &going).map_err(WeightsError::io(&old))?;
        std::fs::remove_dir_all(&going).map_err(WeightsError::io(&going))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_atomically(path, |file| file.write_all(bytes).map_err(WeightsError::io(path)))?)
}

/// The checkpoints in `folder`, the one with the most steps first.
pub(super) fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(WeightsError::io(folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let step = name.and_then(|n| n.strip_prefix("checkpoint-")?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// What a checkpoint holds beside the trained values, which are in the model then.
pub(super) struct Resumed {
    pub(super) state: TrainerState,
    /// The settings that are others now.
    pub(super) changes: Vec<ChangedSetting>,
}

/// Restores rows and optimizer from the newest checkpoint in `folder`; `None` when there is none. With `anyway` the run may
/// have other settings than it began with.
///
/// # Errors
/// The run has other settings now; the checkpoint is damaged: then the error names the one before it.
pub(super) fn resume(
    folder: &Path,
    model: &mut PeftModel,
    optimizer: &mut AdamW,
    now: &Settings,
    anyway: bool,
) -> Result<Option<Resumed>> {
    let all = all(folder)?;
    let Some(newest) = all.first() else { return Ok(None) };
    let path = newest.join(STATE_FILE);
    let damaged = |source: Error| Error::DamagedCheckpoint {
        path: newest.clone(),
        before: all.get(1).cloned(),
        source: Box::new(source),
    };
    let mut state = read_state(&path).map_err(damaged)?;
    let changes = state.settings.changes(now);
    if !changes.is_empty() && !anyway {
        return Err(Error::ResumeMismatch { path, changes });
    }
    restore(newest, model, optimizer).map_err(damaged)?;
    state.best.values = best_values(newest, model).map_err(damaged)?;
    optimizer.step = state.step;
    Ok(Some(Resumed { state, changes }))
}

fn read_state(path: &Path) -> Result<TrainerState> {
    let text = std::fs::read_to_string(path).map_err(WeightsError::io(path))?;
    let fault =
        |source| WeightsError::Json { path: path.to_path_buf(), what: "the state of the run", source };
    Ok(serde_json::from_str(&text).map_err(fault)?)
}

fn restore(folder: &Path, model: &mut PeftModel, optimizer: &mut AdamW) -> Result<()> {
    model.load_values(folder)?;
    let stored = Checkpoint::open(&folder.join(OPTIMIZER_FILE))?;
    for (parameter, (m, v)) in &mut optimizer.moments {
        for (name, moment) in [(format!("{parameter}.m"), m), (format!("{parameter}.v"), v)] {
            let values = stored.vector(&name, moment.len())?;
            moment.copy_from_slice(&values);
        }
    }
    Ok(())
}

/// The values that gave the best evaluation; nothing where none are kept.
fn best_values(folder: &Path, model: &PeftModel) -> Result<Vec<(String, Vec<f32>)>> {
    let path = folder.join(BEST_FILE);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let stored = Checkpoint::open(&path)?;
    let of = |p: crate::peft::Parameter<'_>| Ok((p.name.clone(), stored.vector(&p.name, p.values.len())?));
    model.parameters().into_iter().map(of).collect()
}
