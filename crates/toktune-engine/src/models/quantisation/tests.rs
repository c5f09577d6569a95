//! Folders of quantised weights: what is read, and what is refused by its name.

use super::super::AutoModel;
use crate::EngineError;
use crate::models::Device;
use crate::models::PretrainedModel;
use crate::models::testing::scaled::{WEIGHT, folder, fp8, to_fp8};
use serde_json::{Value, json};
use std::path::Path;
use toktune_weights::{Checkpoint, RowOrder, WeightsError};

fn open(folder: &Path) -> crate::error::Result<PretrainedModel> {
    AutoModel::from_pretrained(folder, &Device::Cpu)
}

/// The decoded rows of the layer.
fn rows(model: &PretrainedModel) -> (Vec<f32>, usize, usize) {
    let layers = model.runner().linears();
    let weight = layers.iter().map(|linear| linear.weight).find(|w| w.name() == WEIGHT).expect("the layer");
    (weight.decode_rows(0..weight.rows()), weight.rows(), weight.cols())
}

/// The blocks that a configuration names; ending, shape and type of the scales; the blocks that are meant.
type Scaled<'a> = (Value, &'a str, &'a [usize], &'static str, [usize; 2]);

#[test]
fn eight_bit_floats_are_read_with_their_scales() {
    // the layer has 56 rows of 32; blocks at the ends may be cut off
    let cases: [Scaled<'_>; 7] = [
        (json!([16, 16]), "_scale_inv", &[4, 2], "F32", [16, 16]),
        (json!([24, 20]), "_scale_inv", &[3, 2], "BF16", [24, 20]),
        (json!([128, 128]), "_scale_inv", &[1, 1], "F32", [128, 128]),
        // by the shape, where the blocks are others than was said
        (json!([128, 128]), "_scale_inv", &[4, 2], "U8", [14, 16]),
        (Value::Null, "_scale", &[], "F32", [56, 32]),
        (Value::Null, "_scale", &[56, 1], "F32", [1, 32]),
        (Value::Null, "_scale_inv", &[56], "F32", [1, 32]),
    ];
    for (said, ending, scales, kind, [height, width]) in cases {
        let folder = folder(fp8(said), |entries| to_fp8(entries, ending, scales, kind));
        let model = open(folder.path()).expect("a model");
        let (found, down, across) = rows(&model);
        assert_eq!((down, across), (56, 32));
        let scale = |at: usize| match kind {
            "U8" => 2f32.powi(at as i32 - 6),
            _ => (at as f32 + 1.0) / 64.0,
        };
        for (i, found) in found.iter().enumerate() {
            let at = i / 32 / height * 32usize.div_ceil(width) + i % 32 / width;
            let expected = scale(at) * if i % 2 == 0 { 1.0 } else { 2.0 };
            assert_eq!(*found, expected, "{scales:?} {i}");
        }
    }
    // the configuration does not say
    let folder = folder(None, |entries| to_fp8(entries, "_scale_inv", &[1, 1], "F32"));
    assert_eq!(rows(&open(folder.path()).expect("a model")).0[..2], [1.0 / 64.0, 2.0 / 64.0]);
}

#[test]
fn scales_that_do_not_fit_are_told() {
    let refused = |block: Value, scales: &[usize], ending: &str| {
        let folder = folder(fp8(block), |entries| to_fp8(entries, ending, scales, "F32"));
        open(folder.path()).expect_err("unsound").to_string()
    };
    let message = refused(json!([16, 16]), &[5, 2], "_scale_inv");
    assert!(message.contains("weight_scale_inv' has shape [5, 2], expected [4, 2]"), "{message}");
    let message = refused(json!([16, 16]), &[0, 2], "_scale_inv");
    assert!(message.contains("has shape [0, 2]"), "{message}");
    let message = refused(json!([16, 16]), &[1, 1, 1], "_scale_inv");
    assert!(message.contains("has shape [1, 1, 1]"), "{message}");
    let message = refused(json!([16, 16]), &[4, 2], "_other");
    assert!(
        message.contains("there is no tensor 'model.layers.0.mlp.up_proj.weight_scale_inv'"),
        "{message}"
    );
    for block in [json!([16]), json!([0, 16]), json!([16, 16, 16]), json!("16")] {
        let message = refused(block, &[4, 2], "_scale_inv");
        assert!(message.contains("weight_block_size: expected two sizes"), "{message}");
    }
}

#[test]
fn other_methods_are_refused_by_their_names() {
    let configured: [(&str, Value, &str); 10] = [
        (
            "quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "bitsandbytes, 4 bits",
        ),
        ("quantization_config", json!({"load_in_8bit": true}), "bitsandbytes, 8 bits"),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "gptq, 4 bits"),
        ("quantization_config", json!({"quant_method": "awq", "w_bit": 4}), "awq, 4 bits"),
        ("quantization_config", json!({"quant_method": "compressed-tensors"}), "compressed-tensors"),
        ("quantization_config", json!({"quant_method": "from-the-future"}), "from-the-future"),
        ("quantization_config", json!({"what": 1}), "a method without a name"),
        ("compression_config", json!({"format": "pack-quantized"}), "compressed-tensors"),
        ("quantization", json!({"group_size": 64, "bits": 4}), "MLX, 4 bits"),
        ("text_config", json!({"quantization_config": {"quant_method": "hqq"}}), "hqq"),
    ];
    for (field, value, named) in configured {
        let folder = folder(Some((field, value)), |entries| {
            // as bitsandbytes and others pack it
            let entry = entries.iter_mut().find(|entry| entry.0 == WEIGHT).expect("there");
            (entry.1, entry.2, entry.3) = ("U8", vec![1024, 1], vec![0; 1024]);
        });
        let error = open(folder.path()).expect_err("quantised");
        let message = error.to_string();
        assert!(matches!(error, EngineError::Weights(WeightsError::Quantised { .. })), "{message}");
        assert!(message.contains(&format!("quantised by {named} (")), "{message}");
        // even where the files cannot be read at all
        std::fs::write(folder.path().join("model.safetensors"), b"packed").expect("written");
        assert!(open(folder.path()).expect_err("quantised").to_string().contains(named));
        let gguf = folder.path().join("model.gguf");
        std::fs::write(&gguf, b"none").expect("written");
        assert!(open(&gguf).expect_err("no GGUF file").to_string().contains("not a GGUF file"));
    }
    let empty = folder(Some(("quantization_config", json!({}))), |_| {});
    open(empty.path()).expect("nothing said");
}

#[test]
fn other_methods_are_known_by_their_tensors() {
    for (endings, named) in super::ENDINGS {
        let folder = folder(None, |entries| {
            let layer = WEIGHT.trim_end_matches(".weight");
            entries.retain(|entry| entry.0 != WEIGHT);
            let packed = endings.iter().map(|ending| (format!("{layer}{ending}"), "I8", vec![2], vec![0; 2]));
            entries.extend(packed);
        });
        let message = open(folder.path()).expect_err("quantised").to_string();
        assert!(message.contains(&format!("quantised by {named} (tensor '")), "{endings:?}: {message}");
    }
}

#[test]
fn scales_without_a_method_are_nobodys() {
    let folder = folder(None, |entries| to_fp8(entries, "_other", &[1, 1], "F32"));
    let message = open(folder.path()).expect_err("no scales").to_string();
    assert!(message.contains("is stored as F8_E4M3"), "{message}");
    let stored = Checkpoint::open(folder.path()).expect("a checkpoint");
    assert!(stored.matrix(WEIGHT, 56, 32, RowOrder::Plain).is_err());
}
