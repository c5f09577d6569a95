//! Adapters of a candle module, by candle's autograd.

use candle_core::{Device, Tensor};
use toktune::EngineError;
use toktune::config::{LoraConfig, TargetModules, TrainableTokenIndices, TrainableTokensConfig};
use toktune::peft::{BaseModel, LayerKind, PeftError, PeftModel, TiedLayer, get_peft_model};
use toktune_candle::{Bind, CandleAdapters, CandleLayer, CandleModel, Error, OnCandle};

/// Numbers in `[-1, 1)`, the same for the same seed.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A candle module with any layers: rows are numbered, so that a wrong one is seen.
#[derive(Clone, Debug, Default)]
struct Toy {
    layers: Vec<CandleLayer>,
    tied: Vec<TiedLayer>,
}

impl Toy {
    fn layer(mut self, name: &str, kind: LayerKind, rows: usize, cols: usize) -> Self {
        let seed = self.layers.len() as u64;
        let weight =
            Tensor::from_vec(numbers(rows * cols, seed + 1), (rows, cols), &Device::Cpu).expect("a tensor");
        self.layers.push(CandleLayer { name: name.into(), kind, weight });
        self
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

    fn tied_layers(&self) -> Vec<TiedLayer> {
        self.tied.clone()
    }
}

fn toy() -> Toy {
    Toy::default()
        .layer("embed_tokens", LayerKind::Embedding, 12, 6)
        .layer("hidden", LayerKind::Linear, 6, 6)
        .layer("lm_head", LayerKind::Head, 12, 6)
}

/// Rows of both token matrices and an update of the hidden layer.
fn adapted(dropout: f64) -> PeftModel<OnCandle<Toy>> {
    let mut config = LoraConfig::default();
    (config.r, config.lora_alpha, config.lora_dropout) = (2, 3.0, dropout);
    config.target_modules = Some(TargetModules::Names(vec!["hidden".into()]));
    config.trainable_token_indices = Some(TrainableTokenIndices::ByLayer(
        [("embed_tokens", vec![7, 2]), ("lm_head", vec![3, 0, 7])]
            .map(|(layer, ids)| (layer.to_string(), ids))
            .into(),
    ));
    let mut model = get_peft_model(OnCandle(toy()), config).expect("an adapter");
    for (at, (_, values)) in model.parameters_mut().into_iter().enumerate() {
        let moves = numbers(values.len(), 60 + at as u64);
        values.iter_mut().zip(moves).for_each(|(x, by)| *x += 0.5 * by);
    }
    model
}

fn ids() -> Tensor {
    Tensor::new(&[[7u32, 1, 2], [2, 7, 11]], &Device::Cpu).expect("ids")
}

/// Embedding, hidden layer with a bias, head: `[2, 3, 12]`.
fn forward(model: &PeftModel<OnCandle<Toy>>, bound: &CandleAdapters) -> Tensor {
    let weight = |layer: &str| model.base().0.weight(layer);
    let bias = Tensor::arange(0f32, 6.0, &Device::Cpu).expect("a bias");
    let x = bound.embedding("embed_tokens", &weight("embed_tokens"), &ids()).expect("rows");
    let x = bound.linear("hidden", &weight("hidden"), Some(&bias), &x).expect("a product");
    bound.linear("lm_head", &weight("lm_head"), None, &x.tanh().expect("tanh")).expect("logits")
}

#[test]
fn layers_give_what_merged_weights_give() {
    let mut model = adapted(0.0);
    let bound = model.bind(&Device::Cpu).expect("bound");
    let adapted = forward(&model, &bound);
    assert_eq!(adapted.dims(), [2, 3, 12]);
    assert_eq!(bound.vars().len(), 4);
    let plain =
        forward(&model, &PeftModel::without_adapter(OnCandle(toy())).bind(&Device::Cpu).expect("bound"));
    assert!(distance(&flat(&adapted), &flat(&plain)) > 0.1);
    let before: Vec<Vec<f32>> =
        ["embed_tokens", "hidden", "lm_head"].map(|l| flat(&model.base().0.weight(l))).to_vec();
    model.merge_adapter(None, true).expect("merged");
    let merged = model.bind(&Device::Cpu).expect("bound");
    assert!(merged.vars().is_empty(), "the weights hold it all");
    assert!(distance(&flat(&forward(&model, &merged)), &flat(&adapted)) < 1e-5);
    {
        let disabled = model.disable_adapter().expect("disabled");
        let bound = disabled.bind(&Device::Cpu).expect("bound");
        assert_eq!(flat(&forward(&disabled, &bound)), flat(&plain));
    }
    model.unmerge_adapter().expect("unmerged");
    let after: Vec<Vec<f32>> =
        ["embed_tokens", "hidden", "lm_head"].map(|l| flat(&model.base().0.weight(l))).to_vec();
    assert_eq!(before, after);
}

#[test]
fn gradients_reach_every_variable_and_are_slopes() {
    let mut model = adapted(0.0);
    let weights = Tensor::randn(0f32, 1.0, (2, 3, 12), &Device::Cpu).expect("weights");
    let loss = |model: &PeftModel<OnCandle<Toy>>| -> (CandleAdapters, Tensor) {
        let bound = model.bind(&Device::Cpu).expect("bound");
        let loss = (forward(model, &bound) * &weights).and_then(|l| l.sum_all()).expect("a loss");
        (bound, loss)
    };
    let (bound, value) = loss(&model);
    let gradients = value.backward().expect("gradients");
    let gradients: Vec<Vec<f32>> =
        bound.vars().iter().map(|var| flat(gradients.get(var).expect("a gradient"))).collect();
    for (at, gradient) in gradients.iter().enumerate() {
        assert!(gradient.iter().any(|g| *g != 0.0), "variable {at}");
        let norm: f32 = gradient.iter().map(|g| g * g).sum();
        let h = 1e-2 / norm.sqrt();
        let mut at_step = |h: f32| {
            let step = |model: &mut PeftModel<OnCandle<Toy>>, h: f32| {
                let (_, values) = model.parameters_mut().into_iter().nth(at).expect("a parameter");
                values.iter_mut().zip(gradient).for_each(|(x, g)| *x += h * g);
            };
            step(&mut model, h);
            let value = loss(&model).1.to_scalar::<f32>().expect("a number");
            step(&mut model, -h);
            value
        };
        let slope = (at_step(h) - at_step(-h)) / (2.0 * h);
        assert!((slope - norm).abs() < 0.03 * norm, "variable {at}: slope {slope}, squared norm {norm}");
    }
}

#[test]
fn trained_variables_are_read_back_into_their_adapter() {
    let mut model = adapted(0.0);
    let bound = model.bind(&Device::Cpu).expect("bound");
    for var in bound.vars() {
        var.set(&(var.as_tensor() + 1.0).expect("moved")).expect("set");
    }
    let before: Vec<Vec<f32>> = model.parameters().iter().map(|p| p.values.to_vec()).collect();
    model.read_back(&bound).expect("read");
    for (before, after) in before.iter().zip(model.parameters()) {
        assert!(before.iter().zip(after.values).all(|(a, b)| (b - a - 1.0).abs() < 1e-6));
    }
    // into another adapter they do not go, nor do numbers that are none
    model.add_adapter("other", TrainableTokensConfig::new([1])).expect("added");
    model.set_adapter(&["other"]).expect("set");
    let error = model.read_back(&bound).expect_err("another adapter");
    assert!(
        matches!(&error, Error::Adapter(error) if matches!(**error, PeftError::NotBound { .. })),
        "{error}"
    );
    model.set_adapter(&["default"]).expect("set");
    let first = &bound.vars()[0];
    first.set(&(first.as_tensor() * f64::NAN).expect("broken")).expect("set");
    let error = model.read_back(&bound).expect_err("no number");
    let not_finite = |error: &PeftError| matches!(error, PeftError::Engine(EngineError::NotFinite { .. }));
    assert!(matches!(&error, Error::Adapter(error) if not_finite(error)), "{error}");
}

#[test]
fn dropout_is_for_training_only() {
    let model = adapted(0.5);
    let mut bound = model.bind(&Device::Cpu).expect("bound");
    let evaluated = flat(&forward(&model, &bound));
    assert_eq!(evaluated, flat(&forward(&model, &bound)));
    bound.train(true);
    assert_ne!(evaluated, flat(&forward(&model, &bound)));
    bound.train(false);
    assert_eq!(evaluated, flat(&forward(&model, &bound)));
}

#[test]
fn a_layer_that_is_not_there_is_told() {
    let error = OnCandle(toy_without("hidden"))
        .merge_rows("hidden", &toktune::models::TrainedRows::new(vec![], 6, vec![]));
    let error = error.expect_err("no such layer");
    assert!(matches!(error, PeftError::NoSuchLayer { .. }), "{error}");
}

fn toy_without(layer: &str) -> Toy {
    let mut toy = toy();
    toy.layers.retain(|l| l.name != layer);
    toy
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|x| x.to_vec1()).expect("numbers")
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
