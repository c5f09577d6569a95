//! How far reading data has come.

use super::format::{bytes, count};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use toktune::data::ReadProgress;

/// What takes less is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(700);
const BAR: &str = "{bar:24.green/dim} {percent}%  {wide_msg}";

/// A bar on the standard error while rows are read and encoded, on a terminal alone.
#[derive(Debug)]
pub struct ReadingBar {
    start: Instant,
    bar: Option<ProgressBar>,
}

impl ReadingBar {
    /// Nothing to see yet.
    pub fn new() -> Self {
        Self { start: Instant::now(), bar: None }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &ReadProgress) {
        let seconds = self.start.elapsed();
        if self.bar.is_none() && (seconds < PATIENCE || !std::io::stderr().is_terminal()) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(progress.of_bytes).with_style(style.progress_chars("━━─"))
        });
        bar.set_position(progress.bytes);
        let speed = progress.rows as f64 / seconds.as_secs_f64().max(f64::MIN_POSITIVE);
        bar.set_message(format!(
            "{} of {} read, {} rows, {} rows/s",
            bytes(progress.bytes),
            bytes(progress.of_bytes),
            count(progress.rows as u64),
            count(speed as u64)
        ));
    }

    /// Takes it away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
