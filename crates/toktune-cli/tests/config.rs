//! The configuration file of `train`.

mod common;
use common::Work;
use serde_json::json;

const FILE: &str = r#"
model = "model"
data = ["train.jsonl"]
output = "out"
add_token = ["<calc>", "</calc>"]
batch-size = 3
max-steps = 2
learning-rate = 0.01
shuffle = false
log-format = "json"
"#;

#[test]
fn a_file_holds_a_whole_run_and_flags_win() {
    let work = Work::new();
    work.write("run.toml", FILE);
    let told = work.call(&["train", "--config", "run.toml"]).ok();
    let header = told.json()[0].clone();
    assert_eq!((&header["batch_size"], &header["steps"]), (&json!(3), &json!(2)));
    assert_eq!(header["learning_rate"], 0.01);
    let flags = ["--batch-size", "6", "--output", "other", "--add-token", "<calc>", "--num-epochs", "3"];
    let header = work.call(&[&["train", "--config", "run.toml"][..], &flags].concat()).ok().json()[0].clone();
    assert_eq!(header["batch_size"], 6);
    assert_eq!(header["steps"], 6, "--num-epochs outdoes max-steps of the file");
    assert_eq!(header["tokens"].as_array().map(Vec::len), Some(1));
}

#[test]
fn faults_of_the_file_are_named() {
    let work = Work::new();
    for (content, parts) in [
        ("batchsize = 3", &["unknown key 'batchsize'", "did you mean 'batch-size'?"][..]),
        ("config = 'x'", &["unknown key 'config'"]),
        ("batch-size = 'four'", &["'batch-size': expected an integer, found the string \"four\""]),
        ("batch-size = 2.5", &["'batch-size': expected an integer, found 2.5"]),
        ("learning_rate = true", &["'learning_rate': expected a number, found true"]),
        ("resume = 1", &["'resume': expected true or false, found 1"]),
        ("shuffle = 'no'", &["'shuffle': expected true or false"]),
        ("model = 3", &["'model': expected a string, found 3"]),
        ("token-ids = ['a']", &["'token-ids': expected a list of integers"]),
        ("lr-scheduler = 'cosinus'", &["invalid value 'cosinus'", "cosine"]),
        ("num-epochs = 1\nmax-steps = 2", &["--num-epochs", "cannot be used with", "--max-steps"]),
        ("batch-size = -1", &["invalid value '-1'", "--batch-size"]),
        ("batch-size = ", &["TOML", "line 1"]),
    ] {
        work.write("run.toml", content);
        let told = work.train(&["--config", "run.toml", "--token", "w7"]).fails(2, &["run.toml"]);
        for part in parts {
            assert!(told.err.contains(part), "{content}: expected {part:?} in {}", told.err);
        }
        work.is_untouched();
    }
    work.train(&["--config", "none.toml"]).fails(2, &["none.toml"]);
    work.write("run.toml", "batch-size = 3");
    work.call(&["train", "--config", "run.toml"]).fails(2, &["--model", "required"]);
}
