//! Rows of data: from files, or one by one from Python.

use crate::errors::{argument, raise};
use crate::model::Model;
use crate::tokenizer::{Tokenizer, cloned};
use crate::values::{fields, parsed, written};
use pyo3::prelude::*;
use pyo3::types::PyIterator;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use toktune::data::{Collator, DataOptions, DataSource, LossOn, RowKeys};

/// Rows that are read and encoded.
#[pyclass(frozen, module = "toktune._toktune")]
pub struct Dataset {
    pub(crate) inner: toktune::Dataset,
}

/// How rows are read.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    max_length: Option<usize>,
    loss_on: Option<String>,
    text_key: Option<String>,
    prompt_key: Option<String>,
    completion_key: Option<String>,
    /// The share of tokens that are hidden in a row of a masked language model; none where rows bring their own labels.
    mlm_probability: Option<f64>,
    seed: Option<u64>,
}

fn options(
    py: Python<'_>,
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    json: &str,
) -> PyResult<DataOptions> {
    let given: Options = parsed("the options of the data", json)?;
    let mut options = model.look(py, |seen| {
        let of = |tokenizer: Option<&toktune::AutoTokenizer>| {
            let mut options = DataOptions::for_model(seen.base(), tokenizer);
            if let Some(seed) = given.seed {
                options.collator = Collator::of(seen.base(), tokenizer, seed);
            }
            options
        };
        Ok(match tokenizer {
            Some(tokenizer) => tokenizer.with(py, |inner| of(Some(inner))),
            None => of(None),
        })
    })?;
    options.max_length = given.max_length.or(options.max_length);
    options.loss_on = match given.loss_on.as_deref() {
        None => None,
        Some("all") => Some(LossOn::All),
        Some("completion") => Some(LossOn::Completion),
        Some(other) => return Err(argument("loss_on", "all or completion", other)),
    };
    options.keys =
        RowKeys { text: given.text_key, prompt: given.prompt_key, completion: given.completion_key };
    if let (Some(share), Collator::MaskedLm(masking)) = (given.mlm_probability, &mut options.collator) {
        masking.probability = share;
    }
    Ok(options)
}

/// Rows that a Python iterator gives. The first exception ends them.
struct Rows<'py> {
    iterator: Bound<'py, PyIterator>,
    /// Keys that are called otherwise than usual.
    named: Vec<String>,
    fault: Option<PyErr>,
}

/// The keys that rows are read by, whatever form they have.
const READ: [&str; 25] = [
    "input_ids",
    "labels",
    "attention_mask",
    "completion_mask",
    "assistant_masks",
    "loss_weights",
    "loss_weight",
    "messages",
    "conversations",
    "tools",
    "documents",
    "chat_template_kwargs",
    "system",
    "history",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "anchor",
    "positive",
    "chosen",
    "rejected",
    "text",
    "prompt_ids",
];

impl Iterator for &mut Rows<'_> {
    type Item = Map<String, Value>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.fault.is_some() {
            return None;
        }
        match self.iterator.next()?.and_then(|row| {
            fields(&row, &|key| {
                READ.contains(&key) || key.ends_with("_ids") || self.named.iter().any(|named| named == key)
            })
        }) {
            Ok(row) => Some(row),
            Err(error) => {
                self.fault = Some(error);
                None
            }
        }
    }
}

#[pymethods]
impl Dataset {
    /// Reads files and folders for a model.
    #[staticmethod]
    fn read(
        py: Python<'_>,
        model: &Model,
        sources: Vec<String>,
        tokenizer: Option<&Tokenizer>,
        options: &str,
    ) -> PyResult<Self> {
        let options = self::options(py, model, tokenizer, options)?;
        let tokenizer = cloned(py, tokenizer);
        let read = || {
            let parsed = sources.iter().map(|source| DataSource::parse(source));
            let parsed = parsed.collect::<std::result::Result<Vec<_>, _>>()?;
            Ok::<_, toktune::Error>(toktune::Dataset::read(&parsed, tokenizer.as_ref(), &options)?)
        };
        py.detach(read).map(|inner| Self { inner }).map_err(raise)
    }

    /// Encodes rows, each a mapping as a line of a JSONL file would be, one after the other as the iterable gives them.
    #[staticmethod]
    fn from_rows(
        py: Python<'_>,
        model: &Model,
        rows: &Bound<'_, PyAny>,
        tokenizer: Option<&Tokenizer>,
        options: &str,
    ) -> PyResult<Self> {
        let options = self::options(py, model, tokenizer, options)?;
        let tokenizer = cloned(py, tokenizer);
        let keys = &options.keys;
        let named = [&keys.text, &keys.prompt, &keys.completion].into_iter().flatten().cloned().collect();
        let mut rows = Rows { iterator: rows.try_iter()?, named, fault: None };
        let read = toktune::Dataset::from_rows(&mut rows, tokenizer.as_ref(), &options);
        match rows.fault {
            Some(fault) => Err(fault),
            None => read.map(|inner| Self { inner }).map_err(raise),
        }
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// An example as it is learnt: its ids, its labels with -100 where nothing is learnt, the second sequence of a pair.
    fn example(&self, index: usize) -> PyResult<(Vec<u32>, Vec<i64>, Vec<u32>)> {
        let example = self.inner.example(index).map_err(raise)?;
        let labels = example.labels.iter().map(|label| label.map_or(-100, i64::from)).collect();
        Ok((example.input_ids, labels, example.second))
    }

    /// What there is, as JSON; `tokens` are counted in it.
    fn describe(&self, tokens: Vec<u32>) -> PyResult<String> {
        let uses = self.inner.uses(&tokens);
        let uses: Vec<Value> = uses
            .iter()
            .map(|of| json!({"id": of.id, "inputs": of.inputs, "labels": of.labels, "cut": of.cut}))
            .collect();
        written(&json!({
            "rows": self.inner.rows(),
            "examples": self.inner.len(),
            "examples_per_epoch": self.inner.examples_per_epoch(),
            "tokens": self.inner.tokens(),
            "labels": self.inner.label_tokens(),
            "cut_rows": self.inner.cut_rows(),
            "rows_without_labels": self.inner.rows_without_labels(),
            "is_preference": self.inner.is_preference(),
            "uses": uses,
        }))
    }
}
