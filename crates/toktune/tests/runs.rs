//! What becomes of a run that is stopped, resumed, damaged, or begun twice.

#[macro_use]
mod common;

use common::{fixture, rows_file};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use toktune::config::TrainableTokensConfig;
use toktune::data::{DataOptions, Dataset};
use toktune::models::AutoModelForCausalLM;
use toktune::peft::{PeftModel, get_peft_model};
use toktune::train::{
    LrScheduler, StepLog, TrainOutput, Trainer, TrainerCallback, TrainerWarning, TrainingArguments,
};
use toktune::{Device, Error, Result};

const TOKENS: [u32; 2] = [57, 3];

fn base() -> toktune::PretrainedModel {
    AutoModelForCausalLM::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model")
}

fn arguments(folder: &Path, steps: u64) -> TrainingArguments {
    with!(TrainingArguments::new(folder); per_device_train_batch_size: 3, max_steps: Some(steps), learning_rate: Some(0.01))
}

/// Stops after a step, and notes the warnings.
#[derive(Default)]
struct Told {
    stop_after: Option<u64>,
    warnings: Vec<TrainerWarning>,
    saved: Vec<PathBuf>,
    began: Option<u64>,
}

impl TrainerCallback for Told {
    fn on_train_begin(&mut self, _: &PeftModel, step: u64) {
        self.began = Some(step);
    }

    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        if self.stop_after == Some(log.step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn on_save(&mut self, folder: &Path) {
        self.saved.push(folder.to_path_buf());
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        self.warnings.push(warning.clone());
    }
}

fn train(arguments: TrainingArguments, told: &mut Told) -> Result<(PeftModel, TrainOutput)> {
    let model = get_peft_model(base(), TrainableTokensConfig::new(TOKENS))?;
    let data = Dataset::read(&[rows_file("llama_tied")], None, &DataOptions::new(1 << 20))?;
    let mut trainer = Trainer::new(model, arguments, data.clone())?;
    let output = trainer.train(told)?;
    Ok((trainer.model, output))
}

/// A run of two steps of six, stopped with a checkpoint.
fn stopped(folder: &Path) -> TrainingArguments {
    let arguments = arguments(folder, 6);
    let mut told = Told { stop_after: Some(2), ..Told::default() };
    let (_, output) = train(arguments.clone(), &mut told).expect("stopped");
    assert!(output.stopped && output.global_step == 2 && output.after.is_none());
    assert_eq!(told.saved, [folder.join("checkpoint-2"), folder.to_path_buf()]);
    arguments
}

#[test]
fn a_callback_stops_a_run_that_then_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let (uninterrupted, _) = train(arguments(&whole, 6), &mut Told::default()).expect("a run");
    let arguments = stopped(&parts);
    // the rows so far are an adapter, and so is the checkpoint
    for adapter in [parts.clone(), parts.join("checkpoint-2")] {
        PeftModel::from_pretrained(base(), &adapter).expect("an adapter");
    }
    let mut told = Told::default();
    let (resumed, output) = train(with!(arguments; resume: true), &mut told).expect("resumed");
    assert_eq!((told.began, output.global_step, output.stopped), (Some(2), 6, false));
    assert_eq!(resumed.layers(), uninterrupted.layers());
    assert!(told.warnings.is_empty());
}

#[test]
fn a_run_is_stopped_in_the_middle_of_an_evaluation() {
    /// Wants to stop from the second batch of the evaluation after the second step on.
    #[derive(Default)]
    struct Impatient {
        steps: u64,
        asked: u32,
    }
    impl TrainerCallback for Impatient {
        fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
            (self.steps, self.asked) = (log.step, 0);
            ControlFlow::Continue(())
        }

        fn on_prediction_step(&mut self) -> ControlFlow<()> {
            self.asked += 1;
            if self.steps == 2 && self.asked > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let model = get_peft_model(base(), TrainableTokensConfig::new(TOKENS)).expect("an adapter");
    let data = Dataset::read(&[rows_file("llama_tied")], None, &DataOptions::new(1 << 20)).expect("rows");
    let often = with!(arguments(&out, 6); eval_steps: Some(1));
    let mut trainer = Trainer::new(model, often, data.clone())
        .and_then(|trainer| trainer.with_eval(data))
        .expect("a trainer");
    let mut impatient = Impatient::default();
    let output = trainer.train(&mut impatient).expect("stopped");
    assert!(output.stopped && output.global_step == 2);
    assert!(out.join("checkpoint-2").is_dir());
}

#[test]
fn a_run_that_is_to_be_resumed_and_has_no_checkpoint_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut told = Told::default();
    let fresh = with!(arguments(&folder.path().join("out"), 1); resume: true);
    train(fresh, &mut told).expect("begun");
    assert_eq!((told.warnings.as_slice(), told.began), (&[TrainerWarning::NoCheckpoint][..], Some(0)));
}

