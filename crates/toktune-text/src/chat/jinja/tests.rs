//! The engine beside jinja2, and against templates that mean harm.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::budget::DEPTH;
use super::{FaultKind, Template, Value};

fn render(source: &str, variables: &Json) -> Result<String, super::Fault> {
    let variables = variables.as_object().unwrap().iter();
    let variables = variables.map(|(name, value)| (name.as_str().into(), Value::from_json(value).unwrap()));
    Ok(Template::new(source)?.render(variables.collect(), 0)?.text)
}

#[test]
fn the_table_of_jinja2_is_met() {
    let table: Vec<Json> = serde_json::from_str(include_str!("cases.json")).unwrap();
    let mut wrong = Vec::new();
    for case in &table[1..] {
        let found = render(case[0].as_str().unwrap(), &table[0]);
        if found.as_deref().ok() != case[1].as_str() {
            wrong.push(format!("{}: jinja2 {}, here {found:?}", case[0], case[1]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), table.len() - 1, wrong.join("\n"));
}

/// What a stranger's template might do to a machine; each must end soon, by a bound, in little memory.
#[test]
fn hostile_templates_are_stopped() {
    let deep = DEPTH * 20;
    let attacks = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}"
            .to_owned(),
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}\
         {{ ns.s == ns.s|list }}"
            .to_owned(),
        "{% set ns = namespace(s=1) %}{% for i in range(60) %}{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor %}\
         {{ ns.s|tojson }}"
            .to_owned(),
        "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}".to_owned(),
        "{% set s = 'x' * 10000000 %}{% for a in range(10) %}{{ s }}{% endfor %}".to_owned(),
        "{% set s = 'x' * 60000000 %}{% for a in range(100000) %}{% if 'y' in s %}{% endif %}{% endfor %}".to_owned(),
        "{% set s = 'x' * 60000000 %}{% for a in range(9) %}{% set t = s.upper() %}{% endfor %}".to_owned(),
        "{% set x %}{% for i in range(100000) %}{{ 'y' * 9000 }}{% endfor %}{% endset %}".to_owned(),
        "{{ 'x' * 1000000000000 }}".to_owned(),
        "{{ [1] * 1000000000000 }}".to_owned(),
        "{{ 'x'|center(1000000000000) }}".to_owned(),
        "{{ 'x'.ljust(1000000000000) }}".to_owned(),
        "{{ 'x'.zfill(1000000000000) }}".to_owned(),
        "{{ 'a\\nb'|indent(1000000000000) }}".to_owned(),
        "{{ '\\t'.expandtabs(1000000000000) }}".to_owned(),
        "{{ '%1000000000000d' % 1 }}".to_owned(),
        "{{ '%.1000000000000d' % 1 }}".to_owned(),
        "{{ '%.1000000000000f' % 1 }}".to_owned(),
        "{{ '{:1000000000000}'.format(1) }}".to_owned(),
        "{{ '{:.1000000000000f}'.format(1.5) }}".to_owned(),
        "{{ '{:{}}'.format(1, 1000000000000) }}".to_owned(),
        "{{ [1]|tojson(indent=1000000000000) }}".to_owned(),
        "{{ [1]|batch(1000000000000, 0)|list }}".to_owned(),
        "{{ [1]|slice(1000000000000)|list }}".to_owned(),
        "{{ range(1000000000000)|list }}".to_owned(),
        "{{ 10 ** 10 ** 10 }}".to_owned(),
        "{{ 'aaaaaaaa'.replace('a', 'b' * 60000000) }}".to_owned(),
        "{{ (['x' * 1000000] * 1000)|join('y') }}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}\
         {{ n() }}"
            .to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        format!("{{{{ {}1{} }}}}", "(".repeat(deep), ")".repeat(deep)),
        format!("{{{{ {}1 }}}}", "-".repeat(deep)),
        format!("{{{{ {}1 }}}}", "not ".repeat(deep)),
        format!("{{{{ {}1{} }}}}", "[".repeat(deep), "]".repeat(deep)),
        format!("{{{{ {}{} }}}}", "{1:".repeat(deep), "}".repeat(deep)),
        format!("{{{{ x{}{} }}}}", "[x".repeat(deep), "]".repeat(deep)),
        format!("{{{{ x{}1{} }}}}", "|default(".repeat(deep), ")".repeat(deep)),
        format!("{{{{ 1 {} }}}}", "if 1 else 1 ".repeat(deep)),
        format!("{}{}", "{% if 1 %}".repeat(deep), "{% endif %}".repeat(deep)),
        format!("{}x{}", "{% filter upper %}".repeat(deep), "{% endfilter %}".repeat(deep)),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(deep), ")".repeat(deep)),
        "x".repeat(2 << 20),
    ];
    for source in attacks {
        let begun = Instant::now();
        let fault = render(&source, &serde_json::json!({})).expect_err(&source[..source.len().min(100)]);
        let shown = &source[..source.len().min(100)];
        assert!(matches!(fault.kind, FaultKind::Limit | FaultKind::Syntax), "{shown}: {fault:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown}: {:?}", begun.elapsed());
    }
}

