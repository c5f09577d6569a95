//! Event files that TensorBoard shows: one record a step and one an evaluation.
//!
//! A file is a sequence of TFRecords, each a length and a message with their masked CRC-32C; a message is TensorFlow's `Event` with
//! a `Summary` of plain values. Both formats are fixed since TensorFlow 1.

use super::callback::TrainerCallback;
use super::evaluate::Evaluation;
use super::log::StepLog;
use crate::peft::PeftModel;
use crate::weights::WeightsError;
use std::fs::{File, create_dir_all};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of event files in a run's folder, as transformers calls it.
pub const RUNS: &str = "runs";

/// Writes the numbers of a run into `runs/` of its folder. A run that is resumed gets a file of its own, and TensorBoard puts the two
/// together.
///
/// A callback cannot fail: what went wrong with the file is kept, and nothing more is written.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    /// Until the first step there is no folder to write into.
    waiting: Vec<u8>,
    file: Option<File>,
    fault: Option<WeightsError>,
}

impl TensorBoard {
    /// For a run into `folder`; nothing is written before its first step.
    pub fn new(folder: &Path) -> Self {
        let mut board = Self { folder: folder.join(RUNS), waiting: Vec::new(), file: None, fault: None };
        // field 3 of an event: what kind of file this is
        let version = b"brain.Event:2";
        let mut event = time();
        event.extend([0x1a, version.len() as u8]);
        event.extend(version);
        board.waiting.extend(record(&event));
        board
    }

    /// Why the file ended before the run did.
    pub fn fault(&self) -> Option<&WeightsError> {
        self.fault.as_ref()
    }

    /// Adds the values of a step.
    fn put(&mut self, step: u64, values: &[(String, f64)], begins: bool) {
        self.waiting.extend(record(&event(step, values)));
        if self.fault.is_some() || (self.file.is_none() && !begins) {
            return;
        }
        if let Err(fault) = self.flush() {
            self.fault = Some(fault);
        }
    }

    fn flush(&mut self) -> Result<(), WeightsError> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                create_dir_all(&self.folder).map_err(WeightsError::io(&self.folder))?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let name = format!("events.out.tfevents.{}.{}.toktune", now.as_micros(), std::process::id());
                let path = self.folder.join(name);
                self.file.insert(File::create_new(&path).map_err(WeightsError::io(&path))?)
            }
        };
        file.write_all(&self.waiting).map_err(WeightsError::io(&self.folder))?;
        self.waiting.clear();
        Ok(())
    }
}

impl TrainerCallback for TensorBoard {
    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        let mut values = vec![
            ("train/loss".to_owned(), log.loss),
            ("train/learning_rate".to_owned(), log.learning_rate),
            ("train/grad_norm".to_owned(), log.grad_norm),
            ("train/epoch".to_owned(), log.epoch),
            ("train/tokens_per_second".to_owned(), log.tokens_per_second),
        ];
        values
            .extend(log.peak_memory_bytes.map(|bytes| ("train/peak_memory_bytes".to_owned(), bytes as f64)));
        let compared = log.preference.iter().flat_map(|of| of.named());
        values.extend(compared.map(|(name, value)| (format!("train/{name}"), value)));
        self.put(log.step, &values, true);
        ControlFlow::Continue(())
    }

    fn on_evaluate(&mut self, _: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        let mut values = vec![("eval/loss".to_owned(), evaluation.loss)];
        match (evaluation.nearest, &evaluation.preference) {
            (Some(share), _) => values.push(("eval/nearest".to_owned(), share)),
            (None, Some(of)) => {
                values.extend(of.named().map(|(name, value)| (format!("eval/{name}"), value)));
            }
            (None, None) => values.push(("eval/perplexity".to_owned(), evaluation.perplexity)),
        }
        values.extend(evaluation.token_loss.map(|loss| ("eval/token_loss".to_owned(), loss)));
        values.extend(evaluation.leak.map(|leak| ("eval/leak".to_owned(), leak)));
        values.extend(evaluation.emission.map(|rate| ("eval/emission".to_owned(), rate)));
        self.put(step, &values, false);
        ControlFlow::Continue(())
    }
}

/// Field 1 of an event: the time, in seconds.
fn time() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    [&[0x09][..], &now.to_le_bytes()].concat()
}

/// An event with plain values.
fn event(step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut of = vec![0x0a];
        of.extend(varint(tag.len() as u64));
        of.extend(tag.as_bytes());
        of.push(0x15);
        of.extend((*value as f32).to_le_bytes());
        summary.push(0x0a);
        summary.extend(varint(of.len() as u64));
        summary.extend(of);
    }
    let mut event = time();
    event.push(0x10);
    event.extend(varint(step));
    event.push(0x2a);
    event.extend(varint(summary.len() as u64));
    event.extend(summary);
    event
}

/// A message in its frame.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let sums = [masked(crc32c(&length)), masked(crc32c(message))].map(u32::to_le_bytes);
    [&length[..], &sums[0], message, &sums[1]].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The sum as it is stored: one of data that hold sums would be weak.
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes a step.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standard() {
        // RFC 3720, B.4, and the catalogue's check value
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn messages_are_those_that_protobuf_writes() {
        let values = [("a/b".to_owned(), 1.5)];
        let event = event(300, &values);
        // after the time: step 300, then a summary of one value
        assert_eq!(
            event[9..],
            [0x10, 0xac, 0x02, 0x2a, 12, 0x0a, 10, 0x0a, 3, b'a', b'/', b'b', 0x15, 0, 0, 0xc0, 0x3f]
        );
        let record = record(&event);
        assert_eq!(record.len(), event.len() + 16);
        assert_eq!(record[..8], (event.len() as u64).to_le_bytes());
    }

    #[test]
    fn nothing_is_written_before_a_step_and_a_fault_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut board = TensorBoard::new(folder.path());
        board.put(0, &[("eval/loss".into(), 3.0)], false);
        assert!(!folder.path().join(RUNS).exists());
        board.put(1, &[("train/loss".into(), 2.0)], true);
        let files: Vec<_> = std::fs::read_dir(folder.path().join(RUNS)).expect("a folder").collect();
        assert!(files.len() == 1 && board.fault().is_none());
        let bytes = std::fs::read(files[0].as_ref().expect("an entry").path()).expect("a file");
        let has = |tag: &str| bytes.windows(tag.len()).any(|part| part == tag.as_bytes());
        assert!(has("brain.Event:2") && has("eval/loss") && has("train/loss"));
        // a file in the place of the folder
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).expect("a folder");
        std::fs::write(taken.join(RUNS), "").expect("written");
        let mut board = TensorBoard::new(&taken);
        board.put(1, &[], true);
        assert!(board.fault().is_some_and(|fault| fault.to_string().contains(RUNS)));
    }
}
