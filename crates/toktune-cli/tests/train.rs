//! `toktune train`, as a user calls it.

mod common;
use common::{TOKENS, Work};
use serde_json::json;

const CALC: [&str; 4] = ["--add-token", "<calc>", "--add-token", "</calc>"];

#[test]
fn tokens_by_id_and_by_name_are_trained_and_saved_as_pefts_files() {
    let work = Work::new();
    let told = work.train(&["--token-ids", "44,43", "--token", "w7", "--batch-size", "4"]).ok();
    let config = work.read_json("out/adapter_config.json");
    assert_eq!(config["token_indices"], json!([44, 43, 10]));
    assert_eq!(config["peft_type"], "TRAINABLE_TOKENS");
    let base = config["base_model_name_or_path"].as_str().expect("a path");
    assert!(std::path::Path::new(base).is_absolute() && base.ends_with("model"), "{base}");
    for name in ["adapter_model.safetensors", "README.md", "train_log.jsonl"] {
        assert!(!work.read(&format!("out/{name}")).is_empty());
    }
    assert!(!work.path("out/tokenizer.json").exists(), "no token was added");
    for part in [
        "rows: 3 of model.embed_tokens, to which lm_head is tied",
        "learning rate: ",
        "step 1/3",
        "step 3/3",
        "training loss",
        "toktune generate",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    assert!(told.err.is_empty(), "{}", told.err);
}

#[test]
fn added_tokens_take_padding_rows_before_the_model_grows() {
    let work = Work::new();
    let unseen = ["--add-special-token", "<end>", "--add-token", "w5"];
    let told = work.train(&[&CALC[..], &unseen, &["--allow-unseen"]].concat()).ok();
    let ids = work.read_json("out/adapter_config.json")["token_indices"].clone();
    assert_eq!(ids, json!([TOKENS, TOKENS + 1, 8, TOKENS + 2]));
    assert!(!told.err.contains("grows"), "{}", told.err);
    assert!(told.err.contains("'w5' is in the tokenizer already (id 8)"), "{}", told.err);
    assert!(told.err.contains("warning: '<end>' (id 99) is nowhere in the data"), "{}", told.err);
    let tokenizer = String::from_utf8(work.read("out/tokenizer.json")).expect("text");
    assert!(tokenizer.contains("</calc>"));
    // the same again with more tokens than there are padding rows
    let more: Vec<String> = (0..5).map(|i| format!("<extra{i}>")).collect();
    let flags: Vec<&str> = more.iter().flat_map(|token| ["--add-token", token.as_str()]).collect();
    let flags = [&CALC[..], &flags, &["--output", "grown", "--allow-unseen"]].concat();
    let told =
        work.call(&[&["train", "--model", "model", "--data", "train.jsonl"][..], &flags].concat()).ok();
    assert!(told.err.contains("the model grows from 101 to 104 rows"), "{}", told.err);
}

#[test]
fn rows_start_as_asked() {
    let work = Work::new();
    let first = |more: &[&str], output: &str| -> Vec<u8> {
        // a rate this small leaves the rows where they start
        let usual = ["train", "--model", "model", "--data", "train.jsonl", "--max-steps", "1"];
        let flags =
            ["--learning-rate", "1e-30", "--output", output, "--token", "w7", "--add-token", "<calc>"];
        work.call(&[&usual[..], &flags, more].concat()).ok();
        work.read(&format!("{output}/adapter_model.safetensors"))
    };
    let rows = |bytes: &[u8]| -> (Vec<u8>, Vec<u8>) {
        let data = &bytes[8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize..];
        let (k, width) = (2, 32 * 4);
        (data[..width].to_vec(), data[width..k * width].to_vec())
    };
    let (default, base) = (first(&[], "a"), first(&["--init", "base"], "b"));
    let (mean, random) = (first(&["--init", "mean"], "c"), first(&["--init", "random"], "d"));
    assert_eq!(rows(&default).0, rows(&base).0, "a known token starts as it is");
    assert_ne!(rows(&default).1, rows(&base).1);
    assert_ne!(rows(&mean).0, rows(&mean).1, "tokens never start alike");
    let alike = first(&["--init", "mean", "--init-spread", "0"], "g");
    assert_eq!(rows(&alike).0, rows(&alike).1, "an explicit start is for all");
    assert_eq!(rows(&alike).1, rows(&default).1);
    assert_ne!(rows(&random).0, rows(&random).1);
    assert_eq!(random, first(&["--init", "random"], "e"));
    assert_ne!(random, first(&["--init", "random", "--seed", "7"], "f"));
}

#[test]
fn each_token_starts_from_what_is_said_of_it_and_the_header_tells() {
    let work = Work::new();
    work.write(
        "tokens.jsonl",
        "{\"token\": \"<calc>\", \"description\": \"w4 w5 unknown\"}\n{\"token\": \"</calc>\", \"init\": \"like:w6\"}\n",
    );
    let header = |more: &[&str], output: &str| {
        let usual = ["train", "--model", "model", "--data", "train.jsonl", "--max-steps", "1"];
        let flags = ["--output", output, "--log-format", "json", "--tokens", "tokens.jsonl"];
        work.call(&[&usual[..], &flags, more].concat()).ok().json()[0].clone()
    };
    let told = |header: &serde_json::Value| -> Vec<(String, Vec<u64>)> {
        let of = |start: &serde_json::Value| {
            let from = start["from"].as_array().expect("a list");
            (
                start["start"].as_str().expect("a name").to_owned(),
                from.iter().map(|token| token["id"].as_u64().expect("an id")).collect(),
            )
        };
        header["starts"].as_array().expect("a list").iter().map(of).collect()
    };
    let usual = header(&["--token", "w7"], "a");
    let expected = |list: &[(&str, &[u64])]| -> Vec<(String, Vec<u64>)> {
        list.iter().map(|(name, ids)| ((*name).to_owned(), ids.to_vec())).collect()
    };
    // the rows are in the order of the adapter's
    assert_eq!(told(&usual), expected(&[("base", &[]), ("description", &[7, 8]), ("like", &[9])]));
    let start = &usual["starts"][2];
    assert_eq!((&start["places"][0]["nearest"][0]["id"], &start["token"]), (&json!(9), &json!("</calc>")));
    assert!(start["probability"].as_f64().is_some_and(|p| p > 1e-4 && p < 0.1), "{start}");
    assert_eq!(start["places"][0]["nearest"].as_array().map(Vec::len), Some(3));
    // what is said of one token counts before what is said of all, and that before nothing
    let flags = ["--init", "<calc>=like:w30", "--init", "mean", "--init", "w7=random", "--token", "w7"];
    let more = header(&flags, "b");
    assert_eq!(told(&more), expected(&[("random", &[]), ("like", &[33]), ("like", &[9])]));
    // in a file, in which every place asks for it as on the command line
    work.write("run.toml", "init = ['pieces', '<calc>=base']\n");
    let text = [
        "train",
        "--model",
        "model",
        "--data",
        "train.jsonl",
        "--max-steps",
        "1",
        "--output",
        "c",
        "--add-token",
        "<calc>",
        "--add-token",
        "</calc>",
        "--token",
        "w7",
        "--config",
        "run.toml",
    ];
    work.call(&text).fails(2, &["--init: '</calc>' has no pieces to start from"]);
    work.write("run.toml", "init = ['mean', '<calc>=base']\n");
    let told = work.call(&text).ok();
    assert!(told.out.contains("starts: w7 from the mean of the trained rows, longer than "), "{}", told.out);
    assert!(told.out.contains("starts: <calc> from its row as it is"), "{}", told.out);
}

#[test]
fn starts_that_cannot_be_are_refused_by_flag() {
    let work = Work::new();
    for (flags, parts) in [
        (&["--init", "median"][..], &["--init", "expected base, mean, random, pieces"][..]),
        (&["--init", "<cal>=mean"], &["--init '<cal>=...': it is not among", "did you mean '<calc>'?"]),
        (
            &["--init", "<calc>=like:w7 w8"],
            &["--init like: 'w7 w8': the tokenizer has no such token: it encodes to 2"],
        ),
        (&["--init", "<calc>=like:</calc>"], &["--init like: '</calc>'"]),
        (&["--init", "description"], &["--init: '<calc>' has no description"]),
        (&["--init", "<calc>=mean", "--init", "<calc>=base"], &["--init says two things of '<calc>'"]),
        (&["--init-spread", "-1"], &["--init-spread is -1, expected at least 0"]),
    ] {
        work.train(&[&CALC[..], flags].concat()).fails(2, parts);
    }
    work.write("tokens.jsonl", "{\"token\": \"<calc>\", \"init\": \"median\"}\n");
    work.train(&["--tokens", "tokens.jsonl"])
        .fails(2, &["--tokens, '<calc>': expected base", "found 'median'"]);
    work.is_untouched();
}

#[test]
fn tokens_that_are_never_learnt_are_refused() {
    let work = Work::new();
    let unseen = [&CALC[..], &["--add-token", "<end>"]].concat();
    work.train(&unseen).fails(
        1,
        &["1 of 3 chosen tokens is never learnt: '<end>' (id 99) is nowhere in the data", "--allow-unseen"],
    );
    work.is_untouched();
    // read, but only in prompts that nothing is learnt behind, or as the last of what is learnt nowhere
    work.write(
        "masked.jsonl",
        "{\"input_ids\": [4, 5, 6, 7], \"labels\": [-100, 5, 6, -100]}\n{\"input_ids\": [6, 7], \"labels\": [-100, 7]}\n",
    );
    let usual =
        ["train", "--model", "model", "--data", "masked.jsonl", "--max-steps", "1", "--output", "out"];
    work.call(&[&usual[..], &["--token-ids", "5,6,7"]].concat()).ok();
    work.write("masked.jsonl", "{\"input_ids\": [4, 5, 6, 7], \"labels\": [-100, 5, 6, -100]}\n");
    let usual =
        ["train", "--model", "model", "--data", "masked.jsonl", "--max-steps", "1", "--output", "two"];
    work.call(&[&usual[..], &["--token-ids", "5,7"]].concat())
        .fails(1, &["'w4' (id 7) is read 1 time, is no label, and no label comes after it"]);
    work.write("run.toml", "allow-unseen = true\n");
    let told = work.call(&[&usual[..], &["--token-ids", "5,7", "--config", "run.toml"]].concat()).ok();
    assert!(told.err.contains("warning: 'w4' (id 7) is read 1 time"), "{}", told.err);
}

#[test]
fn text_that_looks_like_a_token_and_is_not_it_is_told() {
    let work = Work::new();
    work.write("near.jsonl", "{\"text\": \"w1 <calc> w2 < CALC > w3\"}\n{\"text\": \"w1<|x|>w2 w3\"}\n");
    let usual = ["train", "--model", "model", "--data", "near.jsonl", "--max-steps", "1", "--output", "out"];
    let told = work.call(&[&usual[..], &["--add-token", "<calc>"]].concat()).ok();
    let expected =
        "not every text that looks like '<calc>' (id 97) is cut into it: '< CALC >' 1 time, cut into '<unk>'";
    assert!(told.err.contains(expected), "{}", told.err);
    // a token that another one covers
    let both = ["--add-token", "w1<|x|>", "--add-token", "<|x|>"];
    let usual = ["train", "--model", "model", "--data", "near.jsonl", "--max-steps", "1", "--output", "two"];
    work.call(&[&usual[..], &both].concat()).fails(
        1,
        &[
            "1 of 2 chosen tokens is never learnt: '<|x|>' (id 98) is nowhere in the data",
            "what looks like it: '<|x|>' 1 time, cut into 'w1<|x|>'",
        ],
    );
}

#[test]
fn an_untied_head_is_trained_with_added_tokens() {
    let work = Work::with("llama_untied");
    let told = work.train(&CALC).ok();
    assert!(told.err.contains("the head lm_head is not tied to model.embed_tokens"), "{}", told.err);
    assert!(told.err.contains("grows from 97 to 99"), "{}", told.err);
    let target = work.read_json("out/adapter_config.json")["target_modules"].clone();
    assert_eq!(target, json!(["model.embed_tokens", "lm_head"]));
    let flags = [&CALC[..], &["--target-modules", "embed_tokens", "--output", "one"]].concat();
    let told =
        work.call(&[&["train", "--model", "model", "--data", "train.jsonl"][..], &flags].concat()).ok();
    assert!(!told.err.contains("tied"), "{}", told.err);
    let known = ["train", "--model", "model", "--data", "train.jsonl", "--token", "w7", "--output", "known"];
    let told = work.call(&known).ok();
    assert!(!told.err.contains("warning") && told.err.contains("said as before"), "{}", told.err);
    let head = [&known[..8], &["known-head", "--target-modules", "lm_head"]].concat();
    let told = work.call(&head).ok();
    assert!(told.err.contains("read as model.embed_tokens has them"), "{}", told.err);
}

#[test]
fn json_lines_have_their_shape() {
    let work = Work::new();
    let more =
        ["--log-format", "json", "--batch-size", "4", "--eval-data", "train.jsonl", "--eval-every", "1"];
    let told = work.train(&[&CALC[..], &more, &["--save-every", "2", "--log-every", "2"]].concat()).ok();
    let lines = told.json();
    let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    let expected =
        ["header", "eval", "step", "eval", "step", "eval", "saved", "step", "eval", "saved", "end"];
    assert_eq!(events, expected);
    let header = &lines[0];
    assert_eq!((&header["family"], &header["steps"]), (&json!("Llama"), &json!(3)));
    assert_eq!(
        header["tokens"][0],
        json!({"id": 97, "token": "<calc>", "added": true, "inputs": 12, "labels": 12})
    );
    assert!(header["learning_rate"].as_f64().is_some_and(|rate| rate > 0.0));
    assert_eq!((&header["device"], &header["precision"]), (&json!("cpu"), &json!("f32")));
    let step = &lines[2];
    for key in ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "loss_tokens", "seconds"] {
        assert!(step[key].is_number(), "{key}: {step}");
    }
    assert!(
        lines[1]["token_loss"].is_number() && lines[1]["tokens"][1]["token"] == "</calc>",
        "{}",
        lines[1]
    );
    let end = lines.last().expect("an end");
    assert!(end["after"]["loss"].as_f64() < end["before"]["loss"].as_f64(), "{end}");
    let log = String::from_utf8(work.read("out/train_log.jsonl")).expect("text");
    assert_eq!(log.lines().count(), 3, "the file has every step");
}

