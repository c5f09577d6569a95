//! The norms of trained rows over a run, and the best rows of one.

#[macro_use]
mod common;

use common::{dataset, fixture};
use std::ops::ControlFlow;
use std::path::Path;
use toktune::models::AutoModelForCausalLM;
use toktune::train::{Evaluation, LOG_FILE, OddRow, RowNorm, StepLog, TrainOutput, TrainerWarning, evaluate};
use toktune::{Device, PeftModel, Recipe, Trainer, TrainerCallback, TrainingArguments};

const TOKENS: [u32; 3] = [57, 3, 90];

fn model() -> PeftModel {
    let base =
        AutoModelForCausalLM::from_pretrained(fixture("llama_untied_head"), &Device::Cpu).expect("a model");
    Recipe::new(TOKENS).apply(base).expect("an adapter")
}

fn arguments(folder: &Path, rate: f64) -> TrainingArguments {
    with!(TrainingArguments::new(folder); per_device_train_batch_size: 3, max_steps: Some(8), learning_rate: Some(rate))
}

#[derive(Default)]
struct Seen {
    odd: Vec<OddRow>,
    evaluations: Vec<(u64, f64, Vec<f32>)>,
    stop_after: Option<u64>,
}

impl TrainerCallback for Seen {
    fn on_step_end(&mut self, _: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        match self.stop_after == Some(log.step) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn on_evaluate(&mut self, model: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        self.evaluations.push((step, evaluation.loss, model.layers()[0].rows().values.clone()));
        ControlFlow::Continue(())
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        if let TrainerWarning::OddNorm(odd) = warning {
            self.odd.push(odd.clone());
        }
    }
}

fn run(arguments: TrainingArguments, seen: &mut Seen) -> (Trainer, TrainOutput) {
    let model = model();
    let data = dataset("llama_untied_head", model.base());
    let mut trainer =
        Trainer::new(model, arguments, data.clone()).and_then(|t| t.with_eval(data)).expect("a run");
    let output = trainer.train(seen).expect("trained");
    (trainer, output)
}

fn norms(model: &PeftModel) -> Vec<f64> {
    let layers = model.layers().iter().map(|layer| layer.rows());
    layers.flat_map(|rows| (0..rows.indices().len()).map(|at| rows.norm(at))).collect()
}

fn log(folder: &Path) -> Vec<StepLog> {
    let text = std::fs::read_to_string(folder.join(LOG_FILE)).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("a step")).collect()
}

#[test]
fn norms_are_logged_and_held_as_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let of = |norm: RowNorm, name: &str| {
        let folder = folder.path().join(name);
        let mut seen = Seen::default();
        let (trainer, _) = run(with!(arguments(&folder, 0.15); norm: norm), &mut seen);
        (trainer, log(&folder), seen.odd)
    };
    let started = model();
    let start = norms(&started);
    let medians: Vec<f64> = [started.base().embedding(), started.base().head()]
        .iter()
        .zip(started.layers())
        .map(|(matrix, _)| matrix.survey().median_norm())
        .collect();
    let (free, logged, odd) = of(RowNorm::Free, "free");
    let last = logged.last().and_then(|log| log.norms).expect("rows");
    let mut times: Vec<f64> = norms(&free.model).iter().map(|norm| norm / medians[0]).collect();
    times.sort_by(f64::total_cmp);
    assert!((last.largest - times[2]).abs() < 1e-12 && (last.median - times[1]).abs() < 1e-12, "{last:?}");
    assert!(last.largest > 2.0, "the rate is too high: {last:?}");
    assert_eq!(odd.len(), 1, "told once");
    assert!(odd[0].times > 2.0 && TOKENS.contains(&odd[0].token), "{odd:?}");
    let (clamped, logged, odd) = of(RowNorm::Clamp(1.5), "clamped");
    assert!(logged.iter().all(|log| log.norms.is_some_and(|norms| norms.largest < 1.5 + 1e-6)));
    assert!(
        odd.is_empty() && norms(&clamped.model).iter().any(|norm| (norm / medians[0] - 1.5).abs() < 1e-6)
    );
    let (fixed, _, _) = of(RowNorm::Fixed, "fixed");
    for (norm, start) in norms(&fixed.model).iter().zip(&start) {
        assert!((norm / start - 1.0).abs() < 1e-6, "{norm} {start}");
    }
    assert_ne!(fixed.model.layers(), started.layers());
}

