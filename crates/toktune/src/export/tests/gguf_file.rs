//! Rows inside a copy of a GGUF file.

use super::lora::with_updates;
use super::*;
use crate::weights::{Gguf, GgufPatch};

/// An untied Llama whose rows are wide enough for every type of blocks.
fn wide() -> HubModel {
    let mut model = HubModel::read("llama_untied").with(json!({
        "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    }));
    let mut random = Random::new(11);
    for (name, shape, values) in &mut model.tensors {
        let of = |part: &str| name.contains(part);
        match () {
            () if shape.len() == 1 => *shape = vec![256],
            () if of("q_proj") => *shape = vec![32, 256],
            () if of("k_proj") || of("v_proj") => *shape = vec![16, 256],
            () if of("o_proj") => *shape = vec![256, 32],
            () if of("embed_tokens") || of("lm_head") => shape[1] = 256,
            () => *shape = vec![256, 256],
        }
        let scale = if shape.len() == 1 { 0.0 } else { 0.1 };
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        *values = (0..shape.iter().product())
            .map(|_| (random.below(2001) as f32 / 1000.0 - 1.0) * scale + offset)
            .collect();
    }
    model
}

fn patched(model: &PeftModel) -> (TempDir, PathBuf, PatchedGguf) {
    let top = tempfile::tempdir().expect("a folder");
    let path = top.path().join("patched.gguf");
    let told = export_gguf(model, None, &path).expect("written");
    assert_eq!(file_names(top.path()), ["patched.gguf"], "nothing temporary is left");
    (top, path, told)
}

/// The rows that a file must hold: the trained ones rounded to the type of the matrix, the others byte for byte.
fn assert_rows(model: &PeftModel, path: &Path) {
    let (before, after) = (model.base().checkpoint(), Checkpoint::open(path).expect("a sound file"));
    assert!(before.names().eq(after.names()));
    for name in before.names() {
        let (old, new) =
            (before.stored_bytes(name).expect("bytes"), after.stored_bytes(name).expect("bytes"));
        assert_eq!(before.dtype(name), after.dtype(name), "{name}");
        let rows = match name {
            "token_embd.weight" => model.active().input_rows(),
            "output.weight" => model.active().output_rows(),
            _ => None,
        };
        if name == "output.bias" {
            assert!(new.starts_with(old) && new[old.len()..].iter().all(|byte| *byte == 0), "{name}");
            continue;
        }
        let Some(rows) = rows else {
            assert_eq!(blake3(old), blake3(new), "{name} is not touched");
            continue;
        };
        let dtype = before.dtype(name).expect("a type");
        let size = dtype.bytes(1, rows.width()).expect("whole blocks");
        let mut seen = 0;
        for (row, new) in new.chunks(size).enumerate() {
            let trained = rows.position(row as u32).map(|at| encode(dtype, rows.row(at)).expect("written"));
            seen += usize::from(trained.is_some());
            if let Some(expected) = trained.as_deref().or(old.get(row * size..(row + 1) * size)) {
                assert_eq!(new, expected, "{name} ({dtype}), row {row}");
            }
        }
        assert_eq!(seen, rows.indices().len(), "{name}: every trained row is there");
    }
}

fn blake3(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

const TYPES: [GgmlDType; 11] = [
    GgmlDType::F32,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q8_0,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

#[test]
fn rows_of_every_type_are_written_and_nothing_else_changes() {
    let model = wide();
    for (at, kind) in TYPES.into_iter().enumerate() {
        let head = TYPES[(at + 5) % TYPES.len()];
        let source = model.gguf_with(|name| match name {
            "token_embd.weight" => kind,
            "output.weight" => head,
            _ => GgmlDType::Q8_0,
        });
        let model = with_random_rows(load(source.path()), &[64, 3, 17]);
        let (_top, path, told) = patched(&model);
        assert_rows(&model, &path);
        let types: Vec<String> = told.matrices.iter().map(|(_, dtype)| dtype.to_string()).collect();
        assert_eq!(types.len(), 2, "{types:?}");
        assert_eq!((told.tokens, told.rows, told.base_rows), (3, 97, 97));
        // rows of numbers in [-1, 1) are rounded to a step of the type
        let tolerance = match kind.type_size() as f64 / kind.block_size() as f64 {
            x if x < 0.75 => 0.2,
            x if x < 2.0 => 0.1,
            _ => 0.1,
        };
        assert_close(&logits(&load(&path), None), &logits(model.base(), Some(&model)), tolerance);
    }
}

#[test]
fn plain_rows_give_the_very_logits() {
    for name in ["llama_untied", "gemma3", "llama_tied"] {
        let source = HubModel::read(name).gguf(GgmlDType::F32);
        let model = with_random_rows(load(source.path()), &[64, 3, 17]);
        let (_top, path, _) = patched(&model);
        assert_rows(&model, &path);
        assert!(logits(&load(&path), None) == logits(model.base(), Some(&model)), "{name}");
    }
}

#[test]
fn appended_rows_lengthen_the_matrices_and_the_token_list() {
    for name in ["llama_untied", "gemma3", "phi"] {
        let source = HubModel::read(name).gguf(GgmlDType::F16);
        let mut base = load(source.path());
        let rows = base.vocabulary();
        base.resize_token_embeddings(rows + 3);
        let model = with_random_rows(base, &[rows as u32 + 1, 3]);
        let (_top, path, told) = patched(&model);
        assert_eq!((told.rows, told.base_rows), (rows + 3, rows));
        assert_rows(&model, &path);
        let after = load(&path);
        assert_eq!(after.vocabulary(), rows + 3, "{name}");
        let gguf = Gguf::open(&path).expect("a sound file");
        let tokens = gguf.metadata().require::<&[String]>("tokenizer.ggml.tokens").expect("tokens");
        assert_eq!(
            (tokens.len(), tokens[rows - 1].clone(), tokens[rows].clone()),
            (rows + 3, format!("t{}", rows - 1), format!("[PAD{rows}]"))
        );
        assert_close(&logits(&after, None), &logits(model.base(), Some(&model)), 3e-3);
    }
}

#[test]
fn what_a_file_cannot_hold_is_refused_and_nothing_is_left() {
    let top = tempfile::tempdir().expect("a folder");
    let path = top.path().join("patched.gguf");
    let refused = |model: &PeftModel| export_gguf(model, None, &path).expect_err("refused");
    let error = refused(&with_random_rows(load(&fixture("llama_tied")), &[3]));
    assert!(matches!(error, ExportError::NotGguf { .. }), "{error}");
    let rounded = wide().gguf(GgmlDType::Q2K);
    let error = refused(&with_random_rows(load(rounded.path()), &[3]));
    assert!(matches!(error, ExportError::Unwritable { dtype: WeightType::Q2K, .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("written are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"),
        "{error}"
    );
    let source = HubModel::read("llama_tied").gguf(GgmlDType::Q8_0);
    let error = refused(&with_updates(load(source.path()), vec![64, 3]));
    assert!(matches!(error, ExportError::LoraInGguf { layers: 6, .. }), "{error}");
    let mut config = TrainableTokensConfig::new(vec![5]);
    config.target_modules = Some(TargetModules::Names(vec!["lm_head".into()]));
    let error = refused(&get_peft_model(load(source.path()), config).expect("an adapter"));
    assert!(matches!(error, ExportError::Peft(PeftError::SeparateRowsOfTied { .. })), "{error}");
    // the factor of a block of Q8_0 has half precision
    for (value, parts) in [(f32::NAN, "row 9 holds NaN as Q8_0"), (1e9, "row 9 holds 1000000000 as Q8_0")] {
        let mut model = with_random_rows(load(source.path()), &[9]);
        model.layers_mut()[0].rows_mut().values[1] = value;
        let error = refused(&model);
        assert!(
            matches!(error, ExportError::Peft(PeftError::Engine(EngineError::NotFinite { .. }))),
            "{error}"
        );
        assert!(error.to_string().contains(parts), "{error}");
    }
    assert!(file_names(top.path()).is_empty());
    let model = with_random_rows(load(source.path()), &[3]);
    let own = source.path().join("model.gguf");
    let before = fs::read(&own).expect("a file");
    let error = export_gguf(&model, None, &own).expect_err("refused");
    assert!(matches!(error, ExportError::OutputExists { .. }), "{error}");
    assert!(fs::read(&own).expect("a file") == before);
    // a file whose copy has nothing changed is the file
    Gguf::write_patched(&own, &path, &GgufPatch::default()).expect("written");
    let copy = fs::read(&path).expect("a file");
    assert!(copy[..before.len()] == before && copy[before.len()..].iter().all(|byte| *byte == 0));
}
