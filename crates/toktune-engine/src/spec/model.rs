//! A model described by plain data: what a family file fills in and the generic stack of blocks runs.

use super::decoder_inputs::DecoderInputs;
use super::experts::ExpertsSpec;
use super::kind::ModelKind;
use super::names::{ModelNames, StackNames};
use super::relative::RelativeSpec;
use super::rope::RopeSpec;
use toktune_kernels::gated::Activation;
use toktune_kernels::rotary::Pairing;

/// One model. Sizes have been checked against one another when a model has loaded.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// What it computes.
    pub kind: ModelKind,
    /// Tokens of the vocabulary as the configuration gives it; the matrix may have more rows.
    pub vocab_size: usize,
    /// The head is the embedding matrix.
    pub tied: bool,
    /// The stack of blocks that the head stands on.
    pub stack: StackSpec,
    /// The encoder of an encoder-decoder; its stack is the decoder.
    pub encoder: Option<StackSpec>,
    /// What the decoder of an encoder-decoder reads where its targets do not say it.
    pub decoder_inputs: Option<DecoderInputs>,
    /// Between the stack and the vocabulary.
    pub head: HeadSpec,
    /// The names of its token matrices.
    pub names: ModelNames,
}

/// What stands between the last block and the logits.
#[derive(Clone, Copy, Debug)]
pub struct HeadSpec {
    /// A linear layer, this activation and a norm before the vocabulary (masked language models).
    pub transform: Option<Activation>,
    /// That linear layer has a bias.
    pub transform_bias: bool,
    /// The logits have biases of their own.
    pub bias: bool,
    /// Factor on the hidden states, and so on the logits.
    pub scale: f32,
    /// Logits `l` become `cap tanh(l / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
}

impl Default for HeadSpec {
    fn default() -> Self {
        Self { transform: None, transform_bias: true, bias: false, scale: 1.0, soft_cap: None }
    }
}

/// A stack of blocks over embedded tokens.
#[derive(Clone, Debug)]
pub struct StackSpec {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// How tokens become hidden states.
    pub embedding: EmbeddingSpec,
    /// The attention of every block.
    pub attention: AttentionSpec,
    /// The MLP of every block.
    pub mlp: MlpSpec,
    /// Every norm.
    pub norm: NormSpec,
    /// The attention and the MLP of a block both read its input, and are added to it together.
    pub parallel: bool,
    /// Factor on what the halves of a block add to the residual stream (Granite).
    pub residual_scale: f32,
    /// Positions the model was made for.
    pub max_positions: Option<usize>,
    /// What is added to the scores by the distance of query and key.
    pub relative: Option<RelativeSpec>,
    /// What differs from layer to layer.
    pub layers: Vec<LayerSpec>,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// How queries grow with their position, in the layers that say so.
    pub temperature: Option<TemperatureSpec>,
    /// The names of its tensors; they also say which norms there are, and whether projections are fused.
    pub names: StackNames,
}

impl StackSpec {
    /// The number of positions that a sequence cannot go beyond, for want of rows for them. Rotations and distances have
    /// no end: a model that has these alone computes longer sequences than it was made for, as it does in transformers.
    pub fn position_limit(&self) -> Option<usize> {
        self.max_positions.filter(|_| self.embedding.positions != Positions::None)
    }
}

/// How tokens become hidden states: scaled, projected, with positions and token types added, normed, projected.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// Width of a row of the token matrix.
    pub width: usize,
    /// Factor on a row, applied after trained rows have replaced frozen ones.
    pub scale: f32,
    /// What is added by position.
    pub positions: Positions,
    /// The projection to the hidden width has a bias and comes after the norm (ELECTRA), not before the positions (OPT).
    pub project_after_norm: bool,
}

