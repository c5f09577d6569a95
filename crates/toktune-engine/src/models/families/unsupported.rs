//! What well-known models that are not supported would need, for the message that refuses them.

/// A `model_type` (or a GGUF architecture), what it needs, and the nearest that is supported.
type Entry = (&'static str, &'static str, Option<&'static str>);

const STATE_SPACE: &str = "state-space layers";
const LATENT: &str = "attention over compressed keys and values (MLA)";
const LATENT_SPARSE: &str =
    "attention over compressed keys and values (MLA), to positions that an indexer chooses";
const DELTA_RULE: &str = "linear attention with a state (gated delta rule)";
const SHORT_CONVOLUTION: &str = "short convolutions";
const LIGHTNING: &str = "linear attention with a decaying state (lightning attention)";
const AUDIO: &str = "audio beside text";
const RECURRENT: &str = "recurrent layers";
const PER_LAYER: &str =
    "heads of two widths, keys and values shared between layers, and embeddings of each layer";
const IMAGES: &str = "images beside text";
const SPARSE: &str = "attention to chosen positions far away";

const KNOWN: &[Entry] = &[
    ("albert", "layers that share one set of weights", Some("bert")),
    ("mpnet", "a bias by distance in an encoder with learnt positions", Some("bert")),
    ("deberta", "positions inside the attention as the first DeBERTa had them", Some("bert")),
    ("xlnet", "attention to permuted positions", Some("bert")),
    ("longformer", SPARSE, Some("roberta")),
    ("big_bird", SPARSE, Some("bert")),
    ("led", SPARSE, Some("bart")),
    ("codegen", "one norm before both halves, and a projection of a layout of its own", Some("gpt_neox")),
    ("deepseek_v2", LATENT, Some("mixtral")),
    ("deepseek_v3", LATENT, Some("mixtral")),
    ("mamba", STATE_SPACE, None),
    ("mamba2", STATE_SPACE, None),
    ("falcon_mamba", STATE_SPACE, None),
    ("falcon_h1", STATE_SPACE, Some("llama")),
    ("jamba", STATE_SPACE, Some("mixtral")),
    ("bamba", STATE_SPACE, Some("llama")),
    ("granitemoehybrid", STATE_SPACE, Some("granitemoe")),
    ("nemotron_h", STATE_SPACE, Some("nemotron")),
    ("zamba", STATE_SPACE, None),
    ("zamba2", STATE_SPACE, None),
    ("axk1", LATENT, None),
    ("bailing_hybrid", LATENT, None),
    ("glm4_moe_lite", LATENT, Some("glm4_moe")),
    ("kimi_linear", LATENT, None),
    ("longcat_flash", LATENT, None),
    ("minicpm3", LATENT, Some("llama")),
    ("youtu", LATENT, Some("llama")),
    ("axk2", LATENT_SPARSE, None),
    ("deepseek_v32", LATENT_SPARSE, None),
    ("glm_moe_dsa", LATENT_SPARSE, Some("glm4_moe")),
    ("olmo_hybrid", DELTA_RULE, Some("olmo3")),
    ("qwen3_next", DELTA_RULE, Some("qwen3_moe")),
    ("qwen3_5", DELTA_RULE, Some("qwen3")),
    ("qwen3_5_text", DELTA_RULE, Some("qwen3")),
    ("qwen3_5_moe", DELTA_RULE, Some("qwen3_moe")),
    ("qwen3_5_moe_text", DELTA_RULE, Some("qwen3_moe")),
    ("lfm2_moe", "experts between short convolutions", Some("lfm2")),
    ("lfm3", SHORT_CONVOLUTION, Some("lfm2")),
    ("minimax", LIGHTNING, Some("mixtral")),
    ("recurrent_gemma", RECURRENT, Some("gemma")),
    ("rwkv", RECURRENT, None),
    ("xlstm", RECURRENT, None),
    ("reformer", SPARSE, None),
    ("bigbird_pegasus", SPARSE, Some("pegasus")),
    ("pegasus_x", SPARSE, Some("pegasus")),
    ("longt5", SPARSE, Some("t5")),
    ("fnet", "a Fourier transform in place of attention", Some("bert")),
    ("gemma3n_text", PER_LAYER, Some("gemma3_text")),
    ("gemma4_unified", PER_LAYER, Some("gemma3")),
    ("gemma4_unified_text", PER_LAYER, Some("gemma3_text")),
    ("git", IMAGES, None),
    ("fuyu", IMAGES, None),
    ("emu3", IMAGES, Some("llama")),
    ("got_ocr2", IMAGES, Some("qwen2")),
    ("trocr", IMAGES, Some("bart")),
    ("phi4_multimodal", IMAGES, Some("phi3")),
    ("voxtral", AUDIO, Some("llama")),
    ("qwen2_audio", AUDIO, Some("qwen2")),
    ("granite_speech", AUDIO, Some("granite")),
    ("seamless_m4t", AUDIO, None),
    ("musicgen", AUDIO, None),
    ("llava_next", IMAGES, Some("llava")),
    ("llava_onevision", IMAGES, Some("llava")),
    ("gemma4_text", PER_LAYER, Some("gemma3_text")),
    ("gemma4", PER_LAYER, Some("gemma3")),
    ("gemma3n", IMAGES, Some("gemma3")),
    ("mllama", IMAGES, Some("llama")),
    ("idefics3", IMAGES, Some("llava")),
    ("smolvlm", IMAGES, Some("llava")),
    ("internvl", IMAGES, Some("llava")),
    ("qwen3_vl_moe", "experts in a model with images", Some("qwen3_vl")),
    ("paligemma", IMAGES, Some("gemma")),
    ("whisper", AUDIO, Some("bart")),
];

/// What a model of this name needs, and the nearest that is supported.
pub(in crate::models) fn needs(name: &str) -> Option<(&'static str, Option<&'static str>)> {
    let normal = name.replace('-', "_");
    KNOWN.iter().find(|entry| entry.0 == normal).map(|&(_, missing, nearest)| (missing, nearest))
}

#[cfg(test)]
mod tests {
    use super::super::FAMILIES;
    use super::KNOWN;

    #[test]
    fn the_nearest_are_supported_and_the_others_are_not() {
        let supported = |name: &str| FAMILIES.iter().any(|family| family.model_types.contains(&name));
        for (name, missing, nearest) in KNOWN {
            assert!(!supported(name) && !missing.is_empty(), "{name}");
            assert!(nearest.is_none_or(supported), "{name}: {nearest:?}");
        }
    }
}
