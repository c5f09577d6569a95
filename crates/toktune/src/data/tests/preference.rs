//! Rows with two answers to one prompt: each form that they come in, and what is refused.

use serde_json::{Value, json};

use super::{DataOptions, Dataset, LossOn, options, read, read_with, tokenizer};
use crate::data::{Example, RowKeys};

fn dataset(row: &Value, options: &DataOptions) -> Result<Dataset, String> {
    read(&row.to_string(), options)
}

/// Both sequences, with what is learnt of them in brackets.
fn sides(row: &Value, options: &DataOptions) -> [String; 2] {
    let example = dataset(row, options).expect("a pair").example(0).expect("there");
    assert!(example.is_preference());
    let (chosen, rejected) = example.labels.split_at(example.input_ids.len());
    [(&example.input_ids, chosen), (&example.second, rejected)].map(|(ids, labels)| learnt(ids, labels))
}

fn learnt(ids: &[u32], labels: &[Option<u32>]) -> String {
    assert_eq!(ids.len(), labels.len());
    let tokenizer = tokenizer();
    let parts: Vec<_> = ids.iter().zip(labels).collect();
    let mut out = String::new();
    for part in parts.chunk_by(|a, b| a.1.is_some() == b.1.is_some()) {
        let ids: Vec<u32> = part.iter().map(|(id, _)| **id).collect();
        let text = tokenizer.decode(&ids, false).expect("text");
        out += &if part[0].1.is_some() { format!("[{text}]") } else { text };
    }
    out
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn error(row: &Value) -> String {
    dataset(row, &options()).expect_err("refused")
}

#[test]
fn texts_stand_behind_their_prompt() {
    let row = json!({"prompt": "q r", "chosen": " ab", "rejected": " c"});
    let [chosen, rejected] = sides(&row, &options());
    assert!(
        chosen.ends_with("q r[ ab<|end|>]") && rejected.ends_with("q r[ c<|end|>]"),
        "{chosen} {rejected}"
    );
    // where no prompt is named, it is what both begin with, without the last space
    let row = json!({"chosen": "q r ab", "rejected": "q r c"});
    assert_eq!(sides(&row, &options()), [chosen, rejected]);
    // what is left of the shorter one is its last character
    let [chosen, rejected] = sides(&json!({"chosen": "abc", "rejected": "ab"}), &options());
    assert!(chosen.ends_with("a[bc<|end|>]") && rejected.ends_with("a[b<|end|>]"), "{chosen} {rejected}");
    let keys = RowKeys { prompt: Some("question".into()), ..RowKeys::default() };
    let keyed = DataOptions { keys, ..options() };
    let row = json!({"question": "q r", "chosen": " ab", "rejected": " c"});
    assert!(sides(&row, &keyed)[0].ends_with("q r[ ab<|end|>]"));
}

#[test]
fn messages_stand_behind_theirs() {
    let expected = ["<u>q<|end|>\n<a>[ab<|end|>]\n", "<u>q<|end|>\n<a>[c<|end|>]\n"];
    let (question, a, b) = (turn("user", "q"), turn("assistant", "ab"), turn("assistant", "c"));
    let beside = json!({"prompt": [question], "chosen": [a], "rejected": [b]});
    let within = json!({"chosen": [question, a], "rejected": [question, b]});
    // UltraFeedback has the question as a text too, and the chosen conversation once more
    let both =
        json!({"prompt": "q", "chosen": [question, a], "rejected": [question, b], "messages": [question, a]});
    for row in [beside, within, both] {
        assert_eq!(sides(&row, &options()), expected, "{row}");
    }
    // an answer before is read alone, whatever it says itself
    let mut before = turn("assistant", "z");
    before["weight"] = 1.into();
    let row = json!({"chosen": [question, before, question, a], "rejected": [question, before, question, b]});
    assert_eq!(sides(&row, &options())[0], "<u>q<|end|>\n<a>z<|end|>\n<u>q<|end|>\n<a>[ab<|end|>]\n");
}

#[test]
fn ids_stand_as_they_are() {
    let row = json!({"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9]});
    let data = read_with(row.to_string().as_bytes(), None, &options()).expect("a pair");
    let Example { input_ids, second, labels, .. } = data.example(0).expect("there");
    assert_eq!((&input_ids[..], &second[..]), (&[5, 6, 7][..], &[5, 6, 8, 9][..]));
    assert_eq!(labels, [None, None, Some(7), None, None, Some(8), Some(9)]);
    assert_eq!((data.tokens(), data.label_tokens(), data.len(), data.rows()), (7, 3, 1, 1));
    // a batch has both, the chosen one first, and each row predicts the next
    let batch = data.batch(&[0], 0).expect("a batch");
    assert_eq!(batch.starts, [0, 3, 7]);
    assert_eq!(batch.targets, [None, Some(7), None, None, Some(8), Some(9), None]);
    assert_eq!(data.sequences(&[0, 3]), [0, 1, 6, 7]);
    // the last token of each answer is said and not read
    let uses: Vec<_> = data.uses(&[6, 7, 8, 9]).iter().map(|of| (of.inputs, of.labels, of.acting)).collect();
    assert_eq!(uses, [(2, 0, 2), (1, 1, 0), (1, 1, 1), (1, 1, 0)]);
}

#[test]
fn a_pair_has_a_weight() {
    let row = json!({"prompt": "q", "chosen": "a", "rejected": "b", "loss_weight": 0.5});
    let data = dataset(&row, &options()).expect("a pair");
    let example = data.example(0).expect("there");
    assert!(example.weights.iter().all(|weight| *weight == 0.5) && !example.weights.is_empty());
    assert!(data.batch(&[0], 0).expect("a batch").weights.is_empty());
}

#[test]
fn rows_that_are_no_pair_are_told_why() {
    let told = |row: Value, parts: &[&str]| {
        let error = error(&row);
        assert!(parts.iter().all(|part| error.contains(part)) && error.contains("rows.jsonl:1"), "{error}");
    };
    told(json!({"prompt": "q", "chosen": "a"}), &["`chosen`", "`rejected`"]);
    told(json!({"prompt": "q", "rejected": "a"}), &["`rejected`", "`chosen`"]);
    told(json!({"prompt": "q", "chosen": "a", "rejected": "a"}), &["are the same"]);
    told(json!({"prompt": "q", "chosen": "a", "rejected": "a<|end|>"}), &["are the same as tokens"]);
    told(json!({"prompt": "q", "chosen": "", "rejected": "a"}), &["`chosen` is empty"]);
    told(json!({"prompt": "q", "chosen": "b", "rejected": []}), &["`chosen` is a string", "a list"]);
    told(json!({"chosen": "ab", "rejected": "c"}), &["no `prompt`", "do not begin alike"]);
    told(json!({"question": "q", "chosen": "ab", "rejected": "ac"}), &["`question`", "key of prompts"]);
    let (q, r, a, b) = (turn("user", "q"), turn("user", "r"), turn("assistant", "a"), turn("assistant", "b"));
    told(json!({"chosen": [q, a], "rejected": [r, b]}), &["do not begin alike"]);
    told(json!({"chosen": [q, r], "rejected": [q, b]}), &["`chosen`", "assistant"]);
    told(json!({"prompt_ids": [5], "chosen_ids": [6]}), &["`chosen_ids`", "`rejected_ids`"]);
    told(json!({"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": []}), &["`rejected_ids` is empty"]);
    let ids = json!({"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [8, 4]});
    let at = |most: usize| dataset(&ids, &DataOptions { max_length: Some(most), ..options() });
    let cut = |most: usize| at(most).expect_err("cut");
    assert!(
        cut(3).contains("a `max_length` of 3 leaves nothing to learn of `chosen`: its prompt has 3 tokens"),
        "{}",
        cut(3)
    );
    assert!(cut(4).contains("are the same as far as `max_length` leaves them"), "{}", cut(4));
    assert_eq!(at(5).expect("whole").cut_rows(), 0);
    let all = DataOptions { loss_on: Some(LossOn::All), ..options() };
    assert!(dataset(&ids, &all).expect_err("all").contains("`loss_on` is all"));
}

#[test]
fn a_cut_answer_keeps_its_beginning() {
    let row = json!({"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [4]});
    let data = dataset(&row, &DataOptions { max_length: Some(4), ..options() }).expect("a pair");
    let example = data.example(0).expect("there");
    assert_eq!((example.input_ids, example.second, example.cut), (vec![5, 6, 7, 8], vec![5, 6, 4], vec![9]));
    assert_eq!(data.cut_rows(), 1);
}
