//! Regular expressions of PEFT's configurations, as Python's `re` reads them: look-around and back-references too.

use crate::config::error::{ConfigError, Result};
use fancy_regex::{Regex, RegexBuilder};

/// Characters that an expression may have; a file from outside must not make a program of any size.
const MOST_CHARACTERS: usize = 1 << 16;

/// Steps back that a match may take: enough for any name of a module, and gone in a moment.
const MOST_STEPS: usize = 200_000;

/// A compiled expression of one field of a configuration.
pub(crate) struct Pattern<'a> {
    field: &'static str,
    text: &'a str,
    regex: Regex,
}

impl<'a> Pattern<'a> {
    /// The expression `text` of `field`, for whole names (`re.fullmatch`).
    ///
    /// # Errors
    /// It is no valid expression, or too long.
    pub(crate) fn whole(field: &'static str, text: &'a str) -> Result<Self> {
        Self::new(field, text, format!("^(?:{})$", rust_form(text)))
    }

    /// The same for names or their endings from a dot on: how PEFT looks up `rank_pattern` and `alpha_pattern`.
    ///
    /// # Errors
    /// As [`Pattern::whole`].
    pub(crate) fn ending(field: &'static str, text: &'a str) -> Result<Self> {
        Self::new(field, text, format!(r"^(?:.*\.)?(?:{})$", rust_form(text)))
    }

    /// The same for a part of a name between dots, whatever follows: how PEFT finds the modules of `modules_to_save`.
    ///
    /// # Errors
    /// As [`Pattern::whole`].
    pub(crate) fn part(field: &'static str, text: &'a str) -> Result<Self> {
        Self::new(field, text, format!(r"^(?:|.*\.)(?:{})(?:$|\..*)", rust_form(text)))
    }

    /// The same for what comes before the number of a layer: `layers_pattern`. The number is the group `idx`.
    ///
    /// # Errors
    /// As [`Pattern::whole`].
    pub(crate) fn before_number(field: &'static str, text: &'a str) -> Result<Self> {
        let start = if text.is_empty() {
            r".*?\.[^.]*".into()
        } else {
            format!(r"(?:^|.*?\.)(?:{})", rust_form(text))
        };
        Self::new(field, text, format!(r"^{start}\.(?P<idx>\d+)\."))
    }

    fn new(field: &'static str, text: &'a str, regex: String) -> Result<Self> {
        if text.len() > MOST_CHARACTERS {
            let problem = format!("{} bytes; expected at most {MOST_CHARACTERS}", text.len());
            return Err(fault(field, text, problem));
        }
        let built = RegexBuilder::new(&regex).backtrack_limit(MOST_STEPS).build();
        let regex = built.map_err(|e| fault(field, text, e.to_string()))?;
        Ok(Self { field, text, regex })
    }

    /// Whether it matches.
    ///
    /// # Errors
    /// The match takes too many steps.
    pub(crate) fn is_match(&self, name: &str) -> Result<bool> {
        self.regex.is_match(name).map_err(|e| fault(self.field, self.text, e.to_string()))
    }

    /// The number that the group `idx` caught.
    ///
    /// # Errors
    /// As [`Pattern::is_match`].
    pub(crate) fn number(&self, name: &str) -> Result<Option<usize>> {
        let found = self.regex.captures(name).map_err(|e| fault(self.field, self.text, e.to_string()))?;
        Ok(found.and_then(|groups| groups.name("idx")?.as_str().parse().ok()))
    }
}

fn fault(field: &'static str, text: &str, problem: String) -> ConfigError {
    const SHOWN: usize = 200;
    let short: String = text.chars().take(SHOWN).collect();
    let pattern = if short.len() < text.len() { short + "…" } else { short };
    ConfigError::Pattern { field, pattern, problem: problem.chars().take(SHOWN).collect() }
}

/// An expression of Python in Rust's form: within a class of characters Rust knows nested classes and operations on them,
/// and Python does not; `\Z` is the very end.
fn rust_form(text: &str) -> String {
    let (mut out, mut class, mut before) = (String::with_capacity(text.len()), None::<usize>, '\0');
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let at = class.unwrap_or(0);
        match (c, class) {
            ('\\', _) => {
                let next = rest.next();
                match next {
                    Some('Z') if class.is_none() => out.push_str(r"\z"),
                    Some(next) => out.extend(['\\', next]),
                    None => out.push('\\'),
                }
                class = class.map(|_| at + 1);
                before = '\0';
                continue;
            }
            ('[', None) => {
                class = Some(0);
                out.push(c);
                before = c;
                continue;
            }
            // the first in a class stands for itself
            (']', Some(0)) => out.push_str(r"\]"),
            (']', Some(_)) => {
                class = None;
                out.push(c);
            }
            ('^', Some(0)) if before == '[' => {
                out.push(c);
                before = c;
                continue;
            }
            ('[', Some(_)) => out.push_str(r"\["),
            ('&' | '~', Some(_)) => out.extend(['\\', c]),
            _ => out.push(c),
        }
        class = class.map(|_| at + 1);
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pattern: &str, name: &str) -> bool {
        Pattern::whole("target_modules", pattern).expect("valid").is_match(name).expect("matched")
    }

    #[test]
    fn expressions_mean_what_they_mean_in_python() {
        let q = "model.layers.1.self_attn.q_proj";
        for (pattern, name, expected) in [
            (r"^(?!.*visual).*(?:q_proj|v_proj).*$", q, true),
            (r"^(?!.*visual).*(?:q_proj|v_proj).*$", "visual.blocks.0.q_proj", false),
            (r".*(?<!self_attn\.)q_proj", q, false),
            (r".*(?<=self_attn\.)q_proj\Z", q, true),
            (r"(model)\.layers\.(\d+)\..*(?<!\1)", q, true),
            (r"q|q_proj", "q_proj", true),
            (r"[^[]+", q, true),
            (r"[]a&&z]+", "&]", true),
            (r"[^]]+", "a]", false),
            (r"[a~~b]+", "~", true),
            (r"(?i)MODEL.*", q, true),
            (r"q_proj", q, false),
        ] {
            assert_eq!(whole(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn numbers_of_layers_are_the_first_ones() {
        let of = |pattern: &str, name: &str| {
            Pattern::before_number("layers_pattern", pattern).expect("valid").number(name).expect("matched")
        };
        assert_eq!(of("", "model.layers.7.experts.3.w1"), Some(7));
        assert_eq!(of("h", "transformer.h.2.attn.c_attn"), Some(2));
        assert_eq!(of("blocks", "model.layers.7.x"), None);
    }

    #[test]
    fn what_costs_without_end_is_an_error_of_its_field() {
        let broken = Pattern::whole("target_modules", "(").err().expect("broken");
        let long = "x".repeat(MOST_CHARACTERS + 1);
        let long = Pattern::ending("rank_pattern", &long).err().expect("too long");
        let slow = Pattern::whole("exclude_modules", r"(?:(a+)+\1)+b").expect("valid");
        let slow = slow.is_match(&"a".repeat(60)).expect_err("too slow");
        for (error, field) in [(broken, "target_modules"), (long, "rank_pattern"), (slow, "exclude_modules")]
        {
            let message = error.to_string();
            assert!(message.starts_with(&format!("`{field}`")) && message.len() < 600, "{message}");
        }
        let deep = "(".repeat(30_000) + &")".repeat(30_000);
        assert!(Pattern::whole("target_modules", &deep).is_err());
    }
}
