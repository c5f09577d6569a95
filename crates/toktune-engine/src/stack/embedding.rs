//! From tokens to the rows that the first block reads, and back.

use super::Stack;
use crate::backend::{Backend, Table};
use crate::error::{EngineError, Result};
use crate::layers::Rows;
use crate::spec::{Positions, Sinusoids};

/// The position of a row that gets none.
const NO_POSITION: usize = usize::MAX;

impl<B: Backend> Stack<B> {
    /// The embedded rows `[rows, d]`, from the rows of `table`, which has `vocabulary` of them.
    ///
    /// # Errors
    /// An id is past the vocabulary, or a position past those that were learnt.
    pub fn embed(&self, rows: &Rows<B>, table: &Table<'_, B>, vocabulary: usize) -> Result<B::Buffer> {
        if let Some(&id) = rows.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EngineError::TokenOutOfRange { id: id as i64, rows: vocabulary });
        }
        let sums = self.sums(&rows.ids, &self.position_rows(rows)?, table);
        Ok(self.after_positions.run(&self.backend, sums))
    }

    /// The sums of tokens, positions and types.
    fn sums(&self, ids: &[u32], positions: &[usize], table: &Table<'_, B>) -> B::Buffer {
        let backend = &self.backend;
        let tokens = backend.embed(ids, table, self.spec.embedding.scale);
        let mut x = self.before_positions.run(backend, tokens);
        let width = backend.len(&x) / ids.len().max(1);
        if let Some(positions) = self.embedded_positions(positions, width) {
            backend.add(&mut x, &positions);
        }
        if let Some(token_type) = &self.token_type {
            backend.add_to_each(&mut x, token_type);
        }
        x
    }

    /// What positions add to rows of this width.
    fn embedded_positions(&self, positions: &[usize], width: usize) -> Option<B::Buffer> {
        match (self.spec.embedding.positions, &self.positions) {
            (Positions::Learned { .. }, Some((_, matrix))) => {
                let table = Table { base: matrix, extra: None, overrides: &[], values: None };
                let ids: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
                Some(self.backend.embed(&ids, &table, 1.0))
            }
            (Positions::Sinusoidal { kind, .. }, _) => {
                let mut x = vec![0f32; positions.len() * width];
                for (x, &position) in x.chunks_exact_mut(width.max(1)).zip(positions) {
                    if position != NO_POSITION {
                        sinusoids(kind, position, x);
                    }
                }
                Some(self.backend.place(x))
            }
            _ => None,
        }
    }

    /// The row of positions that each row of the batch takes.
    fn position_rows(&self, rows: &Rows<B>) -> Result<Vec<usize>> {
        let counted = |offset: usize, padding: u32, of_padding: usize| {
            let mut found = Vec::with_capacity(rows.ids.len());
            for (i, span) in rows.sequences.spans.iter().enumerate() {
                let mut seen = span.position() - rows.uncounted.get(i).copied().unwrap_or(0);
                for &id in &rows.ids[span.rows.clone()] {
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
        let learnt = self.positions.as_ref().map_or(usize::MAX, |(matrix, _)| matrix.rows());
        match found.iter().max() {
            Some(&position) if position >= learnt => {
                Err(EngineError::PositionOutOfRange { position, rows: learnt })
            }
            _ => Ok(found),
        }
    }

    /// The gradient of the token rows of the `chosen` rows of a batch from that of their embedded rows `dx [chosen, d]`;
    /// before the embedding's factor.
    ///
    /// # Errors
    /// As [`Stack::embed`].
    pub fn pull_embedding(
        &self,
        rows: &Rows<B>,
        chosen: &[u32],
        table: &Table<'_, B>,
        dx: B::Buffer,
    ) -> Result<B::Buffer> {
        if self.before_positions.is_empty() && self.after_positions.is_empty() {
            return Ok(dx);
        }
        let (backend, positions) = (&self.backend, self.position_rows(rows)?);
        let ids: Vec<u32> = chosen.iter().map(|&row| rows.ids[row as usize]).collect();
        let positions: Vec<usize> =
            chosen.iter().filter_map(|&row| positions.get(row as usize).copied()).collect();
        let dsum = match self.after_positions.is_empty() {
            true => dx,
            false => self.after_positions.pull(backend, &self.sums(&ids, &positions, table), dx),
        };
        if self.before_positions.is_empty() {
            return Ok(dsum);
        }
        let x = backend.embed(&ids, table, self.spec.embedding.scale);
        Ok(self.before_positions.pull(backend, &x, dsum))
    }
}

/// The sines and cosines of a position, as transformers rounds them.
fn sinusoids(kind: Sinusoids, position: usize, x: &mut [f32]) {
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
        *x = if j < sines { angle(j).sin() } else { angle(j - sines).cos() } as f32;
    }
}
