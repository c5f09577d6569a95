//! Which adapters of a model are active, and adapters that go.

use super::PeftError;
use super::adapter::{BASE_ADAPTER, overlap};
use super::base::BaseModel;
use super::model::PeftModel;
use crate::models::PretrainedModel;
use crate::peft::error::Result;
use std::ops::Deref;

impl<M: BaseModel> PeftModel<M> {
    /// The names of the active adapters.
    pub fn active_adapters(&self) -> &[String] {
        &self.active
    }

    /// Makes these adapters active and all others not. A name that is there twice counts once.
    ///
    /// # Errors
    /// No name is given, or there is no such adapter; two of them replace the same rows. The active ones stay then.
    pub fn set_adapter(&mut self, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Err(PeftError::NoAdapterNamed { adapters: self.names() });
        }
        let names = unique(names);
        self.check_overlaps(&names)?;
        self.joined.take();
        self.active = names;
        Ok(())
    }

    /// Fails when two of these adapters replace the same rows; the later one is told as the one at fault.
    pub(super) fn check_overlaps(&self, names: &[String]) -> Result<()> {
        for (at, name) in names.iter().enumerate() {
            let adapter = self.adapter(name)?;
            for other in &names[..at] {
                if let Some((layer, tokens)) = overlap(adapter, self.adapter(other)?) {
                    let (adapter, other) = (name.clone(), other.clone());
                    return Err(PeftError::OverlappingTokens { adapter, other, layer, tokens });
                }
            }
        }
        Ok(())
    }

    /// Removes an adapter. When it was the only active one, the first that is left becomes active, as in PEFT.
    ///
    /// # Errors
    /// There is no such adapter, or it is merged.
    pub fn delete_adapter(&mut self, name: &str) -> Result<()> {
        self.adapter(name)?;
        if self.merged.iter().any(|merged| merged == name) {
            return Err(PeftError::Merged { what: "deleting an adapter", merged: self.merged.clone() });
        }
        self.joined.take();
        self.adapters.retain(|adapter| adapter.name != name);
        let was_active = self.active.iter().any(|active| active == name);
        self.active.retain(|active| active != name);
        if let (true, true, Some(first)) = (was_active, self.active.is_empty(), self.adapters.first()) {
            tracing::warn!("adapter '{name}' was active and is deleted; '{}' is active now", first.name);
            self.active.push(first.name.clone());
        }
        Ok(())
    }

    /// The model without its adapters until the returned guard is dropped; merged adapters are taken out of the weights
    /// for that time and put back.
    ///
    /// # Errors
    /// A merged weight is no longer there.
    pub fn disable_adapter(&mut self) -> Result<DisabledAdapter<'_, M>> {
        let was_enabled = std::mem::replace(&mut self.enabled, false);
        let mut guard = DisabledAdapter { model: self, was_enabled, merged: Vec::new() };
        guard.take_merged_out()?;
        Ok(guard)
    }
}

/// Each name once, in order.
pub(super) fn unique(names: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        if !all.iter().any(|known| known == name) {
            all.push(name.to_string());
        }
    }
    all
}

/// A [`PeftModel`] whose adapters do nothing for as long as this lives.
#[derive(Debug)]
pub struct DisabledAdapter<'a, M: BaseModel = PretrainedModel> {
    model: &'a mut PeftModel<M>,
    was_enabled: bool,
    /// The merged weights that wait to be put back.
    merged: Vec<(String, M::Kept)>,
}

impl<M: BaseModel> DisabledAdapter<'_, M> {
    fn take_merged_out(&mut self) -> Result<()> {
        for (layer, original) in self.model.kept.clone() {
            let merged = self.model.base.restore(&layer, original)?;
            self.merged.push((layer, merged));
        }
        Ok(())
    }
}

impl<M: BaseModel> Deref for DisabledAdapter<'_, M> {
    type Target = PeftModel<M>;

    fn deref(&self) -> &PeftModel<M> {
        self.model
    }
}

impl<M: BaseModel> Drop for DisabledAdapter<'_, M> {
    fn drop(&mut self) {
        for (layer, merged) in self.merged.drain(..) {
            // the layer was there a moment ago, and nothing can have changed it through a shared reference
            let _ = self.model.base.restore(&layer, merged);
        }
        self.model.enabled = self.was_enabled;
    }
}

impl<M: BaseModel> PeftModel<M> {
    /// The adapters that the sequences of a mixed batch name, each with its sequences; `None` is the base.
    pub(crate) fn groups(
        &self,
        names: &[&str],
        sequences: usize,
    ) -> Result<Vec<(Option<String>, Vec<usize>)>> {
        if names.len() != sequences {
            return Err(PeftError::MixedBatch { sequences, names: names.len() });
        }
        self.refuse_merged("a mixed batch")?;
        let mut groups: Vec<(Option<String>, Vec<usize>)> = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let key = if *name == BASE_ADAPTER { None } else { Some(self.adapter(name)?.name.clone()) };
            match groups.iter_mut().find(|(of, _)| *of == key) {
                Some((_, members)) => members.push(at),
                None => groups.push((key, vec![at])),
            }
        }
        Ok(groups)
    }
}
