//! A workplace for tests of the real program: a temporary folder with a tiny model, a tokenizer and data.

#![allow(dead_code)] // each test file uses its own part

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Tokens of the tokenizer; the models have 101 rows, so that some are padding.
pub const TOKENS: usize = 97;

/// A temporary folder with `model`, and `train.jsonl` in words of its tokenizer.
pub struct Work {
    folder: tempfile::TempDir,
}

/// What a call of the program came to.
pub struct Called {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Called {
    /// Runs the program.
    pub fn of(mut command: Command) -> Self {
        let output: Output = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes text");
        Called {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// The call did what was asked.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "out:\n{}\nerr:\n{}", self.out, self.err);
        self
    }

    /// The call failed with `code` and an error that holds all of `parts`.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "out:\n{}\nerr:\n{}", self.out, self.err);
        assert!(self.err.contains("error: "), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "expected {part:?} in:\n{}", self.err);
        }
        self
    }

    /// The lines of the output as JSON.
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../toktune/tests/fixtures")
}

impl Work {
    /// With the model whose head is its embedding.
    pub fn new() -> Self {
        Self::with("llama_tied")
    }

    /// With a model of the library's fixtures.
    pub fn with(fixture: &str) -> Self {
        let work = Work { folder: tempfile::tempdir().expect("a temporary folder") };
        let model = work.path("model");
        std::fs::create_dir(&model).expect("a folder");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures().join(fixture).join(name), model.join(name)).expect("copied");
        }
        std::fs::copy(fixtures().join(fixture).join("rows.jsonl"), work.path("ids.jsonl")).expect("copied");
        work.write("model/tokenizer.json", tokenizer().to_string());
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
        work.write("model/tokenizer_config.json", config.to_string());
        let rows: String = (0..12)
            .map(|i| {
                let prompt = format!("w{} w{} w{}", 10 + i, 20 + i, 30 + i);
                let completion = format!("<calc> w{} </calc> w7 w{}", 40 + i, 50 + i);
                format!("{}\n", json!({"prompt": prompt, "completion": completion}))
            })
            .collect();
        work.write("train.jsonl", &rows);
        work
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("written");
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Reads a JSON file.
    #[track_caller]
    pub fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).expect("JSON")
    }

    /// The program in this folder, with nothing of the environment that changes what it does.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toktune"));
        command.args(arguments).current_dir(self.folder.path());
        command.env_remove("TOKTUNE_ISA").env_remove("NO_COLOR");
        command
    }

    /// Calls the program.
    pub fn call(&self, arguments: &[&str]) -> Called {
        Called::of(self.command(arguments))
    }

    /// Calls `train` on the model and the data into `out`.
    pub fn train(&self, more: &[&str]) -> Called {
        let usual = ["train", "--model", "model", "--data", "train.jsonl", "--output", "out"];
        self.call(&[&usual[..], more].concat())
    }

    /// Nothing was written.
    #[track_caller]
    pub fn is_untouched(&self) {
        assert!(!self.path("out").exists(), "the output folder was made");
    }
}

/// Words `w0` to `w93` after three special tokens, in lower case.
fn tokenizer() -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let words = special.iter().map(|s| s.to_string()).chain((0..TOKENS - 3).map(|i| format!("w{i}")));
    let vocab: serde_json::Map<String, Value> =
        words.enumerate().map(|(id, word)| (word, Value::from(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}
