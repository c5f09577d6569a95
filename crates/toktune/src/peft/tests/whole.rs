//! What an adapter brings beside rows and updates: biases, whole modules, rows of a head that its base has apart; and what a
//! fresh one starts from.

use super::*;
use crate::config::CONFIG_FILE;
use crate::config::ConfigError;
use crate::export::{MergeOptions, merge_to_folder};
use crate::models::testing::{HubModel, Named, load, safetensors_file};
use crate::peft::error::PeftError;
use crate::weights::{Checkpoint, WeightType};
use serde_json::{Value, json};

const TEXT: [u32; 6] = [5, 57, 3, 90, 21, 8];

/// An adapter's folder with LoRA on the query projections that changes nothing, and `whole` tensors.
fn adapter(base: &PretrainedModel, fields: Value, whole: &[Named]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = json!({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]});
    config.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    std::fs::write(folder.path().join(CONFIG_FILE), config.to_string()).expect("written");
    let mut tensors = whole.to_vec();
    let linears = base.runner().linears();
    for linear in linears.iter().filter(|linear| linear.module.ends_with("q_proj")) {
        let (name, inputs, outputs) = (linear.module, linear.inputs, linear.outputs);
        let key = |part: &str| format!("base_model.model.{name}.{part}.weight");
        tensors.push((key("lora_A"), vec![2, inputs], vec![0.5; 2 * inputs]));
        tensors.push((key("lora_B"), vec![outputs, 2], vec![0.0; 2 * outputs]));
    }
    std::fs::write(folder.path().join(ADAPTER_FILE), safetensors_file(&tensors, WeightType::F32))
        .expect("written");
    folder
}

/// Values for a tensor of `model`, and the same put into it.
fn changed(model: &mut HubModel, tensor: &str) -> Named {
    let found = model.tensors.iter_mut().find(|(name, _, _)| name == tensor).expect(tensor);
    found.2.iter_mut().enumerate().for_each(|(i, x)| *x += 0.3 * ((i * 7) as f32).sin());
    found.clone()
}

fn with_key(tensor: Named, key: &str) -> Named {
    (format!("base_model.model.{key}"), tensor.1, tensor.2)
}

#[test]
fn biases_and_whole_modules_are_loaded_computed_with_and_merged() {
    let base = base("qwen2");
    let mut expected = HubModel::read("qwen2");
    let attention = "model.layers.0.self_attn";
    let biases = [
        (format!("{attention}.q_proj.bias"), format!("{attention}.q_proj.base_layer.bias")),
        (format!("{attention}.k_proj.bias"), format!("{attention}.k_proj.bias")),
    ];
    let mut whole: Vec<Named> =
        biases.iter().map(|(tensor, key)| with_key(changed(&mut expected, tensor), key)).collect();
    let modules = ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"];
    whole.extend(modules.map(|tensor| with_key(changed(&mut expected, tensor), tensor)));
    let fields = json!({"bias": "all", "modules_to_save": ["norm", "down_proj"]});
    let folder = adapter(&base, fields, &whole);
    let before = base_logits(super::base("qwen2"), &TEXT);
    let model = PeftModel::from_pretrained(base, folder.path()).expect("loaded");
    let source = expected.folder();
    let wanted = base_logits(load(source.path()), &TEXT);
    assert!(logits(&model, &TEXT) == wanted && wanted != before);
    let top = tempfile::tempdir().expect("a folder");
    let merged = top.path().join("merged");
    merge_to_folder(&model, &merged, MergeOptions::default()).expect("merged");
    let (merged, source) = (Checkpoint::open(&merged), Checkpoint::open(source.path()));
    let (merged, source) = (merged.expect("a checkpoint"), source.expect("a checkpoint"));
    for name in source.names() {
        assert_eq!(merged.stored_bytes(name), source.stored_bytes(name), "{name}");
    }
    for error in [
        model.trained_adapter().map(|_| ()).expect_err("not trained"),
        model.save_pretrained(top.path(), SaveEmbeddingLayers::No).expect_err("not saved"),
    ] {
        let expected = matches!(&error, PeftError::NotTrained { field: "modules_to_save", .. });
        assert!(expected, "{error}");
    }
}

