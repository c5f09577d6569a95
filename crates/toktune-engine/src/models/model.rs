//! A pretrained model: embedding, stack of blocks (two of them in an encoder-decoder), head, each to be run on its own.

mod replace;
#[cfg(test)]
mod rounded_generation;

pub use replace::ReplaceError;

use super::SentenceSpec;
use super::config::ModelConfig;
use super::copies::same_rows;
use super::device::Device;
use super::families::{Family, synonyms};
use super::kind::ModelKind;
use super::precision::PrecisionMode;
use super::quantisation;
use super::token_matrix::{TokenMatrix, TrainedRows};
use crate::backend::{Cpu, Reference};
use crate::batch::RaggedBatch;
use crate::error::{EngineError, Result};
use crate::layers::Naming;
use crate::model::{Model, Parts};
use crate::runner::{LinearLayer, Runner, StepOptions, StepOutput, TokenRows, Wanted};
use crate::spec::{DecoderInputs, LayerSpec, Mixer, ModelSpec, QkvLayout};
use crate::trained::Trained;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use toktune_kernels::{Isa, Precision};
use toktune_weights::{Checkpoint, FrozenMatrix, RowOrder, WeightsError};

/// A pretrained model with every weight frozen.
#[derive(Debug)]
pub struct PretrainedModel {
    path: PathBuf,
    family: &'static Family,
    config: ModelConfig,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    /// The instructions that it computes with on the CPU.
    isa: Isa,
    /// How products are taken, where that was said.
    mode: Option<PrecisionMode>,
    embedding: TokenMatrix,
    /// Whether the configuration ties the head, though the file may hold one that differs.
    tied_by_configuration: bool,
    /// `None` when the head is the embedding, or there is none.
    head: Option<TokenMatrix>,
    /// How a sequence becomes a vector, where there is no head.
    sentence: SentenceSpec,
    /// Where it lies.
    device: Device,
    /// Its blocks there.
    runner: Box<dyn Runner>,
}

impl PretrainedModel {
    /// Puts a model together from an opened checkpoint, on a device; on the CPU it computes with these instructions.
    ///
    /// # Errors
    /// A tensor is missing, of another shape, or of an unsupported type; the configuration contradicts itself.
    pub(super) fn load(
        path: &Path,
        family: &'static Family,
        config: ModelConfig,
        mut checkpoint: Checkpoint,
        (device, isa): (Device, Isa),
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
        let sentence = match spec.kind == ModelKind::SentencePairs && path.is_dir() {
            true => SentenceSpec::read(path)?,
            false => SentenceSpec::default(),
        };
        let parts = Parts {
            spec: &spec,
            checkpoint: &checkpoint,
            naming: &naming,
            embedding: &embedding,
            head: head.as_ref(),
            head_bias,
            sentence: sentence.clone(),
        };
        let runner: Box<dyn Runner> = match device {
            Device::Cpu => Box::new(Model::load(Cpu::new(isa), parts)?),
            Device::Reference => Box::new(Model::load(Reference, parts)?),
        };
        Ok(Self {
            device,
            isa,
            runner,
            path: path.to_path_buf(),
            mode: None,
            family,
            config,
            spec,
            embedding,
            tied_by_configuration,
            head,
            sentence,
            checkpoint,
        })
    }

