//! Merging in memory.

use super::*;
use crate::export::{MergeOptions, merge_to_folder};
use crate::peft::error::PeftError;

const TEXT: [u32; 6] = [5, 57, 3, 90, 21, 8];

fn close(a: &[f32], b: &[f32]) -> bool {
    let scale = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    distance(a, b) <= 1e-5 * scale
}

/// The bits of every weight that merging could change.
fn bits(model: &PretrainedModel) -> Vec<u32> {
    let mut all: Vec<f32> = model.embedding().gather(&(0..model.vocabulary() as u32).collect::<Vec<_>>());
    all.extend(model.head().gather(&(0..model.vocabulary() as u32).collect::<Vec<_>>()));
    for linear in model.runner().linears() {
        all.extend(linear.weight.decode_rows(0..linear.weight.rows()));
    }
    all.into_iter().map(f32::to_bits).collect()
}

fn trained(name: &str, config: impl Into<PeftConfig>) -> PeftModel {
    let mut model = get_peft_model(base(name), config).expect("an adapter");
    train(&mut model, "default", 7);
    model
}

#[test]
fn merged_and_unmerged_outputs_agree_and_unmerging_is_exact() {
    let both =
        || TrainableTokensConfig { target_modules: names(&["embed_tokens", "lm_head"]), ..tokens(&[57, 90]) };
    let cases: [(&str, PeftConfig); 6] = [
        ("llama_tied", tokens(&[57, 90]).into()),
        ("llama_untied", tokens(&[57, 90]).into()),
        ("llama_untied_head", both().into()),
        ("gemma3", tokens(&[57, 90]).into()),
        ("llama_tied", lora(&[57, 90]).into()),
        ("llama_untied", lora(&[57, 90]).into()),
    ];
    for (name, config) in cases {
        let mut model = trained(name, config.clone());
        let (original, before) = (base_logits(base(name), &TEXT), bits(model.base()));
        let unmerged = logits(&model, &TEXT);
        assert!(distance(&unmerged, &original) > 1e-2, "{name}: training changes something");
        model.merge_adapter(None, true).expect("merged");
        assert_eq!(model.merged_adapters(), ["default"]);
        assert_ne!(bits(model.base()), before);
        assert!(close(&logits(&model, &TEXT), &unmerged), "{name} {config:?}");
        let tied = base(name).is_tied();
        assert_eq!(tied, model.base().is_tied(), "tied weights stay tied");
        // again: nothing happens but a warning
        let (again, warnings) = warned(|| model.merge_adapter(None, true));
        assert!(again.is_ok() && warnings.len() == 1 && close(&logits(&model, &TEXT), &unmerged));
        model.unmerge_adapter().expect("unmerged");
        assert_eq!(bits(model.base()), before, "{name}: bit for bit");
        assert_eq!(logits(&model, &TEXT), unmerged);
        let ((), warnings) = warned(|| model.unmerge_adapter().expect("nothing to do"));
        assert_eq!(warnings.len(), 1);
        let merged = model.merge_and_unload(true, None).expect("merged");
        assert!(close(&base_logits(merged, &TEXT), &unmerged));
        let mut model = trained(name, config);
        model.merge_adapter(None, false).expect("merged");
        assert_eq!(bits(&model.unload()), before);
    }
}

#[test]
fn merged_rows_are_the_trained_ones() {
    let model = trained("llama_tied", tokens(&[0, 1, 3]));
    let expected = model.layers()[0].rows().values.clone();
    let merged = model.merge_and_unload(false, None).expect("merged");
    assert_eq!(merged.embedding().gather(&[0, 1, 3]), expected);
    assert_eq!(merged.head().gather(&[0, 1, 3]), expected);
    // and an adapter over the merged model starts from them
    let again = get_peft_model(merged, tokens(&[1, 5])).expect("an adapter");
    assert_eq!(again.layers()[0].rows().row(0), &expected[32..64]);
}

#[test]
fn rows_that_a_resize_appended_are_merged_too() {
    let mut base = base("llama_untied");
    let rows = base.vocabulary() as u32;
    base.resize_token_embeddings(rows as usize + 2);
    let mut model = get_peft_model(base, tokens(&[rows + 1, 4])).expect("an adapter");
    train(&mut model, "default", 3);
    let text = [1, rows + 1, 4, 2];
    let before = logits(&model, &text);
    model.merge_adapter(None, true).expect("merged");
    assert!(close(&logits(&model, &text), &before));
    model.unmerge_adapter().expect("unmerged");
    assert_eq!(logits(&model, &text), before);
}

fn two(first: &[u32], second: &[u32]) -> PeftModel {
    let mut model = PeftModel::without_adapter(base("llama_tied"));
    for (name, ids) in [("adapter_1", first), ("adapter_2", second)] {
        model.add_adapter(name, lora(ids)).expect("added");
        train(&mut model, name, ids[0].into());
    }
    model.set_adapter(&["adapter_1"]).expect("set");
    model
}

