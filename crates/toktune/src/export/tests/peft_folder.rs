//! The adapter itself, written anew.

use super::*;
use crate::peft::{ADAPTER_FILE, SaveEmbeddingLayers};

/// Rows of the model.
const ROWS: usize = 97;

/// An adapter's file as PEFT writes it after a resize: whole matrices beside the rows.
fn with_whole_matrices() -> TempDir {
    let mut base = load(&fixture("llama_untied"));
    base.resize_token_embeddings(ROWS + 2);
    let model = with_random_rows(base, &[ROWS as u32, ROWS as u32 + 1, 4]);
    let folder = tempfile::tempdir().expect("a folder");
    model.save_pretrained(folder.path(), SaveEmbeddingLayers::Yes).expect("saved");
    folder
}

fn opened(folder: &Path) -> PeftModel {
    PeftModel::from_pretrained(load(&fixture("llama_untied")), folder).expect("an adapter")
}

fn size(folder: &Path) -> u64 {
    fs::metadata(folder.join(ADAPTER_FILE)).expect("a file").len()
}

#[test]
fn whole_matrices_are_left_out_and_the_rows_stay() {
    let stored = with_whole_matrices();
    let model = opened(stored.path());
    let top = tempfile::tempdir().expect("a folder");
    let [small, whole] = ["small", "whole"].map(|name| top.path().join(name));
    let told = export_peft(&model, None, SaveEmbeddingLayers::No, &small).expect("written");
    assert_eq!((told.tokens, told.rows, told.base_rows), (3, ROWS + 2, ROWS));
    export_peft(&model, None, SaveEmbeddingLayers::Auto, &whole).expect("written");
    let names = |folder: &Path| {
        let file = Checkpoint::open(&folder.join(ADAPTER_FILE)).expect("a file");
        file.names().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(names(&small).len(), 2, "{:?}", names(&small));
    assert_eq!(names(&whole), names(stored.path()));
    // two matrices of three rows of 32 numbers, and a header
    assert!((768..1400).contains(&size(&small)) && size(&whole) > 20_000);
    let mut base = load(&fixture("llama_untied"));
    base.resize_token_embeddings(ROWS + 2);
    let again = PeftModel::from_pretrained(base, &small).expect("an adapter");
    assert_eq!(logits(again.base(), Some(&again)), logits(model.base(), Some(&model)));
}

#[test]
fn whole_matrices_with_rows_of_their_own_are_not_left_out_in_silence() {
    let stored = with_whole_matrices();
    let path = stored.path().join(ADAPTER_FILE);
    let mut all: Vec<Named> = Vec::new();
    let file = Checkpoint::open(&path).expect("a file");
    for name in file.names() {
        let shape = file.shape(name).expect("a shape").to_vec();
        let matrix =
            file.matrix(name, shape[0], shape[1], crate::weights::RowOrder::Plain).expect("a matrix");
        let mut values = matrix.decode_rows(0..shape[0]);
        if name.contains("lm_head.base_layer") {
            values[7 * 32] += 1.0;
            values[9 * 32 + 31] += 1.0;
        }
        all.push((name.into(), shape, values));
    }
    fs::write(&path, safetensors_file(&all, WeightType::F32)).expect("written");
    let model = opened(stored.path());
    let top = tempfile::tempdir().expect("a folder");
    let folder = top.path().join("small");
    let error = export_peft(&model, None, SaveEmbeddingLayers::No, &folder).expect_err("refused");
    assert!(matches!(error, ExportError::OtherRows { row: 7, more: 1, .. }), "{error}");
    assert!(error.to_string().contains("'lm_head.weight' whole, and its row 7"), "{error}");
    assert!(error.to_string().contains("`save_embedding_layers`"), "{error}");
    assert!(file_names(top.path()).is_empty());
    export_peft(&model, None, SaveEmbeddingLayers::Yes, &folder).expect("written");
    let again = opened(&folder);
    assert_eq!(logits(again.base(), Some(&again)), logits(model.base(), Some(&model)));
}
