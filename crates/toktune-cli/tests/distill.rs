//! `toktune distill`: words in texts to tokens that the model reads as it read their pieces.

mod common;

use common::{Called, Work};
use serde_json::json;

/// Texts in which `w11 w12` stands for something, and one that only begins like it.
fn corpus(texts: usize) -> String {
    let text = |i: usize| {
        let at = |n: usize| 20 + (i * 7 + n * 13) % 70;
        format!("w{} w{} w11 w12 w{} w{} w{} w{}", at(0), at(1), at(2), at(3), at(4), at(5))
    };
    (0..texts).map(|i| format!("{}\n", json!({"text": text(i)}))).collect()
}

fn distill(work: &Work, more: &[&str]) -> Called {
    let usual = [
        "distill",
        "--model",
        "model",
        "--words",
        "words.txt",
        "--corpus",
        "corpus.jsonl",
        "--output",
        "out",
    ];
    work.call(&[&usual[..], more].concat())
}

fn work() -> Work {
    let work = Work::new();
    work.write("words.txt", "w11 w12\n");
    work.write("corpus.jsonl", corpus(60));
    work
}

#[test]
fn a_token_comes_near_to_its_pieces() {
    let work = work();
    let called =
        distill(&work, &["--log-format", "json", "--max-steps", "200", "--learning-rate", "0.02"]).ok();
    let end = called.json().pop().expect("an end");
    let number = |part: &str, name: &str| end[part][name].as_f64().expect("a number");
    assert!(number("after", "kl") < number("before", "kl"), "{end:#}");
    let log = String::from_utf8(work.read("out/train_log.jsonl")).expect("text");
    let losses: Vec<f64> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["loss"].as_f64().expect("a loss")
        })
        .collect();
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    assert!(mean(&losses[180..]) < 0.8 * mean(&losses[..4]), "{losses:?}");
    let closed = 1.0 - number("after", "kl") / number("before", "kl");
    assert!((end["kl_closed"].as_f64().expect("a share") - closed).abs() < 1e-9, "{end:#}");
    assert_eq!(end["words"][0]["token"], "w11 w12");
    assert_eq!(work.read_json("out/distillation.json")["after"], end["after"]);
    // the tokenizer lies beside the rows, and the adapter opens
    let opened = work
        .call(&["tokens", "--model", "model", "--adapter", "out", "w1 w11 w12 w3", "--log-format", "json"])
        .ok();
    assert!(opened.out.contains("w11 w12"), "{}", opened.out);
    work.call(&["eval", "--model", "model", "--adapter", "out", "--data", "corpus.jsonl"]).ok();
    // the same flags give the same bytes, on any number of threads
    let again = Work::new();
    again.write("words.txt", "w11 w12\n");
    again.write("corpus.jsonl", corpus(60));
    distill(&again, &["--max-steps", "200", "--learning-rate", "0.02", "--threads", "1"]).ok();
    assert_eq!(work.read("out/adapter_model.safetensors"), again.read("out/adapter_model.safetensors"));
}

#[test]
fn every_loss_brings_it_nearer() {
    for loss in ["kl", "ce", "mse+0.5kl"] {
        let work = work();
        let flags = ["--loss", loss, "--log-format", "json", "--max-steps", "200", "--learning-rate", "0.02"];
        let end = distill(&work, &flags).ok().json().pop().expect("an end");
        let of = |part: &str, name: &str| end[part][name].as_f64().expect("a number");
        let name = if loss == "ce" { "loss" } else { "kl" };
        assert!(of("after", name) < of("before", name), "{loss}: {end:#}");
    }
}

#[test]
fn words_that_cannot_be_learnt_are_named() {
    let work = work();
    work.write("words.txt", "w11 w12\nw13\nnowhere at all\nw20 w33 w46\n");
    let called = distill(&work, &["--max-steps", "2"]).ok();
    for part in ["w13", "nowhere at all: it stands nowhere", "left out"] {
        assert!(called.err.contains(part), "{part}: {}", called.err);
    }
    let work = self::work();
    work.write("corpus.jsonl", corpus(3));
    distill(&work, &[]).fails(1, &["no word has 4 snippets", "--min-snippets"]);
    work.is_untouched();
}

