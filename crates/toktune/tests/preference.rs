//! Two answers to one prompt: against TRL, against central differences, shared and unshared, and in whole runs.

#[macro_use]
mod common;

use common::fixture;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::Path;
use toktune::config::{LoraConfig, TargetModules, TrainableTokensConfig};
use toktune::data::{Collator, DataError, DataOptions, Dataset, RaggedBatch};
use toktune::engine::objective::{DpoConfig, DpoLoss, Preference, ReferencePair, sequence_logps};
use toktune::engine::runner::{StepOptions, StepOutput, Wanted};
use toktune::engine::trained::Trained;
use toktune::models::AutoModel;
use toktune::train::{Evaluation, StepLog, TrainerCallback, evaluate, evaluate_preferences};
use toktune::{Device, Error, PeftModel, Trainer, TrainingArguments, get_peft_model};

/// Relative to the largest entry of the tensor.
const TOLERANCE: f64 = 1e-5;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures_preference")
}

fn pairs(vocab_size: usize) -> Dataset {
    Dataset::read(&[folder().join("rows.jsonl")], None, &DataOptions::new(vocab_size)).expect("pairs")
}

/// What TRL makes of the pairs, by case.
fn cases() -> serde_json::Map<String, Value> {
    let json = std::fs::read(folder().join("expected.json")).expect("expected.json");
    let cases: Value = serde_json::from_slice(&json).expect("JSON");
    cases.as_object().expect("cases").clone()
}

fn loss_type(name: &str) -> DpoLoss {
    DpoLoss::NAMES.iter().find(|(of, _)| *of == name).expect("a form").1
}

fn dpo(of: &Value) -> DpoConfig {
    let number = |key: &str| of.get(key).and_then(Value::as_f64);
    with!(DpoConfig::default();
        beta: number("beta").expect("a number"),
        loss_type: loss_type(of["loss_type"].as_str().expect("a name")),
        label_smoothing: number("label_smoothing").unwrap_or(0.0),
    )
}

fn model_of(of: &Value, device: &Device) -> PeftModel {
    let name = of["model"].as_str().expect("a model");
    let base = AutoModel::from_pretrained(fixture(name), device).expect("a model");
    let ids: Vec<u32> = serde_json::from_value(of["token_indices"].clone()).expect("ids");
    let targets: Option<TargetModules> = of
        .get("target_modules")
        .filter(|of| !of.is_null())
        .map(|of| serde_json::from_value(of.clone()).expect("targets"));
    get_peft_model(base, with!(TrainableTokensConfig::new(ids); target_modules: targets)).expect("an adapter")
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let worst = got.iter().zip(expected).map(|(g, e)| f64::from(g - e).abs()).fold(0.0, f64::max);
    assert!(worst <= TOLERANCE * scale, "{what}: off by {:.2e} of the largest entry {scale}", worst / scale);
}

/// The settings of a run in file order.
fn arguments(output: &Path, of: &Value) -> TrainingArguments {
    with!(TrainingArguments::new(output);
        per_device_train_batch_size: of["batch_size"].as_u64().expect("a size") as usize,
        learning_rate: of["learning_rate"].as_f64(),
        max_steps: Some(of["steps"].as_array().expect("steps").len() as u64),
        max_grad_norm: 0.0,
        shuffle: false,
        dpo: dpo(of),
    )
}

