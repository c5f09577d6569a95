//! What a run is made of, so far as its steps depend on it: written into checkpoints, and compared when one goes on.

use super::arguments::TrainingArguments;
use super::callback::ChangedSetting;
use super::norms::RowNorm;
use super::preference::Reference;
use super::schedule::{LrScheduler, Schedule};
use crate::config::PeftConfig;
use crate::data::{Collator, Dataset};
use crate::distill::Teacher;
use crate::engine::objective::DistillationWeights;
use crate::error::Result;
use crate::peft::PeftModel;
use crate::text::AutoTokenizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings by their names, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings(BTreeMap<String, String>);

/// What the settings of a run are read off.
pub(super) struct RunParts<'r> {
    pub(super) arguments: &'r TrainingArguments,
    pub(super) model: &'r PeftModel,
    pub(super) data: &'r Dataset,
    pub(super) tokenizer: Option<&'r AutoTokenizer>,
    pub(super) schedule: &'r Schedule,
    pub(super) lora_schedule: &'r Schedule,
    /// Whether rows that begin alike are brought together.
    pub(super) shares_prefixes: bool,
    pub(super) teacher: Option<&'r Teacher>,
    /// What two answers to one prompt are compared with.
    pub(super) reference: Option<&'r Reference>,
}

impl Settings {
    /// The settings of a run. The model's tensors are read once for it.
    ///
    /// # Errors
    /// The adapter's configuration cannot be written down.
    pub(super) fn of(run: &RunParts<'_>) -> Result<Self> {
        let mut all = BTreeMap::new();
        let mut put = |name: &str, value: String| drop(all.insert(name.to_owned(), value));
        let RunParts { arguments, model, data, schedule, .. } = run;
        put("seed", arguments.seed.to_string());
        put("shuffle", arguments.shuffle.to_string());
        if run.shares_prefixes {
            put("share_prefixes", "true".to_owned());
        }
        if let Some(DistillationWeights { mse, kl, ce }) = run.teacher.map(Teacher::weights) {
            put("distillation", format!("mse {mse}, kl {kl}, ce {ce}"));
        }
        if let Some(reference) = run.reference {
            let dpo = reference.config();
            put("beta", dpo.beta.to_string());
            put("loss_type", dpo.loss_type.name().to_owned());
            put("label_smoothing", dpo.label_smoothing.to_string());
            put("reference (hash of the rows that the run began with)", reference.fingerprint());
        }
        put("batch_size", arguments.per_device_train_batch_size.to_string());
        put("gradient_accumulation_steps", arguments.gradient_accumulation_steps.to_string());
        put("weight_decay", arguments.weight_decay.to_string());
        put("max_grad_norm", arguments.max_grad_norm.to_string());
        if arguments.norm != RowNorm::Free {
            put("norm", arguments.norm.to_string());
        }
        put("learning_rate", schedule.learning_rate.to_string());
        if !model.lora_layers().is_empty() {
            put("lora_learning_rate", run.lora_schedule.learning_rate.to_string());
        }
        put("lr_scheduler", schedule.kind.name().to_owned());
        put("warmup_steps", schedule.warmup_steps.to_string());
        // a constant rate does not know where it ends, so that steps can be added to it
        if schedule.kind != LrScheduler::Constant {
            put("total steps", schedule.total_steps.to_string());
        }
        put("precision", if model.base().uses_bf16() { "bf16" } else { "f32" }.to_owned());
        put("rows of data", data.rows().to_string());
        put("tokens of data", data.tokens().to_string());
        put("labels of data", data.label_tokens().to_string());
        put("data (hash of the encoded rows)", data.fingerprint());
        data.options().iter().for_each(|(name, value)| put(name, value.clone()));
        if let Collator::MaskedLm(masking) = data.collator() {
            put("mlm_probability", masking.probability.to_string());
        }
        put("model (hash of its tensors)", model.base().checkpoint().fingerprint());
        let spelled = model.token_indices().into_iter().map(|id| {
            let token = run.tokenizer.and_then(|tokenizer| tokenizer.id_to_token(id));
            token.map_or(id.to_string(), |token| format!("{token} ({id})"))
        });
        put("tokens", spelled.collect::<Vec<_>>().join(", "));
        if let Some(config) = model.active_config() {
            put("adapter", adapter(config)?);
        }
        Ok(Settings(all))
    }

    /// Every setting that is another one `now`, in the order of their names.
    pub(super) fn changes(&self, now: &Self) -> Vec<ChangedSetting> {
        let names: std::collections::BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        let of =
            |settings: &Self, name: &String| settings.0.get(name).cloned().unwrap_or("nothing".to_owned());
        names
            .into_iter()
            .map(|name| ChangedSetting { name: name.clone(), was: of(self, name), is: of(now, name) })
            .filter(|setting| setting.was != setting.is)
            .collect()
    }
}

/// An adapter's configuration, but for where its base lies.
fn adapter(config: &PeftConfig) -> Result<String> {
    let mut config = config.clone();
    config.common_mut().base_model_name_or_path = None;
    Ok(config.to_json()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            Settings(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        let then = of(&[("seed", "1"), ("shuffle", "true"), ("total steps", "9")]);
        assert!(then.changes(&then).is_empty());
        let changes = then.changes(&of(&[("seed", "2"), ("shuffle", "true"), ("adapter", "x")]));
        let told: Vec<(&str, &str, &str)> =
            changes.iter().map(|c| (c.name.as_str(), c.was.as_str(), c.is.as_str())).collect();
        assert_eq!(told, [("adapter", "nothing", "x"), ("seed", "1", "2"), ("total steps", "9", "nothing")]);
    }
}
