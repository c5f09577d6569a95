//! Adapters on the committed models and on small ones made here. `docs/peft-mapping.md` says which of PEFT's own tests
//! each of these answers.

mod adapters;
mod candle;
mod files;
mod merging;
mod targets;
mod tying;
mod whole;

use super::*;
use crate::config::{LoraConfig, PeftConfig, TargetModules, TrainableTokenIndices, TrainableTokensConfig};
use crate::models::{AutoModelForCausalLM, PretrainedModel};
use crate::random::Random;
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn base(name: &str) -> PretrainedModel {
    AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model")
}

/// The rows of one sequence.
fn rows_of(model: &PretrainedModel, count: usize) -> crate::models::RowsOfBatch {
    model.rows_of(vec![crate::ops::Span::new(0..count, 0..0)])
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
    flat(&model.forward(&[ids], None).expect("logits")[0])
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|x| x.to_vec1()).expect("numbers")
}

fn base_logits(model: PretrainedModel, ids: &[u32]) -> Vec<f32> {
    logits(&PeftModel::without_adapter(model), ids)
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A candle module with any layers: rows are numbered, so that a wrong one is seen.
#[derive(Clone, Debug, Default)]
struct Toy {
    layers: Vec<CandleLayer>,
    input: Option<String>,
    tied: Vec<TiedLayer>,
}

impl Toy {
    fn layer(mut self, name: &str, kind: LayerKind, rows: usize, cols: usize) -> Self {
        let seed = self.layers.len() as u64;
        let mut random = Random::new(seed);
        let values: Vec<f32> = (0..rows * cols).map(|_| random.normal() as f32).collect();
        let weight = Tensor::from_vec(values, (rows, cols), &Device::Cpu).expect("a tensor");
        self.layers.push(CandleLayer { name: name.into(), kind, weight });
        self
    }

    fn tie(mut self, name: &str, kind: LayerKind, source: &str) -> Self {
        let weight = self.weight(source);
        self.layers.push(CandleLayer { name: name.into(), kind, weight });
        self.tied.push(TiedLayer { layer: name.into(), source: source.into() });
        self
    }

    fn with_input(self, name: &str) -> Self {
        Self { input: Some(name.into()), ..self }
    }

    fn weight(&self, name: &str) -> Tensor {
        self.layers.iter().find(|layer| layer.name == name).expect("a layer").weight.clone()
    }
}

impl CandleModel for Toy {
    fn layers(&self) -> Vec<CandleLayer> {
        self.layers.clone()
    }

    fn set_weight(&mut self, name: &str, weight: Tensor) {
        let tied: Vec<String> =
            self.tied.iter().filter(|t| t.source == name).map(|t| t.layer.clone()).collect();
        for layer in self.layers.iter_mut().filter(|layer| layer.name == name || tied.contains(&layer.name)) {
            layer.weight = weight.clone();
        }
    }

    fn input_embedding(&self) -> Option<String> {
        self.input.clone()
    }

    fn tied_layers(&self) -> Vec<TiedLayer> {
        self.tied.clone()
    }
}

impl PeftModel<Toy> {
    /// What an embedding gives for tokens `0..n`.
    fn embedded(&self, layer: &str, n: u32) -> Vec<Vec<f32>> {
        let ids = Tensor::arange(0u32, n, &Device::Cpu).expect("ids");
        let bound = self.bind(&Device::Cpu).expect("bound");
        let rows = bound.embedding(layer, &self.base.weight(layer), &ids).expect("rows");
        rows.to_vec2().expect("numbers")
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
