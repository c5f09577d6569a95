//! Files of torch and files made by hand, sound and unsound.

use super::*;
use crate::testing::{TorchFile, zip};

fn read(bytes: Vec<u8>) -> Result<Pytorch> {
    Pytorch::from_bytes(Path::new("m.bin"), Bytes::owned(bytes))
}

fn refused(bytes: Vec<u8>) -> String {
    read(bytes).expect_err("unsound").to_string()
}

fn written(name: &str) -> Pytorch {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/torch");
    Pytorch::open(&folder.join(name)).expect("a file that torch wrote")
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn what_torch_writes_is_read() {
    // made by tools/fixtures/make_torch_files.py
    for name in ["model.bin", "legacy.bin"] {
        check_written(&written(name));
    }
    let state = written("protocol4.bin");
    assert_eq!(state.table().vector("bias", 1).expect("a vector"), [0.0]);
    assert_eq!(state.table().tensors().len(), 2);
}

fn check_written(file: &Pytorch) {
    let table = file.table();
    let matrix = |name: &str, rows, cols| {
        let matrix = table.matrix(name, rows, cols, toktune_kernels::RowOrder::Plain).expect(name);
        matrix.decode_rows(0..rows)
    };
    assert_eq!(matrix("base", 2, 3), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(matrix("transposed", 3, 2), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(table.vector("row", 3).expect("a view"), [3.0, 4.0, 5.0]);
    assert_eq!(table.vector("half", 2).expect("f16"), [1.5, -2.0]);
    assert_eq!(table.vector("bfloat", 2).expect("bf16"), [1.5, -2.0]);
    assert_eq!(table.vector("parameter", 1).expect("a parameter"), [7.0]);
    assert!(matrix("empty", 0, 3).is_empty());
    let get = |name: &str| table.get(name).expect(name);
    assert_eq!(get("tied").bytes.as_ptr(), get("base").bytes.as_ptr(), "tied weights are mapped once");
    assert!(get("scalar").shape.is_empty() && get("scalar").bytes.len() == 4);
    for (name, shape, kind) in [
        ("position_ids", vec![2], "I64"),
        ("float8", vec![2], "float8_e4m3fn"),
        ("every_second", vec![2, 2], "F32 with the strides [3, 2]"),
    ] {
        assert_eq!((&get(name).shape, get(name).type_name.as_str()), (&shape, kind));
        let error = match shape.as_slice() {
            [len] => table.vector(name, *len).map(drop),
            _ => table.matrix(name, 2, 2, toktune_kernels::RowOrder::Plain).map(drop),
        };
        let error = error.expect_err("cannot be used").to_string();
        assert!(
            error.contains(&format!("'{name}' is stored as {kind}; supported are F32, F16, BF16")),
            "{error}"
        );
    }
    assert!(table.get("step").is_none(), "a number is no tensor");
}

#[test]
fn a_tensor_must_lie_in_its_storage() {
    let with = |offset, shape: &[u64], strides: &[u64]| {
        TorchFile::new()
            .storage(&f32s(&[1.0; 6]))
            .tensor("w", "FloatStorage", 0, offset, shape, strides)
            .build()
    };
    read(with(0, &[2, 3], &[3, 1])).expect("all of it");
    read(with(2, &[2, 2], &[2, 1])).expect("the end of it");
    read(with(6, &[0, 5], &[5, 1])).expect("nothing");
    read(with(0, &[1, 6], &[99, 1])).expect("a stride that is never taken");
    for (offset, shape, strides) in
        [(1, [2, 3], [3, 1]), (0, [3, 3], [3, 1]), (0, [2, 3], [4, 1]), (1 << 60, [2, 3], [3, 1])]
    {
        let error = read(with(offset, &shape, &strides)).expect_err("outside");
        assert!(matches!(error, WeightsError::TensorOffsets { available: 24, .. }), "{error}");
    }
    let half = u64::MAX / 2;
    for (offset, shape, strides) in
        [(half, [2, 3], [3, 1]), (0, [half, 3], [3, 1]), (0, [2, 3], [half, 1]), (0, [1, 3], [1, half])]
    {
        let error = read(with(offset, &shape, &strides)).expect_err("an overflow");
        assert!(matches!(error, WeightsError::ShapeOverflow { .. }), "{error}");
    }
    let error = read(with(0, &[1; 17], &[1; 17])).expect_err("too many");
    assert!(matches!(error, WeightsError::TensorDimensions { found: 17, limit: 16, .. }), "{error}");
    let missing = TorchFile::new().tensor("w", "FloatStorage", 0, 0, &[1], &[1]).build();
    assert!(refused(missing).ends_with("'m/data/0', the storage of 'w', is missing"));
    let twice = TorchFile::new().f32("w", &[1], &[0.0]).f32("w", &[1], &[0.0]).build();
    assert!(refused(twice).ends_with("tensor 'w' is listed twice"));
}

#[test]
fn transposed_tensors_cannot_fill_the_memory() {
    let values: Vec<f32> = (0..70 * 40).map(|x| x as f32).collect();
    let file = TorchFile::new().storage(&f32s(&values));
    let file = file.tensor("t", "FloatStorage", 0, 0, &[40, 70], &[1, 40]).build();
    let file = read(file).expect("one");
    let matrix = file.table().matrix("t", 40, 70, toktune_kernels::RowOrder::Plain).expect("a matrix");
    let expected: Vec<f32> = (0..70).map(|col| (col * 40 + 33) as f32).collect();
    assert_eq!(matrix.decode_rows(33..34), expected);
    let many = (0..40).fold(TorchFile::new().storage(&f32s(&values)), |file, i| {
        file.tensor(&format!("t{i}"), "FloatStorage", 0, 0, &[40, 70], &[1, 40])
    });
    assert!(refused(many.build()).contains("take more memory than the file"));
}

#[test]
fn other_files_are_told_apart() {
    for (bytes, found) in [(&b"\x80\x02K\x01."[..], "\\x80\\x02K\\x01"), (b"", ""), (b"GGUF", "GGUF")] {
        let message = refused(bytes.to_vec());
        assert!(message.contains(&format!("begins with '{found}'")), "{message}");
    }
    let mut tar = vec![0; 512];
    tar[..8].copy_from_slice(b"storages");
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refused(tar).contains("a tar archive, as torch wrote before 0.1.10"));
    let entry = |name: &str| (name.to_owned(), vec![]);
    let cases = [
        (zip(&[entry("x")], 0), "it holds no 'data.pkl'"),
        (zip(&[entry("a/data.pkl"), entry("b/data.pkl")], 0), "more than one 'data.pkl'"),
        (zip(&[entry("a"), entry("a")], 0), "'a' is there twice"),
        (b"PK\x03\x04".to_vec(), "the directory at the end is missing"),
        (TorchFile { method: 8, ..TorchFile::new() }.build(), "'m/byteorder' is compressed"),
        (TorchFile::new().build(), "its dictionary holds no tensors but nothing"),
        (
            TorchFile::new().value("epoch", b"K\x01").value("model", b"}").build(),
            "epoch (1), model (a dictionary)",
        ),
        (
            TorchFile::new().value("w", b"cos\nsystem\n)R").build(),
            "'w' is a call of os.system, which is not read",
        ),
    ];
    for (bytes, expected) in cases {
        let message = refused(bytes);
        assert!(message.starts_with("m.bin: ") && message.contains(expected), "{message}");
    }
    let mut big = TorchFile::new().f32("w", &[1], &[0.0]);
    big.files[0].1 = b"big".to_vec();
    assert!(refused(big.build()).contains("its numbers are big-endian"));
    let sound = TorchFile::new().f32("w", &[1], &[0.0]).build();
    assert!(refused(sound[..sound.len() - 30].to_vec()).contains("directory"));
}

#[test]
fn a_program_that_does_something_else_is_refused_where_it_does() {
    let cases: [(&[u8], &str); 12] = [
        (b"", "byte 0: 1 bytes are needed, 0 are left"),
        (b"\x80\x02.", "byte 2: the stack is empty"),
        (b"i", "byte 0: instruction 0x69"),
        (b"X\xff\xff\xff\xffa", "byte 0: 4294967295 bytes are needed, 1 are left"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa", "byte 0: 18446744073709551615 bytes are needed"),
        (b"X\x01\0\0\0\xff", "not valid UTF-8"),
        (b"K\x01\x86", "byte 2: the stack is empty"),
        (b"K\x01(\x85", "byte 3: the stack is empty"),
        (b"u", "there is no mark"),
        (b"}(K\x01u", "a key without a value"),
        (b"h\x00", "value 0 was not remembered"),
        (b"cos\nsystem", "a line without an end"),
    ];
    for (program, expected) in cases {
        let message = refused(TorchFile::new().build_with(program));
        assert!(message.contains(expected), "{message}");
    }
    assert!(refused(TorchFile::new().build_with(b"K\x01.")).contains("something else than a dictionary"));
    // each step would double what candle's reader holds
    let doubling = [&b"]q\0"[..], &b"h\0h\0\x86q\0".repeat(1000), b"."].concat();
    assert!(refused(TorchFile::new().build_with(&doubling)).contains("something else than a dictionary"));
    // nested so deep that dropping it by recursion would end the process
    let deep = [&b")"[..], &b"\x85".repeat(1 << 20), b"."].concat();
    assert!(refused(TorchFile::new().build_with(&deep)).contains("something else than a dictionary"));
    let error = read(TorchFile::new().build_with(&vec![b'N'; (1 << 24) + 1])).expect_err("too long");
    assert!(matches!(error, WeightsError::HeaderTooLarge { .. }), "{error}");
}

/// A stream of before torch 1.6 whose dictionary has this program.
fn stream(program: &[u8], keys: &[u8], storages: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out =
        b"\x80\x02\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    out.extend(program);
    out.extend(keys);
    for (count, bytes) in storages {
        out.extend(count.to_le_bytes());
        out.extend(*bytes);
    }
    out
}

/// As Python 2 and torch 0.3 wrote a dictionary of one vector of two entries, in a part of a storage.
const PYTHON_2: &[u8] = b"\x80\x02ccollections\nOrderedDict\n]](U\x01wctorch._utils\n_rebuild_tensor\n\
    ((U\x07storagectorch\nFloatStorage\nU\x0212U\x03cpuK\x04(U\x0299K\x01K\x03ttQK\x01\x8a\x01\x02\x85K\x01\x85tRea\x85R.";

#[test]
fn streams_of_earlier_torches_are_read() {
    let numbers = f32s(&[1.0, 2.0, 3.0, 4.0]);
    let file = read(stream(PYTHON_2, b"\x80\x02]U\x0212a.", &[(4, &numbers)])).expect("sound");
    // it begins at entry 1 of the part, which begins at entry 1
    assert_eq!(file.table().vector("w", 2).expect("a vector"), [3.0, 4.0]);
    let file = TorchFile::new().f32("a", &[2], &[1.0, 2.0]).storage(&[0, 0x3C]);
    let file = read(file.tensor("b", "HalfStorage", 1, 0, &[1], &[1]).build_stream(&[4, 2])).expect("sound");
    assert_eq!(file.table().vector("a", 2).expect("a vector"), [1.0, 2.0]);
    assert_eq!(file.table().vector("b", 1).expect("a vector"), [1.0]);
}

#[test]
fn unsound_streams_are_refused() {
    let (keys, numbers) = (&b"\x80\x02]U\x0212a."[..], f32s(&[1.0; 4]));
    let cases: [(Vec<u8>, &str); 9] = [
        (stream(PYTHON_2, keys, &[]), "storage '12' needs 8 bytes, 0 are left"),
        (stream(PYTHON_2, keys, &[(4, &numbers[1..])]), "storage '12' needs 24 bytes, 23 are left"),
        (stream(PYTHON_2, keys, &[(u64::MAX, &numbers)]), "storage '12' needs 18446744073709551615 bytes"),
        (stream(PYTHON_2, keys, &[(3, &numbers)]), "is said to lie at bytes 8..16 of 12"),
        (stream(PYTHON_2, b"\x80\x02].", &[]), "'12', the storage of 'w', is missing"),
        (stream(PYTHON_2, b"\x80\x02]U\x0213a.", &[]), "storage '13' belongs to no tensor"),
        (stream(PYTHON_2, b"\x80\x02}.", &[]), "there is no list of storages"),
        (
            stream(PYTHON_2, b"\x80\x02](U\x0212U\x0212e.", &[(0, b""), (0, b"")]),
            "storage '12' is there twice",
        ),
        (stream(b"\x80\x02K\x01.", b"\x80\x02].", &[]), "something else than a dictionary"),
    ];
    for (bytes, expected) in cases {
        let message = refused(bytes);
        assert!(message.starts_with("m.bin: ") && message.contains(expected), "{message}");
    }
    let sound = stream(PYTHON_2, keys, &[(4, &numbers)]);
    let swapped = |from: &[u8], to: &[u8]| {
        let at = sound.windows(from.len()).position(|window| window == from).expect("there");
        [&sound[..at], to, &sound[at + from.len()..]].concat()
    };
    let big = swapped(b"}.", b"}U\x0dlittle_endian\x89s.");
    assert!(refused(big).contains("big-endian"));
    assert!(refused(swapped(b"M\xe9\x03", b"M\xe8\x03")).contains("another version than 1001"));
    assert!(refused(swapped(b"FloatStorage", b"OtherStorage")).contains("a OtherStorage, which is not read"));
    for length in 0..sound.len() {
        refused(sound[..length].to_vec());
    }
}