/// What is large and harmless: flat chains of operators need no depth, and namespaces may hold each other.
#[test]
fn large_templates_are_rendered() {
    let flat = format!("{{{{ 1{} }}}}", " + 1".repeat(50_000));
    assert_eq!(render(&flat, &serde_json::json!({})).unwrap(), "50001");
    let flat = format!("{{{{ 'a'{} }}}}", "|upper".repeat(50_000));
    assert_eq!(render(&flat, &serde_json::json!({})).unwrap(), "A");
    let circle = "{% set a = namespace() %}{% for i in range(50000) %}{% set b = namespace(a=a) %}{% set a.b = b %}\
                  {% endfor %}{{ a.b.a.b.a is defined }}";
    assert_eq!(render(circle, &serde_json::json!({})).unwrap(), "True");
    let chain =
        "{% set n = namespace(x=0) %}{% for i in range(50000) %}{% set n.x = namespace(x=n.x) %}{% endfor %}";
    assert_eq!(render(chain, &serde_json::json!({})).unwrap(), "");
}

/// The deepest that the bounds allow fits into the stack of a thread of the smallest usual size.
#[test]
fn the_deepest_rendering_fits_a_small_stack() {
    let nested = DEPTH / 2 - 5;
    let sources = [
        format!("{{{{ {}1{} }}}}", "(".repeat(nested), ")".repeat(nested)),
        format!("{{{{ {}1{} }}}}", "[1, ".repeat(nested), "]".repeat(nested)),
        format!("{{{{ x{}1{} }}}}", "|default(".repeat(nested), ")".repeat(nested)),
        format!("{}x{}", "{% filter upper %}".repeat(nested), "{% endfilter %}".repeat(nested)),
        "{% macro m(x) %}{% if x > 0 %}{{ [m(x - 1)][0] }}{% endif %}{% endmacro %}{{ m(1000) }}".to_owned(),
    ];
    for source in sources {
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let done = thread.spawn(move || _ = render(&source, &serde_json::json!({}))).unwrap().join();
        assert!(done.is_ok());
    }
}

#[test]
fn faults_tell_the_line() {
    let fault = render("a\n{% if x %}\n{{ y.z }}{% endif %}", &serde_json::json!({"x": 1})).unwrap_err();
    assert_eq!((fault.kind, fault.line, &*fault.reason), (FaultKind::Failed, 3, "`y` is undefined"));
    let fault = render("a\n\n{% nope %}", &serde_json::json!({})).unwrap_err();
    assert_eq!((fault.kind, fault.line, &*fault.reason), (FaultKind::Syntax, 3, "unknown tag `nope`"));
}

#[test]
fn generation_blocks_are_placed_inside_of_macros_too() {
    let source = "{% macro m(x) %}<{% generation %}{{ x }}{% endgeneration %}>{% endmacro %}é{{ m('ab')|upper }}\
                  {% generation %}ü{% endgeneration %}.";
    let rendered = Template::new(source).unwrap().render(Vec::new(), 0).unwrap();
    assert_eq!(rendered.text, "é<AB>ü.");
    let spans: Vec<&str> = rendered.generations.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(spans, ["AB", "ü"]);
}