#[test]
fn held_norms_are_those_of_any_number_of_threads_and_of_a_resumed_run() {
    let folder = tempfile::tempdir().expect("a folder");
    for norm in [RowNorm::Clamp(1.2), RowNorm::Fixed] {
        let of = |name: &str, threads: usize, stop_after: Option<u64>, resume: bool| {
            let folder = folder.path().join(format!("{norm}-{name}").replace(':', "-"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let arguments = with!(arguments(&folder, 0.05); norm, resume: resume);
            let (trainer, output) =
                pool.install(|| run(arguments, &mut Seen { stop_after, ..Seen::default() }));
            assert_eq!(output.stopped, stop_after.is_some());
            trainer.model.layers().to_vec()
        };
        let whole = of("whole", 1, None, false);
        assert_eq!(of("threads", 3, None, false), whole, "{norm}");
        of("parts", 2, Some(3), false);
        assert_eq!(of("parts", 2, None, true), whole, "{norm}");
        // another rule is another run
        let other = with!(arguments(&folder.path().join(format!("{norm}-parts").replace(':', "-")), 0.05); resume: true);
        let model = model();
        let data = dataset("llama_untied_head", model.base());
        let error =
            Trainer::new(model, other, data).and_then(|mut t| t.train(&mut ())).expect_err("another rule");
        assert!(error.to_string().contains(&format!("norm was {norm}, is nothing now")), "{error}");
    }
}

#[test]
fn the_best_rows_are_kept_over_a_stop_and_the_run_ends_when_none_are_better() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = |name: &str| folder.path().join(name);
    // the rate is so high that the third step makes the loss higher
    let of = |name: &str, steps: u64| with!(arguments(&folder(name), 0.3); max_steps: Some(steps), eval_steps: Some(1), load_best_model_at_end: true);
    let mut seen = Seen::default();
    let (trainer, output) = run(of("whole", 3), &mut seen);
    let losses: Vec<(u64, f64)> = seen.evaluations.iter().map(|(step, loss, _)| (*step, *loss)).collect();
    assert!(losses[2].1 < losses[1].1 && losses[2].1 < losses[3].1, "{losses:?}");
    let (step, lowest, rows) = &seen.evaluations[2];
    assert_ne!(rows, &seen.evaluations[3].2);
    let best = output.best.as_ref().expect("evaluated");
    assert_eq!((best.step, best.evaluation.loss), (*step, *lowest));
    assert_eq!((output.after.as_ref(), output.ended_early), (Some(&best.evaluation), false));
    assert_eq!(&trainer.model.layers()[0].rows().values, rows);
    let base =
        AutoModelForCausalLM::from_pretrained(fixture("llama_untied_head"), &Device::Cpu).expect("a model");
    let saved = PeftModel::from_pretrained(base, &folder("whole")).expect("an adapter");
    assert_eq!(&saved.layers()[0].rows().values, rows);
    let data = dataset("llama_untied_head", saved.base());
    let again = evaluate(saved.base(), saved.active(), &data, 3, &TOKENS).expect("evaluated");
    assert!((again.loss - lowest).abs() < 1e-6);
    // stopped before the evaluation of the best step, or behind it, and gone on from there
    for (name, stop_after) in [("before", 2), ("behind", 3)] {
        run(of(name, 9), &mut Seen { stop_after: Some(stop_after), ..Seen::default() });
        let (resumed, output) = run(with!(of(name, 3); resume: true), &mut Seen::default());
        assert_eq!(output.best.as_ref(), Some(best), "{name}");
        assert_eq!(&resumed.model.layers()[0].rows().values, rows, "{name}");
    }
    // an evaluation that is no better ends the run
    let patient = with!(of("patient", 9); early_stopping_patience: Some(1));
    let (ended, output) = run(patient.clone(), &mut Seen::default());
    assert!(output.ended_early && !output.stopped, "{output:?}");
    assert_eq!((output.global_step, output.best.as_ref()), (3, Some(best)));
    assert_eq!(output.after.as_ref(), Some(&best.evaluation));
    assert_eq!(&ended.model.layers()[0].rows().values, rows);
    // and it stays ended
    let (_, again) = run(with!(patient.clone(); resume: true), &mut Seen::default());
    assert!(again.ended_early && again.steps == 0, "{again:?}");
    let (_, again) =
        run(with!(patient; resume: true, early_stopping_patience: Some(2)), &mut Seen::default());
    assert!(again.steps == 6 && !again.ended_early, "{again:?}");
}

#[test]
fn so_many_checkpoints_are_kept_as_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let checkpoints = |out: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(out).expect("the folder").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("checkpoint"))
            .collect();
        names.sort();
        names
    };
    let arguments = with!(arguments(&out, 0.01); save_steps: Some(2), save_total_limit: Some(2));
    run(arguments.clone(), &mut Seen::default());
    assert_eq!(checkpoints(&out), ["checkpoint-6", "checkpoint-8"]);
    let more = with!(arguments; max_steps: Some(11), resume: true);
    run(more, &mut Seen::default());
    assert_eq!(checkpoints(&out), ["checkpoint-10", "checkpoint-11"]);
}
