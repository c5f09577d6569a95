//! Which layers get trained rows, for which tokens, and which of them share their rows.
//!
//! The rules are those of PEFT 0.21: its table for `trainable_token_indices` and `ensure_weight_tying`, and what
//! Trainable Tokens alone does. Every group of tied layers is decided on its own.

use super::base::{BaseModel, NamedLayer, TiedLayer};
use crate::config::{TargetModules, TrainableTokenIndices, TrainableTokensConfig};
use crate::peft::error::{PeftError, Result};

/// The name PEFT falls back to for a model that does not tell its input embedding.
const DEFAULT_EMBEDDING: &str = "embed_tokens";

/// Rows to be trained: on a layer, and on those that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) layer: String,
    pub(super) tied: Vec<String>,
    pub(super) tokens: Vec<u32>,
}

/// A layer with the tokens that were asked for it, and the key that asked.
struct Wanted {
    layer: String,
    key: String,
    tokens: Vec<u32>,
}

fn has_rows(layers: &[NamedLayer]) -> Vec<String> {
    layers.iter().filter(|layer| layer.has_token_rows()).map(|layer| layer.name.clone()).collect()
}

fn no_target(target: &str, layers: &[NamedLayer]) -> PeftError {
    PeftError::NoTarget { target: target.into(), matrices: has_rows(layers) }
}

/// Where Trainable Tokens alone puts its rows. The target is filled in as PEFT stores it.
pub(super) fn standalone(
    base: &impl BaseModel,
    config: &mut TrainableTokensConfig,
) -> Result<Vec<Placement>> {
    let layers = base.named_layers();
    let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
    let target = config.target_modules.get_or_insert_with(|| {
        // PEFT stores the name as a pattern, or, where the model has no input embedding, its usual ending
        TargetModules::Pattern(base.input_embedding().unwrap_or_else(|| DEFAULT_EMBEDDING.into()))
    });
    let found = target.matching(&names)?;
    if found.is_empty() {
        return Err(no_target(&target.to_string(), &layers));
    }
    let wanted = found
        .into_iter()
        .map(|name| {
            let key = name.to_string();
            check_kind(&layers, name)?;
            Ok(Wanted { layer: name.into(), key, tokens: config.token_indices.clone() })
        })
        .collect::<Result<Vec<_>>>()?;
    place(wanted, &layers, &base.tied_layers(), false)
}

/// Where `trainable_token_indices` beside LoRA puts its rows.
pub(super) fn beside_lora(
    base: &impl BaseModel,
    indices: &TrainableTokenIndices,
    ensure_weight_tying: bool,
) -> Result<Vec<Placement>> {
    let layers = base.named_layers();
    let mut wanted: Vec<Wanted> = Vec::new();
    match indices {
        TrainableTokenIndices::Tokens(tokens) => {
            let layer = base.input_embedding().unwrap_or_else(|| DEFAULT_EMBEDDING.into());
            if !layers.iter().any(|known| known.name == layer) {
                return Err(no_target(&layer, &layers));
            }
            wanted.push(Wanted { layer: layer.clone(), key: layer, tokens: tokens.clone() });
        }
        TrainableTokenIndices::ByLayer(map) => {
            for (key, tokens) in map {
                want_by_ending(&layers, key, tokens, &mut wanted)?;
            }
        }
    }
    let tied = base.tied_layers();
    if ensure_weight_tying && tied.is_empty() {
        tracing::warn!(
            "ensure_weight_tying=True but the model does not have tied weights: trainable_token_indices are not tied"
        );
    }
    place(wanted, &layers, &tied, ensure_weight_tying)
}

/// Layers whose name ends in `key`: PEFT compares the ends of names as plain text here.
fn want_by_ending(layers: &[NamedLayer], key: &str, tokens: &[u32], wanted: &mut Vec<Wanted>) -> Result<()> {
    let matching: Vec<&NamedLayer> = layers.iter().filter(|layer| layer.name.ends_with(key)).collect();
    let mut with_rows = matching.iter().filter(|layer| layer.has_token_rows()).peekable();
    if with_rows.peek().is_none() {
        return match matching.first() {
            Some(layer) => check_kind(layers, &layer.name),
            None => Err(no_target(key, layers)),
        };
    }
    for layer in with_rows {
        if let Some(first) = wanted.iter().find(|of| of.layer == layer.name) {
            let (first, second) = (first.key.clone(), key.to_string());
            return Err(PeftError::TargetedTwice { layer: layer.name.clone(), first, second });
        }
        wanted.push(Wanted { layer: layer.name.clone(), key: key.into(), tokens: tokens.to_vec() });
    }
    Ok(())
}

fn check_kind(layers: &[NamedLayer], name: &str) -> Result<()> {
    match layers.iter().find(|layer| layer.name == name) {
        Some(layer) if !layer.has_token_rows() => {
            Err(PeftError::NotATokenMatrix { module: name.into(), matrices: has_rows(layers) })
        }
        _ => Ok(()),
    }
}

/// Decides, group of tied layers by group, who shares rows.
fn place(
    wanted: Vec<Wanted>,
    layers: &[NamedLayer],
    tied: &[TiedLayer],
    ensure_weight_tying: bool,
) -> Result<Vec<Placement>> {
    for Wanted { layer, tokens, .. } in &wanted {
        let rows = super::base::find(layers, layer)?.rows;
        crate::config::check_tokens(tokens, rows)?;
    }
    let source_of =
        |layer: &str| tied.iter().find(|t| t.layer == layer).map_or(layer.to_string(), |t| t.source.clone());
    let mut placements: Vec<Placement> = Vec::new();
    for one in &wanted {
        let source = source_of(&one.layer);
        let group: Vec<&Wanted> = wanted.iter().filter(|other| source_of(&other.layer) == source).collect();
        let same = group.iter().all(|other| other.tokens == one.tokens);
        if !same && ensure_weight_tying {
            let layers = group.iter().map(|of| format!("{}: {:?}", of.key, of.tokens)).collect();
            return Err(PeftError::DifferentTokens { layers });
        }
        // a tied layer alone, without the one it is tied to, is trained apart, as are lists that differ
        let together = same && group.iter().any(|of| of.layer == source);
        if !together {
            let (layer, tokens) = (one.layer.clone(), one.tokens.clone());
            placements.push(Placement { layer, tied: vec![], tokens });
        } else if one.layer == source {
            let followers = tied.iter().filter(|t| t.source == source).map(|t| t.layer.clone()).collect();
            placements.push(Placement { layer: source, tied: followers, tokens: one.tokens.clone() });
        }
    }
    placements.sort_by_key(|p| layers.iter().position(|layer| layer.name == p.layer));
    Ok(placements)
}