#[test]
fn arguments_that_cannot_be_used_are_refused() {
    let work = work();
    distill(&work, &["--loss", "mae"]).fails(2, &["--loss", "expected mse, kl, ce"]);
    distill(&work, &["--generate", "4"]).fails(2, &["--generate", "--corpus"]);
    let without = ["distill", "--model", "model", "--words", "words.txt", "--output", "out"];
    work.call(&without).fails(2, &["--corpus"]);
    distill(&work, &["--batch-size", "0"]).fails(2, &["--batch-size"]);
    let bert = Work::with("bert");
    bert.write("words.txt", "w11 w12\n");
    bert.write("corpus.jsonl", corpus(9));
    distill(&bert, &[]).fails(1, &["expected a causal language model", "masked"]);
    bert.is_untouched();
}

#[test]
fn the_model_can_write_the_texts_itself() {
    let work = work();
    let called = work
        .call(&[
            "distill",
            "--model",
            "model",
            "--words",
            "words.txt",
            "--generate",
            "12",
            "--output",
            "out",
            "--max-steps",
            "2",
        ])
        .ok();
    assert!(called.err.contains("12 texts written, 100 %"), "{}", called.err);
    assert!(work.path("out/adapter_model.safetensors").exists());
}

/// A run with these flags in a folder of its own.
fn ran(words: (&str, &str), more: &[&str]) -> (Work, Called) {
    let work = work();
    work.write(words.0, words.1);
    let mut flags = vec!["--words", words.0];
    if !more.contains(&"--max-steps") {
        flags.extend(["--max-steps", "8", "--learning-rate", "0.02"]);
    }
    let usual = ["distill", "--model", "model", "--corpus", "corpus.jsonl", "--output", "out"];
    let called = work.call(&[&usual[..], &flags, more].concat());
    (work, called)
}

