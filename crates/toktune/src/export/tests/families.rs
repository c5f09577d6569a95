//! GGUF files of every architecture, merged into folders like those they were made from.

use super::*;
use crate::config::{LoraConfig, TrainableTokenIndices};
use crate::models::testing::{Case, convertible};

/// Compares the tensors of a folder with those of a model, but for its token matrices.
fn assert_same_tensors(folder: &Path, case: &Case, tolerance: f32) {
    let sorted = |mut tensors: Vec<Named>| {
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    };
    let (found, expected) = (sorted(tensors(folder)), sorted(case.model.tensors.clone()));
    let names = |tensors: &[Named]| tensors.iter().map(|t| (t.0.clone(), t.1.clone())).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{}", case.name);
    let base = load(folder);
    let tokens = [base.embedding(), base.head()].map(|matrix| matrix.frozen().name().to_owned());
    for (found, expected) in found.iter().zip(&expected).filter(|(found, _)| !tokens.contains(&found.0)) {
        testing::assert_close(&found.2, &expected.2, tolerance, &format!("{}: {}", case.name, found.0));
    }
}

#[test]
fn a_gguf_file_becomes_the_folder_it_was_made_from() {
    for case in convertible() {
        let source = case.model.gguf(GgmlDType::F32);
        let model = with_random_rows(load(source.path()), &[7, 44]);
        let (_top, folder) = merge(&model, MergeOptions::default());
        assert_eq!(file_names(&folder), ["config.json", "model.safetensors"]);
        let merged = load(&folder);
        assert_eq!(merged.is_tied(), model.base().is_tied(), "{}", case.name);
        let expected = logits(model.base(), Some(&model));
        testing::assert_close(&logits(&merged, None), &expected, 1e-5, case.name);
        // 1 was added to Gemma's norms and taken off again
        assert_same_tensors(&folder, &case, 1e-6);
    }
}

#[test]
fn blocks_of_weights_are_written_the_other_way_round_too() {
    // rows of Conv1D are columns of blocks; the fixture's width is no whole number of them
    let mut model = HubModel::read("gpt2");
    for (name, shape, values) in &mut model.tensors {
        let width = if name.contains("c_fc") || name.contains("mlp.c_proj") { 64 } else { 32 };
        let (rows, cols) = match (shape.len(), name.as_str()) {
            (2, n) if n.contains("wte") || n.contains("wpe") => (shape[0], 32),
            (2, n) if n.contains("c_attn.weight") => (32, 96),
            (2, n) if n.contains("c_fc.weight") => (32, 64),
            (2, n) if n.contains("mlp.c_proj.weight") => (64, 32),
            (2, _) => (32, 32),
            (_, n) if n.contains("c_attn.bias") => (1, 96),
            (_, n) if n.contains("c_fc.bias") => (1, width),
            _ => (1, 32),
        };
        *values = values.iter().copied().cycle().take(rows * cols).collect();
        *shape = if shape.len() == 2 { vec![rows, cols] } else { vec![cols] };
    }
    let model = model.with(json!({"n_embd": 32, "n_head": 4, "n_inner": 64}));
    let source = model.gguf(GgmlDType::Q8_0);
    let model = with_random_rows(load(source.path()), &[7, 44]);
    let options = MergeOptions { dtype: Some(MergedType::F32) };
    let (_top, folder) = merge(&model, options);
    assert_close(&logits(&load(&folder), None), &logits(model.base(), Some(&model)), 1e-5);
}

/// LoRA on every linear layer of the blocks, all values of it far from a fresh adapter's, and two tokens.
fn with_updates(base: PretrainedModel) -> PeftModel {
    let config = LoraConfig {
        r: 3,
        target_modules: Some(TargetModules::Pattern("all-linear".into())),
        trainable_token_indices: Some(TrainableTokenIndices::Tokens(vec![64, 3])),
        ..LoraConfig::default()
    };
    let mut model = get_peft_model(base, config).expect("an adapter");
    let mut random = Random::new(8);
    for (_, values) in model.parameters_mut() {
        values.iter_mut().for_each(|x| *x = random.below(2001) as f32 / 10_000.0 - 0.1);
    }
    model
}

#[test]
fn an_update_is_the_same_over_either_form_of_a_model() {
    for case in convertible() {
        let (hub, gguf) = (case.model.folder(), case.model.gguf(GgmlDType::F32));
        let [hub, gguf] = [hub.path(), gguf.path()].map(|path| with_updates(load(path)));
        let expected = logits(hub.base(), Some(&hub));
        let far = expected.iter().zip(logits(hub.base(), None)).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(far > 0.01, "{}: the updates change nothing", case.name);
        testing::assert_close(&logits(gguf.base(), Some(&gguf)), &expected, 1e-5, case.name);
        for mut model in [hub, gguf] {
            let (_top, folder) = merge(&model, MergeOptions::default());
            testing::assert_close(&logits(&load(&folder), None), &expected, 1e-5, case.name);
            model.merge_adapter(None, true).expect("merged");
            testing::assert_close(&logits(model.base(), None), &expected, 1e-5, case.name);
            let (_top, again) = merge(&model, MergeOptions::default());
            for ((name, _, one), (_, _, other)) in tensors(&folder).into_iter().zip(tensors(&again)) {
                assert!(one == other, "{}: {name}", case.name);
            }
        }
    }
}
