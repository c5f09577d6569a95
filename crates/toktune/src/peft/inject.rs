//! Making an adapter for a model from a configuration.

use super::PeftError;
use super::adapter::Adapter;
use super::base::{BaseModel, LayerKind, NamedLayer, find};
use super::layer::TrainableTokensLayer;
use super::lora::{LoraLayer, LoraShape};
use super::lora_targets::default_targets;
use super::placement::{Placement, beside_lora, standalone};
use crate::config::{LoraConfig, PeftConfig, TargetModules};
use crate::models::TrainedRows;
use crate::peft::error::Result;
use crate::random::Random;
use crate::weights::nearest;
use std::collections::BTreeSet;

/// PEFT's word for every linear layer but the head.
const ALL_LINEAR: &str = "all-linear";

/// What is adapted when nothing is said, in a model that tells no type.
const DEFAULT_LORA_TARGETS: &[&str] = &["q_proj", "v_proj"];

/// Numbers that the updates of any adapter may have: 1 GiB. More than that is a slip, unless the model is as large itself.
const MANY_NUMBERS: u64 = 1 << 28;

/// Makes the adapter `name`; the targets are filled into its configuration.
pub(super) fn adapter(base: &impl BaseModel, name: String, config: PeftConfig) -> Result<Adapter> {
    match config {
        PeftConfig::TrainableTokens(mut config) => {
            let placements = standalone(base, &mut config)?;
            let random = (!config.init_weights).then_some((config.common.seed, name.as_str()));
            let tokens = token_layers(base, placements, random)?;
            Ok(Adapter { name, config: config.into(), tokens, lora: Vec::new() })
        }
        PeftConfig::Lora(mut config) => {
            config.check()?;
            let lora = lora_layers(base, &mut config, &name)?;
            let placements = match &config.trainable_token_indices {
                Some(indices) => beside_lora(base, indices, config.ensure_weight_tying)?,
                None => Vec::new(),
            };
            let tokens = token_layers(base, placements, None)?;
            Ok(Adapter { name, config: config.into(), tokens, lora })
        }
    }
}

fn token_layers(
    base: &impl BaseModel,
    placements: Vec<Placement>,
    random: Option<(u64, &str)>,
) -> Result<Vec<TrainableTokensLayer>> {
    let layers = base.named_layers();
    placements
        .into_iter()
        .map(|Placement { layer, tied, tokens }| {
            let width = find(&layers, &layer)?.cols;
            let values = match random {
                None => base.weight_rows(&layer, &tokens)?,
                Some((seed, adapter)) => {
                    normal(tokens.len() * width, 1.0, Random::named(seed, &[adapter, &layer]))
                }
            };
            Ok(TrainableTokensLayer::new(layer, tied, TrainedRows::new(tokens, width, values)))
        })
        .collect()
}

fn lora_layers(base: &impl BaseModel, config: &mut LoraConfig, adapter: &str) -> Result<Vec<LoraLayer>> {
    let layers = base.named_layers();
    if config.fan_in_fan_out && !base.has_fan_in_fan_out() {
        tracing::warn!("fan_in_fan_out is set to false: the model's linear layers are no Conv1D");
    }
    // PEFT stores what it finds, whatever it was told
    config.fan_in_fan_out = base.has_fan_in_fan_out();
    let targets = lora_targets(base, &layers, config)?;
    let ranks = config.ranks()?;
    let shape = |layer: &NamedLayer| {
        let (r, scaling) = ranks.of(&layer.name)?;
        let (inputs, outputs) = (layer.cols, layer.rows);
        Ok((layer.name.clone(), LoraShape { r, inputs, outputs, scaling, dropout: config.lora_dropout }))
    };
    let shapes: Vec<(String, LoraShape)> = targets.into_iter().map(shape).collect::<Result<_>>()?;
    check_numbers(shapes.iter().map(|(_, shape)| shape), config.r, base.num_parameters())?;
    let made = shapes.into_iter().map(|(name, shape)| {
        let mut random = Random::named(config.common.seed, &[adapter, &name]);
        LoraLayer::new(name, shape, &config.init_lora_weights, &mut random)
    });
    Ok(made.collect())
}

