//! LoRA with trained tokens against PEFT: losses, first gradients and all values of six AdamW steps, in f32, from PEFT's
//! own fresh adapter.
//!
//! Each folder of `fixtures_lora/` was written by `tools/fixtures/make_lora_fixtures.py` with the real PEFT.

#[macro_use]
mod common;

use common::{batch_of, dataset, fixture, fixture_rows};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use toktune::data::{DataOptions, Dataset};
use toktune::engine::runner::{StepOptions, Wanted};
use toktune::export::{MergeOptions, merge_to_folder};
use toktune::models::{AutoModel, AutoModelForCausalLM, TokenRows};
use toktune::peft::{
    ADAPTER_FILE, Gradient, PeftModel, SaveEmbeddingLayers, get_peft_model, get_peft_model_state_dict,
};
use toktune::train::{AdamW, AdamWConfig, LrScheduler, Trainer, TrainingArguments, clip_grad_norm};
use toktune::{Device, GenerationConfig, Generator, LoraConfig, TargetModules, TrainableTokenIndices};

const NAMES: [&str; 14] = [
    "tied",
    "untied",
    "gemma3",
    "gpt2",
    "phi3",
    "bart",
    "bert",
    "falcon",
    "deberta",
    "shared_expert",
    "sinks",
    "limited",
    "temperatures",
    "convolution",
];

/// Relative to the largest entry of a tensor.
const TOLERANCE: f64 = 1e-5;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures_lora").join(name)
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(name).join("expected.json")).expect("a file")).expect("JSON")
}

fn model_name(name: &str) -> String {
    expected(name)["model"].as_str().expect("a name").to_string()
}

fn open(name: &str, adapter: &str) -> PeftModel {
    let base = AutoModel::from_pretrained(fixture(&model_name(name)), &Device::Cpu).expect("a model");
    PeftModel::from_pretrained(base, &folder(name).join(adapter)).expect("PEFT's adapter")
}

fn tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(path).expect("tensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let numbers =
        |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    tensors.tensors().into_iter().map(|(name, view)| (name, numbers(view.data()))).collect()
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
    let worst = got.iter().zip(expected).map(|(g, e)| (*g as f64 - *e as f64).abs()).fold(0.0, f64::max);
    assert!(worst <= TOLERANCE * scale, "{what}: off by {worst:.2e} with largest entry {scale:.2e}");
}

/// PEFT's key of each parameter, in the order of the gradients.
fn keys(model: &PeftModel) -> Vec<String> {
    let rows = model.layers().iter().map(|l| format!("{}.token_adapter.trainable_tokens_delta", l.name()));
    let lora = model.lora_layers().iter();
    let lora = lora.flat_map(|l| ["A", "B"].map(|part| format!("{}.lora_{part}.weight", l.name())));
    rows.chain(lora).map(|key| format!("base_model.model.{key}")).collect()
}

/// Six AdamW steps; the losses and the first gradients (of the mean loss).
fn six_steps(name: &str, model: &mut PeftModel, kept: u64) -> (Vec<f64>, Vec<Vec<f32>>) {
    let expected = expected(name);
    let number = |key: &str| expected[key].as_f64().expect("a number");
    let data = dataset(&model_name(name), model.base());
    let size = number("batch_size") as usize;
    let lengths: Vec<(String, usize)> =
        model.parameters().iter().map(|p| (p.name.clone(), p.values.len())).collect();
    let rates: Vec<f64> = model
        .parameters()
        .iter()
        .map(|p| number(if p.is_lora { "lora_learning_rate" } else { "row_learning_rate" }))
        .collect();
    let mut optimizer = AdamW::new(AdamWConfig::default(), lengths);
    let (mut losses, mut first) = (Vec::new(), Vec::new());
    for step in 0..6 {
        let chosen: Vec<usize> = (0..size).map(|i| (step * size + i) % data.len()).collect();
        let batch = data.batch(&chosen, 0).expect("whole");
        let options = StepOptions::new(kept, None);
        let trained = model.active().trained();
        let output = model.base().step(&batch, &trained, Wanted::Gradients, options).expect("a step");
        let labels = output.losses.weight();
        let mean =
            |gradient: &Vec<f32>| gradient.iter().map(|g| (*g as f64 / labels) as f32).collect::<Vec<_>>();
        let gradients: Vec<Vec<f32>> = output.gradients.iter().map(mean).collect();
        losses.push(output.losses.sum() / labels);
        optimizer.begin_step();
        let parameters = model.parameters_mut().into_iter().zip(&gradients).zip(&rates);
        for (((name, values), gradient), rate) in parameters {
            optimizer.update(&name, values, gradient, *rate);
        }
        if step == 0 {
            first = gradients;
        }
    }
    (losses, first)
}

