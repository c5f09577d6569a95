//! Merging a folder into another type than its own.

use super::lora::with_updates;
use super::*;
use crate::weights::{INDEX, SINGLE};

fn options(dtype: MergedType) -> MergeOptions {
    MergeOptions { dtype: Some(dtype) }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// A safetensors file of tensors in any plain type.
fn file_in(dtype: WeightType, tensors: &[Named]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(encode(dtype, values).expect("a plain type"));
        let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    crate::weights::testing::safetensors(&Value::from(header).to_string(), &data)
}

/// A folder of a fixture with tensors in `dtype`, in two shards or in one file.
fn stored_in(name: &str, dtype: WeightType, is_sharded: bool) -> TempDir {
    let all = tensors(&fixture(name));
    if !is_sharded {
        return source(name, &[(SINGLE, file_in(dtype, &all))]);
    }
    let (first, second) = all.split_at(all.len() / 2);
    let (a, b) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let map: serde_json::Map<String, Value> = (first.iter().map(|t| (t.0.clone(), a.into())))
        .chain(second.iter().map(|t| (t.0.clone(), b.into())))
        .collect();
    let index = json!({"metadata": {"total_size": 1000}, "weight_map": map}).to_string();
    let file = |part| file_in(dtype, part);
    source(name, &[(a, file(first)), (b, file(second)), (INDEX, index.into_bytes())])
}

/// Merges into `f32` and looks at every tensor, the configuration, the index, the proof and the logits.
fn check_exact(model: &PeftModel, tolerance: f32) {
    let (_top, folder) = merge(model, options(MergedType::F32));
    let (before, merged) = (model.base().checkpoint(), load(&folder));
    let after = merged.checkpoint();
    for tensor in after.names() {
        assert_eq!(after.type_name(tensor), Some("F32"), "{tensor}");
    }
    let config = json_of(&folder.join("config.json"));
    for key in ["dtype", "torch_dtype"].into_iter().filter(|key| config.get(key).is_some()) {
        assert_eq!(config[key], "float32", "{key}");
    }
    assert!(config.get("dtype").or(config.get("torch_dtype")).is_some());
    if folder.join(INDEX).exists() {
        assert_eq!(json_of(&folder.join(INDEX))["metadata"]["total_size"], after.total_bytes());
    }
    for layer in model.layers() {
        let name = format!("{}.weight", layer.name());
        let stored = after.stored_bytes(&name).expect("a token matrix");
        for &row in layer.rows().indices() {
            let trained = layer.rows().row(layer.rows().position(row).expect("trained"));
            let own = row as usize * trained.len() * 4..(row as usize + 1) * trained.len() * 4;
            assert_eq!(stored.get(own), encode(WeightType::F32, trained).as_deref(), "{name}, row {row}");
        }
    }
    let proof = prove_merge(model, &folder).expect("proven");
    assert_eq!((proof.rounding, proof.conversion, proof.unchanged_tensors), (0.0, 0.0, 0), "{proof:?}");
    assert!(proof.logits.is_some_and(|most| most <= tolerance), "{proof:?}");
    let updated = model.active().lora().len();
    assert_eq!(proof.converted_tensors + updated, before.names().count(), "{proof:?}");
    let (found, expected) = (logits(&merged, None), logits(model.base(), Some(model)));
    assert_close(&found, &expected, tolerance);
    // which rounding to the source's type does not give
    let (_top, rounded) = merge(model, MergeOptions::default());
    let proof = prove_merge(model, &rounded).expect("proven");
    assert!(proof.logits.is_some_and(|most| most > tolerance), "{proof:?}");
}

#[test]
fn a_folder_of_16_bits_is_merged_exactly_into_32() {
    for name in ["llama_tied", "llama_untied", "gemma3"] {
        for dtype in [WeightType::BF16, WeightType::F16] {
            for (is_sharded, more) in [(false, 0), (true, 3)] {
                let folder = stored_in(name, dtype, is_sharded);
                let stored = Checkpoint::open(folder.path()).expect("a checkpoint");
                assert!(stored.names().all(|tensor| stored.dtype(tensor) == Some(dtype)));
                let grown = || {
                    let mut base = load(folder.path());
                    base.set_precision(crate::models::PrecisionMode::F32);
                    base.resize_token_embeddings(base.vocabulary() + more);
                    base
                };
                let last = grown().vocabulary() as u32 - 1;
                check_exact(&with_random_rows(grown(), &[3, last, 17]), 0.0);
                check_exact(&with_updates(grown(), vec![64, last]), 5e-5);
            }
        }
    }
}

#[test]
fn a_file_of_torch_is_merged_exactly_too() {
    let all = tensors(&fixture("llama_tied"));
    let shape = |dims: &[usize]| dims.iter().map(|dim| *dim as u64).collect::<Vec<_>>();
    let file = all.iter().enumerate().fold(TorchFile::new(), |file, (at, (name, dims, values))| {
        let dims = shape(dims);
        let strides = if dims.len() == 2 { vec![dims[1], 1] } else { vec![1] };
        let bytes = encode(WeightType::BF16, values).expect("bf16");
        file.storage(&bytes).tensor(name, "BFloat16Storage", at, 0, &dims, &strides)
    });
    let source = source("llama_tied", &[("pytorch_model.bin", file.build())]);
    check_exact(&with_random_rows(load(source.path()), &[3, 17]), 0.0);
}

#[test]
fn what_is_in_the_type_already_is_left_as_it_is() {
    for (dtype, merged) in [(WeightType::BF16, MergedType::Bf16), (WeightType::F16, MergedType::F16)] {
        let folder = stored_in("llama_untied", dtype, true);
        let model = with_random_rows(load(folder.path()), &[3, 9]);
        let (_one, plain) = merge(&model, MergeOptions::default());
        let (_other, asked) = merge(&model, options(merged));
        for file in file_names(&plain) {
            let bytes = |folder: &Path| fs::read(folder.join(&file)).expect("a file");
            assert!(file == "config.json" || file == INDEX || bytes(&plain) == bytes(&asked), "{file}");
        }
    }
}

#[test]
fn narrowing_is_told_and_what_does_not_fit_is_refused_by_name() {
    let model = with_random_rows(load(&fixture("llama_untied")), &[3, 9]);
    let (_top, folder) = merge(&model, options(MergedType::Bf16));
    let proof = prove_merge(&model, &folder).expect("proven");
    assert!(proof.rounding > 0.0 && proof.conversion > 0.0 && proof.converted_tensors > 0, "{proof:?}");
    let mut all = tensors(&fixture("llama_untied"));
    let norm = all.iter_mut().find(|t| t.0 == "model.norm.weight").expect("a norm");
    norm.2[2] = 1e5;
    let large = source("llama_untied", &[(SINGLE, safetensors_file(&all, WeightType::BF16))]);
    let model = with_random_rows(load(large.path()), &[3]);
    let top = tempfile::tempdir().expect("a folder");
    let error = merge_to_folder(&model, &top.path().join("merged"), options(MergedType::F16));
    let error = error.expect_err("too large").to_string();
    assert!(error.contains("model.norm.weight, entry 2 holds") && error.contains("F16"), "{error}");
    assert!(file_names(top.path()).is_empty());
}

#[test]
fn numbers_of_other_kinds_and_infinities_stay() {
    let scales = "model.layers.0.mlp.up_proj.weight_scale_inv";
    let source = scaled::folder(scaled::fp8(json!([16, 16])), |entries| {
        scaled::to_fp8(entries, "_scale_inv", &[4, 2], "BF16");
        entries.push(("model.positions".into(), "I64", vec![2], vec![7; 16]));
        entries.push(("model.double".into(), "F64", vec![1], vec![1; 8]));
        let mask = encode(WeightType::F16, &[f32::NEG_INFINITY, 1.5]).expect("f16");
        entries.push(("model.mask".into(), "F16", vec![2], mask));
    });
    let model = with_random_rows(load(source.path()), &[3]);
    let (_top, folder) = merge(&model, options(MergedType::F32));
    let (before, after) = (model.base().checkpoint(), Checkpoint::open(&folder).expect("a checkpoint"));
    for name in [scaled::WEIGHT, scales, "model.positions", "model.double"] {
        assert_eq!(after.type_name(name), before.type_name(name), "{name}");
        assert_eq!(after.stored_bytes(name), before.stored_bytes(name), "{name}");
    }
    let mask = encode(WeightType::F32, &[f32::NEG_INFINITY, 1.5]);
    assert_eq!(after.stored_bytes("model.mask"), mask.as_deref());
    let proof = prove_merge(&model, &folder).expect("proven");
    assert_eq!((proof.converted_tensors, proof.rounding, proof.logits), (1, 0.0, Some(0.0)), "{proof:?}");
}

#[test]
fn every_section_of_a_configuration_that_names_a_type_names_the_new_one() {
    let source = stored_in("llama_tied", WeightType::BF16, false);
    let path = source.path().join("config.json");
    for (top, expected) in [
        (json!({"torch_dtype": "bfloat16"}), json!({"torch_dtype": "float32"})),
        (json!({"dtype": "bfloat16"}), json!({"dtype": "float32"})),
        (json!({"torch_dtype": null}), json!({"dtype": "float32", "torch_dtype": "float32"})),
        (json!({}), json!({"dtype": "float32", "torch_dtype": "float32"})),
    ] {
        let mut object = json_of(&fixture("llama_tied").join("config.json"));
        let fields = object.as_object_mut().expect("an object");
        fields.retain(|key, _| !key.ends_with("dtype"));
        fields.extend(top.as_object().expect("an object").clone());
        fields.insert("vision_config".into(), json!({"torch_dtype": "bfloat16", "x": 1}));
        fs::write(&path, object.to_string()).expect("written");
        let (_top, folder) = merge(&with_random_rows(load(source.path()), &[3]), options(MergedType::F32));
        let mut object = json_of(&folder.join("config.json"));
        assert_eq!(object["vision_config"], json!({"torch_dtype": "float32", "x": 1}));
        object.as_object_mut().expect("an object").retain(|key, _| key.ends_with("dtype"));
        assert_eq!(object, expected);
    }
}

#[test]
fn the_proof_of_converted_tensors_names_what_differs() {
    let source = stored_in("llama_untied", WeightType::BF16, false);
    let model = with_random_rows(load(source.path()), &[3, 9]);
    for (name, row, entry) in [
        ("model.embed_tokens.weight", 5, 5 * 32),
        ("model.layers.0.mlp.up_proj.weight", 3, 3 * 32 + 1),
        ("model.norm.weight", 9, 9),
    ] {
        let (_top, folder) = merge(&model, options(MergedType::F32));
        super::proofs::damage(&folder, name, entry * 4);
        let error = prove_merge(&model, &folder).expect_err("damaged");
        assert!(matches!(error, PeftError::MergeDiffers { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{name}, row {row}, is not that")), "{error}");
    }
}