#[test]
fn overlapping_tokens_are_not_merged_together_or_one_after_the_other() {
    let check = |error: PeftError| {
        let PeftError::OverlappingTokens { adapter, other, tokens, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (adapter.as_str(), other.as_str(), tokens.as_slice()),
            ("adapter_2", "adapter_1", &[2][..])
        );
    };
    let mut model = two(&[0, 1, 2], &[2, 3, 4]);
    let before = bits(model.base());
    check(model.merge_adapter(Some(&["adapter_1", "adapter_2"]), false).expect_err("both have token 2"));
    assert_eq!(bits(model.base()), before);
    model.merge_adapter(Some(&["adapter_1", "adapter_1"]), false).expect("one, named twice");
    let merged = bits(model.base());
    check(model.merge_adapter(Some(&["adapter_2"]), false).expect_err("token 2 is merged"));
    assert_eq!((bits(model.base()), model.merged_adapters()), (merged, &["adapter_1".to_string()][..]));
    let error = two(&[0, 1, 2], &[2, 3, 4]).merge_and_unload(false, Some(&["adapter_1", "adapter_2"]));
    check(error.expect_err("both have token 2"));
}

#[test]
fn adapters_with_different_tokens_are_merged_one_after_the_other() {
    let mut model = two(&[0, 1, 2], &[3, 4, 5]);
    let before = bits(model.base());
    model.set_adapter(&["adapter_1", "adapter_2"]).expect("set");
    let together = logits(&model, &TEXT);
    model.merge_adapter(Some(&["adapter_1"]), false).expect("merged");
    model.merge_adapter(Some(&["adapter_2"]), true).expect("merged");
    assert_eq!(model.merged_adapters(), ["adapter_1", "adapter_2"]);
    assert!(close(&logits(&model, &TEXT), &together));
    let error = model.add_adapter("third", tokens(&[9])).expect_err("rows are changed");
    assert!(matches!(error, PeftError::Merged { .. }), "{error}");
    assert!(matches!(model.delete_adapter("adapter_1"), Err(PeftError::Merged { .. })));
    model.unmerge_adapter().expect("unmerged");
    assert_eq!(bits(model.base()), before);
}

#[test]
fn a_safe_merge_refuses_what_is_not_finite_and_leaves_the_weights() {
    let spoil: [fn(&mut PeftModel); 3] = [
        |model| model.layers_mut()[0].rows_mut().values[33] = f32::NAN,
        |model| model.lora_layers_mut()[1].b[5] = f32::INFINITY,
        |model| model.lora_layers_mut()[0].a[0] = f32::NAN,
    ];
    for (i, spoil) in spoil.into_iter().enumerate() {
        let mut model = trained("llama_tied", lora(&[57, 90]));
        let before = bits(model.base());
        spoil(&mut model);
        let error = model.merge_adapter(None, true).expect_err("not finite");
        let PeftError::MergeNotFinite { layer, row, .. } = &error else { panic!("{error}") };
        match i {
            0 => assert_eq!((layer.as_str(), *row), ("model.embed_tokens", 90)),
            1 => assert_eq!((layer.as_str(), *row), ("model.layers.1.self_attn.q_proj", 1)),
            _ => assert_eq!(layer, "model.layers.0.self_attn.q_proj"),
        }
        assert!(model.merged_adapters().is_empty());
        assert_eq!(bits(model.base()), before);
        // unasked for, it is done as it is told
        model.merge_adapter(None, false).expect("merged");
        model.unmerge_adapter().expect("unmerged");
        assert_eq!(bits(model.base()), before);
    }
}

#[test]
fn separate_rows_of_one_matrix_cannot_be_merged() {
    let separate = LoraConfig {
        trainable_token_indices: by_layer(&[("lm_head", &[1, 2]), ("embed_tokens", &[3, 4])]),
        ..lora(&[])
    };
    for config in [
        PeftConfig::from(separate),
        TrainableTokensConfig { target_modules: names(&["lm_head"]), ..tokens(&[1, 2]) }.into(),
    ] {
        let mut model = trained("llama_tied", config);
        let before = logits(&model, &TEXT);
        let error = model.merge_adapter(None, false).expect_err("two rows, one place");
        assert!(matches!(error, PeftError::SeparateRowsOfTied { .. }), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let error = merge_to_folder(&model, &folder.path().join("out"), MergeOptions::default());
        assert!(matches!(error, Err(PeftError::SeparateRowsOfTied { .. })));
        assert!(!folder.path().join("out").exists());
        assert_eq!(logits(&model, &TEXT), before);
    }
}