#[test]
fn a_finished_run_is_made_longer_and_never_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    let (longer, _) = train(arguments(&whole, 6), &mut Told::default()).expect("a run");
    train(arguments(&out, 4), &mut Told::default()).expect("a run");
    let resuming = |steps| with!(arguments(&out, steps); resume: true);
    let (again, output) = train(resuming(4), &mut Told::default()).expect("done already");
    assert_eq!((output.global_step, output.first_and_last), (4, None));
    assert_ne!(again.layers(), longer.layers());
    let (resumed, output) = train(resuming(6), &mut Told::default()).expect("longer");
    assert_eq!(resumed.layers(), longer.layers());
    // what the run began with is not what it was resumed with
    let (first, last) = output.first_and_last.expect("steps");
    assert_eq!((first.step, last.step), (1, 6));
    for entry in std::fs::read_dir(&out).expect("there").flatten() {
        if entry.file_name().to_string_lossy().starts_with("checkpoint-") {
            std::fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
    let before = std::fs::read(out.join("adapter_model.safetensors")).expect("rows");
    let problem = train(resuming(8), &mut Told::default()).expect_err("nothing to go on from").to_string();
    assert!(problem.contains("there is an adapter, but no checkpoint"), "{problem}");
    assert_eq!(std::fs::read(out.join("adapter_model.safetensors")).expect("rows"), before);
}

#[test]
fn other_settings_are_refused_by_name_or_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let begun = with!(stopped(&out); resume: true);
    let changed: [(&str, TrainingArguments); 7] = [
        ("seed", with!(begun.clone(); seed: 43)),
        ("shuffle", with!(begun.clone(); shuffle: false)),
        ("learning_rate", with!(begun.clone(); learning_rate: Some(0.02))),
        ("lr_scheduler", with!(begun.clone(); lr_scheduler_type: LrScheduler::Linear)),
        ("warmup_steps", with!(begun.clone(); warmup_steps: 1)),
        ("batch_size", with!(begun.clone(); per_device_train_batch_size: 2)),
        ("weight_decay", with!(begun.clone(); weight_decay: 0.1)),
    ];
    for (name, arguments) in changed {
        let error = train(arguments, &mut Told::default()).expect_err(name);
        let Error::ResumeMismatch { changes, .. } = &error else { panic!("{error}") };
        assert!(changes.iter().any(|change| change.name == name), "{error}");
        assert!(error.to_string().contains(&format!("{name} was ")), "{error}");
    }
    // with a constant rate a run may be longer than it was to be
    let longer = with!(begun.clone(); max_steps: Some(7));
    let (_, output) = train(longer, &mut Told::default()).expect("longer");
    assert_eq!(output.global_step, 7);
    let (anyway, mut told) = (with!(begun; resume_anyway: true, weight_decay: 0.1), Told::default());
    train(anyway, &mut told).expect("all the same");
    let [TrainerWarning::OtherSettings(changes)] = told.warnings.as_slice() else {
        panic!("{:?}", told.warnings)
    };
    assert_eq!(
        (changes[0].name.as_str(), changes[0].was.as_str(), changes[0].is.as_str()),
        ("weight_decay", "0", "0.1")
    );
}

