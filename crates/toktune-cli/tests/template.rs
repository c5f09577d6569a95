//! Control tokens of chat templates: found, trained, and where a turn ends texts end.

mod common;

use common::{Called, Work};
use serde_json::{Value, json};

const CHATML: [&str; 3] = ["--template-tokens", "--chat-template", "chatml"];

/// Twelve conversations of one turn.
fn chats(work: &Work) {
    let rows: String = (0..12)
        .map(|i| {
            let ask = json!({"role": "user", "content": format!("w{} w{}", 10 + i, 20 + i)});
            let answer = json!({"role": "assistant", "content": format!("w{} w7", 40 + i)});
            format!("{}\n", json!({"messages": [ask, answer]}))
        })
        .collect();
    work.write("chats.jsonl", rows);
    work.write("ask.json", json!([{"role": "user", "content": "w10 w20"}]).to_string());
}

fn train(work: &Work, more: &[&str]) -> Called {
    let usual = ["train", "--model", "model", "--data", "chats.jsonl", "--output", "out"];
    work.call(&[&usual[..], more].concat())
}

fn trained(work: &Work) -> Value {
    work.read_json("out/adapter_config.json")["token_indices"].clone()
}

/// Gives a model two tokens of the vocabulary as its template's, the second of which (id 96) has a row of zeros where `zeroed`.
fn with_template(work: &Work, zeroed: bool) {
    let mut tokenizer = work.read_json("model/tokenizer.json");
    for (old, new, id) in [("w92", "<|start|>", 95), ("w93", "<|end|>", 96)] {
        let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
        assert_eq!(vocab.shift_remove(old), Some(json!(id)));
        vocab.insert(new.into(), json!(id));
        let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
        let mut token = added[2].clone();
        (token["id"], token["content"]) = (json!(id), json!(new));
        added.push(token);
    }
    work.write("model/tokenizer.json", tokenizer.to_string());
    let mut config = work.read_json("model/tokenizer_config.json");
    config["chat_template"] = "{% for m in messages %}<|start|> {{ m.content }} <|end|> {% endfor %}\
        {% if add_generation_prompt %}<|start|> {% endif %}"
        .into();
    work.write("model/tokenizer_config.json", config.to_string());
    if !zeroed {
        return;
    }
    let mut bytes = work.read("model/model.safetensors");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let index: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let tensor = &index["model.embed_tokens.weight"];
    let at = |value: &Value| value.as_u64().expect("a number") as usize;
    let (start, row) = (8 + header + at(&tensor["data_offsets"][0]), 4 * at(&tensor["shape"][1]));
    bytes[start + 96 * row..start + 97 * row].fill(0);
    work.write("model/model.safetensors", bytes);
}

#[test]
fn a_model_without_a_template_learns_chatml_and_stops_by_itself() {
    let work = Work::new();
    chats(&work);
    let long = ["--max-steps", "200", "--learning-rate", "0.05", "--require-emission", "0.75"];
    let held_out = ["--eval-data", "chats.jsonl", "--log-format", "json"];
    let called = train(&work, &[&CHATML[..], &long, &held_out].concat()).ok();
    for part in [
        "'<|im_start|>' (id 97): new",
        "a turn ends with '<|im_end|>' (id 98); texts end at '</s>' (id 2), '<|im_end|>' (id 98)",
    ] {
        assert!(called.err.contains(part), "{part}: {}", called.err);
    }
    let end = called.json().pop().expect("an end");
    let after = &end["emission"]["after"];
    // what is never to be written is not tried
    assert_eq!((after["tokens"].as_array().map(Vec::len), &after["tokens"][0]["id"]), (Some(1), &json!(98)));
    assert_eq!(after["to_end"], 12, "{end:#}");
    assert!(after["ended"].as_u64() >= Some(11), "{end:#}");
    assert_eq!(trained(&work), json!([97, 98]));
    let ends = json!({"eos_token_id": [2, 98]});
    assert_eq!(work.read_json("out/generation_config.json"), ends);
    let template = String::from_utf8(work.read("out/chat_template.jinja")).expect("text");
    assert!(template.contains("<|im_start|>assistant"), "{template}");
    let answer = |more: &[&str]| {
        let usual = ["generate", "--messages", "ask.json", "--show-special-tokens", "--max-new-tokens", "40"];
        work.call(&[&usual[..], more].concat()).ok().out
    };
    let text = answer(&["--model", "model", "--adapter", "out"]);
    assert!(text.trim_end().ends_with("<|im_end|>") && text.split_whitespace().count() < 39, "{text}");
    // a merged model has all of it in its own folder, and an exported adapter in its
    work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"]).ok();
    assert_eq!(work.read_json("merged/generation_config.json"), ends);
    assert_eq!(answer(&["--model", "merged"]), text);
    for (form, folder) in [("peft", "small"), ("lora-onehot", "served")] {
        let export = ["export", "--model", "model", "--adapter", "out", "--to", form, "--output", folder];
        work.call(&export).ok();
        assert_eq!(work.read_json(&format!("{folder}/generation_config.json")), ends);
        assert_eq!(work.read(&format!("{folder}/chat_template.jinja")), template.as_bytes());
    }
}

