//! What the proof of a merged folder finds, and what it does not let pass.

use super::*;

/// A folder of a fixture with tensors in bf16.
fn in_bf16(name: &str) -> TempDir {
    source(name, &[(crate::weights::SINGLE, safetensors_file(&tensors(&fixture(name)), WeightType::BF16))])
}

/// Changes one byte of a merged tensor.
pub(super) fn damage(folder: &Path, name: &str, at: usize) {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let bytes = checkpoint.stored_bytes(name).expect("bytes").to_vec();
    let file = folder.join(crate::weights::SINGLE);
    let mut all = fs::read(&file).expect("a file");
    drop(checkpoint);
    let place = all.windows(bytes.len()).position(|part| part == bytes).expect("the tensor is there");
    all[place + at] ^= 0x40;
    fs::write(&file, all).expect("written");
}

#[test]
fn a_folder_is_proven_to_the_bit() {
    for name in FIXTURES {
        let model = with_adapter(&fixture(name), name);
        let (_top, folder) = merge(&model, MergeOptions::default());
        let proof = prove_merge(&model, &folder).expect("proven");
        assert_eq!((proof.rounding, proof.changed.0), (0.0, 0), "{name}: {proof:?}");
        assert!(proof.rows >= model.token_indices().len() && proof.logits == Some(0.0), "{name}: {proof:?}");
        assert_eq!(proof.unchanged_tensors, model.base().checkpoint().names().count(), "{name}");
        assert_eq!(proof.unchanged_bytes, model.base().checkpoint().total_bytes(), "{name}");
    }
}

#[test]
fn rounding_and_rows_that_were_appended_are_told() {
    let folder = in_bf16("llama_tied");
    let mut base = load(folder.path());
    let rows = base.vocabulary() as u32;
    base.resize_token_embeddings(rows as usize + 2);
    let model = with_random_rows(base, &[3, rows]);
    let (_top, merged) = merge(&model, MergeOptions::default());
    let proof = prove_merge(&model, &merged).expect("proven");
    // 1 is the largest of the random entries, and bf16 has 8 bits
    assert!(proof.rounding > 1e-4 && proof.rounding <= 2f32.powi(-9), "{proof:?}");
    assert!(proof.logits.is_some_and(|difference| difference > 0.0), "{proof:?}");
    // the trained row, the trained appended one and the other one
    assert_eq!(proof.rows, 3, "{proof:?}");
}

#[test]
fn a_gguf_file_has_other_tensors_and_the_same_rows() {
    let source = HubModel::read("llama_tied").gguf(GgmlDType::F32);
    let model = with_random_rows(load(&source.path().join("model.gguf")), &[3, 9]);
    let (_top, merged) = merge(&model, MergeOptions::default());
    let proof = prove_merge(&model, &merged).expect("proven");
    assert!(proof.rows >= 2 && proof.unchanged_tensors == 0 && proof.logits.is_some(), "{proof:?}");
}

#[test]
fn what_differs_is_named() {
    let model = with_adapter(&fixture("llama_untied"), "llama_untied");
    let width = model.base().embedding().width() * 4;
    let trained = model.token_indices()[0] as usize;
    let other = (0..).find(|row| !model.token_indices().contains(row)).expect("a row") as usize;
    for (name, at, told) in [
        ("model.embed_tokens.weight", trained * width, format!("row {trained} of model.embed_tokens")),
        ("model.embed_tokens.weight", other * width, format!("model.embed_tokens.weight, row {other},")),
        ("model.layers.0.mlp.up_proj.weight", 5, "model.layers.0.mlp.up_proj.weight, row 0,".to_owned()),
    ] {
        let (_top, folder) = merge(&model, MergeOptions::default());
        damage(&folder, name, at);
        let error = prove_merge(&model, &folder).expect_err("damaged");
        assert!(matches!(error, PeftError::MergeDiffers { .. }), "{error}");
        assert!(error.to_string().contains(&told), "{told}: {error}");
    }
}
