//! Checkpoints of a run: the adapter as PEFT's files, and what it takes to go on exactly.
//!
//! A checkpoint is a folder `checkpoint-N` that is put together under another name and renamed when it is whole.

use super::optimizer::AdamW;
use crate::data::Position;
use crate::error::{Error, Result};
use crate::tuners::{PeftModel, SaveEmbeddingLayers};
use crate::weights::{Checkpoint, write_atomically};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

const STATE_FILE: &str = "trainer_state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Where a run stands, and the settings that must be the same for it to go on exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainerState {
    pub(super) step: u64,
    pub(super) position: Position,
    pub(super) settings: Settings,
}

/// What the order of the rows depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) seed: u64,
    pub(super) shuffle: bool,
    pub(super) batch_size: usize,
    pub(super) gradient_accumulation_steps: usize,
    pub(super) rows: usize,
    pub(super) tokens: usize,
    pub(super) token_indices: Vec<u32>,
}

impl Settings {
    /// The first setting that differs, as `(name, in the checkpoint, now)`.
    fn difference(&self, now: &Self) -> Option<(&'static str, String, String)> {
        let pairs = [
            ("seed", self.seed.to_string(), now.seed.to_string()),
            ("shuffle", self.shuffle.to_string(), now.shuffle.to_string()),
            ("batch_size", self.batch_size.to_string(), now.batch_size.to_string()),
            (
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps.to_string(),
                now.gradient_accumulation_steps.to_string(),
            ),
            ("rows of data", self.rows.to_string(), now.rows.to_string()),
            ("tokens of data", self.tokens.to_string(), now.tokens.to_string()),
            ("token_indices", format!("{:?}", self.token_indices), format!("{:?}", now.token_indices)),
        ];
        pairs.into_iter().find(|(_, then, now)| then != now)
    }
}

/// Writes the checkpoint of `state` into `folder` and returns its folder.
pub(super) fn save(
    folder: &Path,
    model: &PeftModel,
    optimizer: &AdamW,
    state: &TrainerState,
) -> Result<PathBuf> {
    let done = folder.join(format!("checkpoint-{}", state.step));
    let part = folder.join(format!(".checkpoint-{}.part", state.step));
    for old in [&part, &done] {
        if old.exists() {
            std::fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
    }
    let name = model.trained_adapter()?.name();
    model.save_adapter(name, &part, SaveEmbeddingLayers::No)?;
    let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let moments: Vec<(String, usize, Vec<u8>)> = optimizer
        .moments
        .iter()
        .enumerate()
        .flat_map(|(i, (m, v))| {
            [(format!("{i}.m"), m.len(), bytes(m)), (format!("{i}.v"), v.len(), bytes(v))]
        })
        .collect();
    let fault = |e: safetensors::SafeTensorError| Error::Serialise(e.to_string());
    let views = moments
        .iter()
        .map(|(name, n, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, vec![*n], bytes).map_err(fault)?))
        })
        .collect::<Result<Vec<_>>>()?;
    write(&part.join(OPTIMIZER_FILE), &serialize(views, None).map_err(fault)?)?;
    let json = serde_json::to_string_pretty(state).map_err(|e| Error::Serialise(e.to_string()))?;
    write(&part.join(STATE_FILE), json.as_bytes())?;
    std::fs::rename(&part, &done).map_err(Error::io(&done))?;
    Ok(done)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.write_all(bytes).map_err(Error::io(path)))
}

/// The checkpoint in `folder` with the most steps.
pub(super) fn latest(folder: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let step = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_prefix("checkpoint-")?.parse().ok());
        if let Some(step) = step.filter(|step| best.as_ref().is_none_or(|(most, _)| step > most)) {
            best = Some((step, path));
        }
    }
    Ok(best.map(|(_, path)| path))
}

/// Restores rows and optimizer from a checkpoint, and says where the run stood.
pub(super) fn load(
    folder: &Path,
    model: &mut PeftModel,
    optimizer: &mut AdamW,
    now: &Settings,
) -> Result<TrainerState> {
    let path = folder.join(STATE_FILE);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let fault = |e: serde_json::Error| Error::Config {
        path: path.clone(),
        key: "(state)".into(),
        problem: e.to_string(),
    };
    let state: TrainerState = serde_json::from_str(&text).map_err(fault)?;
    if let Some((name, found, expected)) = state.settings.difference(now) {
        return Err(Error::ResumeMismatch { path, name, found, expected });
    }
    model.load_values(folder)?;
    let stored = Checkpoint::open(&folder.join(OPTIMIZER_FILE))?;
    for (i, (m, v)) in optimizer.moments.iter_mut().enumerate() {
        for (name, moment) in [(format!("{i}.m"), m), (format!("{i}.v"), v)] {
            let values = stored.vector(&name, moment.len())?;
            moment.copy_from_slice(&values);
        }
    }
    optimizer.step = state.step;
    Ok(state)
}
