//! Sequences that go on token by token: a stack's run over the keys and values of the rows before.

use super::{Session, TokenRows};
use crate::backend::{Backend, Sequences, Span};
use crate::error::{EngineError, Result};
use crate::layers::{KeyValues, Memory};
use crate::model::{Model, Placed};
use crate::spec::ModelKind;
use crate::spec::pooling::{normalised, pool};
use crate::stack::{RowPlaces, Run, Stack, Wanted};
use crate::trained::Trained;
use std::ops::Range;
use toktune_kernels::attention::Stretch;

/// Rows that a sequence has room for at first.
const FIRST_ROOM: usize = 64;

/// Some sequences, with the keys and values of their rows.
#[derive(Debug)]
pub(super) struct Decoding<'a, B: Backend> {
    model: &'a Model<B>,
    placed: Placed<'a, B>,
    /// Which of the placed rows embed the tokens, and which are over the head.
    input: Option<usize>,
    output: Option<usize>,
    /// Keys and values of every block, the sequences one after the other, each with room to grow.
    past: Vec<KeyValues<B::Buffer>>,
    /// Rows that each sequence has room for.
    room: usize,
    lengths: Vec<usize>,
    /// Tokens of padding among them, where positions do not count them.
    uncounted: Vec<usize>,
    /// What the encoder read, and the rows of it that each sequence goes on from.
    memory: Option<ReadMemory<B::Buffer>>,
}

/// What an encoder read, and the rows of it that each sequence goes on from.
type ReadMemory<T> = (Memory<T>, Vec<Range<usize>>);

impl<B: Backend> Model<B> {
    /// The rows of `tokens` after the last block of the encoder.
    fn encoder_rows(
        &self,
        tokens: TokenRows<'_>,
        placed: &Placed<'_, B>,
        trained: &Trained<'_>,
        encoder: &Stack<B>,
    ) -> Result<B::Buffer> {
        let [updates, _] = self.split_updates(placed);
        let run = Run { updates, ..Run::new(&self.decoding) };
        let last = self.whole_rows(encoder, (tokens, None), placed, trained.encoder, &run)?;
        Ok(encoder.end().run(&self.backend, last))
    }

