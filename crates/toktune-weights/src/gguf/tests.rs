//! GGUF files, sound and unsound, built from bytes.

mod patches;

use super::*;
use crate::testing::{GgufBytes, Random, array, text};

fn read(bytes: Vec<u8>) -> Result<Gguf> {
    Gguf::from_bytes(Path::new("model.gguf"), Bytes::owned(bytes))
}

/// The error's message, which must name the file.
fn refused(bytes: Vec<u8>) -> (WeightsError, String) {
    let error = read(bytes).expect_err("not a sound file");
    let message = error.to_string();
    assert!(message.starts_with("model.gguf: "), "{message}");
    (error, message)
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

#[test]
fn both_versions_with_tensors_and_metadata_are_read() {
    for version in [2, 3] {
        let mut file = GgufBytes::new()
            .pair("general.architecture", 8, &text("llama"))
            .tensor("token_embd.weight", &[4, 3], 0, &floats(12))
            .tensor("norm.weight", &[4], 1, &[0, 0x3C, 0, 0x40, 0, 0, 0, 0xC0])
            .tensor("q", &[32, 2], 2, &[0; 36]);
        file.version = version;
        let gguf = read(file.build()).expect("a sound file");
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.metadata().require::<&str>("general.architecture").expect("a string"), "llama");
        let table = gguf.table();
        let names: Vec<&str> = table.tensors().iter().map(|tensor| &*tensor.name).collect();
        assert_eq!(names, ["token_embd.weight", "norm.weight", "q"]);
        let matrix =
            table.matrix("token_embd.weight", 3, 4, toktune_kernels::RowOrder::Plain).expect("a matrix");
        assert_eq!(matrix.decode_rows(1..2), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(table.vector("norm.weight", 4).expect("a vector"), [1.0, 2.0, 0.0, -2.0]);
        assert_eq!(table.get("q").expect("a tensor").dtype, Some(WeightType::Q4_0));
    }
}

#[test]
fn the_alignment_of_the_metadata_is_kept() {
    let file = GgufBytes::new().pair("general.alignment", 4, &64u32.to_le_bytes()).entry("w", &[1], 0, 64);
    let mut bytes = file.build();
    bytes.resize(bytes.len().next_multiple_of(64) + 64, 0);
    bytes.extend(5.0f32.to_le_bytes());
    assert_eq!(read(bytes).expect("a sound file").table().vector("w", 1).expect("a vector"), [5.0]);
    for alignment in [0u32, 48] {
        let file = GgufBytes::new().pair("general.alignment", 4, &alignment.to_le_bytes());
        let (error, message) = refused(file.build());
        assert!(
            matches!(error, WeightsError::GgufAlignment { found, .. } if found == u64::from(alignment)),
            "{message}"
        );
    }
    let (error, message) = refused(GgufBytes::new().entry("w", &[1], 0, 4).build());
    assert!(matches!(error, WeightsError::TensorAlignment { offset: 4, alignment: 32, .. }), "{message}");
}

#[test]
fn other_files_and_versions_are_named() {
    let (error, message) = refused(b"PK\x03\x04 and more".to_vec());
    assert!(matches!(error, WeightsError::GgufMagic { .. }) && message.contains("PK"), "{message}");
    // 0x03000000 is what version 3 of a big-endian file looks like
    for version in [1, 4, 0x0300_0000] {
        let mut file = GgufBytes::new();
        file.version = version;
        let (error, message) = refused(file.build());
        assert!(matches!(error, WeightsError::GgufVersion { found, .. } if found == version), "{message}");
    }
    let (error, message) = refused(GgufBytes::new().pair("split.count", 2, &5u16.to_le_bytes()).build());
    assert!(matches!(error, WeightsError::GgufSplit { parts: 5, .. }), "{message}");
    assert!(read(GgufBytes::new().pair("split.count", 2, &1u16.to_le_bytes()).build()).is_ok());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = GgufBytes::new()
        .pair("a", 8, &text("text"))
        .pair("b", 9, &array(4, 3, &[0; 12]))
        .tensor("w", &[8], 0, &floats(8))
        .build();
    assert!(read(bytes.clone()).is_ok());
    for length in 0..bytes.len() {
        let (error, message) = refused(bytes[..length].to_vec());
        assert!(
            matches!(error, WeightsError::Truncated { .. } | WeightsError::TensorOffsets { .. }),
            "{length}: {message}"
        );
    }
}

#[test]
fn counts_and_lengths_that_cannot_be_are_refused_before_allocating() {
    let file = GgufBytes::new().pair("a", 4, &[0; 4]);
    for count in [100, 1 << 40, u64::MAX] {
        for bytes in [
            file.build_with_counts(count, 1),
            file.build_with_counts(0, count),
            GgufBytes::new().pair("a", 9, &array(5, count, &[0; 4])).build_with_counts(count, 1),
            GgufBytes::new().pair("a", 9, &array(8, count, &[])).build_with_counts(0, 1),
            GgufBytes::new().pair("a", 9, &array(9, count, &[])).build_with_counts(0, 1),
            GgufBytes::new().pair("a", 9, &array(7, count << 8 | 255, &[0])).build(),
            GgufBytes::new().pair("a", 8, &(count << 8 | 255).to_le_bytes()).build(),
        ] {
            let (error, message) = refused(bytes);
            assert!(matches!(error, WeightsError::Truncated { .. }), "{message}");
        }
    }
    // the message says where
    let (_, message) = refused(GgufBytes::new().pair("general.name", 8, &u64::MAX.to_le_bytes()).build());
    assert!(message.contains("metadata 'general.name' needs 18446744073709551615 bytes"), "{message}");
}

#[test]
fn unsound_metadata_is_named() {
    let (error, message) = refused(GgufBytes::new().pair("a", 13, &[0; 8]).build());
    assert!(matches!(error, WeightsError::MetadataUnknownType { found: 13, .. }), "{message}");
    let (error, message) = refused(GgufBytes::new().pair("a", 9, &array(99, 1, &[0; 8])).build());
    assert!(matches!(error, WeightsError::MetadataUnknownType { found: 99, .. }), "{message}");
    let (error, message) = refused(GgufBytes::new().pair("a", 7, &[2]).build());
    assert!(matches!(error, WeightsError::MetadataBool { found: 2, .. }), "{message}");
    let (error, message) = refused(GgufBytes::new().pair("a", 7, &[1]).pair("a", 7, &[1]).build());
    assert!(matches!(error, WeightsError::DuplicateMetadata { .. }) && message.contains("'a'"), "{message}");
    let (error, message) = refused(GgufBytes::new().pair(b"\xFF\xFE", 7, &[1]).build());
    assert!(matches!(error, WeightsError::NotUtf8 { .. }) && message.contains("key 0"), "{message}");
}

#[test]
fn arrays_may_nest_but_not_without_end() {
    let nested = |depth: usize| (0..depth).fold(array(0, 1, &[7]), |inner, _| array(9, 1, &inner));
    let gguf = read(GgufBytes::new().pair("a", 9, &nested(2)).build()).expect("a sound file");
    let inner = Array::Array(vec![Array::Array(vec![Array::U8(vec![7])])]);
    assert_eq!(gguf.metadata().value("a"), Some(&Value::Array(inner)));
    assert!(read(GgufBytes::new().pair("a", 9, &nested(8)).build()).is_ok());
    for depth in [9, 100_000] {
        let (error, message) = refused(GgufBytes::new().pair("a", 9, &nested_flat(depth)).build());
        assert!(matches!(error, WeightsError::MetadataNesting { limit: 8, .. }), "{message}");
    }
}

/// `depth` headers of arrays of one array: what folding would take quadratic time for.
fn nested_flat(depth: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..depth).flat_map(|_| array(9, 1, &[])).collect();
    out.extend(array(0, 1, &[7]));
    out
}

