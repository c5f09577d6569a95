//! State dicts, files, and what PEFT wrote.

use super::*;
use crate::config::CONFIG_FILE;
use crate::peft::error::PeftError;
use crate::weights::{Checkpoint, FrozenMatrix};
use serde_json::{Value, json};
use toktune_engine::EngineError;

const TEXT: [u32; 6] = [5, 57, 3, 90, 21, 8];

fn keys(model: &PeftModel, whole: SaveEmbeddingLayers) -> Vec<String> {
    let tensors = get_peft_model_state_dict(model, "default", whole).expect("tensors");
    let short = |key: String| key.strip_prefix("base_model.model.").expect("PEFT's prefix").to_string();
    tensors.into_keys().map(short).filter(|key| !key.contains(".lora_")).collect()
}

/// The keys that PEFT 0.21.2 writes, with whole embeddings or without, as it was seen to.
#[test]
fn keys_are_pefts() {
    let both = names(&["embed_tokens", "lm_head"]);
    let head = || TrainableTokensConfig { target_modules: both.clone(), ..tokens(&[57, 3]) };
    let lora_head = || LoraConfig {
        trainable_token_indices: by_layer(&[("embed_tokens", &[57, 3]), ("lm_head", &[57, 3])]),
        ..lora(&[])
    };
    let lora_apart = || LoraConfig {
        trainable_token_indices: by_layer(&[("embed_tokens", &[57, 3]), ("lm_head", &[57, 4])]),
        ..lora(&[])
    };
    const EMBED: &str = "model.embed_tokens";
    let row = |layer: &str, infix: &str| format!("{layer}.{infix}trainable_tokens_delta");
    let matrix = |layer: &str, infix: &str| format!("{layer}.{infix}base_layer.weight");
    let t = "token_adapter.";
    let cases: [(&str, PeftConfig, Vec<String>, Vec<String>); 8] = [
        // PEFT wraps a tied head that is named twice
        (
            "llama_tied",
            head().into(),
            vec![row("lm_head", "base_layer."), row("lm_head", ""), row(EMBED, "")],
            vec![row("lm_head", "base_layer."), row("lm_head", ""), matrix(EMBED, ""), row(EMBED, "")],
        ),
        (
            "llama_tied",
            tokens(&[57, 3]).into(),
            vec![row("lm_head", ""), row(EMBED, "")],
            vec![matrix("lm_head", ""), row("lm_head", ""), matrix(EMBED, ""), row(EMBED, "")],
        ),
        (
            "llama_untied",
            tokens(&[57, 3]).into(),
            vec![row(EMBED, "")],
            vec![matrix(EMBED, ""), row(EMBED, "")],
        ),
        (
            "llama_untied",
            head().into(),
            vec![row("lm_head", ""), row(EMBED, "")],
            vec![matrix("lm_head", ""), row("lm_head", ""), matrix(EMBED, ""), row(EMBED, "")],
        ),
        (
            "llama_tied",
            lora(&[57, 3]).into(),
            vec![row(EMBED, t)],
            vec![matrix("lm_head", t), row("lm_head", t), matrix(EMBED, t), row(EMBED, t)],
        ),
        (
            "llama_untied",
            lora(&[57, 3]).into(),
            vec![row(EMBED, t)],
            vec!["lm_head.weight".into(), matrix(EMBED, t), row(EMBED, t)],
        ),
        (
            "llama_untied",
            lora_head().into(),
            vec![row("lm_head", t), row(EMBED, t)],
            vec![matrix("lm_head", t), row("lm_head", t), matrix(EMBED, t), row(EMBED, t)],
        ),
        (
            "llama_tied",
            lora_apart().into(),
            vec![row("lm_head", t), row(EMBED, t)],
            vec![matrix("lm_head", t), row("lm_head", t), matrix(EMBED, t), row(EMBED, t)],
        ),
    ];
    for (name, config, rows, whole) in cases {
        let model = get_peft_model(base(name), config.clone()).expect("an adapter");
        assert_eq!(keys(&model, SaveEmbeddingLayers::No), rows, "{name} {config:?}");
        assert_eq!(keys(&model, SaveEmbeddingLayers::Auto), rows, "{name}: nothing was resized");
        assert_eq!(keys(&model, SaveEmbeddingLayers::Yes), whole, "{name} {config:?}");
        let mut resized = base(name);
        resized.resize_token_embeddings(resized.vocabulary() + 2);
        let model = get_peft_model(resized, config).expect("an adapter");
        let (found, warnings) = warned(|| keys(&model, SaveEmbeddingLayers::Auto));
        assert_eq!((found, warnings.len()), (whole, 1), "{name}");
        assert_eq!(keys(&model, SaveEmbeddingLayers::No), rows);
    }
}

