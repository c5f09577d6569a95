//! Each kind of file, packed and not, and what is wrong with some.

use std::fs;
use std::io::Write;

use serde_json::json;

use super::*;
use crate::data::DataSource;
use crate::data::files::files_of;

/// The records of a file of this name and content: the line and the content as text.
fn records_by(name: &str, content: &[u8], sample_by: SampleBy) -> Result<Vec<(usize, String)>, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("written");
    let (mut found, keys) = (Vec::new(), RowKeys::default());
    let mut take = |record: Record, _| {
        found.push((
            record.line,
            match record.content {
                Content::Json(bytes) | Content::Text(bytes) | Content::Part(bytes, _) => {
                    String::from_utf8_lossy(&bytes).into_owned()
                }
                Content::Fields(fields) => Value::Object(fields).to_string(),
            },
        ));
        Ok(())
    };
    let files = files_of(&DataSource::new(&path)).expect("there");
    match read_records(&files[0], RecordOptions { sample_by, keys: &keys, cuts: false }, &mut take) {
        Ok(()) => Ok(found),
        Err(error) => Err(error.to_string().replace(&folder.path().display().to_string(), "")),
    }
}

fn records(name: &str, content: &[u8]) -> Result<Vec<(usize, String)>, String> {
    records_by(name, content, SampleBy::Line)
}

fn of(rows: &[(usize, &str)]) -> Result<Vec<(usize, String)>, String> {
    Ok(rows.iter().map(|(line, text)| (*line, (*text).to_owned())).collect())
}

#[test]
fn lines_are_read_with_any_ending_and_packing() {
    let plain = b"\xef\xbb\xbf{\"a\": 1}\r\n\n  \n{\"b\": 2}";
    let expected = of(&[(1, "{\"a\": 1}"), (4, "{\"b\": 2}")]);
    assert_eq!(records("a.jsonl", plain), expected);
    assert_eq!(records("no ending", plain), expected);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    gzip.write_all(plain).expect("packed");
    let mut gzip = gzip.finish().expect("packed");
    assert_eq!(records("a.jsonl.gz", &gzip), expected);
    assert_eq!(records("a.jsonl", &gzip), expected, "told by its first bytes");
    // two packed files put together are one, as gzip has it
    gzip.extend_from_within(..);
    assert_eq!(records("a.jsonl.gz", &gzip).map(|rows| rows.len()), Ok(3), "the first ends without a break");
    let zstd = zstd::encode_all(&plain[..], 3).expect("packed");
    assert_eq!(records("a.jsonl.zst", &zstd), expected);
    for (name, damaged) in [("a.jsonl.gz", &gzip[..gzip.len() - 9]), ("a.jsonl.zst", &zstd[..zstd.len() - 5])]
    {
        let problem = records(name, damaged).expect_err("cut off");
        assert!(problem.starts_with(&format!("/{name}: cannot be read: ")), "{problem}");
    }
}

#[test]
fn an_array_is_cut_into_its_values() {
    let array = b" \n[\n  {\"a\": \"x]},{\\\"\\\\\"},\n {\"b\": [1, {\"c\": 2}]} ,3, \"s\", []\n]\n";
    let expected = of(&[
        (3, "{\"a\": \"x]},{\\\"\\\\\"}"),
        (4, "{\"b\": [1, {\"c\": 2}]} "),
        (4, "3"),
        (4, "\"s\""),
        (4, "[]\n"),
    ]);
    assert_eq!(records("a.json", array), expected);
    assert_eq!(records("a.jsonl", array), expected, "whatever its name");
    assert_eq!(records("a.json", b"[]"), of(&[]));
    for (content, expected) in [
        (&b"[{}"[..], "the file ends inside of its array"),
        (b"[{}, \"a", "the file ends inside of its array"),
        (b"[{} {}]", "not JSON"),
        (b"[,{}]", "a comma where a value should be"),
        (b"[{}],", "there is more behind the array"),
        (b"[{}}]", "a bracket that was not opened"),
    ] {
        let found = records("a.json", content);
        let problem = match found {
            Err(problem) => problem,
            // what stands in one value is the parser's to refuse
            Ok(rows) => {
                serde_json::from_str::<Value>(&rows[0].1).map_or("not JSON".to_owned(), |_| "none".into())
            }
        };
        assert!(problem.contains(expected), "{problem:?} of {:?}", String::from_utf8_lossy(content));
    }
}

