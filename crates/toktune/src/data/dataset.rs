//! Sources of rows to a set of examples: read once, encoded by all threads, kept packed.

use std::fmt;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::encode::Encoder;
use super::files::{DataFile, files_of};
use super::records::{Content, Record, RecordOptions, read_records};
use super::row::Row;
use super::store::{Store, StoreWriter, Summary};
use super::weights::{EXPECTED, is_weight};
use super::{Collator, DataOptions, DataSource, EncodingNotes, RaggedBatch, Share, TokenUse};
use crate::data::error::{DataError, Result};
use crate::engine::prefixes::Prefixes;
use crate::models::{ModelKind, PretrainedModel};
use crate::text::AutoTokenizer;
use crate::weights::{Bytes, WeightsError, write_atomically};

/// What one thread encodes at a time, in bytes and in rows: enough to hide the hand-over, and little to hold.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_ROWS: usize = 1024;
/// Chunks for each thread that are read before they are encoded.
const CHUNKS_AHEAD: usize = 4;

/// Where a row comes from; written as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// A tokenised row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The tokens: of an encoder-decoder model the encoder's, of a pair the first sequence's.
    pub input_ids: Vec<u32>,
    /// The second sequence of a pair, with two answers to one prompt the prompt and the rejected one; empty for every other row.
    pub second: Vec<u32>,
    /// What each position is labelled, in the position's own place: for a decoder the shift comes later.
    /// `None` (Python's -100) is not learnt.
    ///
    /// An encoder-decoder model's are its decoder's targets, of a length of their own. A masked language model's
    /// are empty when the tokens to guess are chosen anew in every epoch, and those of a pair of sentences always are. Two answers
    /// to one prompt have those of `input_ids` and then those of `second`.
    pub labels: Vec<Option<u32>>,
    /// What the loss of each label counts, in the label's own place; of a masked language model's example without labels, in
    /// the tokens' places. Empty where each counts once. A label of weight 0 is not learnt; an encoder-decoder's decoder
    /// reads it all the same.
    pub weights: Vec<f32>,
    /// Tokens that `max_length` cut off.
    pub cut: Vec<u32>,
    /// The row it comes from.
    pub source: Source,
}

impl Example {
    /// Whether a label in this place counts anything.
    pub fn counts(&self, at: usize) -> bool {
        self.weights.get(at).is_none_or(|weight| *weight > 0.0)
    }

    /// The places that can have a label.
    pub(super) fn places(&self) -> usize {
        if self.labels.is_empty() { self.input_ids.len() } else { self.labels.len() }
    }

    /// Whether it is two answers to one prompt: `input_ids` with the chosen one, `second` with the rejected one, and the labels of both
    /// one after the other.
    pub fn is_preference(&self) -> bool {
        !self.second.is_empty() && !self.labels.is_empty()
    }

    /// The length of its longest sequence.
    pub(super) fn longest(&self) -> usize {
        if self.is_preference() {
            return self.input_ids.len().max(self.second.len());
        }
        self.input_ids.len().max(self.second.len()).max(self.labels.len())
    }
}

/// How far reading has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadProgress {
    /// Bytes of all sources that are read, as they lie on the disk.
    pub bytes: u64,
    /// Bytes of all sources.
    pub of_bytes: u64,
    /// Rows that are encoded.
    pub rows: usize,
}

/// All examples, in the order of their sources and rows.
#[derive(Debug, Clone)]
pub struct Dataset {
    parts: Vec<Part>,
    collator: Collator,
    vocab_size: usize,
    /// The options that decided what of the rows is learnt, by their names.
    options: Vec<(&'static str, String)>,
}

/// The examples of one source.
#[derive(Debug, Clone)]
struct Part {
    store: Store,
    weight: f64,
}

impl Dataset {
    /// Reads and tokenises files or folders, one after the other.
    ///
    /// `tokenizer` may be absent when every row holds `input_ids`.
    ///
    /// # Errors
    /// The first fault of the first faulty row; a file without rows; no label anywhere that could be learnt.
    pub fn read<'s, S>(
        sources: &'s [S],
        tokenizer: Option<&AutoTokenizer>,
        options: &DataOptions,
    ) -> Result<Self>
    where
        &'s S: Into<DataSource>,
    {
        let sources: Vec<DataSource> = sources.iter().map(Into::into).collect();
        Dataset::read_with(&sources, tokenizer, options, &mut |_| {})
    }