#[test]
fn six_steps_equal_trls() {
    let tensors = std::fs::read(folder().join("expected.safetensors")).expect("expected.safetensors");
    let tensors = SafeTensors::deserialize(&tensors).expect("safetensors");
    let tensor = |name: &str| -> Vec<f32> {
        let data = tensors.tensor(name).expect(name).data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let cases = cases();
    assert!(cases.len() >= 6);
    for (name, of) in &cases {
        for shares in [true, false] {
            let output = tempfile::tempdir().expect("a folder");
            let model = model_of(of, &Device::Cpu);
            let data = pairs(model.base().vocabulary());
            let (count, size) = (data.len(), of["batch_size"].as_u64().expect("a size") as usize);
            // the first gradients, beside what the base gives
            let indices: Vec<usize> = (0..size.min(count)).collect();
            let mut batch = data.batch(&indices, 0).expect("a batch");
            batch.preference = Some(beside(&model, &batch, dpo(of)));
            let found = step(&model, &batch, Wanted::Gradients);
            for (layer, gradient) in model.layers().iter().zip(&found.gradients) {
                let expected = tensor(&format!("{name}.grad.{}", layer.name()));
                let mean: Vec<f32> = gradient.iter().map(|g| g / size as f32).collect();
                assert_close(&mean, &expected, &format!("{name}: gradient of {}", layer.name()));
            }
            let arguments = with!(arguments(output.path(), of); share_prefixes: shares);
            let mut trainer = Trainer::new(model, arguments, data).expect("a run");
            assert_eq!(trainer.prefixes().is_empty(), !shares);
            for expected in of["steps"].as_array().expect("steps") {
                let log = trainer.step().expect("a step");
                let close = |found: f64, key: &str, size: f64| {
                    let expected = expected[key].as_f64().expect("a number");
                    let off = (found - expected).abs() / expected.abs().max(size);
                    assert!(off <= TOLERANCE, "{name}, step {}: {key} {found}, {expected}", log.step);
                };
                close(log.loss, "loss", 1e-3);
                // a reward is the small difference of two log-probabilities
                let logps = expected["logps/chosen"].as_f64().expect("a number").abs();
                for (key, value) in log.preference.expect("figures").named() {
                    close(value, key, logps);
                }
                assert_eq!(log.loss_tokens, size.min(count));
            }
            for layer in trainer.model.layers() {
                let expected = tensor(&format!("{name}.rows.{}", layer.name()));
                assert_close(&layer.rows().values, &expected, &format!("{name}: rows of {}", layer.name()));
            }
        }
    }
}

fn step(model: &PeftModel, batch: &RaggedBatch, wanted: Wanted) -> StepOutput {
    let trained = model.active().trained();
    model.base().step(batch, &trained, wanted, StepOptions::default()).expect("a step")
}

/// The objective beside the base, each pair counting once.
fn beside(model: &PeftModel, batch: &RaggedBatch, config: DpoConfig) -> Preference {
    let base = Trained::default();
    let losses = model.base().step(batch, &base, Wanted::LossesAsTrained, StepOptions::default());
    let logps = sequence_logps(&losses.expect("losses").losses.losses, batch.starts.len() - 1);
    let pair = |of: &[f64]| ReferencePair { chosen: of[0], rejected: of[1], weight: 1.0 };
    Preference::new(config, logps.chunks_exact(2).map(pair).collect())
}

/// Rows away from where they begin, so that pairs are away from their reference.
fn moved(mut model: PeftModel) -> PeftModel {
    for (_, values) in model.parameters_mut() {
        values.iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * (0.7 * i as f32 + 1.0).sin());
    }
    model
}

fn configs() -> impl Iterator<Item = DpoConfig> {
    [("sigmoid", 0.5, 0.0), ("sigmoid", 0.5, 0.1), ("apo_zero", 0.3, 0.0), ("apo_down", 0.3, 0.0)].into_iter().map(
        |(name, beta, label_smoothing)| with!(DpoConfig::default(); beta, loss_type: loss_type(name), label_smoothing),
    )
}

/// A batch of all pairs, the third of which counts more and the second nothing.
fn whole(model: &PeftModel, config: DpoConfig) -> RaggedBatch {
    let data = pairs(model.base().vocabulary());
    let mut batch = data.batch(&(0..data.len()).collect::<Vec<_>>(), 0).expect("a batch");
    let of = beside(model, &batch, config);
    let mut pairs = of.pairs().to_vec();
    (pairs[1].weight, pairs[2].weight) = (0.0, 2.5);
    batch.preference = Some(Preference::new(config, pairs));
    batch
}

