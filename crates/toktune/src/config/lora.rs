//! `LoraConfig`.

use super::common::CommonConfig;
use super::pattern::Pattern;
use super::target_modules::TargetModules;
use super::trainable_tokens::yes;
use crate::config::error::{ConfigError, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The configuration of a LoRA adapter, with PEFT's field names and defaults.
///
/// Options of PEFT's that change the computation and are not here (`use_dora`, `layer_replication`, …) are refused
/// when they are on; everything else in a file is kept in [`CommonConfig::other`] and written back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoraConfig {
    /// The rank: rows of `lora_A`, columns of `lora_B`.
    #[serde(default = "default_rank")]
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    #[serde(default = "default_alpha", serialize_with = "whole_if_whole")]
    pub lora_alpha: f64,
    /// The share of the inputs of `lora_A` that is left out in a training step, at least 0 and below 1.
    #[serde(default)]
    pub lora_dropout: f64,
    /// The linear layers to adapt: names, a regular expression for full names, or `all-linear` for every one but the
    /// head; `None` is what PEFT takes for the model's type (`q_proj` and `v_proj` for most).
    #[serde(default)]
    pub target_modules: Option<TargetModules>,
    /// Whether the adapted layers hold their weights as `[in, out]`, as GPT-2's do. The model decides: like PEFT, making an
    /// adapter sets it right.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// The layers among them that are left out: names, or a regular expression for full names.
    #[serde(default)]
    pub exclude_modules: Option<TargetModules>,
    /// The numbers of the layers that are adapted, where `target_modules` are names; `None` is all.
    #[serde(default)]
    pub layers_to_transform: Option<LayersToTransform>,
    /// What stands before such a number in a layer's name (`layers`, `h`), as regular expressions; `None` is anything.
    #[serde(default)]
    pub layers_pattern: Option<LayerPatterns>,
    /// Which biases an adapter brings: `none` (PEFT's default), `all`, or `lora_only`, those of adapted layers. They are
    /// loaded, computed with and merged; training them is refused.
    #[serde(default = "none")]
    pub bias: String,
    /// Scale by `lora_alpha / sqrt(r)` instead.
    #[serde(default)]
    pub use_rslora: bool,
    /// Tokens whose rows are trained too.
    #[serde(default)]
    pub trainable_token_indices: Option<TrainableTokenIndices>,
    /// Modules that PEFT trained and stored whole. They are loaded, computed with and merged; training them is refused.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Insist on one set of rows for tied layers; see [`TrainableTokenIndices`].
    #[serde(default)]
    pub ensure_weight_tying: bool,
    /// Ranks of layers whose names end in a key (a regular expression).
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// `lora_alpha` of layers whose names end in a key (a regular expression).
    #[serde(default, serialize_with = "whole_ones_if_whole")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// `true`: `lora_A` uniform as torch's linear layers, `lora_B` zero; `"gaussian"`: `lora_A` normal; `false`: both
    /// uniform, so that the fresh adapter changes the model.
    #[serde(default = "true_value")]
    pub init_lora_weights: Value,
    /// What every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
}

/// PEFT's `trainable_token_indices`: one list for the input embedding, or a list a layer.
///
/// Whether a head tied to the embedding shares its rows depends on the form, as in PEFT:
///
/// | base | lists | [`ensure_weight_tying`](LoraConfig::ensure_weight_tying) | |
/// | --- | --- | --- | --- |
/// | tied | one, or equal ones | any | one set of rows for both |
/// | tied | different ones | no | each its own rows |
/// | tied | different ones | yes | refused |
/// | untied | any | no | the layers named, each its own rows |
/// | untied | any | yes | the same, and a warning |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TrainableTokenIndices {
    /// Tokens of the input embedding.
    Tokens(Vec<u32>),
    /// Tokens by the full names of layers, or by endings of names.
    ByLayer(BTreeMap<String, Vec<u32>>),
}

/// PEFT's `layers_to_transform`: one number or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LayersToTransform {
    /// The layer of this number.
    One(usize),
    /// The layers of these numbers; none of them stands for all.
    Several(Vec<usize>),
}

/// PEFT's `layers_pattern`: one expression or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LayerPatterns {
    /// One expression; an empty one stands for anything.
    One(String),
    /// Several, of which the first that matches counts.
    Several(Vec<String>),
}

