//! A student that is to be like its teacher: losses against those of dense logits, gradients against central differences.

#[macro_use]
mod common;

use common::fixture;
use toktune::config::TrainableTokensConfig;
use toktune::data::RaggedBatch;
use toktune::engine::objective::{Distillation, DistillationWeights};
use toktune::engine::runner::{StepOptions, StepOutput, TokenRows, Wanted};
use toktune::engine::trained::Trained;
use toktune::models::{AutoModel, ModelKind, PretrainedModel};
use toktune::{Device, EngineError, Error, PeftModel, TargetModules, get_peft_model};

/// What the trained token stands for.
const PIECES: [u32; 3] = [40, 41, 42];
const BEFORE: [u32; 4] = [3, 9, 27, 5];
const BEHIND: [u32; 5] = [30, 8, 77, 12, 60];

fn teacher(name: &str, device: Device) -> PretrainedModel {
    AutoModel::from_pretrained(fixture(name), &device).expect("a model")
}

/// A model with one token more than its teacher, the last one.
fn student(name: &str, device: Device) -> PeftModel {
    let mut base = teacher(name, device);
    base.resize_token_embeddings(base.vocabulary() + 1);
    let matrices = [base.embedding_name(), base.head_name()].map(String::from).to_vec();
    let targets = if base.is_tied() { None } else { Some(TargetModules::Names(matrices)) };
    let token = base.vocabulary() as u32 - 1;
    let config = with!(TrainableTokensConfig::new([token]); target_modules: targets);
    let mut model = get_peft_model(base, config).expect("an adapter");
    for (_, values) in model.parameters_mut() {
        values.iter_mut().enumerate().for_each(|(i, x)| *x += 0.05 * (0.7 * i as f32 + 1.0).sin());
    }
    model
}

/// The text with the word as these tokens, twice with other beginnings; the tokens behind the word are to be predicted.
fn batch(word: &[u32]) -> RaggedBatch {
    let mut batch = RaggedBatch::new(ModelKind::Causal);
    for skipped in [0, 2] {
        let ids = [&BEFORE[skipped..], word, &BEHIND].concat();
        let first = BEFORE.len() - skipped + word.len() - 1;
        let targets = (0..ids.len()).map(|row| ids.get(row + 1).copied().filter(|_| row >= first));
        batch.push(ids.clone(), targets, &[]);
    }
    batch
}

fn word(model: &PeftModel) -> u32 {
    model.token_indices()[0]
}

fn distilled(name: &str, model: &PeftModel, weights: DistillationWeights) -> RaggedBatch {
    let of = teacher(name, model.base().device());
    let rows = of.runner().teach(&batch(&PIECES), &Trained::default(), true).expect("a teacher");
    let mut batch = batch(&[word(model)]);
    batch.distillation = Some(Distillation::new(&batch.starts, &batch.targets, rows, weights));
    batch
}

fn step(model: &PeftModel, batch: &RaggedBatch, wanted: Wanted) -> StepOutput {
    let trained = model.active().trained();
    model.base().step(batch, &trained, wanted, StepOptions::default()).expect("a step")
}

/// The divergence and the cross-entropy of every label, by logits.
fn by_logits(name: &str, model: &PeftModel) -> (f64, f64) {
    let logits = |of: &PretrainedModel, batch: &RaggedBatch, trained: &Trained<'_>| {
        let tokens = TokenRows { ids: &batch.ids, starts: &batch.starts };
        of.runner().logits(tokens, None, trained).expect("logits").concat()
    };
    let (ours, theirs) = (batch(&[word(model)]), batch(&PIECES));
    let student = logits(model.base(), &ours, &model.active().trained());
    let teacher = logits(&teacher(name, Device::Cpu), &theirs, &Trained::default());
    let (vocabulary, known) = (student.len() / ours.ids.len(), teacher.len() / theirs.ids.len());
    assert_eq!(vocabulary, known + 1);
    let rows = |batch: &RaggedBatch| -> Vec<usize> {
        (0..batch.ids.len()).filter(|row| batch.targets[*row].is_some()).collect()
    };
    let log_softmax = |logits: &[f32]| -> Vec<f64> {
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        logits.iter().map(|x| f64::from(*x) - sum.ln()).collect()
    };
    let mut sums = (0.0, 0.0);
    for (s, t) in rows(&ours).into_iter().zip(rows(&theirs)) {
        let s_logs = log_softmax(&student[s * vocabulary..][..vocabulary]);
        let t_logs = log_softmax(&teacher[t * known..][..known]);
        sums.0 += s_logs.iter().zip(&t_logs).map(|(s, t)| t.exp() * (t - s)).sum::<f64>();
        sums.1 -= s_logs[ours.targets[s].expect("a target") as usize];
    }
    sums
}

