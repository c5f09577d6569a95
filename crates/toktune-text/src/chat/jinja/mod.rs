//! Jinja as jinja2 has it in transformers' sandbox: the syntax, the values of Python that a template can see, and
//! bounds on what a rendering may take.
//!
//! A chat template is a program from a stranger and was written for jinja2, in which values are Python's. So this
//! engine has Python's values: `none is iterable` is false, `1 / 2` is a float, `x.items` is a dict's method even where
//! the dict has such a key. What cannot be bounded or said the same way twice (`random`, a generator's address) is
//! refused by name. Every value is paid for in bytes before it is made and every step counted ([`budget`]); recursion is
//! bounded in the source, in calls and in values, so that a rendering needs no thread and no stack of its own.
//!
//! Left out: autoescaping, loading other templates, and the filters that [`filters`] refuses.

mod access;
mod ast;
mod budget;
mod call;
mod checks;
mod expressions;
mod fault;
mod filters;
mod format;
mod functions;
mod json;
mod lexer;
mod machine;
mod methods;
mod operators;
mod parser;
mod print;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod value;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use fault::{Fault, FaultKind, Result};
#[cfg(test)]
pub(crate) use time::strftime;
pub(crate) use value::Value;

use machine::Machine;

/// Around the text of a generation block inside of a macro or another block whose text is a value: only there its place
/// in the output is not known yet. Unicode calls these two "not a character": text for exchange does not hold them.
const OPEN: &str = "\u{fdd0}";
const CLOSE: &str = "\u{fdd1}";

/// A compiled template. Rendering changes nothing in it: several threads may use it at once.
#[derive(Debug)]
pub(crate) struct Template {
    body: ast::Body,
    marks_generations: bool,
}

/// A rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Where the text of generation blocks lies, in bytes.
    pub(crate) generations: Vec<Range<usize>>,
}

impl Template {
    /// Compiles a source.
    pub(crate) fn new(source: &str) -> Result<Self> {
        let (body, marks_generations) = parser::parse(source)?;
        Ok(Template { body, marks_generations })
    }

    /// Whether the source has generation blocks.
    pub(crate) fn marks_generations(&self) -> bool {
        self.marks_generations
    }

    /// Renders with these variables at this time, in seconds since 1970.
    pub(crate) fn render(&self, variables: Vec<(Arc<str>, Value)>, now: u64) -> Result<Rendered> {
        let output = Machine::new(variables, now).run(&self.body)?;
        match output.marked {
            false => Ok(Rendered { text: output.text, generations: output.generations }),
            true => Ok(take_marks(&output.text, &output.generations)),
        }
    }
}

/// A value of JSON as a template prints it.
pub(crate) fn printed(value: &serde_json::Value) -> Result<String> {
    print::repr(&Value::from_json(value)?, &mut budget::Budget::new())
}

/// Takes the marks of generation blocks out and notes where they were.
fn take_marks(marked: &str, known: &[Range<usize>]) -> Rendered {
    let marks: Vec<(usize, &str)> = marked.match_indices(['\u{fdd0}', '\u{fdd1}']).collect();
    let moved = |at: usize| at - OPEN.len() * marks.partition_point(|(mark, _)| *mark < at);
    let mut generations: Vec<Range<usize>> =
        known.iter().map(|range| moved(range.start)..moved(range.end)).collect();
    let mut start = None;
    for (at, mark) in &marks {
        match *mark == OPEN {
            true => start = Some(moved(*at)),
            false => generations.extend(start.take().map(|start| start..moved(*at))),
        }
    }
    generations.sort_by_key(|range| range.start);
    Rendered { text: marked.replace(['\u{fdd0}', '\u{fdd1}'], ""), generations }
}
