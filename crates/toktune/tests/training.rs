//! The training loop and the adapter's files, on the committed models.

#[macro_use]
mod common;

use common::{fixture, rows_file};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::Path;
use toktune::Device;
use toktune::Error;
use toktune::config::{TargetModules, TrainableTokensConfig};
use toktune::data::{DataOptions, Dataset};
use toktune::engine::constants::{CachedExamples, ConstantCache};
use toktune::engine::runner::{StepOptions, Wanted};
use toktune::models::AutoModelForCausalLM;
use toktune::peft::PeftError;
use toktune::peft::{ADAPTER_FILE, PeftModel, RowInit, SaveEmbeddingLayers, get_peft_model};
use toktune::train::{
    CacheConstants, CacheLocation, Evaluation, LOG_FILE, LrScheduler, MemoryBudget, StepLog, TrainOutput,
    Trainer, TrainerCallback, TrainingArguments, evaluate,
};

const TOKENS: [u32; 4] = [57, 3, 90, 21];

fn model(name: &str, tokens: &[u32]) -> PeftModel {
    let base = AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model");
    get_peft_model(base, TrainableTokensConfig::new(tokens)).expect("an adapter")
}

fn data(name: &str) -> Dataset {
    Dataset::read(&[rows_file(name)], None, &DataOptions::new(1 << 20)).expect("rows")
}

fn arguments(folder: &Path, steps: u64) -> TrainingArguments {
    with!(TrainingArguments::new(folder); per_device_train_batch_size: 3, max_steps: Some(steps), learning_rate: Some(0.01), lr_scheduler_type: LrScheduler::Cosine, warmup_steps: 2)
}

fn train(
    arguments: TrainingArguments,
    callback: &mut dyn TrainerCallback,
) -> toktune::Result<(PeftModel, TrainOutput)> {
    let data = data("llama_tied");
    let mut trainer = Trainer::new(model("llama_tied", &TOKENS), arguments, data.clone())?.with_eval(data)?;
    let output = trainer.train(callback)?;
    Ok((trainer.model, output))
}

fn log(folder: &Path) -> Vec<StepLog> {
    let text = std::fs::read_to_string(folder.join(LOG_FILE)).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("a step")).collect()
}

#[derive(Default)]
struct Seen {
    steps: Vec<u64>,
    evaluations: Vec<u64>,
    saves: usize,
}

impl TrainerCallback for Seen {
    fn on_step_end(&mut self, model: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        assert_eq!(model.token_indices(), TOKENS);
        self.steps.push(log.step);
        ControlFlow::Continue(())
    }

    fn on_evaluate(&mut self, _: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        assert!(evaluation.labels > 0 && evaluation.tokens.len() == TOKENS.len());
        self.evaluations.push(step);
        ControlFlow::Continue(())
    }

    fn on_save(&mut self, _folder: &Path) {
        self.saves += 1;
    }
}

#[test]
fn a_run_learns_reports_and_saves() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let mut seen = Seen::default();
    let arguments = with!(arguments(&out, 10); eval_steps: Some(4), save_steps: Some(5));
    let (trained, output) = train(arguments, &mut seen).expect("a run");
    assert_eq!(seen.steps, (1..=10).collect::<Vec<_>>());
    assert_eq!(seen.evaluations, [0, 4, 8, 10]);
    assert_eq!(seen.saves, 3);
    let (before, after) = (output.before.expect("evaluated"), output.after.expect("evaluated"));
    assert!(after.loss < before.loss - 0.1, "{} then {}", before.loss, after.loss);
    assert!(after.token_loss < before.token_loss);
    let log = log(&out);
    assert_eq!(log.len(), 10);
    assert_eq!((log[0].learning_rate, log[2].learning_rate), (0.0, 0.01));
    // eight rows in batches of three: two full ones and a short one make an epoch
    assert_eq!(log.iter().map(|l| l.epoch).take(4).collect::<Vec<_>>(), [0.375, 0.75, 1.0, 1.375]);
    assert!(log.iter().all(|l| l.tokens > 0 && l.loss_tokens > 0 && l.grad_norm > 0.0 && l.seconds > 0.0));
    for name in ["adapter_config.json", ADAPTER_FILE, "README.md"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let again = PeftModel::from_pretrained(
        AutoModelForCausalLM::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model"),
        &out,
    )
    .expect("an adapter");
    assert_eq!(again.layers(), trained.layers());
}

