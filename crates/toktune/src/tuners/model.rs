//! A frozen model with an adapter of trained token rows.

use super::layer::TrainableTokensLayer;
use crate::config::{TargetModules, TrainableTokensConfig};
use crate::error::{Error, Result};
use crate::models::{CausalLm, TokenMatrix, TrainedRows};
use crate::random::Random;
use std::io::Write;

/// A frozen model and the rows that are trained over it.
#[derive(Debug)]
pub struct PeftModel {
    base: CausalLm,
    config: TrainableTokensConfig,
    layers: Vec<TrainableTokensLayer>,
}

/// The trained rows that a forward pass uses, by where they act.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActiveRows<'a> {
    layers: &'a [TrainableTokensLayer],
    /// Which layer replaces rows of the input embedding.
    pub input: Option<usize>,
    /// Which layer replaces rows of the head; the same one when they are tied.
    pub output: Option<usize>,
}

impl<'a> ActiveRows<'a> {
    /// The rows over the input embedding.
    pub fn input_rows(&self) -> Option<&'a TrainedRows> {
        self.input.map(|at| self.layers[at].rows())
    }

    /// The rows over the head.
    pub fn output_rows(&self) -> Option<&'a TrainedRows> {
        self.output.map(|at| self.layers[at].rows())
    }

    /// Zeros in the shape of every layer's rows.
    pub fn zero_gradients(&self) -> Vec<Vec<f32>> {
        self.layers.iter().map(|layer| vec![0f32; layer.rows().values.len()]).collect()
    }
}

/// What the rows of chosen tokens start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowInit {
    /// The rows as they are.
    Base,
    /// The mean of the frozen rows of the matrix.
    Mean,
    /// Normal numbers with the root mean square of the matrix's entries.
    Random {
        /// Of the generator.
        seed: u64,
    },
}

/// Wraps `base` so that the rows of the tokens in `config` can be trained, and nothing else.
///
/// # Errors
/// There is no token, or one is out of range or repeated; the target matches no module, or a module that is neither an
/// embedding nor an output head; it names the head of a model whose head is its embedding.
pub fn get_peft_model(base: CausalLm, config: TrainableTokensConfig) -> Result<PeftModel> {
    PeftModel::new(base, config)
}

impl PeftModel {
    fn new(base: CausalLm, mut config: TrainableTokensConfig) -> Result<Self> {
        config.check_tokens(base.vocabulary())?;
        let names = base.module_names();
        let (embedding, head) = (base.family().names.embed, base.family().names.head);
        // PEFT looks the input embedding up in the model and stores its full name
        let target = config.target_modules.get_or_insert_with(|| TargetModules::Pattern(embedding.into()));
        let found = target.matching(&names)?;
        let matrices = || [embedding, head].map(str::to_string).to_vec();
        if found.is_empty() {
            return Err(Error::NoTarget { target: target.to_string(), matrices: matrices() });
        }
        if let Some(other) = found.iter().find(|name| **name != embedding && **name != head) {
            return Err(Error::NotATokenMatrix { module: other.to_string(), matrices: matrices() });
        }
        if base.is_tied() && !found.contains(&embedding) {
            return Err(Error::TiedHead { head: head.to_string(), embedding: embedding.to_string() });
        }
        let tokens = &config.token_indices;
        let layer = |name: &str, tied: Vec<String>, matrix: &TokenMatrix| {
            let values = match config.init_weights {
                true => matrix.gather(tokens),
                false => normal(tokens.len() * matrix.width(), 1.0, 0),
            };
            TrainableTokensLayer::new(
                name.into(),
                tied,
                TrainedRows::new(tokens.clone(), matrix.width(), values),
            )
        };
        let mut layers = Vec::new();
        if found.contains(&embedding) {
            let tied = if base.is_tied() { vec![head.to_string()] } else { vec![] };
            layers.push(layer(embedding, tied, base.embedding()));
        }
        if found.contains(&head) && !base.is_tied() {
            layers.push(layer(head, vec![], base.head()));
        }
        Ok(Self { base, config, layers })
    }

    /// The frozen model.
    pub fn base(&self) -> &CausalLm {
        &self.base
    }

    /// The configuration, with the target filled in.
    pub fn config(&self) -> &TrainableTokensConfig {
        &self.config
    }

    /// The configuration, to fill in what a file should say.
    pub fn config_mut(&mut self) -> &mut TrainableTokensConfig {
        &mut self.config
    }

    /// The wrapped modules.
    pub fn layers(&self) -> &[TrainableTokensLayer] {
        &self.layers
    }

    /// The wrapped modules, to be changed by an optimizer.
    pub fn layers_mut(&mut self) -> &mut [TrainableTokensLayer] {
        &mut self.layers
    }

    /// The trained rows by where they act.
    pub fn active(&self) -> ActiveRows<'_> {
        let acting_on =
            |module: &str| self.layers.iter().position(|layer| layer.modules().any(|m| m == module));
        ActiveRows {
            layers: &self.layers,
            input: acting_on(self.base.family().names.embed),
            output: acting_on(self.base.family().names.head),
        }
    }

    /// Starts the rows of `tokens`, those of them that are trained, anew.
    pub fn init_rows(&mut self, tokens: &[u32], init: RowInit) {
        for layer in &mut self.layers {
            let matrix = if layer.name() == self.base.family().names.embed {
                self.base.embedding()
            } else {
                self.base.head()
            };
            let width = matrix.width();
            let statistics = (init != RowInit::Base).then(|| matrix.statistics());
            let rows = layer.rows_mut();
            for (i, &token) in tokens.iter().enumerate() {
                let Some(at) = rows.position(token) else { continue };
                let start = match (init, &statistics) {
                    (RowInit::Mean, Some((mean, _))) => mean.clone(),
                    (RowInit::Random { seed }, Some((_, rms))) => {
                        normal(width, *rms, seed.wrapping_add(i as u64))
                    }
                    _ => matrix.gather(&[token]),
                };
                rows.values[at * width..][..width].copy_from_slice(&start);
            }
        }
    }

    /// Trainable numbers, and all numbers of the model with them.
    pub fn parameter_counts(&self) -> (u64, u64) {
        let trainable = self.layers.iter().map(|layer| layer.rows().values.len() as u64).sum();
        (trainable, self.base.num_parameters() + trainable)
    }

    /// Writes PEFT's line `trainable params: … || all params: … || trainable%: …`.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn print_trainable_parameters(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (trainable, all) = self.parameter_counts();
        let percent = 100.0 * trainable as f64 / all as f64;
        writeln!(
            out,
            "trainable params: {} || all params: {} || trainable%: {percent:.4}",
            grouped(trainable),
            grouped(all)
        )
    }

    /// Gives the model back without the adapter.
    pub fn unload(self) -> CausalLm {
        self.base
    }
}

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Normal numbers with standard deviation `std`, the same for the same seed.
fn normal(n: usize, std: f32, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal() as f32 * std).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_as_peft_prints_them() {
        assert_eq!([0, 999, 1728, 134_516_736].map(grouped), ["0", "999", "1,728", "134,516,736"]);
    }
}
