//! Models whose tensors another program holds, and models that are there twice.

use serde_json::json;
use std::path::{Path, PathBuf};
use toktune::Device;
use toktune::config::{PeftConfig, TrainableTokensConfig};
use toktune::export::{MergeOptions, merge_to_folder};
use toktune::models::{AutoModel, ModelConfig, PretrainedModel};
use toktune::peft::{PeftModel, get_peft_model};
use toktune::weights::{Bytes, Checkpoint, Memory, MemoryTensor};

const IDS: [u32; 5] = [7, 9, 33, 5, 60];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn opened(name: &str) -> PretrainedModel {
    AutoModel::from_pretrained(fixture(name), &Device::Cpu).expect("a model")
}

/// The same model with its tensors in memory.
fn held(name: &str, called: &Path) -> PretrainedModel {
    let model = opened(name);
    let checkpoint = model.checkpoint();
    let tensors = checkpoint.names().map(|name| MemoryTensor {
        name: name.to_owned(),
        type_name: checkpoint.type_name(name).expect("a type").to_owned(),
        shape: checkpoint.shape(name).expect("a shape").to_vec(),
        bytes: Bytes::owned(checkpoint.stored_bytes(name).expect("bytes").to_vec()),
    });
    let memory = Memory::new(&called.join("memory"), tensors).expect("tensors");
    let config = ModelConfig::from_object(called.join("config.json"), model.config().object().clone());
    AutoModel::from_checkpoint(called, config, Checkpoint::Memory(memory), &Device::Cpu).expect("a model")
}

fn logits(model: &PeftModel) -> Vec<f32> {
    model.forward(&[&IDS], None).expect("logits").concat()
}

fn adapted(base: PretrainedModel) -> PeftModel {
    let mut model = get_peft_model(base, TrainableTokensConfig::new([9, 60])).expect("an adapter");
    for (_, values) in model.parameters_mut() {
        values.iter_mut().enumerate().for_each(|(at, value)| *value += 0.1 * (at % 7) as f32 - 0.3);
    }
    model
}

#[test]
fn a_model_in_memory_computes_and_merges_as_that_of_the_files() {
    for name in ["llama_tied", "llama_untied", "gemma3", "gpt2", "bert"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, memory) = (adapted(opened(name)), adapted(held(name, Path::new("nowhere/model"))));
        let wanted = logits(&file);
        assert_eq!(logits(&memory), wanted, "{name}");
        let merged = folder.path().join("merged");
        merge_to_folder(&memory, &merged, MergeOptions::default()).expect("merged");
        let again =
            PeftModel::without_adapter(AutoModel::from_pretrained(&merged, &Device::Cpu).expect("a model"));
        assert_eq!(logits(&again), wanted, "{name}: merged");
    }
}

#[test]
fn one_that_came_from_a_folder_takes_its_companions_along() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("tokenizer.json"), "{}").expect("written");
    let merged = folder.path().join("merged");
    let model = adapted(held("llama_tied", &source));
    merge_to_folder(&model, &merged, MergeOptions::default()).expect("merged");
    assert!(merged.join("tokenizer.json").is_file() && merged.join("config.json").is_file());
}

#[test]
fn a_clone_is_changed_alone() {
    for name in ["llama_tied", "llama_untied", "t5"] {
        let mut first = opened(name);
        first.resize_token_embeddings(first.vocabulary() + 3);
        let mut second = first.try_clone().expect("a clone");
        assert_eq!(second.vocabulary(), first.vocabulary(), "{name}: appended rows go along");
        second.resize_token_embeddings(first.vocabulary() + 1);
        assert_eq!(second.vocabulary(), first.vocabulary() + 1, "{name}");
    }
    let lora =
        json!({"peft_type": "LORA", "r": 4, "init_lora_weights": false, "target_modules": "all-linear"});
    let lora = PeftConfig::from_value(Path::new("given"), lora).expect("a configuration");
    let mut model = get_peft_model(opened("llama_tied"), lora).expect("an adapter");
    let wanted = logits(&model);
    let clone = model.try_clone().expect("a clone");
    assert_eq!(logits(&clone), wanted);
    model.merge_adapter(None, false).expect("merged");
    let merged = logits(&model);
    assert_eq!(logits(&clone), wanted, "what is merged in one is not in the other");
    let mut clone = model.try_clone().expect("a clone");
    assert_eq!(logits(&clone), merged, "what was merged goes along");
    clone.unmerge_adapter().expect("taken out");
    assert_eq!(logits(&clone), wanted, "and can be taken out");
}

#[test]
fn configurations_are_read_from_values() {
    let tokens = json!({"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 4]});
    let read = PeftConfig::from_value(Path::new("given"), tokens).expect("a configuration");
    assert_eq!((read.peft_type(), read.token_indices()), ("TRAINABLE_TOKENS", vec![3, 4]));
    for (value, expected) in [
        (json!({"peft_type": "IA3"}), "IA3"),
        (json!([1]), "nothing"),
        (json!({"peft_type": "LORA", "r": 0}), "r"),
        (json!({"peft_type": "TRAINABLE_TOKENS", "token_indices": "x"}), "fields"),
    ] {
        let message = PeftConfig::from_value(Path::new("given"), value).expect_err("a fault").to_string();
        assert!(message.contains("given") && message.contains(expected), "{message}");
    }
}