#[test]
fn lora_tensors_have_pefts_names_and_shapes() {
    let model = get_peft_model(base("llama_tied"), lora(&[57])).expect("an adapter");
    let tensors = get_peft_model_state_dict(&model, "default", SaveEmbeddingLayers::No).expect("tensors");
    let shape = |key: &str| {
        let tensor = &tensors[&format!("base_model.model.{key}")];
        (tensor.rows(), tensor.cols())
    };
    assert_eq!(tensors.len(), 1 + 2 * 2);
    assert_eq!(shape("model.layers.1.self_attn.q_proj.lora_A.weight"), (4, 32));
    assert_eq!(shape("model.layers.1.self_attn.q_proj.lora_B.weight"), (32, 4));
    assert_eq!(shape("model.embed_tokens.token_adapter.trainable_tokens_delta"), (1, 32));
}

/// Saves, and loads over a base that was made anew.
fn round_trip(model: &PeftModel, whole: SaveEmbeddingLayers, base: PretrainedModel) -> PeftModel {
    let folder = tempfile::tempdir().expect("a folder");
    model.save_pretrained(folder.path(), whole).expect("saved");
    PeftModel::from_pretrained(base, folder.path()).expect("loaded")
}

#[test]
fn what_is_saved_is_loaded() {
    let configs: [PeftConfig; 3] = [
        tokens(&[57, 3]).into(),
        lora(&[57, 3]).into(),
        LoraConfig {
            trainable_token_indices: by_layer(&[("embed_tokens", &[57, 3]), ("lm_head", &[57, 4])]),
            target_modules: Some(TargetModules::Pattern("all-linear".into())),
            use_rslora: true,
            rank_pattern: [("down_proj".to_string(), 2)].into(),
            ..lora(&[])
        }
        .into(),
    ];
    for name in ["llama_tied", "llama_untied", "gemma3"] {
        for config in &configs {
            for whole in [SaveEmbeddingLayers::Auto, SaveEmbeddingLayers::Yes, SaveEmbeddingLayers::No] {
                let mut model = get_peft_model(base(name), config.clone()).expect("an adapter");
                train(&mut model, "default", 1);
                let again = round_trip(&model, whole, base(name));
                assert_eq!(again.layers(), model.layers(), "{name} {whole:?}");
                assert_eq!(again.lora_layers(), model.lora_layers());
                assert_eq!(logits(&again, &TEXT), logits(&model, &TEXT));
            }
        }
    }
}

#[test]
fn a_resized_model_comes_back_with_its_embeddings_or_with_its_rows() {
    for name in ["llama_tied", "llama_untied"] {
        for config in [|id| PeftConfig::from(tokens(&[id, 4])), |id| lora(&[id, 4]).into()] {
            let mut resized = base(name);
            let id = resized.vocabulary() as u32 + 1;
            resized.resize_token_embeddings(id as usize + 1);
            let mut model = get_peft_model(resized, config(id)).expect("an adapter");
            train(&mut model, "default", 1);
            let text = [1, id, 4, 2];
            // with whole embeddings the base need not be resized first
            let again = round_trip(&model, SaveEmbeddingLayers::Auto, base(name));
            assert_eq!(logits(&again, &text), logits(&model, &text), "{name}");
            // without, it must be, and is told so
            let folder = tempfile::tempdir().expect("a folder");
            model.save_pretrained(folder.path(), SaveEmbeddingLayers::No).expect("saved");
            let error = PeftModel::from_pretrained(base(name), folder.path()).expect_err("too few rows");
            let PeftError::TooFewRows { token, rows, layer } = &error else { panic!("{error}") };
            assert_eq!((*token, *rows, layer.as_str()), (id, id as usize - 1, "model.embed_tokens"));
            let message = error.to_string();
            assert!(
                message.contains("resize_token_embeddings")
                    && message.contains(&format!("at least {}", id + 1)),
                "{message}"
            );
            let mut larger = base(name);
            larger.resize_token_embeddings(id as usize + 1);
            let again = PeftModel::from_pretrained(larger, folder.path()).expect("loaded");
            assert_eq!(logits(&again, &text), logits(&model, &text));
        }
    }
}

