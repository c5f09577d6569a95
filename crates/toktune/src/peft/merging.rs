//! Merging adapters into the weights in memory, and taking them out again.
//!
//! The weights before the first merge are kept (matrices are shared, so that only changed ones take memory), which makes
//! taking out exact: nothing is subtracted.

use super::PeftError;
use super::adapter::Adapter;
use super::base::BaseModel;
use super::model::PeftModel;
use super::switching::unique;
use crate::peft::error::Result;

impl<M: BaseModel> PeftModel<M> {
    /// The merged adapters, in the order of merging.
    pub fn merged_adapters(&self) -> &[String] {
        &self.merged
    }

    /// Writes adapters into the weights, in the weights' types: the given ones, or the active ones. Those that are merged
    /// already are left out, with a warning. Layers that share a matrix go on sharing it.
    ///
    /// With `safe_merge` a NaN or an infinity is refused.
    ///
    /// # Errors
    /// There is no such adapter; one replaces rows that another, merged now or before, replaces too; a tied layer has
    /// rows of its own. The weights are as they were then.
    pub fn merge_adapter(&mut self, adapter_names: Option<&[&str]>, safe_merge: bool) -> Result<()> {
        let mut names = match adapter_names {
            Some(names) => unique(names),
            None => self.active.clone(),
        };
        for name in &names {
            self.adapter(name)?;
        }
        names.retain(|name| {
            let merged = self.merged.contains(name);
            if merged {
                tracing::warn!("adapter '{name}' is merged already");
            }
            !merged
        });
        let together: Vec<String> = self.merged.iter().chain(&names).cloned().collect();
        self.check_overlaps(&together)?;
        for name in &names {
            self.check_ties(self.adapter(name)?)?;
        }
        let mut before: Vec<(String, M::Kept)> = Vec::new();
        let merged = names.iter().try_for_each(|name| self.merge_one(name, safe_merge, &mut before));
        if let Err(error) = merged {
            for (layer, weight) in before {
                self.base.restore(&layer, weight)?;
            }
            return Err(error);
        }
        for (layer, weight) in before {
            // the oldest is the original
            if !self.kept.iter().any(|(known, _)| *known == layer) {
                self.kept.push((layer, weight));
            }
        }
        self.merged.extend(names);
        Ok(())
    }

    /// One matrix cannot hold two rows for a token.
    pub(crate) fn check_ties(&self, adapter: &Adapter) -> Result<()> {
        for tie in self.base.tied_layers() {
            let (on_layer, on_source) = (adapter.rows_on(&tie.layer), adapter.rows_on(&tie.source));
            let shared = match (on_layer, on_source) {
                (Some(one), Some(other)) => std::ptr::eq(one, other),
                (None, None) => true,
                _ => false,
            };
            if !shared {
                let (adapter, layer) = (adapter.name.clone(), tie.layer);
                return Err(PeftError::SeparateRowsOfTied { adapter, layer, source_layer: tie.source });
            }
        }
        Ok(())
    }

    fn merge_one(&mut self, name: &str, safe_merge: bool, before: &mut Vec<(String, M::Kept)>) -> Result<()> {
        let (base, adapters) = (&mut self.base, &self.adapters);
        let Some(adapter) = adapters.iter().find(|adapter| adapter.name == name) else { return Ok(()) };
        let mut keep = |base: &M, layer: &str| -> Result<()> {
            if !before.iter().any(|(known, _)| known == layer) {
                before.push((layer.to_string(), base.keep(layer)?));
            }
            Ok(())
        };
        let broken = |layer: &str, row: usize, value: f32| PeftError::MergeNotFinite {
            adapter: name.into(),
            layer: layer.into(),
            row,
            value,
        };
        for layer in &adapter.tokens {
            keep(base, layer.name())?;
            base.merge_rows(layer.name(), layer.rows())?;
            if safe_merge {
                // as the weight's type holds them: half precision has a small range
                let tokens = layer.rows().indices();
                let stored = base.weight_rows(layer.name(), tokens)?;
                if let Some(at) = stored.iter().position(|x| !x.is_finite()) {
                    let row = tokens[at / layer.rows().width().max(1)] as usize;
                    return Err(broken(layer.name(), row, stored[at]));
                }
            }
        }
        for layer in &adapter.lora {
            keep(base, layer.name())?;
            base.merge_update(layer.name(), layer)?;
            if safe_merge && let Some((row, col)) = base.weight(layer.name())?.first_non_finite() {
                let value = base.weight(layer.name())?.decode_rows(row..row + 1)[col];
                return Err(broken(layer.name(), row, value));
            }
        }
        Ok(())
    }

    /// Takes all merged adapters out of the weights, which are what they were, bit for bit. With nothing merged it warns,
    /// as PEFT does.
    ///
    /// # Errors
    /// A weight is no longer there.
    pub fn unmerge_adapter(&mut self) -> Result<()> {
        if self.merged.is_empty() {
            tracing::warn!("no adapter is merged: nothing to take out");
        }
        for (layer, weight) in std::mem::take(&mut self.kept) {
            self.base.restore(&layer, weight)?;
        }
        self.merged.clear();
        Ok(())
    }

    /// Merges (the given adapters, or the active ones) and gives the model back without adapters.
    ///
    /// # Errors
    /// As [`PeftModel::merge_adapter`].
    pub fn merge_and_unload(mut self, safe_merge: bool, adapter_names: Option<&[&str]>) -> Result<M> {
        self.merge_adapter(adapter_names, safe_merge)?;
        Ok(self.base)
    }

    /// Gives the model back as it was before any adapter; what was merged is taken out.
    pub fn unload(mut self) -> M {
        for (layer, weight) in std::mem::take(&mut self.kept) {
            // a layer that was merged into is there; were it not, nothing of it could be put back
            let _ = self.base.restore(&layer, weight);
        }
        self.base
    }
}
