//! The configuration file of `train`: flags by their names, from the same table as the command line.
//!
//! Keys become arguments that are appended to those typed, so that one parser reads both. A key whose flag
//! was typed, or that excludes a typed one, is left out: what is typed wins.

use crate::about::command as command_table;
use crate::args::Cli;
use crate::failure::{Failure, Outcome, usage};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::any::TypeId;
use std::ffi::OsString;
use std::path::Path;
use toktune::train::MemoryBudget;
use toml::Value;

const COMMAND: &str = "train";
/// The flag that names the file, which the file itself cannot have.
const FLAG: &str = "config";

/// Reads the command line, and the configuration file it names.
pub fn parse(typed: impl IntoIterator<Item = OsString>) -> Outcome<Cli> {
    let mut arguments: Vec<OsString> = typed.into_iter().collect();
    // the file may hold what is required, so the first reading requires nothing
    let lenient = command_table().mut_subcommand(COMMAND, |c| c.mut_args(|arg| arg.required(false)));
    let matches = lenient.try_get_matches_from(&arguments).map_err(Failure::Arguments)?;
    let train = matches.subcommand_matches(COMMAND);
    let path = train.and_then(|train| train.get_one::<std::path::PathBuf>(FLAG)).cloned();
    if let (Some(path), Some(train)) = (&path, train) {
        arguments.extend(read(path, train)?);
    }
    let parsed = command_table().try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m));
    parsed.map_err(|error| match path {
        // what was typed has been read once without a fault
        Some(path) if error.kind() != clap::error::ErrorKind::MissingRequiredArgument => {
            let text = error.to_string();
            Failure::Usage(format!("{}: {}", path.display(), text.trim_start_matches("error: ").trim_end()))
        }
        _ => Failure::Arguments(error),
    })
}

/// The arguments that the file at `path` stands for, beside those typed.
fn read(path: &Path, typed: &ArgMatches) -> Outcome<Vec<OsString>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{shown}: {e}")))?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Failure::Usage(format!("{shown}: {e}")))?;
    let mut command = command_table();
    command.build();
    let Some(command) = command.find_subcommand(COMMAND) else { return Ok(Vec::new()) };
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let flag = key.replace('_', "-");
        let Some(arg) = flags(command).find(|arg| arg.get_long() == Some(flag.as_str())) else {
            let names = flags(command).filter_map(Arg::get_long);
            let nearest = toktune::nearest(&flag, names).map(|name| format!("; did you mean '{name}'?"));
            return usage(format!("{shown}: unknown key '{key}'{}", nearest.unwrap_or_default()));
        };
        let written = written(arg, value).map_err(|expected| {
            Failure::Usage(format!("{shown}: '{key}': expected {expected}, found {}", described(value)))
        })?;
        let is_typed =
            |arg: &Arg| typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let excludes =
            |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
        let outdone = flags(command)
            .any(|other| is_typed(other) && (other == arg || excludes(other, arg) || excludes(arg, other)));
        if !outdone {
            arguments.extend(written.into_iter().map(OsString::from));
        }
    }
    Ok(arguments)
}

/// The flags that a file may have.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let of_file = |arg: &&Arg| !matches!(arg.get_long(), None | Some(FLAG | "help" | "version"));
    command.get_arguments().filter(of_file)
}

/// A key's value as it would be typed; `Err` is what the flag takes.
fn written(arg: &Arg, value: &Value) -> Result<Vec<String>, String> {
    let name = arg.get_long().unwrap_or_default();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        let on = value.as_bool().ok_or("true or false")?;
        return Ok(on.then(|| format!("--{name}")).into_iter().collect());
    }
    // a flag that may stand without a value
    if let (Some(on), true) =
        (value.as_bool(), arg.get_num_args().is_some_and(|count| count.min_values() == 0))
    {
        return Ok(on.then(|| format!("--{name}")).into_iter().collect());
    }
    let kind = Kind::of(arg);
    let one = |value: &Value| kind.text(value).map(|text| format!("--{name}={text}"));
    match value {
        Value::Array(list) if is_list(arg) => {
            list.iter().map(|v| one(v).ok_or_else(|| format!("a list of {}s", kind.name()))).collect()
        }
        one_value => match one(one_value) {
            Some(text) => Ok(vec![text]),
            None if is_list(arg) => Err(format!("a {0} or a list of {0}s", kind.name())),
            None => Err(kind.article().to_string()),
        },
    }
}

