//! Two answers to one prompt through the real program: looked at, trained on, evaluated, refused.

mod common;
use common::Work;
use serde_json::json;

/// Pairs whose prompt has a new word.
fn work() -> Work {
    let work = Work::new();
    let rows: String = (0..12)
        .map(|i| {
            let prompt = format!("w{} w{} w{} w4 w5 w6 w7 w8 <short>", 10 + i, 20 + i, 30 + i);
            let (chosen, rejected) = (format!(" w{}", 40 + i), format!(" w{} w2 w3 w2", 50 + i));
            format!("{}\n", json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
        })
        .collect();
    work.write("train.jsonl", rows);
    work
}

#[test]
fn a_control_word_is_learnt_from_pairs() {
    let work = work();
    let run = [
        "--add-token",
        "<short>",
        "--eval-data",
        "train.jsonl",
        "--max-steps",
        "12",
        "--learning-rate",
        "0.05",
    ];
    let called = work
        .train(&[&run[..], &["--log-format", "json", "--tensorboard", "--batch-size", "4"]].concat())
        .ok();
    let lines = called.json();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    assert_eq!(
        of("header")[0]["preference"],
        json!({"loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.0})
    );
    assert_eq!(of("header")[0]["data"]["kinds"], json!({"chosen": 12}));
    // every prompt is computed once for both of its answers: eight words and the token
    assert!(
        of("header")[0]["shared_rows"].as_u64().is_some_and(|rows| rows >= 12 * 9),
        "{}",
        of("header")[0]
    );
    let (steps, evaluations) = (of("step"), of("eval"));
    assert_eq!((steps.len(), evaluations.len()), (12, 2));
    assert_eq!(steps[0]["rewards/margins"].as_f64(), Some(0.0));
    let after = evaluations[1];
    assert!(after["rewards/margins"].as_f64().is_some_and(|margin| margin > 0.0), "{after}");
    assert!(after["rewards/accuracies"].as_f64().is_some_and(|share| share > 0.5), "{after}");
    let log = String::from_utf8(work.read("out/train_log.jsonl")).expect("text");
    assert!(log.contains("\"rewards/accuracies\":") && log.contains("\"logps/rejected\":"), "{log}");
    let board = std::fs::read_dir(work.path("out/runs"))
        .expect("a folder")
        .next()
        .expect("a file")
        .expect("an entry");
    let bytes = std::fs::read(board.path()).expect("read");
    for name in ["train/rewards/margins", "eval/rewards/accuracies"] {
        assert!(bytes.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }
    // evaluated by itself, beside the model without the adapter
    let eval = ["eval", "--model", "model", "--adapter", "out", "--data", "train.jsonl", "--compare-base"];
    let shown = work.call(&[&eval[..], &["--loss-type", "apo_zero"]].concat()).ok().out;
    for part in ["accuracy", "margin", "reward of the chosen", "pairs"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    let told = work.call(&[&eval[..], &["--log-format", "json"]].concat()).ok().json();
    assert_eq!(told[0]["base"]["rewards/margins"].as_f64(), Some(0.0));
    assert!(told[0]["rewards/margins"].as_f64().is_some_and(|margin| margin > 0.0), "{}", told[0]);
}

#[test]
fn the_lines_of_a_run_tell_how_answers_compare() {
    let work = work();
    let run = ["--add-token", "<short>", "--eval-data", "train.jsonl", "--max-steps", "2"];
    let anchored = ["--loss-type", "apo_down", "--beta", "0.3"];
    let out = work.train(&[&run[..], &anchored].concat()).ok().out;
    for part in [
        "preference: apo_down, beta 0.3, beside the model as the run begins",
        "held out after step 0: loss 1.0000  accuracy 0.0 %  margin 0.0000",
        "step 1/2",
        "reward of the rejected",
    ] {
        assert!(out.contains(part), "{part}:\n{out}");
    }
}

#[test]
fn pairs_are_shown_before_they_are_trained_on() {
    let work = work();
    let preview =
        ["preview", "--model", "model", "--data", "train.jsonl", "--add-token", "<short>", "--rows", "1"];
    let shown = work.call(&preview).ok().out;
    for part in [
        "chosen read",
        "chosen learnt",
        "rejected read",
        "rejected learnt",
        "12 `chosen`",
        "<short> (97): 24x read",
    ] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    let row = &work.call(&[&preview[..], &["--log-format", "json"]].concat()).ok().json()[0];
    assert_eq!(
        (row["parts"][0]["part"].as_str(), row["parts"][1]["part"].as_str()),
        (Some("chosen"), Some("rejected"))
    );
    let learnt = |part: usize| {
        let tokens = row["parts"][part]["tokens"].as_array().expect("tokens");
        tokens.iter().filter(|token| token["learnt"] == true).count()
    };
    assert_eq!((learnt(0), learnt(1)), (2, 5));
    let found =
        work.call(&["inspect", "train.jsonl", "--model", "model", "--log-format", "json"]).ok().json();
    assert_eq!((&found[0]["kinds"], &found[0]["tokens"]["labels"]), (&json!({"chosen": 12}), &json!(12 * 7)));
}

#[test]
fn flags_and_data_that_do_not_go_together_are_refused() {
    let work = work();
    let add = ["--add-token", "<short>"];
    for (flags, problem) in [
        (&["--beta", "0"][..], "--beta: expected more than 0, found 0"),
        (&["--label-smoothing", "0.5"], "--label-smoothing: expected at least 0 and less than 0.5"),
        (
            &["--loss-type", "apo_zero", "--label-smoothing", "0.1"],
            "--label-smoothing: expected 0 beside an anchored loss",
        ),
        (&["--loss-type", "ipo"], "apo_zero"),
    ] {
        work.train(&[&add[..], flags].concat()).fails(2, &[problem]);
    }
    work.write("plain.jsonl", r#"{"prompt": "w1 w2", "completion": "<short> w3"}"#);
    for flag in [["--beta", "0.2"], ["--loss-type", "sigmoid"], ["--label-smoothing", "0.1"]] {
        let plain = ["train", "--model", "model", "--data", "plain.jsonl", "--output", "out"];
        work.call(&[&plain[..], &add, &flag].concat()).fails(2, &[flag[0], "`chosen` and `rejected`"]);
        let eval = ["eval", "--model", "model", "--data", "ids.jsonl"];
        work.call(&[&eval[..], &flag].concat()).fails(2, &[flag[0]]);
    }
    work.train(&[&add[..], &["--eval-data", "plain.jsonl"]].concat())
        .fails(1, &["two answers to one prompt"]);
    work.train(&[&add[..], &["--max-length", "9"]].concat())
        .fails(1, &["train.jsonl:1", "--max-length of 9"]);
    work.is_untouched();
}
