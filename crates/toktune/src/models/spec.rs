//! A decoder described by plain data: what a family file fills in and the generic decoder runs.

use super::rope::RopeSpec;
use crate::ops::Activation;

/// One decoder model. Sizes have been checked against one another when a model has loaded.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// Tokens of the vocabulary as the configuration gives it; the matrix may have more rows.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub max_positions: Option<usize>,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Norm weights are stored as `w` and used as `1 + w` (Gemma; a GGUF file holds `1 + w`).
    pub norm_plus_one: bool,
    /// The activation of the MLP's gate.
    pub activation: Activation,
    /// Factor on the attention scores.
    pub attention_scale: f32,
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub output_bias: bool,
    /// Biases of the MLP.
    pub mlp_bias: bool,
    /// Factor on the embedding, applied after trained rows have replaced frozen ones.
    pub embed_scale: f32,
    /// The head is the embedding matrix.
    pub tied: bool,
    /// What differs from layer to layer.
    pub layers: Vec<LayerSpec>,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<RopeSpec>,
}

/// What one layer has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// Width of the attention window; `None` sees everything before it.
    pub window: Option<usize>,
    /// Index into [`DecoderSpec::ropes`].
    pub rope: usize,
}

impl DecoderSpec {
    /// Whether the sizes fit together, as `Err((key, problem))` in terms of `config.json`.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err((
                "num_key_value_heads",
                format!("{} does not divide num_attention_heads {}", self.kv_heads, self.heads),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(("head_dim", format!("{} is odd; rotary embeddings need pairs", self.head_dim)));
        }
        if let Some(rope) = self.ropes.iter().find(|r| r.dim > self.head_dim || !r.dim.is_multiple_of(2)) {
            return Err(("rope_parameters", format!("{} rotated of head_dim {}", rope.dim, self.head_dim)));
        }
        Ok(())
    }
}

/// The names a family's tensors have: for a whole model in full, for a block behind the block's prefix.
///
/// Names are without `.weight`; transformers' module names are the same, so they serve `target_modules` too.
#[derive(Clone, Copy, Debug)]
pub struct TensorNames {
    /// Token embedding.
    pub embed: &'static str,
    /// Norm before the head.
    pub final_norm: &'static str,
    /// Output head.
    pub head: &'static str,
    /// Prefix of block `{}`.
    pub block: &'static str,
    /// Query projection.
    pub q: &'static str,
    /// Key projection.
    pub k: &'static str,
    /// Value projection.
    pub v: &'static str,
    /// Output projection of the attention.
    pub o: &'static str,
    /// Norm of each query head, where the family has one.
    pub q_norm: Option<&'static str>,
    /// Norm of each key head.
    pub k_norm: Option<&'static str>,
    /// Norm before the attention.
    pub attention_norm: &'static str,
    /// Norm after the attention, before the residual sum.
    pub post_attention_norm: Option<&'static str>,
    /// Norm before the MLP.
    pub mlp_norm: &'static str,
    /// Norm after the MLP, before the residual sum.
    pub post_mlp_norm: Option<&'static str>,
    /// Gate projection.
    pub gate: &'static str,
    /// Up projection.
    pub up: &'static str,
    /// Down projection.
    pub down: &'static str,
}

impl TensorNames {
    /// The full name of a tensor of block `layer`.
    pub fn in_block(&self, layer: usize, name: &str) -> String {
        format!("{}.{name}", self.block.replace("{}", &layer.to_string()))
    }
}

/// The names llama.cpp gives the tensors of every decoder; a family without some norm lacks its tensor.
pub(super) const GGUF_NAMES: TensorNames = TensorNames {
    embed: "token_embd",
    final_norm: "output_norm",
    head: "output",
    block: "blk.{}",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    o: "attn_output",
    q_norm: Some("attn_q_norm"),
    k_norm: Some("attn_k_norm"),
    attention_norm: "attn_norm",
    post_attention_norm: Some("post_attention_norm"),
    mlp_norm: "ffn_norm",
    post_mlp_norm: Some("post_ffw_norm"),
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
};
