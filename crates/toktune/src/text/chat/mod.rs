//! Chat templates: messages to text, as transformers renders them.
//!
//! A chat template is a Jinja program from a model's folder, that is, code from a stranger. It runs without
//! any way to load a file, with a bound on its steps, its depth and its output. Strings that a template
//! builds inside and never prints are bounded by the steps alone.
//!
//! What is Python in transformers is made to look like Python here: methods of strings and dicts (`.strip()`,
//! `.items()`), `True` and `None` when printed, `tojson` as `json.dumps` with non-ASCII left alone.

mod python;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value as Jinja};
use regex::Regex;
use serde_json::{Map, Value};

use super::{AutoTokenizer, TextError};
use crate::Result;

/// Steps a rendering may take: a message costs tens of them, so this is a conversation of ten thousand.
const FUEL: u64 = 1_000_000;
/// Stack of the thread that renders. A template can nest a value once every few steps, and dropping such a
/// value takes a frame a level: this is enough for the deepest that the steps allow, and is only reserved
/// until used.
const STACK: usize = 256 << 20;
/// Nested calls; deeper than any template that means well, and far from the end of a thread's stack.
const DEPTH: usize = 100;
/// Bytes of output.
const LONGEST_OUTPUT: usize = 64 << 20;
/// Around the text of a `{% generation %}` block while it is rendered. Unicode calls these two "not a
/// character": text for exchange does not hold them.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
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
pub struct RenderedChat {
    /// The text.
    pub text: String,
    /// Where the text of the template's `{% generation %}` blocks lies, in bytes; most templates have none.
    pub generations: Vec<Range<usize>>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Vec<(&'static str, String)>,
}

/// Carries `raise_exception`'s words through the engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

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
        template.special = self.special.iter().map(|(name, token)| (name, token.to_owned())).collect();
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
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        let fail = |error: minijinja::Error| TextError::TemplateSyntax { reason: describe(&error) };
        environment.set_syntax(syntax.build().map_err(fail)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python::format);
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("string", python::string);
        environment.add_function("raise_exception", |message: &Jinja| -> Result<Jinja, minijinja::Error> {
            let words = python::string(message)?;
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "refused").with_source(Refused(words)))
        });
        environment.add_function("_generation", generation);
        let source = with_generation_calls(source).into_owned();
        environment.add_template_owned("chat_template", source).map_err(fail)?;
        Ok(ChatTemplate { environment, special: Vec::new() })
    }

    /// Renders messages.
    ///
    /// # Errors
    /// When the template fails on these messages, refuses them, or runs into a bound.
    pub fn render(&self, messages: &[Value], options: &ChatOptions) -> Result<RenderedChat> {
        let failed = |reason: &str| TextError::TemplateRender { reason: reason.to_owned() };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK);
            let thread = thread
                .spawn_scoped(scope, || self.render_here(messages, options))
                .map_err(|error| failed(&format!("cannot start a thread to render in: {error}")))?;
            Ok(thread.join().map_err(|_| failed("the template engine gave up"))??)
        })
    }

    fn render_here(&self, messages: &[Value], options: &ChatOptions) -> Result<RenderedChat, TextError> {
        let mut variables = options.variables.clone();
        variables.insert("messages".to_owned(), messages.iter().map(with_reasoning).collect());
        variables.insert("tools".to_owned(), options.tools.clone().unwrap_or_default());
        variables.insert("documents".to_owned(), options.documents.clone().unwrap_or_default());
        variables.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        for (name, token) in &self.special {
            variables.insert((*name).to_owned(), token.as_str().into());
        }
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = options.now.unwrap_or_else(clock);
        let strftime = Jinja::from_function(move |format: &str| python::strftime(now, format));
        let context = minijinja::context! { strftime_now => strftime, ..Jinja::from(Serde(&variables)) };

        let mut output = Bounded(Vec::new());
        let template =
            self.environment.get_template("chat_template").map_err(|error| render_error(&error))?;
        template.render_captured_to(context, &mut output).map_err(|error| render_error(&error))?;
        let text = String::from_utf8(output.0)
            .map_err(|error| TextError::TemplateRender { reason: error.to_string() })?;
        Ok(take_marks(&text))
    }
}

/// `{% generation %}` is transformers' own block. It becomes a call that keeps its whitespace marks, so that
/// the text around it is trimmed alike, and whose body is rendered first, as there.
fn with_generation_calls(source: &str) -> Cow<'_, str> {
    // A constant that compiles; were it not to, templates with the block would be syntax errors.
    static BLOCK: LazyLock<Option<[Regex; 2]>> = LazyLock::new(|| {
        let tag = |name: &str| Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}"));
        Some([tag("generation").ok()?, tag("endgeneration").ok()?])
    });
    let Some([open, close]) = BLOCK.as_ref() else { return Cow::Borrowed(source) };
    if !open.is_match(source) {
        return Cow::Borrowed(source);
    }
    let opened = open.replace_all(source, "{%$1 call _generation() $2%}");
    Cow::Owned(close.replace_all(&opened, "{%$1 endcall $2%}").into_owned())
}

/// Renders the body of a generation block between marks.
fn generation(state: &mut State, kwargs: Kwargs) -> Result<Jinja, minijinja::Error> {
    let body: Jinja = kwargs.get("caller")?;
    let text = body.call(state, &[])?;
    Ok(Jinja::from(format!("{OPEN}{text}{CLOSE}")))
}

/// Takes the marks of generation blocks out and notes where they were.
fn take_marks(marked: &str) -> RenderedChat {
    let mut text = String::with_capacity(marked.len());
    let mut generations = Vec::new();
    let mut start = None;
    for letter in marked.chars() {
        match letter {
            OPEN => start = Some(text.len()),
            CLOSE => generations.extend(start.take().map(|start| start..text.len())),
            _ => text.push(letter),
        }
    }
    RenderedChat { text, generations }
}

/// transformers gives a turn's reasoning under each name it has had, so that any template finds it.
fn with_reasoning(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let names = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = names.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()))
    else {
        return message.clone();
    };
    let mut all = fields.clone();
    all.entry("thinking").or_insert_with(|| reasoning.clone());
    all.insert("reasoning_content".to_owned(), reasoning.clone());
    Value::Object(all)
}

/// The engine's error as ours: a bound, a refusal, or a failure.
fn render_error(error: &minijinja::Error) -> TextError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TextError::TemplateLimit { reason: format!("more than {FUEL} steps") };
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refused(words)) = error.downcast_ref::<Refused>() {
            return TextError::TemplateRefused { reason: words.clone() };
        }
        if let Some(error) =
            error.downcast_ref::<io::Error>().filter(|e| e.kind() == io::ErrorKind::FileTooLarge)
        {
            return TextError::TemplateLimit { reason: error.to_string() };
        }
        cause = error.source();
    }
    TextError::TemplateRender { reason: describe(error) }
}

/// The engine's words with the line, and with the causes below, without the name of the template that only we
/// gave.
fn describe(error: &minijinja::Error) -> String {
    let mut words = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        words.push_str(&format!(" (line {line})"));
    }
    words
}

/// A buffer that refuses to grow beyond the bound.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_OUTPUT {
            let reason = format!("more than {LONGEST_OUTPUT} bytes of output");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
