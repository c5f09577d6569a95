//! A causal language model: embedding, blocks, final norm, head, each to be run on its own.

use super::block::{Block, Loader, Norm};
use super::config::ModelConfig;
use super::families::Family;
use super::precision::PrecisionMode;
use super::rope::Frequencies;
use super::spec::{DecoderSpec, GGUF_NAMES};
use super::token_matrix::{TokenMatrix, TrainedRows};
use super::update::Slot;
use crate::error::{Error, Result};
use crate::ops::{RotaryRows, Span, Spans};
use crate::profile::{Part, time};
use crate::weights::{Checkpoint, FrozenMatrix, RowOrder};
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toktune_kernels::Precision;
use toktune_kernels::matmul::{self, Write};

/// A pretrained causal language model with every weight frozen.
#[derive(Debug)]
pub struct CausalLm {
    path: PathBuf,
    family: &'static Family,
    config: ModelConfig,
    spec: DecoderSpec,
    checkpoint: Checkpoint,
    device: Device,
    embedding: TokenMatrix,
    /// `None` when the head is the embedding.
    head: Option<TokenMatrix>,
    blocks: Vec<Block>,
    final_norm: Norm,
    frequencies: Vec<Frequencies>,
}

/// Where the rows of a batch stand: its sequences and the rotations of their positions.
#[derive(Clone, Debug)]
pub struct RowsOfBatch {
    /// The sequences.
    pub spans: Spans,
    /// The rotations, one for each of [`DecoderSpec::ropes`].
    pub rotary: Vec<RotaryRows>,
}

impl CausalLm {
    /// Puts a model together from an opened checkpoint.
    ///
    /// # Errors
    /// A tensor is missing, of another shape, or of an unsupported type; the configuration contradicts itself.
    pub(super) fn load(
        path: &Path,
        family: &'static Family,
        config: ModelConfig,
        checkpoint: Checkpoint,
        device: &Device,
    ) -> Result<Self> {
        let mut spec = (family.spec)(&config)?;
        spec.check().map_err(|(key, problem)| config.error(key, problem))?;
        let is_gguf = checkpoint.as_gguf().is_some();
        let mut names = if is_gguf { GGUF_NAMES } else { *family.names };
        if is_gguf {
            // a family lacks the norms that its own names lack
            names.q_norm = names.q_norm.filter(|_| family.names.q_norm.is_some());
            names.k_norm = names.k_norm.filter(|_| family.names.k_norm.is_some());
            names.post_attention_norm =
                names.post_attention_norm.filter(|_| family.names.post_attention_norm.is_some());
            names.post_mlp_norm = names.post_mlp_norm.filter(|_| family.names.post_mlp_norm.is_some());
            // a GGUF file says by its tensors whether the head is the embedding
            spec.tied = !checkpoint.contains(&format!("{}.weight", names.head));
        }
        let interleaved = is_gguf && family.gguf_interleaves;
        let loader = Loader {
            checkpoint: &checkpoint,
            names: &names,
            spec: &spec,
            qk_order: if interleaved {
                RowOrder::Interleaved { head_dim: spec.head_dim }
            } else {
                RowOrder::Plain
            },
            norm_offset: if spec.norm_plus_one && !is_gguf { 1.0 } else { 0.0 },
            device,
        };
        let token_matrix = |stored: &str, module: &str| -> Result<TokenMatrix> {
            let tensor = format!("{stored}.weight");
            // the matrix may have more rows than `vocab_size` says, never fewer: padding rows are there to be used
            let rows = checkpoint.shape(&tensor).and_then(|s| s.first().copied()).unwrap_or(spec.vocab_size);
            if rows < spec.vocab_size {
                let problem = format!("{} tokens, but {tensor} has {rows} rows", spec.vocab_size);
                return Err(config.error("vocab_size", problem));
            }
            Ok(TokenMatrix::new(module, checkpoint.matrix(&tensor, rows, spec.hidden_size, RowOrder::Plain)?))
        };
        let embedding = token_matrix(names.embed, family.names.embed)?;
        let head = if spec.tied { None } else { Some(token_matrix(names.head, family.names.head)?) };
        let blocks =
            spec.layers.iter().enumerate().map(|(i, of)| loader.block(i, of)).collect::<Result<_>>()?;
        let final_norm = loader.norm(names.final_norm, spec.hidden_size)?;
        let frequencies = spec.ropes.iter().map(|r| r.frequencies(0)).collect();
        Ok(Self {
            path: path.to_path_buf(),
            family,
            config,
            spec,
            device: device.clone(),
            embedding,
            head,
            blocks,
            final_norm,
            frequencies,
            checkpoint,
        })
    }