fn tokens(name: &str) -> Value {
    cases().values().find(|of| of["model"] == name).expect("a case").clone()
}

#[test]
fn gradients_are_those_of_central_differences() {
    for name in ["llama_tied", "llama_untied", "llama_untied_head"] {
        for config in configs() {
            let of = tokens(name);
            let mut model = moved(model_of(&of, &Device::Reference));
            let batch = whole(&model, config);
            let found = step(&model, &batch, Wanted::Gradients);
            let gradients = found.gradients.concat();
            assert_eq!(found.losses.weight(), found.losses.losses.len() as f64 + 0.5);
            let way: Vec<f32> = (0..gradients.len())
                .map(|i| if i % 3 == 0 { gradients[i].signum() } else { (1.3 * i as f32).sin() })
                .collect();
            let shift = |model: &mut PeftModel, by: f32| {
                let values = model.parameters_mut().into_iter().flat_map(|(_, values)| values);
                values.zip(&way).for_each(|(x, way)| *x += by * way);
            };
            let expected: f64 = gradients.iter().zip(&way).map(|(g, way)| f64::from(g * way)).sum();
            let mut off = f64::MAX;
            for by in [1e-3, 2e-4] {
                shift(&mut model, by);
                let above = step(&model, &batch, Wanted::Losses).losses.sum();
                shift(&mut model, -2.0 * by);
                let below = step(&model, &batch, Wanted::Losses).losses.sum();
                shift(&mut model, by);
                off = off.min(((above - below) / f64::from(2.0 * by) - expected).abs() / expected.abs());
            }
            assert!(off < 2e-3 && expected != 0.0, "{name}, {config:?}: off by {off:.1e}");
            // and the processor's own are these, with the shortcuts and without
            let cpu = moved(model_of(&of, &Device::Cpu));
            let batch = whole(&cpu, config);
            let largest = gradients.iter().fold(0f32, |m, x| m.max(x.abs()));
            for wanted in [Wanted::Gradients, Wanted::GradientsWithoutShortcuts] {
                let own = step(&cpu, &batch, wanted).gradients.concat();
                let worst = own.iter().zip(&gradients).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(worst <= 2e-5 * largest, "{name}, {config:?}, {wanted:?}: {worst} of {largest}");
            }
        }
    }
}

#[test]
fn a_pair_shares_its_prompt() {
    for name in ["llama_tied", "llama_untied_head", "gpt2", "gemma3"] {
        let mut of = tokens("llama_tied");
        of["model"] = json!(name);
        let model = moved(model_of(&of, &Device::Cpu));
        let config = with!(DpoConfig::default(); beta: 0.5);
        let apart = whole(&model, config);
        let data = pairs(model.base().vocabulary());
        let prefixes = data.prefixes(model.base());
        let indices: Vec<usize> = (0..data.len()).collect();
        let mut shared = apart.clone();
        shared.segments = data.sequences(&indices).into_iter().map(|at| prefixes.of_sequence(at)).collect();
        let (one, other) =
            (step(&model, &apart, Wanted::Gradients), step(&model, &shared, Wanted::Gradients));
        // what both sequences of a pair begin with, where that is worth a segment: the prompts of at least eight tokens, and in the last
        // pair what the answers begin with too
        let mut alike = 0;
        for pair in apart.starts.windows(3).step_by(2) {
            let (chosen, rejected) = (&apart.ids[pair[0]..pair[1]], &apart.ids[pair[1]..pair[2]]);
            let begins = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
            // the last token of the shorter one is not read
            alike += if begins >= 8 { begins } else { 0 };
        }
        assert!(alike > 80, "{alike}");
        assert_eq!((one.shared_rows, other.shared_rows), (0, alike), "{name}");
        let close = (one.losses.sum() - other.losses.sum()).abs() <= TOLERANCE * one.losses.sum().abs();
        assert!(close, "{name}: {} and {}", one.losses.sum(), other.losses.sum());
        for (a, b) in one.gradients.iter().zip(&other.gradients) {
            assert_close(b, a, name);
        }
    }
}