#[test]
fn resuming_gives_the_run_that_was_not_interrupted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let (uninterrupted, _) = train(arguments(&whole, 9), &mut ()).expect("a run");
    // interrupted: the same schedule, left after seven steps with a checkpoint at the fifth
    struct Interrupt;
    impl TrainerCallback for Interrupt {
        fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
            assert!(log.step < 7, "interrupted");
            ControlFlow::Continue(())
        }
    }
    let saving = with!(arguments(&parts, 9); save_steps: Some(5));
    let interrupted = std::panic::catch_unwind(|| train(saving.clone(), &mut Interrupt));
    assert!(interrupted.is_err(), "the callback stops the run");
    let (resumed, output) = train(with!(saving.clone(); resume: true), &mut ()).expect("a run");
    assert_eq!(resumed.layers(), uninterrupted.layers());
    assert_eq!(output.global_step, 9);
    assert_eq!((output.first_and_last.expect("steps").0.step, output.steps), (1, 4));
    let losses = |folder: &Path| log(folder).iter().map(|l| (l.step, l.loss)).collect::<Vec<_>>();
    assert_eq!(losses(&parts), losses(&whole));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let run = |threads: usize| {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| train(arguments(&folder.path().join("out"), 4), &mut ()).expect("a run").0)
    };
    assert_eq!(run(1).layers(), run(3).layers());
}

#[test]
fn constants_from_earlier_epochs_and_kept_activations_do_not_change_a_bit() {
    let run = |change: &dyn Fn(&mut TrainingArguments)| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut arguments = arguments(&folder.path().join("out"), 9); // three epochs, each in an order of its own
        change(&mut arguments);
        let (model, _) = train(arguments, &mut ()).expect("a run");
        let log = log(&folder.path().join("out")).iter().map(|l| (l.loss, l.grad_norm)).collect::<Vec<_>>();
        (model.layers().to_vec(), log)
    };
    let plain = run(&|_| ());
    let budgets =
        [MemoryBudget::Free, MemoryBudget::Min, MemoryBudget::Bytes(1), MemoryBudget::Bytes(1 << 40)];
    for budget in budgets {
        assert!(run(&|a| a.memory_budget = budget) == plain, "{budget:?}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    for location in [CacheLocation::Memory, CacheLocation::Folder(folder.path().into())] {
        // everything fits, some examples do, none does
        for limit in [1 << 30, 20_000, 10] {
            let cache = CacheConstants::new(location.clone(), limit);
            assert!(run(&|a| a.cache_constants = Some(cache.clone())) == plain, "{cache:?}");
        }
    }
    let missing = folder.path().join("missing");
    let cache = CacheConstants::new(CacheLocation::Folder(missing.clone()), 1);
    let arguments = with!(arguments(folder.path(), 1); cache_constants: Some(cache));
    let message = arguments.check().expect_err("no such folder").to_string();
    assert!(message.contains(&*missing.to_string_lossy()), "{message}");
}

#[test]
fn the_second_epoch_finds_the_constants_of_the_first() {
    let (model, data) = (model("llama_tied", &TOKENS), data("llama_tied"));
    let settings = CacheConstants::new(CacheLocation::Memory, 1 << 30);
    let mut cache = ConstantCache::new(&settings).expect("a cache");
    let examples: Vec<usize> = (0..data.len()).collect();
    let batch = data.batch(&examples, 0).expect("whole");
    let mut step = || {
        let constants = Some(CachedExamples { cache: &mut cache, examples: &examples });
        let options = StepOptions::new(0, constants);
        let trained = model.active().trained();
        let output = model.base().step(&batch, &trained, Wanted::Gradients, options).expect("a step");
        (output.losses.losses, output.gradients, cache.len(), cache.bytes())
    };
    let (losses, gradients, examples, bytes) = step();
    assert!(examples > 0 && bytes > 0);
    let second = step();
    assert_eq!((&losses.len(), &gradients), (&second.0.len(), &second.1));
    assert_eq!((examples, bytes), (second.2, second.3));
    assert_eq!(losses, second.0);
}

#[test]
fn accumulation_weighs_by_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let file_order = |name: &str, batch: usize, accumulation: usize| {
        let arguments = with!(arguments(&folder.path().join(name), 3); per_device_train_batch_size: batch, gradient_accumulation_steps: accumulation, shuffle: false);
        train(arguments, &mut ()).expect("a run")
    };
    let (whole, whole_output) = file_order("whole", 8, 1);
    let (parts, parts_output) = file_order("parts", 2, 4);
    let rows = |model: &PeftModel| model.layers()[0].rows().values.clone();
    let (whole, parts) = (rows(&whole), rows(&parts));
    let worst = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "rows differ by {worst}");
    let loss = |output: &TrainOutput| output.first_and_last.as_ref().expect("steps").1.loss;
    assert!((loss(&whole_output) - loss(&parts_output)).abs() < 1e-6);
}

