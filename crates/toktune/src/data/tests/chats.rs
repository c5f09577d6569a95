//! Conversations: which tokens are learnt under templates of each kind of trouble.

use serde_json::{Value, json};

use super::{DataOptions, Dataset, LossOn, options, read, read_with, shown, tokenizer};
use crate::data::{ChatNotes, FieldUse};
use crate::text::testing::byte_level;

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn conversation() -> Value {
    json!({"messages": [turn("user", "q"), turn("assistant", "ab"), turn("user", "r"), turn("assistant", "cd")]})
}

fn dataset(template: &str, row: &Value, options: &DataOptions) -> Result<Dataset, String> {
    let mut tokenizer = tokenizer();
    tokenizer.set_chat_template(template);
    read_with(row.to_string().as_bytes(), Some(&tokenizer), options)
}

/// The texts of a row's sequences, with what is learnt in brackets.
fn learnt_with(template: &str, row: &Value, options: &DataOptions) -> Vec<String> {
    let tokenizer = tokenizer();
    let dataset = dataset(template, row, options).unwrap();
    let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    let show = |example: &crate::data::Example| {
        let mut out = String::new();
        let parts = example.input_ids.iter().zip(&example.labels).collect::<Vec<_>>();
        for part in parts.chunk_by(|a, b| a.1.is_some() == b.1.is_some()) {
            let ids: Vec<u32> = part.iter().map(|(id, _)| **id).collect();
            out += &if part[0].1.is_some() { format!("[{}]", text(&ids)) } else { text(&ids) };
        }
        out
    };
    dataset.examples().map(|example| show(&example.unwrap())).collect()
}

fn learnt(template: &str, row: &Value) -> Vec<String> {
    learnt_with(template, row, &options())
}

#[test]
fn assistant_turns_are_learnt_with_their_end() {
    let row = json!({"messages": [
        turn("user", "q"), turn("assistant", "é the"), turn("user", "r"), turn("assistant", "b")
    ]});
    let (text, labels) = shown(row.clone(), &options());
    assert_eq!(text, "<u>q<|end|>\n<a>é the<|end|>\n<u>r<|end|>\n<a>b<|end|>\n");
    // Two tokens for é, shown one by one as broken characters.
    assert_eq!(labels, "_________\u{fffd}\u{fffd} the<|end|>__________b<|end|>_");
    let all = DataOptions { loss_on: Some(LossOn::All), ..options() };
    assert!(!shown(row, &all).1.contains('_'));
    let none = json!({"messages": [turn("user", "q")]});
    assert!(read(&none.to_string(), &options()).unwrap_err().contains("no label"));
}

#[test]
fn generation_marks_of_a_template_are_followed() {
    let mut tokenizer = tokenizer();
    tokenizer.set_chat_template(
        "{% for m in messages %}{% if m.role == 'assistant' %}[\
         {% generation %}{{ m.content }}{% endgeneration %}]\
         {% else %}{{ m.content }}{% endif %}{% endfor %}",
    );
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}]});
    let dataset = read_with(row.to_string().as_bytes(), Some(&tokenizer), &options()).unwrap();
    let example = &dataset.example(0).unwrap();
    assert_eq!(tokenizer.decode(&example.input_ids, false).unwrap(), "q[ab]");
    let learnt: Vec<u32> = example.labels.iter().flatten().copied().collect();
    assert_eq!(tokenizer.decode(&learnt, false).unwrap(), "ab");
}

#[test]
fn reasoning_that_is_dropped_from_earlier_turns_leaves_their_words() {
    // Qwen 3's kind: the last turn has a thought, and earlier ones lose it once a later one follows.
    let template = "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' and loop.last %}\
        (t){% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let row = conversation();
    assert_eq!(learnt(template, &row), ["<u>q<|end|>\n<a>[ab<|end|>]\n<u>r<|end|>\n<a>[(t)cd<|end|>]\n"]);
    // R1's kind: the prompt begins a thought that the words do not keep.
    let template = template.replace("<a>{% endif %}", "<a><think>\n{% endif %}").replace("(t)", "");
    let row = json!({"messages": [
        turn("user", "q"), turn("assistant", "<b>x"), turn("user", "r"), turn("assistant", "cd")
    ]});
    assert_eq!(learnt(&template, &row), ["<u>q<|end|>\n<a>[<b>x<|end|>]\n<u>r<|end|>\n<a>[cd<|end|>]\n"]);
}