impl LayerPatterns {
    /// Whether it says nothing.
    fn is_empty(&self) -> bool {
        match self {
            Self::One(pattern) => pattern.is_empty(),
            Self::Several(patterns) => patterns.is_empty(),
        }
    }
}

impl TrainableTokenIndices {
    /// Every token of every list, in order.
    pub fn all(&self) -> Vec<u32> {
        match self {
            Self::Tokens(tokens) => tokens.clone(),
            Self::ByLayer(layers) => layers.values().flatten().copied().collect(),
        }
    }
}

fn default_rank() -> usize {
    8
}

fn default_alpha() -> f64 {
    8.0
}

fn none() -> String {
    "none".into()
}

fn true_value() -> Value {
    Value::Bool(yes())
}

/// PEFT's `lora_alpha` is an integer; a float of the same value would be shown as another one.
fn whole_if_whole<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => serializer.serialize_i64(*value as i64),
        false => serializer.serialize_f64(*value),
    }
}

fn whole_ones_if_whole<S: serde::Serializer>(
    values: &BTreeMap<String, f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    struct Whole(f64);
    impl Serialize for Whole {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            whole_if_whole(&self.0, serializer)
        }
    }
    serializer.collect_map(values.iter().map(|(key, value)| (key, Whole(*value))))
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: default_rank(),
            lora_alpha: default_alpha(),
            lora_dropout: 0.0,
            target_modules: None,
            fan_in_fan_out: false,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            bias: none(),
            use_rslora: false,
            trainable_token_indices: None,
            modules_to_save: None,
            ensure_weight_tying: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            init_lora_weights: true_value(),
            common: CommonConfig::causal_lm(),
        }
    }
}

/// PEFT's options that change what is computed.
const OPTIONS_THAT_MATTER: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "lora_ga_config",
    "loftq_config",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// No layer is so wide that a higher rank could mean anything.
const MOST_RANK: usize = 1 << 16;

/// A pattern for each layer of the deepest model.
const MOST_PATTERNS: usize = 1 << 14;

/// Those of `names` that `keep` keeps.
fn kept(names: Vec<&str>, keep: impl Fn(&str) -> Result<bool>) -> Result<Vec<&str>> {
    names.into_iter().filter_map(|name| keep(name).map(|is| is.then_some(name)).transpose()).collect()
}

/// Whether an option of PEFT's is off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

impl LoraConfig {
    /// Checks the options on their own, without a model.
    ///
    /// # Errors
    /// A number is out of its range; `modules_to_save` names a layer of `trainable_token_indices`; `layers_to_transform` or
    /// `layers_pattern` stands where it says nothing; an option of PEFT's is on that is not there.
    pub fn check(&self) -> Result<()> {
        self.check_numbers()?;
        let option = |option: &str, found: String, expected: &'static str| {
            Err(ConfigError::LoraOption { option: option.into(), found, expected })
        };
        if !["none", "all", "lora_only"].contains(&self.bias.as_str()) {
            return option("bias", self.bias.clone(), "none, all or lora_only");
        }
        if let (Some(TargetModules::Pattern(pattern)), Some(layers)) =
            (&self.target_modules, &self.layers_to_transform)
        {
            let found = format!("{layers:?} beside the expression '{pattern}'");
            return option("layers_to_transform", found, "names in target_modules");
        }
        if let (None, Some(patterns)) = (&self.layers_to_transform, &self.layers_pattern)
            && !patterns.is_empty()
        {
            return option("layers_pattern", format!("{patterns:?}"), "layers_to_transform beside it");
        }
        let known = match &self.init_lora_weights {
            Value::Bool(_) => true,
            Value::String(name) => name == "gaussian",
            _ => false,
        };
        if !known {
            return option(
                "init_lora_weights",
                self.init_lora_weights.to_string(),
                "true, false or \"gaussian\"",
            );
        }
        if let Some((name, value)) = OPTIONS_THAT_MATTER
            .iter()
            .find_map(|name| Some((name, self.common.other.get(*name).filter(|value| !is_off(value))?)))
        {
            return option(name, value.to_string(), "nothing: it is not supported");
        }
        let by_rows = match &self.trainable_token_indices {
            Some(TrainableTokenIndices::ByLayer(layers)) => {
                self.modules_to_save.iter().flatten().find(|module| layers.contains_key(*module))
            }
            _ => None,
        };
        match by_rows {
            Some(module) => Err(ConfigError::TrainedWholeAndByRows { module: module.clone() }),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<()> {
        let option = |option: &str, found: String, expected: &'static str| {
            Err(ConfigError::LoraOption { option: option.into(), found, expected })
        };
        for r in std::iter::once(&self.r).chain(self.rank_pattern.values()) {
            if !(1..=MOST_RANK).contains(r) {
                return option("r", r.to_string(), "at least 1 and at most 65536");
            }
        }
        let patterns = self.rank_pattern.len().max(self.alpha_pattern.len());
        if patterns > MOST_PATTERNS {
            return option("rank_pattern or alpha_pattern", format!("{patterns} patterns"), "at most 16384");
        }
        let alphas = std::iter::once(&self.lora_alpha).chain(self.alpha_pattern.values());
        if let Some(alpha) = alphas.into_iter().find(|alpha| !alpha.is_finite()) {
            return option("lora_alpha", alpha.to_string(), "a finite number");
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return option("lora_dropout", self.lora_dropout.to_string(), "at least 0 and below 1");
        }
        Ok(())
    }

