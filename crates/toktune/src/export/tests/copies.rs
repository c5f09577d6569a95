//! Files that hold a token matrix under several names, or leave out the model's prefix.

use super::*;
use crate::models::ModelKind;

/// A model whose file holds the tensor `of` under `names` too.
fn with_copies(name: &str, of: &str, names: &[&str]) -> HubModel {
    let mut model = HubModel::read(name);
    let (_, shape, values) = model.tensors.iter().find(|t| t.0 == of).expect(of).clone();
    model.tensors.extend(names.iter().map(|name| (name.to_string(), shape.clone(), values.clone())));
    model
}

/// The model with random rows for its input embedding, and all that is tied to it.
fn with_rows(base: PretrainedModel, ids: &[u32]) -> PeftModel {
    let mut model = get_peft_model(base, TrainableTokensConfig::new(ids.to_vec())).expect("an adapter");
    let mut random = Random::new(5);
    let values = &mut model.layers_mut()[0].rows_mut().values;
    values.iter_mut().for_each(|x| *x = random.below(2001) as f32 / 1000.0 - 1.0);
    model
}

/// Logits of any kind of model, or a vector for each sequence where it has no head.
fn outputs(model: &PretrainedModel, rows: Option<&PeftModel>) -> Vec<f32> {
    let active = rows.map(PeftModel::active).unwrap_or_default();
    let ids: Vec<u32> = (0..40).collect();
    let tokens = |ids| TokenRows { ids, starts: &[0, 20, 40] };
    let reversed: Vec<u32> = ids.iter().rev().copied().collect();
    let encoder = (model.kind() == ModelKind::Seq2Seq).then(|| tokens(&reversed));
    let outputs = match model.has_head() {
        true => model.runner().logits(tokens(&ids), encoder, &active.trained()),
        false => model.runner().vectors(tokens(&ids), &active.trained()),
    };
    outputs.expect("numbers").concat()
}

/// Merges rows into `model` and checks that `copies` are all like the embedding, everything else is as it was, and what
/// comes out computes the same.
fn check(model: &HubModel, embedding: &str, copies: &[&str], appended: usize) {
    let source = model.folder();
    let mut base = load(source.path());
    let rows = base.vocabulary() + appended;
    base.resize_token_embeddings(rows);
    let model = with_rows(base, &[5, rows as u32 - 1]);
    let (_top, folder) = merge(&model, MergeOptions::default());
    let (before, after) = (model.base().checkpoint(), Checkpoint::open(&folder).expect("a checkpoint"));
    assert!(before.names().eq(after.names()), "no tensor comes or goes");
    for tensor in after.names() {
        if copies.contains(&tensor) || tensor == embedding {
            assert_eq!(after.stored_bytes(tensor), after.stored_bytes(embedding), "{tensor}");
            assert_ne!(after.stored_bytes(tensor), before.stored_bytes(tensor), "{tensor}");
        } else if appended == 0 || !tensor.ends_with("bias") {
            assert_eq!(after.stored_bytes(tensor), before.stored_bytes(tensor), "{tensor}");
        }
    }
    let merged = load(&folder);
    assert_eq!(merged.is_tied(), model.base().is_tied());
    assert!(outputs(&merged, None) == outputs(model.base(), Some(&model)), "{embedding}: other outputs");
}

const OF_T5: [&str; 2] = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];

#[test]
fn every_copy_of_an_embedding_is_written() {
    let all = [OF_T5[0], OF_T5[1], "lm_head.weight"];
    check(&with_copies("t5", "shared.weight", &all), "shared.weight", &all, 0);
    check(&with_copies("t5", "shared.weight", &all), "shared.weight", &all, 2);
    // its head is another matrix
    check(&with_copies("t5_gated", "shared.weight", &OF_T5), "shared.weight", &OF_T5, 0);
    let all = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"];
    check(&with_copies("bart", "model.shared.weight", &all), "model.shared.weight", &all, 0);
    let (embedding, decoder) = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight");
    check(&with_copies("bert", embedding, &[decoder]), embedding, &[decoder], 0);
}

#[test]
fn biases_of_appended_logits_are_zero() {
    for (name, embedding, bias, copy) in [
        (
            "bert",
            "bert.embeddings.word_embeddings.weight",
            "cls.predictions.bias",
            "cls.predictions.decoder.bias",
        ),
        ("bart", "model.shared.weight", "final_logits_bias", ""),
    ] {
        let mut model = HubModel::read(name);
        if !copy.is_empty() {
            model = with_copies(name, bias, &[copy]);
        }
        check(&model, embedding, &[], 3);
        let source = model.folder();
        let mut base = load(source.path());
        base.resize_token_embeddings(base.vocabulary() + 3);
        let (_top, folder) = merge(&with_rows(base, &[1]), MergeOptions::default());
        for tensor in [bias, copy].into_iter().filter(|tensor| !tensor.is_empty()) {
            let found = tensors(&folder).into_iter().find(|t| t.0 == tensor).expect(tensor);
            let (_, shape, values) = model.tensors.iter().find(|t| t.0 == tensor).expect(tensor);
            assert_eq!(found.1.last(), Some(&(shape[shape.len() - 1] + 3)), "{tensor}");
            assert_eq!(found.2, [&values[..], &[0.0; 3]].concat(), "{tensor}");
        }
    }
}

#[test]
fn names_without_the_models_prefix_stay_as_they_are() {
    for (name, prefix, embedding) in [
        ("gpt2", "transformer.", "wte.weight"),
        ("bloom", "transformer.", "word_embeddings.weight"),
        ("opt_125m", "model.", "decoder.embed_tokens.weight"),
        ("bert_pairs", "", "embeddings.word_embeddings.weight"),
    ] {
        let mut model = HubModel::read(name);
        for tensor in &mut model.tensors {
            tensor.0 = tensor.0.strip_prefix(prefix).unwrap_or(&tensor.0).to_owned();
        }
        model.tensors.retain(|tensor| tensor.0 != "lm_head.weight");
        check(&model, embedding, &[], 0);
    }
}

#[test]
fn what_shares_a_storage_of_torch_is_written_once() {
    let model = HubModel::read("bart");
    let mut file = torch_file(&model.tensors);
    let at = model.tensors.iter().position(|t| t.0 == "model.shared.weight").expect("an embedding");
    let shape: Vec<u64> = model.tensors[at].1.iter().map(|dim| *dim as u64).collect();
    for name in ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"] {
        file = file.tensor(name, "FloatStorage", at, 0, &shape, &[shape[1], 1]);
    }
    let source = source("bart", &[("pytorch_model.bin", file.build())]);
    let model = with_rows(load(source.path()), &[5]);
    let (_top, folder) = merge(&model, MergeOptions::default());
    assert!(outputs(&load(&folder), None) == outputs(model.base(), Some(&model)));
    let merged = Checkpoint::open(&folder).expect("a checkpoint");
    assert!(
        merged.contains("model.shared.weight") && !merged.names().any(|name| name.contains("embed_tokens"))
    );
    assert!(!merged.contains("lm_head.weight"));
}
