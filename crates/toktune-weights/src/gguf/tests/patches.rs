//! Copies of files with something changed, and new files.

use super::*;
use crate::{TensorHeader, write_atomically};
use std::collections::BTreeMap;
use std::fs;

/// A file with bytes of its own between tensors and behind them, text that is no text, and keys of every kind.
fn source(alignment: u32) -> Vec<u8> {
    let words = [text("a"), text(b"\xff\xfe"), text("c")].concat();
    let nested = [array(5, 1, &7i32.to_le_bytes()), array(8, 1, &text("x"))].concat();
    let mut file = GgufBytes::new()
        .pair("general.architecture", 8, &text("llama"))
        .pair("words", 9, &array(8, 3, &words))
        .pair("scores", 9, &array(6, 3, &floats(3)))
        .pair("kinds", 9, &array(5, 3, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]))
        .pair("bytes", 9, &array(0, 3, &[1, 2, 3]))
        .pair("nested", 9, &array(9, 2, &nested))
        .pair("llama.vocab_size", 4, &3u32.to_le_bytes())
        .pair("general.alignment", 4, &alignment.to_le_bytes());
    let step = u64::from(alignment);
    // the table's order is not that of the data
    file = file
        .entry("head", &[2, 3], 0, 2 * step)
        .entry("first", &[5], 24, 0)
        .entry("rows", &[32, 3], 8, step)
        .entry("bias", &[3], 0, 5 * step);
    let mut bytes = file.build();
    bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
    let data = bytes.len();
    bytes.extend((0..6 * step).map(|i| (i % 251) as u8));
    assert!(data > 200 && step >= 102);
    bytes
}

fn patched(source: &[u8], patch: &GgufPatch) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let [from, to] = ["from.gguf", "to.gguf"].map(|name| folder.path().join(name));
    fs::write(&from, source).expect("written");
    let result = Gguf::write_patched(&from, &to, patch);
    let files = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(files, 1 + usize::from(result.is_ok()), "nothing is left of a failure, and nothing temporary");
    result.map(|()| fs::read(&to).expect("a file"))
}

fn tensor<'a>(gguf: &'a Gguf, name: &str) -> &'a [u8] {
    &gguf.table().get(name).expect("a tensor").bytes
}

fn rows(changed: &[(usize, u8)], appended: &[u8], size: usize) -> RowPatch {
    let row = |fill: u8| vec![fill; size];
    RowPatch {
        changed: changed.iter().map(|(at, fill)| (*at, row(*fill))).collect(),
        appended: appended.iter().map(|fill| row(*fill)).collect(),
    }
}

#[test]
fn a_copy_with_nothing_changed_is_the_file() {
    for alignment in [128, 256] {
        let source = source(alignment);
        assert!(patched(&source, &GgufPatch::default()).expect("written") == source);
    }
    // of the older version, and with no tensors
    let mut old = GgufBytes::new().pair("x", 8, &text("y"));
    old.version = 2;
    let mut bytes = old.build();
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    assert!(patched(&bytes, &GgufPatch::default()).expect("written") == bytes);
}

#[test]
fn changed_rows_leave_every_other_byte() {
    let source = source(128);
    let mut patch = GgufPatch::default();
    patch.tensors.insert("rows".into(), rows(&[(2, 200), (0, 201)], &[], 34));
    patch.tensors.insert("bias".into(), rows(&[(1, 202)], &[], 4));
    let found = patched(&source, &patch).expect("written");
    let data = source.len() - 6 * 128;
    let mut expected = source.clone();
    for (at, fill, size) in [(128, 201, 34), (128 + 68, 200, 34), (5 * 128 + 4, 202, 4)] {
        expected[data + at..data + at + size].fill(fill);
    }
    assert!(found == expected);
}

