//! What a rendering may take: steps, bytes, depth.

use super::fault::{Fault, Result};

/// Steps of a rendering: about one for each operator, name and statement, and more where a builtin walks a list or a
/// long text.
pub(crate) const STEPS: u64 = 5_000_000;
/// Bytes of all texts and lists that a rendering makes, whether printed or not.
pub(crate) const BYTES: usize = 256 << 20;
/// Bytes of one text: of the output, and of any value.
pub(crate) const LONGEST: usize = 64 << 20;
/// Expressions, statements and macro calls within each other. Each takes some hundred bytes of the stack, so that a
/// rendering needs no thread of its own.
pub(crate) const DEPTH: usize = 120;
/// Lists and maps within each other.
pub(crate) const NESTING: u32 = 150;

/// What is left of the bounds.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: u64,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Budget { steps: STEPS, bytes: BYTES }
    }

    /// Takes steps.
    pub(crate) fn step(&mut self, count: usize) -> Result<()> {
        match self.steps.checked_sub(count as u64) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => Err(Fault::limit(format!("more than {STEPS} steps"))),
        }
    }

    /// Takes the steps of reading a text of this length.
    pub(crate) fn scan(&mut self, bytes: usize) -> Result<()> {
        self.step(1 + bytes / 256)
    }

    /// Takes the bytes of a value before it is made.
    pub(crate) fn make(&mut self, bytes: usize) -> Result<()> {
        if bytes > LONGEST {
            return Err(Fault::limit(format!("a value of more than {LONGEST} bytes")));
        }
        self.scan(bytes)?;
        match self.bytes.checked_sub(bytes) {
            Some(left) => {
                self.bytes = left;
                Ok(())
            }
            None => Err(Fault::limit(format!("values of more than {BYTES} bytes"))),
        }
    }

    /// Takes the bytes of a list of this many values before it is made.
    pub(crate) fn make_list(&mut self, count: usize) -> Result<()> {
        self.step(count)?;
        self.make(count.saturating_mul(size_of::<super::value::Value>()))
    }
}
