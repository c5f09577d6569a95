//! What to train of a model, as the command line decides it: start rows, head rows of untied models, LoRA beside tokens,
//! precision.
//!
//! [`get_peft_model`] does what PEFT's does and no more. A [`Recipe`] adds what a run for new tokens needs besides: each row starts
//! from something of its own, tokens never start alike, and where the head is a matrix of its own its rows are trained too, or
//! added tokens could never be generated.

use crate::config::{
    LoraConfig, PeftConfig, TargetModules, TrainableTokenIndices, TrainableTokensConfig, check_tokens,
};
use crate::error::Result;
use crate::models::{PrecisionMode, PretrainedModel};
use crate::peft::PeftError;
use crate::peft::{PeftModel, RowInit, get_peft_model};
use std::collections::{BTreeMap, HashSet};

/// What to train of a model.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recipe {
    /// The tokens whose rows are trained.
    pub tokens: Vec<u32>,
    /// Those of them that the tokenizer did not have before: their rows mean nothing yet.
    pub added: Vec<u32>,
    /// The matrices whose rows are trained; where nothing is said the input embedding, and an untied head for added tokens.
    pub target_modules: Option<TargetModules>,
    /// What the rows start from; where nothing is said, those of added tokens from the mean and the others as they are.
    pub init: Option<RowInit>,
    /// What the rows of single tokens start from, whatever `init` says.
    pub inits: BTreeMap<u32, RowInit>,
    /// How far rows that would start alike are moved apart, as a share of the root mean square of their matrix's entries: normal
    /// numbers of this size are added to each of them. 0 leaves them alike; where nothing is said it is [`SPREAD`].
    pub spread: Option<f64>,
    /// LoRA beside the rows.
    pub lora: Option<LoraConfig>,
    /// How products with frozen weights are taken; where nothing is said, as the model takes them.
    pub precision: Option<PrecisionMode>,
    /// Of what is drawn by chance.
    pub seed: u64,
}

impl Recipe {
    /// Trains tokens that the model knows.
    pub fn new(tokens: impl Into<Vec<u32>>) -> Self {
        Self { tokens: tokens.into(), seed: SEED, ..Self::default() }
    }

    /// Trains tokens that were just added to the tokenizer, and that the model's embedding was resized for.
    pub fn for_added(tokens: impl Into<Vec<u32>>) -> Self {
        let tokens = tokens.into();
        Self { added: tokens.clone(), ..Self::new(tokens) }
    }

    /// The same with LoRA beside the rows.
    pub fn with_lora(self, lora: LoraConfig) -> Self {
        Self { lora: Some(lora), ..self }
    }

    /// Whether the rows of a head that is a matrix of its own are trained because nothing else was said: added tokens could never
    /// be generated otherwise.
    pub fn trains_untied_head(&self, base: &PretrainedModel) -> bool {
        let untied = base.has_head() && !base.is_tied();
        untied && self.target_modules.is_none() && !self.added.is_empty()
    }

    /// Wraps a model with a fresh adapter that trains this.
    ///
    /// # Errors
    /// A token has no row, or is named twice; the targets match nothing; there is nothing to train.
    pub fn apply(self, mut base: PretrainedModel) -> Result<PeftModel> {
        if self.lora.is_none() || !self.tokens.is_empty() {
            check_tokens(&self.tokens, base.vocabulary())?;
        }
        if let Some(mode) = self.precision {
            base.set_precision(mode);
        }
        let mut config = self.config(&base)?;
        config.common_mut().seed = self.seed;
        let starts = self.starts(&base)?;
        let mut model = get_peft_model(base, config)?;
        model.start_rows(&starts);
        if let spread @ f64::MIN_POSITIVE.. = self.spread.unwrap_or(SPREAD) {
            model.spread_rows(spread, self.seed);
        }
        Ok(model)
    }

