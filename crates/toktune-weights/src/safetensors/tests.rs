//! Safetensors files and indexes, sound and unsound, built from bytes.

use super::*;
use crate::testing::{safetensors, safetensors_f32};
use std::fs;
use toktune_kernels::RowOrder;

fn read(bytes: Vec<u8>) -> Result<Safetensors> {
    Safetensors::from_bytes(Path::new("m.safetensors"), Bytes::owned(bytes))
}

/// The error and its message, which must name the file.
fn refused(bytes: Vec<u8>) -> (WeightsError, String) {
    let error = read(bytes).expect_err("not a sound file");
    let message = error.to_string();
    assert!(message.starts_with("m.safetensors: "), "{message}");
    (error, message)
}

/// One tensor's entry of a header.
fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

#[test]
fn a_sound_file_is_read_in_the_order_of_its_data() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{},{}}}  "#,
        entry("norm", "BF16", "[2]", 8, 12),
        entry("embed", "F16", "[2,2]", 0, 8),
        entry("ids", "I64", "[1]", 12, 20),
        entry("empty", "F32", "[0,7]", 12, 12),
    );
    let data = [0, 0x3C, 0, 0x40, 0, 0x42, 0, 0x44, 0x80, 0x3F, 0, 0x40, 1, 0, 0, 0, 0, 0, 0, 0];
    let file = read(safetensors(&header, &data)).expect("a sound file");
    let names: Vec<&str> = file.table().tensors().iter().map(|tensor| &*tensor.name).collect();
    assert_eq!(names, ["embed", "norm", "empty", "ids"]);
    let matrix = file.table().matrix("embed", 2, 2, RowOrder::Plain).expect("a matrix");
    assert_eq!((matrix.dtype(), matrix.decode_rows(0..2)), (WeightType::F16, vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!(file.table().vector("norm", 2).expect("a vector"), [1.0, 2.0]);
    assert_eq!(file.table().matrix("empty", 0, 7, RowOrder::Plain).expect("a matrix").rows(), 0);
    let message = file.table().vector("ids", 1).expect_err("not decodable").to_string();
    assert!(message.contains("'ids' is stored as I64; supported are F32, F16, BF16"), "{message}");
}

#[test]
fn headers_that_lie_about_their_length_are_refused() {
    let sound = safetensors_f32(&[("w", &[2], &[1.0, 2.0])]);
    let header_end = sound.len() - 8;
    for length in 0..header_end {
        let (error, message) = refused(sound[..length].to_vec());
        assert!(matches!(error, WeightsError::Truncated { .. }), "{length}: {message}");
    }
    for length in [100_000_001, u64::MAX] {
        let mut bytes = sound.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        let (error, message) = refused(bytes);
        assert!(matches!(error, WeightsError::HeaderTooLarge { found, .. } if found == length), "{message}");
    }
    let mut bytes = sound.clone();
    bytes[..8].copy_from_slice(&100_000_000u64.to_le_bytes());
    let (error, message) = refused(bytes);
    assert!(matches!(error, WeightsError::Truncated { needed: 100_000_000, .. }), "{message}");
}

#[test]
fn headers_of_another_form_are_refused() {
    let whole = entry("w", "F32", "[1]", 0, 4);
    for header in [
        "",
        "[]",
        "{",
        "\u{0}",
        r#"{"w":1}"#,
        r#"{"w":{"dtype":"F32","shape":[1]}}"#,
        r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999999]}}"#,
        &format!("{{{whole}}} and more"),
        &"[".repeat(100_000),
    ] {
        let (error, message) = refused(safetensors(header, &[0; 4]));
        assert!(matches!(error, WeightsError::Json { .. }), "{header:.60}: {message}");
    }
}

#[test]
fn offsets_that_lie_are_refused() {
    let one = |shape: &str, start, end| {
        let header = format!("{{{}}}", entry("blk.w", "F32", shape, start, end));
        refused(safetensors(&header, &[0; 16]))
    };
    for (start, end) in [(0, 20), (8, 4), (16, 32), (u64::MAX - 3, u64::MAX)] {
        let (error, message) = one("[1]", start, end);
        assert!(matches!(error, WeightsError::TensorOffsets { available: 16, .. }), "{message}");
        assert!(message.contains("blk.w"), "{message}");
    }
    let (error, message) = one("[3]", 0, 16);
    assert!(matches!(error, WeightsError::TensorSize { found: 16, .. }), "{message}");
    for shape in ["[4611686018427387904,4]", "[9223372036854775807,3]", "[4294967296,4294967296,0]"] {
        let (error, message) = one(shape, 0, 16);
        assert!(matches!(error, WeightsError::ShapeOverflow { .. }), "{message}");
    }
    for (start, end, unused) in [(4, 16, "0..4"), (0, 12, "12..16")] {
        let (error, message) = one("[3]", start, end);
        assert!(matches!(error, WeightsError::UnusedBytes { .. }) && message.contains(unused), "{message}");
    }
}

