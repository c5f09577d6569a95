//! Chat templates: messages to text, as transformers renders them.
//!
//! A chat template is a Jinja program from a model's folder, that is, code from a stranger. [`jinja`] runs it with
//! bounds on its steps, its depth, its output and all values that it makes; this module gives it the variables that
//! transformers gives, and names what went wrong.

mod jinja;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::{AutoTokenizer, Result, TextError};
use jinja::{Fault, FaultKind, Template};

/// Letters of a template's words that an error repeats.
const LONGEST_WORDS: usize = 300;

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ChatOptions {
    /// Ask for the beginning of an assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Descriptions of tools (JSON schemas).
    pub tools: Option<Value>,
    /// Documents to answer from.
    pub documents: Option<Value>,
    /// Further variables that the template may look at.
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` tells, in seconds since 1970 (UTC); the clock's when absent.
    pub now: Option<u64>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenderedChat {
    /// The text.
    pub text: String,
    /// Where the text of the template's `{% generation %}` blocks lies, in bytes; most templates have none.
    pub generations: Vec<Range<usize>>,
}

/// A compiled chat template. It can be used by several threads at once, and renders on the caller's.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    special: Vec<(Arc<str>, jinja::Value)>,
}

/// A conversation as a template sees it, made once for several renderings of its beginnings.
#[derive(Debug, Clone)]
pub struct PreparedChat {
    messages: Vec<jinja::Value>,
    variables: Vec<(Arc<str>, jinja::Value)>,
    now: u64,
}

impl AutoTokenizer {
    /// Compiles the chat template; the one called `tool_use`, where there is one, when tools are to be
    /// described.
    ///
    /// # Errors
    /// No template, or one that cannot be parsed.
    pub fn compile_chat_template(&self, with_tools: bool) -> Result<ChatTemplate> {
        let tools = self.templates.get("tool_use").filter(|_| with_tools).map(String::as_str);
        let source = tools.or(self.chat_template()).ok_or(TextError::NoChatTemplate)?;
        let mut template = ChatTemplate::new(source)?;
        template.special =
            self.special.iter().map(|(name, token)| (Arc::from(name), jinja::Value::str(token))).collect();
        Ok(template)
    }

    /// Renders messages by the tokenizer's chat template. The text holds its own `bos`, if it has one: encode
    /// it without special tokens.
    ///
    /// # Errors
    /// No template, or one that fails on these messages.
    pub fn apply_chat_template(&self, messages: &[Value], options: &ChatOptions) -> Result<String> {
        Ok(self.compile_chat_template(options.tools.is_some())?.render(messages, options)?.text)
    }
}

impl ChatTemplate {
    /// Compiles a template that knows no special tokens; [`AutoTokenizer::compile_chat_template`] gives it
    /// those.
    ///
    /// # Errors
    /// When the template cannot be parsed.
    pub fn new(source: &str) -> Result<Self> {
        let template = Template::new(source).map_err(|fault| text_error(&fault))?;
        Ok(ChatTemplate { template, special: Vec::new() })
    }

    /// Whether the template marks the assistant's turns itself, by `{% generation %}` blocks.
    pub fn marks_generations(&self) -> bool {
        self.template.marks_generations()
    }

    /// Renders messages.
    ///
    /// # Errors
    /// When the template fails on these messages, refuses them, or runs into a bound.
    pub fn render(&self, messages: &[Value], options: &ChatOptions) -> Result<RenderedChat> {
        let chat = self.prepare(messages, options)?;
        self.render_prepared(&chat, messages.len(), options.add_generation_prompt)
    }

    /// Makes a conversation ready for [`Self::render_prepared`]; whether to ask for an answer is said there.
    ///
    /// # Errors
    /// Values nested deeper than a template may see.
    pub fn prepare(&self, messages: &[Value], options: &ChatOptions) -> Result<PreparedChat, TextError> {
        let json = |value: &Value| jinja::Value::from_json(value).map_err(|fault| text_error(&fault));
        let optional = |value: &Option<Value>| value.as_ref().map_or(Ok(jinja::Value::None), json);
        let mut variables = self.special.clone();
        for (name, value) in &options.variables {
            variables.push((name.as_str().into(), json(value)?));
        }
        variables.push(("tools".into(), optional(&options.tools)?));
        variables.push(("documents".into(), optional(&options.documents)?));
        let messages =
            messages.iter().map(|message| json(&as_handed_over(message))).collect::<Result<_, _>>()?;
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(PreparedChat { messages, variables, now: options.now.unwrap_or_else(clock) })
    }

    /// Renders the first `count` messages.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_prepared(
        &self,
        chat: &PreparedChat,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<RenderedChat, TextError> {
        let messages = chat.messages[..count.min(chat.messages.len())].to_vec();
        self.render_values(chat, messages, add_generation_prompt)
    }

    /// Renders the first `count` messages and an answer of the assistant in these words.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_answer(
        &self,
        chat: &PreparedChat,
        count: usize,
        words: &str,
    ) -> Result<RenderedChat, TextError> {
        let mut messages = chat.messages[..count.min(chat.messages.len())].to_vec();
        let answer = json!({"role": "assistant", "content": words});
        messages.push(jinja::Value::from_json(&answer).map_err(|fault| text_error(&fault))?);
        self.render_values(chat, messages, false)
    }

    fn render_values(
        &self,
        chat: &PreparedChat,
        messages: Vec<jinja::Value>,
        add_generation_prompt: bool,
    ) -> Result<RenderedChat, TextError> {
        let render = || {
            let mut variables = chat.variables.clone();
            variables.push(("messages".into(), jinja::Value::list(messages)?));
            variables.push(("add_generation_prompt".into(), jinja::Value::Bool(add_generation_prompt)));
            self.template.render(variables, chat.now)
        };
        let rendered = render().map_err(|fault| text_error(&fault))?;
        Ok(RenderedChat { text: rendered.text, generations: rendered.generations })
    }
}

/// A message as transformers hands it to a template: without the fields that are null, which APIs write for what is not
/// there (`"content": null` beside calls) and templates would print, and with a turn's reasoning under each name it has
/// had, so that any template finds it.
fn as_handed_over(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let fields: Map<String, Value> = fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut names = ["reasoning_content", "thinking", "reasoning"].into_iter();
    let Some(reasoning) = names.find_map(|name| fields.get(name)).cloned() else {
        return Value::Object(fields);
    };
    let mut all = Map::new();
    all.insert("thinking".to_owned(), reasoning.clone());
    all.extend(fields);
    all.insert("reasoning_content".to_owned(), reasoning);
    Value::Object(all)
}

/// A value as a template would print it, which is how one that expects text shows a list.
pub fn printed(value: &Value) -> Option<String> {
    jinja::printed(value).ok()
}

/// The engine's fault as ours, its words cut and safe to be shown.
fn text_error(fault: &Fault) -> TextError {
    let mut reason = shown(&fault.reason);
    if fault.line > 0 && matches!(fault.kind, FaultKind::Syntax | FaultKind::Failed) {
        reason.push_str(&format!(" (line {})", fault.line));
    }
    match fault.kind {
        FaultKind::Syntax => TextError::TemplateSyntax { reason },
        FaultKind::Refused => TextError::TemplateRefused { reason },
        FaultKind::Limit => TextError::TemplateLimit { reason },
        FaultKind::Failed => TextError::TemplateRender { reason },
    }
}

/// A stranger's words: the first of them, control characters as escapes.
fn shown(words: &str) -> String {
    let mut out = String::new();
    for (index, letter) in words.chars().enumerate() {
        if index == LONGEST_WORDS {
            out.push('…');
            break;
        }
        match letter.is_control() {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    out
}