#[test]
fn a_state_dict_that_does_not_fit_is_reported() {
    let mut model = get_peft_model(base("llama_tied"), lora(&[57, 3])).expect("an adapter");
    let mut other = get_peft_model(base("llama_tied"), lora(&[57, 3])).expect("an adapter");
    train(&mut other, "default", 2);
    let mut tensors = get_peft_model_state_dict(&other, "default", SaveEmbeddingLayers::No).expect("tensors");
    let rows = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    let removed = tensors.remove(rows).expect("there");
    tensors.insert("base_model.model.x".into(), removed.clone());
    let result = set_peft_model_state_dict(&mut model, &tensors, "default").expect("set");
    assert_eq!(result.missing_keys, [rows]);
    assert_eq!(result.unexpected_keys, ["base_model.model.x"]);
    assert_eq!(model.lora_layers(), other.lora_layers(), "what fits is set");
    assert_ne!(model.layers(), other.layers());
    tensors.remove("base_model.model.x");
    tensors.insert(rows.into(), removed);
    let result = set_peft_model_state_dict(&mut model, &tensors, "default").expect("set");
    assert_eq!((result, model.layers()), (LoadResult::default(), other.layers()));
    // a tensor that cannot be set leaves all others
    let before = (model.layers().to_vec(), model.lora_layers().to_vec());
    let bad = |values: Vec<f32>, n: usize| FrozenMatrix::from_f32(rows, n, 32, values).expect("a matrix");
    tensors.insert(rows.into(), bad(vec![0.0; 96], 3));
    let error = set_peft_model_state_dict(&mut model, &tensors, "default").expect_err("three rows");
    assert!(matches!(error, PeftError::Shape { .. }), "{error}");
    tensors.insert(rows.into(), bad(vec![f32::NAN; 64], 2));
    let error = set_peft_model_state_dict(&mut model, &tensors, "default").expect_err("not finite");
    assert!(matches!(error, PeftError::Engine(EngineError::NotFinite { .. })), "{error}");
    assert_eq!(before, (model.layers().to_vec(), model.lora_layers().to_vec()));
    assert!(set_peft_model_state_dict(&mut model, &tensors, "x").is_err());
}

#[test]
fn every_adapter_is_saved_and_loaded_under_its_name() {
    let mut model = get_peft_model(base("llama_tied"), tokens(&[57, 3])).expect("an adapter");
    model.add_adapter("other", lora(&[90])).expect("added");
    train(&mut model, "default", 1);
    train(&mut model, "other", 2);
    let folder = tempfile::tempdir().expect("a folder");
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::Auto).expect("saved");
    assert!(folder.path().join("other").join(ADAPTER_FILE).is_file());
    let mut again = PeftModel::from_pretrained(base("llama_tied"), folder.path()).expect("loaded");
    let result = again.load_adapter(&folder.path().join("other"), "other").expect("loaded");
    let more = again.load_adapter(folder.path(), "yet-another").expect("loaded");
    assert_eq!((result, more), (LoadResult::default(), LoadResult::default()));
    assert_eq!(again.active_adapters(), ["default"]);
    assert_eq!(
        again.adapter("other").expect("there").layers(),
        model.adapter("other").expect("there").layers()
    );
    assert!(again.load_adapter(folder.path(), "other").is_err(), "there already");
    assert!(again.load_adapter(&folder.path().join("none"), "x").is_err());
    assert_eq!(again.adapters().len(), 3, "what failed left nothing");
}

