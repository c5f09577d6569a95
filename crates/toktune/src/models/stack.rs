//! A stack of blocks over embedded tokens: a decoder, or an encoder.

use super::block::{Block, DistanceRows, Loader, Naming};
use super::chain::{Chain, Stage};
use super::relative::RelativeSpec;
use super::spec::{Positions, Sinusoids, StackSpec};
use crate::error::{Error, Result};
use crate::ops::{RotaryRows, Sequences, Span};
use crate::profile::{Part, time};
use crate::weights::{Checkpoint, FrozenMatrix};
use candle_core::Device;
use std::sync::Arc;
use toktune_kernels::{Matrix, TokenTable, rows};

/// The blocks of a model or of its encoder, with what stands before and after them.
#[derive(Debug)]
pub struct Stack {
    spec: StackSpec,
    blocks: Vec<Block>,
    /// From the token's row to the width where positions are added.
    before_positions: Chain,
    /// Learnt positions.
    positions: Option<FrozenMatrix>,
    /// The row of the first token type.
    token_type: Vec<f32>,
    /// From the sum to the first block.
    after_positions: Chain,
    /// From the last block on.
    end: Chain,
    /// Learnt values of the bias by distance, `[buckets, heads]`.
    relative: Vec<f32>,
    /// The rows for distances that a disentangled attention has in its place.
    distances: Option<Arc<DistanceRows>>,
}

/// Where the rows of a batch stand: its sequences and the rotations of their positions.
#[derive(Clone, Debug)]
pub struct RowsOfBatch {
    /// The sequences.
    pub sequences: Sequences,
    /// The rows of the encoder that they attend to.
    pub cross: Option<Sequences>,
    /// The rotations, one for each of [`StackSpec::ropes`].
    pub rotary: Vec<RotaryRows>,
    /// The position of each row in its sequence.
    pub positions: Vec<u32>,
    /// For each sequence, the tokens of padding among its past rows, where positions do not count them; empty for none.
    pub uncounted: Vec<usize>,
}

/// Names in GGUF of the parts that have other names there.
const GGUF_POSITIONS: &str = "position_embd";
const GGUF_EMBEDDING_NORM: &str = "token_embd_norm";
const GGUF_FINAL_NORM: &str = "output_norm";

impl Stack {
    pub(super) fn load(
        spec: StackSpec,
        checkpoint: &Checkpoint,
        naming: &Naming,
        device: &Device,
    ) -> Result<Self> {
        let (d, width, names) = (spec.hidden_size, spec.embedding.width, &spec.names);
        let loader = Loader { checkpoint, naming, spec: &spec, device, distances: None };
        let distances = match (spec.relative, names.relative) {
            (Some(RelativeSpec::Disentangled(of)), Some(name)) => {
                Some(Arc::new(loader.distances(of, name, names.relative_norm)?))
            }
            _ => None,
        };
        let loader = Loader { distances: distances.clone(), ..loader };
        let blocks =
            spec.layers.iter().enumerate().map(|(i, of)| loader.block(i, of)).collect::<Result<_>>()?;
        let (mut before_positions, mut after_positions, mut end) =
            (Chain::default(), Chain::default(), Chain::default());
        let after_norm = spec.embedding.project_after_norm;
        let inner = if after_norm { width } else { d };
        if let Some(name) = names.embedding_norm {
            after_positions.0.push(Stage::Norm(loader.norm(name, Some(GGUF_EMBEDDING_NORM), inner)?));
        }
        if let Some(name) = names.project_in {
            let projection = Stage::Linear(loader.linear(name, (d, width), after_norm)?);
            if after_norm { &mut after_positions } else { &mut before_positions }.0.push(projection);
        }
        if let Some(name) = names.final_norm {
            end.0.push(Stage::Norm(loader.norm(name, Some(GGUF_FINAL_NORM), d)?));
        }
        if let Some(name) = names.project_out {
            end.0.push(Stage::Linear(loader.linear(name, (width, d), false)?));
        }
        let positions = match (spec.embedding.positions, names.positions) {
            (Positions::Learned { rows, .. }, Some(name)) => {
                Some(loader.table(name, Some(GGUF_POSITIONS), rows, inner)?)
            }
            _ => None,
        };
        let token_type = match names.token_types {
            None => Vec::new(),
            Some(name) => {
                let stored = format!("{name}.weight");
                let stored = naming.find(checkpoint, &stored);
                let rows = checkpoint.shape(&stored).and_then(|s| s.first().copied()).unwrap_or(1);
                loader.table(name, None, rows, inner)?.decode_rows(0..rows.min(1))
            }
        };
        let relative = match (&spec.relative, names.relative) {
            (Some(RelativeSpec::Buckets { buckets, .. }), Some(name)) => {
                loader.table(name, None, *buckets, spec.attention.heads)?.decode_rows(0..*buckets)
            }
            _ => Vec::new(),
        };
        Ok(Self {
            blocks,
            before_positions,
            positions,
            token_type,
            after_positions,
            end,
            relative,
            distances,
            spec,
        })
    }

