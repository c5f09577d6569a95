//! Several adapters on one model.

use super::*;
use crate::peft::error::PeftError;

const TEXT: [u32; 6] = [5, 57, 3, 90, 21, 8];

/// Two adapters with different tokens, both trained; the second is active.
fn two(config: impl Fn(&[u32]) -> PeftConfig, name: &str) -> PeftModel {
    let mut model = PeftModel::without_adapter(base(name));
    for (i, (adapter, ids)) in [("one", [57, 3]), ("two", [90, 21])].into_iter().enumerate() {
        model.add_adapter(adapter, config(&ids)).expect("added");
        model.set_adapter(&[adapter]).expect("set");
        train(&mut model, adapter, i as u64);
    }
    model
}

fn alone(config: PeftConfig) -> PeftConfig {
    config
}

#[test]
fn each_adapter_acts_when_it_is_active() {
    for name in ["llama_tied", "llama_untied", "gemma3"] {
        let mut model = two(|ids| tokens(ids).into(), name);
        let original = base_logits(base(name), &TEXT);
        assert_eq!(model.active_adapters(), ["two"]);
        let second = logits(&model, &TEXT);
        model.set_adapter(&["one"]).expect("set");
        let first = logits(&model, &TEXT);
        assert!(distance(&first, &second) > 1e-2 && distance(&first, &original) > 1e-2);
        // the tokens differ, so both can act: rows 57 and 3 from one, 90 and 21 from the other
        model.set_adapter(&["one", "two", "one"]).expect("set");
        assert_eq!(model.active_adapters(), ["one", "two"]);
        let joined = get_peft_model(base(name), tokens(&[57, 3, 90, 21])).expect("an adapter");
        let mut joined = joined;
        let values: Vec<Vec<f32>> = ["one", "two"]
            .iter()
            .map(|adapter| model.adapter(adapter).expect("there").layers()[0].rows().values.clone())
            .collect();
        joined.layers_mut()[0].rows_mut().values = values.concat();
        assert_eq!(logits(&model, &TEXT), logits(&joined, &TEXT));
        // a value that changes is seen, though the two were joined before
        train(&mut model, "one", 9);
        assert!(distance(&logits(&model, &TEXT), &logits(&joined, &TEXT)) > 1e-3);
    }
}

#[test]
fn rows_of_each_adapter_change_its_tokens_only() {
    let mut model = PeftModel::without_adapter(base("llama_tied"));
    for (name, ids) in [("one", [0, 1, 2]), ("two", [2, 3, 4])] {
        model.add_adapter(name, lora(&ids)).expect("added");
        train(&mut model, name, 5);
    }
    let width = model.base().embedding().width();
    let rows_of = |model: &PeftModel| -> Vec<Vec<f32>> {
        embedded(model, &[0, 1, 2, 3, 4]).chunks(width).map(<[f32]>::to_vec).collect()
    };
    let original = rows_of(&PeftModel::without_adapter(base("llama_tied")));
    for (name, ids) in [("one", [0, 1, 2]), ("two", [2, 3, 4])] {
        model.set_adapter(&[name]).expect("set");
        let rows = rows_of(&model);
        for id in 0..5 {
            assert_eq!(rows[id] != original[id], ids.contains(&id), "{name}: token {id}");
        }
    }
}

#[test]
fn tokens_of_two_active_adapters_must_differ() {
    let mut model = PeftModel::without_adapter(base("llama_tied"));
    model.add_adapter("one", tokens(&[0, 1, 2])).expect("added");
    model.add_adapter("two", lora(&[2, 3, 4])).expect("added");
    model.set_adapter(&["one"]).expect("set");
    let error = model.set_adapter(&["one", "two"]).expect_err("token 2 is in both");
    let PeftError::OverlappingTokens { adapter, other, layer, tokens } = &error else { panic!("{error}") };
    assert_eq!((adapter.as_str(), other.as_str(), tokens.as_slice()), ("two", "one", &[2][..]));
    assert_eq!(layer, "model.embed_tokens");
    assert!(error.to_string().contains("'two'") && error.to_string().contains("tokens 2;"), "{error}");
    assert_eq!(model.active_adapters(), ["one"], "as it was");
}

#[test]
fn names_are_checked() {
    let mut model = get_peft_model(base("llama_tied"), tokens(&[1])).expect("an adapter");
    let error = model.add_adapter("default", tokens(&[2])).expect_err("there already");
    assert!(matches!(error, PeftError::AdapterExists { .. }), "{error}");
    for name in ["", BASE_ADAPTER, "a.b", "../up"] {
        let error = model.add_adapter(name, tokens(&[2])).expect_err("no name");
        assert!(matches!(error, PeftError::AdapterName { .. }), "{error}");
    }
    let error = model.set_adapter(&["defalt"]).expect_err("no such adapter");
    assert!(error.to_string().contains("did you mean 'default'"), "{error}");
    assert!(matches!(model.set_adapter(&[]), Err(PeftError::NoAdapterNamed { .. })));
    assert!(matches!(model.adapter("x"), Err(PeftError::NoSuchAdapter { .. })));
}

