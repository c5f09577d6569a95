//! The names of a model's tensors.
//!
//! Names are without `.weight`; transformers' module names are the same, so they serve `target_modules` too. What a family
//! lacks has no name.

use std::borrow::Cow;

/// The names that belong to the whole model.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelNames {
    /// The prefix that a model without a head lacks, with its dot: `model.`, `transformer.`, `bert.`.
    pub prefix: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Output head; empty where there is none.
    pub head: &'static str,
    /// Names that the tensor of the head may have in a checkpoint instead.
    pub head_files: &'static [&'static str],
    /// Names that the tensor of the embedding may have in a checkpoint instead.
    pub embed_files: &'static [&'static str],
    /// The linear layer before the head.
    pub transform: &'static str,
    /// The norm after that layer's activation.
    pub transform_norm: &'static str,
    /// The tensor with the logits' biases, in full.
    pub head_bias: &'static str,
    /// Beginnings of tensors' names with those that they may have in a checkpoint instead.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Modules that use the token embedding too, under names of their own (`encoder.embed_tokens`).
    pub embed_aliases: &'static [&'static str],
}

/// The names in a stack of blocks.
#[derive(Clone, Copy, Debug)]
pub struct StackNames {
    /// Prefix of block `{}`.
    pub block: &'static str,
    /// Learnt positions.
    pub positions: Option<&'static str>,
    /// Token types, of which the first is added to every row.
    pub token_types: Option<&'static str>,
    /// Norm of the embedded tokens.
    pub embedding_norm: Option<&'static str>,
    /// Projection of embedded tokens to the hidden width.
    pub project_in: Option<&'static str>,
    /// Projection of the last hidden states to the embedding's width.
    pub project_out: Option<&'static str>,
    /// Norm after the last block.
    pub final_norm: Option<&'static str>,
    /// The bias by distance, or the rows for distances, in full.
    pub relative: Option<&'static str>,
    /// Norm of the rows for distances.
    pub relative_norm: Option<&'static str>,
    /// In a block: the attention of a sequence to itself.
    pub attention: AttentionNames,
    /// In a block: the convolution in its place, in the layers that have one. The norms are those of the attention.
    pub convolution: Option<ConvolutionNames>,
    /// In a block: the attention to the encoder.
    pub cross: Option<AttentionNames>,
    /// In a block: the MLP.
    pub mlp: MlpNames,
    /// In a block: the tensor, in full, of the attention's sinks.
    pub sinks: Option<&'static str>,
    /// In a block: the module with the parameters of the MLP's activation, where it has some.
    pub activation: Option<&'static str>,
    /// In a block: the experts in its place, in the layers that have them.
    pub experts: Option<ExpertNames>,
}

/// The norms around one half of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfNorms {
    /// Of its input.
    pub before: Option<&'static str>,
    /// Of its output, before the residual sum.
    pub after: Option<&'static str>,
    /// Of the residual sum.
    pub sum: Option<&'static str>,
}

impl HalfNorms {
    /// A norm of the input, as most have it.
    pub const fn before(name: &'static str) -> Self {
        Self { before: Some(name), after: None, sum: None }
    }

    /// A norm of the residual sum.
    pub const fn sum(name: &'static str) -> Self {
        Self { before: None, after: None, sum: Some(name) }
    }
}

/// The names of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// Query projection, or all three.
    pub q: &'static str,
    /// Key projection.
    pub k: &'static str,
    /// Value projection.
    pub v: &'static str,
    /// Output projection.
    pub o: &'static str,
    /// Norm of the queries.
    pub q_norm: Option<&'static str>,
    /// Norm of the keys.
    pub k_norm: Option<&'static str>,
    /// Projection of rows for distances to queries, where it is not that of the content.
    pub distance_q: Option<&'static str>,
    /// Projection of rows for distances to keys, likewise.
    pub distance_k: Option<&'static str>,
    /// The norms around it.
    pub norms: HalfNorms,
}

/// The names of a short convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvolutionNames {
    /// Projection to what it reads.
    pub input: &'static str,
    /// Its factors.
    pub taps: &'static str,
    /// Output projection.
    pub output: &'static str,
}