#[test]
fn grown_tensors_push_the_others_on_with_what_lies_between() {
    for alignment in [128u32, 256] {
        let source = source(alignment);
        let mut patch = GgufPatch::default();
        patch.tensors.insert("rows".into(), rows(&[(1, 9)], &[210, 211, 212, 213], 34));
        patch.tensors.insert("bias".into(), rows(&[], &[220], 4));
        patch.integers.insert("llama.vocab_size".into(), 7);
        patch.texts.insert("general.architecture".into(), "another".into());
        let appended = vec![Entry::Text("d".into()); 4];
        patch.arrays.insert("words".into(), ArrayPatch { changed: BTreeMap::new(), appended });
        let changed = BTreeMap::from([(1, Entry::Integer(-4))]);
        patch.arrays.insert("kinds".into(), ArrayPatch { changed, appended: vec![Entry::Integer(4); 4] });
        patch.arrays.insert(
            "scores".into(),
            ArrayPatch { changed: BTreeMap::new(), appended: vec![Entry::Float(-1.5); 4] },
        );
        patch.added.insert("new".into(), Value::Array(Array::I32(vec![1, 2])));
        let found = patched(&source, &patch).expect("written");
        let (before, after) = (read(source.clone()).expect("sound"), read(found.clone()).expect("sound"));
        for name in ["first", "head"] {
            assert_eq!(tensor(&before, name), tensor(&after, name), "{name}");
        }
        let (old, new) = (tensor(&before, "rows"), tensor(&after, "rows"));
        assert_eq!((&new[..34], &new[68..102]), (&old[..34], &old[68..]));
        assert!(new[34..68] == [9; 34] && new[102..136] == [210; 34] && new[204..] == [213; 34]);
        assert_eq!(tensor(&after, "bias"), [tensor(&before, "bias"), &[220; 4]].concat());
        assert_eq!(after.table().get("rows").expect("a tensor").shape, [7, 32]);
        assert_eq!(after.table().get("bias").expect("a tensor").shape, [4]);
        // the gaps, and the bytes behind the last tensor
        let step = alignment as usize;
        let gap = &source[source.len() - 6 * step + step + 102..][..step - 102];
        assert!(found.windows(gap.len()).any(|window| window == gap));
        assert!(found.ends_with(&source[source.len() - step + 12..]) || alignment == 128);
        let metadata = after.metadata();
        assert_eq!(metadata.require::<u32>("llama.vocab_size").expect("a number"), 7);
        assert_eq!(metadata.require::<Vec<i64>>("kinds").expect("numbers"), [1, -4, 3, 4, 4, 4, 4]);
        assert_eq!(
            metadata.require::<&[f32]>("scores").expect("numbers"),
            [0.0, 1.0, 2.0, -1.5, -1.5, -1.5, -1.5]
        );
        let words = metadata.require::<&[String]>("words").expect("words");
        assert_eq!((words.len(), words[2].as_str(), words[6].as_str()), (7, "c", "d"));
        assert!(found.windows(2).any(|window| window == b"\xff\xfe"), "text that is no text is copied");
        assert_eq!(metadata.require::<Vec<u32>>("new").expect("numbers"), [1, 2]);
        assert_eq!(metadata.require::<&str>("general.architecture").expect("text"), "another");
        for key in ["nested", "bytes", "general.alignment"] {
            assert_eq!(before.metadata().value(key), metadata.value(key), "{key}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let source = source(128);
    let one = |name: &str, rows: RowPatch| GgufPatch {
        tensors: [(name.into(), rows)].into(),
        ..GgufPatch::default()
    };
    let changed = |key: &str, at: usize, entry: Entry| {
        let array = ArrayPatch { changed: [(at, entry)].into(), appended: Vec::new() };
        GgufPatch { arrays: [(key.into(), array)].into(), ..GgufPatch::default() }
    };
    let integer =
        |key: &str, x: i64| GgufPatch { integers: [(key.into(), x)].into(), ..GgufPatch::default() };
    let text = |key: &str| GgufPatch { texts: [(key.into(), "x".into())].into(), ..GgufPatch::default() };
    let added = GgufPatch { added: [("words".into(), Value::U8(1))].into(), ..GgufPatch::default() };
    for (patch, parts) in [
        (one("other", rows(&[], &[], 1)), ["'other': no such tensor", "one of the file's"]),
        (one("rows", rows(&[(3, 1)], &[], 34)), ["'rows': row 3", "one of 3"]),
        (one("rows", rows(&[], &[1], 33)), ["a row of 33 bytes", "34 bytes"]),
        (changed("no", 0, Entry::Integer(1)), ["'no': no such key", "one of the file's"]),
        (changed("words", 3, Entry::Text("x".into())), ["entry 3", "one of 3"]),
        (changed("words", 0, Entry::Integer(1)), ["Integer(1)", "type 8"]),
        (changed("kinds", 0, Entry::Integer(1 << 40)), ["Integer(1099511627776)", "type 5"]),
        (changed("scores", 0, Entry::Text("x".into())), ["Text(\"x\")", "type 6"]),
        (changed("nested", 0, Entry::Integer(1)), ["'nested'", "an array of numbers or text"]),
        (changed("llama.vocab_size", 0, Entry::Integer(1)), ["entries of an array", "a single value"]),
        (integer("llama.vocab_size", -1), ["'llama.vocab_size': -1", "type 4"]),
        (text("llama.vocab_size"), ["'llama.vocab_size': text", "type 4"]),
        (text("no"), ["'no': no such key", "one of the file's"]),
        (added, ["'words': a key that is there", "a new one"]),
    ] {
        let error = patched(&source, &patch).expect_err("refused");
        assert!(matches!(error, WeightsError::Patch { .. }), "{error}");
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let error = patched(b"GGUF", &GgufPatch::default()).expect_err("no file");
    assert!(matches!(error, WeightsError::Truncated { .. }), "{error}");
    let part = GgufBytes::new().pair("split.count", 2, &2u16.to_le_bytes()).build();
    let error = patched(&part, &GgufPatch::default()).expect_err("one part of two");
    assert!(matches!(error, WeightsError::GgufSplit { parts: 2, .. }), "{error}");
}

#[test]
fn a_new_file_is_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new.gguf");
    let every = [
        ("a", Value::U8(1)),
        ("b", Value::F64(0.5)),
        ("c", Value::Bool(true)),
        ("d", Value::String("é".into())),
        ("e", Value::Array(Array::String(vec!["x".into(), String::new()]))),
        ("f", Value::Array(Array::Bool(vec![true, false]))),
        ("g", Value::Array(Array::Array(vec![Array::U16(vec![1]), Array::F32(vec![0.5])]))),
        ("h", Value::I64(-1)),
    ];
    let header = |name: &str, dtype: &str, shape: &[usize], bytes| TensorHeader {
        name: name.into(),
        dtype: dtype.into(),
        shape: shape.into(),
        bytes,
    };
    let write = |tensors: &[TensorHeader], data: &[&[u8]]| {
        write_atomically(&path, |file| {
            write_gguf_into(&path, file, &every, tensors, |at, out| out.put(data[at]))
        })
    };
    let tensors =
        [header("w", "F32", &[2, 3], 24), header("none", "F32", &[0], 0), header("q", "Q8_0", &[1, 32], 34)];
    write(&tensors, &[&floats(6), &[], &[7; 34]]).expect("written");
    let gguf = Gguf::open(&path).expect("a sound file");
    assert!(gguf.metadata().iter().eq(every.iter().map(|(key, value)| (*key, value))));
    assert_eq!((tensor(&gguf, "w"), tensor(&gguf, "q")), (&floats(6)[..], &[7; 34][..]));
    assert_eq!(gguf.table().get("w").expect("a tensor").shape, [2, 3]);
    let error = write(&[header("x", "F8_E4M3", &[1], 1)], &[&[0]]).expect_err("no such type");
    assert!(error.to_string().contains("'x' as F8_E4M3"), "{error}");
    let error = write(&[header("x", "F32", &[1], 4)], &[&[0]]).expect_err("too short");
    assert!(error.to_string().contains("'x' has 1 bytes, announced were 4"), "{error}");
}
