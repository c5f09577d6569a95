//! Functions that every template knows: jinja2's, and the two that transformers adds.

use std::sync::Arc;

use super::call::{Call, integer, required, text};
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::print::display;
use super::time;
use super::value::{SeqKind, Space, Value};

/// The sandbox's bound on `range`.
const LONGEST_RANGE: i128 = 100_000;
const NAMES: [&str; 8] =
    ["range", "dict", "namespace", "cycler", "joiner", "lipsum", "raise_exception", "strftime_now"];

/// The function of this name.
pub(super) fn find(name: &str) -> Option<Value> {
    NAMES.into_iter().find(|known| *known == name).map(Value::Function)
}

pub(super) fn call(machine: &mut Machine, name: &'static str, call: Call) -> Result<Value> {
    match name {
        "range" => range(machine, call),
        "dict" => Value::dict(dict_entries(machine, call)?),
        "namespace" => {
            let mut fields: Vec<(Arc<str>, Value)> = Vec::new();
            for (key, value) in dict_entries(machine, call)? {
                let name = text(key, name)?;
                check_field(&name)?;
                fields.retain(|(found, _)| *found != name);
                fields.push((name, value));
            }
            machine.make_space("namespace", fields)
        }
        "cycler" => {
            if call.positional.is_empty() {
                return Err(Fault::failed("at least one item has to be provided to cycler"));
            }
            let items = Value::seq(SeqKind::Tuple, call.positional)?;
            machine.make_space("cycler", vec![("items".into(), items), ("next".into(), Value::Int(0))])
        }
        "joiner" => {
            let [between] = call.bind(name, ["sep"])?;
            let between = between.unwrap_or_else(|| Value::str(", "));
            machine.make_space("joiner", vec![("next".into(), Value::str("")), ("between".into(), between)])
        }
        "raise_exception" => {
            let [message] = call.bind(name, ["message"])?;
            let message = display(&required(message, name)?, &mut machine.budget)?;
            Err(Fault::refused(&*message))
        }
        "strftime_now" => {
            let [format] = call.bind(name, ["format"])?;
            let format = text(required(format, name)?, name)?;
            // A mark of two letters gives at most a long day's name.
            machine.budget.make(format.len().saturating_mul(5))?;
            Ok(Value::str(time::strftime(machine.now, &format)))
        }
        other => Err(Fault::failed(format!("the function `{other}` is not supported"))),
    }
}

/// transformers keeps names with an underscore in front out of namespaces.
pub(super) fn check_field(name: &str) -> Result<()> {
    match name.starts_with('_') {
        true => Err(Fault::failed(format!("a namespace cannot hold `{name}`: it begins with an underscore"))),
        false => Ok(()),
    }
}

fn dict_entries(machine: &mut Machine, call: Call) -> Result<Vec<(Value, Value)>> {
    let Call { mut positional, named } = call;
    let mut entries = Vec::new();
    if positional.len() > 1 {
        return Err(Fault::failed("dict takes one value without a name"));
    }
    match positional.pop() {
        None => {}
        Some(Value::Dict(dict)) => entries.extend(dict.entries.iter().cloned()),
        Some(other) => {
            for pair in other.iterate(&mut machine.budget)? {
                let mut pair = pair.iterate(&mut machine.budget)?;
                match (pair.pop(), pair.pop()) {
                    (Some(value), Some(key)) if pair.is_empty() => entries.push((key, value)),
                    _ => return Err(Fault::failed("dict needs pairs")),
                }
            }
        }
    }
    machine.budget.make_list(entries.len() * 2 + named.len() * 2 + 2)?;
    entries.extend(named.into_iter().map(|(name, value)| (Value::Str(name), value)));
    Ok(entries)
}

fn range(machine: &mut Machine, call: Call) -> Result<Value> {
    let [first, second, third] = call.bind("range", ["start", "stop", "step"])?;
    let number = |value: Value| integer(&value, "range");
    let first = number(required(first, "range")?)?;
    let (start, stop) = match second {
        Some(stop) => (first, number(stop)?),
        None => (0, first),
    };
    let step = third.map_or(Ok(1), number)?;
    if step == 0 {
        return Err(Fault::failed("range: the step is 0"));
    }
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let count = distance.max(0).saturating_add(step.saturating_abs() - 1) / step.saturating_abs();
    if count > LONGEST_RANGE {
        return Err(Fault::limit(format!("a range of {count} numbers, expected at most {LONGEST_RANGE}")));
    }
    machine.budget.make_list(count as usize)?;
    Value::seq(SeqKind::Range, (0..count).map(|index| Value::Int(start + index * step)).collect())
}

/// A call of a `joiner`: nothing at first, then what it was made with.
pub(super) fn join(space: &Space, call: Call) -> Result<Value> {
    call.none("joiner")?;
    let now = space.get("next").unwrap_or(Value::None);
    space.set(&"next".into(), space.get("between").unwrap_or(Value::None));
    Ok(now)
}

/// The methods of a `cycler`.
pub(super) fn cycle(space: &Space, name: &str, call: Call) -> Result<Value> {
    call.none(name)?;
    if name == "reset" {
        space.set(&"next".into(), Value::Int(0));
        return Ok(Value::None);
    }
    let item = current(space);
    if let (Some(next), Some(Value::Seq(items))) =
        (space.get("next").and_then(|next| next.as_int()), space.get("items"))
    {
        space.set(&"next".into(), Value::Int((next + 1) % items.items.len().max(1) as i128));
    }
    Ok(item)
}

/// The item that a `cycler` gives next.
pub(super) fn current(space: &Space) -> Value {
    let next = space.get("next").and_then(|next| next.as_int()).unwrap_or(0);
    match space.get("items") {
        Some(Value::Seq(items)) => items.items.get(next as usize).cloned().unwrap_or(Value::None),
        _ => Value::None,
    }
}
