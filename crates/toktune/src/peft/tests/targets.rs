//! The linear layers that LoRA adapts, by the model's family.

use super::*;
use crate::models::testing::load;
use crate::peft::PeftError;

fn adapted(name: &str, config: LoraConfig) -> crate::peft::error::Result<PeftModel> {
    get_peft_model(load(&fixture(name)), config)
}

fn config_of(model: &PeftModel) -> &LoraConfig {
    match model.config("default").expect("a configuration") {
        PeftConfig::Lora(config) => config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_adapted_by_default_depends_on_the_model() {
    for (name, expected) in [
        ("llama_tied", &["q_proj", "v_proj"][..]),
        ("bloom", &["query_key_value"]),
        ("falcon_new", &["query_key_value"]),
        ("gpt_neox", &["query_key_value"]),
        ("gpt2", &["c_attn"]),
        ("phi", &["q_proj", "v_proj", "fc1", "fc2"]),
        ("bert", &["query", "value"]),
        ("roberta", &["query", "value"]),
        ("t5", &["q", "v"]),
        ("bart", &["q_proj", "v_proj"]),
    ] {
        let model = adapted(name, LoraConfig::default()).expect("an adapter");
        let names = TargetModules::Names(expected.iter().map(|name| name.to_string()).collect());
        assert_eq!(config_of(&model).target_modules, Some(names), "{name}");
        assert_eq!(config_of(&model).fan_in_fan_out, name == "gpt2", "{name}");
        let endings = |layer: &LoraLayer| layer.name().rsplit('.').next().map(String::from);
        assert!(model.lora_layers().iter().filter_map(endings).all(|end| expected.contains(&end.as_str())));
    }
    for name in ["granite", "phi3", "distilbert"] {
        let error = adapted(name, LoraConfig::default()).expect_err("no default");
        assert!(matches!(&error, PeftError::NoDefaultTargets { .. }), "{error}");
        assert!(error.to_string().contains(&format!("for a {name}")), "{error}");
    }
}

#[test]
fn the_layout_of_the_weights_is_set_right() {
    for (name, told) in [("gpt2", false), ("llama_tied", true)] {
        let config = LoraConfig { fan_in_fan_out: told, ..LoraConfig::default() };
        let model = adapted(name, config).expect("an adapter");
        assert_eq!(config_of(&model).fan_in_fan_out, !told, "{name}");
    }
}

#[test]
fn layers_outside_the_blocks_are_refused_by_name() {
    let with = |target: TargetModules| LoraConfig { target_modules: Some(target), ..LoraConfig::default() };
    let named = |name: &str| with(TargetModules::Names(vec![name.into()]));
    for (name, target, layer) in [
        ("bert", "dense", "cls.predictions.transform.dense"),
        ("opt_350m", "project_in", "model.decoder.project_in"),
    ] {
        let error = adapted(name, named(target)).expect_err("outside");
        assert!(matches!(&error, PeftError::LoraOutsideBlocks { layer: found } if found == layer), "{error}");
    }
    adapted("bert", named("attention.output.dense")).expect("inside");
    // every layer that there can be
    let all = adapted("bert", with(TargetModules::Pattern("all-linear".into()))).expect("an adapter");
    assert_eq!(all.lora_layers().len(), 12);
}
