//! What labels count, from the keys of a row to the batch.

use super::*;
use crate::data::batch;
use crate::data::{DecoderInputs, DecoderStart, Masking};

fn weights(rows: &str) -> Vec<Vec<f32>> {
    let data = read(rows, &options()).unwrap();
    data.examples().map(|example| example.unwrap().weights).collect()
}

#[test]
fn rows_of_every_form_can_have_one_and_those_of_ids_one_a_label() {
    let rows = r#"
        {"text": "ab", "loss_weight": 0.5}
        {"prompt": "a", "completion": "b", "loss_weight": 2}
        {"input_ids": [1, 2, 3], "loss_weights": [0, 1, 0.25], "loss_weight": 2}
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "loss_weights": [7, 1, 0]}
        {"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0], "loss_weights": [1, 3, 5]}
        {"instruction": "a", "output": "b", "loss_weight": 1.0}
        {"input_ids": [1, 2], "loss_weights": [1, 1]}
        {"text": "ab", "loss_weight": null, "weight": 0}"#
        .trim();
    let found = weights(rows);
    // a word and the end; of rows that count once nothing is kept, and `weight` is no key of a row
    assert_eq!(found[0], [0.5; 2]);
    assert!(found[1].len() == 3 && found[1].iter().all(|weight| *weight == 2.0), "{:?}", found[1]);
    assert_eq!(found[2..5], [vec![0.0, 2.0, 0.5], vec![7.0, 1.0, 0.0], vec![1.0, 3.0]]);
    assert!(found[5..].iter().all(Vec::is_empty), "{:?}", &found[5..]);
    let cut = DataOptions { max_length: Some(2), ..options() };
    let data = read(r#"{"input_ids": [1, 2, 3], "loss_weights": [1, 3, 5]}"#, &cut).unwrap();
    assert_eq!(data.example(0).unwrap().weights, [1.0, 3.0]);
}

#[test]
fn a_table_has_them_too() {
    let table = b"input_ids,loss_weights,loss_weight\n\"[1, 2]\",\"[0.5, 3]\",2\n\"[1, 2]\",,0.5\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, table).unwrap();
    let data = Dataset::read(std::slice::from_ref(&path), None, &options()).unwrap();
    assert_eq!(data.example(0).unwrap().weights, [1.0, 6.0]);
    assert_eq!(data.example(1).unwrap().weights, [0.5, 0.5]);
    std::fs::write(&path, b"input_ids,loss_weight\n\"[1, 2]\",much\n").unwrap();
    let error = Dataset::read(&[path], None, &options()).unwrap_err().to_string();
    assert!(error.contains("rows.csv:2: `loss_weight` is a string"), "{error}");
}

/// The example with these weights.
fn weighted(example: Example, weights: &[f32]) -> Example {
    Example { weights: weights.to_vec(), ..example }
}

#[test]
fn weights_go_where_their_labels_go() {
    let given = weighted(example(&[1, 2, 3], &[Some(1), Some(2), Some(3)], &[]), &[9.0, 0.5, 0.0]);
    let plain = example(&[4, 5], &[None, Some(5)], &[]);
    // a decoder's labels move by one row, and what counts nothing is no target
    let causal = batch::causal([&plain, &given, &plain]);
    assert_eq!(causal.targets, [Some(5), None, Some(2), None, None, Some(5), None]);
    assert_eq!(causal.weights, [1.0, 1.0, 0.5, 0.0, 1.0, 1.0, 1.0]);
    assert!(batch::causal([&plain]).weights.is_empty());
    let masking = Masking::none();
    let masked = batch::masked([(0, &given)], &masking, 0, 1000);
    assert_eq!(masked.targets, [Some(1), Some(2), None]);
    assert_eq!(masked.weights, [9.0, 0.5, 0.0]);
    // the decoder reads every label, whatever it counts
    let inputs = DecoderInputs { start: DecoderStart::Token(0), pad: 0 };
    let both = batch::seq2seq([&given], inputs);
    assert_eq!((both.ids, both.targets), (vec![0, 1, 2], vec![Some(1), Some(2), None]));
    assert_eq!(both.weights, [9.0, 0.5, 0.0]);
    // what the set counts is what its batches hold
    for (collator, labels) in [(Collator::Causal, 1), (Collator::Seq2Seq(inputs), 2)] {
        let data = dataset([given.clone()], collator);
        assert_eq!((data.label_tokens(), data.example(0).unwrap()), (labels, given.clone()));
    }
    let nothing = weighted(example(&[1, 2], &[Some(1), Some(2)], &[]), &[1.0, 0.0]);
    assert_eq!(dataset([nothing, plain], Collator::Causal).rows_without_labels(), 1);
}

#[test]
fn tokens_that_are_masked_anew_count_as_their_places_do() {
    let masking = Masking { mask_token: Some(3), probability: 1.0, vocab_size: 1000, ..Masking::none() };
    let chosen = weighted(example(&[7, 8, 9], &[], &[]), &[2.0, 0.0, 1.0]);
    let data = dataset([chosen], Collator::MaskedLm(masking));
    let batch = data.batch(&[0], 4).unwrap();
    assert_eq!(batch.targets, [Some(7), None, Some(9)]);
    assert_eq!((batch.weights, data.label_tokens()), (vec![2.0, 0.0, 1.0], 2));
}

#[test]
fn weights_that_are_none_are_refused() {
    let labels = [Some(1), Some(2)];
    let refused = |weights: &[f32], collator: Collator| {
        let example = weighted(example(&[1, 2], &labels, &[]), weights);
        Dataset::from_examples(&[example], collator, 1000).unwrap_err().to_string()
    };
    assert_eq!(refused(&[1.0], Collator::Causal), "x:1: 1 `loss_weights`, expected 2, one a label");
    for (weight, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let expected = format!("x:1: `weights[1]` is {shown}, expected a finite number of at least 0");
        assert_eq!(refused(&[1.0, weight], Collator::Causal), expected);
    }
    let pairs =
        "x:1: `loss_weight`: the loss of sentence pairs is that of whole batches, and every pair counts once";
    assert_eq!(refused(&[1.0, 2.0], Collator::SentencePairs), pairs);
    let options = DataOptions { collator: Collator::SentencePairs, ..options() };
    let error = read(r#"{"anchor": [1], "positive": [2], "loss_weight": 2}"#, &options).unwrap_err();
    assert!(error.ends_with("rows.jsonl:1: `loss_weight`: the loss of sentence pairs is that of whole batches, and every pair counts once"), "{error}");
}