/// Keeps what a run tells.
#[derive(Default)]
struct Told {
    steps: Vec<StepLog>,
    evaluations: Vec<Evaluation>,
    /// Ends the run after so many steps.
    most: usize,
}

impl TrainerCallback for Told {
    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> std::ops::ControlFlow<()> {
        self.steps.push(log.clone());
        if self.steps.len() == self.most {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    }

    fn on_evaluate(&mut self, _: &PeftModel, _: u64, evaluation: &Evaluation) -> std::ops::ControlFlow<()> {
        self.evaluations.push(evaluation.clone());
        std::ops::ControlFlow::Continue(())
    }
}

fn run_of(model: PeftModel, arguments: TrainingArguments, most: usize) -> (Told, Trainer) {
    let data = pairs(model.base().vocabulary());
    let mut trainer =
        Trainer::new(model, arguments, data.clone()).expect("a run").with_eval(data).expect("alike");
    let mut told = Told { most, ..Told::default() };
    trainer.train(&mut told).expect("trained");
    (told, trainer)
}

#[test]
fn a_run_learns_the_pairs_and_tells_how_they_compare() {
    let of = tokens("llama_tied");
    let output = tempfile::tempdir().expect("a folder");
    let arguments = with!(arguments(output.path(), &of); max_steps: Some(40), learning_rate: Some(0.05));
    let (told, trainer) = run_of(model_of(&of, &Device::Cpu), arguments, 0);
    let [before, after] = &told.evaluations[..] else { panic!("two evaluations") };
    let (first, last) = (before.preference.expect("figures"), after.preference.expect("figures"));
    // the model that the run begins with is its own reference, to the last bit
    assert_eq!((first.rewards_chosen, first.rewards_rejected, first.accuracies), (0.0, 0.0, 0.0));
    assert!((before.loss - std::f64::consts::LN_2).abs() < 1e-7, "{}", before.loss);
    assert_eq!((before.labels, after.labels), (8, 8));
    assert!(after.loss < 0.9 * before.loss && last.accuracies > 0.7 && last.margins > 0.1, "{after:?}");
    assert_eq!(told.steps[0].preference.expect("figures").margins, 0.0);
    // and so it is in the files
    let log = std::fs::read_to_string(output.path().join("train_log.jsonl")).expect("a log");
    let line: Value = serde_json::from_str(log.lines().last().expect("a step")).expect("JSON");
    assert_eq!(line["rewards/margins"].as_f64(), Some(told.steps[39].preference.expect("figures").margins));
    assert!(line["logps/rejected"].as_f64().is_some_and(|x| x < 0.0), "{line}");
    let read: StepLog = serde_json::from_value(line).expect("a step");
    assert_eq!(read.preference, told.steps[39].preference);
    // rows that did not move since the base: the library's own evaluation beside it says the same
    let (model, config) = (&trainer.model, trainer.arguments().dpo);
    let data = pairs(model.base().vocabulary());
    let own = evaluate_preferences(model.base(), model.active(), &data, 3, config).expect("evaluated");
    assert!((own.loss - after.loss).abs() < 1e-5, "{} {}", own.loss, after.loss);
    let default = evaluate(model.base(), model.active(), &data, 8, &[]).expect("evaluated");
    let scale = config.beta / DpoConfig::default().beta;
    let margin = default.preference.expect("figures").margins * scale;
    assert!((margin - last.margins).abs() < 1e-4, "{margin} {last:?}");
}

#[test]
fn a_run_that_goes_on_is_compared_with_what_it_began_with() {
    let of = tokens("llama_tied");
    let settings = |output: &Path| {
        with!(arguments(output, &of); max_steps: Some(7), shuffle: true, gradient_accumulation_steps: 2,
            per_device_train_batch_size: 3)
    };
    let rows = |trainer: &Trainer| -> Vec<u32> {
        trainer.model.parameters().iter().flat_map(|of| of.values.iter().map(|x| x.to_bits())).collect()
    };
    let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let (all, uncut) = run_of(model_of(&of, &Device::Cpu), settings(whole.path()), 0);
    run_of(model_of(&of, &Device::Cpu), settings(parts.path()), 3);
    let again = with!(settings(parts.path()); resume: true);
    let (rest, resumed) = run_of(model_of(&of, &Device::Cpu), again.clone(), 0);
    assert_eq!(rows(&uncut), rows(&resumed));
    assert_eq!(all.steps[6].preference, rest.steps.last().expect("a step").preference);
    assert!(all.steps[6].preference.expect("figures").margins != 0.0);
    // begun with other rows, it would be compared with others
    let error = Trainer::new(moved(model_of(&of, &Device::Cpu)), again, pairs(101))
        .expect("a run")
        .train(&mut ())
        .expect_err("another beginning");
    assert!(error.to_string().contains("reference"), "{error}");
}

#[test]
fn updates_are_learnt_beside_the_rows() {
    let base = AutoModel::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model");
    let config: LoraConfig = serde_json::from_value(json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
        "trainable_token_indices": [57, 3], "task_type": "CAUSAL_LM",
    }))
    .expect("a configuration");
    let output = tempfile::tempdir().expect("a folder");
    let mut arguments = arguments(output.path(), &tokens("llama_tied"));
    (arguments.max_steps, arguments.lora_learning_rate) = (Some(20), Some(1e-2));
    let (told, trainer) = run_of(get_peft_model(base, config).expect("an adapter"), arguments, 0);
    let [before, after] = &told.evaluations[..] else { panic!("two evaluations") };
    assert_eq!(before.preference.expect("figures").margins, 0.0);
    assert!(after.preference.expect("figures").margins > 0.05, "{after:?}");
    assert!(trainer.model.lora_layers().iter().any(|layer| layer.b.iter().any(|x| *x != 0.0)));
}

