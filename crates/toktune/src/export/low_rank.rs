//! An adapter as low-rank updates of its base, which is all that most programs know.
//!
//! A row that replaces another is the update `B A` of rank 1 with a one-hot factor: at the embedding `A` picks the token and
//! `B` is the difference of the two rows, at the head it is the other way round. Nothing is approximated.
//!
//! All updates get one rank (the largest, the others are filled up with zeros) and the factor 1 (their own is in `B`):
//! programs read both from one place, and few know a rank of each layer's own.

use super::base_rows::{BaseRows, check_other_rows};
use super::error::{ExportError, Result};
use super::factor::Factor;
use crate::models::TokenMatrix;
use crate::peft::{LoraLayer, PeftModel, TrainableTokensLayer};
use crate::weights::{RowOrder, TensorHeader, TensorOut, WeightType};

/// An adapter as updates of one rank, whose scaling is 1.
pub(super) struct LowRank<'a> {
    /// The rank of every update.
    pub(super) rank: usize,
    /// Token matrices first.
    pub(super) updates: Vec<Update<'a>>,
}

/// The update of one module.
pub(super) enum Update<'a> {
    /// Rows of the input embedding.
    Embedding(RowUpdate<'a>),
    /// Rows of the head.
    Head(RowUpdate<'a>),
    /// A linear layer, and how the rows of its weight lie in the base's file.
    Linear(&'a LoraLayer, RowOrder),
}

/// Rows of a token matrix that are replaced.
pub(super) struct RowUpdate<'a> {
    module: &'a str,
    tokens: &'a [u32],
    /// New rows less old ones, `[tokens, width]`.
    differences: Vec<f32>,
    width: usize,
    /// Rows of the matrix.
    rows: usize,
}

/// Who reads the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// PEFT: an embedding's `A` is `[rank, tokens]`.
    Peft,
    /// llama.cpp: an embedding's `A` is `[tokens, rank]`, since it looks rows up in it, and the rows of a linear layer's `B` lie
    /// as those of its weight do.
    Gguf,
}

impl<'a> LowRank<'a> {
    /// The updates that the active adapter makes of the base in its files.
    ///
    /// # Errors
    /// Not exactly one adapter is active, or it brings more than rows and LoRA; rows that are not trained are not the base's;
    /// the model reads its matrix through several modules.
    pub(super) fn of(model: &'a PeftModel) -> Result<Self> {
        let (base, adapter) = (model.base(), model.trained_adapter()?);
        check_other_rows(model)?;
        if base.embedding_modules().count() > 1 && !adapter.layers().is_empty() {
            let modules = base.embedding_modules().map(String::from).collect();
            return Err(ExportError::SeveralEmbeddings { modules });
        }
        let mut updates = Vec::new();
        for layer in adapter.layers() {
            for module in layer.modules() {
                updates.push(match module == base.head_name() {
                    true => Update::Head(RowUpdate::new(model, module, layer, base.head())?),
                    false => Update::Embedding(RowUpdate::new(model, module, layer, base.embedding())?),
                });
            }
        }
        updates.extend(adapter.lora_layers().iter().map(|layer| {
            let order = base.linear(layer.name()).map_or(RowOrder::Plain, |linear| linear.weight.order());
            Update::Linear(layer, order)
        }));
        let rank = updates.iter().map(Update::own_rank).max().unwrap_or(0);
        Ok(Self { rank, updates })
    }

    /// What a file's header says of the factors, which `keys` names: first `A`, then `B` of each update.
    pub(super) fn headers(
        &self,
        layout: Layout,
        keys: impl Fn(&Update<'_>) -> [String; 2],
    ) -> Vec<TensorHeader> {
        let header = |(name, factor): (String, Factor)| TensorHeader {
            name,
            dtype: WeightType::F32.name().into(),
            shape: factor.shape().to_vec(),
            bytes: factor.bytes(),
        };
        let of = |update: &Update<'_>| {
            keys(update).into_iter().zip(update.factors(self.rank, layout)).map(header).collect::<Vec<_>>()
        };
        self.updates.iter().flat_map(of).collect()
    }

    /// Writes the factor of this number. They are made when it is their turn: those of a large LoRA are not all held at once.
    pub(super) fn write(&self, layout: Layout, number: usize, out: &mut TensorOut<'_>) -> Result<()> {
        let Some(update) = self.updates.get(number / 2) else { return Ok(()) };
        update.factors(self.rank, layout)[number % 2].write(out)
    }
}

impl<'a> RowUpdate<'a> {
    fn new(
        model: &PeftModel,
        module: &'a str,
        layer: &'a TrainableTokensLayer,
        matrix: &TokenMatrix,
    ) -> Result<Self> {
        let base = BaseRows::of(model.base(), matrix)?;
        let trained = layer.rows();
        let rows = trained.indices().iter().enumerate();
        let differences = rows.flat_map(|(at, &token)| {
            let (new, old) = (trained.row(at), base.row(token));
            new.iter().zip(old).map(|(new, old)| new - old).collect::<Vec<f32>>()
        });
        let differences = differences.collect();
        Ok(Self {
            module,
            tokens: trained.indices(),
            differences,
            width: trained.width(),
            rows: matrix.rows(),
        })
    }

    /// Each token with its number.
    fn numbered(&self) -> impl Iterator<Item = (usize, usize)> {
        self.tokens.iter().map(|token| *token as usize).enumerate()
    }

    /// Of the row of the token of this number; beyond the tokens there are zeros.
    fn difference(&self, token: usize, col: usize) -> f32 {
        self.differences.get(token * self.width + col).copied().unwrap_or(0.0)
    }
}

impl Update<'_> {
    fn own_rank(&self) -> usize {
        match self {
            Update::Embedding(rows) | Update::Head(rows) => rows.tokens.len(),
            Update::Linear(layer, _) => layer.r(),
        }
    }

    /// The module, as transformers names it.
    pub(super) fn module(&self) -> &str {
        match self {
            Update::Embedding(rows) | Update::Head(rows) => rows.module,
            Update::Linear(layer, _) => layer.name(),
        }
    }

    /// `A` and `B` of this rank.
    fn factors(&self, rank: usize, layout: Layout) -> [Factor; 2] {
        match self {
            Update::Embedding(rows) => {
                let a = match layout {
                    Layout::Peft => Factor::one_hot([rank, rows.rows], rows.numbered()),
                    Layout::Gguf => Factor::one_hot(
                        [rows.rows, rank],
                        rows.numbered().map(|(number, token)| (token, number)),
                    ),
                };
                [a, Factor::dense([rows.width, rank], |col, token| rows.difference(token, col))]
            }
            Update::Head(rows) => {
                let ones = rows.numbered().map(|(number, token)| (token, number));
                let a = Factor::dense([rank, rows.width], |token, col| rows.difference(token, col));
                [a, Factor::one_hot([rows.rows, rank], ones)]
            }
            Update::Linear(layer, order) => {
                let (r, inputs, scaling) = (layer.r(), layer.inputs(), layer.scaling());
                let a = |row: usize, col: usize| layer.a.get(row * inputs + col).copied().unwrap_or(0.0);
                let b = |row: usize, col: usize| if col < r { layer.b[row * r + col] * scaling } else { 0.0 };
                let b = Factor::dense([layer.outputs(), rank], b);
                let b = if layout == Layout::Gguf { b.with_rows_at(|row| order.stored(row)) } else { b };
                [Factor::dense([rank, inputs], a), b]
            }
        }
    }
}
