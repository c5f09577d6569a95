//! Merged folders against the model with its adapter, from every kind of source.

mod copies;
mod dtype;
mod families;
mod gguf_file;
mod gguf_lora;
mod lora;
mod lora_onehot;
mod multimodal;
mod peft_folder;
mod proofs;

use super::*;
use crate::config::{TargetModules, TrainableTokensConfig};
use crate::models::testing::scaled;
use crate::models::testing::{self, HubModel, Named, fixture, load, safetensors_file, tensors};
use crate::models::{PretrainedModel, TokenRows};
use crate::peft::get_peft_model;
use crate::weights::testing::{Random, TorchFile};
use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use toktune_engine::EngineError;

const FIXTURES: [&str; 5] = ["gemma3", "llama_rope3", "llama_tied", "llama_untied", "llama_untied_head"];

fn with_adapter(path: &Path, fixture_name: &str) -> PeftModel {
    PeftModel::from_pretrained(load(path), &fixture(fixture_name).join("adapter")).expect("an adapter")
}

/// The model with random rows for `ids` in every matrix that it has of its own.
fn with_random_rows(base: PretrainedModel, ids: &[u32]) -> PeftModel {
    let mut config = TrainableTokensConfig::new(ids.to_vec());
    if !base.is_tied() {
        let names = [base.embedding_name(), base.head_name()].map(String::from);
        config.target_modules = Some(TargetModules::Names(names.to_vec()));
    }
    let mut model = get_peft_model(base, config).expect("an adapter");
    let mut random = Random::new(5);
    for layer in model.layers_mut() {
        let values = &mut layer.rows_mut().values;
        values.iter_mut().for_each(|x| *x = random.below(2001) as f32 / 1000.0 - 1.0);
    }
    model
}

/// The logits of a text with every token of `0..rows` in it, some positions of it past Gemma's window.
fn logits(model: &PretrainedModel, rows: Option<&PeftModel>) -> Vec<f32> {
    let active = rows.map(PeftModel::active).unwrap_or_default();
    let ids: Vec<u32> = (0..model.vocabulary() as u32).collect();
    let starts: Vec<usize> = (0..ids.len()).step_by(20).chain([ids.len()]).collect();
    let tokens = TokenRows { ids: &ids, starts: &starts };
    model.runner().logits(tokens, None, &active.trained()).expect("logits").concat()
}

/// Merges into a folder of a new temporary one.
fn merge(model: &PeftModel, options: MergeOptions) -> (TempDir, PathBuf) {
    let top = tempfile::tempdir().expect("a folder");
    let folder = top.path().join("merged");
    merge_to_folder(model, &folder, options).expect("merged");
    assert_eq!(fs::read_dir(top.path()).expect("a folder").count(), 1, "nothing temporary is left");
    (top, folder)
}

fn assert_same_logits(model: &PeftModel, folder: &Path) {
    let merged = load(folder);
    assert_eq!(merged.vocabulary(), model.base().vocabulary());
    assert_eq!(merged.is_tied(), model.base().is_tied());
    assert!(logits(&merged, None) == logits(model.base(), Some(model)), "{folder:?}: other logits");
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    testing::assert_close(found, expected, tolerance, "merged");
}

/// A source folder with the configuration of a fixture.
fn source(name: &str, files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).expect("copied");
    for (file, bytes) in files {
        fs::write(folder.path().join(file), bytes).expect("written");
    }
    folder
}

