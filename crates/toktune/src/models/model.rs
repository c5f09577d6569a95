//! A pretrained model: embedding, stack of blocks (two of them in an encoder-decoder), head, each to be run on its own.

mod replace;

pub(crate) use replace::ReplaceError;

use super::block::{Block, BlockTensor, Linear, Naming};
use super::chain::{Chain, Stage};
use super::config::ModelConfig;
use super::copies::same_rows;
use super::families::{Family, synonyms};
use super::kind::ModelKind;
use super::precision::PrecisionMode;
use super::quantisation;
use super::sentence::SentenceSpec;
use super::spec::{ModelSpec, QkvLayout, StackSpec};
use super::stack::{RowsOfBatch, Stack};
use super::token_matrix::{TokenMatrix, TrainedRows};
use super::update::Slot;
use crate::error::{Error, Result};
use crate::ops::Span;
use crate::weights::{Checkpoint, FrozenMatrix, RowOrder, WeightsError};
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};
use toktune_kernels::cross_entropy::Head;
use toktune_kernels::matmul::{self, Write};
use toktune_kernels::{Precision, TokenTable};

/// A pretrained model with every weight frozen.
#[derive(Debug)]
pub struct PretrainedModel {
    path: PathBuf,
    family: &'static Family,
    config: ModelConfig,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    device: Device,
    /// How products are taken, where that was said.
    mode: Option<PrecisionMode>,
    embedding: TokenMatrix,
    /// Whether the configuration ties the head, though the file may hold one that differs.
    tied_by_configuration: bool,
    /// `None` when the head is the embedding, or there is none.
    head: Option<TokenMatrix>,
    head_bias: Vec<f32>,
    stack: Stack,
    encoder: Option<Stack>,
    /// How a sequence becomes a vector, where there is no head.
    sentence: SentenceSpec,
    /// From the stack to the rows that meet the vocabulary.
    to_head: Chain,
}