#[test]
fn a_resumed_run_ends_with_the_same_bytes() {
    let work = Work::new();
    let train = |output: &str, more: &[&str]| {
        let usual =
            ["train", "--model", "model", "--data", "train.jsonl", "--batch-size", "5", "--save-every", "2"];
        work.call(&[&usual[..], &CALC, &["--output", output], more].concat()).ok()
    };
    train("whole", &["--max-steps", "7"]);
    train("parts", &["--max-steps", "4"]);
    let told = train("parts", &["--max-steps", "7", "--resume", "--threads", "1"]);
    assert!(told.err.contains("going on after step 4"), "{}", told.err);
    for name in ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"] {
        assert_eq!(work.read(&format!("whole/{name}")), work.read(&format!("parts/{name}")), "{name}");
    }
    let told = train("parts", &["--max-steps", "7", "--resume"]);
    assert!(told.out.contains("step 7/7") || told.out.contains("none to take"), "{}", told.out);
    work.call(&[
        "train",
        "--model",
        "model",
        "--data",
        "train.jsonl",
        "--output",
        "parts",
        "--resume",
        "--seed",
        "1",
        "--batch-size",
        "5",
        "--add-token",
        "<calc>",
        "--add-token",
        "</calc>",
    ])
    .fails(2, &["the run was begun otherwise", "seed was 42, is 1 now"]);
}

