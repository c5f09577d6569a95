//! Which modules of a model a configuration means.

use super::pattern::Pattern;
use crate::config::error::Result;
use serde::{Deserialize, Serialize};

/// PEFT's `target_modules`: a list of names, or one regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// Full names (`model.embed_tokens`) or endings of names at a dot (`embed_tokens`).
    Names(Vec<String>),
    /// A regular expression that must match a full name.
    Pattern(String),
}

impl TargetModules {
    /// What a command line means by `text`: a list if it holds a comma or is a plain (dotted) name, else a regular
    /// expression.
    pub fn parse(text: &str) -> Self {
        let plain = |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        let names: Vec<String> =
            text.split(',').map(|n| n.trim().to_string()).filter(|n| !n.is_empty()).collect();
        if names.iter().all(|n| plain(n)) { Self::Names(names) } else { Self::Pattern(text.to_string()) }
    }

    /// The same for LoRA's targets: one word may stand for every linear layer.
    pub fn parse_lora(text: &str) -> Self {
        match text.eq_ignore_ascii_case("all-linear") {
            true => Self::Pattern(text.to_string()),
            false => Self::parse(text),
        }
    }

    /// The modules among `names` that are meant, in the order of `names`.
    ///
    /// # Errors
    /// The pattern is no valid regular expression, or matching it takes too many steps.
    pub fn matching<'a>(&self, names: &'a [String]) -> Result<Vec<&'a str>> {
        self.matching_as("target_modules", names)
    }

    /// The same for another `field` of the same form.
    pub(crate) fn matching_as<'a>(&self, field: &'static str, names: &'a [String]) -> Result<Vec<&'a str>> {
        match self {
            Self::Names(targets) => {
                let meant = |name: &str, target: &str| {
                    name == target || name.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
                };
                let meant = |name: &&String| targets.iter().any(|target| meant(name, target));
                Ok(names.iter().filter(meant).map(String::as_str).collect())
            }
            Self::Pattern(pattern) => {
                let pattern = Pattern::whole(field, pattern)?;
                let matched =
                    |name: &&'a String| pattern.is_match(name).map(|is| is.then_some(name.as_str()));
                names.iter().filter_map(|name| matched(&name).transpose()).collect()
            }
        }
    }
}

/// Characters that messages show.
const SHOWN: usize = 200;

impl std::fmt::Display for TargetModules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Names(names) => names.join(", "),
            Self::Pattern(pattern) => pattern.clone(),
        };
        match text.char_indices().nth(SHOWN) {
            None => f.write_str(&text),
            Some((end, _)) => write!(f, "{}… ({} characters)", &text[..end], text.chars().count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::error::ConfigError;

    fn names() -> Vec<String> {
        ["model.embed_tokens", "encoder.embed_tokens", "model.layers.0.q_proj", "lm_head"]
            .map(String::from)
            .to_vec()
    }

    #[test]
    fn names_match_in_full_or_at_a_dot_and_patterns_in_full() {
        let all = names();
        let list = |names: &[&str]| TargetModules::Names(names.iter().map(|n| n.to_string()).collect());
        let pattern = |p: &str| TargetModules::Pattern(p.into());
        for (target, expected) in [
            (list(&["embed_tokens"]), vec!["model.embed_tokens", "encoder.embed_tokens"]),
            (list(&["model.embed_tokens", "lm_head"]), vec!["model.embed_tokens", "lm_head"]),
            (list(&["tokens"]), vec![]),
            (pattern(r".*embed_tokens"), vec!["model.embed_tokens", "encoder.embed_tokens"]),
            (pattern("embed_tokens"), vec![]),
            (pattern("model.embed_tokens"), vec!["model.embed_tokens"]),
            (pattern("lm_head|x"), vec!["lm_head"]),
        ] {
            assert_eq!(target.matching(&all).expect("valid"), expected, "{target:?}");
        }
        assert!(matches!(pattern("(").matching(&all), Err(ConfigError::Pattern { .. })));
    }

    #[test]
    fn messages_show_the_beginning_of_long_targets() {
        let long = TargetModules::Names(vec!["model.layers.0.é".into(); 500]).to_string();
        assert!(
            long.starts_with("model.layers.0.é, ") && long.len() < 300 && long.ends_with("characters)"),
            "{long}"
        );
        assert_eq!(TargetModules::Pattern("q.*".into()).to_string(), "q.*");
    }

    #[test]
    fn a_command_line_says_names_or_a_pattern() {
        assert_eq!(TargetModules::parse("a.b, c"), TargetModules::Names(vec!["a.b".into(), "c".into()]));
        assert_eq!(TargetModules::parse(".*embed.*"), TargetModules::Pattern(".*embed.*".into()));
        let all = TargetModules::parse_lora("all-linear");
        assert_eq!(all, TargetModules::Pattern("all-linear".into()));
        assert_eq!(TargetModules::parse_lora("q_proj"), TargetModules::Names(vec!["q_proj".into()]));
    }
}