    /// The folder or file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The family it belongs to.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Its configuration, as transformers writes it.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its description as data.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The checkpoint that its weights are mapped from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Where its activations live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The input embedding.
    pub fn embedding(&self) -> &TokenMatrix {
        &self.embedding
    }

    /// The output head: the embedding itself when they are tied.
    pub fn head(&self) -> &TokenMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The token matrix of this module, to be replaced as a whole; `None` when it is no token matrix of its own.
    pub(crate) fn token_matrix_mut(&mut self, module: &str) -> Option<&mut TokenMatrix> {
        std::iter::once(&mut self.embedding).chain(self.head.as_mut()).find(|matrix| matrix.name() == module)
    }

    /// Whether the head is the embedding.
    pub fn is_tied(&self) -> bool {
        self.head.is_none()
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Rows of the embedding: the tokens that have a row, the appended ones included.
    pub fn vocabulary(&self) -> usize {
        self.embedding.rows()
    }

    /// Parameters of the model, appended rows included; a tied head counts once.
    pub fn num_parameters(&self) -> u64 {
        let appended = self.embedding.extra().len() + self.head.as_ref().map_or(0, |h| h.extra().len());
        self.checkpoint.total_parameters() + appended as u64
    }

    /// The names of all linear layers and token matrices, as transformers names the modules.
    pub fn module_names(&self) -> Vec<String> {
        let names = self.family.names;
        let in_blocks = self
            .blocks
            .iter()
            .enumerate()
            .flat_map(|(i, block)| block.linears(names).map(move |(name, _)| names.in_block(i, name)));
        [names.embed.to_string()].into_iter().chain(in_blocks).chain([names.head.to_string()]).collect()
    }

    /// The linear layers of the blocks by their full names.
    pub(crate) fn linear_layers(&self) -> Vec<(String, &FrozenMatrix)> {
        let names = self.family.names;
        let mut layers = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            layers.extend(block.linears(names).into_iter().map(|(name, w)| (names.in_block(i, name), w)));
        }
        layers
    }

    /// The block and the place in it of each linear layer, by its full name.
    pub(crate) fn linear_places(&self) -> Vec<(String, usize, Slot)> {
        let names = self.family.names;
        let in_block = |(i, block): (usize, &Block)| {
            block
                .linears(names)
                .map(|(name, _)| names.in_block(i, name))
                .into_iter()
                .zip(Slot::ALL)
                .map(move |(name, slot)| (name, i, slot))
        };
        self.blocks.iter().enumerate().flat_map(in_block).collect()
    }

    /// The weight of a linear layer of the blocks, by its full name.
    pub(crate) fn linear_mut(&mut self, name: &str) -> Option<&mut FrozenMatrix> {
        let names = self.family.names;
        let blocks = self.blocks.iter_mut().enumerate();
        blocks
            .flat_map(|(i, block)| {
                block.linears_mut(names).map(move |(linear, w)| (names.in_block(i, linear), w))
            })
            .find_map(|(full, weight)| (full == name).then_some(weight))
    }

    /// Gives the embedding, and an untied head, at least `rows` rows; new ones are the mean of the frozen rows of the
    /// matrix they join. Rows that are there are never taken away: they may be padding that later tokens use.
    pub fn resize_token_embeddings(&mut self, rows: usize) {
        for matrix in std::iter::once(&mut self.embedding).chain(self.head.as_mut()) {
            let missing = rows.saturating_sub(matrix.rows());
            if missing > 0 {
                let (mean, _) = matrix.statistics();
                matrix.append(&mean.repeat(missing));
            }
        }
    }

