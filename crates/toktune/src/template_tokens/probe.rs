//! What a chat template writes beside the words of messages: it is rendered on conversations of every kind, and the tokens of the
//! renderings are looked at.

use super::error::TemplateTokensError;
use crate::text::{AutoTokenizer, ChatOptions, ChatTemplate, TextError, TokenKind};
use serde_json::{Value, json};

/// Words of messages, which no template writes itself.
const SYSTEM: &str = "Quartz glows";
const USER: &str = "Zebras swim";
const ASSISTANT: &str = "Lilac hums";
const SECOND_USER: &str = "Copper sings";
const SECOND_ASSISTANT: &str = "Basalt naps";
const RESULT: &str = "Velvet rains";
const THOUGHT: &str = "Amber drifts";
const WORDS: [&str; 7] = [SYSTEM, USER, ASSISTANT, SECOND_USER, SECOND_ASSISTANT, RESULT, THOUGHT];

/// Letters of a rendering that an error shows.
const SHOWN: usize = 60;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Probe {
    /// The control tokens that the template writes, as they come.
    pub(super) ids: Vec<u32>,
    /// Those that end a turn of the assistant.
    pub(super) ends: Vec<u32>,
}

/// A conversation to be rendered.
struct Trial {
    messages: Vec<Value>,
    tools: bool,
    /// How what the assistant's last turn says ends.
    said: Option<&'static str>,
}

