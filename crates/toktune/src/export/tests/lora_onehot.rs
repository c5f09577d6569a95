//! Rows as LoRA: what a program computes that knows LoRA alone.

use super::lora::with_updates;
use super::*;
use crate::config::{CONFIG_FILE, LoraConfig, TrainableTokenIndices};
use crate::peft::{ADAPTER_FILE, RowInit};

/// Writes the adapter into a folder of a new temporary one.
fn export(model: &PeftModel) -> (TempDir, PathBuf, OneHotLora) {
    let top = tempfile::tempdir().expect("a folder");
    let folder = top.path().join("served");
    let told = export_lora_onehot(model, None, &folder).expect("written");
    assert_eq!(file_names(top.path()), ["served"], "nothing temporary is left");
    (top, folder, told)
}

/// A tensor of a folder, whole.
fn whole(folder: &Checkpoint, key: &str) -> Option<(Vec<usize>, Vec<f32>)> {
    let shape = folder.shape(key)?.to_vec();
    let matrix = folder.matrix(key, shape[0], shape[1], crate::weights::RowOrder::Plain).expect("a matrix");
    Some((shape, matrix.decode_rows(0..matrix.rows())))
}

/// `B A`, and whether it is an embedding's, which is transposed beside a linear layer's.
fn update(folder: &Checkpoint, module: &str, rank: usize) -> Option<Vec<f32>> {
    let key = |part: &str| format!("base_model.model.{module}.{part}");
    let embedding = whole(folder, &key("lora_embedding_A")).zip(whole(folder, &key("lora_embedding_B")));
    let linear = || whole(folder, &key("lora_A.weight")).zip(whole(folder, &key("lora_B.weight")));
    let is_embedding = embedding.is_some();
    let ((a_shape, a), (b_shape, b)) = embedding.or_else(linear)?;
    assert_eq!((a_shape[0], b_shape[1]), (rank, rank), "{module}: one rank for all");
    let (outputs, inputs) = (b_shape[0], a_shape[1]);
    let entry = |row: usize, col: usize| (0..rank).map(|k| b[row * rank + k] * a[k * inputs + col]).sum();
    Some(match is_embedding {
        true => (0..inputs)
            .flat_map(|col| (0..outputs).map(move |row| (row, col)))
            .map(|(r, c)| entry(r, c))
            .collect(),
        false => (0..outputs)
            .flat_map(|row| (0..inputs).map(move |col| (row, col)))
            .map(|(r, c)| entry(r, c))
            .collect(),
    })
}

/// The base with every update of the folder added to its module, the head a matrix of its own, as PEFT computes it.
fn with_lora(name: &str, base: &PretrainedModel, folder: &Path) -> TempDir {
    let config: Value =
        serde_json::from_slice(&fs::read(folder.join(CONFIG_FILE)).expect("a file")).expect("JSON");
    let rank = config["r"].as_u64().expect("a rank") as usize;
    assert_eq!(
        (&config["lora_alpha"], &config["peft_type"]),
        (&config["r"], &json!("LORA")),
        "the factor is 1"
    );
    let adapter = Checkpoint::open(&folder.join(ADAPTER_FILE)).expect("a file");
    let mut model =
        HubModel::read(name).with(json!({"tie_word_embeddings": false, "vocab_size": base.vocabulary()}));
    let embedding = "model.embed_tokens.weight";
    if !model.tensors.iter().any(|t| t.0 == "lm_head.weight") {
        let of_embedding = model.tensors.iter().find(|t| t.0 == embedding).expect("an embedding").clone();
        model.tensors.push(("lm_head.weight".into(), of_embedding.1, of_embedding.2));
    }
    let mut used = 0;
    for (tensor, shape, values) in &mut model.tensors {
        if tensor == embedding || tensor == "lm_head.weight" {
            // the rows of a resize
            let matrix = if tensor == embedding { base.embedding() } else { base.head() };
            values.extend(matrix.extra());
            shape[0] = matrix.rows();
        }
        if let Some(update) = update(&adapter, tensor.trim_end_matches(".weight"), rank) {
            assert_eq!(update.len(), values.len(), "{tensor}");
            values.iter_mut().zip(update).for_each(|(x, more)| *x += more);
            used += 2;
        }
    }
    assert_eq!(used, adapter.names().count(), "every tensor belongs to a module");
    model.folder()
}