    /// The rows of a batch of sequences that follow one another, each with the past rows that `spans` gives it.
    pub fn rows_of(&self, spans: Vec<Span>) -> RowsOfBatch {
        let positions: Vec<u32> = spans
            .iter()
            .flat_map(|s| (s.past.len()..s.past.len() + s.rows.len()).map(|p| p as u32))
            .collect();
        let rotary =
            self.frequencies.iter().map(|f| RotaryRows::new(&positions, &f.values, f.scale)).collect();
        RowsOfBatch { spans: Arc::new(spans), rotary }
    }

    /// The embedded rows of `ids`, `[ids, d]`, with trained rows in place of frozen ones.
    ///
    /// # Errors
    /// An id is past the vocabulary.
    pub fn embed(&self, ids: &[u32], trained: Option<&TrainedRows>) -> Result<Tensor> {
        let width = self.spec.hidden_size;
        let x = self.embedded(ids, trained)?;
        Ok(Tensor::from_vec(x, (ids.len(), width), &self.device)?)
    }

    /// [`Self::embed`] as plain floats.
    pub(crate) fn embedded(&self, ids: &[u32], trained: Option<&TrainedRows>) -> Result<Vec<f32>> {
        let (rows, width) = (self.vocabulary(), self.spec.hidden_size);
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::TokenOutOfRange { id: id as i64, rows });
        }
        let mut x = vec![0f32; ids.len() * width];
        let (table, scale) = (self.embedding.table(trained), self.spec.embed_scale);
        time(Part::Embedding, 0, || toktune_kernels::embedding::gather(ids, &table, scale, &mut x));
        Ok(x)
    }

    /// Takes products with frozen weights as `mode` says.
    pub fn set_precision(&mut self, mode: PrecisionMode) {
        let precision = |of: &FrozenMatrix| mode.of(of.dtype());
        self.blocks.iter_mut().for_each(|block| block.set_precision(precision));
        for matrix in std::iter::once(&mut self.embedding).chain(self.head.as_mut()) {
            matrix.set_precision(precision);
        }
    }

    /// Whether some products with frozen weights are taken in bf16.
    pub fn uses_bf16(&self) -> bool {
        let names = self.family.names;
        let matrices = self.blocks.iter().flat_map(|block| block.linears(names)).map(|(_, matrix)| matrix);
        matrices.chain([self.head().frozen()]).any(|matrix| matrix.precision() == Precision::Bf16)
    }

    /// The norm before the head.
    ///
    /// # Errors
    /// `x` is not `[rows, d]`.
    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.final_norm.forward(x)
    }

    /// The norm before the head, for a pass without a graph.
    pub(crate) fn final_norm_rows(&self) -> &Norm {
        &self.final_norm
    }

    /// The weight of the norm before the head, the family's offset in it.
    pub(super) fn final_norm_weight(&self) -> &Tensor {
        self.final_norm.weight()
    }

    /// The logits of a few hidden rows (after the final norm) over the whole vocabulary, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// `hidden` is not `[rows, d]`.
    pub fn logits(&self, hidden: &Tensor, trained: Option<&TrainedRows>) -> Result<Tensor> {
        let (rows, head) = (hidden.dim(0)?, self.head());
        let hidden: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        let mut logits = vec![0f32; rows * head.rows()];
        let precision = head.frozen().precision();
        let table = head.table(trained);
        if rows < matmul::FEW_ROWS {
            matmul::stream(&hidden, &table, Write::Over, &mut logits);
        } else {
            matmul::forward(&hidden, &table, precision, Write::Over, &mut logits);
        }
        Ok(Tensor::from_vec(logits, (rows, head.rows()), &self.device)?)
    }

    /// A weight matrix with a number in it that is not finite, with the row: what to look for when a loss is not.
    pub fn first_non_finite(&self) -> Option<(String, usize)> {
        let names = self.family.names;
        let of = |name: String, matrix: &FrozenMatrix| matrix.first_non_finite().map(|(row, _)| (name, row));
        of(names.embed.into(), self.embedding.frozen())
            .or_else(|| self.head.as_ref().and_then(|h| of(names.head.into(), h.frozen())))
            .or_else(|| {
                self.blocks.iter().enumerate().find_map(|(i, block)| {
                    block.linears(names).into_iter().find_map(|(name, m)| of(names.in_block(i, name), m))
                })
            })
    }
}