#[test]
fn an_adapter_is_gone_on_from_with_its_tokenizer() {
    let work = Work::new();
    work.train(&CALC).ok();
    let usual =
        ["train", "--model", "model", "--data", "train.jsonl", "--adapter", "out", "--output", "more"];
    let told = work.call(&[&usual[..], &["--log-format", "json"]].concat()).ok();
    assert_eq!(told.json()[0]["tokens"][1]["token"], "</calc>");
    assert!(work.path("more/tokenizer.json").exists());
    assert_ne!(work.read("more/adapter_model.safetensors"), work.read("out/adapter_model.safetensors"));
    work.call(&[&usual[..], &["--token", "w7"]].concat())
        .fails(2, &["--adapter", "--token", "cannot be used with"]);
    // the fixture that PEFT wrote
    let pefts = concat!(env!("CARGO_MANIFEST_DIR"), "/../toktune/tests/fixtures/llama_tied/adapter");
    work.call(&[
        "train",
        "--model",
        "model",
        "--data",
        "ids.jsonl",
        "--adapter",
        pefts,
        "--output",
        "theirs",
    ])
    .ok();
    assert_eq!(work.read_json("theirs/adapter_config.json")["token_indices"], json!([57, 3, 90, 21]));
}

#[test]
fn a_reader_that_goes_away_ends_the_output_and_not_the_run() {
    use std::process::Stdio;
    let work = Work::new();
    let arguments =
        ["train", "--model", "model", "--data", "train.jsonl", "--output", "out", "--token", "w7"];
    let mut child = work.command(&arguments).stdout(Stdio::piped()).spawn().expect("the program starts");
    drop(child.stdout.take());
    assert!(child.wait().expect("an end").success());
    assert!(work.path("out/adapter_model.safetensors").exists());
    let mut child = work.command(&["inspect", "model"]).stdout(Stdio::piped()).spawn().expect("started");
    drop(child.stdout.take());
    assert!(child.wait().expect("an end").success());
}

