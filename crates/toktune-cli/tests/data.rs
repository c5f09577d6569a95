//! Data of every kind through the real program: previewed, trained on, kept for the next run.

mod common;
use common::{Called, Work};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

fn eval(work: &Work, data: &[&str]) -> Called {
    let usual = ["eval", "--model", "model", "--log-format", "json", "--data"];
    work.call(&[&usual[..], data].concat())
}

/// The loss over some data.
#[track_caller]
fn loss(work: &Work, data: &[&str]) -> f64 {
    eval(work, data).ok().json()[0]["loss"].as_f64().expect("a loss")
}

/// The rows of `train.jsonl`.
fn rows(work: &Work) -> Vec<Value> {
    let text = String::from_utf8(work.read("train.jsonl")).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_same_rows_in_every_file_have_the_same_loss() {
    let work = Work::new();
    let rows = rows(&work);
    let expected = loss(&work, &["train.jsonl"]);
    work.write("array.json", serde_json::to_vec_pretty(&rows).expect("JSON"));
    let table = |separator: &str| {
        let cells = |row: &Value| {
            format!("{}{separator}{}\n", row["prompt"].as_str().unwrap(), row["completion"].as_str().unwrap())
        };
        format!("prompt{separator}completion\n{}", rows.iter().map(cells).collect::<String>())
    };
    work.write("rows.csv", table(","));
    work.write("rows.tsv", table("\t"));
    std::fs::create_dir_all(work.path("set/data")).expect("made");
    work.write("set/data/train.jsonl", work.read("train.jsonl"));
    work.write("set/data/test.jsonl", r#"{"text": "w1"}"#);
    work.write("set/README.md", "about");
    for data in [&["array.json"][..], &["rows.csv"], &["rows.tsv"], &["set"], &["set:train"]] {
        assert_eq!(loss(&work, data), expected, "{data:?}");
    }
    assert_ne!(loss(&work, &["set:test"]), expected);
    eval(&work, &["set:other"]).fails(1, &["no split `other`", "`test`, `train`"]);
    let keys: String = rows
        .iter()
        .map(|row| format!("{}\n", json!({"question": row["prompt"], "answer": row["completion"]})))
        .collect();
    work.write("keys.jsonl", keys);
    let named = ["keys.jsonl", "--prompt-key", "question", "--completion-key", "answer"];
    assert_eq!(loss(&work, &named), expected);
    eval(&work, &["keys.jsonl"]).fails(
        1,
        &[
            "keys.jsonl:1: found keys `question`, `answer`",
            "add --prompt-key question --completion-key answer",
        ],
    );
    eval(&work, &["train.jsonl:2"]).fails(2, &["train.jsonl:2", "weighted for training alone"]);
    eval(&work, &["train.jsonl:-2"]).fails(2, &["the weight is -2"]);
}

#[test]
fn rows_come_from_the_standard_input() {
    let work = Work::new();
    let expected = loss(&work, &["train.jsonl"]);
    let mut command = work.command(&["eval", "--model", "model", "--log-format", "json", "--data", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("piped").write_all(&work.read("train.jsonl")).expect("taken");
    let out = child.wait_with_output().expect("ended");
    let found: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(found["loss"].as_f64(), Some(expected));
    // a pipe is read once too
    #[cfg(unix)]
    {
        let pipe = work.path("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let rows = work.read("train.jsonl");
        let writer = std::thread::spawn(move || std::fs::write(pipe, rows));
        assert_eq!(loss(&work, &["pipe"]), expected);
        writer.join().expect("ended").expect("taken");
    }
}

#[test]
fn a_weight_says_how_often_rows_are_seen() {
    let work = Work::new();
    work.write("other.jsonl", r#"{"text": "w7 w8"}"#);
    let more =
        ["other.jsonl:6", "--token", "w7", "--batch-size", "1", "--num-epochs", "1", "--log-format", "json"];
    let usual = ["train", "--model", "model", "--output", "out", "--data", "train.jsonl:0.5"];
    let run = work.call(&[&usual[..], &more].concat()).ok();
    assert_eq!(run.json()[0]["steps"], 6 + 6);
}

#[test]
fn encoded_rows_are_kept_and_used() {
    let work = Work::new();
    let cached = ["train.jsonl", "--data-cache", "kept"];
    let expected = loss(&work, &cached);
    let kept = |work: &Work| {
        let entries = std::fs::read_dir(work.path("kept")).expect("the cache");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let files = kept(&work);
    assert_eq!(files.len(), 1);
    let written = std::fs::metadata(&files[0]).expect("there").len();
    assert_eq!(loss(&work, &cached), expected);
    assert_eq!(kept(&work), files);
    // whatever decides about rows gives another file
    loss(&work, &[&cached[..], &["--max-length", "5"]].concat());
    assert_eq!(kept(&work).len(), 2);
    work.write("train.jsonl", [work.read("train.jsonl"), b"{\"text\": \"w1 w2\"}\n".to_vec()].concat());
    assert_ne!(loss(&work, &cached), expected);
    assert_eq!(kept(&work).len(), 3);
    // a damaged file is written anew
    let whole = std::fs::read(&files[0]).expect("read");
    std::fs::write(&files[0], &whole[..whole.len() / 2]).expect("cut");
    work.write("train.jsonl", rows(&work)[..12].iter().map(|row| format!("{row}\n")).collect::<String>());
    assert_eq!(loss(&work, &cached), expected);
    assert_eq!(std::fs::metadata(&files[0]).expect("there").len(), written);
    assert_eq!(loss(&work, &["train.jsonl", "--data-cache", "none"]), expected);
    work.write("file", "");
    eval(&work, &["train.jsonl", "--data-cache", "file"]).fails(1, &["encoded rows cannot be kept"]);
}

#[test]
fn a_preview_shows_what_labels_count() {
    let work = Work::new();
    let rows = [
        json!({"prompt": "w1 w2", "completion": " w3", "loss_weight": 0.5}),
        json!({"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, 3, 4, 5], "loss_weights": [1, 1, 2, 0, 1]}),
    ];
    work.write("weighted.jsonl", rows.map(|row| format!("{row}\n")).concat());
    let usual = ["preview", "--model", "model", "--data", "weighted.jsonl", "--token", "w7"];
    let shown = work.call(&usual).ok();
    let names: Vec<&str> =
        shown.out.lines().filter_map(|line| Some(line.split_once(" | ")?.0.trim())).collect();
    assert_eq!(names, ["read", "learnt x0.5", "read", "learnt x2", "read", "learnt"], "{}", shown.out);
    assert!(shown.out.contains("         read | w1 w2\n"), "names end in one column: {}", shown.out);
    // a label of weight 0 is not learnt
    assert!(shown.out.contains("weighted.jsonl:2  5 tokens, 2 learnt"), "{}", shown.out);
    let json = work.call(&[&usual[..], &["--log-format", "json"]].concat()).ok().json();
    let weights = |row: usize| -> Vec<_> {
        let tokens = json[row]["parts"][0]["tokens"].as_array().expect("tokens").iter();
        tokens.map(|token| (token["learnt"] == true, token["weight"].as_f64())).collect()
    };
    assert_eq!(weights(0)[..3], [(false, None), (false, None), (true, Some(0.5))]);
    let plain = (false, None);
    assert_eq!(weights(1), [plain, plain, (true, Some(2.0)), plain, (true, None)]);
    work.write("wrong.jsonl", "{\"text\": \"w1\", \"loss_weight\": -1}\n");
    let wrong = ["preview", "--model", "model", "--data", "wrong.jsonl"];
    work.call(&wrong)
        .fails(1, &["wrong.jsonl:1: `loss_weight` is -1, expected a finite number of at least 0"]);
}

#[test]
fn a_preview_shows_what_is_read_learnt_and_trained() {
    let work = Work::new();
    let usual =
        ["preview", "--model", "model", "--data", "train.jsonl", "--add-token", "<calc>", "--token", "w7"];
    let shown = work.call(&usual).ok();
    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!(
        lines[0],
        "row 1 of 12  train.jsonl:1  9 tokens, 6 learnt; trained tokens: 2, 2 of them learnt"
    );
    assert_eq!(lines[1], "      read | w10 w20 w30");
    assert!(lines[2].starts_with("    learnt | ") && lines[2].contains("⟦ <calc>⟧ w40"), "{}", shown.out);
    assert!(shown.out.contains("rows     12: 12 `prompt`"), "{}", shown.out);
    assert!(shown.out.contains("<calc> (97): 12x read, 12x learnt"), "{}", shown.out);
    assert!(!shown.out.contains('\u{1b}'), "no colours in a file");
    let json = work
        .call(&[&usual[..], &["--rows", "1", "--from", "12", "--log-format", "json"]].concat())
        .ok()
        .json();
    assert_eq!((&json[0]["row"], &json[0]["source"]), (&json!(12), &json!("train.jsonl:12")));
    let tokens = json[0]["parts"][0]["tokens"].as_array().expect("tokens").clone();
    let learnt: Vec<bool> = tokens.iter().filter_map(|token| token["learnt"].as_bool()).collect();
    assert_eq!(learnt, [false, false, false, true, true, true, true, true, true]);
    assert_eq!(json[1]["tokens"][1]["labels"], 12);
    work.call(&[&usual[..], &["--from", "13"]].concat()).fails(2, &["--from is 13", "12 rows"]);
    assert!(!work.path("out").exists());
}