    /// Reads and tokenises files or folders for `model`, as [`read`](Self::read) with [`DataOptions::for_model`].
    ///
    /// # Errors
    /// As there.
    pub fn for_model<'s, S>(
        model: &PretrainedModel,
        sources: &'s [S],
        tokenizer: Option<&AutoTokenizer>,
    ) -> Result<Self>
    where
        &'s S: Into<DataSource>,
    {
        Dataset::read(sources, tokenizer, &DataOptions::for_model(model, tokenizer))
    }

    /// Tokenises rows that a program has in memory, each the object that a line of a JSONL file would be.
    ///
    /// # Errors
    /// The first fault of the first faulty row, which is named by its number from 1; no label anywhere that could be learnt.
    pub fn from_rows(
        rows: impl IntoIterator<Item = Map<String, Value>>,
        tokenizer: Option<&AutoTokenizer>,
        options: &DataOptions,
    ) -> Result<Self> {
        let encoder = Encoder::new(tokenizer, options)?;
        let shown: Arc<Path> = Path::new("rows").into();
        let mut writer = in_memory(StoreWriter::new(Vec::new(), &options.collator))?;
        let mut rows = rows.into_iter();
        let mut line = 0;
        loop {
            let next = rows.by_ref().take(CHUNK_ROWS).map(|fields| {
                line += 1;
                Record { line, content: Content::Fields(fields) }
            });
            let chunk: Vec<Record> = next.collect();
            if chunk.is_empty() {
                break;
            }
            writer.count_rows(chunk.len());
            let (examples, notes) = encode_chunk(&encoder, chunk, &shown)?;
            for example in examples {
                in_memory(writer.push(&example, 0))?;
            }
            writer.notes().add(&notes);
        }
        let bytes = Bytes::owned(in_memory(writer.finish())?);
        let store = Store::open(bytes, vec![shown], options.vocab_size)
            .ok_or(DataError::DamagedStore { example: 0 })?;
        Dataset::of(vec![Part { store, weight: 1.0 }], options)
    }

    /// The set of these parts, of which something can be learnt.
    fn of(parts: Vec<Part>, options: &DataOptions) -> Result<Self> {
        let (collator, vocab_size, options) = (options.collator.clone(), options.vocab_size, options.told());
        let dataset = Dataset { parts, collator, vocab_size, options };
        if dataset.rows_without_labels() == dataset.len() {
            let (rows, cut_rows) = (dataset.len(), dataset.cut_rows());
            return Err(DataError::NoLabels { rows, cut_rows });
        }
        dataset.check_preferences()?;
        Ok(dataset)
    }

    /// As [`read`](Self::read), and tells how far it has come.
    ///
    /// # Errors
    /// As there.
    pub fn read_with(
        sources: &[DataSource],
        tokenizer: Option<&AutoTokenizer>,
        options: &DataOptions,
        tell: &mut dyn FnMut(&ReadProgress),
    ) -> Result<Self> {
        if sources.is_empty() {
            return Err(DataError::NoFiles);
        }
        let encoder = Encoder::new(tokenizer, options)?;
        let files = sources.iter().map(files_of).collect::<Result<Vec<_>>>()?;
        let of_bytes = files.iter().flatten().map(|file| file.size).sum();
        let mut progress = ReadProgress { bytes: 0, of_bytes, rows: 0 };
        let mut parts = Vec::with_capacity(sources.len());
        for (source, files) in sources.iter().zip(&files) {
            let store = kept_or_encoded(files, &encoder, &mut progress, tell)?;
            parts.push(Part { store, weight: source.weight });
        }
        Dataset::of(parts, options)
    }

    /// A set of examples that were made elsewhere, whose ids lie below `vocab_size`.
    ///
    /// # Errors
    /// An id that does not; weights that are not as many as the labels, negative or not finite, or those of a pair.
    pub fn from_examples(examples: &[Example], collator: Collator, vocab_size: usize) -> Result<Self> {
        let mut files: Vec<Arc<Path>> = Vec::new();
        let mut writer = in_memory(StoreWriter::new(Vec::new(), &collator))?;
        for example in examples {
            let labels = example.labels.iter().flatten();
            let mut ids = example.input_ids.iter().chain(&example.second).chain(labels);
            if let Some(&id) = ids.find(|id| **id as usize >= vocab_size) {
                let (at, token) = (example.source.clone(), String::new());
                return Err(DataError::TokenBeyondModel { at, token, id, vocab_size });
            }
            check_weights(example, &collator)?;
            let file = files.iter().position(|file| *file == example.source.file).unwrap_or_else(|| {
                files.push(example.source.file.clone());
                files.len() - 1
            });
            in_memory(writer.push(example, file as u32))?;
            writer.count_rows(1);
        }
        let bytes = Bytes::owned(in_memory(writer.finish())?);
        let store = Store::open(bytes, files, vocab_size).ok_or(DataError::DamagedStore { example: 0 })?;
        let dataset =
            Dataset { parts: vec![Part { store, weight: 1.0 }], collator, vocab_size, options: Vec::new() };
        dataset.check_preferences()?;
        Ok(dataset)
    }

    /// Whether the examples are two answers to one prompt each; all of them are or none is.
    pub fn is_preference(&self) -> bool {
        self.summaries().any(|summary| summary.preferences > 0)
    }

    fn check_preferences(&self) -> Result<()> {
        let (pairs, rows) = (self.summaries().map(|summary| summary.preferences).sum(), self.len());
        if pairs == 0 || pairs == rows { Ok(()) } else { Err(DataError::MixedPreferences { pairs, rows }) }
    }

    /// How many sequences of a batch an example is.
    fn sequences_of_one(&self) -> usize {
        1 + usize::from(self.is_preference())
    }

    /// The numbers of the sequences that a batch of the examples `indices` has, among those of all examples.
    pub fn sequences(&self, indices: &[usize]) -> Vec<usize> {
        let of_one = self.sequences_of_one();
        indices.iter().flat_map(|index| of_one * index..of_one * (index + 1)).collect()
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.store.len()).sum()
    }

    /// Whether there are no examples; a dataset that was read has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of rows that the examples come from: a conversation can give several.
    pub fn rows(&self) -> usize {
        self.summaries().map(|summary| summary.rows).sum()
    }

    /// What is made of the examples.
    pub fn collator(&self) -> &Collator {
        &self.collator
    }

    /// Rows of the model: ids lie below.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Example `index`.
    ///
    /// # Errors
    /// It is not there, or the file of encoded rows was changed since it was written.
    pub fn example(&self, index: usize) -> Result<Example> {
        match self.part_of(index) {
            Some((store, within)) => store.example(within),
            None => Err(DataError::NoSuchExample { index, examples: self.len() }),
        }
    }

    /// Where an example lies: its part, and its number there.
    fn part_of(&self, index: usize) -> Option<(&Store, usize)> {
        let mut within = index;
        for part in &self.parts {
            match within.checked_sub(part.store.len()) {
                None => return Some((&part.store, within)),
                Some(rest) => within = rest,
            }
        }
        None
    }

    /// Tokens of the inputs of examples together, which the examples need not be read for.
    pub fn tokens_of(&self, indices: &[usize]) -> usize {
        let of = |&index: &usize| self.part_of(index).and_then(|(store, within)| store.tokens_of(within));
        indices.iter().filter_map(of).sum()
    }

    /// Every example in turn.
    pub fn examples(&self) -> impl Iterator<Item = Result<Example>> + '_ {
        self.parts.iter().flat_map(|part| (0..part.store.len()).map(|index| part.store.example(index)))
    }

    /// The batch of the examples `indices`, as epoch `epoch` has it: for evaluation always the same one, 0.
    ///
    /// # Errors
    /// An index is not there, or the file of encoded rows was changed since it was written.
    pub fn batch(&self, indices: &[usize], epoch: u64) -> Result<RaggedBatch> {
        let examples = indices.iter().map(|&index| self.example(index)).collect::<Result<Vec<_>>>()?;
        let placed = indices.iter().copied().zip(&examples);
        Ok(self.collator.batch(placed, epoch, self.vocab_size))
    }

    /// What the examples' sequences begin with alike, so far as `model` computes it alike: nothing but for causal language models.
    pub fn prefixes(&self, model: &PretrainedModel) -> Prefixes {
        if self.collator.kind() != ModelKind::Causal {
            return Prefixes::default();
        }
        let mut places = Vec::with_capacity(self.len());
        for (part, of) in self.parts.iter().enumerate() {
            places.extend((0..of.store.len()).map(|within| (part, within)));
        }
        let of_one = self.sequences_of_one();
        let token = |index: usize, at: usize| {
            let (part, within) = *places.get(index / of_one)?;
            self.parts[part].store.token((within, index % of_one), at)
        };
        let by_length = model.rotations_depend_on_length();
        let class = |index: usize| match by_length {
            true => model.rotation_class((0..).find(|&at| token(index, at).is_none()).unwrap_or(0)),
            false => 0,
        };
        Prefixes::of(of_one * self.len(), token, class)
    }

    /// Checks that what is made of the rows is what `model` takes.
    ///
    /// # Errors
    /// They are made for another kind of model.
    pub fn check_for(&self, model: &PretrainedModel) -> Result<()> {
        let (made_for, kind) = (self.collator.kind(), model.kind());
        if made_for != kind {
            return Err(DataError::OtherKind { made_for, kind });
        }
        Ok(())
    }

    /// How the examples fall into sources, and how often each is seen in an epoch.
    pub fn shares(&self) -> Vec<Share> {
        self.parts.iter().map(|part| Share { examples: part.store.len(), weight: part.weight }).collect()
    }

    /// How many examples an epoch has.
    pub fn examples_per_epoch(&self) -> usize {
        self.shares().iter().map(Share::per_epoch).sum()
    }

    /// The number of tokens that the model reads in one pass over all examples.
    pub fn tokens(&self) -> usize {
        self.summaries().map(|summary| summary.tokens).sum()
    }

    /// The number of labels the model learns from in one pass: in the first, where tokens are masked anew in each.
    pub fn label_tokens(&self) -> usize {
        if !matches!(self.collator, Collator::MaskedLm(_)) {
            return self.summaries().map(|summary| summary.labels).sum();
        }
        // an example that cannot be read is told when it is trained on
        let of = |(index, example): (usize, Result<Example>)| {
            example.map_or(0, |example| self.collator.label_tokens(&example, index, 0, self.vocab_size))
        };
        self.examples().enumerate().map(of).sum()
    }

    /// How many examples were cut by `max_length`.
    pub fn cut_rows(&self) -> usize {
        self.summaries().map(|summary| summary.cut).sum()
    }

    /// How many examples leave nothing to learn.
    pub fn rows_without_labels(&self) -> usize {
        self.summaries().map(|summary| summary.empty).sum()
    }

    /// What the encoding of the rows has to say of all sources together.
    pub fn notes(&self) -> EncodingNotes {
        let mut notes = EncodingNotes::default();
        self.summaries().for_each(|summary| notes.add(&summary.notes));
        notes
    }

    /// A hash of all examples in their order, in hexadecimal digits: the same rows, encoded alike, have the same.
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for (summary, share) in self.summaries().zip(self.shares()) {
            hash.update(summary.hash.as_bytes());
            hash.update(&share.weight.to_le_bytes());
        }
        hash.finalize().to_hex().to_string()
    }

    /// The options that decided what of the rows is learnt, by their names; none of examples that were made elsewhere.
    pub fn options(&self) -> &[(&'static str, String)] {
        &self.options
    }

    /// Counts the given tokens over the data; the answer has their order.
    pub fn uses(&self, ids: &[u32]) -> Vec<TokenUse> {
        let of = |&id: &u32| {
            let mut all = TokenUse { id, inputs: 0, labels: 0, cut: 0, acting: 0 };
            for summary in self.summaries() {
                let found = summary.uses.binary_search_by_key(&u64::from(id), |uses| uses[0]);
                if let Some([_, inputs, labels, cut, acting]) = found.ok().map(|at| summary.uses[at]) {
                    all.inputs += inputs as usize;
                    all.labels += labels as usize;
                    all.cut += cut as usize;
                    all.acting += acting as usize;
                }
            }
            all
        };
        ids.iter().map(of).collect()
    }

    fn summaries(&self) -> impl Iterator<Item = &Summary> {
        self.parts.iter().map(|part| part.store.summary.as_ref())
    }
}