#[test]
fn unsound_tensors_are_named() {
    let one = |dims: &[u64], id, offset| refused(GgufBytes::new().entry("blk.w", dims, id, offset).build());
    let (error, message) = one(&[1; 5], 0, 0);
    assert!(matches!(error, WeightsError::TensorDimensions { found: 5, limit: 4, .. }), "{message}");
    let (error, message) = one(&[1 << 40, 1 << 40], 0, 0);
    assert!(
        matches!(error, WeightsError::ShapeOverflow { .. }) && message.contains("1099511627776"),
        "{message}"
    );
    let (error, message) = one(&[1 << 63], 0, 0);
    assert!(matches!(error, WeightsError::ShapeOverflow { .. }), "{message}");
    let (error, message) = one(&[33, 2], 2, 0);
    assert!(
        matches!(error, WeightsError::TensorBlocks { cols: 33, .. }) && message.contains("Q4_0"),
        "{message}"
    );
    for (offset, dims) in [(0, 8), (1 << 62, 8), (u64::MAX - 31, 8), (0, 1 << 40)] {
        let (error, message) = one(&[dims], 0, offset);
        assert!(
            matches!(error, WeightsError::TensorOffsets { .. }) && message.contains("blk.w"),
            "{message}"
        );
    }
    let (error, message) = one(&[4], 77, 0);
    assert!(
        matches!(error, WeightsError::UnsupportedType { .. }) && message.contains("GGML type 77"),
        "{message}"
    );
    assert!(message.contains("blk.w") && message.contains("Q4_K"), "{message}");
}