#[test]
fn tensorboard_gets_a_file_of_its_own() {
    let work = Work::new();
    let flags = ["--add-token", "<calc>", "--eval-data", "train.jsonl", "--tensorboard"];
    work.train(&[&flags[..], &["--max-steps", "3", "--save-every", "3"]].concat()).ok();
    let files = |work: &Work| std::fs::read_dir(work.path("out/runs")).expect("a folder").count();
    assert_eq!(files(&work), 1);
    // a run that goes on writes another one
    work.train(&[&flags[..], &["--max-steps", "5", "--resume"]].concat()).ok();
    assert_eq!(files(&work), 2);
}

#[test]
fn the_best_rows_are_kept_norms_held_and_checkpoints_removed() {
    let work = Work::new();
    let eval = ["--eval-data", "train.jsonl", "--eval-every", "1"];
    let rate = ["--learning-rate", "3", "--max-steps", "6", "--log-format", "json"];
    let best = ["--keep-best", "--early-stopping-patience", "2", "--norm", "clamp:1.5", "--save-every", "1"];
    let told = work.train(&[&CALC[..], &eval, &rate, &best, &["--keep-last", "1"]].concat()).ok();
    let lines = told.json();
    let end = lines.last().expect("an end");
    let of_step = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let after: Vec<(u64, f64)> = of_step("eval")
        .iter()
        .map(|line| (line["step"].as_u64().expect("a step"), line["loss"].as_f64().expect("a loss")))
        .filter(|(step, _)| *step > 0)
        .collect();
    let lowest = after.iter().copied().reduce(|x, y| if y.1 < x.1 { y } else { x }).expect("evaluated");
    assert_eq!(
        (end["best"]["step"].as_u64(), end["best"]["loss"].as_f64()),
        (Some(lowest.0), Some(lowest.1))
    );
    assert_eq!(end["after"]["loss"].as_f64(), Some(lowest.1));
    for step in of_step("step") {
        assert!(step["norms"]["largest"].as_f64().is_some_and(|largest| largest < 1.5001), "{step}");
    }
    let entries = std::fs::read_dir(work.path("out")).expect("a folder").flatten();
    let checkpoints = entries.filter(|e| e.file_name().to_string_lossy().starts_with("checkpoint-"));
    assert_eq!(checkpoints.count(), 1);
    let work = Work::new();
    // without a held-out loss there is none that is lowest
    work.train(&[&CALC[..], &["--keep-best"]].concat()).fails(2, &["--eval-every"]);
    work.train(&[&CALC[..], &["--norm", "clamp:0"]].concat()).fails(2, &["norm", "more than 0"]);
    work.train(&[&CALC[..], &["--norm", "tight"]].concat()).fails(2, &["expected free, clamp:X or fixed"]);
    let told = work
        .call(
            &[
                &[
                    "train",
                    "--model",
                    "model",
                    "--data",
                    "train.jsonl",
                    "--output",
                    "wild",
                    "--learning-rate",
                    "1",
                ][..],
                &CALC,
            ]
            .concat(),
        )
        .ok();
    assert!(told.err.contains("times as long as the median row of the vocabulary now"), "{}", told.err);
}