    /// The layers among `names` that are adapted, in their order, as PEFT's `check_target_module_exists` has it.
    ///
    /// # Errors
    /// A field holds no regular expression, or one that takes too long.
    pub(crate) fn adapted<'a>(&self, target: &TargetModules, names: &'a [String]) -> Result<Vec<&'a str>> {
        let mut found = target.matching(names)?;
        if let Some(excluded) = &self.exclude_modules {
            let excluded = excluded.matching_as("exclude_modules", names)?;
            found.retain(|name| !excluded.contains(name));
        }
        for module in self.modules_to_save.iter().flatten() {
            let whole = Pattern::part("modules_to_save", module)?;
            found = kept(found, |name| Ok(!whole.is_match(name)?))?;
        }
        let numbers: &[usize] = match (&self.layers_to_transform, target) {
            (Some(LayersToTransform::One(number)), TargetModules::Names(_)) => std::slice::from_ref(number),
            (Some(LayersToTransform::Several(numbers)), TargetModules::Names(_)) if !numbers.is_empty() => {
                numbers
            }
            _ => return Ok(found),
        };
        let patterns = match &self.layers_pattern {
            None => &[][..],
            Some(LayerPatterns::One(pattern)) => std::slice::from_ref(pattern),
            Some(LayerPatterns::Several(patterns)) => patterns,
        };
        let any = [String::new()];
        let patterns = if patterns.iter().all(String::is_empty) { &any } else { patterns };
        let patterns = patterns.iter().map(|text| Pattern::before_number("layers_pattern", text));
        let patterns: Vec<Pattern<'_>> = patterns.collect::<Result<_>>()?;
        kept(found, |name| {
            for pattern in &patterns {
                if let Some(number) = pattern.number(name)? {
                    return Ok(numbers.contains(&number));
                }
            }
            Ok(false)
        })
    }

    /// What of the configuration can be loaded and merged but not trained, as `(field, value)`.
    pub fn not_trained(&self) -> Option<(&'static str, String)> {
        let whole = self.modules_to_save.as_deref().filter(|modules| !modules.is_empty());
        match whole {
            Some(modules) => Some(("modules_to_save", modules.join(", "))),
            None => (self.bias != "none").then(|| ("bias", self.bias.clone())),
        }
    }

    /// The ranks and factors of layers, with every pattern compiled once.
    ///
    /// # Errors
    /// A key of a pattern is no regular expression.
    pub(crate) fn ranks(&self) -> Result<Ranks<'_>> {
        let ranks = self.rank_pattern.iter().map(|(key, r)| Ok((Pattern::ending("rank_pattern", key)?, *r)));
        let alphas =
            self.alpha_pattern.iter().map(|(key, x)| Ok((Pattern::ending("alpha_pattern", key)?, *x)));
        Ok(Ranks {
            config: self,
            ranks: ranks.collect::<Result<_>>()?,
            alphas: alphas.collect::<Result<_>>()?,
        })
    }
}

