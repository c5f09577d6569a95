//! What is trained beside the frozen weights, as a pass takes it.

use crate::spec::TrainedRows;

/// A low-rank update `scaling B A` of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// The layer's full name, as transformers names the module.
    pub module: &'a str,
    /// The rank.
    pub r: usize,
    /// `A [r, in]`.
    pub a: &'a [f32],
    /// `B [out, r]`.
    pub b: &'a [f32],
    /// The factor.
    pub scaling: f32,
    /// The share of inputs of `A` that a training step leaves out.
    pub dropout: f32,
}

/// The trained values that a pass uses, by where they act.
#[derive(Clone, Debug, Default)]
pub struct Trained<'a> {
    /// Rows of token matrices.
    pub rows: Vec<&'a TrainedRows>,
    /// Which of them replace rows of the input embedding; the decoder's in an encoder-decoder.
    pub input: Option<usize>,
    /// Which of them replace rows of the encoder's embedding in an encoder-decoder.
    pub encoder: Option<usize>,
    /// Which of them replace rows of the head; the same ones when they are tied.
    pub output: Option<usize>,
    /// Updates of linear layers.
    pub updates: Vec<LowRank<'a>>,
    /// Chooses what the updates' dropout leaves out; `None` leaves nothing out.
    pub dropout: Option<u64>,
}

impl<'a> Trained<'a> {
    /// The rows over the encoder's embedding.
    pub fn encoder_rows(&self) -> Option<&'a TrainedRows> {
        self.encoder.map(|at| self.rows[at])
    }

    /// The rows over the input embedding.
    pub fn input_rows(&self) -> Option<&'a TrainedRows> {
        self.input.map(|at| self.rows[at])
    }

    /// The rows over the head.
    pub fn output_rows(&self) -> Option<&'a TrainedRows> {
        self.output.map(|at| self.rows[at])
    }

    /// Whether an embedding has trained rows.
    pub fn acts_on_inputs(&self) -> bool {
        self.input.is_some() || self.encoder.is_some()
    }

    /// Whether entries of a step are left out by chance: then no two sequences have the same rows.
    pub fn drops_out(&self) -> bool {
        self.dropout.is_some() && self.updates.iter().any(|update| update.dropout > 0.0)
    }
}