#[test]
fn tables_give_their_columns_by_name() {
    let table = b"prompt,completion,id\n\"a, \"\"b\"\"\nc\",d,1\n,e,\n";
    let expected =
        of(&[(2, r#"{"prompt":"a, \"b\"\nc","completion":"d","id":"1"}"#), (4, r#"{"completion":"e"}"#)]);
    assert_eq!(records("a.csv", table), expected);
    assert_eq!(records("a.tsv", b"text\tid\na,b\t3\n"), of(&[(2, r#"{"text":"a,b","id":"3"}"#)]));
    let structured = b"input_ids,prompt,messages\n\"[1, 2]\",[INST] a,\"[{\"\"role\"\": \"\"user\"\"}]\"\n";
    let expected = of(&[(2, r#"{"input_ids":[1,2],"prompt":"[INST] a","messages":[{"role":"user"}]}"#)]);
    assert_eq!(records("a.csv", structured), expected);
    assert_eq!(records("a.csv", b"a,b\n1\n"), Err("/a.csv:2: 1 cells, but the heading has 2".to_owned()));
    assert_eq!(records("a.csv", b"text\n\xff\n"), Err("/a.csv:2: not UTF-8 text".to_owned()));
}

#[test]
fn texts_fall_into_lines_paragraphs_or_not() {
    let text = b"\n\na\nb\n\n \nc\n";
    assert_eq!(records("a.txt", text), of(&[(3, "a"), (4, "b"), (7, "c")]));
    assert_eq!(records_by("a.txt", text, SampleBy::Paragraph), of(&[(3, "a\nb"), (7, "c")]));
    assert_eq!(records_by("a.txt", text, SampleBy::Document), of(&[(3, "a\nb\n\n \nc")]));
    assert_eq!(records_by("a.txt", b"", SampleBy::Document), of(&[]));
}

#[test]
fn a_row_without_end_is_refused_before_it_is_held() {
    let long = vec![b'a'; LONGEST_ROW + (1 << 20)];
    let quoted = [b"text\n\"", &long[..]].concat();
    let array = [b"[\"", &long[..]].concat();
    for (name, content) in [("a.jsonl", &long), ("a.txt", &long), ("a.csv", &quoted), ("a.json", &array)] {
        let problem = records(name, content).expect_err("too long");
        assert!(problem.contains(": the row is longer than 4194304 bytes"), "{name}: {problem}");
    }
    let packed = zstd::encode_all(&long[..], 1).expect("packed");
    assert!(packed.len() < 10_000);
    let problem = records("a.jsonl.zst", &packed).expect_err("too long");
    assert!(problem.contains("longer than"), "{problem}");
}

#[cfg(feature = "parquet")]
mod columns {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
    use arrow_array::{ArrayRef, BinaryArray, Float32Array, Int64Array, RecordBatch, StringArray};
    use arrow_ipc::writer::{FileWriter, StreamWriter};
    use arrow_schema::{DataType, Field};
    use parquet::arrow::ArrowWriter;

    use super::*;

    /// Conversations with a tool call in one message alone, an id, and an image that nobody asked for.
    fn batch() -> RecordBatch {
        let fields = ["role", "content", "tool"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec();
        let message = StructBuilder::from_fields(fields, 4);
        let mut messages = ListBuilder::new(message);
        for (role, content, tool) in [("user", "q", None), ("assistant", "a", Some("t"))] {
            for (column, value) in [Some(role), Some(content), tool].into_iter().enumerate() {
                let builder = messages.values().field_builder::<StringBuilder>(column).expect("text");
                builder.append_option(value);
            }
            messages.values().append(true);
        }
        messages.append(true);
        messages.append(false);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("messages", Arc::new(messages.finish())),
            ("text", Arc::new(StringArray::from(vec![None, Some("b")]))),
            ("id", Arc::new(Int64Array::from(vec![1, 2]))),
            ("image", Arc::new(BinaryArray::from(vec![&b"x"[..], b"y"]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
            .expect("sound")
    }

    fn expected() -> Result<Vec<(usize, String)>, String> {
        let messages =
            json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "tool": "t"}]);
        of(&[(1, &json!({ "messages": messages }).to_string()), (2, r#"{"text":"b"}"#)])
    }

    fn parquet() -> Vec<u8> {
        parquet_of(&batch())
    }

    fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
        writer.write(batch).expect("written");
        writer.close().expect("closed");
        bytes
    }

    #[test]
    fn a_weight_is_read_beside_a_row_and_never_lost() {
        let with = |key: &str, weight: f32| {
            let (text, weights) = (StringArray::from(vec!["b"]), Float32Array::from(vec![weight]));
            let columns: [(&str, ArrayRef); 2] = [(key, Arc::new(text)), ("loss_weight", Arc::new(weights))];
            records("a.parquet", &parquet_of(&RecordBatch::try_from_iter(columns).expect("sound")))
        };
        assert_eq!(with("text", 0.5), of(&[(1, r#"{"text":"b","loss_weight":0.5}"#)]));
        let problem = with("text", f32::NAN).expect_err("no number");
        assert!(
            problem.contains("/a.parquet:1: column `loss_weight` is of type Float32 with NaN in it"),
            "{problem}"
        );
        // rows are not known by it: all names are there to be told
        assert_eq!(with("body", 0.5), of(&[(1, r#"{"body":true,"loss_weight":true}"#)]));
    }

    #[test]
    fn parquet_and_arrow_give_the_columns_that_rows_are_known_by() {
        assert_eq!(records("a.parquet", &parquet()), expected());
        assert_eq!(records("a", &parquet()), expected(), "told by its first bytes");
        let schema = batch().schema();
        let mut stream = StreamWriter::try_new(Vec::new(), &schema).expect("a writer");
        stream.write(&batch()).expect("written");
        stream.finish().expect("closed");
        assert_eq!(records("a.arrow", &stream.into_inner().expect("whole")), expected());
        let mut file = FileWriter::try_new(Vec::new(), &schema).expect("a writer");
        file.write(&batch()).expect("written");
        file.finish().expect("closed");
        assert_eq!(records("a.arrow", &file.into_inner().expect("whole")), expected());
    }

    #[test]
    fn damaged_files_are_told_and_never_panic() {
        let whole = parquet();
        let mut told = 0;
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            told += usize::from(records("a.parquet", &damaged).is_err());
        }
        assert!(told > 0);
        let problem = records("a.parquet", &whole[..whole.len() / 2]).expect_err("cut");
        assert!(problem.starts_with("/a.parquet: cannot be read"), "{problem}");
        assert!(records("a.arrow", b"nothing of the kind").is_err());
    }
}