#[test]
fn divergence_and_cross_entropy_are_those_of_the_logits() {
    for name in ["llama_tied", "llama_untied", "gemma3", "gpt2", "cohere"] {
        let model = student(name, Device::Cpu);
        let (kl, ce) = by_logits(name, &model);
        for (weights, expected) in [
            (DistillationWeights::KL, kl),
            (DistillationWeights::CE, ce),
            (DistillationWeights { mse: 0.0, kl: 2.0, ce: 0.5 }, 2.0 * kl + 0.5 * ce),
        ] {
            let found = step(&model, &distilled(name, &model, weights), Wanted::Losses).losses;
            assert_eq!(found.losses.len(), 2 * (BEHIND.len()), "{name}: labels");
            let off = (found.sum() - expected).abs() / expected.abs();
            assert!(off < 2e-5, "{name}, {weights:?}: {} beside {expected}", found.sum());
        }
    }
}

#[test]
fn a_student_that_reads_the_teachers_tokens_has_nothing_to_learn() {
    let model = student("llama_tied", Device::Cpu);
    let rows = model
        .base()
        .runner()
        .teach(&batch(&[word(&model)]), &model.active().trained(), true)
        .expect("states");
    let mut batch = batch(&[word(&model)]);
    let weights = DistillationWeights::MSE;
    batch.distillation = Some(Distillation::new(&batch.starts, &batch.targets, rows, weights));
    let found = step(&model, &batch, Wanted::Gradients);
    assert!(found.losses.sum().abs() < 1e-5, "{}", found.losses.sum());
    let worst = found.gradients.concat().iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn gradients_are_those_of_central_differences() {
    for name in ["llama_tied", "llama_untied", "gemma3"] {
        for weights in [
            DistillationWeights::MSE,
            DistillationWeights::KL,
            DistillationWeights { mse: 3.0, kl: 1.0, ce: 0.5 },
        ] {
            let mut model = student(name, Device::Reference);
            let batch = distilled(name, &model, weights);
            let gradients = step(&model, &batch, Wanted::Gradients).gradients.concat();
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
            assert!(off < 2e-3 && expected != 0.0, "{name}, {weights:?}: off by {off:.1e}");
            // and the processor's own are these
            let cpu = student(name, Device::Cpu);
            let own = step(&cpu, &distilled(name, &cpu, weights), Wanted::Gradients).gradients.concat();
            let largest = gradients.iter().fold(0f32, |m, x| m.max(x.abs()));
            let worst = own.iter().zip(&gradients).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 2e-5 * largest, "{name}, {weights:?}: {worst} of {largest}");
        }
    }
}

#[test]
fn what_cannot_teach_is_named() {
    let of = |name: &str, kind: ModelKind| {
        let model = AutoModel::from_pretrained(fixture(name), &Device::Cpu).expect("a model");
        let mut batch = RaggedBatch::new(kind);
        batch.push([3, 4], [Some(4), None], &[]);
        model.runner().teach(&batch, &Trained::default(), true).expect_err("no teacher")
    };
    assert!(matches!(of("gemma2", ModelKind::Causal), EngineError::SoftCappedDivergence));
    assert!(matches!(of("bert", ModelKind::MaskedLm), EngineError::WrongBatch { .. }));
    assert!(matches!(of("llama_tied", ModelKind::MaskedLm), EngineError::WrongBatch { .. }));
    let model = student("llama_tied", Device::Cpu);
    let data = common::dataset("llama_tied", model.base());
    let teacher = toktune::distill::Teacher::read(model.base(), &[], DistillationWeights::MSE, &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    let teacher = teacher.expect("nothing to read").expect("not stopped");
    let trainer =
        toktune::Trainer::new(model, toktune::TrainingArguments::new("unused"), data).expect("a run");
    let error = trainer.with_teacher(teacher).expect_err("another number of examples");
    assert!(matches!(error, Error::OtherTeacher { found: 0, .. }), "{error}");
}
