//! What is reported of every optimizer step, and the file it is kept in.

use super::evaluate::Evaluation;
use super::norms::Norms;
use super::preference::PreferenceMetrics;
use crate::error::Result;
use crate::weights::WeightsError;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of the log in a run's folder.
pub const LOG_FILE: &str = "train_log.jsonl";

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepLog {
    /// Steps taken, this one included.
    pub step: u64,
    /// Passes over the data so far, with the part of the running one.
    pub epoch: f64,
    /// Mean over the step's labels, in nats, before the update.
    pub loss: f64,
    /// The rate of this step.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Input tokens of the step; there is no padding.
    pub tokens: usize,
    /// Labels of the step.
    pub loss_tokens: usize,
    /// Wall-clock time of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// Largest resident memory of the process so far, mapped weights included; `None` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// Norms of the trained rows after the update, over the median of the vocabulary's; `None` without rows.
    #[serde(default)]
    pub norms: Option<Norms>,
    /// [`Evaluation::leak`](super::Evaluation::leak) of the held-out rows after the update, in the log's file and where they were evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak: Option<f64>,
    /// The same of [`Evaluation::emission`](super::Evaluation::emission).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emission: Option<f64>,
    /// Of two answers to one prompt: how they compare, before the update.
    #[serde(flatten)]
    pub preference: Option<PreferenceMetrics>,
}

/// The log file of a run, appended to a line a step.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// The step that was written last, and where its line begins.
    last: Option<(StepLog, u64)>,
}

impl LogFile {
    /// Opens the log in `folder`, and drops what is there of steps after `step`: a resumed run takes them again.
    pub(super) fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(LOG_FILE);
        let kept: String = match std::fs::read_to_string(&path) {
            Ok(text) if step > 0 => {
                text.lines().filter(|line| is_before(line, step)).map(|l| format!("{l}\n")).collect()
            }
            _ => String::new(),
        };
        crate::weights::write_atomically(&path, |file| {
            file.write_all(kept.as_bytes()).map_err(WeightsError::io(&path))
        })?;
        let file = OpenOptions::new().append(true).open(&path).map_err(WeightsError::io(&path))?;
        Ok(Self { path, file, last: None })
    }

    pub(super) fn write(&mut self, log: &StepLog) -> Result<()> {
        let begins = self.file.metadata().map_err(WeightsError::io(&self.path))?.len();
        self.last = Some((log.clone(), begins));
        self.append(log)
    }

    /// Writes the last step once more, with what the held-out rows came to after it. There may be nothing to say.
    pub(super) fn evaluated(&mut self, evaluation: &Evaluation) -> Result<()> {
        let Some((mut log, begins)) = self.last.take() else { return Ok(()) };
        (log.leak, log.emission) = (evaluation.leak, evaluation.emission);
        if log.leak.is_none() && log.emission.is_none() {
            return Ok(());
        }
        self.file.set_len(begins).map_err(WeightsError::io(&self.path))?;
        self.append(&log)
    }

    fn append(&mut self, log: &StepLog) -> Result<()> {
        let line = serde_json::to_string(log).map_err(|e| WeightsError::Serialise(e.to_string()))?;
        Ok(writeln!(self.file, "{line}").map_err(WeightsError::io(&self.path))?)
    }
}

fn is_before(line: &str, step: u64) -> bool {
    serde_json::from_str::<StepLog>(line).is_ok_and(|log| log.step <= step)
}

/// The steps that the log in a run's folder has, in their order; none where there is no log. Lines that are no steps are passed
/// over: a run that was killed may have left half of one.
pub fn read_log(folder: &Path) -> Vec<StepLog> {
    let text = std::fs::read_to_string(folder.join(LOG_FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The largest resident memory of this process so far, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is valid for writes of an `rusage`, which is all that `getrusage` asks for.
        let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } == 0;
        // SAFETY: an `rusage` is plain numbers, for which zeros are valid, so it is initialised either way.
        let largest = unsafe { usage.assume_init() }.ru_maxrss;
        // Linux counts kilobytes, macOS bytes
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        done.then_some(largest as u64 * unit)
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(step: u64) -> StepLog {
        StepLog {
            step,
            epoch: 0.5,
            loss: 1.0,
            learning_rate: 0.1,
            grad_norm: 2.0,
            tokens: 3,
            loss_tokens: 2,
            seconds: 0.5,
            tokens_per_second: 6.0,
            peak_memory_bytes: peak_memory_bytes(),
            norms: None,
            leak: None,
            emission: None,
            preference: None,
        }
    }

    #[test]
    fn a_resumed_log_keeps_the_steps_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let steps = || -> Vec<u64> {
            let text = std::fs::read_to_string(folder.path().join(LOG_FILE)).expect("a log");
            text.lines().map(|l| serde_json::from_str::<StepLog>(l).expect("a step").step).collect()
        };
        let mut file = LogFile::open(folder.path(), 0).expect("opened");
        (1..=4).for_each(|step| file.write(&log(step)).expect("written"));
        let mut file = LogFile::open(folder.path(), 2).expect("opened");
        file.write(&log(3)).expect("written");
        assert_eq!(steps(), [1, 2, 3]);
        let read = |folder: &Path| read_log(folder).iter().map(|log| log.step).collect::<Vec<_>>();
        writeln!(file.file, "{{\"step\": 4, \"epo").expect("written");
        assert_eq!(read(folder.path()), [1, 2, 3]);
        assert!(read(&folder.path().join("none")).is_empty());
        LogFile::open(folder.path(), 0).expect("opened");
        assert!(steps().is_empty());
    }

    #[test]
    fn memory_is_told_where_the_system_tells_it() {
        assert!(!cfg!(unix) || peak_memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