#[test]
fn a_deleted_adapter_is_gone_and_another_takes_its_place() {
    let mut model = two(|ids| tokens(ids).into(), "llama_tied");
    model.set_adapter(&["one"]).expect("set");
    let first = logits(&model, &TEXT);
    let ((), warnings) = warned(|| model.delete_adapter("one").expect("deleted"));
    assert_eq!((model.active_adapters(), warnings.len()), (&["two".to_string()][..], 1));
    assert!(distance(&logits(&model, &TEXT), &first) > 1e-2);
    assert!(model.delete_adapter("one").is_err());
    model.delete_adapter("two").expect("deleted");
    assert_eq!(model.active_adapters().len(), 0);
    assert_eq!(logits(&model, &TEXT), base_logits(base("llama_tied"), &TEXT));
    let error = model.trained_adapter().expect_err("nothing to train");
    assert!(matches!(error, PeftError::NoneActive { .. }), "{error}");
}

#[test]
fn a_guard_disables_and_restores() {
    let mut model = two(|ids| tokens(ids).into(), "llama_tied");
    let (original, active) = (base_logits(base("llama_tied"), &TEXT), logits(&model, &TEXT));
    {
        let disabled = model.disable_adapter().expect("disabled");
        assert_eq!(logits(&disabled, &TEXT), original);
    }
    assert_eq!(logits(&model, &TEXT), active);
    model.merge_adapter(None, true).expect("merged");
    {
        let disabled = model.disable_adapter().expect("disabled");
        assert_eq!(logits(&disabled, &TEXT), original, "merged adapters are taken out");
    }
    assert_eq!(logits(&model, &TEXT), active, "and put back");
}

#[test]
fn one_batch_uses_several_adapters() {
    for config in [|ids: &[u32]| alone(tokens(ids).into()), |ids: &[u32]| alone(lora(ids).into())] {
        let mut model = two(config, "llama_tied");
        let other = [57, 3, 3, 90, 1];
        let sequences: [&[u32]; 4] = [&TEXT, &TEXT, &other, &TEXT];
        let names = ["two", "one", "one", BASE_ADAPTER];
        let mixed = model.forward(&sequences, Some(&names)).expect("logits");
        assert_eq!(model.active_adapters(), ["two"], "still");
        for ((sequence, name), mixed) in sequences.iter().zip(names).zip(&mixed) {
            let expected = match name {
                BASE_ADAPTER => base_logits(base("llama_tied"), sequence),
                name => {
                    model.set_adapter(&[name]).expect("set");
                    logits(&model, sequence)
                }
            };
            assert!(distance(mixed, &expected) < 1e-5, "{name}");
        }
        assert!(distance(&mixed[0], &mixed[1]) > 1e-2);
        let error = model.forward(&sequences, Some(&["one"])).expect_err("too few names");
        assert!(matches!(error, PeftError::MixedBatch { sequences: 4, names: 1 }), "{error}");
        assert!(model.forward(&sequences[..1], Some(&["three"])).is_err());
        assert!(model.forward(&[&[]], None).is_err(), "an empty sequence has no logits");
        model.merge_adapter(Some(&["one"]), false).expect("merged");
        let error = model.forward(&sequences[..1], Some(&["two"])).expect_err("merged");
        assert!(matches!(error, PeftError::Merged { .. }), "{error}");
    }
}

#[test]
fn several_active_adapters_are_not_trained() {
    let mut model = two(|ids| tokens(ids).into(), "llama_tied");
    model.set_adapter(&["one", "two"]).expect("set");
    let error = model.trained_adapter().expect_err("two");
    assert!(matches!(error, PeftError::SeveralActive { .. }), "{error}");
    model.set_adapter(&["one"]).expect("set");
    assert_eq!(model.trained_adapter().expect("one").name(), "one");
    model.merge_adapter(None, false).expect("merged");
    assert!(matches!(model.trained_adapter(), Err(PeftError::Merged { .. })));
}

#[test]
fn parameters_are_counted_by_adapter() {
    let mut model = two(|ids| lora(ids).into(), "llama_tied");
    // two rows of 32, and in two blocks a query projection of 32 by 32 at rank 4
    let one = 2 * 32 + 2 * (4 * 32 + 32 * 4);
    let base = BaseModel::num_parameters(model.base());
    assert_eq!(model.parameter_counts(), (one, base + 2 * one));
    model.set_adapter(&["one", "two"]).expect("set");
    assert_eq!(model.parameter_counts().0, 2 * one);
}