impl Trial {
    fn new(messages: Vec<Value>, said: Option<&'static str>) -> Self {
        Self { messages, tools: false, said }
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Conversations of every kind. The first are those that every template takes.
fn trials() -> Vec<Trial> {
    let (user, assistant) = (message("user", USER), message("assistant", ASSISTANT));
    let system = message("system", SYSTEM);
    let second = [message("user", SECOND_USER), message("assistant", SECOND_ASSISTANT)];
    let call = json!({"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "call00001", "function": {"name": "look_up", "arguments": {"place": "Oslo"}}}
    ]});
    let result = json!({"role": "tool", "name": "look_up", "tool_call_id": "call00001", "content": RESULT});
    let thought = json!({"role": "assistant", "content": ASSISTANT, "reasoning_content": THOUGHT});
    let with_tools = |messages, said| Trial { messages, tools: true, said };
    vec![
        Trial::new(vec![user.clone(), assistant.clone()], Some(ASSISTANT)),
        Trial::new(vec![user.clone()], None),
        Trial::new(vec![system.clone(), user.clone(), assistant.clone()], Some(ASSISTANT)),
        Trial::new([&[user.clone(), assistant], &second[..]].concat(), Some(SECOND_ASSISTANT)),
        Trial::new(vec![user.clone(), thought], Some(ASSISTANT)),
        with_tools(vec![system, user.clone()], None),
        with_tools(vec![user.clone(), call.clone()], Some("look_up")),
        with_tools(vec![user, call, result, second[1].clone()], Some(SECOND_ASSISTANT)),
    ]
}

/// Renders the tokenizer's chat template on conversations of every kind, with and without a prompt for the next turn. Those that it
/// refuses are passed over.
pub(super) fn probe(tokenizer: &AutoTokenizer) -> Result<Probe, TemplateTokensError> {
    let mut probe = Probe::default();
    let (mut first, mut fault): (Option<String>, Option<TextError>) = (None, None);
    let templates = [tokenizer.compile_chat_template(false)?, tokenizer.compile_chat_template(true)?];
    let trials = trials();
    for trial in &trials {
        for ask in [false, true] {
            let text = match rendered(&templates[usize::from(trial.tools)], trial, ask) {
                Ok(text) => text,
                Err(error) => {
                    fault.get_or_insert(error);
                    continue;
                }
            };
            let said = trial.said.filter(|_| !ask);
            look_at(tokenizer, &text, said, &mut probe)?;
            first.get_or_insert(text);
        }
    }
    match (first, fault) {
        (None, Some(source)) => Err(TemplateTokensError::NotRendered { tried: trials.len(), source }),
        (Some(text), _) if probe.ids.is_empty() => {
            Err(TemplateTokensError::NoControlTokens { text: text.chars().take(SHOWN).collect() })
        }
        _ => Ok(probe),
    }
}

fn rendered(template: &ChatTemplate, trial: &Trial, ask: bool) -> Result<String, TextError> {
    let mut options = ChatOptions::default();
    options.add_generation_prompt = ask;
    options.tools = trial.tools.then(|| {
        json!([{"type": "function", "function": {
            "name": "look_up", "description": "Looks up a place",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
        }}])
    });
    Ok(template.render(&trial.messages, &options)?.text)
}

/// Notes the control tokens of a rendering, and the first behind what the assistant has `said` last.
fn look_at(
    tokenizer: &AutoTokenizer,
    text: &str,
    said: Option<&str>,
    probe: &mut Probe,
) -> Result<(), TextError> {
    let words: Vec<(usize, usize)> = WORDS
        .iter()
        .flat_map(|words| text.match_indices(words).map(|(at, words)| (at, at + words.len())))
        .collect();
    let mut end = said.and_then(|said| Some(text.rfind(said)? + said.len()));
    for (id, (from, to)) in tokenizer.encode_with_offsets(text)? {
        if words.iter().any(|(start, end)| from < *end && to > *start) {
            continue;
        }
        if !is_control(tokenizer, id, text.get(from..to).unwrap_or_default()) {
            continue;
        }
        if !probe.ids.contains(&id) {
            probe.ids.push(id);
        }
        if end.is_some_and(|end| from >= end) {
            // behind a call stands what closes it before what ends the turn
            let rest = text.get(to..).unwrap_or_default().trim();
            if said == Some("look_up") && !rest.is_empty() {
                continue;
            }
            end = None;
            if !probe.ends.contains(&id) {
                probe.ends.push(id);
            }
        }
    }
    Ok(())
}

/// Whether a token is matched whole where it stands, and is no stretch of blanks: some vocabularies list those as added tokens.
fn is_control(tokenizer: &AutoTokenizer, id: u32, written: &str) -> bool {
    let is_whole = match tokenizer.kind(id) {
        Some(TokenKind::Special | TokenKind::Added) => true,
        Some(TokenKind::Reserved) => tokenizer.new_token(id).is_some(),
        _ => false,
    };
    let written = written.trim();
    is_whole && !written.is_empty() && tokenizer.id_to_token(id).is_some_and(|token| token.trim() == written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{ChatMl, testing};

    /// A byte-level tokenizer with these special tokens and a template.
    fn tokenizer(special: &[&str], template: &str) -> (AutoTokenizer, Vec<u32>) {
        let mut tokenizer = testing::byte_level().build().expect("a tokenizer");
        let ids = tokenizer.add_special_tokens(special).expect("added");
        tokenizer.set_chat_template(template);
        (tokenizer, ids)
    }

    fn found(tokenizer: &AutoTokenizer) -> (Vec<u32>, Vec<u32>) {
        let probe = probe(tokenizer).expect("a probe");
        (probe.ids, probe.ends)
    }

    #[test]
    fn chatml() {
        let template = ChatMl::template(&testing::byte_level().build().expect("a tokenizer"));
        let (tokenizer, ids) = tokenizer(&ChatMl::TOKENS, &template);
        assert_eq!(found(&tokenizer), (ids.clone(), vec![ids[1]]));
    }

    #[test]
    fn header_ids_as_of_llama_3() {
        let special =
            ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"];
        let template = "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}\
            {% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% if tools %}<|eom_id|>{% endif %}\
            {% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
        let (tokenizer, ids) = tokenizer(&special, template);
        // a call is ended by another token than an answer
        assert_eq!(found(&tokenizer), (ids.clone(), ids[3..].to_vec()));
    }

    #[test]
    fn turns_as_of_gemma_with_roles_of_its_own() {
        let special = ["<start_of_turn>", "<end_of_turn>"];
        let template = "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}\
            {% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
            {{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content + '<end_of_turn>\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";
        let (tokenizer, ids) = tokenizer(&special, template);
        let bos = tokenizer.bos_token_id().expect("a token");
        assert_eq!(found(&tokenizer), ([&[bos], &ids[..]].concat(), vec![ids[1]]));
    }

    #[test]
    fn a_turn_that_ends_by_eos_and_tools_in_marks_of_their_own() {
        let special = ["<tool_call>", "</tool_call>", "<think>"];
        let template = "{% for m in messages %}{{ m.role }}: {% if m.tool_calls %}<tool_call>{{ m.tool_calls[0].function | tojson }}</tool_call>\
            {% else %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}{% endif %}{{ m.content }}{% endif %}\
            {% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}";
        let (tokenizer, ids) = tokenizer(&special, template);
        let eos = tokenizer.eos_token_id().expect("a token");
        let (mut all, ends) = found(&tokenizer);
        all.sort_unstable();
        let think = tokenizer.token_to_id("<think>").expect("a token");
        let mut expected = [&[eos, think], &ids[..2]].concat();
        expected.sort_unstable();
        assert_eq!((all, ends), (expected, vec![eos]));
    }

    #[test]
    fn words_of_messages_are_no_part_of_the_template() {
        let template = "{% for m in messages %}<turn>{{ m.content }}\n{% endfor %}";
        let (mut tokenizer, ids) = tokenizer(&["<turn>"], template);
        tokenizer.add_tokens(&["Zebras", "\n"]).expect("added");
        assert_eq!(found(&tokenizer), (ids, vec![]));
    }

    #[test]
    fn a_template_without_control_tokens_and_one_that_fails_are_errors() {
        let (plain, _) =
            tokenizer(&[], "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}");
        let error = probe(&plain).expect_err("nothing to find");
        assert!(error.to_string().contains("### user: Zebras swim"), "{error}");
        let (refusing, _) = tokenizer(&[], "{{ raise_exception('never') }}");
        let error = probe(&refusing).expect_err("nothing rendered");
        assert!(matches!(&error, TemplateTokensError::NotRendered { tried: 8, .. }), "{error}");
        assert!(error.to_string().contains("never"), "{error}");
        let none = testing::byte_level().build().expect("a tokenizer");
        assert!(matches!(probe(&none), Err(TemplateTokensError::Text(TextError::NoChatTemplate))));
    }
}