/// Writes an adapter with these changes to its files.
fn changed(config: impl Fn(&mut Value), tensors: impl Fn(&mut StateDict)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = get_peft_model(base("llama_tied"), tokens(&[57, 3])).expect("an adapter");
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::No).expect("saved");
    let path = folder.path().join(CONFIG_FILE);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config(&mut value);
    std::fs::write(path, value.to_string()).expect("written");
    let mut stored = get_peft_model_state_dict(&model, "default", SaveEmbeddingLayers::No).expect("tensors");
    tensors(&mut stored);
    super::super::files::write_tensors(&folder.path().join(ADAPTER_FILE), &stored).expect("written");
    folder
}

#[test]
fn files_that_lack_something_are_refused_or_told() {
    let load = |folder: &tempfile::TempDir| PeftModel::from_pretrained(base("llama_tied"), folder.path());
    const HEAD: &str = "base_model.model.lm_head.trainable_tokens_delta";
    const EMBEDDING: &str = "base_model.model.model.embed_tokens.trainable_tokens_delta";
    // the copy of a tied head only warns, as in PEFT
    let folder = changed(|_| {}, |tensors| drop(tensors.remove(HEAD)));
    let (model, warnings) = warned(|| load(&folder));
    assert!(model.is_ok() && warnings.iter().any(|text| text.contains(HEAD)), "{warnings:?}");
    let folder = changed(|_| {}, |tensors| drop(tensors.remove(EMBEDDING)));
    let error = load(&folder).expect_err("no rows");
    assert!(matches!(error, PeftError::MissingKeys { .. }), "{error}");
    let folder = changed(|_| {}, |tensors| drop(tensors.insert("x".into(), tensors[HEAD].clone())));
    assert!(matches!(load(&folder), Err(PeftError::UnexpectedTensor { .. })));
    // what PEFT writes for a tied head that is named beside its embedding
    let twice = "base_model.model.lm_head.base_layer.trainable_tokens_delta";
    let folder = changed(|_| {}, |tensors| drop(tensors.insert(twice.into(), tensors[HEAD].clone())));
    assert!(load(&folder).is_ok());
    // an embedding of another width
    let whole = "base_model.model.model.embed_tokens.base_layer.weight";
    let matrix = |rows: usize, cols: usize| {
        FrozenMatrix::from_f32(whole, rows, cols, vec![0.5; rows * cols]).expect("a matrix")
    };
    let folder = changed(|_| {}, |tensors| drop(tensors.insert(whole.into(), matrix(101, 31))));
    assert!(matches!(load(&folder), Err(PeftError::Shape { .. })));
    // with fewer rows, as when transformers has taken padding away: those that there are
    let folder = changed(|_| {}, |tensors| drop(tensors.insert(whole.into(), matrix(99, 32))));
    let shorter = load(&folder).expect("loaded");
    let rows = shorter.base().embedding().gather(&[98, 99, 100]);
    assert_eq!(rows[..32], [0.5; 32]);
    assert_eq!(rows[32..], base("llama_tied").embedding().gather(&[99, 100]));
    // what fails leaves the base as it was
    let mut model = PeftModel::without_adapter(base("llama_tied"));
    let folder = changed(
        |config| config["token_indices"] = json!([500]),
        |tensors| drop(tensors.insert(whole.into(), matrix(120, 32))),
    );
    assert!(model.load_adapter(folder.path(), "x").is_err() && model.adapters().is_empty());
    assert_eq!(model.base().vocabulary(), 101);
    assert_eq!(model.base().embedding().gather(&[1]), base("llama_tied").embedding().gather(&[1]));
}

