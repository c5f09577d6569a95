//! Runs that are stopped by a signal and go on.
#![cfg(unix)]

mod common;
use common::{Called, Work};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// A run that has taken a step.
fn running(work: &Work) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = work.command(&[
        "train",
        "--model",
        "model",
        "--data",
        "train.jsonl",
        "--output",
        "out",
        "--add-token",
        "<calc>",
        "--max-steps",
        "100000000",
        "--batch-size",
        "1",
        "--log-format",
        "json",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("\"event\":\"step\"") {
        line.clear();
        assert!(out.read_line(&mut line).expect("lines") > 0, "the run ended");
    }
    (child, out)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
}

#[test]
fn a_signal_saves_the_run_and_tells_how_it_goes_on() {
    for (name, status) in [("INT", 130), ("TERM", 143)] {
        let work = Work::new();
        let (mut child, mut out) = running(&work);
        signal(&child, name);
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("lines");
        assert_eq!(child.wait().expect("ended").code(), Some(status));
        let last: serde_json::Value =
            serde_json::from_str(rest.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["event"], "stopped");
        let step = last["step"].as_u64().expect("a step");
        let command = last["resume"].as_str().expect("a command");
        assert!(command.contains("--add-token '<calc>'") && command.ends_with("--resume"), "{command}");
        assert!(work.path(&format!("out/checkpoint-{step}/trainer_state.json")).is_file());
        assert!(work.path("out/adapter_model.safetensors").is_file());
        let page = String::from_utf8(work.read("out/report.html")).expect("text");
        assert!(page.contains("The run was stopped after step"), "{page}");
        // the command as it was told, but for its length
        let shell = command.replace("100000000", &(step + 2).to_string());
        let mut again = Command::new("sh");
        again.args(["-c", &shell]).current_dir(work.path("."));
        let resumed = Called::of(again).ok();
        assert_eq!(resumed.json().last().expect("an end")["steps"], step + 2);
        // a checkpoint with added tokens is an adapter of its own
        let checkpoint = format!("out/checkpoint-{step}");
        work.call(&["eval", "--model", "model", "--adapter", &checkpoint, "--data", "train.jsonl"]).ok();
    }
}

#[test]
fn a_signal_saves_a_checkpoint_and_the_run_goes_on() {
    let work = Work::new();
    let (mut child, mut out) = running(&work);
    signal(&child, "USR1");
    let next = |out: &mut BufReader<std::process::ChildStdout>, event: &str| -> serde_json::Value {
        let mut line = String::new();
        while !line.contains(&format!("\"event\":\"{event}\"")) {
            line.clear();
            assert!(out.read_line(&mut line).expect("lines") > 0, "the run ended");
        }
        serde_json::from_str(&line).expect("JSON")
    };
    let saved = next(&mut out, "saved")["path"].as_str().expect("a path").to_owned();
    assert!(work.path(&saved).join("trainer_state.json").is_file());
    let step: u64 = saved.rsplit('-').next().and_then(|step| step.parse().ok()).expect("a step");
    assert!(next(&mut out, "step")["step"].as_u64().expect("a step") > step);
    child.kill().expect("ended");
    child.wait().expect("ended");
}

#[test]
fn a_run_that_cannot_go_on_says_why() {
    let work = Work::new();
    let told = work.train(&["--token", "w7", "--max-steps", "2", "--save-every", "1", "--resume"]).ok();
    assert!(told.err.contains("--resume: there is no checkpoint in the output folder"), "{}", told.err);
    let other = ["--token", "w7", "--max-steps", "3", "--learning-rate", "0.5"];
    work.train(&[&other[..], &["--resume"]].concat())
        .fails(2, &["learning_rate was", "is 0.5 now", "--resume-anyway"]);
    let told = work.train(&[&other[..], &["--resume-anyway"]].concat()).ok();
    assert!(told.err.contains("warning: learning_rate was"), "{}", told.err);
    let wild = ["--token", "w7", "--learning-rate", "1e18", "--max-steps", "3", "--output", "wild"];
    work.call(&[&["train", "--model", "model", "--data", "train.jsonl"], &wild[..]].concat())
        .fails(1, &["step 1: a trained row", "the learning rate is far too high", "are in wild"]);
    let many = ["eval", "--model", "model", "--data", "train.jsonl", "--threads", "1000000"];
    work.call(&many).fails(2, &["--threads: expected at least 1 and at most 1024, found 1000000"]);
    work.write("file", "");
    let file =
        ["train", "--model", "model", "--data", "train.jsonl", "--token", "w7", "--output", "file/out"];
    work.call(&file).fails(1, &["file/out"]);
}