impl PretrainedModel {
    /// Puts a model together from an opened checkpoint.
    ///
    /// # Errors
    /// A tensor is missing, of another shape, or of an unsupported type; the configuration contradicts itself.
    pub(super) fn load(
        path: &Path,
        family: &'static Family,
        config: ModelConfig,
        mut checkpoint: Checkpoint,
        device: &Device,
    ) -> Result<Self> {
        quantisation::prepare(&config, &mut checkpoint)?;
        let mut spec = (family.spec)(&synonyms::own_names(&config))?;
        spec.check().map_err(|(key, problem)| config.error(key, problem))?;
        let is_gguf = checkpoint.as_gguf().is_some();
        let gguf = family.gguf.as_ref().filter(|_| is_gguf);
        let naming = Naming {
            gguf: is_gguf.then(|| spec.stack.names.in_gguf()),
            model: spec.names,
            qk_order: match gguf {
                Some(gguf) if gguf.interleaves => {
                    RowOrder::Interleaved { head_dim: spec.stack.attention.head_dim }
                }
                _ => RowOrder::Plain,
            },
            qkv_order: match &spec.stack.attention {
                // the converter takes the groups apart
                of if is_gguf && of.layout == QkvLayout::Groups => RowOrder::Regrouped {
                    groups: of.kv_heads,
                    queries: of.heads / of.kv_heads.max(1) * of.head_dim,
                    head_dim: of.head_dim,
                },
                _ => RowOrder::Plain,
            },
            columns: family.columns && !is_gguf,
        };
        let transform = format!("{}.weight", spec.names.transform);
        let has_transform = checkpoint.contains(&naming.find(&checkpoint, &transform));
        if spec.kind == ModelKind::MaskedLm && !has_transform {
            spec = spec.without_head();
        }
        let stored = if is_gguf { spec.names.in_gguf() } else { spec.names };
        // a GGUF file says by its tensors whether the head is the embedding
        spec.tied |= is_gguf;
        let tied_by_configuration = spec.tied && !is_gguf;
        let token_matrix = |names: &[&str], module: &str| -> Result<TokenMatrix> {
            let tensor = find_first(&checkpoint, &naming, names);
            // the matrix may have more rows than `vocab_size` says, never fewer: padding rows are there to be used
            let rows = checkpoint.shape(&tensor).and_then(|s| s.first().copied()).unwrap_or(spec.vocab_size);
            if rows < spec.vocab_size {
                let problem = format!("{} tokens, but {tensor} has {rows} rows", spec.vocab_size);
                return Err(config.error("vocab_size", problem));
            }
            let width = spec.stack.embedding.width;
            Ok(TokenMatrix::new(module, checkpoint.matrix(&tensor, rows, width, RowOrder::Plain)?))
        };
        let head_names = [&[stored.head], stored.head_files].concat();
        // a file of a tied model may hold the matrix under the name of the head alone
        let heads: &[&str] = if spec.tied { &head_names } else { &[] };
        let embed_names = [&[stored.embed], stored.embed_files, heads].concat();
        let embedding = token_matrix(&embed_names, spec.names.embed)?;
        if !is_gguf {
            let others = spec.names.embed_aliases.iter().chain(spec.names.embed_files);
            refuse_other_embeddings(&checkpoint, &naming, embedding.frozen().name(), others)?;
        }
        let has_head = spec.kind != ModelKind::SentencePairs;
        if spec.tied {
            // as transformers 5 has it, a file with a head that differs is not tied, whatever its configuration says
            let tensor = find_first(&checkpoint, &naming, &head_names);
            spec.tied =
                !checkpoint.contains(&tensor) || same_rows(&checkpoint, embedding.frozen().name(), &tensor);
        }
        let head = match has_head && !spec.tied {
            true => Some(token_matrix(&head_names, spec.names.head)?),
            false => None,
        };
        let head_bias = match spec.head.bias && has_head {
            true => {
                let rows = head.as_ref().unwrap_or(&embedding).rows();
                // where the head's own differs from the one it is tied to, transformers computes with its own
                let own = format!("{}.bias", stored.head);
                let own = Some(naming.find(&checkpoint, &own)).filter(|name| checkpoint.contains(name));
                let name = own.unwrap_or_else(|| naming.find(&checkpoint, stored.head_bias));
                // BART and its kin keep it as a matrix of one row
                match checkpoint.shape(&name) {
                    Some([1, _]) => checkpoint.matrix(&name, 1, rows, RowOrder::Plain)?.decode_rows(0..1),
                    _ => checkpoint.vector(&name, rows)?,
                }
            }
            false => Vec::new(),
        };
        let stack = Stack::load(spec.stack.clone(), &checkpoint, &naming, device)?;
        let encoder = spec.encoder.clone();
        let encoder = encoder.map(|of| Stack::load(of, &checkpoint, &naming, device)).transpose()?;
        let to_head = Self::to_head(&spec, &checkpoint, &naming, device)?;
        let sentence = match spec.kind == ModelKind::SentencePairs && path.is_dir() {
            true => SentenceSpec::read(path)?,
            false => SentenceSpec::default(),
        };
        Ok(Self {
            path: path.to_path_buf(),
            device: device.clone(),
            mode: None,
            family,
            config,
            spec,
            embedding,
            tied_by_configuration,
            head,
            head_bias,
            stack,
            encoder,
            sentence,
            to_head,
            checkpoint,
        })
    }

    fn to_head(spec: &ModelSpec, checkpoint: &Checkpoint, naming: &Naming, device: &Device) -> Result<Chain> {
        let mut chain = Chain::default();
        if let Some(activation) = spec.head.transform {
            let loader =
                super::block::Loader { checkpoint, naming, spec: &spec.stack, device, distances: None };
            let (d, width) = (spec.stack.hidden_size, spec.stack.embedding.width);
            let bias = spec.head.transform_bias;
            chain.0.push(Stage::Linear(loader.linear(spec.names.transform, (width, d), bias)?));
            chain.0.push(Stage::Activation(activation));
            chain.0.push(Stage::Norm(loader.norm(spec.names.transform_norm, None, width)?));
        }
        if spec.head.scale != 1.0 {
            chain.0.push(Stage::Scale(spec.head.scale));
        }
        Ok(chain)
    }

    /// The folder or file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The family it belongs to.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// What it computes.
    pub fn kind(&self) -> ModelKind {
        self.spec.kind
    }