#[test]
fn tensors_that_share_a_name_or_bytes_are_refused() {
    let twice = GgufBytes::new().tensor("w", &[8], 0, &floats(8)).tensor("w", &[8], 0, &floats(8));
    let (error, message) = refused(twice.build());
    assert!(matches!(error, WeightsError::DuplicateTensor { .. }), "{message}");
    let overlap = GgufBytes::new().tensor("first", &[16], 0, &floats(16)).entry("second", &[8], 0, 32);
    let (error, message) = refused(overlap.build());
    assert!(matches!(error, WeightsError::TensorOverlap { .. }), "{message}");
    assert!(message.contains("first") && message.contains("second"), "{message}");
}

#[test]
fn a_known_type_that_cannot_be_decoded_is_refused_when_it_is_asked_for() {
    for (id, name, dims, bytes) in
        [(40, "NVFP4", 64, 36), (15, "Q8_K", 256, 292), (9, "Q8_1", 32, 36), (31, "Q4_0_4_4", 32, 18)]
    {
        let file = GgufBytes::new().tensor("w", &[dims], id, &vec![0; bytes]);
        let gguf = read(file.build()).expect("a sound file");
        let tensor = gguf.table().get("w").expect("a tensor");
        assert_eq!((tensor.type_name.as_str(), tensor.dtype), (name, None));
        let message = gguf.table().vector("w", dims as usize).expect_err("not decodable").to_string();
        assert!(message.contains(name) && message.contains("Q6_K"), "{message}");
    }
}

#[test]
fn blocks_decode_as_the_gguf_package_decodes_them() {
    // made by tools/fixtures/make_gguf_types.py
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/gguf/types.gguf");
    let gguf = Gguf::open(&path).expect("a sound file");
    let mut blocks: Vec<WeightType> = WeightType::GGUF.to_vec();
    blocks.retain(|dtype| dtype.block_len() > 1);
    assert_eq!(gguf.table().tensors().len(), blocks.len());
    for dtype in blocks {
        let matrix = gguf.table().matrix(dtype.name(), 2, 512, toktune_kernels::RowOrder::Plain);
        let matrix = matrix.expect("a matrix of this type");
        assert_eq!(matrix.dtype(), dtype);
        let values = [matrix.decode_rows(0..1), matrix.decode_rows(1..2)].concat();
        // FNV-1a of 64 bits
        let bytes = values.iter().flat_map(|x| x.to_le_bytes());
        let hash = bytes.fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        assert_eq!(
            gguf.metadata().require::<u64>(&format!("expected.{dtype}")).expect("a hash"),
            hash,
            "{dtype}"
        );
    }
}

/// A part of a model of three tensors in three parts.
fn part(number: u16, count: u16, tensors: i32) -> Vec<u8> {
    let name = format!("w{number}");
    GgufBytes::new()
        .pair("split.no", 2, &number.to_le_bytes())
        .pair("split.count", 2, &count.to_le_bytes())
        .pair("split.tensors.count", 5, &tensors.to_le_bytes())
        .pair("number", 4, &u32::from(number).to_le_bytes())
        .tensor(&name, &[2], 0, &[number as u8; 8])
        .build()
}

