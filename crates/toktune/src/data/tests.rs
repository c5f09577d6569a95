//! Tests of reading, tokenising, batching and counting on tiny files and a tiny tokenizer.

mod chats;
mod kinds;
mod preference;
mod weights;

use std::path::Path;

use serde_json::json;

use super::{Collator, DataOptions, Dataset, Example, LossOn, RaggedBatch, Source, TokenUse};
use crate::text::testing::byte_level;
use crate::text::{AutoTokenizer, GgufTokenizer};

/// ChatML in small: every turn ends with the special token and a line break.
const TEMPLATE: &str = "{% for m in messages %}\
    {{ '<' + m.role[0] + '>' + m.content + '<|end|>' + '\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<a>' }}{% endif %}";

fn tokenizer() -> AutoTokenizer {
    GgufTokenizer { chat_template: Some(TEMPLATE.to_owned()), ..byte_level() }.build().unwrap()
}

fn options() -> DataOptions {
    DataOptions::new(tokenizer().vocab_size())
}

fn read_with(
    text: &[u8],
    tokenizer: Option<&AutoTokenizer>,
    options: &DataOptions,
) -> Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    Dataset::read(&[&path], tokenizer, options)
        .map_err(|error| error.to_string().replace(dir.path().to_str().unwrap(), ""))
}

fn read(text: &str, options: &DataOptions) -> Result<Dataset, String> {
    read_with(text.as_bytes(), Some(&tokenizer()), options)
}

/// The one example of a file, its labels as text with `_` for what is not learnt.
fn shown(row: serde_json::Value, options: &DataOptions) -> (String, String) {
    let tokenizer = tokenizer();
    let dataset = read(&row.to_string(), options).unwrap();
    let example = dataset.example(0).unwrap();
    let labels = example.labels.iter().map(|label| match label {
        None => "_".to_owned(),
        Some(id) => tokenizer.decode(&[*id], false).unwrap(),
    });
    (tokenizer.decode(&example.input_ids, false).unwrap(), labels.collect())
}

#[test]
fn ids_stand_as_they_are() {
    let file = "\u{feff}{\"input_ids\": [1, 2, 3], \"labels\": [-100, 2, 0], \"id\": \"x\"}\r\n\n  \n\
        {\"input_ids\":[4,5]}";
    let dataset = read_with(file.as_bytes(), None, &options()).unwrap();
    assert_eq!(dataset.example(0).unwrap().input_ids, [1, 2, 3]);
    assert_eq!(dataset.example(0).unwrap().labels, [None, Some(2), Some(0)]);
    assert_eq!(dataset.example(1).unwrap().labels, [Some(4), Some(5)]);
    assert_eq!(dataset.example(1).unwrap().source.line, 4);
    assert_eq!((dataset.tokens(), dataset.label_tokens(), dataset.len()), (5, 3, 2));
}