/// A rank from a file, or a slip of the hand, must not take all memory.
fn check_numbers<'a>(shapes: impl Iterator<Item = &'a LoraShape>, r: usize, of_base: u64) -> Result<()> {
    let of = |shape: &LoraShape| {
        (shape.inputs as u64).saturating_add(shape.outputs as u64).saturating_mul(shape.r as u64)
    };
    let numbers = shapes.map(of).fold(0, u64::saturating_add);
    let most = MANY_NUMBERS.max(of_base);
    if numbers > most {
        return Err(PeftError::TooManyNumbers { r, numbers, most });
    }
    Ok(())
}

/// The linear layers that are meant; the word for all of them is replaced by their names, as PEFT stores it.
fn lora_targets<'a>(
    base: &impl BaseModel,
    layers: &'a [NamedLayer],
    config: &mut LoraConfig,
) -> Result<Vec<&'a NamedLayer>> {
    let linear = || layers.iter().filter(|layer| layer.kind == LayerKind::Linear);
    let endings = || -> BTreeSet<String> {
        let ending = |layer: &NamedLayer| layer.name.rsplit('.').next().unwrap_or_default().to_string();
        linear().map(ending).collect()
    };
    let mut target = match config.target_modules.take() {
        Some(target) => target,
        None => {
            let names = match base.model_type() {
                Some(model_type) => {
                    default_targets(model_type).ok_or_else(|| PeftError::NoDefaultTargets {
                        model_type: model_type.into(),
                        layers: endings().into_iter().collect(),
                    })?
                }
                None => DEFAULT_LORA_TARGETS,
            };
            TargetModules::Names(names.iter().map(|name| name.to_string()).collect())
        }
    };
    if matches!(&target, TargetModules::Pattern(word) if word.eq_ignore_ascii_case(ALL_LINEAR)) {
        target = TargetModules::Names(linear().map(|layer| layer.name.clone()).collect());
    }
    let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
    let fixed = base.fixed_linears();
    if let Some(layer) = config.adapted(&target, &fixed)?.first() {
        return Err(PeftError::LoraOutsideBlocks { layer: layer.to_string() });
    }
    let found = config.adapted(&target, &names)?;
    if let Some(layer) = layers.iter().find(|l| l.has_token_rows() && found.contains(&l.name.as_str())) {
        return Err(PeftError::LoraOnTokenMatrix { layer: layer.name.clone() });
    }
    if found.is_empty() {
        let (endings, target) = (endings(), target.to_string());
        let nearest = nearest(&target, endings.iter().map(String::as_str)).map(str::to_owned);
        let layers = endings.into_iter().collect();
        return Err(PeftError::NoLinear { target, nearest, layers });
    }
    let chosen: Vec<&NamedLayer> =
        layers.iter().filter(|layer| found.contains(&layer.name.as_str())).collect();
    if base.has_other_linears() {
        // names alone would make PEFT adapt layers of the vision tower too
        target = TargetModules::Names(chosen.iter().map(|layer| layer.name.clone()).collect());
    }
    config.target_modules = Some(target);
    Ok(chosen)
}

/// Normal numbers with standard deviation `std`.
pub(super) fn normal(n: usize, std: f32, mut random: Random) -> Vec<f32> {
    (0..n).map(|_| random.normal() as f32 * std).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_beyond_sense_is_refused_before_anything_is_made() {
        let shape = |r| LoraShape { r, inputs: 4096, outputs: 4096, scaling: 1.0, dropout: 0.0 };
        let check = |r, layers, of_base| check_numbers(vec![shape(r); layers].iter(), r, of_base);
        assert!(check(256, 100, 0).is_ok() && check(4096, 100, 1 << 33).is_ok());
        for (r, layers, of_base) in [(65_536, 1, 0), (4096, 100, 1 << 30), (usize::MAX, 3, u64::MAX - 1)] {
            let error = check(r, layers, of_base).expect_err("too many");
            assert!(matches!(error, PeftError::TooManyNumbers { .. }), "{error}");
        }
    }
}
