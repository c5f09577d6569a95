//! Whether what is trained stays of a size that a model can use.
//!
//! A rate that is far too high moves rows and updates beyond anything a model has seen while every number stays finite: the
//! norms of the blocks swallow the size, and only the loss tells. A run that has come there does not come back.

use crate::error::{Error, Result};
use crate::peft::PeftModel;

/// How many times as large as at first a trained row may become. Rows that learn a token end within a few times; textual
/// inversion, which lets them grow, ends within fifty.
const MOST_TIMES: f64 = 1000.0;
/// What an update's factors are measured by at the least: `B` begins at 0, and `A` below 1.
const SIZE_OF_UPDATE: f64 = 1.0;

/// How large each parameter of a run is when it begins.
#[derive(Clone, Debug)]
pub(super) struct Sizes(Vec<f64>);

impl Sizes {
    /// Those of a model's parameters as they are; `typical` is the root mean square of the token matrix, since a row may begin
    /// at nothing.
    pub(super) fn of(model: &PeftModel, typical: f64) -> Self {
        let size = |parameter: &crate::peft::Parameter<'_>| {
            let least = if parameter.is_lora { SIZE_OF_UPDATE } else { typical };
            largest(parameter.values, width(model)).max(least)
        };
        Sizes(model.parameters().iter().map(size).collect())
    }

    /// Checks the parameters after a step.
    ///
    /// # Errors
    /// Some have grown without bound; the error names where, and by how much.
    pub(super) fn check(&self, model: &PeftModel) -> Result<()> {
        for (parameter, size) in model.parameters().iter().zip(&self.0) {
            let times = largest(parameter.values, width(model)) / size;
            if times > MOST_TIMES {
                let what = if parameter.is_lora { "the update" } else { "a trained row" };
                return Err(Error::Growth { what: format!("{what} of {}", parameter.layer), times });
            }
        }
        Ok(())
    }
}

fn width(model: &PeftModel) -> usize {
    model.base().embedding().width().max(1)
}

/// The largest root mean square of a row.
fn largest(values: &[f32], width: usize) -> f64 {
    let root_mean_square = |row: &[f32]| {
        let sum: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        (sum / row.len().max(1) as f64).sqrt()
    };
    values.chunks(width).map(root_mean_square).fold(0.0, f64::max)
}
