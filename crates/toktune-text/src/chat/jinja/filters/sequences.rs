//! Filters of lists.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::super::budget::Budget;
use super::super::call::{Call, integer, required, text};
use super::super::fault::{Fault, Result};
use super::super::print::display;
use super::super::value::{Missing, SeqKind, Value};
use super::super::{checks, methods};

pub(super) const NAMES: [&str; 17] = [
    "batch",
    "dictsort",
    "first",
    "groupby",
    "items",
    "join",
    "last",
    "list",
    "map",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "slice",
    "sort",
    "unique",
];

pub(super) fn apply(name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    match name {
        "first" | "last" => end(name, arguments, budget),
        "list" => {
            let [value] = arguments.bind(name, ["value"])?;
            Value::list(required(value, name)?.iterate(budget)?)
        }
        "items" => {
            let [value] = arguments.bind(name, ["value"])?;
            match required(value, name)? {
                Value::Undefined(_) => Value::seq(SeqKind::Iterator, Vec::new()),
                value @ Value::Dict(_) => {
                    let items = methods::call(&value, "items", Call::default(), budget)?;
                    Value::seq(SeqKind::Iterator, items.iterate(budget)?)
                }
                other => Err(Fault::failed(format!("items needs a dict, not {}", other.type_name()))),
            }
        }
        "join" => {
            let [items, between, attribute] = arguments.bind(name, ["value", "d", "attribute"])?;
            let between = between.map_or(Ok("".into()), |between| display(&between, budget))?;
            let items = attributes(required(items, name)?, attribute.as_ref(), budget)?;
            let items = methods::displayed(&items, budget)?;
            methods::join(&items, &between, budget)
        }
        "map" => map(arguments, budget),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, arguments, budget),
        "reverse" => {
            let [value] = arguments.bind(name, ["value"])?;
            let value = required(value, name)?;
            let mut items = value.iterate(budget)?;
            items.reverse();
            match value {
                Value::Str(text) => {
                    budget.make(text.len())?;
                    Ok(Value::str(text.chars().rev().collect::<String>()))
                }
                _ => Value::seq(SeqKind::Iterator, items),
            }
        }
        "sort" => sort(arguments, budget),
        "dictsort" => dict_sort(arguments, budget),
        "unique" => {
            let [items, case, attribute] = arguments.bind(name, ["value", "case_sensitive", "attribute"])?;
            let case = case.is_some_and(|case| case.truth());
            let mut seen = HashSet::new();
            let mut kept = Vec::new();
            for item in required(items, name)?.iterate(budget)? {
                let key = folded(attribute_of(&item, attribute.as_ref(), budget)?, case, budget)?;
                if seen.insert(key.key(budget)?) {
                    kept.push(item);
                }
            }
            Value::seq(SeqKind::Iterator, kept)
        }
        "groupby" => group(arguments, budget),
        "batch" => {
            let [items, size, fill] = arguments.bind(name, ["value", "linecount", "fill_with"])?;
            let size = positive(required(size, name)?, name)?;
            let items = required(items, name)?.iterate(budget)?;
            let mut batches = Vec::new();
            for batch in items.chunks(size) {
                let mut batch = batch.to_vec();
                if let Some(fill) = fill.clone().filter(|fill| !matches!(fill, Value::None)) {
                    budget.make_list(size)?;
                    batch.resize(size, fill);
                }
                batches.push(Value::list(batch)?);
            }
            Value::seq(SeqKind::Iterator, batches)
        }
        _ => {
            let [items, slices, fill] = arguments.bind(name, ["value", "slices", "fill_with"])?;
            let slices = positive(required(slices, name)?, name)?;
            let items = required(items, name)?.iterate(budget)?;
            budget.make_list(slices.saturating_mul(2))?;
            let (each, more) = (items.len() / slices, items.len() % slices);
            let mut rest = items.into_iter();
            let mut parts = Vec::new();
            for index in 0..slices {
                let mut part: Vec<Value> = rest.by_ref().take(each + usize::from(index < more)).collect();
                if let Some(fill) = fill.clone().filter(|fill| !matches!(fill, Value::None) && index >= more)
                {
                    part.push(fill);
                }
                parts.push(Value::list(part)?);
            }
            Value::seq(SeqKind::Iterator, parts)
        }
    }
}