    /// The folder or file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device it lies on.
    pub fn device(&self) -> Device {
        self.device
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
    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// How many blocks there are; of an encoder-decoder those of the decoder.
    pub fn num_hidden_layers(&self) -> usize {
        self.spec.stack.layers.len()
    }

    /// The width of the rows between blocks.
    pub fn hidden_size(&self) -> usize {
        self.spec.stack.hidden_size
    }

    /// The heads of the first block's attention.
    pub fn num_attention_heads(&self) -> usize {
        self.spec.stack.attention.heads
    }

    /// The heads that its keys and values have.
    pub fn num_key_value_heads(&self) -> usize {
        self.spec.stack.attention.kv_heads
    }

    /// The width inside the MLP of the first block.
    pub fn intermediate_size(&self) -> usize {
        self.spec.stack.mlp.inner
    }

    /// The positions that it was made for; `None` where its configuration says nothing.
    pub fn max_positions(&self) -> Option<usize> {
        self.spec.stack.max_positions
    }

    /// The positions that a sequence cannot go beyond, for want of rows for them.
    pub fn position_limit(&self) -> Option<usize> {
        self.spec.stack.position_limit()
    }

    /// Whether the rotations of a sequence are others past some length.
    pub fn rotations_depend_on_length(&self) -> bool {
        self.spec.stack.ropes.iter().any(|rope| rope.depends_on_length())
    }

    /// A number for the rotations of a sequence of this length: sequences with another number share no rows.
    pub fn rotation_class(&self, length: usize) -> u64 {
        self.spec.stack.ropes.iter().fold(0u64, |hash, rope| hash.rotate_left(21) ^ rope.class(length))
    }

    /// Bytes of the keys and values of a row in all blocks, in `f32`.
    pub fn key_value_bytes(&self) -> usize {
        let spec = &self.spec.stack;
        let of = |layer: &LayerSpec| match layer.mixer {
            Mixer::Attention => 2 * spec.attention.kv_heads * spec.attention.head_dim,
            Mixer::Convolution(_) => spec.hidden_size,
        };
        spec.layers.iter().map(of).sum::<usize>() * size_of::<f32>()
    }

    /// The factor on an embedded row, applied after trained rows have replaced frozen ones.
    pub fn embedding_scale(&self) -> f32 {
        self.spec.stack.embedding.scale
    }

    /// Whether some of its blocks are mixtures of experts.
    pub fn has_experts(&self) -> bool {
        self.spec.stack.layers.iter().any(|layer| layer.experts.is_some())
    }

    /// Whether it is an encoder-decoder.
    pub fn has_encoder(&self) -> bool {
        self.spec.encoder.is_some()
    }

    /// What the decoder of an encoder-decoder reads.
    pub fn decoder_inputs(&self) -> Option<DecoderInputs> {
        self.spec.decoder_inputs
    }

    /// The name of the head in the family's checkpoints, some of which call it otherwise than transformers calls the module.
    pub fn stored_head_name(&self) -> &'static str {
        self.spec.names.head_files.first().copied().unwrap_or(self.spec.names.head)
    }

    /// The checkpoint that its weights are mapped from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The input embedding.
    pub fn embedding(&self) -> &TokenMatrix {
        &self.embedding
    }

    /// The output head: the embedding itself when they are tied.
    pub fn head(&self) -> &TokenMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Puts another token matrix in the place of that of a module, and gives the former one back; `None` when there is no
    /// token matrix of this module's own.
    pub fn replace_token_matrix(&mut self, module: &str, other: TokenMatrix) -> Option<TokenMatrix> {
        let mut own = std::iter::once(&mut self.embedding).chain(self.head.as_mut());
        let matrix = own.find(|matrix| matrix.name() == module)?;
        let former = std::mem::replace(matrix, other);
        self.runner.set_tokens(&self.embedding, self.head.as_ref());
        Some(former)
    }

    /// The token matrix of this module; `None` when it is no token matrix of its own.
    pub fn token_matrix_named(&self, module: &str) -> Option<&TokenMatrix> {
        std::iter::once(&self.embedding).chain(self.head.as_ref()).find(|matrix| matrix.name() == module)
    }

    /// The model on its device.
    pub fn runner(&self) -> &dyn Runner {
        &*self.runner
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
    pub fn encoder_and_decoder_embedding(&self) -> Option<[&'static str; 2]> {
        self.spec.encoder.as_ref()?;
        match self.spec.names.embed_aliases {
            [encoder, decoder] => Some([encoder, decoder]),
            _ => Some([self.spec.names.embed; 2]),
        }
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
        let linears = self.runner.linears().into_iter().map(|linear| linear.module.to_string());
        let head = Some(self.head_name()).filter(|name| !name.is_empty());
        let tokens = self.embedding_modules().map(String::from);
        tokens.chain(linears).chain(head.map(String::from)).collect()
    }

    /// The linear layer of this full name that can have an update.
    pub fn linear(&self, module: &str) -> Option<LinearLayer<'_>> {
        self.runner.linears().into_iter().find(|linear| linear.module == module)
    }

    /// Puts another weight in the place of that of a linear layer.
    pub fn set_linear(&mut self, module: &str, weight: &FrozenMatrix) {
        self.runner.change_weights(&mut |name, _| (name == module).then(|| weight.clone()));
    }