    /// The rows of `tokens` after the last block of a stack, with nothing before them.
    pub(super) fn whole_rows(
        &self,
        stack: &Stack<B>,
        (tokens, cross): (TokenRows<'_>, Option<Sequences>),
        placed: &Placed<'_, B>,
        input: Option<usize>,
        run: &Run<'_, B>,
    ) -> Result<B::Buffer> {
        let rows = stack.rows(&RowPlaces::whole(tokens.ids.to_vec(), tokens.starts), cross);
        let table = self.embedding.table(input.map(|at| &placed.rows[at]));
        let x = stack.embed(&rows, &table, self.embedding.rows)?;
        Ok(stack.run(&rows, x, run, Wanted::Hidden).hidden)
    }

    /// What the decoder attends to, and the rows of it that each sequence goes on from; nothing without an encoder.
    fn memory_of(
        &self,
        inputs: Option<TokenRows<'_>>,
        placed: &Placed<'_, B>,
        trained: &Trained<'_>,
    ) -> Result<Option<ReadMemory<B::Buffer>>> {
        match (&self.encoder, inputs) {
            (None, None) => Ok(None),
            (Some(encoder), Some(inputs)) => {
                let depending = self.encoder_rows(inputs, placed, trained, encoder)?;
                let rows = inputs.starts.windows(2).map(|w| w[0]..w[1]).collect();
                Ok(Some((Memory { depending, constant: None }, rows)))
            }
            (encoder, _) => {
                let kind = if encoder.is_some() { ModelKind::Causal } else { ModelKind::Seq2Seq };
                let (found, expected) = (kind.auto_class(), self.spec.kind.auto_class());
                Err(EngineError::WrongBatch { found, expected })
            }
        }
    }

    /// As [`super::Runner::logits`].
    pub(super) fn logits_of(
        &self,
        tokens: TokenRows<'_>,
        inputs: Option<TokenRows<'_>>,
        trained: &Trained<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let placed = self.place(trained)?;
        let memory = self.memory_of(inputs, &placed, trained)?;
        let cross = memory.as_ref().map(|(_, rows)| {
            let pairs = tokens.starts.windows(2).zip(rows);
            let span = |(w, keys): (&[usize], &Range<usize>)| Span {
                rows: w[0]..w[1],
                before: Vec::new(),
                keys: keys.clone(),
            };
            Sequences::new(pairs.map(span).collect())
        });
        let [_, updates] = self.split_updates(&placed);
        let memory = memory.as_ref().map(|(memory, _)| memory);
        let run = Run { updates, memory, ..Run::new(&self.decoding) };
        let hidden = self.whole_rows(&self.stack, (tokens, cross), &placed, trained.input, &run)?;
        let (backend, d) = (&self.decoding, self.spec.stack.hidden_size);
        let head = self.head(trained.output.map(|at| &placed.rows[at]));
        let of = |w: &[usize]| {
            let own = backend.part(&hidden, w[0] * d..w[1] * d);
            backend.read(&backend.logits(&self.final_rows(own), &head))
        };
        Ok(tokens.starts.windows(2).map(of).collect())
    }

    /// As [`super::Runner::vectors`].
    pub(super) fn vectors_of(&self, tokens: TokenRows<'_>, trained: &Trained<'_>) -> Result<Vec<Vec<f32>>> {
        let placed = self.place(trained)?;
        let [_, updates] = self.split_updates(&placed);
        let run = Run { updates, ..Run::new(&self.decoding) };
        let hidden = self.whole_rows(&self.stack, (tokens, None), &placed, trained.input, &run)?;
        let last = self.backend.read(&self.stack.end().run(&self.backend, hidden));
        let d = self.spec.stack.embedding.width;
        let of = |w: &[usize]| {
            let vector = pool(&self.sentence.pooling, &last[w[0] * d..w[1] * d], d);
            let vector = if self.sentence.normalise { normalised(&vector).0 } else { vector };
            vector.into_iter().map(|x| x as f32).collect()
        };
        Ok(tokens.starts.windows(2).map(of).collect())
    }

    /// As [`super::Runner::session`].
    pub(super) fn begin<'a>(
        &'a self,
        sequences: usize,
        inputs: Option<TokenRows<'_>>,
        trained: &Trained<'a>,
    ) -> Result<Decoding<'a, B>> {
        let placed = self.place(trained)?;
        let memory = self.memory_of(inputs, &placed, trained)?;
        Ok(Decoding {
            model: self,
            placed,
            input: trained.input,
            output: trained.output,
            past: Vec::new(),
            room: 0,
            lengths: vec![0; sequences],
            uncounted: vec![0; sequences],
            memory,
        })
    }
}