/// Whether the flag takes several values.
fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// What a flag's value is in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Number,
    Truth,
    /// A number of bytes, or a text: one with a unit, or a name.
    Size,
    Text,
}

impl Kind {
    fn of(arg: &Arg) -> Kind {
        let of = arg.get_value_parser().type_id();
        let is_one_of = |types: &[TypeId]| types.iter().any(|id| of == *id);
        if is_one_of(&[TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()]) {
            Kind::Integer
        } else if is_one_of(&[TypeId::of::<f32>(), TypeId::of::<f64>()]) {
            Kind::Number
        } else if is_one_of(&[TypeId::of::<bool>()]) {
            Kind::Truth
        } else if of == TypeId::of::<MemoryBudget>() {
            Kind::Size
        } else {
            Kind::Text
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Truth => "truth value",
            Kind::Size => "size",
            Kind::Text => "string",
        }
    }

    fn article(self) -> &'static str {
        match self {
            Kind::Integer => "an integer",
            Kind::Number => "a number",
            Kind::Truth => "true or false",
            Kind::Size => "a size, as a string or an integer",
            Kind::Text => "a string",
        }
    }

    fn text(self, value: &Value) -> Option<String> {
        match (self, value) {
            (Kind::Integer | Kind::Number | Kind::Size, Value::Integer(n)) => Some(n.to_string()),
            (Kind::Number, Value::Float(x)) => Some(x.to_string()),
            (Kind::Truth, Value::Boolean(b)) => Some(b.to_string()),
            (Kind::Text | Kind::Size, Value::String(text)) => Some(text.clone()),
            _ => None,
        }
    }
}

/// A value for a message.
fn described(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string \"{text}\""),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Datetime(_) => "a date".into(),
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags that users hold on to, as the documentation has them.
    const PROMISED: &str = "\
        model data output token-ids token add-token add-special-token target-modules init eval-data emission-prompts require-emission tensorboard report \
        config batch-size gradient-accumulation-steps num-epochs max-steps max-length learning-rate \
        lr-scheduler warmup-steps weight-decay max-grad-norm loss-on shuffle share-prefixes seed precision device \
        threads memory-budget cache-constants cache-limit profile log-every eval-every save-every resume \
        log-format adapter save-embedding-layers lora-r lora-alpha lora-dropout lora-target-modules \
        lora-use-rslora lora-learning-rate beta loss-type label-smoothing mlm-probability mask-trained-tokens prompt-key completion-key \
        text-key sample-by data-cache init-spread allow-unseen norm keep-best keep-last early-stopping-patience resume-anyway word tokens use-reserved template-tokens chat-template source-lang target-lang";

    fn train() -> Command {
        let mut command = command_table();
        command.build();
        command.find_subcommand(COMMAND).cloned().expect("the command is there")
    }

    #[test]
    fn the_table_is_sound_and_holds_what_was_promised_and_nothing_else() {
        command_table().debug_assert();
        let command = train();
        let mut found: Vec<&str> = flags(&command).filter_map(Arg::get_long).chain([FLAG]).collect();
        let mut promised: Vec<&str> = PROMISED.split_whitespace().collect();
        found.sort_unstable();
        promised.sort_unstable();
        assert_eq!(found, promised);
    }

    #[test]
    fn every_flag_can_be_written_in_a_file() {
        for arg in flags(&train()) {
            let name = arg.get_long().expect("flags have names");
            let help = arg.get_help().map(ToString::to_string);
            assert!(help.is_some_and(|help| !help.is_empty()), "{name} has no help");
            if matches!(arg.get_action(), ArgAction::SetTrue) {
                assert_eq!(written(arg, &true.into()), Ok(vec![format!("--{name}")]));
                assert_eq!(written(arg, &false.into()), Ok(vec![]));
                continue;
            }
            let (good, bad): (Value, Value) = match Kind::of(arg) {
                Kind::Integer => (3.into(), "3".into()),
                Kind::Number => (0.5.into(), "0.5".into()),
                Kind::Truth => (true.into(), 1.into()),
                Kind::Size => ("2GB".into(), true.into()),
                Kind::Text => ("x".into(), 1.into()),
            };
            assert_eq!(
                written(arg, &good),
                Ok(vec![format!("--{name}={}", Kind::of(arg).text(&good).expect("text"))])
            );
            assert!(written(arg, &bad).is_err(), "{name}");
            let list = Value::Array(vec![good.clone(), good]);
            assert_eq!(written(arg, &list).is_ok(), is_list(arg), "{name}");
        }
    }
}