#[test]
fn a_list_says_what_rows_start_from_and_which_are_special() {
    let rows = |line: &str| {
        // the first step changes little
        let (work, called) = ran(("words.jsonl", line), &["--learning-rate", "1e-9", "--max-steps", "1"]);
        called.ok();
        let special = work.read_json("out/tokenizer.json")["added_tokens"]
            .as_array()
            .expect("added tokens")
            .iter()
            .find(|token| token["content"] == "w11 w12")
            .expect("the word")["special"]
            .clone();
        (work.read("out/adapter_model.safetensors"), special)
    };
    let (pieces, special) = rows("\"w11 w12\"");
    assert_eq!(special, false);
    assert_eq!(rows(r#"{"token": "w11 w12", "init": "pieces"}"#), (pieces.clone(), special));
    let (like, special) = rows(r#"{"token": " w11 w12", "init": "like:w40", "special": true}"#);
    assert_eq!(special, true);
    assert_ne!(like, pieces);
    let described = rows(r#"{"token": "w11 w12", "description": "w40"}"#).0;
    assert_eq!(described, like, "the mean of one row is that row");
    for (line, parts) in [
        (r#"{"token": "w11 w12", "init": "best"}"#, ["--words, 'w11 w12'", "in `init`, found 'best'"]),
        (r#"{"token": "w11 w12", "init": "like:w200"}"#, ["--words, 'w11 w12' like:", "w200"]),
        (r#"{"token": "w11 w12", "init": "description"}"#, ["--words, 'w11 w12'", "no description"]),
        (r#"{"token": "w11 w12", "start": "mean"}"#, ["unknown key `start`", "line 1"]),
    ] {
        let (work, called) = ran(("words.jsonl", line), &[]);
        let status = called.code;
        assert!([1, 2].contains(&status), "{status}: {}", called.err);
        parts.iter().for_each(|part| assert!(called.err.contains(part), "{part}: {}", called.err));
        work.is_untouched();
    }
    let (_, called) = ran(("words.txt", "w11 w12\nW11 w12\n"), &[]);
    let told = called.ok().err;
    assert!(told.contains("W11 w12: the same word as w11 w12"), "{told}");
}

#[test]
fn a_run_that_goes_on_from_a_checkpoint_gives_the_same_bytes() {
    let flags = ["--save-every", "3", "--loss", "mse+0.5kl"];
    let (work, called) = ran(("words.txt", "w11 w12\n"), &flags);
    called.ok();
    let rows = work.read("out/adapter_model.safetensors");
    let measured = work.read_json("out/distillation.json");
    for kept in [6, 3] {
        for step in [8, 6, 3].into_iter().filter(|step| *step > kept) {
            std::fs::remove_dir_all(work.path(&format!("out/checkpoint-{step}"))).unwrap_or_default();
        }
        std::fs::remove_file(work.path("out/adapter_model.safetensors")).expect("removed");
        let again = ["--max-steps", "8", "--learning-rate", "0.02", "--resume"];
        let called = distill(&work, &[&flags[..], &again].concat()).ok();
        assert!(!called.err.contains("no checkpoint"), "{}", called.err);
        assert_eq!(work.read("out/adapter_model.safetensors"), rows, "from step {kept}");
        let now = work.read_json("out/distillation.json");
        for name in ["before", "after", "words", "steps"] {
            assert_eq!(now[name], measured[name], "{name}");
        }
    }
    // other settings are told by name, and a folder of a run is not written over
    let again = ["--max-steps", "8", "--learning-rate", "0.02"];
    let other = [&again[..], &["--save-every", "3", "--loss", "ce", "--resume"]].concat();
    distill(&work, &other).fails(2, &["distillation was", "--resume-anyway"]);
    distill(&work, &again).fails(2, &["go on with that run by --resume"]);
}

#[test]
#[cfg(unix)]
fn a_signal_saves_the_run_and_tells_how_it_goes_on() {
    use std::io::{BufRead, BufReader, Read};
    let work = work();
    let flags = "distill --model model --words words.txt --corpus corpus.jsonl --output out --max-steps 100000000 \
        --batch-size 1 --lr-scheduler constant --log-format json";
    let mut command = work.command(&flags.split_whitespace().collect::<Vec<_>>());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut text = String::new();
    while !text.contains("\"event\":\"step\"") {
        text.clear();
        assert!(out.read_line(&mut text).expect("lines") > 0, "the run ended");
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    out.read_to_string(&mut text).expect("lines");
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "stopped");
    let step = last["step"].as_u64().expect("a step");
    let shell = last["resume"].as_str().expect("a command").replace("100000000", &(step + 2).to_string());
    assert!(shell.contains(" distill ") && shell.ends_with("--resume"), "{shell}");
    let mut again = std::process::Command::new("sh");
    again.args(["-c", &shell]).current_dir(work.path("."));
    assert_eq!(Called::of(again).ok().json().last().expect("an end")["steps"], step + 2);
}

#[test]
fn a_teacher_that_does_not_fit_lies_in_a_file() {
    let words = ("words.txt", "w11 w12\n");
    for loss in ["mse", "kl"] {
        let flags = ["--loss", loss];
        let (memory, called) = ran(words, &flags);
        let told = called.ok().err;
        assert!(told.contains("the teacher's states of") && told.contains("of memory"), "{told}");
        let (file, called) = ran(words, &[&flags[..], &["--memory-budget", "1MB"]].concat());
        let told = called.ok().err;
        assert!(told.contains("a temporary file in out (--memory-budget"), "{told}");
        assert_eq!(
            memory.read("out/adapter_model.safetensors"),
            file.read("out/adapter_model.safetensors"),
            "{loss}"
        );
        let names = |work: &Work| {
            let entries = std::fs::read_dir(work.path("out")).expect("a folder").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&memory), names(&file), "nothing of it is left");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_line_of_20_mb_takes_little_memory() {
    let work = work();
    let filler = "w30 w41 w52 w63 w74 w85 ".repeat(20_000);
    let text: String =
        (0..44).map(|i| format!("{filler}w{} w{} w11 w12 w{} w33 w44 ", 20 + i, 60 - i, 15 + i)).collect();
    assert!(text.len() > 20 << 20);
    work.write("long.txt", format!("{text}\n"));
    let flags = ["--corpus", "long.txt", "--max-steps", "2", "--log-format", "json"];
    let usual = ["distill", "--model", "model", "--words", "words.txt", "--output", "out"];
    let end = work.call(&[&usual[..], &flags].concat()).ok().json().pop().expect("an end");
    assert_eq!(end["words"][0]["places"], 44, "{end:#}");
    let of = |name: &str| end["words"][0][name].as_u64().expect("a number");
    assert!(of("train") >= 24 && of("held_out") >= 1, "{end:#}");
    let peak = end["peak_memory_bytes"].as_u64().expect("on Linux");
    assert!(peak < 100 << 20, "{peak}");
}
