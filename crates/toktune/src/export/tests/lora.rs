//! LoRA's updates on disk, and models that were merged in memory before.

use super::*;
use crate::config::{LoraConfig, TrainableTokenIndices};
use toktune_engine::EngineError;

const TARGETS: [&str; 3] = ["k_proj", "o_proj", "down_proj"];

/// LoRA on some layers, all values of it far from a fresh adapter's, and tokens.
pub(super) fn with_updates(base: PretrainedModel, tokens: Vec<u32>) -> PeftModel {
    let config = LoraConfig {
        r: 3,
        target_modules: Some(TargetModules::Names(TARGETS.map(String::from).to_vec())),
        trainable_token_indices: Some(TrainableTokenIndices::Tokens(tokens)),
        ..LoraConfig::default()
    };
    let mut model = get_peft_model(base, config).expect("an adapter");
    let mut random = Random::new(8);
    for (_, values) in model.parameters_mut() {
        values.iter_mut().for_each(|x| *x = random.below(2001) as f32 / 4000.0 - 0.25);
    }
    model
}

fn is_changed(tensor: &str, tied: bool) -> bool {
    let is_target = TARGETS.iter().any(|target| tensor.contains(&format!("{target}.weight")));
    is_target || tensor.contains("embed_tokens") || (tied && tensor.contains("lm_head"))
}

#[test]
fn updates_are_merged_and_everything_else_is_byte_identical() {
    for name in FIXTURES {
        for dtype in [WeightType::F32, WeightType::BF16] {
            let file = safetensors_file(&tensors(&fixture(name)), dtype);
            let source = source(name, &[(crate::weights::SINGLE, file)]);
            let model = with_updates(load(source.path()), vec![64, 3]);
            let (_top, folder) = merge(&model, MergeOptions::default());
            let (before, after) =
                (model.base().checkpoint(), Checkpoint::open(&folder).expect("a checkpoint"));
            for tensor in before.names() {
                assert_eq!(after.type_name(tensor), before.type_name(tensor), "{tensor}");
                let same = after.stored_bytes(tensor) == before.stored_bytes(tensor);
                assert_eq!(same, !is_changed(tensor, model.base().is_tied()), "{name}: {tensor}");
            }
            let tolerance = if dtype == WeightType::F32 { 1e-5 } else { 0.05 };
            assert_close(&logits(&load(&folder), None), &logits(model.base(), Some(&model)), tolerance);
        }
    }
}

#[test]
fn shards_and_index_stay_when_updates_are_merged() {
    let source = sharded("llama_untied");
    let model = with_updates(load(source.path()), vec![64, 3]);
    let (_top, folder) = merge(&model, MergeOptions::default());
    let index = |folder: &Path| fs::read(folder.join(crate::weights::INDEX)).expect("an index");
    assert_eq!(index(source.path()), index(&folder));
    assert_close(&logits(&load(&folder), None), &logits(model.base(), Some(&model)), 1e-5);
}

#[test]
fn a_gguf_file_gets_its_updates_too() {
    for kind in [GgmlDType::F32, GgmlDType::Q8_0] {
        let source = HubModel::read("llama_untied").gguf(kind);
        let model = with_updates(load(source.path()), vec![64, 3]);
        let (_top, folder) = merge(&model, MergeOptions { dtype: Some(MergedType::F32) });
        assert_close(&logits(&load(&folder), None), &logits(model.base(), Some(&model)), 1e-5);
    }
}

#[test]
fn what_was_merged_in_memory_is_written() {
    let source = sharded("llama_tied");
    let mut model = with_updates(load(source.path()), vec![64, 3]);
    let (_top, expected) = merge(&model, MergeOptions::default());
    let unmerged = logits(model.base(), Some(&model));
    model.merge_adapter(None, true).expect("merged");
    let (_other, folder) = merge(&model, MergeOptions::default());
    assert_close(&logits(&load(&folder), None), &unmerged, 1e-5);
    for file in file_names(&expected) {
        let bytes = |folder: &Path| fs::read(folder.join(&file)).expect("a file");
        assert!(bytes(&expected) == bytes(&folder), "{file}");
    }
}

#[test]
fn updates_that_are_not_finite_are_refused() {
    let source = sharded("llama_tied");
    let mut model = with_updates(load(source.path()), vec![64, 3]);
    model.lora_layers_mut()[0].b[4] = f32::INFINITY;
    let top = tempfile::tempdir().expect("a folder");
    let error =
        merge_to_folder(&model, &top.path().join("out"), MergeOptions::default()).expect_err("not finite");
    assert!(
        matches!(&error, PeftError::Engine(EngineError::NotFinite { what }) if what.contains("k_proj.weight, row 1")),
        "{error}"
    );
    assert_eq!(fs::read_dir(top.path()).expect("a folder").count(), 0);
}

#[test]
fn an_embedding_that_an_adapter_brought_is_written() {
    // PEFT's form for a resized model: the whole matrix lies in the adapter's file
    let mut resized = load(&fixture("llama_tied"));
    resized.resize_token_embeddings(104);
    let model = with_random_rows(resized, &[103, 3]);
    let folder = tempfile::tempdir().expect("a folder");
    model.save_pretrained(folder.path(), crate::peft::SaveEmbeddingLayers::Auto).expect("saved");
    let again = PeftModel::from_pretrained(load(&fixture("llama_tied")), folder.path()).expect("loaded");
    let (_top, merged) = merge(&again, MergeOptions::default());
    assert_same_logits(&model, &merged);
    let text = fs::read(merged.join("config.json")).expect("config.json");
    assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON")["vocab_size"], 104);
}