/// The first rows of a committed model, with what `change` makes of each.
fn changed_rows(count: usize, change: impl Fn(usize, &mut Map<String, Value>)) -> Dataset {
    let text = std::fs::read_to_string(rows_file("llama_tied")).expect("rows");
    let rows = text.lines().take(count).enumerate().map(|(index, line)| {
        let mut row: Map<String, Value> = serde_json::from_str(line).expect("a row");
        change(index, &mut row);
        row
    });
    Dataset::from_rows(rows, None, &DataOptions::new(1 << 20)).expect("rows")
}

#[test]
fn labels_count_what_their_rows_say() {
    // the first row counts a quarter, the second as usual, each label of the third for itself, and half of that
    let weight_of = |row: usize, label: usize| [0.25, 1.0, (label % 3) as f64 / 2.0][row];
    let data = changed_rows(3, |index, row| {
        let labels = row["labels"].as_array().expect("labels").len();
        match index {
            0 => drop(row.insert("loss_weight".into(), 0.25.into())),
            2 => {
                row.insert("loss_weights".into(), (0..labels).map(|label| label % 3).collect());
                row.insert("loss_weight".into(), 0.5.into());
            }
            _ => {}
        }
    });
    let plain = changed_rows(3, |_, _| {});
    let model = model("llama_tied", &TOKENS);
    let step = |data: &Dataset, rows: &[usize], wanted: Wanted| {
        let batch = data.batch(rows, 0).expect("a batch");
        model.base().step(&batch, &model.active().trained(), wanted, StepOptions::default()).expect("a step")
    };
    let first = plain.example(0).expect("a row").labels;
    let chosen = first.into_iter().skip(1).flatten().next().expect("a label");
    let (mut sum, mut weight, mut counted, mut of_token) = (0.0, 0.0, 0, (0.0, 0));
    for row in 0..3 {
        for loss in step(&plain, &[row], Wanted::Losses).losses.losses {
            // a row of a decoder predicts the next one's label
            let counts = weight_of(row, loss.row.expect("a row") + 1);
            (sum, weight) = (sum + counts * f64::from(loss.value), weight + counts);
            counted += usize::from(counts > 0.0);
            if counts > 0.0 && loss.target == Some(chosen) {
                of_token = (of_token.0 + f64::from(loss.value), of_token.1 + 1);
            }
        }
    }
    let expected = sum / weight;
    assert!(of_token.1 > 0 && counted < plain.label_tokens());
    assert_eq!(counted, data.label_tokens());
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    let found = evaluate(model.base(), model.active(), &data, 2, &[chosen]).expect("evaluated");
    close(found.loss, expected);
    assert_eq!(found.labels, counted);
    // how well a token is predicted is a plain mean
    close(found.token_loss.expect("occurs"), of_token.0 / of_token.1 as f64);

    // gradients are weighed as the losses are: the sum over the rows, each by its weight
    let of_rows = changed_rows(3, |index, row| {
        row.insert("loss_weight".into(), [0.25, 2.0, 1.0][index].into());
    });
    let weighted = step(&of_rows, &[0, 1, 2], Wanted::Gradients).gradients.concat();
    let alone: Vec<Vec<f32>> =
        (0..3).map(|row| step(&plain, &[row], Wanted::Gradients).gradients.concat()).collect();
    for (at, found) in weighted.iter().enumerate() {
        close(f64::from(*found), f64::from(0.25 * alone[0][at] + 2.0 * alone[1][at] + alone[2][at]));
    }

    // the step divides by the sum of the weights, over all of its batches
    let folder = tempfile::tempdir().expect("a folder");
    for (batch, accumulation) in [(3, 1), (1, 3)] {
        let arguments = with!(arguments(&folder.path().join(batch.to_string()), 1); per_device_train_batch_size: batch, gradient_accumulation_steps: accumulation, shuffle: false);
        let model = self::model("llama_tied", &TOKENS);
        let mut trainer = Trainer::new(model, arguments, data.clone()).expect("a trainer");
        let log = trainer.step().expect("a step");
        close(log.loss, expected);
        assert_eq!(log.loss_tokens, counted);
    }
}

