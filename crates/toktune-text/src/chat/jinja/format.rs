//! Python's two ways of filling values into a text: `%` and `str.format`.

use std::sync::Arc;

use super::access;
use super::budget::Budget;
use super::fault::{Fault, Result};
use super::print::{display, float, repr};
use super::value::{SeqKind, Value};

/// How a value is laid out.
#[derive(Debug, Default, Clone)]
struct Layout {
    fill: Option<char>,
    align: Option<char>,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    comma: Option<char>,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

/// More digits than a float has are only zeros, and a width of millions is no layout.
const MOST_DIGITS: usize = 1000;

/// `text % arguments`; `whole` is the value that was given, for `%(name)s`.
pub(crate) fn percent(
    text: &str,
    arguments: &[Value],
    whole: Option<&Value>,
    budget: &mut Budget,
) -> Result<String> {
    let mut out = String::new();
    let mut letters = text.chars().peekable();
    let mut next = 0;
    let mut named = false;
    budget.make(text.len())?;
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        if letters.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut value = None;
        if letters.next_if_eq(&'(').is_some() {
            let mut name = String::new();
            loop {
                match letters.next() {
                    Some(')') => break,
                    Some(letter) => name.push(letter),
                    None => return Err(Fault::failed("a `%(` without its end")),
                }
            }
            named = true;
            value = match whole {
                Some(Value::Dict(dict)) => match dict.get_str(&name) {
                    Some(value) => Some(value.clone()),
                    None => return Err(Fault::failed(format!("`%`: no key `{name}`"))),
                },
                _ => return Err(Fault::failed("`%(name)` needs a dict")),
            };
        }
        let mut layout = Layout { align: Some('>'), ..Layout::default() };
        while let Some(flag) = letters.next_if(|letter| "-+ #0".contains(*letter)) {
            match flag {
                '-' => layout.align = Some('<'),
                '+' => layout.plus = true,
                ' ' => layout.space = true,
                '#' => layout.alternate = true,
                _ => layout.zero = true,
            }
        }
        let mut take = || {
            let value = arguments.get(next).cloned();
            next += 1;
            value.ok_or_else(|| Fault::failed("`%`: not enough arguments"))
        };
        let number = |letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
                      take: &mut dyn FnMut() -> Result<Value>|
         -> Result<usize> {
            if letters.next_if_eq(&'*').is_some() {
                let value = take()?.as_int().unwrap_or(-1);
                return usize::try_from(value).map_err(|_| Fault::failed("`%*` needs a positive int"));
            }
            Ok(digits(letters).unwrap_or(0))
        };
        layout.width = number(&mut letters, &mut take)?;
        if letters.next_if_eq(&'.').is_some() {
            layout.precision = Some(number(&mut letters, &mut take)?);
        }
        while letters.next_if(|letter| "hlL".contains(*letter)).is_some() {}
        let Some(kind) = letters.next() else { return Err(Fault::failed("an incomplete `%`")) };
        let value = match value {
            Some(value) => value,
            None => take()?,
        };
        if layout.align == Some('<') {
            layout.zero = false;
        }
        write_percent(kind, &value, layout, &mut out, budget)?;
    }
    // What can be looked up by a key need not be used.
    let mapping = match whole {
        Some(Value::Dict(_)) => true,
        Some(Value::Seq(seq)) => seq.kind != SeqKind::Tuple && next == 0,
        _ => false,
    };
    if next < arguments.len() && !named && !mapping {
        return Err(Fault::failed("`%`: not all arguments were used"));
    }
    Ok(out)
}

fn digits(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
        letters.next();
        number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize));
    }
    number
}

