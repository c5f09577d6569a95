//! What Python's `str` does, for methods and filters alike.

use super::budget::Budget;
use super::fault::Result;

/// Python's `str.isspace()` of a letter.
pub(crate) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

/// `strip`, `lstrip` and `rstrip`: of blanks, or of letters.
pub(crate) fn strip<'t>(text: &'t str, letters: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |letter: char| match letters {
        Some(letters) => letters.contains(letter),
        None => is_space(letter),
    };
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// `splitlines`, with or without the line breaks.
pub(crate) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |letter| {
        matches!(
            letter,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let length = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `split` and `rsplit` without a separator: at blanks.
pub(crate) fn split_blanks(text: &str, most: Option<usize>, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, true, true);
    while !rest.is_empty() {
        if most.is_some_and(|most| parts.len() == most) {
            // What is left keeps its outer blanks, as Python leaves them on the side that it does not split from.
            let offset = rest.as_ptr() as usize - text.as_ptr() as usize;
            parts.push(match from_right {
                true => strip(&text[..offset + rest.len()], None, false, true),
                false => strip(&text[offset..], None, true, false),
            });
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut else {
            parts.push(rest);
            break;
        };
        let blank = rest[at..].chars().next().map_or(1, char::len_utf8);
        if from_right {
            parts.push(&rest[at + blank..]);
            rest = strip(&rest[..at], None, false, true);
        } else {
            parts.push(&rest[..at]);
            rest = strip(&rest[at + blank..], None, true, false);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// `split` and `rsplit` at a separator that is not empty.
pub(crate) fn split_at<'t>(
    text: &'t str,
    separator: &str,
    most: Option<usize>,
    from_right: bool,
) -> Vec<&'t str> {
    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
    if !from_right {
        return text.splitn(most, separator).collect();
    }
    let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
    parts.reverse();
    parts
}

/// `replace`; the result is paid for before it is made.
pub(crate) fn replace(
    text: &str,
    old: &str,
    new: &str,
    most: Option<usize>,
    budget: &mut Budget,
) -> Result<String> {
    budget.scan(text.len())?;
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let count = most.map_or(found, |most| most.min(found));
    budget.make(text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, count))
}

/// A text in the middle of, before or after a fill up to a width.
pub(crate) fn justify(
    text: &str,
    width: usize,
    fill: char,
    side: char,
    budget: &mut Budget,
) -> Result<String> {
    let missing = width.saturating_sub(text.chars().count());
    budget.make(text.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
    let left = match side {
        'l' => 0,
        'r' => missing,
        // As CPython does it: the odd letter goes left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count: usize| String::from(fill).repeat(count);
    Ok(format!("{}{text}{}", fill(left), fill(missing - left)))
}

/// `str.capitalize`.
pub(crate) fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

/// `str.title`: a capital after whatever has no case.
pub(crate) fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match inside {
            true => out.extend(letter.to_lowercase()),
            false => out.extend(letter.to_uppercase()),
        }
        inside = is_cased(letter);
    }
    out
}

/// Whether a letter has two cases.
pub(crate) fn is_cased(letter: char) -> bool {
    letter.is_lowercase() || letter.is_uppercase()
}

/// `islower` and `isupper`: some letter has the case, and none the other.
pub(crate) fn has_case(text: &str, upper: bool) -> bool {
    match upper {
        true => text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        false => text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
    }
}