/// The names of an MLP.
#[derive(Clone, Copy, Debug)]
pub struct MlpNames {
    /// Gate projection.
    pub gate: Option<&'static str>,
    /// Up projection, or gate and up.
    pub up: &'static str,
    /// Down projection.
    pub down: &'static str,
    /// The norms around it.
    pub norms: HalfNorms,
}

/// The names of a mixture of experts, `{}` being the number of an expert; where all experts are in one tensor, `up` is that of
/// the gates and the up projections. The norms are those of the MLP.
#[derive(Clone, Copy, Debug)]
pub struct ExpertNames {
    /// The router.
    pub router: &'static str,
    /// Gate projection of an expert.
    pub gate: &'static str,
    /// Up projection of an expert.
    pub up: &'static str,
    /// Down projection of an expert.
    pub down: &'static str,
    /// The tensor, in full, of what is added to the scores for the choice alone.
    pub correction: Option<&'static str>,
    /// The MLP that every row passes through beside those it chooses; its norms are not read.
    pub shared: Option<MlpNames>,
    /// The gate of that MLP's output: one number a row, through the logistic function.
    pub shared_gate: Option<&'static str>,
}

/// The names that most mixtures of experts have in checkpoints; in memory transformers 5 fuses the experts of a layer.
pub(crate) const EXPERTS: ExpertNames = ExpertNames {
    router: "mlp.gate",
    gate: "mlp.experts.{}.gate_proj",
    up: "mlp.experts.{}.up_proj",
    down: "mlp.experts.{}.down_proj",
    correction: None,
    shared: None,
    shared_gate: None,
};

/// The names of the MLP of DeepSeek 3 and its kin that every row passes through.
pub(crate) const SHARED_EXPERTS: MlpNames = MlpNames {
    gate: Some("mlp.shared_experts.gate_proj"),
    up: "mlp.shared_experts.up_proj",
    down: "mlp.shared_experts.down_proj",
    norms: HalfNorms { before: None, after: None, sum: None },
};

/// The names that most decoders have followed since Llama.
pub(crate) const LLAMA_MODEL: ModelNames = ModelNames {
    prefix: "model.",
    embed: "model.embed_tokens",
    head: "lm_head",
    head_files: &[],
    embed_files: &[],
    transform: "",
    transform_norm: "",
    head_bias: "lm_head.bias",
    aliases: &[],
    embed_aliases: &[],
};

/// The names that most decoders have followed since Llama, in its blocks.
pub(crate) const LLAMA_STACK: StackNames = StackNames {
    block: "model.layers.{}",
    positions: None,
    token_types: None,
    embedding_norm: None,
    project_in: None,
    project_out: None,
    final_norm: Some("model.norm"),
    relative: None,
    relative_norm: None,
    attention: AttentionNames {
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        o: "self_attn.o_proj",
        q_norm: None,
        k_norm: None,
        distance_q: None,
        distance_k: None,
        norms: HalfNorms::before("input_layernorm"),
    },
    convolution: None,
    cross: None,
    mlp: MlpNames {
        gate: Some("mlp.gate_proj"),
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        norms: HalfNorms::before("post_attention_layernorm"),
    },
    sinks: None,
    activation: None,
    experts: None,
};