#[test]
fn the_parts_of_a_model_are_opened_by_any_of_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |number: u16| folder.path().join(format!("m-{number:05}-of-00003.gguf"));
    let write = |number: u16, bytes: Vec<u8>| std::fs::write(path(number), bytes).expect("written");
    for number in 0..3 {
        write(number + 1, part(number, 3, 3));
    }
    let checkpoint = |path: &Path| crate::Checkpoint::open(path);
    for opened in [path(1), path(2), path(3), folder.path().to_path_buf()] {
        let checkpoint = checkpoint(&opened).expect("all parts");
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["w0", "w1", "w2"]);
        assert_eq!(checkpoint.file("w2"), Some(&*path(3)));
        let gguf = checkpoint.as_gguf().expect("a GGUF file");
        assert_eq!(gguf.metadata().require::<u32>("number").expect("a number"), 0);
    }
    let refused = |path: &Path, expected: &str| {
        let message = checkpoint(path).expect_err("unsound").to_string();
        assert!(message.contains(expected), "{message}");
    };
    for (number, count, tensors, expected) in [
        (1, 4, 3, "'split.count' is 4, and by the other parts of the model it is 3"),
        (2, 3, 3, "'split.no' is 2, and by the other parts of the model it is 1"),
        (0, 1, 3, "'split.count' is 1"),
    ] {
        write(2, part(number, count, tensors));
        refused(&path(1), expected);
    }
    write(2, part(1, 3, 3));
    write(1, part(0, 3, 4));
    refused(&path(1), "'split.tensors.count' is 3, and by the other parts of the model it is 4");
    write(2, b"GGUF".to_vec());
    refused(&path(1), "00002-of-00003.gguf: truncated");
    std::fs::remove_file(path(2)).expect("removed");
    refused(&path(3), "there is no");
    refused(&path(3), "m-00002-of-00003.gguf' beside it");
    let renamed = folder.path().join("model.gguf");
    std::fs::rename(path(3), &renamed).expect("renamed");
    refused(&renamed, "name-00001-of-00003.gguf");
    // two models in one folder are two
    std::fs::rename(renamed, folder.path().join("n-00001-of-00003.gguf")).expect("renamed");
    refused(folder.path(), "exactly one .gguf file");
}