#[test]
fn a_models_own_settings_stay_beside_the_end_of_a_turn() {
    let work = Work::new();
    chats(&work);
    work.write("model/generation_config.json", json!({"eos_token_id": 5, "top_k": 7}).to_string());
    train(&work, &[&CHATML[..], &["--max-steps", "1"]].concat()).ok();
    assert_eq!(work.read_json("out/generation_config.json")["eos_token_id"], json!([2, 5, 98]));
    work.call(&["merge", "--model", "model", "--adapter", "out", "--output", "merged"]).ok();
    let merged = work.read_json("merged/generation_config.json");
    assert_eq!(merged, json!({"eos_token_id": [5, 2, 98], "top_k": 7}));
}

#[test]
fn just_the_tokens_that_were_never_learnt_are_trained() {
    let work = Work::new();
    chats(&work);
    with_template(&work, true);
    let called = train(&work, &["--template-tokens", "--max-steps", "2"]).ok();
    for part in
        ["'<|start|>' (id 95): learnt", "'<|end|>' (id 96): a row of zeros", "a turn ends with '<|end|>'"]
    {
        assert!(called.err.contains(part), "{part}: {}", called.err);
    }
    // such a row starts as a new one does
    assert!(called.out.contains("mean"), "{}", called.out);
    assert_eq!(trained(&work), json!([96]));
    assert_eq!(work.read_json("out/generation_config.json"), json!({"eos_token_id": [2, 96]}));
    assert!(work.path("out/tokenizer.json").exists() && work.path("out/chat_template.jinja").exists());
    let preview =
        ["preview", "--model", "model", "--data", "chats.jsonl", "--template-tokens", "--rows", "1"];
    let shown = work.call(&preview).ok().out;
    assert!(shown.contains("w7⟦ <|end|>⟧"), "{shown}");
}

#[test]
fn a_model_that_has_learnt_them_all_says_so() {
    let work = Work::new();
    chats(&work);
    with_template(&work, false);
    let parts = ["has learnt every token", "'<|end|>' (id 96): learnt (distance", "--template-tokens=all"];
    train(&work, &["--template-tokens"]).fails(2, &parts);
    work.is_untouched();
    // beside something else it is a remark, and texts end where turns do
    let lora = ["--lora-r", "2", "--max-steps", "1"];
    train(&work, &[&["--template-tokens"][..], &lora].concat()).ok();
    assert_eq!(work.read_json("out/generation_config.json"), json!({"eos_token_id": [2, 96]}));
    std::fs::remove_dir_all(work.path("out")).expect("removed");
    train(&work, &["--template-tokens=all", "--max-steps", "1"]).ok();
    assert_eq!(trained(&work), json!([95, 96]));
    std::fs::remove_dir_all(work.path("out")).expect("removed");
    work.write("run.toml", "template-tokens = \"all\"\nmax-steps = 1\n");
    train(&work, &["--config", "run.toml"]).ok();
    std::fs::remove_dir_all(work.path("out")).expect("removed");
    work.write("run.toml", "template_tokens = true\n");
    train(&work, &["--config", "run.toml"]).fails(2, &parts[..1]);
}

#[test]
fn tokens_in_reserve_are_taken_and_lora_goes_along() {
    let work = Work::new();
    chats(&work);
    let mut tokenizer = work.read_json("model/tokenizer.json");
    for (old, new) in [("w89", "<unused0>"), ("w90", "<unused1>")] {
        let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
        let id = vocab.shift_remove(old).expect("a token");
        vocab.insert(new.into(), id);
    }
    work.write("model/tokenizer.json", tokenizer.to_string());
    let more = ["--use-reserved", "--lora-r", "2", "--max-steps", "1"];
    let called = train(&work, &[&CHATML[..], &more].concat()).ok();
    assert!(called.err.contains("'<|im_end|>' takes the place of '<unused1>' (id 93)"), "{}", called.err);
    let config = work.read_json("out/adapter_config.json");
    assert_eq!(config["trainable_token_indices"], json!([92, 93]));
    assert_eq!(work.read_json("out/generation_config.json"), json!({"eos_token_id": [2, 93]}));
}

#[test]
fn what_cannot_be_is_told_with_what_helps() {
    let work = Work::new();
    chats(&work);
    let refused = |more: &[&str], parts: &[&str]| {
        train(&work, more).fails(2, parts);
        work.is_untouched();
    };
    refused(&["--template-tokens"], &["no chat template", "--chat-template chatml"]);
    refused(&["--template-tokens", "--chat-template", "chatlm"], &["chatlm", "did you mean 'chatml'"]);
    work.write("faulty.jinja", "{% for %}");
    refused(&["--template-tokens", "--chat-template", "faulty.jinja"], &["--chat-template faulty.jinja"]);
    work.write("plain.jinja", "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}");
    refused(
        &["--template-tokens", "--chat-template", "plain.jinja"],
        &["writes no control token", "--add-special-token"],
    );
    refused(&["--template-tokens", "--adapter", "x"], &["--adapter"]);
    // rows that no template renders have none of its tokens
    work.train(&CHATML).fails(2, &["nothing can be learnt of '<|im_start|>', '<|im_end|>'", "`messages`"]);
    // a template alone leaves its tokens as they are
    let called = train(&work, &["--chat-template", "chatml", "--token", "w10", "--max-steps", "1"]).ok();
    assert!(called.err.contains("the tokenizer has no '<|im_start|>'"), "{}", called.err);
    assert!(work.path("out/chat_template.jinja").exists());
    let bert = Work::with("bert");
    bert.train(&CHATML).fails(2, &["writes no turns"]);
}
