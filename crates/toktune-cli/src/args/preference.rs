//! The flags of two answers to one prompt, with TRL's names.

use super::values::dpo_loss;
use clap::Args;
use toktune::data::Dataset;
use toktune::train::{DpoConfig, DpoLoss};

/// How two answers are learnt.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Preference data (rows with `chosen` and `rejected`)")]
pub struct PreferenceArgs {
    /// How much log-probabilities above the reference's count: a smaller one lets the model go further from it [default: 0.1]
    #[arg(long, value_name = "X")]
    pub beta: Option<f64>,
    /// The loss of a pair: DPO's (sigmoid), or one of the anchored forms, where chosen answers are better (apo_zero) or worse
    /// (apo_down) than the model's own [default: sigmoid]
    #[arg(long, value_name = "sigmoid|apo_zero|apo_down", value_parser = dpo_loss(), hide_possible_values = true)]
    pub loss_type: Option<DpoLoss>,
    /// The share of pairs that are taken to be the wrong way round; of sigmoid alone [default: 0]
    #[arg(long, value_name = "X")]
    pub label_smoothing: Option<f64>,
}

impl PreferenceArgs {
    /// The library's settings.
    pub fn config(&self) -> DpoConfig {
        let mut config = DpoConfig::default();
        config.beta = self.beta.unwrap_or(config.beta);
        config.loss_type = self.loss_type.unwrap_or(config.loss_type);
        config.label_smoothing = self.label_smoothing.unwrap_or(config.label_smoothing);
        config
    }

    /// Refuses the flags where the data are of another kind.
    pub fn check(&self, data: &Dataset) -> Result<(), String> {
        let given = [
            ("--beta", self.beta.is_some()),
            ("--loss-type", self.loss_type.is_some()),
            ("--label-smoothing", self.label_smoothing.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given && !data.is_preference()) {
            Some((flag, _)) => {
                Err(format!("{flag}: the rows have no `chosen` and `rejected`, between which it decides"))
            }
            None => Ok(()),
        }
    }
}