/// What is added to an embedded token by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Nothing.
    None,
    /// A learnt row, from row `offset` on.
    Learned {
        /// Rows of the matrix.
        rows: usize,
        /// Row of the first position.
        offset: usize,
        /// RoBERTa's way: positions count the tokens that are not padding, and padding takes its own row.
        padding: Option<u32>,
    },
    /// Sines, then cosines (Marian, Pegasus), as transformers makes them.
    Sinusoidal {
        /// Position of the first row.
        offset: usize,
        /// In which way the frequencies run.
        kind: Sinusoids,
        /// M2M100's way: positions count the tokens that are not padding, and padding gets nothing.
        padding: Option<u32>,
    },
}

impl Positions {
    /// The token that positions do not count.
    pub fn padding(self) -> Option<u32> {
        match self {
            Positions::None => None,
            Positions::Learned { padding, .. } | Positions::Sinusoidal { padding, .. } => padding,
        }
    }
}

/// The ways in which sinusoidal positions are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sinusoids {
    /// Frequency `10000^(-2j/d)` (Marian, Pegasus).
    Plain,
    /// Frequency `10000^(-j/(d/2 - 1))` (M2M100).
    Tensor2Tensor,
}

/// Scaled dot-product attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A row sees no row after it.
    pub causal: bool,
    /// Scores `s` become `cap tanh(s / cap)`.
    pub soft_cap: Option<f32>,
    /// How the query, key and value projections are stored.
    pub layout: QkvLayout,
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the output projection.
    pub output_bias: bool,
    /// What a norm of queries and keys spans, where the names have one.
    pub qk_norm: QkNorm,
    /// That norm comes after the rotation, not before it (Hunyuan).
    pub norm_rotated: bool,
    /// Queries and keys (after their norm) and values are kept between minus this and this (OLMo).
    pub limit: Option<f32>,
    /// Which entries of a head are rotated together.
    pub pairing: Pairing,
}

impl AttentionSpec {
    /// Causal attention as most decoders have it: no biases, a scale of `1 / sqrt(head_dim)`.
    pub fn causal(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: true,
            soft_cap: None,
            layout: QkvLayout::Split,
            qkv_bias: false,
            output_bias: false,
            qk_norm: QkNorm::Head,
            norm_rotated: false,
            limit: None,
            pairing: Pairing::Halves,
        }
    }

    /// Attention over whole sequences, every projection with a bias.
    pub fn encoder(heads: usize, hidden_size: usize) -> Self {
        let head_dim = hidden_size / heads.max(1);
        Self { causal: false, qkv_bias: true, output_bias: true, ..Self::causal(heads, heads, head_dim) }
    }
}

/// How the query, key and value projections are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// As three matrices.
    Split,
    /// As one: all queries, all keys, all values.
    Blocks,
    /// As one: for each key head its queries, its key and its value.
    Groups,
}

/// What a norm of queries and keys spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head on its own, with one weight for all.
    Head,
    /// All heads together.
    Width,
    /// Each head on its own, without weights, in the layers that rotate (NanoChat, Llama 4).
    Bare,
    /// Each head on its own, with a weight of its own and no bias: one tensor a head where its number `{}` is in the names
    /// (StableLM), a matrix `[heads, head_dim]` otherwise (Cohere).
    EachHead,
}

/// An MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpSpec {
    /// Width inside it.
    pub inner: usize,
    /// Its activation, the gate's where it has one.
    pub activation: Activation,
    /// Its linear layers have biases.
    pub bias: bool,
    /// Gate and up projection are one matrix, the gate first.
    pub fused: bool,
}

/// Which norm a stack has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Its kind.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// Weights are stored as `w` and used as `1 + w` (Gemma; a GGUF file holds `1 + w`).
    pub plus_one: bool,
    /// There are no weights (OLMo).
    pub bare: bool,
}

/// The kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms,
    /// Mean and variance, with a bias or without.
    Layer {
        /// Whether there is a bias.
        bias: bool,
    },
}

impl NormSpec {
    /// A root-mean-square norm.
    pub fn rms(eps: f64) -> Self {
        Self { kind: NormKind::Rms, eps: eps as f32, plus_one: false, bare: false }
    }

