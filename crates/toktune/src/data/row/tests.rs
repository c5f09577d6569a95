//! Each form of a row, and what is wrong with some.

use std::path::Path;

use serde_json::json;

use super::*;

fn at() -> Source {
    Source { file: Path::new("rows").into(), line: 7 }
}

fn row_by(keys: &RowKeys, row: Value) -> Result<Row, String> {
    Row::read(Content::Json(row.to_string().into_bytes()), keys, &at(), 100)
        .map_err(|error| error.to_string())
}

fn row(value: Value) -> Result<Row, String> {
    row_by(&RowKeys::default(), value)
}

fn messages(value: Value) -> Vec<Value> {
    match row(value).expect("sound").words {
        Words::Messages(conversation) => conversation.messages,
        other => panic!("{other:?}"),
    }
}

fn prompt(value: Value) -> (String, String) {
    match row(value).expect("sound").words {
        Words::Prompt { prompt, completion } => (prompt, completion),
        other => panic!("{other:?}"),
    }
}

#[test]
fn alpacas_rows_have_their_usual_prompt() {
    let (with, completion) =
        prompt(json!({"instruction": "Add.", "input": "1 2", "output": "3", "text": "..."}));
    assert_eq!(
        with,
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### \
         Response:\n"
    );
    assert_eq!(completion, "3");
    let (without, _) = prompt(json!({"instruction": "Add.", "input": "", "output": "3", "history": []}));
    assert_eq!(
        without,
        "Below is an instruction that describes a task. Write a response that appropriately completes the \
         request.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    );
    let (system, _) = prompt(json!({"instruction": "Add.", "output": "3", "system": "Be kind."}));
    assert_eq!(system, "Be kind.\n\n### Instruction:\nAdd.\n\n### Response:\n");
    let problem =
        row(json!({"instruction": "a", "output": "b", "history": [["q", "a"]]})).expect_err("earlier turns");
    assert!(problem.contains("`history`: 1 earlier turns"), "{problem}");
}

#[test]
fn share_gpts_speakers_become_roles() {
    let found = messages(json!({"conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
        {"from": "observation", "value": "1"},
    ], "system": "s"}));
    assert_eq!(
        Value::from(found),
        json!([
            {"role": "system", "content": "s"}, {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "assistant", "content": "",
             "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "content": "1"},
        ])
    );
    let usual = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    assert_eq!(Value::from(messages(json!({ "conversations": usual.clone() }))), usual);
    // the same as an object of lists, as `datasets` keeps it
    let columns = json!({"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}});
    assert_eq!(Value::from(messages(columns)), usual);
    for (turn, expected) in [
        (
            json!({"from": "narrator", "value": "x"}),
            "`conversations[0].from`: `narrator` is nobody who is known",
        ),
        (json!({"from": "human"}), "`conversations[0].value` is missing"),
        (json!({"value": "x"}), "`conversations[0].from` is missing"),
        (json!({"from": "function_call", "value": "f(1)"}), "expected a call as JSON"),
        (json!("x"), "`conversations[0]` is a string"),
    ] {
        let problem = row(json!({ "conversations": [turn] })).expect_err("unsound");
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_prompt_of_messages_is_not_learnt() {
    let found = messages(json!({
        "prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}],
        "completion": [{"role": "assistant", "content": "b"}],
    }));
    let learnt: Vec<Option<bool>> = found.iter().map(|message| message["train"].as_bool()).collect();
    assert_eq!(learnt, [Some(false), Some(false), None]);
    assert!(found.iter().all(|message| message.get("weight").is_none()));
    let problem = row(json!({"prompt": "q", "completion": [{"role": "assistant"}]})).expect_err("mixed");
    assert!(problem.contains("`prompt` is a string, expected a list of objects with `role`"), "{problem}");
    let empty = row(json!({"prompt": [], "completion": [{"role": "assistant"}]})).expect_err("nothing");
    assert!(empty.contains("`prompt` is empty"), "{empty}");
}

#[test]
fn other_keys_are_read_when_they_are_named() {
    let qa = json!({"question": "q", "answer": "a", "text": "t"});
    let keys = |prompt: Option<&str>, completion: Option<&str>, text: Option<&str>| RowKeys {
        prompt: prompt.map(str::to_owned),
        completion: completion.map(str::to_owned),
        text: text.map(str::to_owned),
    };
    let asked = keys(Some("question"), Some("answer"), None);
    let found = row_by(&asked, qa.clone()).expect("named").words;
    assert_eq!(found, Words::Prompt { prompt: "q".into(), completion: "a".into() });
    let found = row_by(&keys(None, None, Some("question")), qa.clone()).expect("named").words;
    assert_eq!(found, Words::Text("q".into()));
    let found =
        row_by(&keys(None, Some("answer"), None), json!({"prompt": "p", "answer": "a"})).expect("half").words;
    assert_eq!(found, Words::Prompt { prompt: "p".into(), completion: "a".into() });
    let problem = row_by(&asked, json!({"question": "q", "text": "t"})).expect_err("lacks one");
    assert!(problem.contains("no key `answer`; found keys `question`, `text`"), "{problem}");
    let both = keys(Some("question"), Some("answer"), Some("body"));
    assert_eq!(row_by(&both, json!({"body": "b"})).expect("a text").words, Words::Text("b".into()));
}

#[test]
fn a_row_of_two_forms_is_refused_and_text_gives_way() {
    let found = row(json!({"messages": [{"role": "user", "content": "q"}], "text": "q", "prompt": "q"}));
    assert_eq!(found.expect("one whole form beside text").key, "messages");
    let problem =
        row(json!({"messages": [{"role": "user"}], "prompt": "a", "completion": "b"})).expect_err("two");
    assert!(problem.contains("found `messages` and `prompt` in one row"), "{problem}");
}

#[test]
fn tools_come_as_a_list_or_as_one_in_text() {
    let of = |tools: Value| row(json!({"messages": [{"role": "user", "content": "q"}], "tools": tools}));
    let tools = |tools: Value| match of(tools).expect("sound").words {
        Words::Messages(conversation) => conversation.tools,
        other => panic!("{other:?}"),
    };
    assert_eq!(tools(json!([{"name": "f"}])), Some(json!([{"name": "f"}])));
    assert_eq!(tools(json!("[{\"name\": \"f\"}]")), Some(json!([{"name": "f"}])));
    assert_eq!((tools(json!([])), tools(json!(" ")), tools(json!("[]"))), (None, None, None));
    assert!(of(json!("f")).expect_err("no list").contains("`tools` is a string, expected a list"));
}

#[test]
fn what_a_message_repeats_of_a_file_is_short_and_plain() {
    let fields: Map<String, Value> =
        (0..40).map(|i| (format!("\u{1b}[31m{i}{}", "x".repeat(500)), 1.into())).collect();
    let problem = row(Value::Object(fields)).expect_err("no form");
    assert!(
        problem.len() < 2000 && !problem.contains('\u{1b}') && problem.contains("(40 in all)"),
        "{problem}"
    );
}