/// The names in the blocks of models that were trained with Megatron-LM: a fused projection and a plain MLP.
pub(crate) const MEGATRON_STACK: StackNames = StackNames {
    attention: AttentionNames {
        q: "self_attention.query_key_value",
        k: "",
        v: "",
        o: "self_attention.dense",
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames {
        gate: None,
        up: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        norms: HalfNorms::before("post_attention_layernorm"),
    },
    ..LLAMA_STACK
};

impl StackNames {
    /// The full name of a module of block `layer`.
    pub fn in_block(&self, layer: usize, name: &str) -> String {
        format!("{}.{name}", self.block.replace("{}", &layer.to_string()))
    }

    /// The names without `prefix`.
    pub(crate) fn without(&self, prefix: &str) -> Self {
        let strip = |name: &'static str| name.strip_prefix(prefix).unwrap_or(name);
        Self {
            block: strip(self.block),
            positions: self.positions.map(strip),
            token_types: self.token_types.map(strip),
            embedding_norm: self.embedding_norm.map(strip),
            project_in: self.project_in.map(strip),
            project_out: self.project_out.map(strip),
            final_norm: self.final_norm.map(strip),
            relative: self.relative.map(strip),
            relative_norm: self.relative_norm.map(strip),
            ..*self
        }
    }

    /// The names that llama.cpp gives the same tensors of a decoder.
    pub(crate) fn in_gguf(&self) -> Self {
        let if_named = |own: Option<&str>, name: &'static str| own.map(|_| name);
        let fused = self.attention.k.is_empty();
        // a norm that both halves read is stored once
        let shared = self.mlp.norms.before.is_some() && self.mlp.norms.before == self.attention.norms.before;
        let mlp_norm = match self.mlp.norms.before {
            Some("ln_mlp") => "attn_norm",
            _ if shared => "attn_norm",
            _ => "ffn_norm",
        };
        // of Falcon's two norms that of the attention came second
        let attention_norm = match self.attention.norms.before {
            Some("ln_attn") => "attn_norm_2",
            _ => "attn_norm",
        };
        Self {
            block: "blk.{}",
            positions: if_named(self.positions, "position_embd"),
            token_types: None,
            embedding_norm: if_named(self.embedding_norm, "token_embd_norm"),
            project_in: None,
            project_out: None,
            final_norm: if_named(self.final_norm, "output_norm"),
            relative: None,
            relative_norm: None,
            attention: AttentionNames {
                q: if fused { "attn_qkv" } else { "attn_q" },
                k: if fused { "" } else { "attn_k" },
                v: if fused { "" } else { "attn_v" },
                o: "attn_output",
                q_norm: if_named(self.attention.q_norm, "attn_q_norm"),
                k_norm: if_named(self.attention.k_norm, "attn_k_norm"),
                distance_q: None,
                distance_k: None,
                norms: HalfNorms {
                    before: if_named(self.attention.norms.before, attention_norm),
                    after: if_named(self.attention.norms.after, "post_attention_norm"),
                    sum: None,
                },
            },
            convolution: None,
            cross: None,
            mlp: MlpNames {
                gate: if_named(self.mlp.gate, "ffn_gate"),
                up: "ffn_up",
                down: "ffn_down",
                norms: HalfNorms {
                    before: if_named(self.mlp.norms.before, mlp_norm),
                    after: if_named(self.mlp.norms.after, "post_ffw_norm"),
                    sum: None,
                },
            },
            sinks: None,
            activation: None,
            experts: None,
        }
    }
}

impl ModelNames {
    /// The names that a tensor may have in a checkpoint: its own, without the model's prefix or with it, and what it was once
    /// called.
    pub(crate) fn forms<'n>(&self, name: &'n str) -> impl Iterator<Item = Cow<'n, str>> {
        let bare = name.strip_prefix(self.prefix).map(Cow::Borrowed);
        let prefixed = format!("{}{name}", self.prefix);
        let former = self
            .aliases
            .iter()
            .filter_map(|(own, other)| Some(format!("{other}{}", name.strip_prefix(own)?)));
        [Some(Cow::Borrowed(name)), bare, Some(prefixed.into())]
            .into_iter()
            .flatten()
            .chain(former.map(Cow::Owned))
    }

    /// The names in the same model without its head.
    pub(crate) fn without_head(&self) -> Self {
        let embed = self.embed.strip_prefix(self.prefix).unwrap_or(self.embed);
        Self { embed, head: "", transform: "", transform_norm: "", head_bias: "", ..*self }
    }

    /// The names that llama.cpp gives the same tensors of a decoder.
    pub(crate) fn in_gguf(&self) -> Self {
        Self {
            prefix: "",
            embed: "token_embd",
            embed_files: &[],
            head: "output",
            head_files: &[],
            head_bias: "output.bias",
            ..*self
        }
    }
}
