//! Models as llama.cpp's converter writes them against what they were made from.

use super::families::FAMILIES;
use super::testing::{assert_close, convertible, expected_logits, load, logits_of_first_batch};
use candle_core::quantized::GgmlDType;

#[test]
fn a_converted_model_computes_what_it_was_made_from() {
    for case in convertible() {
        let name = case.name;
        let expected = if case.is_unchanged {
            expected_logits(name)
        } else {
            logits_of_first_batch(&load(case.model.folder().path()), name)
        };
        for (kind, tolerance) in [(GgmlDType::F32, 1e-5), (GgmlDType::Q8_0, 0.2)] {
            let gguf = load(case.model.gguf(kind).path());
            let found = logits_of_first_batch(&gguf, name);
            assert_close(&found, &expected, tolerance, &format!("{name} in {kind:?}"));
        }
    }
}

#[test]
fn every_architecture_has_a_case() {
    let cases = convertible();
    let types: Vec<&str> = cases.iter().filter_map(|case| case.model.config["model_type"].as_str()).collect();
    for family in FAMILIES.iter().filter(|family| family.gguf.is_some()) {
        assert!(family.model_types.iter().any(|kind| types.contains(kind)), "{family:?}");
    }
}

#[test]
fn a_copy_of_the_embedding_as_the_head_is_a_tied_head() {
    let case = convertible().into_iter().find(|case| case.name == "gpt2").expect("a case");
    let mut model = case.model;
    let embedding = model.tensors.iter().find(|t| t.0.contains("wte")).expect("an embedding").clone();
    model.tensors.push(("lm_head.weight".into(), embedding.1, embedding.2));
    assert!(load(model.gguf(GgmlDType::F32).path()).is_tied());
    let head = model.tensors.last_mut().expect("a head");
    head.2[7] += 1.0;
    assert!(!load(model.gguf(GgmlDType::F32).path()).is_tied());
}
