//! T5, Flan-T5 and mT5: encoder-decoders with a bias by distance, norms without a mean, and scores that are not scaled.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::decoder_inputs::{DecoderInputs, DecoderStart};
use crate::models::kind::ModelKind;
use crate::models::names::{
    AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, ModelNames, StackNames,
};
use crate::models::relative::RelativeSpec;
use crate::models::spec::{
    AttentionSpec, EmbeddingSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, StackSpec,
};
use crate::spec::Activation;

pub(super) const T5: Family = Family {
    name: "T5",
    model_types: &["t5"],
    architecture: "T5ForConditionalGeneration",
    examples: &["google-t5/t5-small", "google/flan-t5-small"],
    gguf: None,
    columns: false,
    spec: spec_t5,
};

pub(super) const MT5: Family = Family {
    name: "mT5",
    model_types: &["mt5"],
    architecture: "MT5ForConditionalGeneration",
    examples: &["google/mt5-small"],
    gguf: None,
    columns: false,
    spec: read,
};

const MODEL: ModelNames = ModelNames {
    prefix: "",
    embed: "shared",
    embed_files: &["encoder.embed_tokens", "decoder.embed_tokens"],
    embed_aliases: &["encoder.embed_tokens", "decoder.embed_tokens"],
    ..LLAMA_MODEL
};

const ATTENTION: AttentionNames = AttentionNames {
    q: "layer.0.SelfAttention.q",
    k: "layer.0.SelfAttention.k",
    v: "layer.0.SelfAttention.v",
    o: "layer.0.SelfAttention.o",
    norms: HalfNorms::before("layer.0.layer_norm"),
    ..LLAMA_STACK.attention
};

const ENCODER: StackNames = StackNames {
    block: "encoder.block.{}",
    final_norm: Some("encoder.final_layer_norm"),
    relative: Some("encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    attention: ATTENTION,
    mlp: MlpNames {
        gate: None,
        up: "layer.1.DenseReluDense.wi",
        down: "layer.1.DenseReluDense.wo",
        norms: HalfNorms::before("layer.1.layer_norm"),
    },
    ..LLAMA_STACK
};

const GATED_ENCODER: MlpNames =
    MlpNames { gate: Some("layer.1.DenseReluDense.wi_0"), up: "layer.1.DenseReluDense.wi_1", ..ENCODER.mlp };

const DECODER: StackNames = StackNames {
    block: "decoder.block.{}",
    final_norm: Some("decoder.final_layer_norm"),
    relative: Some("decoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
    attention: ATTENTION,
    cross: Some(AttentionNames {
        q: "layer.1.EncDecAttention.q",
        k: "layer.1.EncDecAttention.k",
        v: "layer.1.EncDecAttention.v",
        o: "layer.1.EncDecAttention.o",
        norms: HalfNorms::before("layer.1.layer_norm"),
        ..LLAMA_STACK.attention
    }),
    mlp: MlpNames {
        gate: None,
        up: "layer.2.DenseReluDense.wi",
        down: "layer.2.DenseReluDense.wo",
        norms: HalfNorms::before("layer.2.layer_norm"),
    },
    ..LLAMA_STACK
};

const GATED_DECODER: MlpNames =
    MlpNames { gate: Some("layer.2.DenseReluDense.wi_0"), up: "layer.2.DenseReluDense.wi_1", ..DECODER.mlp };

fn spec_t5(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config)?;
    // transformers 5 writes the one and forces the other
    let scales = match config.has("scale_decoder_outputs") {
        true => config.flag("scale_decoder_outputs", true)?,
        false => config.flag("tie_word_embeddings", true)?,
    };
    if scales {
        spec.head.scale = (spec.stack.hidden_size as f32).powf(-0.5);
    }
    Ok(spec)
}

fn read(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("d_model")?, config.size("num_heads")?);
    let kind = config.optional_text("feed_forward_proj")?.unwrap_or_else(|| "relu".into());
    let (gated, activation) = match kind.strip_prefix("gated-") {
        Some("gelu") => (true, Activation::GeluTanh),
        Some(name) => (true, named(config, name)?),
        None => (false, named(config, &kind)?),
    };
    let layers = config.size("num_layers")?;
    let stack = |causal: bool, layers: usize| -> Result<StackSpec> {
        let attention = AttentionSpec::causal(heads, heads, config.size("d_kv")?);
        let mut names = if causal { DECODER } else { ENCODER };
        if gated {
            names.mlp = if causal { GATED_DECODER } else { GATED_ENCODER };
        }
        Ok(StackSpec {
            hidden_size,
            embedding: EmbeddingSpec::plain(hidden_size),
            attention: AttentionSpec { scale: 1.0, causal, ..attention },
            mlp: MlpSpec { inner: config.size("d_ff")?, activation, bias: false, fused: false },
            norm: NormSpec::rms(config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-6)),
            parallel: false,
            residual_scale: 1.0,
            max_positions: None,
            relative: Some(RelativeSpec::Buckets {
                buckets: config.optional_size("relative_attention_num_buckets")?.unwrap_or(32),
                max_distance: config.optional_size("relative_attention_max_distance")?.unwrap_or(128),
                bidirectional: !causal,
            }),
            layers: vec![LayerSpec::default(); layers.min(decoder::MOST_LAYERS)],
            ropes: Vec::new(),
            temperature: None,
            names,
        })
    };
    let token = |key: &str| -> Result<u32> { Ok(config.optional_number(key)?.unwrap_or(0.0) as u32) };
    Ok(ModelSpec {
        kind: ModelKind::Seq2Seq,
        vocab_size: config.size("vocab_size")?,
        // the file decides: it has a head of its own or not
        tied: true,
        stack: stack(true, config.optional_size("num_decoder_layers")?.unwrap_or(layers))?,
        encoder: Some(stack(false, layers)?),
        decoder_inputs: Some(DecoderInputs {
            start: DecoderStart::Token(token("decoder_start_token_id")?),
            pad: token("pad_token_id")?,
        }),
        head: HeadSpec::default(),
        names: MODEL,
    })
}

fn named(config: &ModelConfig, name: &str) -> Result<Activation> {
    decoder::activation_named(name)
        .ok_or_else(|| config.error("feed_forward_proj", format!("unknown activation {name}")))
}