    /// Its description as data.
    pub fn spec(&self) -> &StackSpec {
        &self.spec
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub(super) fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }

    /// What stands after the last block.
    pub(crate) fn end(&self) -> &Chain {
        &self.end
    }

    /// What stands before and after the blocks.
    pub(super) fn chains(&self) -> [&Chain; 3] {
        [&self.before_positions, &self.after_positions, &self.end]
    }

    /// The rows for distances.
    pub(super) fn distances(&self) -> Option<&DistanceRows> {
        self.distances.as_deref()
    }

    /// The learnt positions.
    pub(super) fn positions(&self) -> Option<&FrozenMatrix> {
        self.positions.as_ref()
    }

    /// The rows of a batch of sequences that follow one another, each with the past rows that `spans` gives it. `lengths`
    /// are those of the whole sequences, where the spans are not; rotations may depend on them.
    pub fn rows_of(&self, spans: Vec<Span>, lengths: Option<&[usize]>) -> RowsOfBatch {
        let mut positions = Vec::new();
        let mut rotary: Vec<RotaryRows> = self.spec.ropes.iter().map(|_| RotaryRows::empty()).collect();
        let mut longest = 0;
        for (i, span) in spans.iter().enumerate() {
            let own: Vec<u32> =
                (span.past.len()..span.past.len() + span.rows.len()).map(|p| p as u32).collect();
            let end = span.past.len() + span.rows.len();
            let length = lengths.map_or(end, |lengths| lengths[i]);
            for (rows, rope) in rotary.iter_mut().zip(&self.spec.ropes) {
                let frequencies = rope.frequencies(length);
                rows.append(&own, &frequencies.values, frequencies.scale);
            }
            longest = longest.max(end);
            positions.extend(own);
        }
        let heads = self.spec.attention.heads;
        let bias = self.spec.relative.and_then(|relative| relative.bias(heads, longest, &self.relative));
        let bias = bias.map(Arc::new);
        let sequences = Sequences { spans: Arc::new(spans), bias };
        RowsOfBatch { sequences, cross: None, rotary, positions, uncounted: Vec::new() }
    }

