//! Several workers train together: the same bits whatever their number, what they agree on, and what they find.

#[macro_use]
mod common;

use common::{dataset, fixture};
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use toktune::config::{LoraConfig, PeftConfig, TargetModules, TrainableTokenIndices, TrainableTokensConfig};
use toktune::data::{DataOptions, Dataset};
use toktune::models::AutoModel;
use toktune::peft::{PeftModel, get_peft_model};
use toktune::train::{StepLog, TrainOutput, Trainer, TrainerCallback, TrainingArguments};
use toktune::workers::{ThreadWorker, WorkersError, thread_workers};
use toktune::{Device, Error, Result};

/// Ends after a step, and asks for a checkpoint after another.
#[derive(Clone, Copy, Default)]
struct Asks {
    stop_after: Option<u64>,
    save_after: Option<u64>,
    step: u64,
}

impl TrainerCallback for Asks {
    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        self.step = log.step;
        if self.stop_after == Some(log.step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn should_save(&mut self) -> bool {
        self.save_after == Some(self.step)
    }
}

/// What is trained, and how.
#[derive(Clone)]
struct Job {
    fixture: &'static str,
    lora: bool,
    /// On two answers to one prompt.
    preference: bool,
    arguments: TrainingArguments,
}

impl Job {
    fn new(fixture: &'static str, lora: bool, folder: &Path) -> Self {
        let arguments = with!(TrainingArguments::new(folder);
            per_device_train_batch_size: 1, gradient_accumulation_steps: 5, max_steps: Some(4), learning_rate: Some(0.01),
            eval_steps: Some(2), load_best_model_at_end: true);
        Self { fixture, lora, preference: false, arguments }
    }

    /// The run of one worker, or of one that is alone.
    fn run(&self, worker: Option<ThreadWorker>, mut asks: Asks) -> Result<TrainOutput> {
        let base = AutoModel::from_pretrained(fixture(self.fixture), &Device::Cpu)?;
        let data = match self.preference {
            true => {
                let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures_preference/rows.jsonl");
                Dataset::read(&[rows], None, &DataOptions::new(base.vocabulary()))?
            }
            false => dataset(self.fixture, &base),
        };
        let config: PeftConfig = match self.lora {
            true => with!(LoraConfig::default(); r: 2, lora_dropout: 0.2,
                target_modules: Some(TargetModules::parse_lora("all-linear")), trainable_token_indices: Some(TrainableTokenIndices::Tokens(vec![57, 3])))
            .into(),
            false => TrainableTokensConfig::new([57, 3]).into(),
        };
        let mut trainer = Trainer::new(get_peft_model(base, config)?, self.arguments.clone(), data.clone())?;
        trainer = trainer.with_eval(data)?;
        if let Some(worker) = worker {
            trainer = trainer.with_workers(Box::new(worker))?;
        }
        trainer.train(&mut asks)
    }

    /// The runs of so many workers; `asks` says what is asked of each.
    fn runs(&self, count: usize, asks: impl Fn(usize) -> Asks) -> Vec<Result<TrainOutput>> {
        thread::scope(|scope| {
            let started: Vec<_> = thread_workers(count)
                .into_iter()
                .enumerate()
                .map(|(rank, worker)| {
                    let asks = asks(rank);
                    scope.spawn(move || self.run(Some(worker), asks))
                })
                .collect();
            started.into_iter().map(|thread| thread.join().expect("it ends")).collect()
        })
    }

