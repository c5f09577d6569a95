//! Models that read images too: what is not of the text part stays byte for byte.

use super::*;

#[test]
fn the_vision_tower_stays_and_the_text_part_is_merged() {
    for (name, embedding) in [
        ("gemma3_images", "language_model.model.embed_tokens.weight"),
        ("llava", "language_model.model.embed_tokens.weight"),
        ("mistral3", "model.language_model.embed_tokens.weight"),
        ("qwen2_vl", "model.embed_tokens.weight"),
        ("qwen2_5_vl", "model.embed_tokens.weight"),
        ("qwen3_vl", "model.language_model.embed_tokens.weight"),
    ] {
        let mut base = load(&fixture(name));
        let rows = base.vocabulary() + 1;
        base.resize_token_embeddings(rows);
        let model = with_random_rows(base, &[5, rows as u32 - 1]);
        let (_top, folder) = merge(&model, MergeOptions::default());
        assert_same_logits(&model, &folder);
        let (before, after) = (model.base().checkpoint(), Checkpoint::open(&folder).expect("a checkpoint"));
        assert!(before.names().eq(after.names()), "{name}: no tensor comes or goes");
        for tensor in after.names() {
            let changed = tensor == embedding || tensor.ends_with("lm_head.weight");
            assert_eq!(
                after.stored_bytes(tensor) != before.stored_bytes(tensor),
                changed,
                "{name}: {tensor}"
            );
        }
        let config: Value =
            serde_json::from_slice(&fs::read(folder.join("config.json")).expect("a file")).expect("JSON");
        let text = config.get("text_config").unwrap_or(&config);
        assert_eq!(text["vocab_size"], rows, "{name}");
        assert!(config["vision_config"].is_object());
    }
}