#[test]
fn an_end_of_the_conversation_is_not_looked_for_in_earlier_turns() {
    // Phi-3's kind.
    let template = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}!\n{% endfor %}\
        {% if add_generation_prompt %}<a>{% else %}<|end|>{% endif %}";
    assert_eq!(learnt(template, &conversation()), ["<u>q!\n<a>[ab!\n]<u>r!\n<a>[cd!\n<|end|>]"]);
}

#[test]
fn a_system_text_that_moves_leaves_the_turns_where_they_are() {
    // Mistral's kind: the system text stands in the last user turn, and nothing asks for an answer.
    let template = "{% set s = messages[0].content %}{% for m in messages[1:] %}{% if m.role == 'user' %}[I]\
        {% if messages[-1] == m or messages[-2] == m %}{{ s }} {% endif %}{{ m.content }}[/I]\
        {% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}";
    let mut row = conversation();
    row["messages"].as_array_mut().unwrap().insert(0, turn("system", "S"));
    assert_eq!(learnt(template, &row), ["[I]q[/I][ab<|end|>][I]S r[/I][cd<|end|>]"]);
}

#[test]
fn a_turn_that_cannot_be_found_is_learnt_in_a_sequence_of_its_own() {
    // The words of earlier turns are written in another way.
    let template = "{% for m in messages %}<{{ m.role[0] }}>\
        {% if m.role == 'assistant' and not loop.last %}{{ m.content|upper }}{% else %}{{ m.content }}{% endif %}\
        <|end|>\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let expected =
        ["<u>q<|end|>\n<a>AB<|end|>\n<u>r<|end|>\n<a>[cd<|end|>]\n", "<u>q<|end|>\n<a>[ab<|end|>]\n"];
    assert_eq!(learnt(template, &conversation()), expected);
    let notes = dataset(template, &conversation(), &options()).unwrap().notes().chat;
    assert_eq!(notes, ChatNotes { rows: 1, split_rows: 1, ..ChatNotes::default() });
    // Where even that does not tell the turn from the prompt, nothing is learnt, and the row is not refused.
    let template = "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let rows = format!("{}\n{}", conversation(), json!({"text": "a"}));
    let mut tokenizer = tokenizer();
    tokenizer.set_chat_template(template);
    let dataset = read_with(rows.as_bytes(), Some(&tokenizer), &options()).unwrap();
    assert_eq!((dataset.notes().chat.lost_turns, dataset.rows_without_labels()), (2, 1));
    let all = DataOptions { loss_on: Some(LossOn::All), ..options() };
    assert_eq!(learnt_with(template, &conversation(), &all), ["[4qabrcd]"]);
    let plain = byte_level().build().unwrap();
    let error = read_with(conversation().to_string().as_bytes(), Some(&plain), &options()).unwrap_err();
    assert!(error.starts_with("/rows.jsonl:1: the tokenizer has no chat template"), "{error}");
}

#[test]
fn a_prompt_is_known_where_what_comes_before_changes() {
    // Two answers in a row: the first loses its thought once the second follows.
    let template = "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' and loop.last %}\
        (t){% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let row = json!({"messages": [turn("user", "q"), turn("assistant", "ab"), turn("assistant", "cd")]});
    assert_eq!(learnt(template, &row), ["<u>q<|end|>\n<a>[ab<|end|>]\n<a>[(t)cd<|end|>]\n"]);
    // The template refuses to ask before the first turn.
    let strict =
        template.replace("{% for m", "{% if not messages %}{{ raise_exception('none') }}{% endif %}{% for m");
    let row = json!({"messages": [turn("assistant", "ab"), turn("user", "q"), turn("assistant", "cd")]});
    assert_eq!(learnt(&strict, &row), ["<a>[ab<|end|>]\n<u>q<|end|>\n<a>[(t)cd<|end|>]\n"]);
}

#[test]
fn a_turn_that_is_glued_to_a_message_before_is_not_learnt_with_it() {
    // Gemma 4's kind: a tool's result is written into the turn, which goes on behind it.
    let template = "{% for m in messages %}{% if m.role == 'tool' %}({{ m.content }}){% elif m.role == 'user' or \
        messages[loop.index0 - 1].role == 'user' %}<{{ m.role[0] }}>{{ m.content }}{% else %}{{ m.content }}{% endif %}\
        {% if loop.last or messages[loop.index].role == 'user' or m.role == 'user' %}<|end|>\n{% endif %}{% endfor %}\
        {% if add_generation_prompt and messages[-1].role == 'user' %}<a>{% endif %}";
    let row = json!({"messages": [turn("user", "q"), turn("assistant", "ab"), turn("tool", "r"), turn("assistant", "cd")]});
    let found = learnt(template, &row);
    assert!(found.iter().all(|text| !text.contains("[cd") || !text.contains("(r)[")), "{found:?}");
    let words: String = found.concat().split(['[', ']']).skip(1).step_by(2).collect();
    assert!(!words.contains('r') && words.contains("ab"), "{found:?}");
}

