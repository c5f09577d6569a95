//! Adapters of llama.cpp, computed as it computes them.

use super::lora::with_updates;
use super::*;
use crate::weights::{Gguf, RowOrder};

/// A tensor of a GGUF file as `[rows, cols]`.
fn matrix(file: &Checkpoint, name: &str) -> Option<(usize, usize, Vec<f32>)> {
    let &[rows, cols] = file.shape(name)? else { return None };
    Some((rows, cols, file.matrix(name, rows, cols, RowOrder::Plain).expect("a matrix").decode_rows(0..rows)))
}

/// What llama.cpp adds to a tensor of the base, in the order of the rows in its file.
fn update(adapter: &Checkpoint, tensor: &str, alpha: f32) -> Option<Vec<f32>> {
    let (a_rows, a_cols, a) = matrix(adapter, &format!("{tensor}.lora_a"))?;
    let (b_rows, rank, b) = matrix(adapter, &format!("{tensor}.lora_b")).expect("both factors");
    let scale = alpha / rank as f32;
    let dot = |f: &dyn Fn(usize) -> f32| scale * (0..rank).map(f).sum::<f32>();
    if tensor == "token_embd.weight" {
        // a row of `A` for each token, times `B`
        assert_eq!(a_cols, rank);
        let entry = |token: usize, col: usize| dot(&|k| a[token * rank + k] * b[col * rank + k]);
        return Some((0..a_rows * b_rows).map(|at| entry(at / b_rows, at % b_rows)).collect());
    }
    assert_eq!(a_rows, rank);
    let entry = |row: usize, col: usize| dot(&|k| b[row * rank + k] * a[k * a_cols + col]);
    Some((0..b_rows * a_cols).map(|at| entry(at / a_cols, at % a_cols)).collect())
}

fn export(model: &PeftModel) -> (TempDir, PathBuf, GgufLora) {
    let top = tempfile::tempdir().expect("a folder");
    let path = top.path().join("lora.gguf");
    let told = export_gguf_lora(model, &path).expect("written");
    assert_eq!(file_names(top.path()), ["lora.gguf"], "nothing temporary is left");
    (top, path, told)
}

/// A copy of the base's file, whose matrices are `F32`, with the updates added to its tensors.
fn with_lora(model: &PeftModel, adapter: &Path) -> (TempDir, PathBuf) {
    let gguf = Gguf::open(adapter).expect("a sound file");
    let word = |key: &str| gguf.metadata().require::<&str>(key).expect("a word").to_owned();
    assert_eq!(
        [word("general.type"), word("adapter.type"), word("general.architecture")],
        ["adapter", "lora", "llama"]
    );
    let alpha = gguf.metadata().require::<f32>("adapter.lora.alpha").expect("a number");
    let (base, adapter) = (model.base().checkpoint(), Checkpoint::open(adapter).expect("a sound file"));
    let mut patch = crate::weights::GgufPatch::default();
    let mut used = 0;
    for name in base.names() {
        let Some(update) = update(&adapter, name, alpha) else { continue };
        let (rows, cols, values) = matrix(base, name).expect("a matrix");
        assert_eq!(values.len(), update.len(), "{name}");
        let sums: Vec<f32> = values.iter().zip(update).map(|(x, more)| x + more).collect();
        let changed =
            (0..rows).map(|row| (row, encode(WeightType::F32, &sums[row * cols..][..cols]).expect("plain")));
        let rows = crate::weights::RowPatch { changed: changed.collect(), appended: Vec::new() };
        patch.tensors.insert(name.into(), rows);
        used += 2;
    }
    assert_eq!(used, adapter.names().count(), "every tensor belongs to one of the base");
    let top = tempfile::tempdir().expect("a folder");
    let path = top.path().join("with.gguf");
    Gguf::write_patched(base.path(), &path, &patch).expect("written");
    (top, path)
}