fn positive(value: Value, name: &str) -> Result<usize> {
    let number = usize::try_from(integer(&value, name)?).unwrap_or(0);
    match number {
        0 => Err(Fault::failed(format!("{name} needs a number above 0"))),
        number => Ok(number),
    }
}

fn end(name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    let [value] = arguments.bind(name, ["value"])?;
    let value = required(value, name)?;
    let missing = || Value::Undefined(Missing::Other("the list is empty"));
    if let Value::Seq(seq) = &value {
        if seq.kind == SeqKind::Iterator {
            if name == "last" {
                return Err(Fault::failed("last: a generator cannot be walked backwards"));
            }
            let next = seq.taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return Ok(seq.items.get(next).cloned().unwrap_or_else(missing));
        }
        let found = if name == "first" { seq.items.first() } else { seq.items.last() };
        return Ok(found.cloned().unwrap_or_else(missing));
    }
    let items = value.iterate(budget)?;
    let found = if name == "first" { items.first() } else { items.last() };
    Ok(found.cloned().unwrap_or_else(missing))
}

/// The value to compare by: texts are alike in either case unless that matters.
pub(super) fn folded(value: Value, case_sensitive: bool, budget: &mut Budget) -> Result<Value> {
    match &value {
        Value::Str(text) if !case_sensitive => {
            budget.make(text.len())?;
            Ok(Value::str(text.to_lowercase()))
        }
        _ => Ok(value),
    }
}

fn attribute_of(item: &Value, attribute: Option<&Value>, budget: &mut Budget) -> Result<Value> {
    match attribute {
        None | Some(Value::None) => Ok(item.clone()),
        Some(attribute) => methods::path(item, attribute, budget),
    }
}

fn attributes(items: Value, attribute: Option<&Value>, budget: &mut Budget) -> Result<Vec<Value>> {
    let items = items.iterate(budget)?;
    items.iter().map(|item| attribute_of(item, attribute, budget)).collect()
}

/// These filters take whatever is false for an empty list.
fn some(items: Value) -> Value {
    if items.truth() { items } else { Value::Undefined(Missing::Other("no items")) }
}

fn map(mut arguments: Call, budget: &mut Budget) -> Result<Value> {
    if arguments.positional.is_empty() {
        return Err(Fault::failed("map lacks an argument"));
    }
    let items = some(arguments.positional.remove(0));
    let by_attribute = arguments.positional.is_empty();
    if by_attribute {
        let [attribute, default] = arguments.bind("map", ["attribute", "default"])?;
        let attribute = required(attribute, "map")?;
        let mut mapped = Vec::new();
        for item in items.iterate(budget)? {
            mapped.push(methods::path_or(&item, &attribute, default.as_ref(), budget)?);
        }
        return Value::seq(SeqKind::Iterator, mapped);
    }
    let filter = text(arguments.positional.remove(0), "map")?;
    let mut mapped = Vec::new();
    for item in items.iterate(budget)? {
        let positional = std::iter::once(item).chain(arguments.positional.iter().cloned()).collect();
        mapped.push(super::apply(&filter, Call { positional, named: arguments.named.clone() }, budget)?);
    }
    Value::seq(SeqKind::Iterator, mapped)
}

