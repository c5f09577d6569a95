//! What an evaluation measures beside the loss: whether trained tokens leak, and whether the model writes them.

#[macro_use]
mod common;

use common::{dataset, fixture};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use toktune::data::{DataOptions, Dataset};
use toktune::models::{AutoModelForCausalLM, PretrainedModel};
use toktune::train::{
    Evaluation, Leak, MetricForBestModel, TrainOutput, TrainerWarning, evaluate, prior, read_log,
};
use toktune::{Device, Error, PeftModel, Recipe, Trainer, TrainerCallback, TrainingArguments};

const TOKENS: [u32; 3] = [57, 3, 90];

fn base() -> PretrainedModel {
    AutoModelForCausalLM::from_pretrained(fixture("llama_tied"), &Device::Cpu).expect("a model")
}

/// Rows that each end with one of the tokens, or with none of them.
fn rows(folder: &Path, name: &str, tokens: &[u32]) -> Dataset {
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path).expect("a file");
    for at in 0..6u32 {
        let ids: Vec<u32> = (0..10).map(|place| 4 + (at * 5 + place * 7) % 40).collect();
        let mut labels: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        labels[..4].fill(-100);
        let (mut ids, mut labels) = (ids, labels);
        if let Some(token) = tokens.get(at as usize % tokens.len().max(1)) {
            (ids[5], labels[5]) = (*token, i64::from(*token));
        }
        writeln!(file, "{}", serde_json::json!({"input_ids": ids, "labels": labels})).expect("written");
    }
    Dataset::read(&[path], None, &DataOptions::new(1 << 20)).expect("rows")
}

fn arguments(folder: &Path, rate: f64) -> TrainingArguments {
    with!(TrainingArguments::new(folder); per_device_train_batch_size: 3, max_steps: Some(8), learning_rate: Some(rate), eval_steps: Some(2))
}

#[derive(Default)]
struct Seen {
    leaks: Vec<Leak>,
    evaluations: Vec<(u64, Evaluation, Vec<f32>)>,
    stop_after: Option<u64>,
}

impl TrainerCallback for Seen {
    fn on_evaluate(&mut self, model: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        self.evaluations.push((step, evaluation.clone(), model.layers()[0].rows().values.clone()));
        match self.stop_after == Some(step) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        if let TrainerWarning::Leaking(leak) = warning {
            self.leaks.push(leak.clone());
        }
    }
}

fn run(arguments: TrainingArguments, data: &Dataset, seen: &mut Seen) -> (Trainer, TrainOutput) {
    let model = Recipe::new(TOKENS).apply(base()).expect("an adapter");
    let mut trainer = Trainer::new(model, arguments, data.clone())
        .and_then(|of| of.with_eval(data.clone()))
        .expect("a run");
    let output = trainer.train(seen).expect("trained");
    (trainer, output)
}

#[test]
fn a_run_whose_rate_is_far_too_high_leaks_and_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = rows(folder.path(), "rows.jsonl", &TOKENS);
    let mut seen = Seen::default();
    let out = folder.path().join("high");
    let (trainer, output) = run(arguments(&out, 0.3), &data, &mut seen);
    let leaks: Vec<f64> = seen.evaluations.iter().map(|(_, of, _)| of.leak.expect("measured")).collect();
    let [told] = &seen.leaks[..] else { panic!("told once: {:?}", seen.leaks) };
    let (at, _, _) = seen
        .evaluations
        .iter()
        .find(|(step, of, _)| *step == told.step && of.leak == Some(told.probability))
        .expect("an evaluation");
    assert!(told.probability > 2.0 * leaks[0] && TOKENS.contains(&told.token), "{told:?}");
    assert!(told.of_token <= told.probability && 3.0 * told.of_token >= told.probability, "{told:?}");
    assert!(seen.evaluations.iter().all(|(step, of, _)| step >= at || of.leak <= Some(2.0 * leaks[0])));
    // it is what is measured before training, of the rows as they are now
    let tokens = trainer.model.token_indices();
    let found = prior(&trainer.model, &data, &tokens).expect("computed").expect("a vocabulary");
    let after = output.after.as_ref().expect("evaluated");
    assert_eq!(after.leak, Some(found.probabilities.iter().sum()));
    let elsewhere: Vec<f64> = after.tokens.iter().filter_map(|token| token.elsewhere).collect();
    assert_eq!(elsewhere, found.probabilities);
    let again = evaluate(trainer.model.base(), trainer.model.active(), &data, 3, &tokens);
    assert_eq!(Some(&again.expect("evaluated")), Some(after));
    // and the log has it where the held-out rows were evaluated
    let logged: Vec<(u64, Option<f64>)> = read_log(&out).iter().map(|log| (log.step, log.leak)).collect();
    let expected: Vec<(u64, Option<f64>)> = (1..=8)
        .map(|step| {
            (step, seen.evaluations.iter().find(|(at, _, _)| *at == step).and_then(|(_, of, _)| of.leak))
        })
        .collect();
    assert_eq!(logged, expected);
    assert_eq!(logged.iter().filter(|(_, leak)| leak.is_some()).count(), 4);
}

