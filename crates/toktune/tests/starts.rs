//! What rows start from, and what is told of that, on the committed models.

#[macro_use]
mod common;

use common::{dataset, fixture};
use std::collections::BTreeMap;
use toktune::models::{AutoModel, PretrainedModel};
use toktune::peft::{PeftError, RowInit};
use toktune::train::prior;
use toktune::{Device, Error, PeftModel, Recipe};

fn base(name: &str) -> PretrainedModel {
    AutoModel::from_pretrained(fixture(name), &Device::Cpu).expect("a model")
}

/// A model with `new` more rows, and the first of them.
fn grown(name: &str, new: usize) -> (PretrainedModel, u32) {
    let mut base = base(name);
    let rows = base.vocabulary();
    base.resize_token_embeddings(rows + new);
    (base, rows as u32)
}

fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let count = rows.len() / width;
    (0..width)
        .map(|i| (0..count).map(|row| f64::from(rows[row * width + i])).sum::<f64>() / count as f64)
        .map(|x| x as f32)
        .collect()
}

fn row(model: &PeftModel, layer: usize, id: u32) -> Vec<f32> {
    let rows = model.layers()[layer].rows();
    rows.row(rows.position(id).expect("trained")).to_vec()
}

#[test]
fn each_row_starts_from_its_own_and_a_head_from_rows_of_the_head() {
    for name in ["llama_tied", "llama_untied_head"] {
        let (base, first) = grown(name, 6);
        let tokens: Vec<u32> = (first..first + 6).chain([9]).collect();
        let matrices = [base.embedding().clone(), base.head().clone()];
        let inits = BTreeMap::from([
            (first, RowInit::Pieces(vec![4, 8, 15])),
            (first + 1, RowInit::Description(vec![16, 23])),
            (first + 2, RowInit::Like(42)),
            (first + 3, RowInit::Random { seed: 3 }),
            (first + 4, RowInit::Base),
        ]);
        let recipe =
            with!(Recipe::for_added(tokens[..6].to_vec()); tokens: tokens.clone(), inits, spread: Some(0.0));
        let model = recipe.apply(base).expect("an adapter");
        let layers = if name == "llama_tied" { 1 } else { 2 };
        assert_eq!(model.layers().len(), layers);
        for (layer, matrix) in matrices.iter().enumerate().take(layers) {
            let width = matrix.width();
            assert_eq!(row(&model, layer, first), mean(&matrix.gather(&[4, 8, 15]), width), "{name} {layer}");
            assert_eq!(row(&model, layer, first + 1), mean(&matrix.gather(&[16, 23]), width));
            assert_eq!(row(&model, layer, first + 2), matrix.gather(&[42]));
            assert_eq!(row(&model, layer, first + 4), matrix.gather(&[first + 4]));
            assert_eq!(row(&model, layer, first + 5), matrix.survey().mean);
            assert_eq!(row(&model, layer, 9), matrix.gather(&[9]));
        }
    }
}

#[test]
fn tokens_that_would_start_alike_are_moved_apart_and_no_others() {
    let apply = |seed: u64, spread: Option<f64>| {
        let (base, first) = grown("llama_untied_head", 3);
        let inits = BTreeMap::from([(first + 2, RowInit::Like(5))]);
        let tokens = vec![first, 7, first + 1, first + 2];
        let recipe = with!(Recipe::for_added(vec![first, first + 1, first + 2]); tokens, inits, spread, seed);
        (recipe.apply(base).expect("an adapter"), first)
    };
    let (alike, first) = apply(1, Some(0.0));
    let (apart, _) = apply(1, None);
    for (layer, module) in ["model.embed_tokens", "lm_head"].iter().enumerate() {
        let matrix = if layer == 0 { alike.base().embedding() } else { alike.base().head() };
        let survey = matrix.survey();
        assert_eq!(alike.layers()[layer].name(), *module);
        assert_eq!(row(&alike, layer, first), row(&alike, layer, first + 1));
        for id in [first, first + 1] {
            let moved: Vec<f64> = row(&apart, layer, id)
                .iter()
                .zip(&survey.mean)
                .map(|(x, mean)| f64::from(x - mean) / f64::from(survey.rms))
                .collect();
            let size = (moved.iter().map(|x| x * x).sum::<f64>() / moved.len() as f64).sqrt();
            assert!((0.005..0.02).contains(&size), "{module} {id}: {size}");
        }
        assert_ne!(row(&apart, layer, first), row(&apart, layer, first + 1));
        for id in [7, first + 2] {
            assert_eq!(row(&apart, layer, id), row(&alike, layer, id));
        }
    }
    assert_eq!(apply(1, None).0.layers(), apart.layers());
    assert_ne!(apply(2, None).0.layers(), apart.layers());
    // rows in reserve are equal as they are
    let mut base = base("llama_tied");
    let width = base.embedding().width();
    let rows = toktune::models::TrainedRows::new(vec![20, 21], width, vec![0.0; 2 * width]);
    let zeroed = base.embedding().with_rows(&rows).expect("written");
    base.replace_token_matrix("model.embed_tokens", zeroed).expect("an embedding");
    assert_eq!(base.embedding().survey().untrained, [20, 21]);
    let model = Recipe::new([20, 21, 22]).apply(base).expect("an adapter");
    assert_ne!(row(&model, 0, 20), row(&model, 0, 21));
    assert_eq!(row(&model, 0, 22), model.base().embedding().gather(&[22]));
}

