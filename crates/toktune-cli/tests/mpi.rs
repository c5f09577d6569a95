//! Runs of several processes under `mpirun`: the same bits whatever their number, and what becomes of faults and signals.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use common::{Called, Work};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// `mpirun` in the folder, which starts so many processes on however few processors.
fn mpirun(work: &Work, count: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "-n", &count.to_string()]).current_dir(work.path("."));
    command.env_remove("TOKTUNE_ISA").env("NO_COLOR", "1");
    // tests run as root in containers
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

const TRAIN: [&str; 15] = [
    "train",
    "--model",
    "model",
    "--data",
    "train.jsonl",
    "--batch-size",
    "1",
    "--gradient-accumulation-steps",
    "4",
    "--add-token",
    "<calc>",
    "--add-token",
    "</calc>",
    "--threads",
    "1",
];

/// A run of so many processes into a folder.
fn train(work: &Work, count: usize, output: &str, more: &[&str]) -> Called {
    let mut command = mpirun(work, count);
    command.arg(env!("CARGO_BIN_EXE_toktune")).args(TRAIN).args(["--output", output]).args(more);
    Called::of(command)
}

/// A run without an end, which has taken a step.
fn running(work: &Work, count: usize, grace: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = mpirun(work, count);
    command.args(grace).arg(env!("CARGO_BIN_EXE_toktune")).args(TRAIN);
    // steps of this size would fill what mpirun reads from faster than it reads
    command.args([
        "--output",
        "out",
        "--max-steps",
        "100000000",
        "--log-every",
        "100000000",
        "--log-format",
        "json",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("mpirun starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    wait_for(&mut out, "\"event\":\"step\"");
    (child, out)
}

/// Reads lines until one holds a text.
fn wait_for(out: &mut BufReader<ChildStdout>, text: &str) -> String {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(out.read_line(&mut line).expect("lines") > 0, "the run ended before {text}");
    }
    line
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.expect("kill").success());
}

#[test]
fn the_same_bits_on_any_number_of_processes() {
    let work = Work::new();
    for more in [&[][..], &["--lora-r", "2", "--lora-dropout", "0.2"]] {
        let more = [&["--max-steps", "6", "--eval-data", "train.jsonl", "--eval-every", "3"], more].concat();
        let folder = |count: usize| format!("out-{}-{count}", more.len());
        let output = folder(0);
        work.call(&[&TRAIN[..], &["--output", &output], &more].concat()).ok();
        let adapter = |count: usize| work.read(&format!("{}/adapter_model.safetensors", folder(count)));
        for count in 1..=4 {
            let told = train(&work, count, &folder(count), &more).ok();
            assert!(
                told.out.contains(&format!("processes: {count}, {count} of them on this machine")),
                "{}",
                told.out
            );
            // one process speaks
            assert_eq!(told.out.matches("step 6/6").count(), 1, "{}", told.out);
            assert_eq!(adapter(count), adapter(0), "{count} processes, {more:?}");
            let log = work.read(&format!("{}/train_log.jsonl", folder(count)));
            assert_eq!(String::from_utf8_lossy(&log).lines().count(), 6);
        }
    }
}

#[test]
fn rows_are_encoded_once() {
    let work = Work::new();
    let more = ["--max-steps", "2", "--data-cache", "rows"];
    train(&work, 3, "out", &more).ok();
    // a file that is written anew is another one
    let files = || -> Vec<u64> {
        let entries = std::fs::read_dir(work.path("rows")).expect("the cache");
        entries.map(|entry| entry.expect("an entry").metadata().expect("a file").ino()).collect()
    };
    let first = files();
    assert_eq!(first.len(), 1);
    train(&work, 2, "again", &more).ok();
    assert_eq!(files(), first);
    assert_eq!(work.read("out/adapter_model.safetensors"), work.read("again/adapter_model.safetensors"));
}