fn write_percent(
    kind: char,
    value: &Value,
    mut layout: Layout,
    out: &mut String,
    budget: &mut Budget,
) -> Result<()> {
    match kind {
        's' | 'r' | 'a' => {
            let text: Arc<str> =
                if kind == 's' { display(value, budget)? } else { repr(value, budget)?.into() };
            if kind == 'a' && !text.is_ascii() {
                return Err(Fault::failed("`%a` of a text that is not ASCII is not supported"));
            }
            layout.zero = false;
            pad(cut(&text, layout.precision), &layout, out, budget)
        }
        'c' => match value {
            Value::Str(text) if text.chars().count() == 1 => pad(text, &layout, out, budget),
            _ => Err(Fault::failed("`%c` needs a letter")),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match (value.as_int(), value.as_float()) {
                (Some(number), _) => number,
                (None, Some(number)) if "diu".contains(kind) && number.is_finite() => number.trunc() as i128,
                _ => {
                    return Err(Fault::failed(format!(
                        "`%{kind}` needs a number, not {}",
                        value.type_name()
                    )));
                }
            };
            layout.kind = Some(if "iu".contains(kind) { 'd' } else { kind });
            let least = layout.precision.take();
            write_integer(number, least, &layout, out, budget)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(number) => {
                layout.kind = Some(kind);
                write_float(number, &layout, out, budget)
            }
            None => Err(Fault::failed(format!("`%{kind}` needs a number, not {}", value.type_name()))),
        },
        other => Err(Fault::failed(format!("unknown format `%{other}`"))),
    }
}

/// `text.format(*positional, **named)`.
pub(crate) fn format(
    text: &str,
    positional: &[Value],
    named: &[(Arc<str>, Value)],
    budget: &mut Budget,
) -> Result<String> {
    let mut filler = Filler { positional, named, next: 0 };
    filler.fill(text, 2, budget)
}

struct Filler<'f> {
    positional: &'f [Value],
    named: &'f [(Arc<str>, Value)],
    next: usize,
}

impl Filler<'_> {
    fn fill(&mut self, text: &str, depth: usize, budget: &mut Budget) -> Result<String> {
        if depth == 0 {
            return Err(Fault::failed("format: fields within fields"));
        }
        budget.make(text.len())?;
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let mark = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(mark) {
                out.push_str(mark);
                rest = behind;
                continue;
            }
            if mark == "}" {
                return Err(Fault::failed("format: a `}` without its `{`"));
            }
            let mut open = 1;
            let end = rest.find(|letter| {
                open += match letter {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                open == 0
            });
            let Some(end) = end else { return Err(Fault::failed("format: a `{` without its `}`")) };
            let field = &rest[..end];
            rest = &rest[end + 1..];
            self.field(field, depth, &mut out, budget)?;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, field: &str, depth: usize, out: &mut String, budget: &mut Budget) -> Result<()> {
        let name_end = field.find([':', '!']).unwrap_or(field.len());
        let (name, mut rest) = field.split_at(name_end);
        let mut value = self.value(name, budget)?;
        if let Some(behind) = rest.strip_prefix('!') {
            let kind = behind.chars().next().unwrap_or(' ');
            rest = behind.get(kind.len_utf8()..).unwrap_or("");
            value = Value::str(match kind {
                's' => display(&value, budget)?,
                'r' => repr(&value, budget)?.into(),
                _ => return Err(Fault::failed(format!("format: unknown conversion `!{kind}`"))),
            });
        }
        let layout = rest.strip_prefix(':').unwrap_or("");
        let layout =
            if layout.contains('{') { self.fill(layout, depth - 1, budget)? } else { layout.to_owned() };
        lay_out(&value, &layout, out, budget)
    }

    fn value(&mut self, name: &str, budget: &mut Budget) -> Result<Value> {
        let first = name.find(['.', '[']).unwrap_or(name.len());
        let (head, mut rest) = name.split_at(first);
        let missing = || Fault::failed(format!("format: no argument `{head}`"));
        let mut value = if head.is_empty() {
            self.next += 1;
            self.positional.get(self.next - 1).cloned().ok_or_else(missing)?
        } else if let Ok(place) = head.parse::<usize>() {
            self.positional.get(place).cloned().ok_or_else(missing)?
        } else {
            let found = self.named.iter().find(|(found, _)| **found == *head);
            found.map(|(_, value)| value.clone()).ok_or_else(missing)?
        };
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix('[') {
                let end = behind.find(']').ok_or_else(missing)?;
                let key = &behind[..end];
                let key = key.parse().map_or_else(|_| Value::str(key), Value::Int);
                value = access::item(&value, &key, budget)?;
                rest = &behind[end + 1..];
            } else {
                let behind = rest.strip_prefix('.').ok_or_else(missing)?;
                let end = behind.find(['.', '[']).unwrap_or(behind.len());
                value = access::attribute(&value, &behind[..end].into());
                rest = &behind[end..];
            }
            value.defined()?;
        }
        Ok(value)
    }
}