/// Checks the weights of an example that was made elsewhere.
fn check_weights(example: &Example, collator: &Collator) -> Result<(), DataError> {
    let (at, weights, labels) = (|| example.source.clone(), &example.weights, example.places());
    if weights.is_empty() {
        return Ok(());
    }
    collator.check_weighted(&example.source)?;
    if weights.len() != labels {
        return Err(DataError::WeightLength { at: at(), weights: weights.len(), labels });
    }
    match weights.iter().position(|weight| !is_weight(*weight)) {
        None => Ok(()),
        Some(index) => Err(DataError::WrongType {
            at: at(),
            key: format!("weights[{index}]"),
            found: weights[index].to_string(),
            expected: EXPECTED,
        }),
    }
}

/// The examples of a source: from the cache, or encoded and, where there is a cache for it, kept.
fn kept_or_encoded(
    files: &[DataFile],
    encoder: &Encoder<'_>,
    progress: &mut ReadProgress,
    tell: &mut dyn FnMut(&ReadProgress),
) -> Result<Store> {
    let options = encoder.options();
    let (names, vocab_size) = (|| files.iter().map(|file| file.shown.clone()).collect(), options.vocab_size);
    let size: u64 = files.iter().map(|file| file.size).sum();
    let Some(cache) = options.cache.as_ref().filter(|cache| size >= cache.least_bytes) else {
        let mut writer = in_memory(StoreWriter::new(Vec::new(), &options.collator))?;
        encode(files, encoder, (&mut writer, Path::new("memory")), progress, tell)?;
        let bytes = Bytes::owned(in_memory(writer.finish())?);
        return Store::open(bytes, names(), vocab_size).ok_or(DataError::DamagedStore { example: 0 });
    };
    let path = cache.path(files, encoder.tokenizer_of_rows(), options)?;
    let open = || {
        let bytes = Bytes::map(&path).ok()?;
        Store::open(bytes, names(), vocab_size)
    };
    if let Some(store) = path.is_file().then(open).flatten() {
        cache.used(&path);
        progress.bytes += size;
        progress.rows += store.summary.rows;
        tell(progress);
        return Ok(store);
    }
    let unkept = unwritten(&path);
    std::fs::create_dir_all(&cache.folder).map_err(unkept)?;
    let mut fault = None;
    let written = write_atomically(&path, |file| {
        let mut writer =
            StoreWriter::new(BufWriter::with_capacity(1 << 20, file), &options.collator).map_err(unkept)?;
        if let Err(error) = encode(files, encoder, (&mut writer, &path), progress, tell) {
            fault = Some(error);
            return Err(unkept(std::io::ErrorKind::Other.into()));
        }
        writer.finish().and_then(|mut file| file.flush()).map_err(unkept)
    });
    match (fault, written) {
        (Some(fault), _) => return Err(fault),
        (None, Err(DataError::Weights(WeightsError::Io { source, .. }))) => return Err(unkept(source)),
        (None, written) => written?,
    }
    cache.used(&path);
    open().ok_or(DataError::DamagedStore { example: 0 })
}