#[test]
fn whole_modules_that_do_not_fit_are_refused_by_name() {
    let norm =
        |len: usize| vec![("base_model.model.model.norm.weight".to_string(), vec![len], vec![1.0; len])];
    let embed =
        vec![("base_model.model.model.embed_tokens.weight".to_string(), vec![107, 32], vec![0.5; 107 * 32])];
    let unknown = vec![("base_model.model.model.extra.weight".to_string(), vec![3], vec![1.0; 3])];
    let fields = |modules: &str| json!({"modules_to_save": [modules]});
    for (fields, whole, expected) in [
        (fields("norm"), norm(31), "shape [31], expected [32]"),
        (fields("extra"), unknown.clone(), "'model.extra.weight', which the files of the base do not hold"),
        (fields("embed_tokens"), embed, "which is one matrix with another module"),
        (fields("embed_tokens"), vec![], "'model.embed_tokens', of which the adapter's file"),
        (fields("lm_head"), vec![], "'lm_head', of which the adapter's file"),
        (json!({}), norm(32), "unexpected tensor 'base_model.model.model.norm.weight'"),
    ] {
        let folder = adapter(&base("qwen2"), fields, &whole);
        let message =
            PeftModel::from_pretrained(base("qwen2"), folder.path()).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message}");
    }
    let mut model = PeftModel::without_adapter(base("qwen2"));
    let folder = adapter(model.base(), fields("norm"), &norm(32));
    model.load_adapter(folder.path(), "one").expect("loaded");
    let message = model.load_adapter(folder.path(), "two").expect_err("a second").to_string();
    assert!(message.contains("another adapter has brought its own before"), "{message}");
}

#[test]
fn what_is_wrong_with_a_field_of_a_file_is_said_of_the_file() {
    for (fields, expected) in [
        (json!({"r": 0}), "r is 0; expected at least 1"),
        (json!({"target_modules": "(x"}), "`target_modules` '(x'"),
        (json!({"target_modules": ["q_prj"]}), "did you mean 'q_proj'"),
        (json!({"rank_pattern": {"(": 2}}), "`rank_pattern` '('"),
        (json!({"exclude_modules": "["}), "`exclude_modules` '['"),
    ] {
        let folder = adapter(&base("qwen2"), fields, &[]);
        let error = PeftModel::from_pretrained(base("qwen2"), folder.path()).expect_err("refused");
        let message = error.to_string();
        assert!(
            matches!(error, PeftError::InFile { .. } | PeftError::Config(ConfigError::InFile { .. })),
            "{message}"
        );
        assert!(message.contains("adapter_config.json: ") && message.contains(expected), "{message}");
    }
}

#[test]
fn a_head_that_differs_in_a_few_rows_keeps_its_others() {
    let mut source = HubModel::read("llama_tied");
    let (_, shape, mut values) =
        source.tensors.iter().find(|t| t.0 == "model.embed_tokens.weight").expect("it").clone();
    let width = shape[1];
    for row in [4, 60, 77] {
        values[row * width..][..width].iter_mut().for_each(|x| *x += 1.0);
    }
    source.tensors.push(("lm_head.weight".into(), shape, values.clone()));
    let folder = source.folder();
    let base = load(folder.path());
    assert!(!base.is_tied());
    // trained where the two were one: the file has rows for both
    let adapter = fixture("llama_tied").join("adapter");
    let model = PeftModel::from_pretrained(base, &adapter).expect("loaded");
    let ids = model.token_indices();
    assert!(model.layers().len() == 2 && !ids.is_empty());
    let top = tempfile::tempdir().expect("a folder");
    let merged = top.path().join("merged");
    merge_to_folder(&model, &merged, MergeOptions::default()).expect("merged");
    assert!(base_logits(load(&merged), &TEXT) == logits(&model, &TEXT));
    let merged = Checkpoint::open(&merged).expect("a checkpoint");
    let head = merged.matrix("lm_head.weight", values.len() / width, width, crate::weights::RowOrder::Plain);
    let head = head.expect("a head").decode_rows(0..values.len() / width);
    for (row, (found, before)) in head.chunks(width).zip(values.chunks(width)).enumerate() {
        assert_eq!(found == before, !ids.contains(&(row as u32)), "row {row}");
    }
}