    /// A layer norm with a bias.
    pub fn layer(eps: f64) -> Self {
        Self { kind: NormKind::Layer { bias: true }, eps: eps as f32, plus_one: false, bare: false }
    }
}

/// Queries that grow with their position `p`: by `1 + growth ln(1 + floor((p + first) / period))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TemperatureSpec {
    /// How fast they grow.
    pub growth: f64,
    /// Positions after which they grow.
    pub period: f64,
    /// The number of the first position: 0, or 1 in Llama 4.
    pub first: u32,
}

impl TemperatureSpec {
    /// The factor at a position.
    pub fn factor(&self, position: u32) -> f32 {
        let steps = ((f64::from(position) + f64::from(self.first)) / self.period).floor();
        (1.0 + self.growth * steps.ln_1p()) as f32
    }
}

/// What one layer has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerSpec {
    /// Keys at this distance or further are not seen; `None` sees everything.
    pub window: Option<usize>,
    /// Keys of the row's own run of so many positions are seen only; `None` sees all runs.
    pub chunk: Option<usize>,
    /// Index into [`StackSpec::ropes`]; `None` rotates nothing.
    pub rope: Option<usize>,
    /// Queries grow with their position, by [`StackSpec::temperature`].
    pub tempered: bool,
    /// The attention reads the block's input as it is, whatever the names say (ModernBERT's first layer).
    pub no_attention_norm: bool,
    /// What mixes the rows of a sequence.
    pub mixer: Mixer,
    /// Experts in place of the one MLP.
    pub experts: Option<ExpertsSpec>,
}

/// What mixes the rows of a sequence in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mixer {
    /// The attention of the stack.
    #[default]
    Attention,
    /// A short convolution, gated before and after (LFM 2).
    Convolution(ConvolutionSpec),
}

/// A short convolution of each column along the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionSpec {
    /// How many rows it reads, the row itself among them.
    pub taps: usize,
    /// It and its projections have biases.
    pub bias: bool,
}

impl EmbeddingSpec {
    /// Rows of the token matrix as they are.
    pub fn plain(width: usize) -> Self {
        Self { width, scale: 1.0, positions: Positions::None, project_after_norm: false }
    }
}

impl StackSpec {
    /// Whether the sizes fit together, as `Err((key, problem))` in terms of `config.json`.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let of = &self.attention;
        if !of.heads.is_multiple_of(of.kv_heads) {
            let problem = format!("{} does not divide num_attention_heads {}", of.kv_heads, of.heads);
            return Err(("num_key_value_heads", problem));
        }
        if of.head_dim == 0 {
            let problem = format!("{} heads for a width of {}", of.heads, self.hidden_size);
            return Err(("num_attention_heads", problem));
        }
        let used = || self.layers.iter().filter_map(|layer| layer.rope);
        if !of.head_dim.is_multiple_of(2) && used().next().is_some() {
            return Err(("head_dim", format!("{} is odd; rotary embeddings need pairs", of.head_dim)));
        }
        if let Some(rope) = self.ropes.iter().find(|r| r.dim > of.head_dim || !r.dim.is_multiple_of(2)) {
            return Err(("rope_parameters", format!("{} rotated of head_dim {}", rope.dim, of.head_dim)));
        }
        self.layers.iter().filter_map(|layer| layer.experts).try_for_each(|experts| experts.check())?;
        if used().any(|rope| rope >= self.ropes.len()) {
            return Err(("rope_parameters", "a layer without a rotary embedding".into()));
        }
        Ok(())
    }
}

impl ModelSpec {
    /// The same model without its head, which transformers loads by another class, under shorter names.
    pub(crate) fn without_head(mut self) -> Self {
        self.kind = ModelKind::SentencePairs;
        self.tied = false;
        self.head = HeadSpec::default();
        self.names = self.names.without_head();
        self.stack.names = self.stack.names.without(self.names.prefix);
        self
    }

    /// Whether the sizes fit together, as `Err((key, problem))` in terms of `config.json`.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        self.stack.check()?;
        self.encoder.as_ref().map_or(Ok(()), StackSpec::check)
    }
}