#[test]
fn more_processes_than_micro_batches_are_refused() {
    let work = Work::new();
    let told = train(&work, 5, "out", &["--max-steps", "2"]);
    assert_ne!(told.code, 0);
    assert!(told.err.contains("5 processes for 4 micro-batches a step"), "{}", told.err);
    work.is_untouched();
}

#[test]
fn who_trains_something_else_is_named() {
    let work = Work::new();
    let other: String = (0..12).map(|at| format!("{{\"text\": \"w{at} <calc> w7 </calc>\"}}\n")).collect();
    work.write("other.jsonl", other);
    let program = env!("CARGO_BIN_EXE_toktune");
    // the last byte of the last weight
    std::fs::create_dir(work.path("changed")).expect("a folder");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let mut bytes = work.read(&format!("model/{name}"));
        if name.ends_with(".safetensors") {
            *bytes.last_mut().expect("bytes") ^= 1;
        }
        work.write(&format!("changed/{name}"), bytes);
    }
    for (model, data, expected) in [
        ("model", "other.jsonl", "data (hash of the encoded rows)"),
        ("model", "absent.jsonl", "absent.jsonl"),
        ("changed", "train.jsonl", "model (hash of its tensors)"),
    ] {
        let mut command = mpirun(&work, 1);
        let part = |model: &str, data: &str| -> Vec<String> {
            let mut part = vec![program.to_owned()];
            part.extend(TRAIN.iter().map(|of| match *of {
                "model" => model.to_owned(),
                "train.jsonl" => data.to_owned(),
                other => other.to_owned(),
            }));
            part.extend(["--output", "out", "--max-steps", "2"].map(str::to_owned));
            part
        };
        command.args(part("model", "train.jsonl")).args([":", "-n", "1"]).args(part(model, data));
        let begun = Instant::now();
        let told = Called::of(command);
        assert_ne!(told.code, 0);
        assert!(told.err.contains("process 1 on") && told.err.contains(expected), "{}", told.err);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(!work.path("out/adapter_model.safetensors").exists());
    }
}

#[test]
fn a_process_that_dies_ends_the_run_and_leaves_the_checkpoint() {
    let work = Work::new();
    let (child, mut out) = running(&work, 3, &[]);
    signal(child.id(), "USR1");
    let saved: Value = serde_json::from_str(&wait_for(&mut out, "\"event\":\"saved\"")).expect("JSON");
    let checkpoint = saved["path"].as_str().expect("a path").to_owned();
    // the youngest process of the run
    let found =
        Command::new("pgrep").args(["-P", &child.id().to_string(), "toktune"]).output().expect("pgrep");
    let ids = String::from_utf8(found.stdout).expect("numbers");
    let last: u32 = ids.lines().last().and_then(|id| id.trim().parse().ok()).expect("a process");
    let begun = Instant::now();
    signal(last, "KILL");
    let ended = child.wait_with_output().expect("ended");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(!ended.status.success());
    // mpirun names it
    let err = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(err.contains("rank 2") && err.contains("signal 9"), "{err}");
    assert!(work.path(&checkpoint).join("trainer_state.json").is_file());
    // and the run goes on from there with fewer, as one that was never stopped
    let step: u64 = checkpoint.rsplit('-').next().and_then(|step| step.parse().ok()).expect("a step");
    let steps = (step + 3).to_string();
    train(&work, 2, "out", &["--max-steps", &steps, "--resume"]).ok();
    train(&work, 1, "whole", &["--max-steps", &steps]).ok();
    assert_eq!(work.read("out/adapter_model.safetensors"), work.read("whole/adapter_model.safetensors"));
}

#[test]
fn a_signal_to_all_saves_the_run() {
    let work = Work::new();
    let (child, mut out) = running(&work, 2, &["--mca", "odls_base_sigkill_timeout", "10"]);
    signal(child.id(), "TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("lines");
    assert!(!child.wait_with_output().expect("ended").status.success());
    let checkpoints = std::fs::read_dir(work.path("out")).expect("the output").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"))
    });
    assert_eq!(checkpoints.count(), 1, "{rest}");
    assert!(work.path("out/adapter_model.safetensors").is_file());
}
