//! The commands beside `train`.

mod common;
use common::Work;
use serde_json::json;

/// A workplace with an adapter in `out` that has two added tokens, the second a special one.
fn trained() -> Work {
    let work = Work::new();
    work.train(&["--add-token", "<calc>", "--add-special-token", "</calc>", "--num-epochs", "4"]).ok();
    work
}

#[test]
fn eval_tells_losses_of_base_and_adapter() {
    let work = trained();
    let usual = ["eval", "--model", "model", "--adapter", "out", "--data", "train.jsonl", "--compare-base"];
    let told = work.call(&usual).ok();
    for part in ["12 rows", "base", "adapter", "loss at the tokens", "<calc> (97)", "perplexity"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let json = work.call(&[&usual[..], &["--log-format", "json"]].concat()).ok().json();
    assert_eq!(json.len(), 1);
    assert_eq!((&json[0]["event"], &json[0]["rows"]), (&json!("eval"), &json!(12)));
    assert!(json[0]["loss"].as_f64() < json[0]["base"]["loss"].as_f64(), "{}", json[0]);
    let told = work.call(&["eval", "--model", "model", "--data", "ids.jsonl", "--token", "w7"]).ok();
    assert!(told.out.contains("w7 (10)"), "{}", told.out);
    work.call(&["eval", "--model", "model", "--data", "ids.jsonl", "--token-ids", "101"])
        .fails(2, &["token id 101 is out of range"]);
}

#[test]
fn generate_is_greedy_and_draws_by_its_seed() {
    let work = trained();
    let usual = ["generate", "--model", "model", "--adapter", "out", "--prompt", "w10 w20 w30"];
    let call = |more: &[&str]| work.call(&[&usual[..], &["--max-new-tokens", "12"], more].concat()).ok();
    let greedy = call(&[]);
    assert!(greedy.out.ends_with('\n') && !greedy.out.trim().is_empty(), "{}", greedy.out);
    assert_eq!(greedy.out, call(&["--seed", "9"]).out, "nothing is drawn");
    let drawn = call(&["--temperature", "3", "--seed", "1", "--top-k", "0"]).out;
    assert_eq!(drawn, call(&["--temperature", "3", "--seed", "1", "--top-k", "0", "--do-sample"]).out);
    assert_ne!(drawn, call(&["--temperature", "3", "--seed", "2", "--top-k", "0"]).out);
    call(&["--repetition-penalty", "2"]);
    work.call(&[&usual[..], &["--temperature", "0"]].concat()).fails(2, &["--temperature", "above 0"]);
    work.call(&[&usual[..], &["--top-p", "2"]].concat()).fails(2, &["--top-p"]);
}

#[test]
fn hidden_tokens_are_shown_when_asked_for() {
    let work = trained();
    let call = |seed: u32, more: &[&str]| {
        let seed = seed.to_string();
        let usual =
            ["generate", "--model", "model", "--adapter", "out", "--prompt", "w10", "--max-new-tokens", "50"];
        // so hot that every token is about as likely as any other
        work.call(&[&usual[..], &["--temperature", "100", "--top-k", "0", "--seed", &seed], more].concat())
            .ok()
    };
    let drawn = |seed: &u32| call(*seed, &["--show-special-tokens"]).out.contains("</calc>");
    let seed = (0..40).find(drawn).expect("a text with the special token");
    let hidden = call(seed, &[]);
    assert!(!hidden.out.contains("</calc>"), "{}", hidden.out);
    assert!(hidden.err.contains("hidden: </calc>; --show-special-tokens shows"), "{}", hidden.err);
}

#[test]
fn generate_renders_conversations() {
    let work = trained();
    let call = |content: &str| {
        work.write("chat.json", content);
        work.call(&["generate", "--model", "model", "--messages", "chat.json", "--max-new-tokens", "2"])
    };
    let chat = r#"[{"role": "user", "content": "w1 w2"}]"#;
    call(chat).fails(1, &["chat.json", "no chat template"]);
    work.write("model/chat_template.jinja", "{% for m in messages %}{{ m.content }} {% endfor %}w9");
    call(chat).ok();
    call(&format!("{{\"messages\": {chat}}}")).ok();
    call("{").fails(1, &["chat.json: not JSON"]);
    call("3").fails(1, &["expected a list of messages"]);
    call("[]").fails(1, &["no messages"]);
    work.call(&["generate", "--model", "model"]).fails(2, &["--prompt"]);
}

#[test]
fn what_a_chat_template_makes_of_rows_is_said() {
    let work = trained();
    let template = "{% for m in messages %}{{ 'w5 ' if m.role == 'assistant' else 'w4 ' }}\
        {{ m.content if loop.last or m.role == 'user' else m.content|replace('w1', 'w2') }} w6 {% endfor %}\
        {% if add_generation_prompt %}w5 {% endif %}";
    work.write("model/chat_template.jinja", template);
    let turns =
        r#"{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w1 w1", "reasoning": "w7"}"#;
    work.write("chat.jsonl", format!("{{\"messages\": [{turns}, {turns}]}}\n"));
    let told = work.call(&["eval", "--model", "model", "--data", "chat.jsonl"]).ok();
    for part in
        ["1 conversation of 1 became several", "ignores `reasoning_content` in 1 of 1 row that has it"]
    {
        assert!(told.err.contains(part), "{part}: {}", told.err);
    }
}

#[test]
fn a_merged_model_needs_no_adapter() {
    let work = trained();
    let told = work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"]).ok();
    for part in [
        "opened again: ",
        "as trained or appended, rounded by at most 0;",
        "every other byte of ",
        "logits differ by at most 0",
    ] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let eval = |more: &[&str]| {
        let usual = ["eval", "--data", "train.jsonl", "--log-format", "json"];
        work.call(&[&usual[..], more].concat()).ok().json()[0]["loss"].as_f64().expect("a loss")
    };
    let (adapter, merged) = (eval(&["--model", "model", "--adapter", "out"]), eval(&["--model", "merged"]));
    // the adapter's pass computes the rows before a trained token apart, in another order of sums
    assert!((adapter - merged).abs() < 1e-5, "{adapter} {merged}");
    work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"]).fails(2, &["merged"]);
    let asked = ["merge", "--model", "model", "--adapter", "out", "--output", "half", "--dtype", "bf16"];
    let told = work.call(&asked).ok();
    for part in ["every other entry of ", " in the type asked for rounded by at most 0.0"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    assert_eq!(work.read_json("half/config.json")["dtype"], "bfloat16");
    // widened again: the rows trained over the rounded model are there to the bit
    let exact = ["merge", "--model", "half", "--adapter", "out", "--output", "exact", "--dtype", "f32"];
    let told = work.call(&exact).ok();
    for part in ["rounded by at most 0;", " in the type asked for as it was; logits differ by at most 0\n"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    assert_eq!(work.read_json("exact/config.json")["dtype"], "float32");
    work.call(&["merge", "--model", "model", "--adapter", "model", "--output", "x"])
        .fails(1, &["adapter_config.json"]);
}

#[test]
fn inspect_tells_what_lies_there() {
    let work = trained();
    let told = work.call(&["inspect", "model"]).ok();
    for part in ["Llama", "101 rows, 97 tokens, 4 unused padding rows", "is tied", "root mean square"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let told = work.call(&["inspect", "out"]).ok();
    for part in ["Trainable Tokens", "97 <calc>  norm", "[2, 32]", "trainable_tokens_delta"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let told = work.call(&["inspect", "train.jsonl"]).ok();
    assert!(told.out.contains("12 with `prompt`"), "{}", told.out);
    let json = work.call(&["inspect", "train.jsonl", "--model", "model", "--log-format", "json"]).ok().json();
    assert_eq!((&json[0]["kind"], &json[0]["tokens"]["longest"]), (&json!("data"), &json!(9)));
    for path in ["model", "out"] {
        assert_eq!(work.call(&["inspect", path, "--log-format", "json"]).ok().json().len(), 1);
    }
    work.call(&["inspect", "nothing"]).fails(1, &["nothing: there is no such folder or file"]);
}

#[test]
fn help_and_version_succeed() {
    let work = Work::new();
    for arguments in [&["--help"][..], &["train", "--help"], &["--version"], &["generate", "-h"]] {
        let told = work.call(arguments).ok();
        assert!(told.out.contains("toktune") && told.err.is_empty());
    }
    work.call(&["trian"]).fails(2, &["'train'"]);
    work.call(&["train", "--batchsize", "3"]).fails(2, &["--batch-size"]);
}