/// The ranks of a configuration's layers.
pub(crate) struct Ranks<'a> {
    config: &'a LoraConfig,
    ranks: Vec<(Pattern<'a>, usize)>,
    alphas: Vec<(Pattern<'a>, f64)>,
}

impl Ranks<'_> {
    /// The rank and the factor on the update of the layer `name`: of the first pattern that matches the end of it, from a dot on
    /// or in full.
    ///
    /// # Errors
    /// A match takes too many steps.
    pub(crate) fn of(&self, name: &str) -> Result<(usize, f64)> {
        let r = first(&self.ranks, name)?.unwrap_or(self.config.r);
        let alpha = first(&self.alphas, name)?.unwrap_or(self.config.lora_alpha);
        Ok((r, if self.config.use_rslora { alpha / (r as f64).sqrt() } else { alpha / r as f64 }))
    }
}

/// The value of the first pattern that matches.
fn first<T: Copy>(patterns: &[(Pattern<'_>, T)], name: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.is_match(name)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::error::ConfigError;

    /// What PEFT 0.21.2 writes for a LoRA adapter with tokens, shortened by layers.
    const PEFTS: &str = include_str!("../../tests/data/peft_lora_config.json");

    #[test]
    fn pefts_json_is_read_and_written_back_the_same() {
        let stored: Value = serde_json::from_str(PEFTS).expect("JSON");
        let mut fields = stored.clone();
        fields.as_object_mut().expect("an object").remove("peft_type");
        let config: LoraConfig = serde_json::from_value(fields).expect("a configuration");
        config.check().expect("sound");
        assert_eq!((config.r, config.lora_alpha, config.lora_dropout), (2, 4.0, 0.0));
        assert_eq!(config.trainable_token_indices, Some(TrainableTokenIndices::Tokens(vec![57, 3])));
        let json = crate::config::PeftConfig::from(config).to_json().expect("JSON");
        assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), stored);
    }

    #[test]
    fn ranks_and_alphas_are_found_by_the_end_of_a_name() {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            rank_pattern: [("q_proj".to_string(), 16), (r"layers\.1\..*down_proj".to_string(), 2)].into(),
            alpha_pattern: [("down_proj".to_string(), 3.0)].into(),
            ..LoraConfig::default()
        };
        let ranks = config.ranks().expect("valid");
        let of = |name: &str| ranks.of(name).expect("valid");
        assert_eq!(of("model.layers.0.self_attn.k_proj"), (4, 2.0));
        assert_eq!(of("model.layers.0.self_attn.q_proj"), (16, 0.5));
        assert_eq!(of("model.layers.1.mlp.down_proj"), (2, 1.5));
        assert_eq!(of("model.layers.0.mlp.down_proj"), (4, 0.75));
        assert_eq!(of("model.layers.0.my_q_proj").0, 4, "only at a dot");
        let stabilised = LoraConfig { use_rslora: true, r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
        assert_eq!(stabilised.ranks().and_then(|ranks| ranks.of("x")).expect("valid"), (4, 4.0));
        let broken = LoraConfig { rank_pattern: [("(".to_string(), 1)].into(), ..LoraConfig::default() };
        assert!(matches!(broken.ranks(), Err(ConfigError::Pattern { field: "rank_pattern", .. })));
    }

    #[test]
    fn options_that_cannot_be_honoured_are_refused_by_name() {
        let other = |key: &str, value: Value| {
            let mut config = LoraConfig::default();
            config.common.other.insert(key.into(), value);
            config
        };
        let base = LoraConfig::default;
        assert!(base().check().is_ok());
        assert!(other("use_dora", false.into()).check().is_ok());
        assert!(other("from_the_future", 3.into()).check().is_ok(), "kept, not refused");
        for (name, config) in [
            ("r", LoraConfig { r: 0, ..base() }),
            ("r", LoraConfig { rank_pattern: [("q".to_string(), 0)].into(), ..base() }),
            ("lora_alpha", LoraConfig { lora_alpha: f64::NAN, ..base() }),
            ("lora_dropout", LoraConfig { lora_dropout: 1.0, ..base() }),
            ("r", LoraConfig { r: usize::MAX, ..base() }),
            ("bias", LoraConfig { bias: "some".into(), ..base() }),
            ("init_lora_weights", LoraConfig { init_lora_weights: "pissa".into(), ..base() }),
            ("use_dora", other("use_dora", true.into())),
            ("layer_replication", other("layer_replication", vec![1].into())),
            (
                "layers_to_transform",
                LoraConfig {
                    layers_to_transform: Some(LayersToTransform::One(1)),
                    target_modules: Some(TargetModules::Pattern(".*q_proj".into())),
                    ..base()
                },
            ),
            ("layers_pattern", LoraConfig { layers_pattern: Some(LayerPatterns::One("h".into())), ..base() }),
        ] {
            let error = config.check().expect_err(name);
            assert!(matches!(&error, ConfigError::LoraOption { option, .. } if option == name), "{error}");
        }
    }

    #[test]
    fn a_module_is_not_trained_whole() {
        let with = |modules: &[&str]| LoraConfig {
            trainable_token_indices: Some(TrainableTokenIndices::ByLayer(
                [("embed_tokens".to_string(), vec![0, 1, 3])].into(),
            )),
            modules_to_save: Some(modules.iter().map(|m| m.to_string()).collect()),
            ..LoraConfig::default()
        };
        assert!(with(&[]).check().is_ok() && with(&["score"]).check().is_ok());
        assert!(with(&[]).not_trained().is_none());
        assert_eq!(with(&["score"]).not_trained(), Some(("modules_to_save", "score".into())));
        let error = with(&["x", "embed_tokens"]).check().expect_err("both");
        assert!(matches!(error, ConfigError::TrainedWholeAndByRows { .. }), "{error}");
    }

    #[test]
    fn layers_are_chosen_as_peft_chooses_them() {
        let names: Vec<String> = (0..3)
            .flat_map(|i| ["q_proj", "k_proj"].map(|name| format!("model.layers.{i}.self_attn.{name}")))
            .chain(["model.norm".into()])
            .collect();
        let names_of = |ends: &[&str]| TargetModules::Names(ends.iter().map(|end| end.to_string()).collect());
        let base =
            || LoraConfig { target_modules: Some(names_of(&["q_proj", "k_proj"])), ..LoraConfig::default() };
        let numbers = |of: &[usize]| Some(LayersToTransform::Several(of.to_vec()));
        for (config, expected) in [
            (base(), vec!["0.q", "0.k", "1.q", "1.k", "2.q", "2.k"]),
            (
                LoraConfig { exclude_modules: Some(names_of(&["k_proj"])), ..base() },
                vec!["0.q", "1.q", "2.q"],
            ),
            (
                LoraConfig {
                    exclude_modules: Some(TargetModules::Pattern(r".*\.(?!1)\d\..*".into())),
                    ..base()
                },
                vec!["1.q", "1.k"],
            ),
            (
                LoraConfig { layers_to_transform: Some(LayersToTransform::One(2)), ..base() },
                vec!["2.q", "2.k"],
            ),
            (
                LoraConfig { layers_to_transform: numbers(&[]), ..base() },
                vec!["0.q", "0.k", "1.q", "1.k", "2.q", "2.k"],
            ),
            (
                LoraConfig {
                    layers_to_transform: numbers(&[0, 9]),
                    layers_pattern: Some(LayerPatterns::Several(vec!["h".into(), "layers".into()])),
                    ..base()
                },
                vec!["0.q", "0.k"],
            ),
            (
                LoraConfig {
                    layers_to_transform: numbers(&[0]),
                    layers_pattern: Some(LayerPatterns::One("h".into())),
                    ..base()
                },
                vec![],
            ),
            (
                LoraConfig { modules_to_save: Some(vec!["q_proj".into(), "layers.0".into()]), ..base() },
                vec!["1.k", "2.k"],
            ),
        ] {
            let target = config.target_modules.clone().expect("a target");
            let found = config.adapted(&target, &names).expect("valid");
            let short =
                |name: &str| name.replace("model.layers.", "").replace("self_attn.", "").replace("_proj", "");
            assert_eq!(found.into_iter().map(short).collect::<Vec<_>>(), expected, "{config:?}");
        }
    }
}