/// Encodes all rows of some files. Chunks of them are encoded by all threads and written in their order, so that neither
/// examples nor faults depend on the number of threads.
fn encode<W: Write>(
    files: &[DataFile],
    encoder: &Encoder<'_>,
    (writer, to): (&mut StoreWriter<'_, W>, &Path),
    progress: &mut ReadProgress,
    tell: &mut dyn FnMut(&ReadProgress),
) -> Result<()> {
    let options = encoder.options();
    let ahead = CHUNKS_AHEAD * rayon::current_num_threads();
    let mut before = progress.bytes;
    for (number, file) in (0u32..).zip(files) {
        let (mut chunks, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (first, mut position) = (writer.len(), 0);
        let record_options = RecordOptions { sample_by: options.sample_by, keys: &options.keys, cuts: false };
        let mut flush = |chunks: &mut Vec<Vec<Record>>, position: u64| -> Result<()> {
            let rows: usize = chunks.iter().map(Vec::len).sum();
            let encoded: Vec<Result<Chunk>> = std::mem::take(chunks)
                .into_par_iter()
                .map(|chunk| encode_chunk(encoder, chunk, &file.shown))
                .collect();
            for chunk in encoded {
                let (examples, notes) = chunk?;
                for example in examples {
                    writer.push(&example, number).map_err(unwritten(to))?;
                }
                writer.notes().add(&notes);
            }
            writer.count_rows(rows);
            (progress.bytes, progress.rows) = (before + position, progress.rows + rows);
            tell(progress);
            Ok(())
        };
        read_records(file, record_options, &mut |record, read| {
            position = read;
            bytes += record.size();
            chunk.push(record);
            if bytes >= CHUNK_BYTES || chunk.len() >= CHUNK_ROWS {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
            if chunks.len() >= ahead { flush(&mut chunks, read) } else { Ok(()) }
        })?;
        chunks.push(chunk);
        flush(&mut chunks, position)?;
        before += file.size;
        if writer.len() == first {
            return Err(DataError::EmptyFile { path: file.shown.to_path_buf() });
        }
    }
    Ok(())
}

/// The examples of some rows, and what there is to say of them.
type Chunk = (Vec<Example>, EncodingNotes);

fn encode_chunk(encoder: &Encoder<'_>, chunk: Vec<Record>, file: &Arc<Path>) -> Result<Chunk> {
    let (mut examples, mut notes) = (Vec::with_capacity(chunk.len()), EncodingNotes::default());
    for record in chunk {
        let at = Source { file: file.clone(), line: record.line };
        let options = encoder.options();
        let row = Row::read(record.content, &options.keys, &at, options.vocab_size)?;
        encoder.encode(row, at, &mut examples, &mut notes)?;
    }
    Ok((examples, notes))
}

/// A fault of writing examples.
fn unwritten(to: &Path) -> impl Fn(std::io::Error) -> DataError + Copy + '_ {
    |source| DataError::CacheWrite { path: to.to_owned(), source }
}

/// Memory takes what is written to it.
fn in_memory<T>(written: std::io::Result<T>) -> Result<T> {
    written.map_err(unwritten(Path::new("memory")))
}
