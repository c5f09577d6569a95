//! Examples packed end to end, in memory or in a mapped file: the one form in which encoded rows are kept.
//!
//! A store is written once, from the first example to the last, and then read in any order. Its layout, in little-endian
//! bytes: the magic, the records, a table of 64-bit offsets with the end of the last record, a description as JSON, and a
//! tail that says where these begin. A record is a head of 32-bit numbers, then the tokens. Labels that are the tokens of
//! their own places, as those of nearly every row are, are kept as runs, and weights that are all the same as one.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::weights::is_weight;
use super::{Collator, DataError, Example, Source};
use crate::weights::Bytes;

const MAGIC: &[u8; 16] = b"toktune rows 2\0\0";
/// Numbers of a record's head: lengths of inputs, second, labels, weights and cut, the kind of labels, the file, the line (two).
const HEAD: usize = 9;
/// Bytes of the tail: where the table begins, where the description begins, the magic.
const TAIL: usize = 32;
/// A label that is not learnt.
const NOT_LEARNT: u32 = u32::MAX;
/// Labels as they stand.
const PLAIN: u32 = 0;
/// Labels as runs of tokens that are learnt, each a start and an end.
const RUNS: u32 = 1;

/// What is known of all examples of a store together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// Rows that the examples come from.
    pub rows: usize,
    /// Tokens that the model reads in one pass.
    pub tokens: usize,
    /// Targets, where they are not drawn anew in every epoch.
    pub labels: usize,
    /// Examples that were cut.
    pub cut: usize,
    /// Examples that leave nothing to learn.
    pub empty: usize,
    /// Examples that are two answers to one prompt.
    #[serde(default)]
    pub preferences: usize,
    /// Of the examples' bytes, in hexadecimal digits.
    pub hash: String,
    /// For each token that occurs: its id, how often it is read, a target, cut off, and read where a loss depends on it.
    pub uses: Vec<[u64; 5]>,
    /// What the encoding of the rows has to say.
    #[serde(default)]
    pub notes: super::EncodingNotes,
}

/// Writes a store.
pub(super) struct StoreWriter<'c, W> {
    out: W,
    collator: &'c Collator,
    written: u64,
    table: Vec<u64>,
    hash: blake3::Hasher,
    summary: Summary,
    /// By id.
    uses: Vec<[u64; 4]>,
    record: Vec<u8>,
}

impl<'c, W: Write> StoreWriter<'c, W> {
    pub fn new(mut out: W, collator: &'c Collator) -> std::io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(StoreWriter {
            out,
            collator,
            written: MAGIC.len() as u64,
            table: Vec::new(),
            hash: blake3::Hasher::new(),
            summary: Summary::default(),
            uses: Vec::new(),
            record: Vec::new(),
        })
    }

    /// Examples written so far.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Counts rows that the examples come from.
    pub fn count_rows(&mut self, rows: usize) {
        self.summary.rows += rows;
    }

    /// What the encoding has to say, to be kept with the examples.
    pub fn notes(&mut self) -> &mut super::EncodingNotes {
        &mut self.summary.notes
    }

    /// Adds an example of file number `file`.
    pub fn push(&mut self, example: &Example, file: u32) -> std::io::Result<()> {
        self.count(example);
        self.record.clear();
        pack(example, file, &mut self.record);
        self.hash.update(&self.record);
        self.out.write_all(&self.record)?;
        self.table.push(self.written);
        self.written += self.record.len() as u64;
        Ok(())
    }

    fn count(&mut self, example: &Example) {
        let (summary, collator, uses) = (&mut self.summary, self.collator, &mut self.uses);
        let mut count = |id: u32, of: usize| {
            let place = id as usize;
            if place >= uses.len() {
                uses.resize(place + 1, [0; 4]);
            }
            uses[place][of] += 1;
        };
        let acting = collator.acting_inputs(example);
        for (at, id) in collator.inputs(example).enumerate() {
            summary.tokens += 1;
            count(id, 0);
            if acting.iter().any(|acting| acting.contains(&at)) {
                count(id, 3);
            }
        }
        for id in collator.targets(example) {
            summary.labels += 1;
            count(id, 1);
        }
        example.cut.iter().for_each(|&id| count(id, 2));
        summary.cut += usize::from(!example.cut.is_empty());
        summary.empty += usize::from(!collator.can_learn(example));
        summary.preferences += usize::from(example.is_preference());
    }

    /// Writes what stands behind the records.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.table.push(self.written);
        for offset in &self.table {
            self.out.write_all(&offset.to_le_bytes())?;
        }
        self.summary.hash = self.hash.finalize().to_hex().to_string();
        let used = self.uses.iter().enumerate().filter(|(_, uses)| **uses != [0; 4]);
        let of = |(id, [read, target, cut, acting]): (usize, &[u64; 4])| {
            [id as u64, *read, *target, *cut, *acting]
        };
        self.summary.uses = used.map(of).collect();
        let description = serde_json::to_vec(&self.summary)?;
        self.out.write_all(&description)?;
        let described = self.written + 8 * self.table.len() as u64;
        self.out.write_all(&self.written.to_le_bytes())?;
        self.out.write_all(&described.to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        Ok(self.out)
    }
}

