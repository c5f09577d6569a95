//! BART, mBART, Marian, Pegasus, M2M100 and NLLB: encoder-decoders of one layout, with norms before or after each part of a
//! block, and positions that are learnt or sinusoidal.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::decoder_inputs::{DecoderInputs, DecoderStart};
use crate::models::kind::ModelKind;
use crate::models::names::{
    AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, ModelNames, StackNames,
};
use crate::models::spec::{
    AttentionSpec, EmbeddingSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, Positions, Sinusoids,
    StackSpec,
};
use crate::spec::Activation;

const fn family(
    name: &'static str,
    model_types: &'static [&'static str],
    architecture: &'static str,
    examples: &'static [&'static str],
    spec: fn(&ModelConfig) -> Result<ModelSpec>,
) -> Family {
    Family { name, model_types, architecture, examples, gguf: None, columns: false, spec }
}

pub(super) const BART: Family =
    family("BART", &["bart"], "BartForConditionalGeneration", &["facebook/bart-base"], bart);
pub(super) const MBART: Family = family(
    "mBART",
    &["mbart"],
    "MBartForConditionalGeneration",
    &["facebook/mbart-large-50-many-to-many-mmt"],
    mbart,
);
pub(super) const MARIAN: Family =
    family("Marian", &["marian"], "MarianMTModel", &["Helsinki-NLP/opus-mt-en-de"], marian);
pub(super) const PEGASUS: Family =
    family("Pegasus", &["pegasus"], "PegasusForConditionalGeneration", &["google/pegasus-xsum"], pegasus);
pub(super) const M2M100: Family = family(
    "M2M100",
    &["m2m_100"],
    "M2M100ForConditionalGeneration",
    &["facebook/m2m100_418M", "facebook/nllb-200-distilled-600M"],
    m2m_100,
);

const MODEL: ModelNames = ModelNames {
    embed: "model.shared",
    embed_files: &["model.encoder.embed_tokens", "model.decoder.embed_tokens"],
    embed_aliases: &["model.encoder.embed_tokens", "model.decoder.embed_tokens"],
    head_bias: "final_logits_bias",
    ..LLAMA_MODEL
};

const ATTENTION: AttentionNames = AttentionNames {
    o: "self_attn.out_proj",
    norms: HalfNorms::sum("self_attn_layer_norm"),
    ..LLAMA_STACK.attention
};

const CROSS: AttentionNames = AttentionNames {
    q: "encoder_attn.q_proj",
    k: "encoder_attn.k_proj",
    v: "encoder_attn.v_proj",
    o: "encoder_attn.out_proj",
    norms: HalfNorms::sum("encoder_attn_layer_norm"),
    ..LLAMA_STACK.attention
};

const MLP: MlpNames =
    MlpNames { gate: None, up: "fc1", down: "fc2", norms: HalfNorms::sum("final_layer_norm") };

const ENCODER: StackNames = StackNames {
    block: "model.encoder.layers.{}",
    positions: Some("model.encoder.embed_positions"),
    embedding_norm: Some("model.encoder.layernorm_embedding"),
    final_norm: None,
    attention: ATTENTION,
    mlp: MLP,
    ..LLAMA_STACK
};

const DECODER: StackNames = StackNames {
    block: "model.decoder.layers.{}",
    positions: Some("model.decoder.embed_positions"),
    embedding_norm: Some("model.decoder.layernorm_embedding"),
    cross: Some(CROSS),
    ..ENCODER
};

/// Rows of the learnt positions before the first that is used.
const OFFSET: usize = 2;

fn bart(config: &ModelConfig) -> Result<ModelSpec> {
    read(config, |_| ())
}

/// Norms before each part of a block, and after the last one.
fn norms_before(stack: &mut StackSpec) {
    let is_decoder = stack.names.cross.is_some();
    let names = &mut stack.names;
    names.final_norm = Some(if is_decoder { "model.decoder.layer_norm" } else { "model.encoder.layer_norm" });
    let cross = names.cross.as_mut().map(|cross| &mut cross.norms);
    for norms in [&mut names.attention.norms, &mut names.mlp.norms].into_iter().chain(cross) {
        *norms = HalfNorms { before: norms.sum, after: None, sum: None };
    }
}

