//! Adapters on the committed models and on small ones made here. `docs/peft-mapping.md` says which of PEFT's own tests
//! each of these answers.

mod adapters;
mod files;
mod merging;
mod targets;
mod tying;
mod whole;

use super::*;
use crate::config::{LoraConfig, PeftConfig, TargetModules, TrainableTokenIndices, TrainableTokensConfig};
use crate::models::{AutoModelForCausalLM, PretrainedModel};
use crate::models::{Device, TrainedRows};
use crate::random::Random;
use crate::weights::FrozenMatrix;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn base(name: &str) -> PretrainedModel {
    AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model")
}

/// The embedded rows of some tokens, before positions: what the input embedding gives, with its scale.
fn embedded(model: &PeftModel, ids: &[u32]) -> Vec<f32> {
    let (base, rows) = (model.base(), model.active().input_rows());
    let scale = base.embedding_scale();
    let mut x = base.embedding().gather(ids);
    for (x, &id) in x.chunks_exact_mut(base.embedding().width()).zip(ids) {
        if let Some(at) = rows.and_then(|rows| rows.position(id)) {
            x.copy_from_slice(rows.expect("rows").row(at));
        }
        x.iter_mut().for_each(|x| *x *= scale);
    }
    x
}

fn names(list: &[&str]) -> Option<TargetModules> {
    Some(TargetModules::Names(list.iter().map(|name| name.to_string()).collect()))
}

fn tokens(ids: &[u32]) -> TrainableTokensConfig {
    TrainableTokensConfig::new(ids)
}

/// LoRA on the query projections with tokens of the embedding.
fn lora(ids: &[u32]) -> LoraConfig {
    LoraConfig {
        r: 4,
        target_modules: names(&["q_proj"]),
        trainable_token_indices: Some(TrainableTokenIndices::Tokens(ids.to_vec())),
        ..LoraConfig::default()
    }
}

fn by_layer(layers: &[(&str, &[u32])]) -> Option<TrainableTokenIndices> {
    let map = layers.iter().map(|(name, ids)| (name.to_string(), ids.to_vec())).collect();
    Some(TrainableTokenIndices::ByLayer(map))
}

/// Gives every value of an adapter a random one, as training would.
fn train<M: BaseModel>(model: &mut PeftModel<M>, name: &str, seed: u64) {
    let mut random = Random::new(seed);
    let mut shake =
        |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x += 0.3 * random.normal() as f32);
    let adapter = model.adapter_mut(name).expect("an adapter");
    for layer in &mut adapter.tokens {
        shake(&mut layer.rows_mut().values);
    }
    for layer in &mut adapter.lora {
        shake(&mut layer.a);
        shake(&mut layer.b);
    }
}

/// The logits of one text, all of them.
fn logits(model: &PeftModel, ids: &[u32]) -> Vec<f32> {
    model.forward(&[ids], None).expect("logits").remove(0)
}

