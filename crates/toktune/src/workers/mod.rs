//! Several processes that train together: who computes what, how their sums are added, and what they tell each other.
//!
//! The library knows of a transport only that it carries bytes ([`Workers`]); everything else is here, and the same for one process
//! ([`Alone`]) as for many. Sums are added in an order that does not depend on how many there are (`lanes`), so that neither do
//! the bits of what is trained.

mod error;
mod lanes;
mod message;
mod sums;
mod team;
#[cfg(test)]
mod tests;
mod threads;

pub use error::WorkersError;
pub(crate) use message::{Reader, Writer};
pub use sums::StepSums;
pub(crate) use sums::{read_preference, write_preference};
pub(crate) use team::Team;
pub use threads::{ThreadWorker, thread_workers};

use std::fmt::Debug;

/// Several processes, or threads, that carry messages to each other. Every one takes the same steps on rows of its own; all have the same
/// sums, and so the same parameters, after every step.
pub trait Workers: Debug + Send {
    /// Which of them this is, from 0. The first one writes what is written.
    fn rank(&self) -> usize;

    /// How many they are.
    fn count(&self) -> usize;

    /// How many of them run on this machine, this one included.
    fn on_this_machine(&self) -> usize;

    /// The machine that this one runs on, as messages call it.
    fn machine(&self) -> String;

    /// Gives a message to another one. It may be underway still when this returns.
    ///
    /// # Errors
    /// The other one cannot be reached.
    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<(), WorkersError>;

    /// The next message of another one; they come in the order of sending.
    ///
    /// # Errors
    /// The other one cannot be reached.
    fn receive(&mut self, from: usize) -> Result<Vec<u8>, WorkersError>;
}

/// One worker alone, whose sums are those of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Workers for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn on_this_machine(&self) -> usize {
        1
    }

    fn machine(&self) -> String {
        "this machine".to_owned()
    }

    fn send(&mut self, to: usize, _: Vec<u8>) -> Result<(), WorkersError> {
        Err(WorkersError::Unreachable { worker: to, reason: "there is one process alone".into() })
    }

    fn receive(&mut self, from: usize) -> Result<Vec<u8>, WorkersError> {
        Err(WorkersError::Unreachable { worker: from, reason: "there is one process alone".into() })
    }
}