#[test]
fn tensors_that_share_bytes_or_a_name_are_refused() {
    let both = |a: String, b: String| refused(safetensors(&format!("{{{a},{b}}}"), &[0; 16]));
    let (error, message) = both(entry("second", "F32", "[3]", 4, 16), entry("first", "F32", "[2]", 0, 8));
    assert!(matches!(error, WeightsError::TensorOverlap { .. }), "{message}");
    assert!(message.contains("'second' and 'first'"), "{message}");
    for second in [entry("w", "F32", "[4]", 0, 16), entry("w", "F32", "[2]", 8, 16)] {
        let (error, message) = both(entry("w", "F32", "[2]", 0, 8), second);
        assert!(
            matches!(error, WeightsError::DuplicateTensor { .. }) && message.contains("'w'"),
            "{message}"
        );
    }
}

#[test]
fn a_type_nobody_knows_is_named() {
    let (error, message) = refused(safetensors(&format!("{{{}}}", entry("w", "F13", "[1]", 0, 4)), &[0; 4]));
    assert!(matches!(error, WeightsError::UnsupportedType { .. }), "{message}");
    assert!(message.contains("F13") && message.contains("F32, F16, BF16"), "{message}");
}

/// A folder with two shards and this index.
fn sharded(index: &str) -> (tempfile::TempDir, Result<Safetensors>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write =
        |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a written file");
    write("one.safetensors", &safetensors_f32(&[("a", &[1], &[1.0]), ("spare", &[1], &[9.0])]));
    write("two.safetensors", &safetensors_f32(&[("b", &[1], &[2.0])]));
    write("model.safetensors.index.json", index.as_bytes());
    let result = Safetensors::open_index(&folder.path().join("model.safetensors.index.json"));
    (folder, result)
}

#[test]
fn an_index_joins_its_files() {
    let index = r#"{"metadata":{"total_size":8},"weight_map":{"b":"two.safetensors","a":"one.safetensors"}}"#;
    let (_folder, file) = sharded(index);
    let file = file.expect("a sound checkpoint");
    let names: Vec<&str> = file.table().tensors().iter().map(|tensor| &*tensor.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(file.table().vector("b", 1).expect("a vector"), [2.0]);
    let message = file.table().vector("a", 2).expect_err("another length").to_string();
    assert!(message.contains("one.safetensors: tensor 'a' has shape [1], expected [2]"), "{message}");
}

#[test]
fn an_index_may_not_name_files_elsewhere() {
    for file in
        ["/etc/passwd", "../one.safetensors", "sub/../../one.safetensors", ".", "", "./one.safetensors"]
    {
        let (_folder, result) = sharded(&format!(r#"{{"weight_map":{{"a":"{file}"}}}}"#));
        let error = result.expect_err("outside");
        assert!(matches!(error, WeightsError::ShardOutside { .. }), "{file}: {error}");
        assert!(error.to_string().contains("index.json") && error.to_string().contains("'a'"), "{error}");
    }
}

#[test]
fn an_index_that_names_what_is_not_there_is_refused() {
    let (_folder, result) = sharded(r#"{"weight_map":{"a":"three.safetensors"}}"#);
    let error = result.expect_err("no such file");
    assert!(matches!(error, WeightsError::MissingShard { .. }), "{error}");
    assert!(error.to_string().contains("three.safetensors"), "{error}");
    let (_folder, result) = sharded(r#"{"weight_map":{"a":"two.safetensors"}}"#);
    let error = result.expect_err("no such tensor");
    assert!(
        matches!(error, WeightsError::MissingInShard { .. }) && error.to_string().contains("'a'"),
        "{error}"
    );
    let (_folder, result) = sharded(r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#);
    let error = result.expect_err("listed twice");
    assert!(matches!(error, WeightsError::DuplicateTensor { .. }), "{error}");
    for index in ["", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#] {
        let (_folder, result) = sharded(index);
        let error = result.expect_err("not an index");
        assert!(matches!(error, WeightsError::Json { .. }), "{index}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn a_shard_may_be_a_link_as_in_the_hub_cache() {
    let (folder, _) = sharded("{}");
    let blob = folder.path().join("blob");
    fs::rename(folder.path().join("two.safetensors"), &blob).expect("a renamed file");
    std::os::unix::fs::symlink(&blob, folder.path().join("two.safetensors")).expect("a link");
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map":{"b":"two.safetensors"}}"#).expect("a written file");
    assert_eq!(Safetensors::open_index(&index).expect("a sound checkpoint").table().tensors().len(), 1);
}