    /// What the row of one of the tokens starts from.
    fn start(&self, token: u32, is_added: bool) -> RowInit {
        let of_all = if is_added { RowInit::Mean } else { RowInit::Base };
        self.inits.get(&token).or(self.init.as_ref()).cloned().unwrap_or(of_all)
    }

    /// What each row starts from, all of it there.
    fn starts(&self, base: &PretrainedModel) -> Result<Vec<(u32, RowInit)>> {
        let [tokens, added] = [&self.tokens, &self.added].map(|ids| ids.iter().collect::<HashSet<_>>());
        if let Some(&token) = self.inits.keys().find(|id| !tokens.contains(id)) {
            return Err(PeftError::StartOfOther { token }.into());
        }
        let rows = base.vocabulary().min(base.head().rows());
        let mut starts = Vec::with_capacity(self.tokens.len());
        for &token in &self.tokens {
            let start = self.start(token, added.contains(&token));
            let (rule, sources) = (start.name(), start.sources());
            let is_made_of = !matches!(start, RowInit::Base | RowInit::Mean | RowInit::Random { .. });
            if is_made_of && sources.is_empty() {
                return Err(PeftError::StartOfNothing { token, rule }.into());
            }
            if let Some(&from) = sources.iter().find(|id| **id as usize >= rows) {
                return Err(PeftError::StartFromNoRow { token, rule, from, rows }.into());
            }
            if let Some(&from) = sources.iter().find(|id| added.contains(id)) {
                return Err(PeftError::StartFromAdded { token, rule, from }.into());
            }
            starts.push((token, start));
        }
        Ok(starts)
    }

    /// The adapter's configuration.
    fn config(&self, base: &PretrainedModel) -> Result<PeftConfig> {
        let target_modules = match &self.target_modules {
            Some(target) => Some(own_matrices(target.clone(), base)?),
            None if self.trains_untied_head(base) => Some(TargetModules::Names(
                [base.embedding_name(), base.head_name()].map(String::from).to_vec(),
            )),
            None => None,
        };
        Ok(match &self.lora {
            None => {
                TrainableTokensConfig { target_modules, ..TrainableTokensConfig::new(self.tokens.clone()) }
                    .into()
            }
            Some(lora) => {
                let trainable_token_indices = self.beside_lora(base, target_modules)?;
                LoraConfig { trainable_token_indices, ..lora.clone() }.into()
            }
        })
    }

    /// The tokens beside LoRA: of the input embedding, or of the matrices that are meant.
    fn beside_lora(
        &self,
        base: &PretrainedModel,
        target: Option<TargetModules>,
    ) -> Result<Option<TrainableTokenIndices>> {
        let Some(target) = target.filter(|_| !self.tokens.is_empty()) else {
            let tokens = (!self.tokens.is_empty()).then(|| self.tokens.clone());
            return Ok(tokens.map(TrainableTokenIndices::Tokens));
        };
        let names = base.module_names();
        let found = target.matching(&names)?;
        if found.is_empty() {
            let matrices = [base.embedding_name(), base.head_name()].map(String::from).to_vec();
            return Err(PeftError::NoTarget { target: target.to_string(), matrices }.into());
        }
        let map = found.into_iter().map(|name| (name.to_string(), self.tokens.clone())).collect();
        Ok(Some(TrainableTokenIndices::ByLayer(map)))
    }
}

/// How far rows that would start alike are moved apart where nothing is said, as a share of the root mean square of the matrix's
/// entries: a third of what the first step of a run at the default rate moves them by.
pub const SPREAD: f64 = 0.01;

/// The seed of a run that names none.
const SEED: u64 = 42;

/// The target without a head that is tied to an embedding in it: the head follows anyway, and PEFT cannot run a model
/// with both.
fn own_matrices(target: TargetModules, base: &PretrainedModel) -> Result<TargetModules> {
    let names = [base.embedding_name(), base.head_name()].map(String::from);
    Ok(match target.matching(&names)?.len() {
        2 if base.is_tied() => TargetModules::Names(vec![base.embedding_name().into()]),
        _ => target,
    })
}