#[test]
fn starts_that_cannot_be_are_refused_by_what_they_lack() {
    let refused = |token: u32, init: RowInit| {
        let (base, first) = grown("llama_tied", 2);
        let recipe = with!(Recipe::for_added(vec![first, first + 1]); inits: BTreeMap::from([(token, init)]));
        match recipe.apply(base).expect_err("no such start") {
            Error::Peft(error) => error,
            other => panic!("{other}"),
        }
    };
    let rows = base("llama_tied").vocabulary() as u32;
    let error = refused(3, RowInit::Mean);
    assert!(matches!(error, PeftError::StartOfOther { token: 3 }), "{error}");
    let error = refused(rows, RowInit::Pieces(vec![]));
    assert!(matches!(error, PeftError::StartOfNothing { rule: "pieces", .. }), "{error}");
    let error = refused(rows, RowInit::Like(rows + 2));
    assert!(matches!(error, PeftError::StartFromNoRow { rule: "like", .. }), "{error}");
    assert!(error.to_string().contains(&format!("no row {}", rows + 2)), "{error}");
    let error = refused(rows, RowInit::Description(vec![4, rows + 1]));
    assert!(matches!(error, PeftError::StartFromAdded { rule: "description", .. }), "{error}");
}

#[test]
fn places_are_told_by_norm_and_by_neighbours() {
    let (base, first) = grown("llama_untied_head", 2);
    let inits = BTreeMap::from([(first, RowInit::Like(5)), (first + 1, RowInit::Pieces(vec![6, 7]))]);
    let recipe = with!(Recipe::for_added(vec![first, first + 1]); inits);
    let model = recipe.apply(base).expect("an adapter");
    let places = model.row_places(&[first, first + 1, 3], 3);
    let told: Vec<(&str, u32)> = places.iter().map(|place| (place.layer.as_str(), place.id)).collect();
    let [embedding, head] = ["model.embed_tokens", "lm_head"];
    assert_eq!(told, [(embedding, first), (embedding, first + 1), (head, first), (head, first + 1)]);
    for place in &places {
        assert_eq!(place.nearest.len(), 3);
        assert!(place.nearest.windows(2).all(|pair| pair[0].1 >= pair[1].1), "{place:?}");
        assert!((0.0..=100.0).contains(&place.percentile));
    }
    assert_eq!((places[0].nearest[0].0, places[2].nearest[0].0), (5, 5));
    assert!((places[0].nearest[0].1 - 1.0).abs() < 1e-5);
    let own = model.layers()[0].rows().norm(0);
    assert_eq!(places[0].norm, own);
    let shorter = (0..first).filter(|id| {
        let row = model.base().embedding().gather(&[*id]);
        row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() < own * (1.0 - 1e-7)
    });
    assert!((places[0].percentile - 100.0 * shorter.count() as f64 / f64::from(first)).abs() < 1e-9);
}

#[test]
fn the_prior_is_the_mean_probability_where_other_tokens_belong() {
    let tokens = [57, 3, 90];
    for name in ["llama_tied", "llama_untied_head", "bert", "bart", "rope_dynamic"] {
        let base = base(name);
        let data = dataset(name, &base);
        let model = Recipe::new(tokens).apply(base).expect("an adapter");
        let found = prior(&model, &data, &tokens).expect("computed").expect("a vocabulary");
        assert!(found.places > 0 && found.places <= 64, "{name}: {found:?}");
        // the same of whole batches, a label at a time
        let mut sums = [0f64; 3];
        let mut places = 0usize;
        for index in 0..data.len() {
            let mut batch = data.batch(&[index], 0).expect("a batch");
            let is_other = |target: &Option<u32>| target.is_some_and(|id| !tokens.contains(&id));
            let rows: Vec<bool> = batch.targets.iter().map(is_other).collect();
            places += rows.iter().filter(|is_other| **is_other).count();
            for (sum, id) in sums.iter_mut().zip(tokens) {
                batch.targets = rows.iter().map(|is_other| is_other.then_some(id)).collect();
                let (wanted, options) = (toktune::engine::runner::Wanted::Losses, Default::default());
                let step =
                    model.base().step(&batch, &model.active().trained(), wanted, options).expect("a step");
                *sum += step.losses.losses.iter().map(|loss| f64::from(-loss.value).exp()).sum::<f64>();
            }
        }
        if places == found.places {
            for (sum, probability) in sums.iter().zip(&found.probabilities) {
                let expected = sum / places as f64;
                assert!((expected - probability).abs() < 1e-5 * expected, "{name}: {expected} {probability}");
            }
        } else {
            // a sample of them
            for (sum, probability) in sums.iter().zip(&found.probabilities) {
                let expected = sum / places as f64;
                assert!((0.3..3.0).contains(&(probability / expected)), "{name}: {expected} {probability}");
            }
        }
    }
}

#[test]
fn models_without_a_vocabulary_to_compare_have_no_prior() {
    let name = "bert_pairs";
    let base = base(name);
    let data = dataset(name, &base);
    let model = Recipe::new([5]).apply(base).expect("an adapter");
    assert_eq!(prior(&model, &data, &[5]).expect("computed"), None);
}