    /// The embedded rows of `ids`, `[ids, d]`, from the rows of `table`.
    ///
    /// # Errors
    /// An id is past the vocabulary, or a position past those that were learnt.
    pub(crate) fn embed(&self, ids: &[u32], rows: &RowsOfBatch, table: &TokenTable<'_>) -> Result<Vec<f32>> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
            return Err(Error::TokenOutOfRange { id: id as i64, rows: table.rows() });
        }
        let x = self.sums(ids, &self.position_rows(ids, rows)?, table);
        Ok(self.after_positions.run(x))
    }

    /// The sums of tokens, positions and types.
    fn sums(&self, ids: &[u32], positions: &[usize], table: &TokenTable<'_>) -> Vec<f32> {
        let mut x = vec![0f32; ids.len() * table.cols()];
        let scale = self.spec.embedding.scale;
        time(Part::Embedding, 0, || toktune_kernels::embedding::gather(ids, table, scale, &mut x));
        let mut x = self.before_positions.run(x);
        let width = x.len() / ids.len().max(1);
        self.add_positions(positions, width, &mut x);
        if !self.token_type.is_empty() {
            rows::add_to_each(&mut x, &self.token_type);
        }
        x
    }

    fn add_positions(&self, positions: &[usize], width: usize, x: &mut [f32]) {
        match (self.spec.embedding.positions, &self.positions) {
            (Positions::Learned { .. }, Some(matrix)) => {
                let mut line = vec![0f32; width];
                for (x, &position) in x.chunks_exact_mut(width.max(1)).zip(positions) {
                    matrix.view().decode(position..position + 1, 0..width, &mut line);
                    x.iter_mut().zip(&line).for_each(|(x, p)| *x += p);
                }
            }
            (Positions::Sinusoidal { kind, .. }, _) => {
                for (x, &position) in x.chunks_exact_mut(width.max(1)).zip(positions) {
                    if position != NO_POSITION {
                        add_sinusoids(kind, position, x);
                    }
                }
            }
            _ => {}
        }
    }

    /// The row of positions that each row of the batch takes.
    fn position_rows(&self, ids: &[u32], rows: &RowsOfBatch) -> Result<Vec<usize>> {
        let counted = |offset: usize, padding: u32, of_padding: usize| {
            let mut found = Vec::with_capacity(ids.len());
            for (i, span) in rows.sequences.spans.iter().enumerate() {
                let mut seen = span.past.len() - rows.uncounted.get(i).copied().unwrap_or(0);
                for &id in &ids[span.rows.clone()] {
                    found.push(if id == padding { of_padding } else { offset + seen });
                    seen += usize::from(id != padding);
                }
            }
            found
        };
        let plain = |offset: usize| rows.positions.iter().map(|p| *p as usize + offset).collect();
        let found: Vec<usize> = match self.spec.embedding.positions {
            Positions::None => return Ok(Vec::new()),
            Positions::Sinusoidal { offset, padding: None, .. } => return Ok(plain(offset)),
            Positions::Sinusoidal { offset, padding: Some(padding), .. } => {
                return Ok(counted(offset, padding, NO_POSITION));
            }
            Positions::Learned { offset, padding: None, .. } => plain(offset),
            Positions::Learned { offset, padding: Some(padding), .. } => {
                counted(offset, padding, offset.saturating_sub(1))
            }
        };
        let learnt = self.positions.as_ref().map_or(usize::MAX, FrozenMatrix::rows);
        match found.iter().max() {
            Some(&position) if position >= learnt => {
                Err(Error::PositionOutOfRange { position, rows: learnt })
            }
            _ => Ok(found),
        }
    }

    /// The gradient of the token rows of some rows of a batch from that of their embedded rows `dx [chosen, d]`; before the
    /// embedding's factor.
    ///
    /// # Errors
    /// As [`Stack::embed`].
    pub(crate) fn pull_embedding(
        &self,
        ids: &[u32],
        rows: &RowsOfBatch,
        chosen: &[usize],
        table: &TokenTable<'_>,
        dx: Vec<f32>,
    ) -> Result<Vec<f32>> {
        if self.before_positions.0.is_empty() && self.after_positions.0.is_empty() {
            return Ok(dx);
        }
        let positions = self.position_rows(ids, rows)?;
        let ids: Vec<u32> = chosen.iter().map(|&row| ids[row]).collect();
        let positions: Vec<usize> = chosen.iter().filter_map(|&row| positions.get(row).copied()).collect();
        let dsum = match self.after_positions.0.is_empty() {
            true => dx,
            false => self.after_positions.pull(&self.sums(&ids, &positions, table), dx),
        };
        if self.before_positions.0.is_empty() {
            return Ok(dsum);
        }
        let mut x = vec![0f32; ids.len() * table.cols()];
        toktune_kernels::embedding::gather(&ids, table, self.spec.embedding.scale, &mut x);
        Ok(self.before_positions.pull(&x, dsum))
    }
}

/// The position of a row that gets none.
const NO_POSITION: usize = usize::MAX;

/// Adds the sines and cosines of a position, as transformers rounds them.
fn add_sinusoids(kind: Sinusoids, position: usize, x: &mut [f32]) {
    let width = x.len();
    let sines = width.div_ceil(2);
    let angle = |j: usize| match kind {
        Sinusoids::Plain => position as f64 / 10_000f64.powf((2 * j) as f64 / width as f64),
        Sinusoids::Tensor2Tensor => {
            let step = (10_000f64.ln() / (width as f64 / 2.0 - 1.0)) as f32;
            f64::from(position as f32 * (j as f32 * -step).exp())
        }
    };
    for (j, x) in x.iter_mut().enumerate() {
        *x += if j < sines { angle(j).sin() } else { angle(j - sines).cos() } as f32;
    }
}
