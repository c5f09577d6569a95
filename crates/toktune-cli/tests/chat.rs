//! `toktune chat`: lines in, answers out, with the conversation so far.

mod common;

use common::{Called, Work};
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

/// A workplace whose tokenizer writes conversations as the words of all messages, and has an adapter of two tokens.
fn work() -> Work {
    let work = Work::new();
    let template =
        "{% for m in messages %}{% if m.role == 'system' %}w90 {% endif %}{{ m.content }} {% endfor %}";
    let config = json!({
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template,
    });
    work.write("model/tokenizer_config.json", config.to_string());
    work.train(&[
        "--add-token",
        "<calc>",
        "--add-special-token",
        "<think>",
        "--allow-unseen",
        "--max-steps",
        "2",
    ])
    .ok();
    work
}

fn chat(work: &Work, flags: &[&str], lines: &str) -> Called {
    let usual = ["chat", "--adapter", "out", "--max-new-tokens", "5"];
    let mut command = work.command(&[&usual[..], flags].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Called { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

fn answer(work: &Work, prompt: &str) -> String {
    let flags =
        ["generate", "--model", "model", "--adapter", "out", "--prompt", prompt, "--max-new-tokens", "5"];
    work.call(&flags).ok().out.trim().to_owned()
}

#[test]
fn a_conversation_is_what_was_said_so_far() {
    let work = work();
    let told = chat(&work, &[], "w1 w2\n\nw3\n/reset\nw1 w2\n/quit\nw9\n").ok();
    let answers: Vec<&str> = told.out.lines().map(str::trim).collect();
    assert_eq!(answers.len(), 3, "{}", told.out);
    let first = answer(&work, "w1 w2 ");
    assert_eq!([answers[0], answers[2]], [first.as_str(); 2]);
    // the second answer follows from the first one too
    assert_eq!(answers[1], answer(&work, &format!("w1 w2 {first} w3 ")));
    let system = chat(&work, &["--system", "w8"], "w1\n").ok();
    assert_eq!(system.out.trim(), answer(&work, "w90 w8 w1 "));
}

#[test]
fn a_line_that_cannot_be_answered_ends_nothing() {
    let work = work();
    let long = "w1 ".repeat(400);
    let mut command = work.command(&["chat", "--adapter", "out", "--max-new-tokens", "3"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let lines = [long.as_bytes(), b"\n\xff\xfe\nw1 w2\n"].concat();
    child.stdin.take().expect("piped").write_all(&lines).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let answers = String::from_utf8_lossy(&output.stdout).lines().count();
    // the long one may fit into a model without learnt positions, and is answered then
    assert!(told.contains("not answered") || answers == 3, "{told} {answers}");
    assert!(answers >= 2, "{told} {answers}");
}

#[test]
fn the_base_is_found_from_the_adapter_or_asked_for() {
    let work = work();
    let named = chat(&work, &["--model", "model"], "w1\n").ok();
    assert_eq!(named.out, chat(&work, &[], "w1\n").ok().out);
    let mut config = work.read_json("out/adapter_config.json");
    config["base_model_name_or_path"] = json!(null);
    work.write("out/adapter_config.json", config.to_string());
    chat(&work, &[], "w1\n").fails(2, &["--model", "adapter_config.json"]);
    work.call(&["chat"]).fails(2, &["--model"]);
}

#[test]
fn what_cannot_be_talked_to_is_named() {
    let work = Work::new();
    work.call(&["chat", "--model", "model"]).fails(1, &["no chat template", "toktune generate"]);
    let bert = Work::with("bert");
    bert.call(&["chat", "--model", "model"]).fails(1, &["expected a causal language model"]);
}