#[test]
fn rows_as_lora_give_the_logits_of_the_rows() {
    for name in FIXTURES {
        let mut base = load(&fixture(name));
        base.resize_token_embeddings(base.vocabulary() + 2);
        let added = base.vocabulary() as u32 - 1;
        let model = with_random_rows(base, &[64, 3, added, 17]);
        let (_top, folder, told) = export(&model);
        assert_eq!((told.rank, told.tokens, told.rows - told.base_rows), (4, 4, 2), "{name}");
        let served = load(with_lora(name, model.base(), &folder).path());
        assert_close(&logits(&served, None), &logits(model.base(), Some(&model)), 1e-5);
    }
}

#[test]
fn lora_beside_the_rows_gets_their_rank_and_keeps_its_factor() {
    for name in ["llama_tied", "llama_untied"] {
        for tokens in [vec![64, 3], vec![64, 3, 5, 7, 9]] {
            let model = with_updates(load(&fixture(name)), tokens.clone());
            let (_top, folder, told) = export(&model);
            assert_eq!(told.rank, tokens.len().max(3));
            let served = load(with_lora(name, model.base(), &folder).path());
            assert_close(&logits(&served, None), &logits(model.base(), Some(&model)), 1e-5);
        }
    }
}

#[test]
fn the_head_alone_of_a_tied_model_is_an_update_of_the_head_alone() {
    let mut config = TrainableTokensConfig::new(vec![5, 9]);
    config.target_modules = Some(TargetModules::Names(vec!["lm_head".into()]));
    let mut model = get_peft_model(load(&fixture("llama_tied")), config).expect("an adapter");
    model.init_rows(&[5, 9], RowInit::Random { seed: 1 });
    let (_top, folder, _) = export(&model);
    let served = load(with_lora("llama_tied", model.base(), &folder).path());
    assert_close(&logits(&served, None), &logits(model.base(), Some(&model)), 1e-5);
}

#[test]
fn modules_are_named_as_servers_expect_and_no_other_is_meant() {
    let named = |name: &str| -> Vec<String> {
        let model = with_random_rows(load(&fixture(name)), &[5]);
        let (_top, folder, _) = export(&model);
        let text = fs::read(folder.join(CONFIG_FILE)).expect("a file");
        let config: Value = serde_json::from_slice(&text).expect("JSON");
        let mut names: Vec<String> = serde_json::from_value(config["target_modules"].clone()).expect("names");
        names.sort();
        names
    };
    assert_eq!(named("llama_tied"), ["embed_tokens", "lm_head"]);
    // a vision tower has layers of such names too
    assert_eq!(named("gemma3_images"), ["lm_head", "model.language_model.embed_tokens"]);
    assert_eq!(named("bert"), ["decoder", "word_embeddings"]);
}

#[test]
fn what_lora_cannot_hold_is_refused_and_nothing_is_left() {
    let top = tempfile::tempdir().expect("a folder");
    let refused =
        |model: &PeftModel| export_lora_onehot(model, None, &top.path().join("served")).expect_err("refused");
    let rounded = HubModel::read("llama_tied").gguf(GgmlDType::Q8_0);
    let error = refused(&with_random_rows(load(rounded.path()), &[3]));
    assert!(matches!(error, ExportError::RoundedRows { dtype: WeightType::Q8_0, .. }), "{error}");
    assert!(error.to_string().contains("'token_embd.weight' is stored as Q8_0"), "{error}");
    let error = refused(&with_random_rows(load(&fixture("t5")), &[3]));
    assert!(matches!(error, ExportError::SeveralEmbeddings { .. }), "{error}");
    assert!(error.to_string().contains("encoder.embed_tokens"), "{error}");
    let error = refused(&PeftModel::without_adapter(load(&fixture("llama_tied"))));
    assert!(matches!(error, ExportError::Peft(PeftError::NoneActive { .. })), "{error}");
    let mut config = LoraConfig { bias: "all".into(), ..LoraConfig::default() };
    config.trainable_token_indices = Some(TrainableTokenIndices::Tokens(vec![3]));
    let error = refused(&get_peft_model(load(&fixture("llama_tied")), config).expect("an adapter"));
    assert!(matches!(error, ExportError::Peft(PeftError::NotTrained { field: "bias", .. })), "{error}");
    assert!(file_names(top.path()).is_empty());
}