#[test]
fn six_steps_equal_pefts() {
    for name in NAMES {
        let mut model = open(name, "start");
        let keys = keys(&model);
        let (losses, gradients) = six_steps(name, &mut model, 0);
        let first = tensors(&folder(name).join("expected.safetensors"));
        assert_eq!(first.len(), keys.len(), "{name}: every parameter");
        for (key, gradient) in keys.iter().zip(&gradients) {
            let (_, theirs) = first.iter().find(|(k, _)| *k == format!("grad.{key}")).expect(key);
            assert_close(gradient, theirs, &format!("{name}: gradient of {key}"));
        }
        for (i, (ours, theirs)) in
            losses.iter().zip(expected(name)["losses"].as_array().expect("losses")).enumerate()
        {
            let theirs = theirs.as_f64().expect("a number");
            assert!(
                (ours - theirs).abs() <= TOLERANCE * theirs,
                "{name}: loss {i} is {ours}, PEFT's is {theirs}"
            );
        }
        let trained = tensors(&folder(name).join("adapter").join(ADAPTER_FILE));
        let ours = get_peft_model_state_dict(&model, "default", SaveEmbeddingLayers::Auto).expect("tensors");
        assert_eq!(trained.len(), ours.len());
        for (key, theirs) in trained {
            let tensor = &ours[&key];
            assert_close(&tensor.decode_rows(0..tensor.rows()), &theirs, &format!("{name}: {key}"));
        }
    }
}