    /// Its configuration, as transformers writes it.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its description as data.
    pub fn spec(&self) -> &ModelSpec {
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

    /// The stack that the head stands on.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The encoder of an encoder-decoder.
    pub fn encoder(&self) -> Option<&Stack> {
        self.encoder.as_ref()
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

    /// Whether there is a head: hidden states alone have none.
    pub fn has_head(&self) -> bool {
        self.spec.kind != ModelKind::SentencePairs
    }

    /// Whether the head is the embedding.
    pub fn is_tied(&self) -> bool {
        self.has_head() && self.head.is_none()
    }

    /// Whether the configuration says that the head is the embedding, and the file has a head that differs. PEFT goes by
    /// the configuration and gives both the same rows; transformers and toktune go by the file.
    pub fn is_untied_by_its_file(&self) -> bool {
        self.has_head() && self.tied_by_configuration && self.head.is_some()
    }

    /// The name of the input embedding, as transformers names the module.
    pub fn embedding_name(&self) -> &'static str {
        self.spec.names.embed
    }

    /// The name of the head, as transformers names the module; empty when there is none.
    pub fn head_name(&self) -> &'static str {
        self.spec.names.head
    }

    /// The modules that embed tokens: the input embedding, and others that use its matrix under names of their own.
    pub fn embedding_modules(&self) -> impl Iterator<Item = &'static str> {
        [self.spec.names.embed].into_iter().chain(self.spec.names.embed_aliases.iter().copied())
    }

    /// The modules that embed the tokens of the encoder and of the decoder of an encoder-decoder.
    pub(crate) fn encoder_and_decoder_embedding(&self) -> Option<[&'static str; 2]> {
        self.encoder.as_ref()?;
        match self.spec.names.embed_aliases {
            [encoder, decoder] => Some([encoder, decoder]),
            _ => Some([self.spec.names.embed; 2]),
        }
    }

    /// The blocks of the stack, first to last.
    pub fn blocks(&self) -> &[Block] {
        self.stack.blocks()
    }

    /// All blocks: the encoder's, then those of the stack.
    pub fn all_blocks(&self) -> impl Iterator<Item = &Block> {
        self.encoder.iter().chain([&self.stack]).flat_map(|stack| stack.blocks())
    }

    fn all_blocks_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        self.encoder.iter_mut().chain([&mut self.stack]).flat_map(|stack| stack.blocks_mut())
    }

    /// The descriptions of all stacks: the encoder's, then that of the stack.
    pub fn stack_specs(&self) -> impl Iterator<Item = &StackSpec> {
        self.encoder.iter().chain([&self.stack]).map(|stack| stack.spec())
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

    /// How a sequence becomes a vector, in a model without a head.
    pub fn sentence(&self) -> &SentenceSpec {
        &self.sentence
    }

    /// The class of transformers that loads it.
    pub fn auto_class(&self) -> &'static str {
        match self.family.is_multimodal() {
            true => "AutoModelForImageTextToText",
            false => self.kind().auto_class(),
        }
    }

    /// The class of PEFT that opens an adapter with its base; `None` where there is none, and
    /// `PeftModel.from_pretrained` takes the base and the adapter.
    pub fn auto_peft_class(&self) -> Option<&'static str> {
        self.kind().auto_peft_class().filter(|_| !self.family.is_multimodal())
    }

    /// The names of all linear layers and token matrices, as transformers names the modules.
    pub fn module_names(&self) -> Vec<String> {
        let linears = self.linears().map(|(_, linear)| linear.module().to_string());
        let head = Some(self.head_name()).filter(|name| !name.is_empty());
        let tokens = self.embedding_modules().map(String::from);
        tokens.chain(linears).chain(head.map(String::from)).collect()
    }

    /// The linear layers of the blocks, those of experts and their routers too.
    fn all_linears(&self) -> impl Iterator<Item = &Linear> {
        self.all_blocks().flat_map(Block::all_linears)
    }

    /// The linear layers that can have updates, with the number of their block among all.
    fn linears(&self) -> impl Iterator<Item = (usize, &Linear)> {
        self.all_blocks().enumerate().flat_map(|(i, block)| block.linears().map(move |linear| (i, linear)))
    }

    /// The full names of the linear layers before and after the blocks, but for the head.
    pub(crate) fn linears_around_blocks(&self) -> Vec<String> {
        let stacks = self.encoder.iter().chain([&self.stack]);
        let chains = stacks.flat_map(|stack| stack.chains()).chain([&self.to_head]);
        chains.flat_map(Chain::linears).map(|linear| linear.module().to_string()).collect()
    }

    /// The linear layers of the blocks by their full names.
    pub(crate) fn linear_layers(&self) -> Vec<(String, &FrozenMatrix)> {
        self.linears().map(|(_, linear)| (linear.module().to_string(), linear.weight())).collect()
    }

    /// Inputs and outputs of the linear layers of the blocks, by their full names.
    pub(crate) fn linear_sizes(&self) -> Vec<(String, usize, usize)> {
        let of = |linear: &Linear| (linear.module().to_string(), linear.inputs(), linear.outputs());
        self.linears().map(|(_, linear)| of(linear)).collect()
    }

    /// The block (among all) and the place in it of each linear layer, by its full name.
    pub(crate) fn linear_places(&self) -> Vec<(String, usize, Slot)> {
        self.linears().map(|(block, linear)| (linear.module().to_string(), block, linear.slot())).collect()
    }

    /// Whether the weights of linear layers are stored as `[in, out]`.
    pub(crate) fn stores_columns(&self) -> bool {
        self.family.columns && self.checkpoint.as_gguf().is_none()
    }

    /// The weight of a linear layer of the blocks, by its full name.
    pub(crate) fn linear_mut(&mut self, name: &str) -> Option<&mut FrozenMatrix> {
        self.all_blocks_mut().find_map(|block| block.linear_mut(name))
    }

    /// Every weight of the blocks and around them, by its full name in the family's checkpoints.
    pub(super) fn tensors(&self) -> Vec<(String, BlockTensor<'_>)> {
        let mut tensors: Vec<_> = self.all_blocks().flat_map(Block::tensors).collect();
        for stack in self.encoder.iter().chain([&self.stack]) {
            for chain in stack.chains() {
                tensors.extend(chain.norms().flat_map(|norm| norm.tensors()));
                tensors.extend(chain.linears().flat_map(|linear| linear.tensors()));
            }
            if let (Some(name), Some(matrix)) = (stack.spec().names.positions, stack.positions()) {
                tensors.push((format!("{name}.weight"), BlockTensor::Matrix(matrix)));
            }
            tensors.extend(stack.distances().into_iter().flat_map(|distances| distances.tensors()));
        }
        tensors.extend(self.to_head.norms().flat_map(|norm| norm.tensors()));
        tensors.extend(self.to_head.linears().flat_map(|linear| linear.tensors()));
        if !self.head_bias.is_empty() {
            tensors.push((self.spec.names.head_bias.to_string(), BlockTensor::Bias(&self.head_bias)));
        }
        tensors
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

    /// The rows of a batch of sequences for the stack, as [`Stack::rows_of`].
    pub fn rows_of(&self, spans: Vec<Span>) -> RowsOfBatch {
        self.stack.rows_of(spans, None)
    }

    /// The embedded rows of `ids`, `[ids, d]`, with trained rows in place of frozen ones.
    ///
    /// # Errors
    /// An id is past the vocabulary, or a position past those that were learnt.
    pub fn embed(&self, ids: &[u32], rows: &RowsOfBatch, trained: Option<&TrainedRows>) -> Result<Tensor> {
        let x = self.stack.embed(ids, rows, &self.embedding.table(trained))?;
        Ok(Tensor::from_vec(x, (ids.len(), self.spec.stack.hidden_size), &self.device)?)
    }

    /// Takes products with frozen weights as `mode` says.
    pub fn set_precision(&mut self, mode: PrecisionMode) {
        self.mode = Some(mode);
        let precision = |of: &FrozenMatrix| mode.of(of.dtype());
        self.all_blocks_mut().for_each(|block| block.set_precision(precision));
        for matrix in std::iter::once(&mut self.embedding).chain(self.head.as_mut()) {
            matrix.set_precision(precision);
        }
    }

    /// Whether some products with frozen weights are taken in bf16.
    pub fn uses_bf16(&self) -> bool {
        let matrices = self.all_linears().map(Linear::weight);
        matrices.chain([self.head().frozen()]).any(|matrix| matrix.precision() == Precision::Bf16)
    }

    /// What stands between the last block and the vocabulary: norms, projections, the transform of a masked language model.
    ///
    /// # Errors
    /// `x` is not `[rows, d]`.
    pub fn before_head(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let x = self.to_head.run(self.stack.end().run(x.flatten_all()?.to_vec1()?));
        let width = x.len() / rows.max(1);
        Ok(Tensor::from_vec(x, (rows, width), &self.device)?)
    }

    /// The rows that meet the vocabulary from those of the last block.
    pub(crate) fn final_rows(&self, x: Vec<f32>) -> Vec<f32> {
        self.to_head.run(self.stack.end().run(x))
    }

    /// The gradient of the last block's rows `x` from that of the rows that meet the vocabulary.
    pub(crate) fn pull_final_rows(&self, x: &[f32], dy: Vec<f32>) -> Vec<f32> {
        let end = self.stack.end();
        if self.to_head.is_empty() {
            return end.pull(x, dy);
        }
        let middle = end.run(x.to_vec());
        end.pull(x, self.to_head.pull(&middle, dy))
    }

    /// What the rows of the vocabulary make logits of.
    pub(crate) fn logit_head<'a>(&'a self, table: &'a TokenTable<'a>) -> Head<'a> {
        Head { table, bias: &self.head_bias, soft_cap: self.spec.head.soft_cap }
    }

    /// The logits of a few rows (after [`PretrainedModel::before_head`]) over the whole vocabulary, `[rows, vocabulary]`.
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
        let of = self.logit_head(&table);
        logits.chunks_exact_mut(head.rows()).for_each(|row| of.finish(0..head.rows(), row));
        Ok(Tensor::from_vec(logits, (rows, head.rows()), &self.device)?)
    }

    /// A weight matrix with a number in it that is not finite, with the row: what to look for when a loss is not.
    pub fn first_non_finite(&self) -> Option<(String, usize)> {
        let of = |name: &str, matrix: &FrozenMatrix| {
            matrix.first_non_finite().map(|(row, _)| (name.to_string(), row))
        };
        of(self.embedding_name(), self.embedding.frozen())
            .or_else(|| self.head.as_ref().and_then(|h| of(self.head_name(), h.frozen())))
            .or_else(|| self.all_linears().find_map(|linear| of(linear.module(), linear.weight())))
    }
}

