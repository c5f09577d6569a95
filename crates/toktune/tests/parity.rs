//! The engine against PEFT: losses, first gradients and trained rows of six AdamW steps, in f32.
//!
//! Each folder of `fixtures/` was written by `tools/fixtures/make_fixtures.py` with the real transformers and PEFT.

mod common;

use candle_core::Device;
use common::{Row, batch_of as batch, fixture_rows, fixtures};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use toktune::config::{TargetModules, TrainableTokensConfig};
use toktune::models::{AutoModelForCausalLM, PrecisionMode, TokenRows};
use toktune::train::{AdamW, AdamWConfig, StepOptions, StepOutput, Wanted, run};
use toktune::tuners::{PeftModel, get_peft_model};

/// Relative to the largest entry of the tensor. PEFT's own f32 training differs from its f64 training by up to 1.2e-6.
const TOLERANCE: f64 = 1e-5;

struct Expected {
    json: Value,
    tensors: Vec<u8>,
}

impl Expected {
    fn read(folder: &Path) -> Self {
        let json = std::fs::read(folder.join("expected.json")).expect("expected.json");
        Self {
            json: serde_json::from_slice(&json).expect("JSON"),
            tensors: std::fs::read(folder.join("expected.safetensors")).expect("expected.safetensors"),
        }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        let data = tensors.tensor(name).expect(name).data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    fn config(&self) -> TrainableTokensConfig {
        let mut config: TrainableTokensConfig = TrainableTokensConfig::new(
            serde_json::from_value::<Vec<u32>>(self.json["token_indices"].clone()).expect("ids"),
        );
        config.target_modules = self
            .json
            .get("target_modules")
            .map(|t| serde_json::from_value::<TargetModules>(t.clone()).expect("targets"));
        config
    }
}

fn rows(folder: &Path) -> Vec<Row> {
    fixture_rows(&folder.file_name().expect("a name").to_string_lossy())
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
    let worst = got.iter().zip(expected).map(|(g, e)| (*g as f64 - *e as f64).abs()).fold(0.0, f64::max);
    assert!(worst <= TOLERANCE * scale, "{what}: off by {:.2e} of the largest entry {scale}", worst / scale);
}

fn load(folder: &Path, config: TrainableTokensConfig) -> PeftModel {
    let base = AutoModelForCausalLM::from_pretrained(folder, &Device::Cpu).expect("a model");
    get_peft_model(base, config).expect("an adapter")
}

/// One optimizer step on the mean loss; the mean.
fn step(model: &mut PeftModel, optimizer: &mut AdamW, output: StepOutput, learning_rate: f64) -> f64 {
    let labels = output.losses.len() as f64;
    optimizer.begin_step();
    for (at, layer) in model.layers_mut().iter_mut().enumerate() {
        let gradient: Vec<f32> = output.gradients[at].iter().map(|g| (*g as f64 / labels) as f32).collect();
        optimizer.update(at, &mut layer.rows_mut().values, &gradient, learning_rate);
    }
    output.loss_sum() / labels
}

#[test]
fn six_steps_equal_pefts() {
    for folder in fixtures() {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let (expected, rows) = (Expected::read(&folder), rows(&folder));
        let mut model = load(&folder, expected.config());
        let size = expected.json["batch_size"].as_u64().expect("a size") as usize;
        let rate = expected.json["learning_rate"].as_f64().expect("a rate");
        let mut optimizer = AdamW::new(
            AdamWConfig::default(),
            model.layers().iter().map(|l| l.rows().values.len()).collect::<Vec<_>>(),
        );
        for (i, loss) in expected.json["losses"].as_array().expect("losses").iter().enumerate() {
            let chosen: Vec<_> = (0..size).map(|j| rows[(i * size + j) % rows.len()].clone()).collect();
            let output =
                run(model.base(), model.active(), &batch(&chosen), Wanted::Gradients, StepOptions::default())
                    .expect("a step");
            if i == 0 {
                for (at, layer) in model.layers().iter().enumerate() {
                    let labels = output.losses.len() as f32;
                    let gradient: Vec<f32> = output.gradients[at].iter().map(|g| g / labels).collect();
                    let what = format!("{name}: gradient of {}", layer.name());
                    assert_close(&gradient, &expected.tensor(&format!("grad.{}", layer.name())), &what);
                }
            }
            let got = step(&mut model, &mut optimizer, output, rate);
            let loss = loss.as_f64().expect("a number");
            assert!((got - loss).abs() <= TOLERANCE * loss, "{name}: loss {i} is {got}, PEFT's is {loss}");
        }
        for layer in model.layers() {
            let what = format!("{name}: rows of {}", layer.name());
            assert_close(&layer.rows().values, &expected.tensor(&format!("rows.{}", layer.name())), &what);
        }
    }
}

#[test]
fn logits_equal_transformers() {
    for folder in fixtures() {
        let expected = Expected::read(&folder);
        let size = expected.json["batch_size"].as_u64().expect("a size") as usize;
        let batch = batch(&rows(&folder)[..size]);
        let model = AutoModelForCausalLM::from_pretrained(&folder, &Device::Cpu).expect("a model");
        let tokens = TokenRows { ids: &batch.ids, starts: &batch.starts, trained: None };
        let x = model.hidden(tokens, None, None).expect("hidden rows");
        let logits = model.logits(&model.before_head(&x).expect("rows"), None).expect("logits");
        let logits: Vec<f32> = logits.flatten_all().and_then(|l| l.to_vec1()).expect("numbers");
        assert_close(&logits, &expected.tensor("logits"), &format!("{folder:?}: logits"));
    }
}

#[test]
fn constant_rows_give_the_gradients_of_the_plain_computation() {
    for folder in fixtures() {
        let (expected, rows) = (Expected::read(&folder), rows(&folder));
        let model = load(&folder, expected.config());
        let batch = batch(&rows);
        let of = |wanted| {
            run(model.base(), model.active(), &batch, wanted, StepOptions::default()).expect("a step")
        };
        let (short, plain) = (of(Wanted::Gradients), of(Wanted::GradientsWithoutShortcuts));
        let losses = |output: &StepOutput| {
            let mut losses = output.losses.clone();
            losses.sort_by(|a, b| a.partial_cmp(b).expect("finite"));
            losses.into_iter().map(|l| l.1).collect::<Vec<_>>()
        };
        assert_close(&losses(&short), &losses(&plain), "losses");
        for (short, plain) in short.gradients.iter().zip(&plain.gradients) {
            assert_close(short, plain, &format!("{folder:?}"));
        }
    }
}

#[test]
fn what_is_kept_for_the_backward_pass_does_not_change_a_bit() {
    for folder in fixtures() {
        let (expected, rows) = (Expected::read(&folder), rows(&folder));
        let model = load(&folder, expected.config());
        let batch = batch(&rows);
        let of = |kept| {
            let options = StepOptions { kept_bytes: kept, constants: None };
            let output =
                run(model.base(), model.active(), &batch, Wanted::Gradients, options).expect("a step");
            (output.losses, output.gradients)
        };
        let nothing = of(0);
        for kept in [20_000, 60_000, 200_000, u64::MAX] {
            assert!(of(kept) == nothing, "{folder:?}: {kept} bytes kept");
        }
    }
}

#[test]
fn products_in_bf16_stay_close() {
    for folder in fixtures() {
        let (expected, rows) = (Expected::read(&folder), rows(&folder));
        let batch = batch(&rows);
        let of = |mode| {
            let mut base = AutoModelForCausalLM::from_pretrained(&folder, &Device::Cpu).expect("a model");
            base.set_precision(mode);
            let model = get_peft_model(base, expected.config()).expect("an adapter");
            run(model.base(), model.active(), &batch, Wanted::Gradients, StepOptions::default())
                .expect("a step")
        };
        let (exact, rounded) = (of(PrecisionMode::F32), of(PrecisionMode::Bf16));
        assert!(exact.losses != rounded.losses, "{folder:?}: bf16 was not used");
        let difference = (rounded.loss_sum() / exact.loss_sum() - 1.0).abs();
        assert!(difference < 0.01, "{folder:?}: the loss is off by {difference}");
        for (a, b) in exact.gradients.iter().zip(&rounded.gradients) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine >= 0.999, "{folder:?}: the gradients' cosine is {cosine}");
        }
    }
}

#[test]
fn ragged_rows_give_what_each_sequence_gives_alone() {
    for folder in fixtures() {
        let (expected, rows) = (Expected::read(&folder), rows(&folder));
        let model = load(&folder, expected.config());
        let of = |rows: &[_]| {
            run(model.base(), model.active(), &batch(rows), Wanted::Gradients, StepOptions::default())
                .expect("a step")
        };
        let together = of(&rows);
        let mut sums = model.active().zero_gradients();
        let mut loss = 0.0;
        for row in &rows {
            let alone = of(std::slice::from_ref(row));
            loss += alone.loss_sum();
            for (sum, gradient) in sums.iter_mut().zip(&alone.gradients) {
                sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
            }
        }
        assert!((together.loss_sum() - loss).abs() < 1e-5 * loss, "{folder:?}");
        for (together, sum) in together.gradients.iter().zip(&sums) {
            assert_close(together, sum, &format!("{folder:?}"));
        }
    }
}
