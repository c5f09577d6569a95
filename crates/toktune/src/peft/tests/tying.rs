//! Which layers get rows, and which share them.

use super::*;
use crate::peft::error::PeftError;
use toktune_engine::EngineError;

/// The decoder that most tests of weight tying are about: an embedding, a linear layer, a head.
fn decoder(tied: bool) -> Toy {
    let toy = Toy::default()
        .layer("model.decoder.embed_tokens", LayerKind::Embedding, 20, 8)
        .layer("model.decoder.layers.0.fc1", LayerKind::Linear, 6, 8)
        .with_input("model.decoder.embed_tokens");
    match tied {
        true => toy.tie("lm_head", LayerKind::Head, "model.decoder.embed_tokens"),
        false => toy.layer("lm_head", LayerKind::Head, 20, 8),
    }
}

fn config(indices: TrainableTokenIndices, ensure_weight_tying: bool) -> LoraConfig {
    LoraConfig {
        target_modules: Some(TargetModules::Pattern("all-linear".into())),
        trainable_token_indices: Some(indices),
        ensure_weight_tying,
        ..LoraConfig::default()
    }
}

const EMBEDDING: &str = "model.decoder.embed_tokens";
const WARNING: &str = "ensure_weight_tying=True but the model does not have tied weights";

/// PEFT's table, line by line.
#[test]
fn the_table_of_weight_tying() {
    let list = || TrainableTokenIndices::Tokens(vec![1, 2, 3]);
    let same = || by_layer(&[("lm_head", &[1, 2]), ("embed_tokens", &[1, 2])]).expect("lists");
    let different = || by_layer(&[("lm_head", &[1, 2]), ("embed_tokens", &[3, 4])]).expect("lists");
    type Expected<'a> = &'a [(&'a str, &'a [&'a str], &'a [u32])];
    let lines: [(bool, bool, TrainableTokenIndices, Option<Expected<'_>>); 12] = [
        (false, false, list(), Some(&[(EMBEDDING, &[], &[1, 2, 3])])),
        (false, true, list(), Some(&[(EMBEDDING, &[], &[1, 2, 3])])),
        (true, false, list(), Some(&[(EMBEDDING, &["lm_head"], &[1, 2, 3])])),
        (true, true, list(), Some(&[(EMBEDDING, &["lm_head"], &[1, 2, 3])])),
        (false, false, same(), Some(&[(EMBEDDING, &[], &[1, 2]), ("lm_head", &[], &[1, 2])])),
        (false, true, same(), Some(&[(EMBEDDING, &[], &[1, 2]), ("lm_head", &[], &[1, 2])])),
        (true, false, same(), Some(&[(EMBEDDING, &["lm_head"], &[1, 2])])),
        (true, true, same(), Some(&[(EMBEDDING, &["lm_head"], &[1, 2])])),
        (false, false, different(), Some(&[(EMBEDDING, &[], &[3, 4]), ("lm_head", &[], &[1, 2])])),
        (false, true, different(), Some(&[(EMBEDDING, &[], &[3, 4]), ("lm_head", &[], &[1, 2])])),
        (true, false, different(), Some(&[(EMBEDDING, &[], &[3, 4]), ("lm_head", &[], &[1, 2])])),
        (true, true, different(), None),
    ];
    for (tied, ensure, indices, expected) in lines {
        let line = format!("tied {tied}, ensure {ensure}, {indices:?}");
        let (model, warnings) = warned(|| get_peft_model(decoder(tied), config(indices, ensure)));
        let expects_warning = !tied && ensure;
        assert_eq!(
            warnings.iter().any(|text| text.contains(WARNING)),
            expects_warning,
            "{line}: {warnings:?}"
        );
        match expected {
            None => {
                let error = model.expect_err(&line);
                assert!(
                    matches!(&error, PeftError::DifferentTokens { layers } if layers.len() == 2),
                    "{line}: {error}"
                );
                assert!(error.to_string().contains("different token indices"), "{error}");
            }
            Some(expected) => {
                let of = |(name, tied, ids): &(&str, &[&str], &[u32])| {
                    (name.to_string(), tied.iter().map(|t| t.to_string()).collect(), ids.to_vec())
                };
                let expected: Vec<(String, Vec<String>, Vec<u32>)> = expected.iter().map(of).collect();
                assert_eq!(placed(&model.expect(&line)), expected, "{line}");
            }
        }
    }
}

fn values(toy: &Toy, layer: &str) -> Vec<f32> {
    toy.find(layer).expect("a layer").1.clone()
}

#[test]
fn a_tied_head_gives_what_the_embedding_gives() {
    for config in [
        PeftConfig::from(TrainableTokensConfig {
            target_modules: names(&["embed_tokens"]),
            ..tokens(&[0, 1, 3])
        }),
        config(TrainableTokenIndices::Tokens(vec![0, 1, 3]), false).into(),
    ] {
        let mut model = get_peft_model(decoder(true), config).expect("an adapter");
        train(&mut model, "default", 1);
        let before = values(&model.base, EMBEDDING);
        let check = |model: &PeftModel<Toy>| {
            assert_eq!(model.embedded(EMBEDDING, 4), model.embedded("lm_head", 4), "the two are one");
        };
        check(&model);
        let merged = model.merge_and_unload(true, None).expect("merged");
        assert_ne!(values(&merged, EMBEDDING), before);
        assert_eq!(values(&merged, EMBEDDING), values(&merged, "lm_head"), "still one matrix");
        check(&PeftModel::without_adapter(merged));
    }
}

#[test]
fn an_encoder_and_a_decoder_share_what_is_shared() {
    let toy = Toy::default()
        .layer("shared", LayerKind::Embedding, 12, 4)
        .tie("encoder.embed_tokens", LayerKind::Embedding, "shared")
        .tie("decoder.embed_tokens", LayerKind::Embedding, "shared")
        .layer("encoder.q", LayerKind::Linear, 4, 4)
        .tie("lm_head", LayerKind::Head, "shared")
        .with_input("shared");
    let lora = |layer: &str| config(by_layer(&[(layer, &[0, 1, 3])]).expect("lists"), false);
    let mut model = get_peft_model(toy.clone(), lora("shared")).expect("an adapter");
    train(&mut model, "default", 2);
    let expected = ["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"].map(String::from).to_vec();
    assert_eq!(placed(&model), [("shared".to_string(), expected, vec![0, 1, 3])]);
    let rows = model.embedded("shared", 4);
    assert_eq!(rows, model.embedded("encoder.embed_tokens", 4));
    assert_eq!(rows, model.embedded("decoder.embed_tokens", 4));
    let keys = get_peft_model_state_dict(&model, "default", SaveEmbeddingLayers::Auto).expect("tensors");
    let of_rows: Vec<&String> = keys.keys().filter(|key| !key.contains("lora_")).collect();
    assert_eq!(of_rows, ["base_model.model.shared.token_adapter.trainable_tokens_delta"]);
    let merged = model.merge_and_unload(true, None).expect("merged");
    assert_eq!(values(&merged, "encoder.embed_tokens"), values(&merged, "lm_head"));
    // without the source, each of the tied layers that an ending names is trained apart
    let model = get_peft_model(toy, lora("embed_tokens")).expect("an adapter");
    assert_eq!(placed(&model).len(), 2);
}

#[test]
fn models_within_a_model_are_tied_each_within_itself() {
    let part = |toy: Toy, name: &str, tied: bool| {
        let (encoder, decoder) =
            (format!("{name}.encoder.embed_tokens"), format!("{name}.decoder.embed_tokens"));
        let toy = toy.layer(&encoder, LayerKind::Embedding, 10, 4);
        match tied {
            true => toy.tie(&decoder, LayerKind::Embedding, &encoder),
            false => toy.layer(&decoder, LayerKind::Embedding, 10, 4),
        }
    };
    let linear = |toy: Toy| toy.layer("m1.fc", LayerKind::Linear, 4, 4).with_input("m1.encoder.embed_tokens");
    let lists: [(&str, &[u32]); 2] =
        [("m1.encoder.embed_tokens", &[1, 2, 3]), ("m2.encoder.embed_tokens", &[4, 5, 6])];
    for second_is_tied in [false, true] {
        let toy = linear(part(part(Toy::default(), "m1", true), "m2", second_is_tied));
        let model = get_peft_model(toy, config(by_layer(&lists).expect("lists"), true)).expect("no conflict");
        let tied = |on: bool, name: &str| if on { vec![name.to_string()] } else { vec![] };
        let expected = [
            ("m1.encoder.embed_tokens".to_string(), tied(true, "m1.decoder.embed_tokens"), vec![1, 2, 3]),
            (
                "m2.encoder.embed_tokens".to_string(),
                tied(second_is_tied, "m2.decoder.embed_tokens"),
                vec![4, 5, 6],
            ),
        ];
        assert_eq!(placed(&model), expected);
    }
    // an ending finds the input embedding too
    let toy = linear(part(Toy::default(), "m1", true));
    let short = config(by_layer(&[("embed_tokens", &[1, 2, 3])]).expect("lists"), true);
    let model = get_peft_model(toy, short).expect("an adapter");
    assert_eq!(placed(&model)[0].0, "m1.encoder.embed_tokens");
}

#[test]
fn an_embedding_and_its_tied_head_named_both_share_rows() {
    let target_modules = names(&["model.decoder.embed_tokens", "lm_head"]);
    let model = get_peft_model(decoder(true), TrainableTokensConfig { target_modules, ..tokens(&[1, 2, 3]) });
    let expected = [(EMBEDDING.to_string(), vec!["lm_head".to_string()], vec![1, 2, 3])];
    assert_eq!(placed(&model.expect("an adapter")), expected);
}

#[test]
fn the_input_embedding_is_found_when_none_is_named() {
    let model = |name: &str, input: bool| {
        let toy =
            Toy::default().layer(name, LayerKind::Embedding, 100, 10).layer("lin0", LayerKind::Linear, 1, 10);
        if input { toy.with_input(name) } else { toy }
    };
    for (name, input) in [("emb", true), ("embed_in", true), ("embed_tokens", false)] {
        let standalone = get_peft_model(model(name, input), tokens(&[0, 1, 3])).expect("an adapter");
        assert_eq!(placed(&standalone)[0].0, name);
        let combined = config(TrainableTokenIndices::Tokens(vec![0, 1, 3]), false);
        assert_eq!(placed(&get_peft_model(model(name, input), combined).expect("an adapter"))[0].0, name);
    }
    // PEFT's usual name is all that is left to try, and is not there
    let error = get_peft_model(model("embed_in", false), tokens(&[0])).expect_err("no target");
    assert!(matches!(&error, PeftError::NoTarget { target, .. } if target == "embed_tokens"), "{error}");
    let combined = config(TrainableTokenIndices::Tokens(vec![0]), false);
    assert!(matches!(get_peft_model(model("embed_in", false), combined), Err(PeftError::NoTarget { .. })));
}

#[test]
fn a_named_embedding_is_the_one_that_is_trained() {
    let model = || {
        Toy::default()
            .layer("embed_in", LayerKind::Embedding, 100, 10)
            .layer("embed_in_2", LayerKind::Embedding, 100, 10)
            .layer("lin0", LayerKind::Linear, 1, 10)
            .with_input("embed_in")
    };
    let target_modules = Some(TargetModules::Pattern("embed_in_2".into()));
    let standalone = TrainableTokensConfig { target_modules, ..tokens(&[0, 1, 3]) };
    let one = get_peft_model(model(), standalone).expect("an adapter");
    let combined = config(by_layer(&[("embed_in_2", &[0, 1, 3])]).expect("lists"), false);
    let other = get_peft_model(model(), combined).expect("an adapter");
    for placed in [placed(&one), placed(&other)] {
        assert_eq!(placed, [("embed_in_2".to_string(), vec![], vec![0, 1, 3])]);
    }
}

#[test]
fn two_embeddings_of_one_configuration() {
    let model = Toy::default()
        .layer("emb_text", LayerKind::Embedding, 10, 5)
        .layer("emb_image", LayerKind::Embedding, 8, 5)
        .layer("lin0", LayerKind::Linear, 10, 5);
    let original = PeftModel::without_adapter(model.clone());
    let target_modules = names(&["emb_text", "emb_image"]);
    let config = TrainableTokensConfig { target_modules, ..tokens(&[0, 1]) };
    let mut model = get_peft_model(model, config).expect("an adapter");
    train(&mut model, "default", 4);
    for layer in ["emb_text", "emb_image"] {
        let (before, after) = (original.embedded(layer, 3), model.embedded(layer, 3));
        assert!(before[0] != after[0] && before[1] != after[1] && before[2] == after[2], "{layer}");
    }
}

#[test]
fn targets_that_are_not_there_are_told() {
    let wrap = |config: PeftConfig| get_peft_model(decoder(false), config).expect_err("no target");
    let standalone = TrainableTokensConfig { target_modules: names(&["doesnt_exist"]), ..tokens(&[0, 1, 3]) };
    let error = wrap(standalone.into());
    assert!(
        matches!(error, PeftError::NoTarget { .. }) && error.to_string().contains("doesnt_exist"),
        "{error}"
    );
    let error = wrap(config(by_layer(&[("does-not-exist", &[0])]).expect("lists"), false).into());
    assert!(error.to_string().contains("does-not-exist"), "{error}");
    let error = wrap(config(by_layer(&[("fc1", &[0])]).expect("lists"), false).into());
    assert!(
        matches!(&error, PeftError::NotATokenMatrix { module, .. } if module.ends_with("fc1")),
        "{error}"
    );
    let error =
        wrap(config(by_layer(&[("embed_tokens", &[0]), (EMBEDDING, &[1])]).expect("lists"), false).into());
    assert!(matches!(error, PeftError::TargetedTwice { .. }), "{error}");
    let error = wrap(config(TrainableTokenIndices::Tokens(vec![20]), false).into());
    assert!(matches!(error, PeftError::Engine(EngineError::TokenOutOfRange { id: 20, rows: 20 })), "{error}");
}

#[test]
fn lora_targets_are_linear_layers() {
    let wrap = |target: Option<TargetModules>| {
        get_peft_model(base("llama_tied"), LoraConfig { target_modules: target, ..LoraConfig::default() })
    };
    let of = |target| -> Vec<String> {
        let model = wrap(target).expect("targets");
        model.lora_layers().iter().map(|layer| layer.name().to_string()).collect()
    };
    assert_eq!(of(Some(TargetModules::Pattern("All-Linear".into()))).len(), 14);
    assert_eq!(of(None).len(), 4, "the query and value projections of two blocks");
    let one = of(Some(TargetModules::Pattern(r".*layers\.1\..*down_proj".into())));
    assert_eq!(one, ["model.layers.1.mlp.down_proj"]);
    let error = wrap(names(&["q_prj"])).expect_err("no such layer");
    assert!(matches!(&error, PeftError::NoLinear { nearest: Some(near), .. } if near == "q_proj"), "{error}");
    for target in ["embed_tokens", "lm_head"] {
        let error = wrap(names(&[target, "q_proj"])).expect_err("a token matrix");
        assert!(matches!(error, PeftError::LoraOnTokenMatrix { .. }), "{error}");
    }
    // what PEFT stores in place of the word is the list of names
    let model = wrap(Some(TargetModules::Pattern("all-linear".into()))).expect("targets");
    let config = model.config("default").expect("a configuration").to_json().expect("JSON");
    assert!(config.contains("model.layers.0.self_attn.q_proj") && !config.contains("all-linear"), "{config}");
}

#[test]
fn adapters_over_the_same_tied_layers_keep_to_themselves() {
    let config = |ids: &[u32]| {
        let target_modules = names(&["model.decoder.embed_tokens", "lm_head"]);
        TrainableTokensConfig { target_modules, ..tokens(ids) }
    };
    let mut model = get_peft_model(decoder(true), config(&[1, 2, 3])).expect("an adapter");
    model.add_adapter("adapter2", config(&[4, 5, 6])).expect("added");
    train(&mut model, "adapter2", 1);
    for (name, ids) in [("default", [1, 2, 3]), ("adapter2", [4, 5, 6])] {
        let adapter = model.adapter(name).expect("there");
        let (on_embedding, on_head) = (adapter.rows_on(EMBEDDING), adapter.rows_on("lm_head"));
        assert_eq!(on_embedding.expect("rows").rows().indices(), ids);
        assert!(std::ptr::eq(on_embedding.expect("rows"), on_head.expect("rows")), "one set of rows");
    }
}