#[test]
fn words_that_a_user_copies_from_a_template_are_not_taken_for_a_turn() {
    let template = "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' and loop.last %}\
        (t){% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    let row = json!({"messages": [
        turn("user", "<a>ab<|end|>\n"), turn("assistant", "ab"), turn("user", "<a>ab"), turn("assistant", "ab")
    ]});
    let expected = "<u><a>ab<|end|>\n<|end|>\n<a>[ab<|end|>]\n<u><a>ab<|end|>\n<a>[(t)ab<|end|>]\n";
    assert_eq!(learnt(template, &row), [expected]);
}

#[test]
fn switches_of_messages_are_obeyed() {
    let switched = |index: usize, key: &str, value: Value| {
        let mut row = conversation();
        row["messages"][index][key] = value;
        row
    };
    let template = super::TEMPLATE;
    let second = "<u>q<|end|>\n<a>ab<|end|>\n<u>r<|end|>\n<a>[cd<|end|>]\n";
    let both = "<u>q<|end|>\n<a>[ab<|end|>]\n<u>r<|end|>\n<a>[cd<|end|>]\n";
    let off = [
        ("weight", json!(0)),
        ("weight", json!(0.0)),
        ("train", json!(false)),
        ("training", json!(false)),
        ("train_on_turn", json!(false)),
        ("trainable", json!(0)),
        ("loss", json!(false)),
        ("masked", json!(true)),
    ];
    for (key, value) in off {
        assert_eq!(learnt(template, &switched(1, key, value)), [second], "{key}");
    }
    for (key, value) in
        [("weight", json!(1)), ("train", json!(true)), ("masked", json!(false)), ("train", json!(null))]
    {
        assert_eq!(learnt(template, &switched(1, key, value)), [both], "{key}");
    }
    // Another's message is learnt where it is switched on, and not for a weight, which is the assistant's alone.
    let user = "<u>[q<|end|>]\n<a>[ab<|end|>]\n<u>r<|end|>\n<a>[cd<|end|>]\n";
    assert_eq!(learnt(template, &switched(0, "train", json!(true))), [user]);
    assert_eq!(learnt(template, &switched(0, "weight", json!(1))), [both]);
    let all = DataOptions { loss_on: Some(LossOn::All), ..options() };
    let without = ["[<u>]q<|end|>\n[<a>ab<|end|>\n<u>r<|end|>\n<a>cd<|end|>\n]"];
    assert_eq!(learnt_with(template, &switched(0, "weight", json!(0)), &all), without);
    // A template that prints whole messages does not see them.
    let dumping = "{% for m in messages %}{{ m|tojson }}{% endfor %}";
    assert_eq!(
        learnt_with(dumping, &switched(1, "weight", json!(1)), &all),
        learnt_with(dumping, &conversation(), &all)
    );
    let marking = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
        {% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(learnt(marking, &switched(1, "weight", json!(0))), ["qabr[cd]"]);
    for (key, value, expected) in [
        ("weight", json!(0.5), "`messages[1].weight` is 0.5, expected 0, 1, true or false"),
        ("train", json!("no"), "`messages[1].train` is \"no\""),
        ("train_detail", json!([{"begin_offset": 0}]), "`messages[1].train_detail` is given"),
    ] {
        let error = read(&switched(1, key, value).to_string(), &options()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let mut both = switched(1, "weight", json!(0));
    both["messages"][1]["train"] = json!(true);
    let error = read(&both.to_string(), &options()).unwrap_err();
    assert!(error.contains("`messages[1].train` is contrary to `weight`"), "{error}");
    let moving = "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let error = dataset(moving, &switched(0, "train", json!(true)), &options()).unwrap_err();
    assert!(error.contains("messages[0] has a switch, but its words cannot be found"), "{error}");
}

#[test]
fn parts_of_text_are_taken_as_the_template_takes_them() {
    let parts = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]}
    ]});
    assert_eq!(learnt(super::TEMPLATE, &parts), ["<u>ab<|end|>\n<a>[c<|end|>]\n"]);
    let taking = "{% for m in messages %}<{{ m.role[0] }}>{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}\
        {% if add_generation_prompt %}<a>{% endif %}";
    assert_eq!(learnt(taking, &parts), ["<u>a;b;<a>[c;]"]);
    let printing = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}\
        {% if add_generation_prompt %}<a>{% endif %}";
    assert_eq!(learnt(printing, &parts), ["<u>ab<a>[c]"]);
    let mut image = parts.clone();
    image["messages"][0]["content"][1] = json!({"type": "image_url", "image_url": {"url": "x"}});
    let error = read(&image.to_string(), &options()).unwrap_err();
    assert!(
        error.contains("`messages[0].content[1]` is `image_url`, expected a part of type `text`"),
        "{error}"
    );
}