#[test]
fn what_is_kept_of_a_pass_does_not_change_the_gradients() {
    for name in NAMES {
        let run_with = |kept| six_steps(name, &mut open(name, "start"), kept);
        assert_eq!(run_with(0), run_with(u64::MAX), "{name}");
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    // B is 0 in a fresh adapter: a trained one shows every product
    let mut model = open("gemma3", "adapter");
    let batch = batch_of(&fixture_rows("gemma3"));
    let step = |model: &PeftModel, wanted| {
        let trained = model.active().trained();
        model.base().step(&batch, &trained, wanted, StepOptions::default()).expect("a step")
    };
    let output = step(&model, Wanted::Gradients);
    let plain = step(&model, Wanted::GradientsWithoutShortcuts);
    for (short, plain) in output.gradients.iter().zip(&plain.gradients) {
        assert_close(short, plain, "without shortcuts");
    }
    for (at, gradient) in output.gradients.iter().enumerate() {
        // along the gradient the loss changes by its squared norm
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        let h = 3e-3 / norm.sqrt();
        let mut loss_at = |h: f64| {
            let mut moved = |h: f64| {
                let (_, values) = model.parameters_mut().into_iter().nth(at).expect("a parameter");
                values.iter_mut().zip(gradient).for_each(|(x, g)| *x += (h * f64::from(*g)) as f32);
            };
            moved(h);
            let loss = step(&model, Wanted::Losses).losses.sum();
            let (_, values) = model.parameters_mut().into_iter().nth(at).expect("a parameter");
            values.iter_mut().zip(gradient).for_each(|(x, g)| *x -= (h * f64::from(*g)) as f32);
            loss
        };
        let slope = (loss_at(h) - loss_at(-h)) / (2.0 * h);
        assert!((slope - norm).abs() < 0.02 * norm, "parameter {at}: slope {slope}, squared norm {norm}");
    }
}

#[test]
fn pefts_adapters_come_back_the_same() {
    for name in NAMES {
        for adapter in ["start", "adapter"] {
            let written = tempfile::tempdir().expect("a folder");
            open(name, adapter).save_pretrained(written.path(), SaveEmbeddingLayers::Auto).expect("saved");
            let theirs = folder(name).join(adapter);
            let sorted = |path: &Path| {
                let mut all = tensors(&path.join(ADAPTER_FILE));
                all.sort_by(|a, b| a.0.cmp(&b.0));
                all
            };
            assert_eq!(sorted(written.path()), sorted(&theirs), "{name}");
            let config = |path: &Path| -> Value {
                let text = std::fs::read(path.join("adapter_config.json")).expect("a file");
                let mut config: Value = serde_json::from_slice(&text).expect("JSON");
                // PEFT keeps a set of names, whose order means nothing
                if let Some(names) = config["target_modules"].as_array_mut() {
                    names.sort_by_key(|name| name.to_string());
                }
                config
            };
            assert_eq!(config(written.path()), config(&theirs), "{name}");
        }
    }
}

/// The logits of some tokens, from other tokens in the encoder where there is one.
fn outputs(model: &PeftModel) -> Vec<f32> {
    let (base, active) = (model.base(), model.active());
    let text: Vec<u32> = (1..40).collect();
    let reversed: Vec<u32> = text.iter().rev().copied().collect();
    let tokens = |ids| TokenRows { ids, starts: &[0, 39] };
    let inputs = base.has_encoder().then(|| tokens(&reversed[..]));
    base.runner().logits(tokens(&text), inputs, &active.trained()).expect("logits").concat()
}

#[test]
fn a_merged_folder_computes_what_the_adapter_does() {
    for name in NAMES {
        let mut model = open(name, "adapter");
        let expected = outputs(&model);
        let top = tempfile::tempdir().expect("a folder");
        let merged = top.path().join("merged");
        merge_to_folder(&model, &merged, MergeOptions::default()).expect("merged");
        let alone = AutoModel::from_pretrained(&merged, &Device::Cpu).expect("a model");
        assert_close(&outputs(&PeftModel::without_adapter(alone)), &expected, name);
        model.merge_adapter(None, true).expect("merged in memory");
        assert_close(&outputs(&model), &expected, name);
        model.unmerge_adapter().expect("taken out");
        assert_eq!(outputs(&model), expected, "{name}");
        let without = outputs(&PeftModel::without_adapter(model.unload()));
        let far = without.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(far > 1e-2, "{name}: the adapter changes something: {far}");
    }
}

#[test]
fn text_is_generated_with_the_updates() {
    let model = open("gemma3", "adapter");
    let config = with!(GenerationConfig::default(); max_new_tokens: 6);
    let generator = Generator::new(model.base(), model.active(), config).expect("a generator");
    let mut ids = vec![7, 44, 9];
    let mut tokens = generator.generate(&ids).expect("tokens");
    while let Some(next) = tokens.next() {
        let logits: Vec<f32> = tokens.logits().to_vec();
        let whole = &model.forward(&[&ids], None).expect("logits")[0];
        let last = &whole[(ids.len() - 1) * logits.len()..];
        assert_close(&logits, last, "one token after the other");
        ids.push(next.expect("a token"));
    }
    assert!(ids.len() > 4);
}

fn arguments(folder: &Path) -> TrainingArguments {
    with!(TrainingArguments::new(folder); per_device_train_batch_size: 4, max_steps: Some(8), learning_rate: Some(0.01), lora_learning_rate: Some(0.005), lr_scheduler_type: LrScheduler::Linear, save_steps: Some(5))
}

fn fresh(dropout: f64) -> PeftModel {
    let base = AutoModelForCausalLM::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model");
    let config = with!(LoraConfig::default(); lora_dropout: dropout, target_modules: Some(TargetModules::Pattern("all-linear".into())), trainable_token_indices: Some(TrainableTokenIndices::Tokens(vec![57, 3])));
    get_peft_model(base, config).expect("an adapter")
}

fn train(model: PeftModel, arguments: TrainingArguments) -> PeftModel {
    let data =
        Dataset::read(&[common::rows_file("llama_tied")], None, &DataOptions::new(1 << 20)).expect("rows");
    let mut trainer = Trainer::new(model, arguments, data.clone())
        .and_then(|trainer| trainer.with_eval(data))
        .expect("a trainer");
    let output = trainer.train(&mut ()).expect("a run");
    assert!(output.after.expect("evaluated").loss < output.before.map_or(f64::MAX, |e| e.loss));
    trainer.model
}

#[test]
fn a_run_with_dropout_is_the_same_again_on_other_threads_and_when_it_is_resumed() {
    let top = tempfile::tempdir().expect("a folder");
    let run = |name: &str, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| train(fresh(0.2), arguments(&top.path().join(name))))
    };
    let (one, three) = (run("one", 1), run("three", 3));
    assert_eq!((one.layers(), one.lora_layers()), (three.layers(), three.lora_layers()));
    // as if the run had ended after its checkpoint
    let resumed = train(fresh(0.2), with!(arguments(&top.path().join("one")); resume: true));
    assert_eq!((one.layers(), one.lora_layers()), (resumed.layers(), resumed.lora_layers()));
    let without = train(fresh(0.0), arguments(&top.path().join("without")));
    assert_ne!(without.lora_layers(), one.lora_layers());
    let base = AutoModelForCausalLM::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model");
    let saved = PeftModel::from_pretrained(base, &top.path().join("one")).expect("the run's adapter");
    assert_eq!(saved.lora_layers(), one.lora_layers());
}

#[test]
fn each_kind_has_a_rate_of_its_own() {
    let top = tempfile::tempdir().expect("a folder");
    // Adam's first step moves every entry by about the rate
    let (rows, lora) = (0.01, 0.0005);
    let arguments = with!(arguments(&top.path().join("out")); max_steps: Some(1), save_steps: None, learning_rate: Some(rows), lora_learning_rate: Some(lora), lr_scheduler_type: LrScheduler::Constant);
    let (before, after) = (fresh(0.0), train(fresh(0.0), arguments));
    for (before, after) in before.parameters().iter().zip(&after.parameters()) {
        let moved = before.values.iter().zip(after.values).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        let rate = if before.is_lora { lora } else { rows } as f32;
        // A does not move while B is 0
        assert!(moved == 0.0 || (moved - rate).abs() < 0.01 * rate, "{}: {moved}", before.layer);
    }
    let of = |value| Gradient { name: String::new(), values: vec![value] };
    let mut gradients = vec![of(3.0), of(4.0)];
    assert_eq!(clip_grad_norm(&mut gradients, 1.0), 5.0, "one norm for both kinds");
}