#[test]
fn leftover_micro_batches_make_a_shorter_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    // eight rows, one a micro-step, three a step: 3 + 3 + 2 rows an epoch
    let arguments = with!(arguments(&out, 1); per_device_train_batch_size: 1, gradient_accumulation_steps: 3, max_steps: None, num_train_epochs: 2.0);
    train(arguments, &mut ()).expect("a run");
    assert_eq!(log(&out).iter().map(|l| l.epoch).collect::<Vec<_>>(), [0.375, 0.75, 1.0, 1.375, 1.75, 2.0]);
}

#[test]
fn a_folder_in_use_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("thesis.txt"), "mine").expect("written");
    let message = train(arguments(folder.path(), 1), &mut ()).expect_err("in use").to_string();
    assert!(message.contains("thesis.txt"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    let out = folder.path().join("out");
    train(arguments(&out, 1), &mut ()).expect("a run");
    let message = train(arguments(&out, 1), &mut ()).expect_err("an earlier run").to_string();
    assert!(message.contains("`resume`"), "{message}");
}

#[test]
fn a_run_that_leaves_the_finite_numbers_keeps_the_last_good_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let wild = with!(arguments(&out, 20); learning_rate: Some(1e38), lr_scheduler_type: LrScheduler::Constant, warmup_steps: 0);
    let error = train(wild, &mut ()).expect_err("it diverges");
    // this rate leaves the range of f32 within the first update, which is noticed there and not a step later
    assert!(matches!(error, Error::Diverged { step: 1, .. }), "{error}");
    let kept = model("llama_tied", &TOKENS).unload();
    let kept = PeftModel::from_pretrained(kept, &out).expect("the rows before the step");
    let data = data("llama_tied");
    let evaluation =
        toktune::train::evaluate(kept.base(), kept.active(), &data, 8, &TOKENS).expect("a finite loss");
    assert!(evaluation.loss.is_finite());
}