#[test]
fn rows_as_a_gguf_adapter_give_the_logits_of_the_rows() {
    let source = HubModel::read("llama_untied").gguf(GgmlDType::F32);
    let model = with_random_rows(load(source.path()), &[64, 3, 17]);
    let (_top, path, told) = export(&model);
    assert_eq!((told.rank, told.tokens), (3, 3));
    assert_eq!(told.tensors, ["token_embd.weight", "output.weight"]);
    let (_other, with) = with_lora(&model, &path);
    assert_close(&logits(&load(&with), None), &logits(model.base(), Some(&model)), 1e-5);
}

#[test]
fn lora_beside_the_rows_lies_as_the_rows_of_the_file_do() {
    for tokens in [vec![64], vec![64, 3, 5, 7]] {
        let source = HubModel::read("llama_untied").gguf(GgmlDType::F32);
        let model = with_updates(load(source.path()), tokens.clone());
        let (_top, path, told) = export(&model);
        assert_eq!(told.rank, tokens.len().max(3));
        assert!(told.tensors.contains(&"blk.0.attn_k.weight".to_owned()), "{:?}", told.tensors);
        let (_other, with) = with_lora(&model, &path);
        assert_close(&logits(&load(&with), None), &logits(model.base(), Some(&model)), 1e-5);
    }
}

#[test]
fn differences_are_to_the_rounded_rows_of_the_file() {
    let source = HubModel::read("llama_untied").gguf(GgmlDType::Q8_0);
    let model = with_random_rows(load(source.path()), &[64, 3]);
    let (_top, path, _) = export(&model);
    let adapter = Checkpoint::open(&path).expect("a sound file");
    let update = update(&adapter, "token_embd.weight", 2.0).expect("an update");
    let stored = model.base().embedding().gather(&[3]);
    let rows = model.active().input_rows().expect("rows");
    let sums: Vec<f32> = stored.iter().zip(&update[3 * 32..]).map(|(x, more)| x + more).collect();
    assert_close(&sums, rows.row(1), 1e-6);
    assert!(update[5 * 32..6 * 32].iter().all(|x| *x == 0.0));
}

#[test]
fn what_llama_cpp_cannot_update_is_refused_and_nothing_is_left() {
    let top = tempfile::tempdir().expect("a folder");
    let path = top.path().join("lora.gguf");
    let refused = |model: &PeftModel| export_gguf_lora(model, &path).expect_err("refused");
    let tied = HubModel::read("llama_tied").gguf(GgmlDType::F32);
    let error = refused(&with_random_rows(load(tied.path()), &[3]));
    assert!(matches!(error, ExportError::TiedGguf) && error.to_string().contains("`export_gguf`"), "{error}");
    let untied = HubModel::read("llama_untied").gguf(GgmlDType::F32);
    let mut base = load(untied.path());
    base.resize_token_embeddings(99);
    let error = refused(&with_random_rows(base, &[98]));
    assert!(matches!(error, ExportError::AddedRows { rows: 99, base_rows: 97, .. }), "{error}");
    let error = refused(&with_random_rows(load(&fixture("llama_untied")), &[3]));
    assert!(matches!(error, ExportError::NotGguf { .. }), "{error}");
    fs::write(&path, "mine").expect("written");
    let error = refused(&with_random_rows(load(untied.path()), &[3]));
    assert!(matches!(error, ExportError::OutputExists { .. }), "{error}");
    assert_eq!(fs::read(&path).expect("a file"), b"mine");
    // a LoRA without rows needs no update of the tied matrix
    fs::remove_file(&path).expect("removed");
    let config = crate::config::LoraConfig {
        target_modules: Some(TargetModules::Names(vec!["q_proj".into()])),
        ..crate::config::LoraConfig::default()
    };
    let told = export_gguf_lora(&get_peft_model(load(tied.path()), config).expect("an adapter"), &path);
    assert_eq!(told.expect("written").tensors, ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]);
}