#[test]
fn rows_of_both_kinds_do_not_mix() {
    let row = |text: &str| -> serde_json::Map<String, Value> { serde_json::from_str(text).expect("a row") };
    let pair = r#"{"prompt_ids": [3, 4], "chosen_ids": [5], "rejected_ids": [6]}"#;
    let plain = r#"{"input_ids": [3, 4, 5]}"#;
    let read =
        |rows: &[&str]| Dataset::from_rows(rows.iter().map(|text| row(text)), None, &DataOptions::new(101));
    let error = read(&[pair, plain]).expect_err("mixed");
    assert!(matches!(error, DataError::MixedPreferences { pairs: 1, rows: 2 }), "{error}");
    let (pairs, plain) = (read(&[pair]).expect("pairs"), read(&[plain]).expect("rows"));
    assert!(pairs.is_preference() && !plain.is_preference());
    let run = |train: &Dataset| {
        let model = model_of(&tokens("llama_tied"), &Device::Cpu);
        Trainer::new(model, TrainingArguments::new("unused"), train.clone()).expect("a run")
    };
    for (train, eval) in [(&pairs, &plain), (&plain, &pairs)] {
        let error = run(train).with_eval(eval.clone()).expect_err("another kind");
        assert!(
            matches!(error, Error::OtherEvalData { train: of } if of == train.is_preference()),
            "{error}"
        );
    }
    let mut arguments = TrainingArguments::new("unused");
    arguments.dpo.beta = -1.0;
    let error = arguments.check().expect_err("a setting").to_string();
    assert!(error.contains("beta: expected more than 0, found -1"), "{error}");
    // an example that was made elsewhere
    let example = pairs.example(0).expect("there");
    assert_eq!((example.labels.len(), example.second.len()), (6, 3));
    assert!(Dataset::from_examples(&[example], Collator::Causal, 101).expect("a set").is_preference());
}