/// Examples that were written.
#[derive(Clone)]
pub(super) struct Store {
    bytes: Bytes,
    /// Where the table begins.
    table: usize,
    examples: usize,
    pub summary: Arc<Summary>,
    /// By number, as the records have them.
    files: Arc<[Arc<Path>]>,
    /// Ids lie below.
    vocab_size: usize,
}

impl Store {
    /// Reads the ends of a store; `None` where it is none, or a damaged one.
    pub fn open(bytes: Bytes, files: Vec<Arc<Path>>, vocab_size: usize) -> Option<Self> {
        let tail = bytes.len().checked_sub(TAIL).filter(|tail| *tail >= MAGIC.len())?;
        if !bytes.starts_with(MAGIC) || !bytes.ends_with(MAGIC) {
            return None;
        }
        let number = |at: usize| -> Option<usize> {
            usize::try_from(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
        };
        let (table, described) = (number(tail)?, number(tail + 8)?);
        let entries = described.checked_sub(table).filter(|size| size % 8 == 0)? / 8;
        let summary: Summary = serde_json::from_slice(bytes.get(described..tail)?).ok()?;
        let mut before = MAGIC.len();
        for entry in 0..entries {
            let offset = number(table + 8 * entry)?;
            if offset < before || offset > table || (entry == 0 && offset != before) {
                return None;
            }
            before = offset;
        }
        (before == table).then_some(())?;
        let examples = entries.checked_sub(1)?;
        Some(Store { bytes, table, examples, summary: summary.into(), files: files.into(), vocab_size })
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.examples
    }

    /// Example `index`, which must be there.
    ///
    /// # Errors
    /// The store was changed since it was written.
    pub fn example(&self, index: usize) -> Result<Example, DataError> {
        self.read(index).ok_or(DataError::DamagedStore { example: index })
    }

    /// Tokens of an example's inputs together; nothing where there is none.
    pub fn tokens_of(&self, index: usize) -> Option<usize> {
        let at = self.table + 8 * index;
        let start = usize::try_from(u64::from_le_bytes(self.bytes.get(at..at + 8)?.try_into().ok()?)).ok()?;
        let head = self.bytes.get(start..start.checked_add(8)?)?;
        Some(numbers(head).map(|length| length as usize).sum())
    }

    /// Token `at` of a sequence of an example, the first or the second of its inputs; nothing past its end.
    pub fn token(&self, (index, sequence): (usize, usize), at: usize) -> Option<u32> {
        let number =
            |at: usize| -> Option<[u8; 8]> { self.bytes.get(at..at.checked_add(8)?)?.try_into().ok() };
        let entry = |entry: usize| usize::try_from(u64::from_le_bytes(number(self.table + 8 * entry)?)).ok();
        let (start, end) = (entry(index)?, entry(index + 1)?);
        let word = |at: usize| -> Option<u32> {
            let bytes = self.bytes.get(at..at.checked_add(4)?)?;
            (at + 4 <= end).then_some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let first = if sequence == 0 { 0 } else { word(start)? as usize };
        if at >= word(start + 4 * sequence.min(1))? as usize {
            return None;
        }
        word(start + 4 * (HEAD + first + at))
    }

    fn read(&self, index: usize) -> Option<Example> {
        let offset = |entry: usize| -> Option<usize> {
            let at = self.table + 8 * entry;
            usize::try_from(u64::from_le_bytes(self.bytes.get(at..at + 8)?.try_into().ok()?)).ok()
        };
        let record = self.bytes.get(offset(index)?..offset(index + 1)?)?;
        let (head, rest) = record.split_at_checked(4 * HEAD)?;
        let mut head = numbers(head);
        let mut lengths = [0usize; 5];
        lengths.iter_mut().for_each(|length| *length = head.next().unwrap_or_default() as usize);
        let (kind, file) = (head.next()?, head.next()? as usize);
        let line = u64::from(head.next()?) | u64::from(head.next()?) << 32;
        let [inputs, second, labels, weights, cut] = lengths;
        let mut rest = rest;
        let mut take = |count: usize| -> Option<&[u8]> {
            let (taken, left) = rest.split_at_checked(count.checked_mul(4)?)?;
            rest = left;
            Some(taken)
        };
        let vocab_size = self.vocab_size;
        let ids = |bytes: &[u8]| -> Option<Vec<u32>> {
            let ids: Vec<u32> = numbers(bytes).collect();
            ids.iter().all(|id| (*id as usize) < vocab_size).then_some(ids)
        };
        let (input_ids, second) = (ids(take(inputs)?)?, ids(take(second)?)?);
        let labels = match kind {
            RUNS => learnt_runs(numbers(take(labels)?), &[&input_ids[..], &second].concat())?,
            _ => {
                let labels = numbers(take(labels)?).map(|label| (label != NOT_LEARNT).then_some(label));
                labels
                    .map(|label| label.is_none_or(|id| (id as usize) < vocab_size).then_some(label))
                    .collect::<Option<_>>()?
            }
        };
        let places = if labels.is_empty() { input_ids.len() } else { labels.len() };
        let weights = weights_of(numbers(take(weights)?).map(f32::from_bits).collect(), places)?;
        let cut = numbers(take(cut)?).collect();
        let source = Source { file: self.files.get(file)?.clone(), line: usize::try_from(line).ok()? };
        rest.is_empty().then_some(Example { input_ids, second, labels, weights, cut, source })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Store({} examples in {} bytes)", self.examples, self.bytes.len())
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|number| number.try_into().map_or(0, u32::from_le_bytes))
}

/// Labels of which those in the runs are the tokens in their places, and the others are not learnt.
fn learnt_runs(mut runs: impl Iterator<Item = u32>, ids: &[u32]) -> Option<Vec<Option<u32>>> {
    let mut labels = vec![None; ids.len()];
    while let Some(start) = runs.next() {
        let run = start as usize..runs.next()? as usize;
        let (labels, ids) = (labels.get_mut(run.clone())?, ids.get(run)?);
        labels.iter_mut().zip(ids).for_each(|(label, id)| *label = Some(*id));
    }
    Some(labels)
}

/// The weights of so many places, of which one stands for all; `None` when they are not as many, or are none.
fn weights_of(stored: Vec<f32>, places: usize) -> Option<Vec<f32>> {
    let weights = match stored.as_slice() {
        [weight] => vec![*weight; places],
        _ => stored,
    };
    let sound = weights.is_empty() || weights.len() == places;
    (sound && weights.iter().all(|weight| is_weight(*weight))).then_some(weights)
}

/// An example's record.
fn pack(example: &Example, file: u32, out: &mut Vec<u8>) {
    let Example { input_ids, second, labels, weights, cut, source } = example;
    let inputs = if example.is_preference() { &[&input_ids[..], second].concat() } else { input_ids };
    let (kind, labels) = match runs_of(labels, inputs) {
        Some(runs) if runs.len() < labels.len() => (RUNS, runs),
        _ => (PLAIN, labels.iter().map(|label| label.unwrap_or(NOT_LEARNT)).collect()),
    };
    let line = source.line as u64;
    let alike = weights.windows(2).all(|pair| pair[0] == pair[1]);
    let weights: Vec<u32> = weights.iter().map(|weight| weight.to_bits()).collect();
    let weights = if alike { &weights[..weights.len().min(1)] } else { &weights };
    let head = [
        input_ids.len() as u32,
        second.len() as u32,
        labels.len() as u32,
        weights.len() as u32,
        cut.len() as u32,
        kind,
        file,
        line as u32,
        (line >> 32) as u32,
    ];
    for number in head.iter().chain(input_ids).chain(second).chain(&labels).chain(weights).chain(cut) {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The runs of labels that are the tokens of their places; `None` when some are others, or there are not as many.
fn runs_of(labels: &[Option<u32>], ids: &[u32]) -> Option<Vec<u32>> {
    if labels.len() != ids.len() || labels.is_empty() {
        return None;
    }
    let mut runs: Vec<u32> = Vec::new();
    for (at, (label, id)) in (0u32..).zip(labels.iter().zip(ids)) {
        match label {
            None => {}
            Some(label) if label != id => return None,
            Some(_) => match runs.last_mut().filter(|end| **end == at) {
                Some(end) => *end = at + 1,
                None => runs.extend([at, at + 1]),
            },
        }
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        let file: Arc<Path> = Path::new("rows.jsonl").into();
        let of = |line, input_ids: &[u32], second: &[u32], labels: &[Option<u32>], cut: &[u32]| Example {
            input_ids: input_ids.to_vec(),
            second: second.to_vec(),
            labels: labels.to_vec(),
            weights: Vec::new(),
            cut: cut.to_vec(),
            source: Source { file: file.clone(), line },
        };
        vec![
            of(1, &[5, 6, 7, 8, 9], &[], &[None, Some(6), Some(7), None, Some(9)], &[]),
            of(2, &[5, 6], &[], &[Some(6), None], &[1, 2, 3]),
            of(1 << 40, &[3], &[4, 4], &[], &[]),
            of(4, &[5, 6], &[], &[None, None], &[]),
            of(5, &[5], &[], &[Some(1), Some(2), Some(3)], &[]),
            Example {
                weights: vec![0.5, 0.0, 2.0],
                ..of(5, &[5, 6, 7], &[], &[Some(5), Some(6), None], &[9])
            },
            // of a row, with labels and without
            Example { weights: vec![0.25; 2], ..of(5, &[5], &[], &[Some(1), Some(2)], &[]) },
            Example { weights: vec![3.0; 3], ..of(5, &[5, 6, 7], &[], &[], &[]) },
            of(6, &[1, 2, 3, 4, 5, 6], &[], &[Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)], &[]),
        ]
    }

    fn written(examples: &[Example]) -> Vec<u8> {
        let collator = Collator::Causal;
        let mut writer = StoreWriter::new(Vec::new(), &collator).expect("in memory");
        for example in examples {
            writer.push(example, 0).expect("in memory");
        }
        writer.finish().expect("in memory")
    }

    fn opened(bytes: Vec<u8>) -> Option<Store> {
        Store::open(Bytes::owned(bytes), vec![Path::new("rows.jsonl").into()], 10)
    }

    #[test]
    fn what_is_written_is_read() {
        let examples = examples();
        let bytes = written(&examples);
        let store = opened(bytes.clone()).expect("whole");
        assert_eq!(store.len(), examples.len());
        for (index, example) in examples.iter().enumerate() {
            assert_eq!(&store.example(index).expect("there"), example, "{index}");
        }
        let summary = &store.summary;
        // a label of weight 0 is none
        let (tokens, labels) = (5 + 2 + 3 + 2 + 1 + 3 + 1 + 3 + 6, 3 + 2 + 1 + 5);
        assert_eq!((summary.tokens, summary.labels, summary.cut), (tokens, labels, 2));
        assert_eq!(summary.uses[0], [1, 1, 0, 1, 1]);
        assert_eq!(opened(written(&examples[1..])).expect("whole").summary.hash.len(), 64);
        assert_ne!(opened(written(&examples[1..])).expect("whole").summary.hash, summary.hash);
        assert_eq!(opened(written(&[])).expect("empty").len(), 0);
    }

    #[test]
    fn labels_take_a_run_where_they_are_the_tokens() {
        let all: Vec<u32> = (0..8).collect();
        let labels: Vec<Option<u32>> = all.iter().map(|id| (*id > 3).then_some(*id)).collect();
        assert_eq!(runs_of(&labels, &all), Some(vec![4, 8]));
        assert_eq!(runs_of(&labels[..7], &all), None);
        assert_eq!(runs_of(&[Some(2)], &[3]), None);
        assert_eq!(runs_of(&[], &[]), None);
    }

    #[test]
    fn a_damaged_store_is_told_and_never_read_past_its_ends() {
        let bytes = written(&examples());
        for length in 0..bytes.len() {
            assert!(opened(bytes[..length].to_vec()).is_none(), "{length}");
        }
        let mut told = 0;
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                match opened(damaged) {
                    None => told += 1,
                    Some(store) => {
                        (0..store.len()).for_each(|index| told += usize::from(store.example(index).is_err()))
                    }
                }
            }
        }
        assert!(told > bytes.len(), "{told}");
    }
}