#[test]
fn a_run_with_a_low_rate_is_not_told_of_leaking() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = rows(folder.path(), "rows.jsonl", &TOKENS);
    let mut seen = Seen::default();
    run(arguments(&folder.path().join("low"), 0.002), &data, &mut seen);
    assert_eq!(seen.leaks, []);
    assert!(seen.evaluations.iter().all(|(_, of, _)| of.leak.is_some_and(|leak| leak > 0.0)));
}

#[test]
fn the_best_rows_are_those_that_write_their_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = rows(folder.path(), "rows.jsonl", &TOKENS);
    let of = |name: &str, steps: u64, metric| with!(arguments(&folder.path().join(name), 0.05); max_steps: Some(steps), eval_steps: Some(1), load_best_model_at_end: true, metric_for_best_model: metric);
    let steps = 12;
    let mut seen = Seen::default();
    let (trainer, output) = run(of("whole", steps, MetricForBestModel::Emission), &data, &mut seen);
    let table: Vec<(u64, f64, f64)> =
        seen.evaluations.iter().map(|(step, of, _)| (*step, of.emission.expect("tried"), of.loss)).collect();
    let best =
        table[1..].iter().copied().reduce(|x, y| if y.1 > x.1 || (y.1 == x.1 && y.2 < x.2) { y } else { x });
    let best = best.expect("evaluated");
    let kept = output.best.as_ref().expect("evaluated");
    assert_eq!((kept.step, kept.evaluation.emission, kept.evaluation.loss), (best.0, Some(best.1), best.2));
    assert_eq!(&trainer.model.layers()[0].rows().values, &seen.evaluations[best.0 as usize].2);
    assert_eq!(output.after.as_ref(), Some(&kept.evaluation));
    // the loss alone would have kept another step, which writes less
    let (_, by_loss) = run(of("loss", steps, MetricForBestModel::Loss), &data, &mut Seen::default());
    let of_loss = by_loss.best.expect("evaluated");
    assert!(table[of_loss.step as usize].1 < best.1 && of_loss.evaluation.loss < best.2, "{of_loss:?}");
    assert_eq!(of_loss.evaluation.emission, None);
    // a run that was stopped with the best rows, or behind them, goes on to the same
    for (name, stop_after) in [("with", best.0), ("behind", best.0 + 1)] {
        let mut parts = Seen { stop_after: Some(stop_after), ..Seen::default() };
        run(of(name, steps + 4, MetricForBestModel::Emission), &data, &mut parts);
        let resumed = with!(of(name, steps, MetricForBestModel::Emission); resume: true);
        let (resumed, again) = run(resumed, &data, &mut Seen::default());
        assert_eq!(again.best.as_ref(), Some(kept), "{name}");
        assert_eq!(resumed.model.layers(), trainer.model.layers(), "{name}");
    }
}

#[test]
fn what_cannot_be_tried_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let arguments = with!(arguments(&out, 0.1); load_best_model_at_end: true, metric_for_best_model: MetricForBestModel::Emission);
    let refused = |eval: Option<Dataset>| {
        let model = Recipe::new(TOKENS).apply(base()).expect("an adapter");
        let mut trainer = Trainer::new(model, arguments.clone(), rows(folder.path(), "rows.jsonl", &TOKENS))
            .expect("a run");
        if let Some(eval) = eval {
            trainer = trainer.with_eval(eval).expect("held-out rows");
        }
        let error = trainer.train(&mut ()).expect_err("nothing to try");
        assert!(matches!(error, Error::NoEmission { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(None).contains("there are no held-out rows"));
    let none = rows(folder.path(), "none.jsonl", &[]);
    assert!(refused(Some(none)).contains("no held-out row has a trained token"));
    let bert = toktune::models::AutoModel::from_pretrained(fixture("bert"), &Device::Cpu).expect("a model");
    let data = dataset("bert", &bert);
    let model = Recipe::new(TOKENS).apply(bert).expect("an adapter");
    let error = Trainer::new(model, arguments.clone(), data.clone())
        .and_then(|of| of.with_eval(data))
        .and_then(|mut of| of.train(&mut ()))
        .expect_err("no decoder");
    assert!(error.to_string().contains("which writes no text that goes on"), "{error}");
    assert!(!out.join("train_log.jsonl").exists());
}