impl<B: Backend> Decoding<'_, B> {
    /// Makes room for so many rows in each sequence.
    fn grow(&mut self, rows: usize) {
        let backend = &self.model.backend;
        let room = rows.next_power_of_two().max(FIRST_ROOM);
        let copy = |old: Option<&B::Buffer>, width: usize| {
            let mut new = backend.zeros(self.lengths.len() * room * width);
            for (i, &length) in self.lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
                if let Some(old) = old {
                    let from = i * self.room * width;
                    backend.put(&backend.part(old, from..from + length * width), i * room * width, &mut new);
                }
            }
            new
        };
        let blocks = self.model.stack.blocks().iter().enumerate();
        self.past = blocks
            .map(|(i, block)| {
                let (old, [k, v]) = (self.past.get(i), block.key_value_widths());
                KeyValues { k: copy(old.map(|of| &of.k), k), v: copy(old.map(|of| &of.v), v) }
            })
            .collect();
        self.room = room;
    }

    /// Where the next rows stand, and where they find the encoder's.
    fn places(&self, next: &[(usize, &[u32])]) -> (RowPlaces, Option<Sequences>) {
        let (mut places, mut cross) = (RowPlaces::default(), Vec::new());
        for &(sequence, tokens) in next {
            let (start, length) = (places.ids.len(), self.lengths[sequence]);
            places.ids.extend_from_slice(tokens);
            let rows = start..places.ids.len();
            let past = sequence * self.room..sequence * self.room + length;
            let before = Stretch { rows: past, is_past: true };
            let before = if length > 0 { vec![before] } else { Vec::new() };
            places.spans.push(Span { keys: rows.clone(), rows: rows.clone(), before });
            places.lengths.push(length + tokens.len());
            places.uncounted.push(self.uncounted[sequence]);
            if let Some((_, keys)) = &self.memory {
                cross.push(Span { rows, before: Vec::new(), keys: keys[sequence].clone() });
            }
        }
        (places, self.memory.is_some().then(|| Sequences::new(cross)))
    }

    /// Runs rows and keeps their keys and values; the hidden rows after the last block.
    fn run(&mut self, next: &[(usize, &[u32])]) -> Result<B::Buffer> {
        let stack = &self.model.stack;
        let needed = next.iter().map(|(i, tokens)| self.lengths[*i] + tokens.len()).max().unwrap_or(0);
        if needed > self.room {
            self.grow(needed);
        }
        let (places, cross) = self.places(next);
        let rows = stack.rows(&places, cross);
        let table = self.model.embedding.table(self.input.map(|at| &self.placed.rows[at]));
        let x = stack.embed(&rows, &table, self.model.embedding.rows)?;
        let [_, updates] = self.model.split_updates(&self.placed);
        let memory = self.memory.as_ref().map(|(memory, _)| memory);
        let run = Run { past: &self.past, memory, updates, ..Run::new(&self.model.generating) };
        let trace = stack.run(&rows, x, &run, Wanted::KeyValues);
        let backend = &self.model.backend;
        for (past, new) in self.past.iter_mut().zip(&trace.key_values) {
            for (new, past) in [(&new.k, &mut past.k), (&new.v, &mut past.v)] {
                let width = backend.len(new) / places.ids.len().max(1);
                for ((sequence, _), span) in next.iter().zip(&places.spans) {
                    let at = (sequence * self.room + self.lengths[*sequence]) * width;
                    let own = span.rows.start * width..span.rows.end * width;
                    backend.put(&backend.part(new, own), at, past);
                }
            }
        }
        let padding = stack.spec().embedding.positions.padding();
        for &(sequence, tokens) in next {
            self.lengths[sequence] += tokens.len();
            self.uncounted[sequence] += tokens.iter().filter(|id| Some(**id) == padding).count();
        }
        Ok(trace.hidden)
    }

    /// Runs rows as `run` does; the logits of each sequence's last one, in their order.
    fn logits(&mut self, next: &[(usize, &[u32])]) -> Result<Vec<f32>> {
        let hidden = self.run(next)?;
        let (model, backend) = (self.model, &self.model.generating);
        let ends = next.iter().scan(0u32, |end, (_, tokens)| {
            *end += tokens.len() as u32;
            Some(*end - 1)
        });
        // only the last row of each meets the norm and the head
        let last = backend.gather(&hidden, &ends.collect::<Vec<_>>(), model.spec.stack.hidden_size);
        let head = model.head(self.output.map(|at| &self.placed.rows[at]));
        Ok(backend.read(&backend.logits(&model.final_rows(last), &head)))
    }
}

impl<B: Backend> Session for Decoding<'_, B> {
    fn advance(&mut self, next: &[(usize, &[u32])]) -> Result<Vec<Vec<f32>>> {
        if let Some(&(sequence, _)) =
            next.iter().find(|(i, tokens)| *i >= self.lengths.len() || tokens.is_empty())
        {
            return match self.lengths.get(sequence) {
                Some(_) => Err(EngineError::EmptyPrompt),
                None => Err(EngineError::NoSuchSequence { sequence, sequences: self.lengths.len() }),
            };
        }
        // an encoder's rows are met in the order in which they lie
        let mut order: Vec<usize> = (0..next.len()).collect();
        order.sort_by_key(|&at| next[at].0);
        let sorted: Vec<(usize, &[u32])> = order.iter().map(|&at| next[at]).collect();
        if sorted.windows(2).any(|w| w[0].0 == w[1].0) {
            return Err(EngineError::SequenceTwice);
        }
        let model = self.model;
        let logits = model.backend.awake(|| self.logits(&sorted))?;
        let mut of_sequences = vec![Vec::new(); next.len()];
        for (at, line) in order.into_iter().zip(logits.chunks_exact(model.head_tokens().rows.max(1))) {
            of_sequences[at] = line.to_vec();
        }
        if next.iter().any(|(_, tokens)| tokens.len() > 1) {
            // buffers for a prompt are larger than those for a token
            model.backend.release();
        }
        Ok(of_sequences)
    }

    fn len(&self, sequence: usize) -> usize {
        self.lengths.get(sequence).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.lengths.iter().all(|length| *length == 0)
    }
}