#[test]
fn another_model_or_other_data_are_another_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let begun = with!(stopped(&out); resume: true);
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("made");
    common::copy_fixture("llama_tied", &model, |bytes, range| bytes[range.start] ^= 1);
    let other = AutoModelForCausalLM::from_pretrained(&model, &Device::Cpu).expect("a model");
    let run = |base, rows: &Path| {
        let model = get_peft_model(base, TrainableTokensConfig::new(TOKENS)).expect("an adapter");
        let data = Dataset::read(&[rows], None, &DataOptions::new(1 << 20)).expect("rows");
        Trainer::new(model, begun.clone(), data.clone()).expect("a trainer").train(&mut ()).map(drop)
    };
    let problem = run(other, &rows_file("llama_tied")).expect_err("another model").to_string();
    assert!(problem.contains("model (hash of its tensors) is another"), "{problem}");
    let model = get_peft_model(base(), TrainableTokensConfig::new(TOKENS)).expect("an adapter");
    let short = with!(DataOptions::new(1 << 20); max_length: Some(3));
    let data = Dataset::read(&[rows_file("llama_tied")], None, &short).expect("rows");
    let mut trainer = Trainer::new(model, begun.clone(), data.clone()).expect("a trainer");
    let problem = trainer.train(&mut ()).map(drop).expect_err("shorter rows").to_string();
    assert!(problem.contains("max_length was none, is 3 now"), "{problem}");
    let text = std::fs::read_to_string(rows_file("llama_tied")).expect("rows");
    let turned: Vec<&str> = text.lines().rev().collect();
    std::fs::write(folder.path().join("turned.jsonl"), turned.join("\n")).expect("written");
    let problem = run(base(), &folder.path().join("turned.jsonl")).expect_err("another order").to_string();
    assert!(
        problem.contains("data (hash of the encoded rows) is another") && !problem.contains("rows of data"),
        "{problem}"
    );
}

#[test]
fn a_damaged_checkpoint_offers_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let saving = with!(arguments(&out, 6); save_steps: Some(2));
    let mut told = Told { stop_after: Some(4), ..Told::default() };
    train(saving.clone(), &mut told).expect("stopped");
    let newest = out.join("checkpoint-4");
    let resuming = with!(saving; resume: true);
    for file in ["trainer_state.json", "optimizer.safetensors", "adapter_model.safetensors"] {
        let whole = std::fs::read(newest.join(file)).expect("there");
        std::fs::write(newest.join(file), &whole[..whole.len() / 2]).expect("cut");
        let problem = train(resuming.clone(), &mut Told::default()).expect_err("damaged").to_string();
        assert!(
            problem.contains("checkpoint-4 is damaged: ") && problem.contains("to go on from "),
            "{problem}"
        );
        assert!(problem.ends_with("checkpoint-2"), "{problem}");
        std::fs::write(newest.join(file), &whole).expect("mended");
    }
    std::fs::remove_dir_all(&newest).expect("removed");
    let mut told = Told::default();
    train(resuming.clone(), &mut told).expect("from the one before");
    assert_eq!(told.began, Some(2));
}

#[test]
fn leftovers_stand_in_nobodys_way_and_a_folder_has_one_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).expect("made");
    std::fs::write(out.join(".toktune-x.tmp"), "half").expect("written");
    std::fs::create_dir(out.join(".checkpoint-9.part")).expect("made");
    /// Begins another run into the same folder while this one goes on.
    struct Second(PathBuf, Option<String>);
    impl TrainerCallback for Second {
        fn on_train_begin(&mut self, _: &PeftModel, _step: u64) {
            let second = train(arguments(&self.0, 1), &mut Told::default());
            self.1 = second.err().map(|error| error.to_string());
        }
    }
    let model = get_peft_model(base(), TrainableTokensConfig::new(TOKENS)).expect("an adapter");
    let data = Dataset::read(&[rows_file("llama_tied")], None, &DataOptions::new(1 << 20)).expect("rows");
    let mut second = Second(out.clone(), None);
    let mut trainer = Trainer::new(model, arguments(&out, 1), data.clone()).expect("a trainer");
    trainer.train(&mut second).expect("a run");
    let problem = second.1.expect("refused");
    assert!(problem.contains("another run writes into this folder"), "{problem}");
    let left: Vec<String> = std::fs::read_dir(&out)
        .expect("there")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn rows_that_grow_without_bound_end_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let wild = with!(arguments(&out, 20); learning_rate: Some(1e18));
    let error = train(wild, &mut Told::default()).expect_err("it diverges");
    assert!(
        matches!(&error, Error::Diverged { step: 1, source, .. } if matches!(**source, Error::Growth { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("the learning rate is far too high"), "{error}");
    PeftModel::from_pretrained(base(), &out).expect("the last good rows");
    // a rate that is merely high is the user's own
    let high = with!(arguments(&folder.path().join("high"), 20); learning_rate: Some(0.5));
    train(high, &mut Told::default()).expect("it stays in bounds");
}
