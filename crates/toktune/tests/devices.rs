//! Every layer on the processor against the reference device, and shared rows against rows computed once for each
//! sequence: losses and gradients of every family.

#[macro_use]
mod common;

use common::{dataset, decoders, fixture, fixtures};
use serde_json::json;
use std::path::Path;
use toktune::config::TrainableTokensConfig;
use toktune::data::RaggedBatch;
use toktune::engine::runner::{StepOptions, StepOutput, Wanted};
use toktune::models::{AutoModel, PretrainedModel};
use toktune::{
    DataOptions, Dataset, Device, LoraConfig, PeftConfig, PeftModel, TargetModules, TrainableTokenIndices,
    get_peft_model,
};

/// Of the largest entry of a gradient, and of a loss.
const TOLERANCE: f64 = 1e-5;

const TOKENS: [u32; 3] = [5, 17, 3];

fn rows(tokens: [u32; 3]) -> PeftConfig {
    TrainableTokensConfig::new(tokens).into()
}

/// Updates of every linear layer beside the tokens.
fn lora(tokens: [u32; 3]) -> PeftConfig {
    with!(LoraConfig::default(); r: 3, lora_dropout: 0.0, target_modules: Some(TargetModules::Pattern("all-linear".into())), trainable_token_indices: Some(TrainableTokenIndices::Tokens(tokens.to_vec())))
    .into()
}

/// A model with an adapter that no value of is 0: fresh updates hide every product behind `B`.
fn adapted(folder: &Path, device: Device, config: PeftConfig) -> PeftModel {
    let base = AutoModel::from_pretrained(folder, &device).expect("a model");
    let mut model = get_peft_model(base, config).expect("an adapter");
    for (_, values) in model.parameters_mut() {
        values.iter_mut().enumerate().for_each(|(i, x)| *x += 0.05 * (0.7 * i as f32 + 1.0).sin());
    }
    model
}

fn step(model: &PeftModel, batch: &RaggedBatch, wanted: Wanted) -> StepOutput {
    let trained = model.active().trained();
    model.base().step(batch, &trained, wanted, StepOptions::default()).expect("a step")
}

/// The worst difference of two steps' losses and gradients, relative to the largest entry of each.
fn difference(a: &StepOutput, b: &StepOutput) -> f64 {
    assert_eq!(a.gradients.len(), b.gradients.len());
    let of_losses = (a.losses.sum() - b.losses.sum()).abs() / b.losses.sum().abs();
    let of_gradients = a.gradients.iter().zip(&b.gradients).map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        let largest = b.iter().fold(0f64, |m, x| m.max(x.abs() as f64));
        let off = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).abs()).fold(0.0, f64::max);
        if largest == 0.0 { off } else { off / largest }
    });
    let nonzero = b.gradients.iter().filter(|gradient| gradient.iter().any(|x| *x != 0.0)).count();
    assert!(2 * nonzero > b.gradients.len(), "gradients that are 0 show nothing");
    of_gradients.fold(of_losses, f64::max)
}

fn name_of(folder: &Path) -> &str {
    folder.file_name().and_then(|name| name.to_str()).expect("a name")
}

/// Three tokens of a batch: the first, one soon after it, and one before the last.
fn three_tokens(batch: &RaggedBatch) -> [u32; 3] {
    let ids = &batch.ids;
    let second = *ids[4..].iter().find(|&&id| id != ids[0]).expect("another token");
    let before_last = ids[..ids.len() - 1].iter().rev();
    [ids[0], second, *before_last.into_iter().find(|&id| ![ids[0], second].contains(id)).expect("a third")]
}

#[test]
fn the_processor_computes_what_the_reference_does() {
    for folder in fixtures() {
        let base = AutoModel::from_pretrained(&folder, &Device::Cpu).expect("a model");
        let data = dataset(name_of(&folder), &base);
        let batch = data.batch(&[0, 1], 0).expect("a batch");
        let tokens = three_tokens(&batch);
        for config in [rows(tokens), lora(tokens)] {
            let is_lora = matches!(config, PeftConfig::Lora(_));
            let cpu = adapted(&folder, Device::Cpu, config.clone());
            let reference = adapted(&folder, Device::Reference, config);
            for wanted in [Wanted::Gradients, Wanted::GradientsWithoutShortcuts] {
                let found = difference(&step(&cpu, &batch, wanted), &step(&reference, &batch, wanted));
                assert!(found <= TOLERANCE, "{folder:?}, lora: {is_lora}, {wanted:?}: off by {found:.1e}");
            }
        }
    }
}

