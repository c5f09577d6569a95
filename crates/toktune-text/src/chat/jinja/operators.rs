//! Python's operators.

use std::cmp::Ordering;

use super::ast::{Comparison, Operator};
use super::budget::Budget;
use super::fault::{Fault, Result};
use super::format;
use super::value::{SeqKind, Value};

/// `a op b`.
pub(crate) fn binary(operator: Operator, a: &Value, b: &Value, budget: &mut Budget) -> Result<Value> {
    budget.step(1)?;
    match (operator, a, b) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => {
            budget.make(a.len().saturating_add(b.len()))?;
            return Ok(Value::str([&**a, &**b].concat()));
        }
        (Operator::Add, Value::Seq(left), Value::Seq(right)) => {
            let tuple = |kind| matches!(kind, SeqKind::Tuple | SeqKind::Group);
            let kind = match (left.kind, right.kind) {
                (SeqKind::List, SeqKind::List) => SeqKind::List,
                (left, right) if tuple(left) && tuple(right) => SeqKind::Tuple,
                _ => return Err(cannot(operator, a, b)),
            };
            budget.make_list(left.items.len() + right.items.len())?;
            return Value::seq(kind, left.items.iter().chain(&right.items).cloned().collect());
        }
        (Operator::Multiply, Value::Str(_) | Value::Seq(_), _) => return repeat(a, b, budget),
        (Operator::Multiply, _, Value::Str(_) | Value::Seq(_)) => return repeat(b, a, budget),
        (Operator::Remainder, Value::Str(text), _) => {
            let arguments = match b {
                Value::Seq(seq) if seq.kind == SeqKind::Tuple => seq.items.clone(),
                other => vec![other.clone()],
            };
            return format::percent(text, &arguments, Some(b), budget).map(Value::str);
        }
        _ => {}
    }
    match (a.as_int(), b.as_int()) {
        (Some(x), Some(y)) => integers(operator, x, y),
        _ => match (a.as_float(), b.as_float()) {
            (Some(x), Some(y)) => floats(operator, x, y),
            _ => Err(cannot(operator, a, b)),
        },
    }
}

fn cannot(operator: Operator, a: &Value, b: &Value) -> Fault {
    if let Err(fault) = a.defined().and(b.defined()) {
        return fault;
    }
    let sign = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "**",
    };
    Fault::failed(format!("cannot compute {} {sign} {}", a.type_name(), b.type_name()))
}

/// A text or list several times over.
fn repeat(value: &Value, times: &Value, budget: &mut Budget) -> Result<Value> {
    let Some(times) = times.as_int() else { return Err(cannot(Operator::Multiply, value, times)) };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Str(text) => {
            budget.make(text.len().saturating_mul(times))?;
            // An empty text stays empty however often, and needs no rounds.
            Ok(Value::str(text.repeat(if text.is_empty() { 0 } else { times })))
        }
        Value::Seq(seq) if matches!(seq.kind, SeqKind::List | SeqKind::Tuple | SeqKind::Group) => {
            let count = seq.items.len().saturating_mul(times);
            budget.make_list(count)?;
            let kind = if seq.kind == SeqKind::List { SeqKind::List } else { SeqKind::Tuple };
            Value::seq(kind, seq.items.iter().cycle().take(count).cloned().collect())
        }
        other => Err(cannot(Operator::Multiply, other, &Value::Int(0))),
    }
}

fn too_large() -> Fault {
    Fault::limit("an integer of more than 127 bits")
}

fn integers(operator: Operator, x: i128, y: i128) -> Result<Value> {
    let zero = || Fault::failed("division by zero");
    let result = match operator {
        Operator::Add => x.checked_add(y),
        Operator::Subtract => x.checked_sub(y),
        Operator::Multiply => x.checked_mul(y),
        Operator::Divide if y == 0 => return Err(zero()),
        Operator::Divide => return Ok(Value::Float(x as f64 / y as f64)),
        Operator::FloorDivide | Operator::Remainder if y == 0 => return Err(zero()),
        Operator::FloorDivide | Operator::Remainder => match (x.checked_div(y), x.checked_rem(y)) {
            (Some(quotient), Some(rest)) => {
                // Python rounds down, so that the rest has the divisor's sign.
                let down = rest != 0 && (rest < 0) != (y < 0);
                Some(match operator {
                    Operator::FloorDivide => quotient - i128::from(down),
                    _ => rest + if down { y } else { 0 },
                })
            }
            _ => None,
        },
        Operator::Power if y < 0 && x == 0 => return Err(zero()),
        Operator::Power if y < 0 => return Ok(Value::Float((x as f64).powf(y as f64))),
        Operator::Power => match (x, y) {
            (0 | 1, _) | (_, 0) => Some(if y == 0 { 1 } else { x }),
            (-1, y) => Some(if y % 2 == 0 { 1 } else { -1 }),
            _ => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        },
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn floats(operator: Operator, x: f64, y: f64) -> Result<Value> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if divides && y == 0.0 {
        return Err(Fault::failed("division by zero"));
    }
    let rest = || {
        let rest = x % y;
        if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
    };
    Ok(Value::Float(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::FloorDivide => ((x - rest()) / y).round(),
        Operator::Remainder => rest(),
        Operator::Power => {
            let power = x.powf(y);
            if power.is_nan() || power.is_infinite() {
                return Err(Fault::failed("a power that is no finite number"));
            }
            power
        }
    }))
}

/// `a op b` for comparisons.
pub(crate) fn compare(comparison: Comparison, a: &Value, b: &Value, budget: &mut Budget) -> Result<bool> {
    Ok(match comparison {
        Comparison::Equal => a.equals(b, budget)?,
        Comparison::NotEqual => !a.equals(b, budget)?,
        Comparison::In => b.contains(a, budget)?,
        Comparison::NotIn => !b.contains(a, budget)?,
        Comparison::Less => a.compare(b, budget)? == Some(Ordering::Less),
        Comparison::Greater => a.compare(b, budget)? == Some(Ordering::Greater),
        Comparison::LessEqual => matches!(a.compare(b, budget)?, Some(Ordering::Less | Ordering::Equal)),
        Comparison::GreaterEqual => {
            matches!(a.compare(b, budget)?, Some(Ordering::Greater | Ordering::Equal))
        }
    })
}

/// `-a`, or `+a`.
pub(crate) fn signed(value: &Value, negative: bool) -> Result<Value> {
    match (value.as_int(), value) {
        (Some(number), _) if negative => number.checked_neg().map(Value::Int).ok_or_else(too_large),
        (Some(number), _) => Ok(Value::Int(number)),
        (_, Value::Float(number)) => Ok(Value::Float(if negative { -number } else { *number })),
        (_, other) => {
            other.defined()?;
            Err(Fault::failed(format!("no sign for {}", other.type_name())))
        }
    }
}
