//! The memory that a header expects beside what the run took.

mod common;
use common::Work;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use toktune::weights::{TensorHeader, WeightsError, write_safetensors};

const VOCABULARY: usize = 3000;
const HIDDEN: usize = 256;
const INNER: usize = 768;
const BLOCKS: usize = 6;
/// Of each of 8 sequences: what a step keeps is far more than the program itself.
const LENGTH: usize = 256;

/// A workplace with an untrained Llama of some size in `big`, and rows in `rows.jsonl` that hold token 7 from the beginning.
fn work() -> Work {
    let work = Work::with("llama_untied");
    let mut config = work.read_json("model/config.json");
    for (key, value) in [
        ("vocab_size", VOCABULARY),
        ("hidden_size", HIDDEN),
        ("intermediate_size", INNER),
        ("num_hidden_layers", BLOCKS),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 4),
        ("head_dim", HIDDEN / 4),
        ("max_position_embeddings", 2 * LENGTH),
    ] {
        config[key] = value.into();
    }
    std::fs::create_dir(work.path("big")).expect("a folder");
    work.write("big/config.json", config.to_string());
    write(&work);
    let mut rows = String::new();
    for row in 0..16usize {
        let ids: Vec<usize> =
            (0..LENGTH).map(|at| [7, 10 + (row * 131 + at * 17) % 2900][at.min(1)]).collect();
        writeln!(rows, "{}", json!({ "input_ids": ids })).expect("written");
    }
    work.write("rows.jsonl", rows);
    work
}

fn write(work: &Work) {
    let mut shapes = vec![
        ("model.embed_tokens".to_string(), vec![VOCABULARY, HIDDEN]),
        ("lm_head".into(), vec![VOCABULARY, HIDDEN]),
        ("model.norm".into(), vec![HIDDEN]),
    ];
    for block in 0..BLOCKS {
        let of = |name: &str, shape: &[usize]| (format!("model.layers.{block}.{name}"), shape.to_vec());
        shapes.extend(["q", "k", "v", "o"].map(|n| of(&format!("self_attn.{n}_proj"), &[HIDDEN, HIDDEN])));
        shapes.extend(["gate", "up"].map(|n| of(&format!("mlp.{n}_proj"), &[INNER, HIDDEN])));
        shapes.push(of("mlp.down_proj", &[HIDDEN, INNER]));
        shapes.extend(["input", "post_attention"].map(|n| of(&format!("{n}_layernorm"), &[HIDDEN])));
    }
    let tensors: Vec<TensorHeader> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let bytes = 4 * shape.iter().product::<usize>() as u64;
            TensorHeader { name: format!("{name}.weight"), dtype: "F32".into(), shape, bytes }
        })
        .collect();
    let path = work.path("big/model.safetensors");
    write_safetensors(&path, &Map::new(), &tensors, |index, out| {
        let (count, is_norm) = (tensors[index].bytes / 4, tensors[index].shape.len() == 1);
        let mut state = index as u32 + 1;
        for _ in 0..count {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            out.put(&(if is_norm { 1.0 } else { 0.1 * random }).to_le_bytes())?;
        }
        Ok::<(), WeightsError>(())
    })
    .expect("written");
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_takes_what_the_header_expects() {
    let work = work();
    let lora = ["--lora-r", "8", "--lora-target-modules", "all-linear"];
    let budget = ["--memory-budget", "1MB"];
    for (what, more) in [
        ("rows", vec![]),
        ("rows, little kept", vec!["--memory-budget", "min"]),
        ("rows, nothing kept", budget.to_vec()),
        ("LoRA", lora.to_vec()),
        ("LoRA, little kept", [&lora[..], &["--memory-budget", "min"]].concat()),
        ("LoRA, nothing kept", [&lora[..], &budget].concat()),
        ("LoRA, everything kept", [&lora[..], &["--memory-budget", "4GB"]].concat()),
    ] {
        let usual =
            ["train", "--model", "big", "--data", "rows.jsonl", "--token-ids", "7", "--output", "out"];
        let steps = ["--max-steps", "1", "--batch-size", "8", "--log-format", "json", "--threads", "2"];
        let lines = work.call(&[&usual[..], &steps, &more].concat()).ok().json();
        let number =
            |key: &str| lines.iter().filter_map(|line| line.get(key)).filter_map(Value::as_f64).next_back();
        let expected = number("expected_memory_bytes").expect("what is expected");
        let found = number("peak_memory_bytes").expect("what was taken");
        let off = (expected - found) / found;
        assert!(off.abs() < 0.15, "{what}: {expected} expected, {found} taken: {off:.3} off");
        std::fs::remove_dir_all(work.path("out")).expect("removed");
    }
}