    /// The same model once more, over the same weights, to be changed without this one: norms and biases are copied, matrices are
    /// not.
    ///
    /// # Errors
    /// As loading it, whose files' contents may have changed.
    pub fn try_clone(&self) -> Result<Self> {
        let (config, checkpoint) = (self.config.clone(), self.checkpoint.clone());
        let mut copy = Self::load(&self.path, self.family, config, checkpoint, (self.device, self.isa))?;
        copy.embedding = self.embedding.clone();
        copy.head = self.head.clone();
        // merging changes some
        let weights: HashMap<&str, &FrozenMatrix> =
            self.runner.linears().iter().map(|linear| (linear.module, linear.weight)).collect();
        copy.runner.change_weights(&mut |name, _| weights.get(name).map(|weight| (*weight).clone()));
        if let Some(mode) = self.mode {
            copy.set_precision(mode);
        }
        copy.runner.set_tokens(&copy.embedding, copy.head.as_ref());
        Ok(copy)
    }

    /// The losses of a batch, and the gradients of their sum.
    ///
    /// # Errors
    /// As [`Runner::step`]; where a loss is not finite and a weight is not, the weight is named.
    pub fn step(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        wanted: Wanted,
        options: StepOptions<'_>,
    ) -> Result<StepOutput> {
        self.runner.step(batch, trained, wanted, options).map_err(|error| {
            match (&error, self.first_non_finite()) {
                (EngineError::NotFinite { .. }, Some((name, row))) => {
                    EngineError::NotFinite { what: format!("{name}.weight, row {row}") }
                }
                _ => error,
            }
        })
    }

    /// A vector for each sequence, `[sequences, d]`, made of its last hidden rows as the model's [`SentenceSpec`] says: their
    /// mean, of length 1, where its files say nothing. Several poolings give several times `d`.
    ///
    /// # Errors
    /// An id is past the vocabulary.
    pub fn sentence_embeddings(
        &self,
        tokens: TokenRows<'_>,
        trained: Option<&TrainedRows>,
    ) -> Result<Vec<Vec<f32>>> {
        let rows: Vec<&TrainedRows> = trained.into_iter().collect();
        let input = trained.map(|_| 0);
        self.runner.vectors(tokens, &Trained { rows, input, ..Trained::default() })
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
        self.runner.set_tokens(&self.embedding, self.head.as_ref());
    }

    /// Takes products with frozen weights as `mode` says. With [`PrecisionMode::Auto`], a generated token meets quantised weights
    /// with its activations rounded to 8 bits.
    pub fn set_precision(&mut self, mode: PrecisionMode) {
        self.mode = Some(mode);
        self.runner.round_generation(mode == PrecisionMode::Auto);
        let isa = self.isa;
        let precision = |of: &FrozenMatrix| mode.of(isa, of.dtype());
        self.runner.change_weights(&mut |_, weight| {
            let mut other = weight.clone();
            other.set_precision(precision(weight));
            Some(other)
        });
        for matrix in std::iter::once(&mut self.embedding).chain(self.head.as_mut()) {
            matrix.set_precision(precision);
        }
        self.runner.set_tokens(&self.embedding, self.head.as_ref());
    }

    /// Whether some products with frozen weights are taken in bf16.
    pub fn uses_bf16(&self) -> bool {
        let linears = self.runner.all_linears();
        let matrices = linears.iter().map(|linear| linear.weight);
        matrices.chain([self.head().frozen()]).any(|matrix| matrix.precision() == Precision::Bf16)
    }

    /// A weight matrix with a number in it that is not finite, with the row: what to look for when a loss is not.
    pub fn first_non_finite(&self) -> Option<(String, usize)> {
        let of = |name: &str, matrix: &FrozenMatrix| {
            matrix.first_non_finite().map(|(row, _)| (name.to_string(), row))
        };
        of(self.embedding_name(), self.embedding.frozen())
            .or_else(|| self.head.as_ref().and_then(|h| of(self.head_name(), h.frozen())))
            .or_else(|| {
                let linears = self.runner.all_linears();
                linears.iter().find_map(|linear| of(linear.module, linear.weight))
            })
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
pub fn wrong_kind(model: &PretrainedModel, wanted: ModelKind) -> EngineError {
    EngineError::WrongModelKind {
        path: model.path.clone(),
        found: model.kind().auto_class(),
        expected: wanted.auto_class(),
    }
}