/// `format(value, layout)`.
fn lay_out(value: &Value, source: &str, out: &mut String, budget: &mut Budget) -> Result<()> {
    let layout = parse_layout(source)?;
    match value {
        _ if source.is_empty() => {
            let text = display(value, budget)?;
            budget.make(text.len())?;
            out.push_str(&text);
            Ok(())
        }
        Value::Str(text) if matches!(layout.kind, None | Some('s')) => pad(
            cut(text, layout.precision),
            &Layout { align: layout.align.or(Some('<')), ..layout },
            out,
            budget,
        ),
        Value::Int(_) | Value::Bool(_)
            if matches!(layout.kind, None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) =>
        {
            let number = value.as_int().unwrap_or(0);
            write_integer(number, None, &layout, out, budget)
        }
        Value::Int(_) | Value::Bool(_) | Value::Float(_) => {
            write_float(value.as_float().unwrap_or(0.0), &layout, out, budget)
        }
        other => Err(Fault::failed(format!("format: no layout for {}", other.type_name()))),
    }
}

fn parse_layout(source: &str) -> Result<Layout> {
    let mut layout = Layout::default();
    let letters: Vec<char> = source.chars().take(2).collect();
    let mut rest = source.chars().peekable();
    match letters[..] {
        [fill, align] if "<>^=".contains(align) => {
            layout.fill = Some(fill);
            layout.align = Some(align);
            rest.next();
            rest.next();
        }
        [align, ..] if "<>^=".contains(align) => {
            layout.align = Some(align);
            rest.next();
        }
        _ => {}
    }
    match rest.next_if(|letter| "+- ".contains(*letter)) {
        Some('+') => layout.plus = true,
        Some(' ') => layout.space = true,
        _ => {}
    }
    layout.alternate = rest.next_if_eq(&'#').is_some();
    layout.zero = rest.next_if_eq(&'0').is_some();
    layout.width = digits(&mut rest).unwrap_or(0);
    layout.comma = rest.next_if(|letter| ",_".contains(*letter));
    if rest.next_if_eq(&'.').is_some() {
        layout.precision = Some(digits(&mut rest).ok_or_else(|| Fault::failed("format: no precision"))?);
    }
    layout.kind = rest.next();
    match rest.next() {
        None => Ok(layout),
        Some(_) => Err(Fault::failed(format!("format: cannot read the layout `{}`", cut(source, Some(40))))),
    }
}

