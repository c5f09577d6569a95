//! Switches of single messages: whether a turn is learnt.

use serde_json::{Map, Value};

use crate::data::{DataError, Source};

/// What a message says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// Nothing: the assistant's turns are learnt.
    Unset,
    /// To be learnt, whoever says it.
    On,
    /// Not to be learnt.
    Off,
}

/// The fields that are switches, with the value that turns learning on. `weight` is OpenAI's, `train`, `training` and
/// `train_on_turn` are Axolotl's, `loss` is ms-swift's, `masked` says the contrary.
const SWITCHES: [(&str, bool); 7] = [
    ("weight", true),
    ("train", true),
    ("training", true),
    ("train_on_turn", true),
    ("trainable", true),
    ("loss", true),
    ("masked", false),
];
/// Switches of parts of a message, which are not obeyed.
const OF_PARTS: [&str; 3] = ["train_detail", "training_detail", "loss_mask"];

/// Turns the learning of a message off, whatever it says itself.
pub(in crate::data) fn turn_off(message: &mut Map<String, Value>) {
    message.retain(|name, _| {
        !SWITCHES.iter().any(|(switch, _)| switch == name) && !OF_PARTS.contains(&name.as_str())
    });
    message.insert("train".to_owned(), false.into());
}

/// Takes the switches out of messages: they are not for the template, which may print a message as it is.
///
/// # Errors
/// A switch with another value than true, false, 1 or 0; two that disagree; a switch of a part of a message.
pub(super) fn take(messages: &[Value], at: &Source) -> Result<(Vec<Switch>, Vec<Value>), DataError> {
    let mut switches = Vec::with_capacity(messages.len());
    let mut plain = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let Value::Object(fields) = message else {
            switches.push(Switch::Unset);
            plain.push(message.clone());
            continue;
        };
        switches.push(read(fields, index, at)?);
        let kept = fields.iter().filter(|(name, _)| {
            !SWITCHES.iter().any(|(switch, _)| switch == name) && !OF_PARTS.contains(&name.as_str())
        });
        plain.push(Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()));
    }
    Ok((switches, plain))
}

fn read(fields: &Map<String, Value>, index: usize, at: &Source) -> Result<Switch, DataError> {
    let wrong = |key: &str, found: String, expected| DataError::MessageSwitch {
        at: at.clone(),
        key: format!("messages[{index}].{key}"),
        found,
        expected,
    };
    for key in OF_PARTS {
        let given = fields.get(key).filter(|value| !value.is_null() && value.as_array() != Some(&Vec::new()));
        if given.is_some() {
            return Err(wrong(
                key,
                "given".to_owned(),
                "a switch of the whole message: parts cannot be switched",
            ));
        }
    }
    let mut switch: Option<(&str, Switch)> = None;
    for (key, on) in SWITCHES {
        let given = match fields.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => false,
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => true,
            Some(other) => {
                let found: String = other.to_string().chars().take(40).collect();
                return Err(wrong(key, found, "0, 1, true or false"));
            }
        };
        let assistant = fields.get("role").and_then(Value::as_str) == Some("assistant");
        let found = match given == on {
            // A weight is of the assistant's messages alone: 1 beside another's is what it would have without.
            true if key == "weight" && !assistant => continue,
            // That another's message is not masked does not mean that it is said by the model.
            true if key == "masked" && !assistant => continue,
            true => Switch::On,
            false => Switch::Off,
        };
        match switch {
            Some((_, other)) if other == found => {}
            Some((other, _)) => {
                let found = format!("contrary to `{other}`");
                return Err(wrong(key, found, "switches that agree"));
            }
            None => switch = Some((key, found)),
        }
    }
    Ok(switch.map_or(Switch::Unset, |(_, switch)| switch))
}