/// A source in two shards: the second holds no token matrix.
fn sharded(name: &str) -> TempDir {
    let (first, second): (Vec<Named>, Vec<Named>) =
        tensors(&fixture(name)).into_iter().partition(|t| !t.0.contains("layers.1"));
    let map: serde_json::Map<String, Value> = first
        .iter()
        .map(|t| (t.0.clone(), "model-00001-of-00002.safetensors".into()))
        .chain(second.iter().map(|t| (t.0.clone(), "model-00002-of-00002.safetensors".into())))
        .collect();
    let index = json!({"metadata": {"total_size": 1000, "total_parameters": 250}, "weight_map": map});
    source(
        name,
        &[
            ("model-00001-of-00002.safetensors", safetensors_file(&first, WeightType::F32)),
            ("model-00002-of-00002.safetensors", safetensors_file(&second, WeightType::F32)),
            (crate::weights::INDEX, index.to_string().into_bytes()),
        ],
    )
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_merged_folder_computes_what_base_and_adapter_do() {
    for name in FIXTURES {
        let model = with_adapter(&fixture(name), name);
        assert!(logits(model.base(), Some(&model)) != logits(model.base(), None), "{name}: nothing trained");
        let (_top, folder) = merge(&model, MergeOptions::default());
        assert_same_logits(&model, &folder);
        let config = |folder: &Path| fs::read(folder.join("config.json")).expect("config.json");
        assert_eq!(config(&folder), config(&fixture(name)));
        let (before, after) = (model.base().checkpoint(), Checkpoint::open(&folder).expect("a checkpoint"));
        assert!(before.names().eq(after.names()), "{name}: no tensor comes or goes");
        for tensor in before.names().filter(|n| !n.contains("embed_tokens") && !n.contains("lm_head")) {
            assert_eq!(before.stored_bytes(tensor), after.stored_bytes(tensor), "{name}: {tensor}");
        }
        let metadata = crate::weights::read_metadata(&folder.join(crate::weights::SINGLE)).expect("metadata");
        assert_eq!(Value::Object(metadata), json!({"format": "pt"}));
    }
}

#[test]
fn shards_and_the_files_of_the_model_keep_their_names_and_bytes() {
    let source = sharded("llama_untied");
    for file in ["tokenizer.json", "generation_config.json", "training_args.bin", ".hidden.json"] {
        fs::write(source.path().join(file), file).expect("written");
    }
    let model = with_adapter(source.path(), "llama_untied");
    let (_top, folder) = merge(&model, MergeOptions::default());
    assert_same_logits(&model, &folder);
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let index = crate::weights::INDEX;
    assert_eq!(
        file_names(&folder),
        ["config.json", "generation_config.json", first, second, index, "tokenizer.json"]
    );
    for file in [second, index, "config.json", "tokenizer.json"] {
        let bytes = |folder: &Path| fs::read(folder.join(file)).expect("a file");
        assert_eq!(bytes(source.path()), bytes(&folder), "{file}");
    }
    let metadata = crate::weights::read_metadata(&folder.join(first)).expect("metadata");
    assert_eq!(metadata.get("by"), Some(&json!("us")), "metadata is kept");
}

/// Tensors as torch would save them, each with a storage of its own.
fn torch_file(tensors: &[Named]) -> TorchFile {
    tensors.iter().fold(TorchFile::new(), |file, (name, shape, values)| {
        let shape: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
        file.f32(name, &shape, values)
    })
}

#[test]
fn files_of_torch_become_one_safetensors_file() {
    for name in FIXTURES {
        let all = tensors(&fixture(name));
        let (first, second) = all.split_at(all.len() / 2);
        let (a, b) = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin");
        let map: serde_json::Map<String, Value> = (first.iter().map(|t| (t.0.clone(), a.into())))
            .chain(second.iter().map(|t| (t.0.clone(), b.into())))
            .collect();
        let index = json!({"metadata": {}, "weight_map": map}).to_string().into_bytes();
        for (files, extra) in [
            (vec![("pytorch_model.bin", torch_file(&all).build())], 0),
            (
                vec![
                    (a, torch_file(first).build()),
                    (b, torch_file(second).build()),
                    ("pytorch_model.bin.index.json", index),
                ],
                2,
            ),
        ] {
            let source = source(name, &files);
            let mut base = load(source.path());
            base.resize_token_embeddings(base.vocabulary() + extra);
            let model = with_random_rows(base, &[5, 44]);
            let (_top, folder) = merge(&model, MergeOptions::default());
            assert_same_logits(&model, &folder);
            assert_eq!(file_names(&folder), ["config.json", "model.safetensors"]);
            let merged = Checkpoint::open(&folder).expect("a checkpoint");
            for tensor in merged.names() {
                let (old, new) =
                    (model.base().checkpoint().stored_bytes(tensor), merged.stored_bytes(tensor));
                let is_trained = model.layers().iter().any(|layer| tensor.starts_with(layer.name()));
                assert!(is_trained || old == new, "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn a_tied_head_of_torch_is_left_out_and_an_unknown_type_refused() {
    let all = tensors(&fixture("llama_tied"));
    let (at, embedding) =
        all.iter().enumerate().find(|(_, t)| t.0.contains("embed_tokens")).expect("an embedding");
    let shape: Vec<u64> = embedding.1.iter().map(|dim| *dim as u64).collect();
    let tied = |class| {
        let file = torch_file(&all).tensor("lm_head.weight", "FloatStorage", at, 0, &shape, &[shape[1], 1]);
        source("llama_tied", &[("pytorch_model.bin", file.tensor("other", class, at, 0, &[1], &[1]).build())])
    };
    let source = tied("LongStorage");
    let model = with_random_rows(load(source.path()), &[3]);
    let (_top, folder) = merge(&model, MergeOptions::default());
    assert_same_logits(&model, &folder);
    let merged = Checkpoint::open(&folder).expect("a checkpoint");
    assert!(!merged.contains("lm_head.weight") && merged.type_name("other") == Some("I64"));
    let source = tied("QInt8Storage");
    let model = with_random_rows(load(source.path()), &[3]);
    let top = tempfile::tempdir().expect("a folder");
    let error = merge_to_folder(&model, &top.path().join("merged"), MergeOptions::default());
    let error = error.expect_err("no such type").to_string();
    assert!(error.contains("'other' is stored as QInt8Storage"), "{error}");
}

#[test]
fn appended_rows_are_written_and_counted() {
    for name in FIXTURES {
        let source = sharded(name);
        let mut base = load(source.path());
        let rows = base.vocabulary();
        base.resize_token_embeddings(rows + 3);
        // one of the appended rows is trained, one at the edge is not
        let model = with_random_rows(base, &[rows as u32 + 1, 5, rows as u32 - 1]);
        let (_top, folder) = merge(&model, MergeOptions::default());
        assert_same_logits(&model, &folder);
        let read = |file: &str| -> Value {
            serde_json::from_slice(&fs::read(folder.join(file)).expect("a file")).expect("JSON")
        };
        assert_eq!(read("config.json")["vocab_size"], rows + 3);
        let entries = if model.base().is_tied() { 3 * 32 } else { 6 * 32 };
        let metadata = &read(crate::weights::INDEX)["metadata"];
        assert_eq!(*metadata, json!({"total_size": 1000 + 4 * entries, "total_parameters": 250 + entries}));
    }
}

#[test]
fn a_nested_configuration_gets_its_vocabulary() {
    let source = sharded("llama_tied");
    let path = source.path().join("config.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
    object["text_config"] = json!({"vocab_size": 101, "x": 1});
    fs::write(&path, object.to_string()).expect("written");
    let mut base = load(source.path());
    base.resize_token_embeddings(104);
    let text: Value =
        serde_json::from_str(&config::changed(&base, true, None).expect("text").expect("changed"))
            .expect("JSON");
    assert_eq!(
        (&text["vocab_size"], &text["text_config"]),
        (&json!(104), &json!({"vocab_size": 104, "x": 1}))
    );
}

#[test]
fn untouched_rows_of_a_bf16_source_are_byte_identical() {
    for name in FIXTURES {
        let file = safetensors_file(&tensors(&fixture(name)), WeightType::BF16);
        let source = source(name, &[(crate::weights::SINGLE, file)]);
        let model = with_random_rows(load(source.path()), &[64, 3, 17]);
        let (_top, folder) = merge(&model, MergeOptions::default());
        let (before, after) = (model.base().checkpoint(), Checkpoint::open(&folder).expect("a checkpoint"));
        for tensor in before.names() {
            let layer = model.layers().iter().find(|layer| tensor.starts_with(layer.name()));
            let (old, new) = (before.stored_bytes(tensor), after.stored_bytes(tensor));
            let (old, new) = (old.expect("bytes"), new.expect("bytes"));
            assert_eq!(after.type_name(tensor), Some("BF16"));
            let Some(layer) = layer else {
                assert_eq!(old, new, "{name}: {tensor}");
                continue;
            };
            for (row, (old, new)) in old.chunks_exact(64).zip(new.chunks_exact(64)).enumerate() {
                let trained = layer.rows().position(row as u32).map(|at| layer.rows().row(at));
                let trained = trained.map(|row| encode(WeightType::BF16, row).expect("bf16"));
                assert_eq!(new, trained.as_deref().unwrap_or(old), "{name}: {tensor}, row {row}");
            }
        }
        assert_close(&logits(&load(&folder), None), &logits(model.base(), Some(&model)), 0.02);
    }
}

#[test]
fn a_stored_copy_of_a_tied_head_stays_equal_to_the_embedding() {
    let mut all = tensors(&fixture("llama_tied"));
    let embedding = all.iter().find(|t| t.0.contains("embed_tokens")).expect("an embedding").clone();
    all.push(("lm_head.weight".into(), embedding.1, embedding.2));
    let source = source("llama_tied", &[(crate::weights::SINGLE, safetensors_file(&all, WeightType::F32))]);
    let mut base = load(source.path());
    base.resize_token_embeddings(103);
    let model = with_random_rows(base, &[3, 102]);
    let (_top, folder) = merge(&model, MergeOptions::default());
    assert_same_logits(&model, &folder);
    let merged = Checkpoint::open(&folder).expect("a checkpoint");
    assert_eq!(merged.shape("lm_head.weight"), Some(&[103, 32][..]));
    assert_eq!(merged.stored_bytes("lm_head.weight"), merged.stored_bytes("model.embed_tokens.weight"));
}

#[test]
fn the_type_of_a_merged_gguf_follows_the_file_or_the_option() {
    for (kind, option, expected, tolerance) in [
        (GgmlDType::F16, None, "F16", 3e-3),
        // one matrix has rows that are no whole number of blocks: it is `F32` in a file that is quantised all
        // the same
        (GgmlDType::Q8_0, None, "BF16", 0.03),
        (GgmlDType::Q8_0, Some(MergedType::F32), "F32", 0.0),
        (GgmlDType::F32, Some(MergedType::Bf16), "BF16", 0.03),
        (GgmlDType::F16, Some(MergedType::F32), "F32", 0.0),
    ] {
        for name in ["llama_untied", "gemma3"] {
            let source = HubModel::read(name).gguf(kind);
            let mut base = load(source.path());
            base.resize_token_embeddings(base.vocabulary() + 2);
            let rows = base.vocabulary();
            let model = with_random_rows(base, &[rows as u32 - 1, 3]);
            let (_top, folder) = merge(&model, MergeOptions { dtype: option });
            let merged = load(&folder);
            let config = merged.config().object();
            assert_eq!(config["vocab_size"], rows);
            assert_eq!(config["dtype"], config["torch_dtype"]);
            assert_eq!(config["tie_word_embeddings"], merged.is_tied());
            assert!(config.contains_key("architectures") && config.contains_key("rope_theta"));
            for tensor in merged.checkpoint().names() {
                assert_eq!(merged.checkpoint().type_name(tensor), Some(expected), "{tensor}");
            }
            assert_close(&logits(&merged, None), &logits(model.base(), Some(&model)), tolerance);
        }
    }
}

#[test]
fn outputs_in_use_are_refused_and_left_alone() {
    let source = sharded("llama_tied");
    let before = file_names(source.path());
    let model = with_random_rows(load(source.path()), &[3]);
    let refused =
        |folder: &Path| merge_to_folder(&model, folder, MergeOptions::default()).expect_err("refused");
    let error = refused(source.path());
    assert!(matches!(error, PeftError::MergeOntoSource { .. }), "{error}");
    assert!(error.to_string().contains("read from this folder"), "{error}");
    let other = tempfile::tempdir().expect("a folder");
    fs::write(other.path().join("mine.txt"), "").expect("written");
    let error = refused(other.path());
    assert!(
        matches!(error, PeftError::Weights(crate::weights::WeightsError::OutputInUse { .. }))
            && error.to_string().contains("mine.txt"),
        "{error}"
    );
    assert_eq!((file_names(source.path()), file_names(other.path())), (before, vec!["mine.txt".into()]));
}

#[test]
fn rows_that_a_type_cannot_hold_are_refused_and_nothing_is_left() {
    let source = HubModel::read("llama_tied").gguf(GgmlDType::F32);
    let top = tempfile::tempdir().expect("a folder");
    for (value, dtype) in
        [(1e5, MergedType::F16), (f32::NAN, MergedType::Bf16), (f32::INFINITY, MergedType::F32)]
    {
        let mut model = with_random_rows(load(source.path()), &[9]);
        model.layers_mut()[0].rows_mut().values[1] = value;
        let options = MergeOptions { dtype: Some(dtype) };
        let error = merge_to_folder(&model, &top.path().join("merged"), options).expect_err("refused");
        assert!(matches!(error, PeftError::Engine(EngineError::NotFinite { .. })), "{error}");
        assert!(error.to_string().contains("model.embed_tokens.weight, row 9 holds"), "{error}");
        assert!(file_names(top.path()).is_empty());
    }
}

#[test]
fn merging_leaves_scaled_tensors_as_they_are() {
    let field = scaled::fp8(json!([16, 16]));
    let source = scaled::folder(field, |entries| scaled::to_fp8(entries, "_scale_inv", &[4, 2], "F32"));
    let model = PeftModel::without_adapter(load(source.path()));
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("merged");
    merge_to_folder(&model, &output, MergeOptions::default()).expect("merged");
    let bytes = |folder: &Path| {
        Checkpoint::open(folder).expect("a checkpoint").stored_bytes(scaled::WEIGHT).expect("bytes").to_vec()
    };
    assert_eq!(bytes(&output), bytes(source.path()));
    let decoded = |folder: &Path| {
        let model = load(folder);
        let linears = model.runner().linears();
        let weight = linears.iter().map(|linear| linear.weight).find(|w| w.name() == scaled::WEIGHT);
        let weight = weight.expect("the layer");
        weight.decode_rows(0..weight.rows())
    };
    assert_eq!(decoded(&output), decoded(source.path()));
}
