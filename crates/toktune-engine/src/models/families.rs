//! The families of models that are supported, one small file each.

mod apertus;
mod arcee;
mod bart;
mod bert;
mod bloom;
mod cohere;
mod cohere2;
mod cwm;
mod deberta;
mod decoder;
mod distilbert;
mod dots1;
mod electra;
mod encoder;
mod ernie;
mod exaone4;
mod falcon;
mod flex_olmo;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granitemoe;
mod helium;
mod hunyuan;
mod lfm2;
mod llama;
mod llama4;
mod ministral;
mod mistral;
mod mixtral;
mod modernbert;
mod mpt;
mod multimodal;
mod nanochat;
mod nemotron;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod phimoe;
mod qwen;
mod qwen_moe;
mod roberta;
mod seed_oss;
mod smollm3;
mod solar_open;
mod stablelm;
mod starcoder2;
pub(super) mod synonyms;
mod t5;
pub(super) mod unsupported;
mod xglm;

use super::config::ModelConfig;
use super::spec::ModelSpec;
use crate::error::{EngineError, Result};
use crate::spec::ModelKind;
use std::fmt;
use std::path::Path;
use toktune_weights::nearest;

/// What a family file says of its models. It holds no maths.
#[non_exhaustive]
pub struct Family {
    /// The family's name for people.
    pub name: &'static str,
    /// The `model_type`s of `config.json` that belong to it.
    pub model_types: &'static [&'static str],
    /// The class that transformers loads it with.
    pub architecture: &'static str,
    /// Checkpoints on the hub that people use.
    pub examples: &'static [&'static str],
    /// Its GGUF files, where llama.cpp converts it.
    pub gguf: Option<GgufFamily>,
    /// The linear layers of its blocks are stored as `[in, out]`, outside GGUF.
    pub columns: bool,
    /// Reads `config.json`.
    pub(crate) spec: fn(&ModelConfig) -> Result<ModelSpec>,
}

/// What a family makes of a configuration, in outline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outline {
    /// What its models compute.
    pub kind: ModelKind,
    /// The modules that embed tokens.
    pub embeddings: Vec<&'static str>,
    /// The head; empty where there is none.
    pub head: &'static str,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// What a family's GGUF files are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufFamily {
    /// Their `general.architecture`.
    pub architecture: &'static str,
    /// Whether llama.cpp's converter interleaves the rows of the query and key projections.
    pub interleaves: bool,
}

impl GgufFamily {
    /// Files whose rows of queries and keys are not interleaved.
    const fn plain(architecture: &'static str) -> Option<Self> {
        Some(Self { architecture, interleaves: false })
    }
}

impl Family {
    /// What it makes of a configuration.
    ///
    /// # Errors
    /// A key is missing or has a value that is not supported.
    pub fn outline(&self, config: &ModelConfig) -> Result<Outline> {
        let spec = (self.spec)(config)?;
        let embeddings = [&[spec.names.embed], spec.names.embed_aliases].concat();
        Ok(Outline { kind: spec.kind, embeddings, head: spec.names.head, tied: spec.tied })
    }

    /// Whether its models read images too, of which only the text part is here.
    pub fn is_multimodal(&self) -> bool {
        multimodal::ALL.iter().any(|family| family.name == self.name)
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("name", &self.name).field("model_types", &self.model_types).finish()
    }
}

/// Every supported family.
pub const FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mixtral::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen_moe::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &opt::OPT,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &phi::PHI,
    &phi3::PHI3,
    &stablelm::STABLELM,
    &granite::GRANITE,
    &olmo2::OLMO2,
    &olmo3::OLMO3,
    &hunyuan::HUNYUAN,
    &lfm2::LFM2,
    &smollm3::SMOLLM3,
    &cohere::COHERE,
    &starcoder2::STARCODER2,
    &falcon::FALCON,
    &bloom::BLOOM,
    &arcee::ARCEE,
    &seed_oss::SEED_OSS,
    &ernie::ERNIE4_5,
    &ernie::ERNIE4_5_MOE,
    &glm::GLM,
    &glm::GLM4,
    &glm::GLM4_MOE,
    &helium::HELIUM,
    &ministral::MINISTRAL,
    &ministral::MINISTRAL3,
    &nemotron::NEMOTRON,
    &olmo::OLMO,
    &olmoe::OLMOE,
    &exaone4::EXAONE4,
    &cohere2::COHERE2,
    &apertus::APERTUS,
    &nanochat::NANOCHAT,
    &xglm::XGLM,
    &gptj::GPTJ,
    &gpt_neo::GPT_NEO,
    &gpt_bigcode::GPT_BIGCODE,
    &mpt::MPT,
    &qwen_moe::QWEN2_MOE,
    &granitemoe::GRANITE_MOE,
    &phimoe::PHIMOE,
    &dots1::DOTS1,
    &solar_open::SOLAR_OPEN,
    &flex_olmo::FLEX_OLMO,
    &cwm::CWM,
    &gpt_oss::GPT_OSS,
    &llama4::LLAMA4,
    &multimodal::GEMMA3,
    &multimodal::LLAVA,
    &multimodal::MISTRAL3,
    &multimodal::LLAMA4,
    &multimodal::QWEN2_VL,
    &multimodal::QWEN2_5_VL,
    &multimodal::QWEN3_VL,
    &bert::BERT,
    &roberta::ROBERTA,
    &distilbert::DISTILBERT,
    &electra::ELECTRA,
    &modernbert::MODERNBERT,
    &deberta::DEBERTA_V2,
    &t5::T5,
    &t5::MT5,
    &bart::BART,
    &bart::MBART,
    &bart::MARIAN,
    &bart::PEGASUS,
    &bart::M2M100,
];

/// The family of a `model_type`.
///
/// # Errors
/// No family has it; the error lists those there are, and says what is missing where that is known.
pub(super) fn of_model_type(config: &ModelConfig) -> Result<&'static Family> {
    let model_type = config.model_type();
    let known = || FAMILIES.iter().flat_map(|f| f.model_types).copied();
    let found = FAMILIES.iter().copied().find(|f| f.model_types.contains(&model_type));
    found.ok_or_else(|| unsupported(config.path(), format!("model_type '{model_type}'"), model_type, known()))
}

/// What stands in the way of models of a `model_type` that no family has, by the name of the piece; nothing where that was not looked
/// into.
pub fn missing_piece(model_type: &str) -> Option<&'static str> {
    unsupported::needs(model_type).map(|(missing, _)| missing)
}

/// The error for a model of no family: `name` among the names `known`.
pub(super) fn unsupported(
    path: &Path,
    found: String,
    name: &str,
    known: impl Iterator<Item = &'static str> + Clone,
) -> EngineError {
    let (missing, like) = unsupported::needs(name).unzip();
    let nearest = like.flatten().or_else(|| nearest(name, known.clone()).filter(|_| missing.is_none()));
    let supported = known.map(str::to_string).collect();
    EngineError::UnsupportedModel {
        path: path.into(),
        found,
        missing,
        nearest: nearest.map(str::to_string),
        supported,
    }
}