#[test]
fn masks_beside_ids_are_obeyed() {
    let rows = concat!(
        r#"{"input_ids": [1, 2, 3], "completion_mask": [0, 1, 1], "attention_mask": [1, 1, 1]}"#,
        "\n",
        r#"{"input_ids": [1, 2, 3, 0], "assistant_masks": [0, 1, 0, 0], "attention_mask": [1, 1, 1, 0]}"#,
        "\n",
        r#"{"input_ids": [1, 2, 3, 0], "labels": [1, -100, 3, -100], "attention_mask": [1, 1, 1, 0]}"#,
        "\n",
        r#"{"input_ids": [0, 0, 1, 2, 3], "labels": [-100, -100, 1, -100, 3], "attention_mask": [0, 0, 1, 1, 1]}"#,
        "\n",
        r#"{"input_ids": [0, 1, 2, 3, 0], "labels": [1, -100, 3], "attention_mask": [0, 1, 1, 1, 0]}"#,
    );
    let dataset = read_with(rows.as_bytes(), None, &options()).unwrap();
    let third = [Some(1), None, Some(3)];
    let labels = [[None, Some(2), Some(3)], [None, Some(2), None], third, third, third];
    for (index, labels) in labels.into_iter().enumerate() {
        let example = dataset.example(index).unwrap();
        assert_eq!((example.input_ids.as_slice(), example.labels.as_slice()), (&[1, 2, 3][..], &labels[..]));
    }
    let cases = [
        (r#""attention_mask": [1, 0, 1]"#, "`attention_mask` is a list, expected 1 for what is read"),
        (r#""attention_mask": [0, 0, 0]"#, "`attention_mask` is a list, expected 1 for what is read"),
        (r#""completion_mask": [0, 1]"#, "expected as many of 0 and 1 as `input_ids` has ids"),
        (r#""completion_mask": [0, 1, 2]"#, "expected as many of 0 and 1 as `input_ids` has ids"),
        (
            r#""labels": [1, 2, 3], "attention_mask": [1, 1, 0]"#,
            "`labels[2]` is 3 where `attention_mask` is 0, expected -100",
        ),
        (
            r#""labels": [1, 2, 3], "attention_mask": [0, 1, 1]"#,
            "`labels[0]` is 1 where `attention_mask` is 0, expected -100",
        ),
        (r#""labels": [1, 2], "attention_mask": [1, 1, 1]"#, "labels shorter than input"),
    ];
    for (mask, expected) in cases {
        let error = read(&format!("{{\"input_ids\": [1, 2, 3], {mask}}}"), &options()).unwrap_err();
        assert!(error.contains(expected), "{mask}: {error}");
    }
}

#[test]
fn every_fault_names_file_and_line() {
    let size = options().vocab_size;
    let cases = [
        (r#"{"text": "a""#.to_owned(), "not JSON: EOF"),
        ("[1]".to_owned(), "found a list, expected an object"),
        (
            r#"{"question": "q", "answer": "a"}"#.to_owned(),
            "found keys `question`, `answer`, expected `messages`",
        ),
        ("{}".to_owned(), "found keys none"),
        (r#"{"mesages": []}"#.to_owned(), "did you mean `messages`?"),
        (
            r#"{"input_ids": [1], "prompt": "b", "completion": "c"}"#.to_owned(),
            "found `input_ids` and `prompt` in one row",
        ),
        (r#"{"labels": [1]}"#.to_owned(), "`labels` without `input_ids`"),
        (r#"{"prompt": "b"}"#.to_owned(), "`prompt` without `completion`"),
        (r#"{"completion": "b", "prompt": null}"#.to_owned(), "`completion` without `prompt`"),
        (r#"{"text": 3}"#.to_owned(), "`text` is 3, expected a string"),
        (r#"{"input_ids": "1 2"}"#.to_owned(), "`input_ids` is a string, expected a list of integers"),
        (r#"{"input_ids": [1, 2.5]}"#.to_owned(), "`input_ids[1]` is 2.5, expected an integer"),
        (r#"{"input_ids": [1, -1]}"#.to_owned(), "`input_ids[1]` is -1, expected an id below 264"),
        (format!(r#"{{"input_ids": [{size}]}}"#), "`input_ids[0]` is 264"),
        (r#"{"input_ids": [1, 2], "labels": [1, -1]}"#.to_owned(), "`labels[1]` is -1"),
        (
            r#"{"input_ids": [1], "labels": [1, 2]}"#.to_owned(),
            "labels longer than input: 2 labels, 1 input_ids",
        ),
        (r#"{"input_ids": [1, 2], "labels": [1]}"#.to_owned(), "labels shorter than input"),
        (r#"{"input_ids": []}"#.to_owned(), "`input_ids` is empty"),
        (r#"{"text": ""}"#.to_owned(), "`text` is empty"),
        (r#"{"prompt": "", "completion": ""}"#.to_owned(), "`prompt` is empty"),
        (r#"{"messages": []}"#.to_owned(), "`messages` is empty"),
        (r#"{"messages": {"role": "user"}}"#.to_owned(), "`messages` is an object, expected a list"),
        (r#"{"messages": ["hi"]}"#.to_owned(), "`messages[0]` is a string, expected an object with `role`"),
        (r#"{"messages": [{"content": "hi"}]}"#.to_owned(), "`messages[0].role` is missing"),
        (r#"{"messages": [{"role": "user", "content": "a"}], "tools": 3}"#.to_owned(), "`tools` is 3"),
        (r#"{"messages": [{"role": "user"}]}"#.to_owned(), "chat template: "),
        (r#"{"loss_weights": [1]}"#.to_owned(), "`loss_weights` without `input_ids`"),
        (
            r#"{"text": "a", "loss_weight": "2"}"#.to_owned(),
            "`loss_weight` is a string, expected a finite number",
        ),
        (
            r#"{"text": "a", "loss_weight": -0.5}"#.to_owned(),
            "`loss_weight` is -0.5, expected a finite number",
        ),
        // a number, but none of 32 bits
        (
            r#"{"text": "a", "loss_weight": 1e39}"#.to_owned(),
            "`loss_weight` is 1e+39, expected a finite number",
        ),
        (r#"{"text": "a", "loss_weight": [1]}"#.to_owned(), "`loss_weight` is a list"),
        (r#"{"text": "a", "loss_weight": true}"#.to_owned(), "`loss_weight` is true or false"),
        (
            r#"{"text": "a", "loss_weights": [1]}"#.to_owned(),
            "`loss_weights`: found in a row with `text`; it goes with `input_ids`",
        ),
        (r#"{"input_ids": [1, 2], "loss_weights": 2}"#.to_owned(), "`loss_weights` is 2, expected a list"),
        (
            r#"{"input_ids": [1, 2], "loss_weights": [1]}"#.to_owned(),
            "1 `loss_weights`, expected 2, one a label",
        ),
        (
            r#"{"input_ids": [1, 2], "loss_weights": [1, null]}"#.to_owned(),
            "`loss_weights[1]` is null, expected a finite number of at least 0",
        ),
        (r#"{"input_ids": [1, 2], "loss_weights": [1, -1]}"#.to_owned(), "`loss_weights[1]` is -1"),
        (
            r#"{"input_ids": [1, 2], "loss_weights": [1, 1e30], "loss_weight": 1e30}"#.to_owned(),
            "`loss_weight * loss_weights[1]` is 1e+30",
        ),
    ];
    for (row, expected) in cases {
        let error = read(&format!("{{\"text\": \"fine\"}}\n\n{row}\n"), &options()).unwrap_err();
        assert!(
            error.starts_with("/rows.jsonl:3: ") && error.contains(expected),
            "{error:?} lacks {expected:?}"
        );
    }
}

#[test]
fn faults_of_whole_files_are_named() {
    assert_eq!(read(" \n\n", &options()).unwrap_err(), "/rows.jsonl: no rows");
    let latin = read_with(b"{\"text\": \"\xe9\"}", None, &options()).unwrap_err();
    assert_eq!(latin, "/rows.jsonl:1: not UTF-8 text");
    let none = read(r#"{"input_ids": [1, 2], "labels": [1, -100]}"#, &options()).unwrap_err();
    assert!(none.starts_with("1 row, but no label to learn from (every label is -100"), "{none}");
    let bare = read_with(br#"{"text": "a"}"#, None, &options()).unwrap_err();
    assert!(bare.contains("`text` needs a tokenizer"), "{bare}");
    assert_eq!(Dataset::read::<&Path>(&[], None, &options()).unwrap_err().to_string(), "no data files given");
    let missing = Dataset::read(&["/no/such/file.jsonl"], None, &options()).unwrap_err().to_string();
    assert!(missing.starts_with("/no/such/file.jsonl: "), "{missing}");
}

#[test]
fn text_is_framed_and_learnt_whole() {
    assert_eq!(shown(json!({"text": "ab"}), &options()), ("ab<|end|>".into(), "ab<|end|>".into()));
    // An end that the text brings is not doubled.
    assert_eq!(shown(json!({"text": "ab<|end|>"}), &options()).0, "ab<|end|>");
    let error = read(r#"{"text": "a"}"#, &DataOptions { loss_on: Some(LossOn::Completion), ..options() });
    assert!(error.unwrap_err().contains("`text` has none; give rows of prompt"));
}

#[test]
fn prompts_are_not_learnt_unless_asked() {
    let row = json!({"prompt": "th", "completion": "e"});
    // Tokenised apart: `th` and `e`, not `the`.
    assert_eq!(shown(row.clone(), &options()), ("the<|end|>".into(), "_e<|end|>".into()));
    let all = DataOptions { loss_on: Some(LossOn::All), ..options() };
    assert_eq!(shown(row.clone(), &all).1, "the<|end|>");
    let framed = GgufTokenizer { add_bos: Some(true), add_eos: Some(true), ..byte_level() }.build().unwrap();
    let dataset = read_with(row.to_string().as_bytes(), Some(&framed), &options()).unwrap();
    assert_eq!(framed.decode(&dataset.example(0).unwrap().input_ids, false).unwrap(), "<|end|>the<|end|>");
    assert_eq!(dataset.example(0).unwrap().labels.iter().flatten().count(), 2);
}

#[test]
fn long_rows_are_cut_or_refused() {
    let rows = "{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 6]}";
    let cut = read(rows, &DataOptions { max_length: Some(3), max_positions: Some(3), ..options() }).unwrap();
    assert_eq!(
        (cut.example(0).unwrap().input_ids.as_slice(), cut.example(0).unwrap().cut.as_slice()),
        (&[1, 2, 3][..], &[4][..])
    );
    assert_eq!((cut.example(0).unwrap().labels.len(), cut.cut_rows(), cut.rows_without_labels()), (3, 1, 0));
    let error = read(rows, &DataOptions { max_positions: Some(3), ..options() }).unwrap_err();
    assert!(
        error.contains("4 tokens, but the model has 3 positions; a `max_length` of 3 cuts rows"),
        "{error}"
    );
    let error = read(rows, &DataOptions { max_length: Some(0), ..options() }).unwrap_err();
    assert!(error.contains("`max_length` is 0"), "{error}");
    let error = read(rows, &DataOptions { max_length: Some(1), ..options() }).unwrap_err();
    assert!(error.contains("2 rows were cut by `max_length` before their first label"), "{error}");
}

#[test]
fn a_token_the_model_has_no_row_for_is_named() {
    let mut tokenizer = tokenizer();
    tokenizer.add_tokens(&["<calc>"]).unwrap();
    let error = read_with(br#"{"text": "a<calc>"}"#, Some(&tokenizer), &options()).unwrap_err();
    assert!(error.contains("token `<calc>` has id 264, but the model has 264 rows"), "{error}");
}

fn example(input_ids: &[u32], labels: &[Option<u32>], cut: &[u32]) -> Example {
    let source = Source { file: Path::new("x").into(), line: 1 };
    let (input_ids, labels, cut) = (input_ids.to_vec(), labels.to_vec(), cut.to_vec());
    Example { input_ids, second: Vec::new(), labels, weights: Vec::new(), cut, source }
}

fn dataset(examples: impl Into<Vec<Example>>, collator: Collator) -> Dataset {
    Dataset::from_examples(&examples.into(), collator, 1000).unwrap()
}

#[test]
fn a_causal_batch_shifts_inside_each_sequence() {
    let examples = [
        example(&[1, 2, 3], &[Some(1), None, Some(3)], &[]),
        example(&[4], &[Some(4)], &[]),
        example(&[5, 6], &[None, Some(6)], &[]),
    ];
    let batch = super::batch::causal(&examples);
    assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(batch.starts, [0, 3, 4, 6]);
    assert_eq!(batch.targets, [None, Some(3), None, None, Some(6), None]);
    assert_eq!((batch.tokens(), batch.label_tokens()), (6, 2));
    assert_eq!(batch.sequences().collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
    let empty = super::batch::causal(&[]);
    assert_eq!((empty.starts, empty.targets.len()), (vec![0], 0));
}

#[test]
fn the_audit_counts_what_training_sees() {
    let examples =
        [example(&[7, 1, 7], &[Some(7), Some(1), Some(7)], &[8, 8]), example(&[9, 7], &[None, None], &[])];
    let found = dataset(examples, Collator::Causal).uses(&[7, 8, 9, 7]);
    let expected = |id, inputs, labels, cut, acting| TokenUse { id, inputs, labels, cut, acting };
    assert_eq!(
        found,
        [expected(7, 3, 1, 0, 1), expected(8, 0, 0, 2, 0), expected(9, 1, 0, 0, 0), expected(7, 3, 1, 0, 1)]
    );
    assert_eq!(found.iter().map(TokenUse::is_never_learnt).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(found.iter().map(TokenUse::is_unseen).collect::<Vec<_>>(), [false, true, false, false]);
}

#[test]
fn an_example_that_is_not_there_is_an_error() {
    let data = dataset([example(&[1, 2], &[None, Some(2)], &[])], Collator::Causal);
    let error = data.batch(&[0, 1], 0).unwrap_err().to_string();
    assert_eq!(error, "example 1 of 1: examples are counted from 0");
    assert!(data.example(usize::MAX).is_err());
}