/// How far the reference device's gradient in some direction is from the difference of its losses along it, relative to it.
/// Half of the entries move the way their gradients point, so that their changes add up; the others, and those without a
/// gradient, either way.
fn off_from_differences(mut model: PeftModel, batch: &RaggedBatch) -> f64 {
    // a step too wide is off by the curvature, one too narrow by the rounding of the losses
    const MOVES: [f32; 2] = [1e-4, 2e-5];
    let gradients = step(&model, batch, Wanted::GradientsWithoutShortcuts).gradients;
    let gradients = model.active().named(gradients);
    let way = |i: usize, gradient: f32| match (i % 2, gradient != 0.0) {
        (0, true) => gradient.signum(),
        _ => {
            if ((i * 2_654_435_761) >> 16).is_multiple_of(2) {
                1.0
            } else {
                -1.0
            }
        }
    };
    let shift = |model: &mut PeftModel, by: f32| {
        for (name, values) in model.parameters_mut() {
            let gradient = gradients.iter().find(|gradient| gradient.name == name).expect("a gradient");
            let pairs = values.iter_mut().zip(&gradient.values).enumerate();
            pairs.for_each(|(i, (x, gradient))| *x += by * way(i, *gradient));
        }
    };
    let expected: f64 = gradients
        .iter()
        .flat_map(|gradient| gradient.values.iter().enumerate())
        .map(|(i, gradient)| f64::from(way(i, *gradient) * gradient))
        .sum();
    let of_move = |by: f32| {
        shift(&mut model, by);
        let above = step(&model, batch, Wanted::Losses).losses.sum();
        shift(&mut model, -2.0 * by);
        let below = step(&model, batch, Wanted::Losses).losses.sum();
        shift(&mut model, by);
        ((above - below) / f64::from(2.0 * by) - expected).abs() / expected.abs()
    };
    MOVES.into_iter().map(of_move).fold(f64::MAX, f64::min)
}

#[test]
fn the_gradients_of_the_reference_are_those_of_central_differences() {
    for folder in fixtures() {
        let base = AutoModel::from_pretrained(&folder, &Device::Cpu).expect("a model");
        let batch = dataset(name_of(&folder), &base).batch(&[0, 1], 0).expect("a batch");
        let tokens = three_tokens(&batch);
        for config in [rows(tokens), lora(tokens)] {
            let is_lora = matches!(config, PeftConfig::Lora(_));
            let mut model = adapted(&folder, Device::Reference, config);
            // away from where Mixtral is about to choose another expert for a row
            for (_, values) in model.parameters_mut() {
                values.iter_mut().enumerate().for_each(|(i, x)| *x += 0.01 * (i % 3) as f32);
            }
            let found = off_from_differences(model, &batch);
            assert!(found <= 1e-3, "{folder:?}, lora: {is_lora}: off by {found:.1e}");
        }
    }
}

/// Rows of a decoder in which the trained tokens stand in what many begin with, in what one has of its own, and
/// nowhere; and one sequence that is what others begin with.
fn begun_alike(model: &PretrainedModel) -> Dataset {
    let run = |from: u32, n: u32| (from..from + n).map(|i| 20 + i * 7 % 40).collect::<Vec<u32>>();
    let system = run(1, 11);
    let first = [system.clone(), vec![TOKENS[0]], run(9, 9)].concat();
    let sequences = [
        [first.clone(), run(3, 4)].concat(),
        [first.clone(), vec![TOKENS[1]], run(8, 3)].concat(),
        [system.clone(), run(30, 12)].concat(),
        first,
        [run(50, 9), vec![TOKENS[2]], run(2, 5)].concat(),
        [system, run(30, 10), vec![TOKENS[0], 21, 22]].concat(),
    ];
    // what is shared by all of these predicts too: its rows are counted once for each
    let row = |ids: &Vec<u32>| {
        let labels = ids.iter().enumerate().map(|(i, id)| if i % 3 == 2 { -100 } else { i64::from(*id) });
        let row = json!({"input_ids": ids, "labels": labels.collect::<Vec<_>>()});
        row.as_object().expect("an object").clone()
    };
    let options = DataOptions::for_model(model, None);
    Dataset::from_rows(sequences.iter().map(row), None, &options).expect("rows")
}