/// The name of the first of these tensors that there is; of the first, if there is none.
fn find_first(checkpoint: &Checkpoint, naming: &Naming, names: &[&str]) -> String {
    let tensors = names.iter().map(|name| format!("{name}.weight"));
    let found: Vec<String> = tensors.map(|tensor| naming.find(checkpoint, &tensor).into_owned()).collect();
    let first = found.iter().find(|tensor| checkpoint.contains(tensor));
    first.or(found.first()).cloned().unwrap_or_default()
}

/// Refuses files in which modules that share the embedding have matrices of their own.
fn refuse_other_embeddings<'n>(
    checkpoint: &Checkpoint,
    naming: &Naming,
    embedding: &str,
    modules: impl Iterator<Item = &'n &'static str>,
) -> Result<()> {
    for module in modules {
        let weight = format!("{module}.weight");
        let name = naming.find(checkpoint, &weight);
        if checkpoint.contains(&name) && name != embedding && !same_rows(checkpoint, embedding, &name) {
            let (path, tensor, other) = (checkpoint.path().into(), name.into_owned(), embedding.into());
            return Err(WeightsError::DifferentCopies { path, tensor, other }.into());
        }
    }
    Ok(())
}

/// What a caller asked for another kind of model than there is.
pub(crate) fn wrong_kind(model: &PretrainedModel, wanted: ModelKind) -> Error {
    Error::WrongModelKind {
        path: model.path.clone(),
        found: model.kind().auto_class(),
        expected: wanted.auto_class(),
    }
}