#[test]
fn files_of_torch_are_read_where_there_is_no_other() {
    let load = |folder: &tempfile::TempDir| PeftModel::from_pretrained(base("llama_tied"), folder.path());
    let folder = changed(|_| {}, |_| {});
    let expected = logits(&load(&folder).expect("loaded"), &TEXT);
    let safetensors = folder.path().join(ADAPTER_FILE);
    let stored = Checkpoint::open(&safetensors).expect("a checkpoint");
    let mut file = crate::weights::testing::TorchFile::new();
    for name in stored.names() {
        let shape = stored.shape(name).expect("a shape");
        let matrix =
            stored.matrix(name, shape[0], shape[1], crate::weights::RowOrder::Plain).expect("a matrix");
        let sides: Vec<u64> = shape.iter().map(|side| *side as u64).collect();
        file = file.f32(name, &sides, &matrix.decode_rows(0..shape[0]));
    }
    let torch = folder.path().join("adapter_model.bin");
    std::fs::write(&torch, b"not looked at").expect("written");
    load(&folder).expect("the safetensors file comes first");
    std::fs::remove_file(safetensors).expect("removed");
    let message = load(&folder).expect_err("no file of torch").to_string();
    assert!(message.contains("adapter_model.bin: it begins with 'not '"), "{message}");
    std::fs::write(torch, file.build()).expect("written");
    assert_eq!(logits(&load(&folder).expect("loaded"), &TEXT), expected);
}

#[test]
fn unknown_fields_and_the_common_ones_survive() {
    let folder = changed(
        |config| {
            config["from_the_future"] = json!({"a": [1, 2.5, null]});
            config["revision"] = "main".into();
            config["base_model_name_or_path"] = "somewhere/else".into();
            config["auto_mapping"] = json!({"base_model_class": "X", "parent_library": "y"});
        },
        |_| {},
    );
    let read = |folder: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(CONFIG_FILE)).expect("read")).expect("JSON")
    };
    let model = PeftModel::from_pretrained(base("llama_tied"), folder.path()).expect("loaded");
    let again = tempfile::tempdir().expect("a folder");
    model.save_pretrained(again.path(), SaveEmbeddingLayers::Auto).expect("saved");
    assert_eq!(read(again.path()), read(folder.path()));
}

#[test]
fn an_adapter_finds_its_base() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut model = get_peft_model(base("llama_tied"), lora(&[57, 3])).expect("an adapter");
    train(&mut model, "default", 1);
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::Auto).expect("saved");
    let open = || AutoPeftModel::from_pretrained(folder.path(), &Device::Cpu);
    assert!(matches!(open(), Err(PeftError::NoBase { .. })));
    model.set_base_name("no such folder");
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::Auto).expect("saved");
    let error = open().expect_err("not there");
    assert!(matches!(error, PeftError::BaseNotFound { .. }), "{error}");
    model.set_base_name(&fixture("llama_tied").to_string_lossy());
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::Auto).expect("saved");
    assert_eq!(logits(&open().expect("opened"), &TEXT), logits(&model, &TEXT));
}

#[test]
fn files_are_plain_safetensors_with_pefts_metadata() {
    let folder = changed(|_| {}, |_| {});
    let bytes = std::fs::read(folder.path().join(ADAPTER_FILE)).expect("read");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("safetensors");
    let format = metadata.metadata().as_ref().and_then(|m| m.get("format").cloned());
    assert_eq!(format.as_deref(), Some("pt"));
    let stored = Checkpoint::open(&folder.path().join(ADAPTER_FILE)).expect("a checkpoint");
    assert!(stored.names().all(|name| stored.type_name(name) == Some("F32")));
}

#[test]
fn a_models_own_module_is_saved_and_loaded() {
    let toy = || {
        Toy::default()
            .layer("emb_text", LayerKind::Embedding, 10, 5)
            .layer("emb_image", LayerKind::Embedding, 8, 5)
            .layer("lin0", LayerKind::Linear, 10, 5)
    };
    let target_modules = names(&["emb_text", "emb_image"]);
    let config = TrainableTokensConfig { target_modules, ..tokens(&[0, 1]) };
    let mut model = get_peft_model(toy(), config).expect("an adapter");
    train(&mut model, "default", 1);
    let folder = tempfile::tempdir().expect("a folder");
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::Auto).expect("saved");
    let again = PeftModel::from_pretrained(toy(), folder.path()).expect("loaded");
    for layer in ["emb_text", "emb_image"] {
        assert_eq!(again.embedded(layer, 8), model.embedded(layer, 8));
    }
}
