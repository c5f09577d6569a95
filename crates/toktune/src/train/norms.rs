//! How long trained rows are beside the vocabulary's, and what keeps them so.
//!
//! A row that outgrows its neighbours is what a rate that is too high looks like: in textual inversion learnt rows end at fifty
//! times the usual norm, and pre-norm transformers then hardly see what is added to them (directional textual inversion, arXiv
//! 2512.13672, keeps the norm and learns the direction).

use crate::peft::{PeftModel, matrix_of};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A row shorter than this share of the vocabulary's median row, or longer than `MOST` times that, is worth a word.
const LEAST: f64 = 0.5;
const MOST: f64 = 2.0;

/// What becomes of the norms of trained rows after each step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RowNorm {
    /// Nothing.
    #[default]
    Free,
    /// Rows longer than so many times the median of the vocabulary's rows are scaled back to that.
    Clamp(f64),
    /// Rows keep the norm that they started with.
    Fixed,
}

impl fmt::Display for RowNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowNorm::Free => f.write_str("free"),
            RowNorm::Clamp(most) => write!(f, "clamp:{most}"),
            RowNorm::Fixed => f.write_str("fixed"),
        }
    }
}

impl FromStr for RowNorm {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.strip_prefix("clamp:")) {
            ("free", _) => Ok(RowNorm::Free),
            ("fixed", _) => Ok(RowNorm::Fixed),
            (_, Some(most)) => match most.parse() {
                Ok(most) => Ok(RowNorm::Clamp(most)),
                Err(_) => Err(format!("'{most}' is no number")),
            },
            _ => Err("expected free, clamp:X or fixed".into()),
        }
    }
}

/// The norms of the trained rows, each over the median of the rows of its matrix that were trained before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Norms {
    /// That which half of the rows have at least.
    pub median: f64,
    /// The largest.
    pub largest: f64,
}

/// A row that has left the usual norms.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OddRow {
    /// Its layer.
    pub layer: String,
    /// Its token.
    pub token: u32,
    /// Its norm over the median of the vocabulary's rows.
    pub times: f64,
}

/// What a run knows of the norms of its rows.
#[derive(Clone, Debug)]
pub(super) struct NormWatch {
    /// Of each layer: the median norm of its matrix, and the norms that its rows start with.
    layers: Vec<(f64, Vec<f64>)>,
    /// Whether a row that has left the usual norms was told of.
    has_told: bool,
}

impl NormWatch {
    /// Of a model whose rows are as they start.
    pub(super) fn of(model: &PeftModel) -> Self {
        let of = |layer: &crate::peft::TrainableTokensLayer| {
            let rows = layer.rows();
            let starts = (0..rows.indices().len()).map(|at| rows.norm(at)).collect();
            (matrix_of(model.base(), layer).survey().median_norm(), starts)
        };
        NormWatch { layers: model.layers().iter().map(of).collect(), has_told: false }
    }

    /// The norms that the rows of each layer started with.
    pub(super) fn starts(&self) -> Vec<Vec<f64>> {
        self.layers.iter().map(|(_, starts)| starts.clone()).collect()
    }

    /// Takes those of the run that is resumed; others than there are rows are damage.
    pub(super) fn set_starts(&mut self, starts: &[Vec<f64>]) -> bool {
        let fits = starts.len() == self.layers.len()
            && starts.iter().zip(&self.layers).all(|(starts, (_, own))| starts.len() == own.len());
        if fits {
            self.layers.iter_mut().zip(starts).for_each(|((_, own), starts)| own.clone_from(starts));
        }
        fits
    }

    /// Does to the rows what `rule` says, a row at a time.
    pub(super) fn hold(&self, rule: RowNorm, model: &mut PeftModel) {
        if rule == RowNorm::Free {
            return;
        }
        for (layer, (median, starts)) in model.layers_mut().iter_mut().zip(&self.layers) {
            let rows = layer.rows_mut();
            let width = rows.width();
            for (at, start) in starts.iter().enumerate() {
                let norm = rows.norm(at);
                let wanted = match rule {
                    RowNorm::Clamp(most) if norm > most * median => most * median,
                    RowNorm::Fixed => *start,
                    _ => continue,
                };
                // of a row that has no direction there is nothing to scale, and one that started at nothing may grow
                if norm > 0.0 && wanted > 0.0 && norm.is_finite() {
                    let factor = wanted / norm;
                    let row = &mut rows.values[at * width..][..width];
                    row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
                }
            }
        }
    }

    /// Each row's norm over the median of its matrix, with the layer, the token and what that was at the start.
    fn times<'m>(&'m self, model: &'m PeftModel) -> impl Iterator<Item = (&'m str, u32, f64, f64)> {
        let layers = model.layers().iter().zip(&self.layers).filter(|(_, (median, _))| *median > 0.0);
        layers.flat_map(|(layer, (median, starts))| {
            let rows = layer.rows();
            let of = move |(at, id): (usize, &u32)| {
                (layer.name(), *id, rows.norm(at) / median, starts.get(at).copied().unwrap_or(0.0) / median)
            };
            rows.indices().iter().enumerate().map(of)
        })
    }

    /// The norms as they are; nothing without rows.
    pub(super) fn norms(&self, model: &PeftModel) -> Option<Norms> {
        let mut all: Vec<f64> = self.times(model).map(|(_, _, times, _)| times).collect();
        all.sort_unstable_by(f64::total_cmp);
        Some(Norms { median: *all.get(all.len() / 2)?, largest: *all.last()? })
    }

    /// The first row that has left the usual norms since the run began, once.
    pub(super) fn take_odd(&mut self, model: &PeftModel) -> Option<OddRow> {
        if self.has_told {
            return None;
        }
        let has_left =
            |times: f64, start: f64| (times > MOST && start <= MOST) || (times < LEAST && start >= LEAST);
        let odd = self.times(model).find(|(_, _, times, start)| has_left(*times, *start));
        let odd = odd.map(|(layer, token, times, _)| OddRow { layer: layer.to_owned(), token, times });
        self.has_told = odd.is_some();
        odd
    }
}