fn mbart(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, norms_before)?;
    if let Some(inputs) = &mut spec.decoder_inputs {
        inputs.start = DecoderStart::LastTarget;
    }
    Ok(spec)
}

/// Positions that are computed, and no norm of the embedding.
fn sinusoidal(stack: &mut StackSpec, positions: Positions) {
    stack.embedding.positions = positions;
    stack.names.positions = None;
    stack.names.embedding_norm = None;
}

/// As Marian and Pegasus count them.
const PLAIN: Positions = Positions::Sinusoidal { offset: 0, kind: Sinusoids::Plain, padding: None };

fn marian(config: &ModelConfig) -> Result<ModelSpec> {
    let key = "share_encoder_decoder_embeddings";
    if !config.flag(key, true)? {
        return Err(config.error(key, "an embedding for each side is not supported"));
    }
    read(config, |stack| sinusoidal(stack, PLAIN))
}

fn pegasus(config: &ModelConfig) -> Result<ModelSpec> {
    read(config, |stack| {
        sinusoidal(stack, PLAIN);
        norms_before(stack);
    })
}

fn m2m_100(config: &ModelConfig) -> Result<ModelSpec> {
    let padding = pad(config)?;
    let offset = padding as usize + 1;
    let positions = Positions::Sinusoidal { offset, kind: Sinusoids::Tensor2Tensor, padding: Some(padding) };
    let mut spec = read(config, |stack| {
        sinusoidal(stack, positions);
        norms_before(stack);
    })?;
    spec.head.bias = false;
    if !config.has("scale_embedding") {
        let scale = (spec.stack.hidden_size as f32).sqrt();
        spec.stack.embedding.scale = scale;
        spec.encoder.iter_mut().for_each(|encoder| encoder.embedding.scale = scale);
    }
    Ok(spec)
}

fn pad(config: &ModelConfig) -> Result<u32> {
    Ok(config.optional_number("pad_token_id")?.unwrap_or(1.0) as u32)
}

/// BART's layout, with `change` made to both stacks.
fn read(config: &ModelConfig, change: impl Fn(&mut StackSpec)) -> Result<ModelSpec> {
    let hidden_size = config.size("d_model")?;
    let rows = config.size("max_position_embeddings")?;
    let activation = decoder::activation(config, "activation_function", Activation::Gelu)?;
    let scale = if config.flag("scale_embedding", false)? { (hidden_size as f32).sqrt() } else { 1.0 };
    let stack = |side: &str, names: StackNames| -> Result<StackSpec> {
        let of = |what: &str| config.size(&format!("{side}_{what}"));
        let causal = names.cross.is_some();
        let mut stack = StackSpec {
            hidden_size,
            embedding: EmbeddingSpec {
                scale,
                positions: Positions::Learned {
                    rows: rows.saturating_add(OFFSET),
                    offset: OFFSET,
                    padding: None,
                },
                ..EmbeddingSpec::plain(hidden_size)
            },
            attention: AttentionSpec {
                causal,
                ..AttentionSpec::encoder(of("attention_heads")?, hidden_size)
            },
            mlp: MlpSpec { inner: of("ffn_dim")?, activation, bias: true, fused: false },
            norm: NormSpec::layer(1e-5),
            parallel: false,
            residual_scale: 1.0,
            max_positions: Some(rows),
            relative: None,
            layers: vec![LayerSpec::default(); of("layers")?.min(decoder::MOST_LAYERS)],
            ropes: Vec::new(),
            temperature: None,
            names,
        };
        change(&mut stack);
        Ok(stack)
    };
    let start = config.optional_number("decoder_start_token_id")?.unwrap_or(2.0) as u32;
    Ok(ModelSpec {
        kind: ModelKind::Seq2Seq,
        vocab_size: config.size("vocab_size")?,
        tied: config.flag("tie_word_embeddings", true)?,
        stack: stack("decoder", DECODER)?,
        encoder: Some(stack("encoder", ENCODER)?),
        decoder_inputs: Some(DecoderInputs { start: DecoderStart::Token(start), pad: pad(config)? }),
        head: HeadSpec { bias: true, ..HeadSpec::default() },
        names: MODEL,
    })
}