/// All rows in one batch, as they are and with what they share told.
fn batches(model: &PretrainedModel) -> (RaggedBatch, RaggedBatch) {
    let data = begun_alike(model);
    let all: Vec<usize> = (0..data.len()).collect();
    let batch = data.batch(&all, 0).expect("a batch");
    let prefixes = data.prefixes(model);
    let segments: Vec<_> = all.iter().map(|&i| prefixes.of_sequence(i)).collect();
    assert!(segments.iter().any(|of| !of.is_empty()), "{:?}", model.path());
    (with!(batch.clone(); segments), batch)
}

#[test]
fn shared_rows_give_what_every_sequence_alone_gives() {
    for folder in decoders() {
        for config in [rows(TOKENS), lora(TOKENS)] {
            let is_lora = matches!(config, PeftConfig::Lora(_));
            let model = adapted(&folder, Device::Cpu, config);
            let (with, batch) = batches(model.base());
            for wanted in [Wanted::Gradients, Wanted::Losses] {
                let (alone, together) = (step(&model, &batch, wanted), step(&model, &with, wanted));
                assert!(together.shared_rows > alone.shared_rows, "{folder:?} shares nothing");
                let found = match wanted {
                    Wanted::Losses => (alone.losses.sum() - together.losses.sum()).abs() / alone.losses.sum(),
                    _ => difference(&together, &alone),
                };
                assert!(found <= TOLERANCE, "{folder:?}, lora: {is_lora}: off by {found:.1e}");
                assert_eq!(together.losses.weight(), alone.losses.weight());
            }
        }
    }
}

#[test]
fn shared_rows_have_the_same_bits_whatever_is_kept() {
    for config in [rows(TOKENS), lora(TOKENS)] {
        let model = adapted(&fixture("gemma3"), Device::Cpu, config);
        let (with, _) = batches(model.base());
        let trained = model.active().trained();
        let run = |kept_bytes| {
            let options = StepOptions::new(kept_bytes, None);
            model.base().step(&with, &trained, Wanted::Gradients, options).expect("a step").gradients
        };
        assert_eq!(run(0), run(u64::MAX));
    }
}

#[test]
fn a_loss_counts_as_often_as_its_weight_says() {
    let model = adapted(&fixture("llama_tied"), Device::Cpu, lora(TOKENS));
    let (shared, batch) = batches(model.base());
    let rows = batch.ids.len();
    for with in [batch.clone(), shared] {
        let once = step(&model, &with, Wanted::Gradients);
        let twice = step(&model, &with!(with.clone(); weights: vec![2.0; rows]), Wanted::Gradients);
        assert!((twice.losses.sum() - 2.0 * once.losses.sum()).abs() <= TOLERANCE * twice.losses.sum());
        for (twice, once) in twice.gradients.iter().zip(&once.gradients) {
            let largest = twice.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = twice.iter().zip(once).map(|(t, o)| (t - 2.0 * o).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-5 * largest);
        }
        // a weight of 0 is a row that predicts nothing
        let weights: Vec<f32> = (0..rows).map(|row| (row % 2) as f32).collect();
        let targets = (0..rows).map(|row| batch.targets[row].filter(|_| row % 2 == 1)).collect();
        let weighted = step(&model, &with!(with.clone(); weights), Wanted::Gradients);
        let without = step(&model, &with!(with.clone(); targets), Wanted::Gradients);
        assert_eq!(weighted.losses.weight(), without.losses.weight());
        let found = difference(&weighted, &without);
        assert!(found <= TOLERANCE, "off by {found:.1e}");
    }
}