/// The first letters of a text.
fn cut(text: &str, most: Option<usize>) -> &str {
    match most.and_then(|most| text.char_indices().nth(most)) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

fn write_integer(
    number: i128,
    least: Option<usize>,
    layout: &Layout,
    out: &mut String,
    budget: &mut Budget,
) -> Result<()> {
    let absolute = number.unsigned_abs();
    let mut text = match layout.kind {
        Some('x') => format!("{absolute:x}"),
        Some('X') => format!("{absolute:X}"),
        Some('o') => format!("{absolute:o}"),
        Some('b') => format!("{absolute:b}"),
        _ => absolute.to_string(),
    };
    if let Some(least) = least {
        budget.make(least)?;
        let missing = least.saturating_sub(text.len());
        text.insert_str(0, &"0".repeat(missing));
    }
    let prefix = match layout.kind {
        Some(kind @ ('x' | 'X' | 'o' | 'b')) if layout.alternate => format!("0{kind}"),
        _ => String::new(),
    };
    let text = grouped(&text, layout);
    number_padded(number < 0, &format!("{prefix}{text}"), prefix.len(), layout, out, budget)
}

fn write_float(number: f64, layout: &Layout, out: &mut String, budget: &mut Budget) -> Result<()> {
    let precision = layout.precision.unwrap_or(6);
    if precision > MOST_DIGITS {
        return Err(Fault::limit(format!("a number with {precision} digits")));
    }
    let absolute = number.abs();
    let upper = layout.kind.is_some_and(|kind| kind.is_ascii_uppercase());
    let mut text = match layout.kind {
        _ if !number.is_finite() => float(absolute),
        Some('f' | 'F') => format!("{absolute:.precision$}"),
        Some('%') => format!("{:.precision$}%", absolute * 100.0),
        Some('e' | 'E') => exponent(absolute, precision),
        Some('g' | 'G') => general(absolute, precision, layout.alternate),
        None if layout.precision.is_some() => {
            let text = general(absolute, precision, false);
            if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
        }
        None => float(absolute),
        Some(other) => return Err(Fault::failed(format!("format: unknown kind `{other}` for float"))),
    };
    if upper {
        text = text.to_uppercase();
    }
    let (whole, rest) =
        text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let text = format!("{}{rest}", grouped(whole, layout));
    number_padded(number.is_sign_negative() && !number.is_nan(), &text, 0, layout, out, budget)
}

/// Python's `e`: an exponent with a sign and two digits.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Python's `g`: so many digits, without zeros at the end.
fn general(number: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponent(number, precision - 1);
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power = power.parse::<i32>().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if number != 0.0 && (power < -4 || power >= precision as i32) {
        let exponent = format!("e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs());
        return trim(digits) + &exponent;
    }
    let places = (precision as i32 - 1 - if number == 0.0 { 0 } else { power }).max(0) as usize;
    trim(&format!("{number:.places$}"))
}

/// With a mark between each three digits.
fn grouped(digits: &str, layout: &Layout) -> String {
    let Some(mark) = layout.comma else { return digits.to_owned() };
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(mark);
        }
        out.push(digit);
    }
    out
}

fn number_padded(
    negative: bool,
    text: &str,
    prefix: usize,
    layout: &Layout,
    out: &mut String,
    budget: &mut Budget,
) -> Result<()> {
    let sign = match negative {
        true => "-",
        false if layout.plus => "+",
        false if layout.space => " ",
        false => "",
    };
    let inside =
        layout.zero && layout.align != Some('<') && layout.fill.is_none() || layout.align == Some('=');
    if !inside {
        let layout = Layout { align: layout.align.or(Some('>')), ..layout.clone() };
        return pad(&format!("{sign}{text}"), &layout, out, budget);
    }
    let missing = layout.width.saturating_sub(sign.len() + text.chars().count());
    budget.make(missing.saturating_mul(4))?;
    let fill = layout.fill.unwrap_or(if layout.zero { '0' } else { ' ' });
    out.push_str(sign);
    out.push_str(&text[..prefix]);
    out.extend(std::iter::repeat_n(fill, missing));
    out.push_str(&text[prefix..]);
    Ok(())
}

fn pad(text: &str, layout: &Layout, out: &mut String, budget: &mut Budget) -> Result<()> {
    let missing = layout.width.saturating_sub(text.chars().count());
    budget.make(missing.saturating_mul(4).saturating_add(text.len()))?;
    let left = match layout.align {
        Some('>' | '=') => missing,
        Some('^') => missing / 2,
        _ => 0,
    };
    let fill = layout.fill.unwrap_or(' ');
    out.extend(std::iter::repeat_n(fill, left));
    out.push_str(text);
    out.extend(std::iter::repeat_n(fill, missing - left));
    Ok(())
}