#[test]
fn fields_that_a_template_ignores_are_counted() {
    let mut row = conversation();
    row["messages"][1]["reasoning"] = json!("why");
    row["messages"][3]["tool_calls"] = json!([{"function": {"name": "f", "arguments": {}}}]);
    row["tools"] = json!([{"name": "f"}]);
    let notes = dataset(super::TEMPLATE, &row, &options()).unwrap().notes().chat;
    let ignored = FieldUse { rows: 1, ignored: 1 };
    let fields = [("reasoning_content", ignored), ("tool_calls", ignored), ("tools", ignored)];
    assert_eq!(notes.fields, fields.map(|(name, found)| (name.to_owned(), found)).into());
    let using = "{{ tools|length if tools }}{% for m in messages %}<{{ m.role[0] }}>{{ m.thinking }}{{ m.content }}\
        {% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}{% endfor %}\
        {% if add_generation_prompt %}<a>{% endif %}";
    let mut notes = dataset(using, &row, &options()).unwrap().notes().chat;
    assert!(notes.fields.values().all(|field| *field == FieldUse { rows: 1, ignored: 0 }), "{notes:?}");
    notes.add(&notes.clone());
    assert_eq!((notes.rows, notes.fields["tools"].rows), (2, 2));
}

#[test]
fn roles_of_templates_that_do_not_ask_for_turns_are_not_learnt() {
    let end = "<|end|>\n";
    // The prompt is never asked for, or stands at the end of every rendering.
    let never = "{% for m in messages %}<|end|>{{ m.role }}:{{ m.content }}<|end|>\n{% endfor %}";
    let row = conversation();
    let expected = format!(
        "<|end|>user:q{end}<|end|>assistant:[ab<|end|>]\n<|end|>user:r{end}<|end|>assistant:[cd<|end|>]\n"
    );
    assert_eq!(learnt(never, &row), [expected]);
    // An answer that is a piece of the role's name.
    let same = json!({"messages": [turn("user", "q"), turn("assistant", "assistant")]});
    assert_eq!(learnt(never, &same), ["<|end|>user:q<|end|>\n<|end|>assistant:[assistant<|end|>]\n"]);
    let always = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}<|end|>\n{% endfor %}<a>";
    let expected = "<u>q<|end|>\n<a>[ab<|end|>]\n<u>r<|end|>\n<a>[cd<|end|>]\n<a>";
    assert_eq!(learnt(always, &conversation()), [expected]);
    // Mistral's kind writes blanks alone: they are the answer's, as the model says them.
    let mistral = "{% for m in messages %}{% if m.role == 'user' %}({{ m.content }}){% else %} {{ m.content }}<|end|>\
        {% endif %}{% endfor %}";
    assert_eq!(learnt(mistral, &conversation()), ["(q)[ ab<|end|>](r)[ cd<|end|>]"]);
}

#[test]
fn a_first_word_that_takes_the_space_of_the_prompt_is_learnt() {
    let template = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}a: {% endif %}";
    let row = json!({"messages": [turn("user", "q"), turn("assistant", "the")]});
    assert_eq!(learnt(template, &row), ["u: q<|end|>a:[ the<|end|>]"]);
}

#[test]
fn the_end_is_learnt_behind_blanks_and_of_empty_answers() {
    // gpt-oss's kind: the last turn ends with another mark, which an earlier one has not.
    let template = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% if loop.last %}<|end|>{% else %}<|fin|>\
        {% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
    for (words, kept) in [("ab\n", "ab\n"), ("", "")] {
        let row = json!({"messages": [
            turn("user", "q"), turn("assistant", words), turn("user", "r"), turn("assistant", "cd")
        ]});
        let whole = format!("<u>q<|fin|><a>{kept}<|fin|><u>r<|fin|><a>[cd<|end|>]");
        assert_eq!(learnt(template, &row), [whole, format!("<u>q<|fin|><a>[{kept}<|end|>]")]);
    }
}