#[test]
fn random_starts_depend_on_the_seed_the_adapter_and_the_layer() {
    let fresh = |seed: u64, names: &[&str]| {
        let mut model = PeftModel::without_adapter(base("llama_untied"));
        for name in names {
            let mut config = lora(&[5]);
            config.common.seed = seed;
            model.add_adapter(name, config).expect("added");
        }
        model
    };
    let a = |model: &PeftModel, name: &str, at: usize| {
        model.adapter(name).expect("it").lora_layers()[at].a.clone()
    };
    let (first, again, other) = (fresh(1, &["x", "y"]), fresh(1, &["y", "x"]), fresh(2, &["x"]));
    assert_eq!(a(&first, "x", 0), a(&again, "x", 0));
    assert_ne!(a(&first, "x", 0), a(&other, "x", 0));
    assert_ne!(a(&first, "x", 0), a(&first, "y", 0));
    assert_ne!(a(&first, "x", 0), a(&first, "x", 1));
    let rows = |seed: u64| {
        let mut config = TrainableTokensConfig { init_weights: false, ..tokens(&[5, 3]) };
        config.common.seed = seed;
        get_peft_model(base("llama_untied"), config).expect("a model").layers()[0].rows().values.clone()
    };
    assert!(rows(1) == rows(1) && rows(1) != rows(2));
}

#[test]
fn names_that_peft_loses_by_a_resize_are_told() {
    let lost = |target: &str| {
        let base = crate::models::AutoModel::from_pretrained(fixture("bart"), &Device::Cpu).expect("a model");
        let config = TrainableTokensConfig { target_modules: names(&[target]), ..tokens(&[5]) };
        let model = get_peft_model(base, config).expect("an adapter");
        model.layers_lost_by_resize().into_iter().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(lost("encoder.embed_tokens"), ["model.encoder.embed_tokens"]);
    assert!(lost("shared").is_empty() && lost("lm_head").is_empty());
}

#[test]
fn updates_of_a_vision_tower_are_left_out_where_they_change_nothing() {
    let other = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj";
    let with = |b: f32| {
        let a = (format!("{other}.lora_A.weight"), vec![2, 8], vec![0.3; 16]);
        adapter(
            &base("gemma3_images"),
            json!({}),
            &[a, (format!("{other}.lora_B.weight"), vec![8, 2], vec![b; 16])],
        )
    };
    assert!(PeftModel::from_pretrained(base("gemma3_images"), with(0.0).path()).is_ok());
    let message =
        PeftModel::from_pretrained(base("gemma3_images"), with(0.1).path()).expect_err("refused").to_string();
    assert!(message.contains("unexpected tensor") && message.contains("vision_tower"), "{message}");
}

#[test]
fn lora_beside_a_vision_tower_names_its_layers_in_full() {
    let config = LoraConfig { target_modules: names(&["q_proj"]), ..lora(&[5]) };
    let model = get_peft_model(base("gemma3_images"), config).expect("an adapter");
    let Some(PeftConfig::Lora(LoraConfig { target_modules: Some(TargetModules::Names(names)), .. })) =
        model.active_config()
    else {
        panic!("LoRA by names")
    };
    let expected = [0, 1].map(|i| format!("model.language_model.layers.{i}.self_attn.q_proj"));
    assert_eq!(*names, expected);
    assert!(model.active_config().is_some_and(|config| config.common().task_type.is_none()));
}