    fn adapter(&self) -> Vec<u8> {
        std::fs::read(self.arguments.output_dir.join("adapter_model.safetensors")).expect("an adapter")
    }
}

#[test]
fn the_same_bits_on_any_number_of_workers() {
    let cases =
        [("llama_tied", false), ("llama_tied", true), ("bert", false), ("bert_pairs", false), ("t5", false)];
    for (fixture, lora) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let alone = Job::new(fixture, lora, &folder.path().join("alone"));
        let expected = alone.run(None, Asks::default()).expect("a run");
        for count in 2..=5 {
            let job = Job::new(fixture, lora, &folder.path().join(count.to_string()));
            for (rank, output) in job.runs(count, |_| Asks::default()).into_iter().enumerate() {
                let output = output.expect("a run");
                assert_eq!(output.evaluations, expected.evaluations, "{fixture} {count} {rank}");
                assert_eq!((output.global_step, output.tokens), (4, expected.tokens));
                assert!(output.sent_bytes > 0);
            }
            assert_eq!(job.adapter(), alone.adapter(), "{fixture}, LoRA {lora}, {count} workers");
        }
    }
}

#[test]
fn answers_are_compared_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    for lora in [false, true] {
        let of = |name: &str| {
            let path = folder.path().join(format!("{name}-{lora}"));
            Job { preference: true, ..Job::new("llama_tied", lora, &path) }
        };
        let alone = of("alone");
        let expected = alone.run(None, Asks::default()).expect("a run");
        for count in [2, 3] {
            let job = of(&count.to_string());
            for output in job.runs(count, |_| Asks::default()) {
                assert_eq!(output.expect("a run").evaluations, expected.evaluations);
            }
            assert_eq!(job.adapter(), alone.adapter(), "{count} workers, LoRA {lora}");
        }
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    for lora in [false, true] {
        let whole = Job::new("llama_tied", lora, &folder.path().join(format!("whole-{lora}")));
        whole.run(None, Asks::default()).expect("a run");
        let mut parts = Job::new("llama_tied", lora, &folder.path().join(format!("parts-{lora}")));
        // any of them may ask for the end
        let stopped = parts.runs(3, |rank| Asks { stop_after: (rank == 2).then_some(2), ..Asks::default() });
        for output in stopped {
            let output = output.expect("a run");
            assert!(output.stopped && output.global_step == 2);
        }
        assert!(parts.arguments.output_dir.join("checkpoint-2").is_dir());
        parts.arguments.resume = true;
        for output in parts.runs(2, |_| Asks::default()) {
            assert_eq!(output.expect("a run").steps, 2);
        }
        assert_eq!(parts.adapter(), whole.adapter());
    }
}

#[test]
fn a_checkpoint_that_any_asks_for_is_written_by_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job::new("llama_tied", false, folder.path());
    job.runs(2, |rank| Asks { save_after: (rank == 1).then_some(3), ..Asks::default() })
        .into_iter()
        .for_each(|output| drop(output.expect("a run")));
    let mut found: Vec<String> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("checkpoint"))
        .collect();
    found.sort();
    assert_eq!(found, ["checkpoint-3", "checkpoint-4"]);
}

#[test]
fn who_trains_something_else_is_found_before_the_first_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job::new("llama_tied", false, folder.path());
    let mut other = job.clone();
    other.arguments.seed = 7;
    let found: Vec<Result<TrainOutput>> = thread::scope(|scope| {
        let started: Vec<_> = thread_workers(3)
            .into_iter()
            .enumerate()
            .map(|(rank, worker)| {
                let job = if rank == 1 { &other } else { &job };
                scope.spawn(move || job.run(Some(worker), Asks::default()))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    for output in found {
        let error = output.expect_err("another seed");
        assert!(
            matches!(&error, Error::Workers(of) if matches!(**of, WorkersError::Other { worker: 1, .. }))
        );
        let text = error.to_string();
        assert!(
            text.contains("process 1 on this machine") && text.contains("seed is 7, expected 42"),
            "{text}"
        );
    }
    assert!(!folder.path().join("adapter_model.safetensors").exists());
}

#[test]
fn more_workers_than_micro_batches_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = Job::new("llama_tied", false, folder.path());
    for output in job.runs(6, |_| Asks::default()) {
        let text = output.expect_err("too many").to_string();
        assert!(
            text.contains("6 processes for 5 micro-batches a step") && text.contains("expected 1 to 5"),
            "{text}"
        );
    }
}
