use serde_json::{Value, json};

use super::{ChatOptions, ChatTemplate};
use crate::testing::byte_level;

fn render(source: &str, messages: Value) -> Result<String, String> {
    let options = ChatOptions { now: Some(1_709_210_096), ..Default::default() };
    let messages = messages.as_array().unwrap().clone();
    let rendered = ChatTemplate::new(source).and_then(|template| template.render(&messages, &options));
    rendered.map(|chat| chat.text).map_err(|error| error.to_string())
}

#[test]
fn blocks_take_their_line_and_strings_are_not_escaped() {
    let source = "{% for message in messages %}\n  {% if true %}\n<{{ message.role }}>\
        {{ message['content'] }}\n  {% endif %}\n{% endfor %}\n";
    assert_eq!(render(source, json!([{"role": "user", "content": "a & <b>"}])).unwrap(), "<user>a & <b>\n");
}

#[test]
fn values_are_printed_as_python_prints_them() {
    let x = json!([{"a": [1, 2.5, true, null, "it's", "q\"", "a\nb"], "b": {}}]);
    let expected = r#"{'a': [1, 2.5, True, None, "it's", 'q"', 'a\nb'], 'b': {}}"#;
    assert_eq!(render("{{ messages[0] }}", x.clone()).unwrap(), expected);
    assert_eq!(render("{{ missing }}|{{ none }}|{{ true|string }}", json!([])).unwrap(), "|None|True");
}