fn select(name: &str, mut arguments: Call, budget: &mut Budget) -> Result<Value> {
    let by_attribute = name.ends_with("attr");
    let wanted = name.starts_with("select");
    if arguments.positional.len() < 1 + usize::from(by_attribute) {
        return Err(Fault::failed(format!("{name} lacks an argument")));
    }
    let items = some(arguments.positional.remove(0));
    let attribute = by_attribute.then(|| arguments.positional.remove(0));
    let test = match arguments.positional.is_empty() {
        true => None,
        false => Some(text(arguments.positional.remove(0), name)?),
    };
    let mut kept = Vec::new();
    for item in items.iterate(budget)? {
        let value = attribute_of(&item, attribute.as_ref(), budget)?;
        let holds = match &test {
            None => value.truth(),
            Some(test) => {
                let positional = std::iter::once(value).chain(arguments.positional.iter().cloned()).collect();
                checks::holds(test, Call { positional, named: arguments.named.clone() }, budget)?
            }
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    Value::seq(SeqKind::Iterator, kept)
}

/// Sorts pairs by their keys, equal ones in their order.
fn sorted(mut pairs: Vec<(Value, Value)>, reverse: bool, budget: &mut Budget) -> Result<Vec<Value>> {
    let mut fault = None;
    if reverse {
        pairs.reverse();
    }
    pairs.sort_by(|(a, _), (b, _)| match fault {
        Some(_) => Ordering::Equal,
        None => {
            a.compare(b, budget).map(|ordering| ordering.unwrap_or(Ordering::Equal)).unwrap_or_else(|found| {
                fault = Some(found);
                Ordering::Equal
            })
        }
    });
    if reverse {
        pairs.reverse();
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok(pairs.into_iter().map(|(_, item)| item).collect()),
    }
}

fn sort(arguments: Call, budget: &mut Budget) -> Result<Value> {
    let names = ["value", "reverse", "case_sensitive", "attribute"];
    let [items, reverse, case, attribute] = arguments.bind("sort", names)?;
    let truth = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let (reverse, case) = (truth(reverse), truth(case));
    let attributes: Vec<Value> = match &attribute {
        None | Some(Value::None) => vec![Value::None],
        Some(Value::Str(names)) => names.split(',').map(Value::str).collect(),
        Some(other) => vec![other.clone()],
    };
    let mut pairs = Vec::new();
    for item in required(items, "sort")?.iterate(budget)? {
        let mut key = Vec::new();
        for attribute in &attributes {
            key.push(folded(attribute_of(&item, Some(attribute), budget)?, case, budget)?);
        }
        let key = if key.len() == 1 { key.remove(0) } else { Value::list(key)? };
        pairs.push((key, item));
    }
    Value::list(sorted(pairs, reverse, budget)?)
}

fn dict_sort(arguments: Call, budget: &mut Budget) -> Result<Value> {
    let names = ["value", "case_sensitive", "by", "reverse"];
    let [value, case, by, reverse] = arguments.bind("dictsort", names)?;
    let value = required(value, "dictsort")?;
    let place = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => 0,
        Some(Some("value")) => 1,
        _ => return Err(Fault::failed("dictsort: `by` must be key or value")),
    };
    let Value::Dict(_) = value else {
        value.defined()?;
        return Err(Fault::failed(format!("dictsort needs a dict, not {}", value.type_name())));
    };
    let case = case.is_some_and(|case| case.truth());
    let mut pairs = Vec::new();
    for item in methods::call(&value, "items", Call::default(), budget)?.iterate(budget)? {
        let key = methods::path(&item, &Value::Int(place), budget)?;
        pairs.push((folded(key, case, budget)?, item));
    }
    Value::list(sorted(pairs, reverse.is_some_and(|reverse| reverse.truth()), budget)?)
}

fn group(arguments: Call, budget: &mut Budget) -> Result<Value> {
    let names = ["value", "attribute", "default", "case_sensitive"];
    let [items, attribute, default, case] = arguments.bind("groupby", names)?;
    let attribute = required(attribute, "groupby")?;
    let case = case.is_some_and(|case| case.truth());
    let mut pairs = Vec::new();
    for item in required(items, "groupby")?.iterate(budget)? {
        let key = methods::path_or(&item, &attribute, default.as_ref(), budget)?;
        let name = Value::seq(SeqKind::Tuple, vec![key.clone(), item])?;
        pairs.push((folded(key, case, budget)?, name));
    }
    let keys: Vec<Value> = pairs.iter().map(|(key, _)| key.clone()).collect();
    let places: Vec<Value> = (0..keys.len()).map(|place| Value::Int(place as i128)).collect();
    let order = sorted(keys.iter().cloned().zip(places).collect(), false, budget)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for place in order.iter().filter_map(Value::as_int).map(|place| place as usize) {
        let item = methods::path(&pairs[place].1, &Value::Int(1), budget)?;
        match groups.last_mut() {
            Some((key, _, items)) if key.equals(&keys[place], budget)? => items.push(item),
            _ => {
                let name = methods::path(&pairs[place].1, &Value::Int(0), budget)?;
                groups.push((keys[place].clone(), name, vec![item]));
            }
        }
    }
    let group = |(_, name, items)| Value::seq(SeqKind::Group, vec![name, Value::list(items)?]);
    Value::list(groups.into_iter().map(group).collect::<Result<_>>()?)
}