fn base_logits(model: PretrainedModel, ids: &[u32]) -> Vec<f32> {
    logits(&PeftModel::without_adapter(model), ids)
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A base with any layers: rows are numbered, so that a wrong one is seen.
#[derive(Clone, Debug, Default)]
struct Toy {
    layers: Vec<(NamedLayer, Vec<f32>)>,
    input: Option<String>,
    tied: Vec<TiedLayer>,
}

impl Toy {
    fn layer(mut self, name: &str, kind: LayerKind, rows: usize, cols: usize) -> Self {
        let mut random = Random::new(self.layers.len() as u64);
        let values: Vec<f32> = (0..rows * cols).map(|_| random.normal() as f32).collect();
        self.layers.push((NamedLayer { name: name.into(), kind, rows, cols }, values));
        self
    }

    fn tie(mut self, name: &str, kind: LayerKind, source: &str) -> Self {
        let (of, values) = self.find(source).expect("a layer").clone();
        self.layers.push((NamedLayer { name: name.into(), kind, ..of }, values));
        self.tied.push(TiedLayer { layer: name.into(), source: source.into() });
        self
    }

    fn with_input(self, name: &str) -> Self {
        Self { input: Some(name.into()), ..self }
    }

    fn find(&self, name: &str) -> Result<&(NamedLayer, Vec<f32>), crate::peft::error::PeftError> {
        let found = self.layers.iter().find(|(layer, _)| layer.name == name);
        found.ok_or_else(|| no_such_layer(&self.named_layers(), name))
    }

    /// Changes the values of a layer, and of those that share them.
    fn change(
        &mut self,
        name: &str,
        change: impl Fn(usize, &mut [f32]),
    ) -> Result<(), crate::peft::error::PeftError> {
        let cols = self.find(name)?.0.cols;
        let tied: Vec<String> =
            self.tied.iter().filter(|t| t.source == name).map(|t| t.layer.clone()).collect();
        let meant = |layer: &NamedLayer| layer.name == name || tied.contains(&layer.name);
        for (_, values) in self.layers.iter_mut().filter(|(layer, _)| meant(layer)) {
            values.chunks_exact_mut(cols).enumerate().for_each(|(row, values)| change(row, values));
        }
        Ok(())
    }
}

impl BaseModel for Toy {
    type Kept = Vec<f32>;

    fn named_layers(&self) -> Vec<NamedLayer> {
        self.layers.iter().map(|(layer, _)| layer.clone()).collect()
    }

    fn input_embedding(&self) -> Option<String> {
        self.input.clone()
    }

    fn tied_layers(&self) -> Vec<TiedLayer> {
        self.tied.clone()
    }

    fn weight_rows(&self, layer: &str, tokens: &[u32]) -> crate::peft::error::Result<Vec<f32>> {
        let (of, values) = self.find(layer)?;
        Ok(tokens.iter().flat_map(|&id| &values[id as usize * of.cols..][..of.cols]).copied().collect())
    }

    fn weight(&self, layer: &str) -> crate::peft::error::Result<FrozenMatrix> {
        let (of, values) = self.find(layer)?;
        Ok(FrozenMatrix::from_f32(layer, of.rows, of.cols, values.clone())?)
    }

    fn set_weight(&mut self, layer: &str, weight: FrozenMatrix) -> crate::peft::error::Result<()> {
        self.find(layer)?;
        let (rows, values) = (weight.rows(), weight.decode_rows(0..weight.rows()));
        let meant = |own: &NamedLayer, tied: &[TiedLayer]| {
            own.name == layer || tied.iter().any(|t| t.source == layer && t.layer == own.name)
        };
        for (own, of) in &mut self.layers {
            if meant(own, &self.tied) {
                (own.rows, *of) = (rows, values.clone());
            }
        }
        Ok(())
    }

    fn num_parameters(&self) -> u64 {
        let own = self.layers.iter().filter(|(layer, _)| !self.tied.iter().any(|t| t.layer == layer.name));
        own.map(|(_, values)| values.len() as u64).sum()
    }

    fn keep(&self, layer: &str) -> crate::peft::error::Result<Vec<f32>> {
        Ok(self.find(layer)?.1.clone())
    }

    fn restore(&mut self, layer: &str, kept: Vec<f32>) -> crate::peft::error::Result<Vec<f32>> {
        let (cols, old) = (self.find(layer)?.0.cols, self.keep(layer)?);
        self.change(layer, |row, values| values.copy_from_slice(&kept[row * cols..][..cols]))?;
        Ok(old)
    }

    fn merge_rows(&mut self, layer: &str, rows: &TrainedRows) -> crate::peft::error::Result<()> {
        self.change(layer, |row, values| {
            if let Some(at) = rows.position(row as u32) {
                values.copy_from_slice(rows.row(at));
            }
        })
    }

    fn merge_update(&mut self, layer: &str, update: &LoraLayer) -> crate::peft::error::Result<()> {
        self.change(layer, |row, values| update.add_row(row, values))
    }
}

impl PeftModel<Toy> {
    /// What an embedding gives for tokens `0..n`.
    fn embedded(&self, layer: &str, n: u32) -> Vec<Vec<f32>> {
        let trained = self.layers().iter().find(|of| of.modules().any(|module| module == layer));
        let row = |id: u32| match trained.and_then(|of| Some(of.rows().row(of.rows().position(id)?))) {
            Some(row) => row.to_vec(),
            None => self.base.weight_rows(layer, &[id]).expect("a row"),
        };
        (0..n).map(row).collect()
    }
}

/// The layers with trained rows, with those that follow them and the tokens.
fn placed<M: BaseModel>(model: &PeftModel<M>) -> Vec<(String, Vec<String>, Vec<u32>)> {
    let of = |layer: &TrainableTokensLayer| {
        (layer.name().to_string(), layer.tied().to_vec(), layer.rows().indices().to_vec())
    };
    model.layers().iter().map(of).collect()
}

/// A subscriber that keeps the texts of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{value:?}");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("not poisoned").push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// What `run` gives, with the warnings on the way.
fn warned<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    let warnings = Warnings::default();
    let result = tracing::subscriber::with_default(warnings.clone(), run);
    let texts = warnings.0.lock().expect("not poisoned").clone();
    (result, texts)
}