#[test]
fn tojson_is_json_dumps() {
    let x = json!([{"z": "é<\"", "a": [1, {"k": true}], "e": []}]);
    let dumps = |filter: &str| render(&format!("{{{{ messages[0]|{filter} }}}}"), x.clone()).unwrap();
    assert_eq!(dumps("tojson"), r#"{"z": "é<\"", "a": [1, {"k": true}], "e": []}"#);
    assert_eq!(
        dumps("tojson(sort_keys=true, separators=(',', ':'))"),
        r#"{"a":[1,{"k":true}],"e":[],"z":"é<\""}"#
    );
    assert_eq!(dumps("tojson(ensure_ascii=true)"), r#"{"z": "\u00e9<\"", "a": [1, {"k": true}], "e": []}"#);
    let indented =
        "{\n  \"z\": \"é<\\\"\",\n  \"a\": [\n    1,\n    {\n      \"k\": true\n    }\n  ],\n  \"e\": []\n}";
    assert_eq!(dumps("tojson(indent=2)"), indented);
}

#[test]
fn python_methods_work() {
    let messages = json!([{"content": "  Hello, World ", "args": {"a": 1, "b": 2}}]);
    let source = "{% set c = messages[0].content %}{{ c.strip() }}|{{ c.strip().startswith('He') }}|\
        {{ c.split(',')[1].strip() }}|{% for k, v in messages[0].args.items() %}{{ k }}={{ v }};{% endfor %}|\
        {{ messages[0].get('x', 'none') }}|{{ c.lstrip().upper() }}|{{ c is string }}|\
        {{ messages[0].args|length }}";
    let expected = "Hello, World|True|World|a=1;b=2;|none|HELLO, WORLD |True|2";
    assert_eq!(render(source, messages).unwrap(), expected);
}

#[test]
fn namespaces_slices_and_loop_controls_work() {
    let messages = json!([{"role": "system"}, {"role": "user"}, {"role": "tool"}, {"role": "user"}]);
    let source = "{% set ns = namespace(n=0) %}{% for m in messages[1:] %}\
        {% if m.role == 'tool' %}{% continue %}{% endif %}\
        {% set ns.n = ns.n + 1 %}{{ loop.index0 }}{% endfor %}:{{ ns.n }}:{{ messages[::-1][0].role }}";
    assert_eq!(render(source, messages).unwrap(), "02:2:user");
}

#[test]
fn the_date_is_the_one_given() {
    // 2024-02-29 12:34:56 UTC, a Thursday.
    let source = "{{ strftime_now('%d %b %Y|%Y-%m-%d %H:%M:%S|%A %B %-d %I %p|%j') }}";
    assert_eq!(
        render(source, json!([])).unwrap(),
        "29 Feb 2024|2024-02-29 12:34:56|Thursday February 29 12 PM|%j"
    );
    for (seconds, expected) in [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (4_102_444_799, "2099-12-31")]
    {
        assert_eq!(super::jinja::strftime(seconds, "%F"), expected);
    }
}

#[test]
fn generation_blocks_are_found_and_leave_no_trace() {
    let source = "{% for m in messages %}\n{{ m.role }}:\n{% if m.role == 'assistant' %}\n{% generation %}\n\
        {{ m.content }}!\n{% endgeneration %}\n{% else %}\n{{ m.content }}\n{% endif %}\n{% endfor %}";
    let plain =
        source.replace("{% generation %}", "{% if true %}").replace("{% endgeneration %}", "{% endif %}");
    let messages = [json!({"role": "user", "content": "é"}), json!({"role": "assistant", "content": "ü"})];
    let rendered = ChatTemplate::new(source).unwrap().render(&messages, &ChatOptions::default()).unwrap();
    let expected = ChatTemplate::new(&plain).unwrap().render(&messages, &ChatOptions::default()).unwrap();
    assert_eq!(rendered.text, expected.text);
    let spans: Vec<&str> = rendered.generations.into_iter().map(|span| &rendered.text[span]).collect();
    assert_eq!(spans, ["ü!\n"]);
}

#[test]
fn tools_special_tokens_and_reasoning_reach_the_template() {
    let mut tokenizer = byte_level().build().unwrap();
    tokenizer.set_chat_template(
        "{{ bos_token }}{{ messages[0].thinking }}{{ tools }}{{ add_generation_prompt }}{{ x }}",
    );
    let mut options = ChatOptions { add_generation_prompt: true, ..Default::default() };
    options.variables.insert("x".to_owned(), json!(7));
    let messages = [json!({"reasoning": "why"})];
    assert_eq!(tokenizer.apply_chat_template(&messages, &options).unwrap(), "<|end|>whyNoneTrue7");
    tokenizer.templates.insert("tool_use".to_owned(), "{{ tools[0].name }}".to_owned());
    options.tools = Some(json!([{"name": "f"}]));
    assert_eq!(tokenizer.apply_chat_template(&messages, &options).unwrap(), "f");
}

#[test]
fn null_fields_of_messages_are_not_there() {
    // transformers' `apply_chat_template` drops them from messages, and leaves those further down.
    let messages =
        json!([{"role": "assistant", "content": null, "tool_calls": [{"id": null}], "thinking": null}]);
    let template = "{{ messages[0].content }}|{{ 'content' in messages[0] }}|{{ messages[0].thinking is defined }}|\
        {{ messages[0].tool_calls }}";
    assert_eq!(render(template, messages).unwrap(), "|False|False|[{'id': None}]");
}

#[test]
fn faults_are_told_apart() {
    let error = render("{{ raise_exception('roles must ' ~ 'alternate') }}", json!([])).unwrap_err();
    assert_eq!(error, "the chat template refuses the messages: roles must alternate");
    let error = render("a\n{% if %}", json!([])).unwrap_err();
    assert_eq!(error, "chat template: unexpected `%}` (line 2)");
    let error = render("{{ messages[0].role.name.first }}", json!([{}])).unwrap_err();
    assert_eq!(error, "chat template: dict has no attribute `role` (line 1)");
    let error =
        render("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", json!([]));
    assert_eq!(error.unwrap_err(), "chat template: stopped: more than 5000000 steps");
    let error = byte_level().build().unwrap().apply_chat_template(&[], &ChatOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no chat template"), "{error}");
}

#[test]
fn a_strangers_words_are_cut_and_escaped() {
    let error = render("{{ raise_exception('a\\x1b[31m' ~ 'b' * 5000) }}", json!([])).unwrap_err();
    assert!(error.contains("a\\u{1b}[31mbbb") && error.ends_with("b…"), "{error}");
    assert!(error.chars().count() < 400, "{}", error.len());
}

#[test]
fn a_template_is_used_by_several_threads() {
    let template = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let template = &template;
            scope.spawn(move || {
                let messages = [json!({"content": number})];
                let rendered = template.render(&messages, &ChatOptions::default()).unwrap();
                assert_eq!(rendered.text, number.to_string());
            });
        }
    });
}