#[test]
fn getters_say_what_is_wrong() {
    let file = GgufBytes::new()
        .pair("llama.block_count", 5, &30i32.to_le_bytes())
        .pair("negative", 5, &(-1i32).to_le_bytes())
        .pair("eps", 6, &1e-5f32.to_le_bytes())
        .pair("types", 9, &array(5, 2, &[1, 0, 0, 0, 3, 0, 0, 0]))
        .pair("tokens", 9, &array(8, 2, &[text("a"), text("bä")].concat()))
        .pair("stray", 8, &text(b"x\xFFy"));
    let gguf = read(file.build()).expect("a sound file");
    let metadata = gguf.metadata();
    assert_eq!(metadata.require::<usize>("llama.block_count").expect("an integer"), 30);
    assert_eq!(metadata.require::<i64>("negative").expect("an integer"), -1);
    assert_eq!(metadata.require::<f64>("eps").expect("a float") as f32, 1e-5);
    assert_eq!(metadata.require::<Vec<u32>>("types").expect("integers"), [1, 3]);
    assert_eq!(metadata.require::<&[String]>("tokens").expect("strings").len(), 2);
    assert_eq!(metadata.require::<&str>("stray").expect("a string"), "x\u{FFFD}y");
    assert_eq!(metadata.get::<u64>("none").expect("nothing wrong"), None);
    assert_eq!(metadata.iter().count(), 6);

    let error = metadata.require::<u64>("llama.blok_count").expect_err("no such key");
    assert!(error.to_string().contains("did you mean 'llama.block_count'?"), "{error}");
    for (key, found) in [("negative", "i32"), ("eps", "f32"), ("tokens", "an array of 2 strings")] {
        let error = metadata.get::<u64>(key).expect_err("no such integer");
        assert!(matches!(error, WeightsError::MetadataType { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains(&format!("'{key}' is {found}, expected an integer of at least 0")),
            "{message}"
        );
    }
}

/// A random value: its type's number, its bytes, and what should be read.
fn random_value(random: &mut Random, depth: usize) -> (u32, Vec<u8>, Value) {
    let id = random.below(if depth < 3 { 13 } else { 12 }) as u32;
    let id = if depth >= 3 && id >= 9 { id + 1 } else { id };
    match id {
        8 => {
            let value: String =
                (0..random.below(9)).map(|_| ['a', 'ä', '€', '🦀'][random.below(4)]).collect();
            (id, text(&value), Value::String(value))
        }
        9 => {
            let value = random_array(random, depth);
            (id, value.0, Value::Array(value.1))
        }
        _ => {
            let (bytes, value) = random_number(random, id);
            (id, bytes, value)
        }
    }
}

fn random_number(random: &mut Random, id: u32) -> (Vec<u8>, Value) {
    let bits = random.next() << 8 | random.next() & 255;
    // NaNs compare unequal to themselves, so floats come from integers.
    let float = bits as i32 as f64 / 1024.0;
    match id {
        0 => ((bits as u8).to_le_bytes().to_vec(), Value::U8(bits as u8)),
        1 => ((bits as i8).to_le_bytes().to_vec(), Value::I8(bits as i8)),
        2 => ((bits as u16).to_le_bytes().to_vec(), Value::U16(bits as u16)),
        3 => ((bits as i16).to_le_bytes().to_vec(), Value::I16(bits as i16)),
        4 => ((bits as u32).to_le_bytes().to_vec(), Value::U32(bits as u32)),
        5 => ((bits as i32).to_le_bytes().to_vec(), Value::I32(bits as i32)),
        6 => ((float as f32).to_le_bytes().to_vec(), Value::F32(float as f32)),
        7 => (vec![(bits & 1) as u8], Value::Bool(bits & 1 == 1)),
        10 => (bits.to_le_bytes().to_vec(), Value::U64(bits)),
        11 => ((bits as i64).to_le_bytes().to_vec(), Value::I64(bits as i64)),
        _ => (float.to_le_bytes().to_vec(), Value::F64(float)),
    }
}

fn random_array(random: &mut Random, depth: usize) -> (Vec<u8>, Array) {
    let count = random.below(5);
    let mut bytes = Vec::new();
    let array_of = |bytes: &[u8], id, value| (array(id, count as u64, bytes), value);
    macro_rules! numbers {
        ($id:literal, $name:ident) => {{
            let mut values = Vec::new();
            for _ in 0..count {
                let (stored, value) = random_number(random, $id);
                bytes.extend(stored);
                let Value::$name(value) = value else { unreachable!("the type asked for") };
                values.push(value);
            }
            array_of(&bytes, $id, Array::$name(values))
        }};
    }
    match random.below(if depth < 3 { 7 } else { 6 }) {
        0 => numbers!(0, U8),
        1 => numbers!(3, I16),
        2 => numbers!(6, F32),
        3 => numbers!(7, Bool),
        4 => numbers!(11, I64),
        5 => {
            let values: Vec<String> =
                (0..count).map(|i| format!("token {i} {}", random.below(1000))).collect();
            array_of(&values.iter().flat_map(text).collect::<Vec<u8>>(), 8, Array::String(values))
        }
        _ => {
            let (stored, values): (Vec<_>, Vec<_>) =
                (0..count).map(|_| random_array(random, depth + 1)).unzip();
            array_of(&stored.concat(), 9, Array::Array(values))
        }
    }
}

#[test]
fn random_metadata_come_back_as_they_were_written() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut file = GgufBytes::new();
        let mut expected = Vec::new();
        for i in 0..random.below(12) {
            let (id, bytes, value) = random_value(&mut random, 0);
            file = file.pair(format!("key.{i}"), id, &bytes);
            expected.push((format!("key.{i}"), value));
        }
        let gguf = read(file.build()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found: Vec<_> =
            gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}