#[test]
fn weights_that_are_not_finite_are_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    common::copy_fixture("llama_tied", folder.path(), |bytes, range| {
        bytes[range.start + 400..range.start + 404].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let base = AutoModelForCausalLM::from_pretrained(folder.path(), &Device::Cpu).expect("a model");
    let model = get_peft_model(base, TrainableTokensConfig::new(TOKENS)).expect("an adapter");
    let (data, out) = (data("llama_tied"), folder.path().join("out"));
    let mut trainer = Trainer::new(model, arguments(&out, 2), data.clone())
        .and_then(|trainer| trainer.with_eval(data))
        .expect("a trainer");
    let message = trainer.train(&mut ()).expect_err("a weight is not a number").to_string();
    assert!(message.contains("model.layers.0.mlp.down_proj.weight"), "{message}");
    assert!(!out.exists());
}

#[test]
fn pefts_adapters_load_and_come_back_the_same() {
    for name in ["llama_tied", "llama_untied", "llama_untied_head", "llama_rope3", "gemma3"] {
        let adapter = fixture(name).join("adapter");
        let base = AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model");
        let model = PeftModel::from_pretrained(base, &adapter).expect("PEFT's adapter");
        let folder = tempfile::tempdir().expect("a folder");
        model.save_pretrained(folder.path(), SaveEmbeddingLayers::Auto).expect("saved");
        let tensors = |folder: &Path| {
            let bytes = std::fs::read(folder.join(ADAPTER_FILE)).expect("tensors");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            let mut all: Vec<_> = tensors
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert_eq!(tensors(&adapter), tensors(folder.path()), "{name}");
        let config = |folder: &Path| -> serde_json::Value {
            let text = std::fs::read(folder.join("adapter_config.json")).expect("a configuration");
            serde_json::from_slice(&text).expect("JSON")
        };
        assert_eq!(config(&adapter), config(folder.path()), "{name}");
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let base =
        |name: &str| AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model");
    let refused = |name: &str, adapter: &str| {
        PeftModel::from_pretrained(base(name), &fixture(adapter).join("adapter"))
            .expect_err("another model's")
            .to_string()
    };
    // an untied model has rows of its own for the head, of which the tied adapter's copy would be one
    let message = refused("llama_untied_head", "llama_tied");
    assert!(message.contains("unexpected tensor") && message.contains("lm_head"), "{message}");
    let message = refused("llama_untied", "gemma3");
    assert!(message.contains("109") && message.contains("97 rows"), "{message}");
}

#[test]
fn targets_are_found_or_refused_by_name() {
    let wrap = |name: &str, target: Option<TargetModules>| {
        let base = AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model");
        let config = with!(TrainableTokensConfig::new([1, 2]); target_modules: target);
        get_peft_model(base, config)
    };
    let names = |list: &[&str]| Some(TargetModules::Names(list.iter().map(|n| n.to_string()).collect()));
    let modules = |model: PeftModel| -> Vec<String> {
        model.layers().iter().flat_map(|l| l.modules().map(str::to_string).collect::<Vec<_>>()).collect()
    };
    let of = |name: &str, target| modules(wrap(name, target).expect("a target"));
    assert_eq!(of("llama_tied", None), ["model.embed_tokens", "lm_head"]);
    assert_eq!(of("llama_untied", None), ["model.embed_tokens"]);
    assert_eq!(of("llama_untied", names(&["lm_head"])), ["lm_head"]);
    assert_eq!(of("llama_untied", names(&["embed_tokens", "lm_head"])), ["model.embed_tokens", "lm_head"]);
    assert_eq!(of("llama_tied", names(&["embed_tokens", "lm_head"])), ["model.embed_tokens", "lm_head"]);
    assert_eq!(of("llama_untied", Some(TargetModules::Pattern(".*embed.*".into()))), ["model.embed_tokens"]);
    let refused = |name: &str, target| wrap(name, target).expect_err("no such target");
    let error = refused("llama_tied", names(&["wte"]));
    assert!(
        matches!(error, PeftError::NoTarget { .. }) && error.to_string().contains("model.embed_tokens"),
        "{error}"
    );
    let error = refused("llama_tied", names(&["q_proj"]));
    assert!(
        matches!(error, PeftError::NotATokenMatrix { .. }) && error.to_string().contains("q_proj"),
        "{error}"
    );
    // trained apart from the embedding whose matrix it is, as in PEFT
    assert_eq!(of("llama_tied", names(&["lm_head"])), ["lm_head"]);
}

#[test]
fn the_head_of_an_untied_model_trains_alone() {
    let base = AutoModelForCausalLM::from_pretrained(fixture("llama_untied"), &Device::Cpu).expect("a model");
    let target = Some(TargetModules::Names(vec!["lm_head".into()]));
    let config = with!(TrainableTokensConfig::new([96, 4, 33]); target_modules: target);
    let (model, data) = (get_peft_model(base, config).expect("an adapter"), data("llama_untied"));
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = arguments(&folder.path().join("out"), 8);
    let output = Trainer::new(model, arguments, data.clone())
        .and_then(|trainer| trainer.with_eval(data))
        .and_then(|mut trainer| trainer.train(&mut ()));
    let output = output.expect("a run");
    assert!(output.after.expect("evaluated").loss < output.before.expect("evaluated").loss);
}

#[test]
fn added_rows_start_from_the_mean_and_can_be_trained() {
    for name in ["llama_tied", "llama_untied_head"] {
        let mut base = AutoModelForCausalLM::from_pretrained(fixture(name), &Device::Cpu).expect("a model");
        let rows = base.vocabulary();
        base.resize_token_embeddings(rows - 10);
        assert_eq!(base.vocabulary(), rows, "rows are never taken away");
        base.resize_token_embeddings(rows + 2);
        assert_eq!((base.vocabulary(), base.head().rows()), (rows + 2, rows + 2));
        let (mean, rms) = base.embedding().statistics();
        let (head_mean, _) = base.head().statistics();
        let added = rows as u32;
        let config = with!(TrainableTokensConfig::new([added, 5]); target_modules: Some(TargetModules::Pattern(".*embed_tokens|lm_head".into())));
        let mut model = get_peft_model(base, config).expect("an adapter");
        for layer in model.layers() {
            let expected = if layer.name() == "lm_head" { &head_mean } else { &mean };
            assert_eq!(layer.rows().row(0), expected.as_slice(), "{name} {}", layer.name());
        }
        let five = model.layers()[0].rows().row(1).to_vec();
        model.init_rows(&[added], RowInit::Random { seed: 1 });
        let random = model.layers()[0].rows().row(0);
        let size = (random.iter().map(|x| x * x).sum::<f32>() / random.len() as f32).sqrt();
        assert!(size > 0.3 * rms && size < 3.0 * rms, "{size} {rms}");
        assert_eq!(model.layers()[0].rows().row(1), five);
        model.init_rows(&[added, 5], RowInit::Mean);
        assert_eq!(model.layers()[0].rows().row(1), mean.as_slice());
        model.init_rows(&[added, 5], RowInit::Base);
        assert_eq!(model.layers()[0].rows().row(1), five);
    }
}
