//! Boxes and columns of text.

use super::harmless;
use super::style::Style;

/// Wide characters count as one column: a border that is off is no harm.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Names with values beside them, the names dim and as wide as the widest.
pub fn pairs(rows: &[(String, String)], style: Style) -> Vec<String> {
    let widest = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let line = |(name, value): &(String, String)| {
        let pad = " ".repeat(widest - width(name));
        format!("{}{pad}  {}", style.dim(name), harmless(value)).trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

/// Columns that a box may take where the terminal does not tell its width.
const USUAL_COLUMNS: usize = 100;
/// Values are not squeezed into less.
const NARROWEST: usize = 24;

/// The same in a box with a title, which is no wider than the terminal: longer values go on in the next line.
pub fn boxed(title: &str, rows: &[(String, String)], style: Style) -> Vec<String> {
    let columns = console::Term::stdout().size_checked().map_or(USUAL_COLUMNS, |(_, columns)| columns.into());
    boxed_within(columns, title, rows, style)
}

fn boxed_within(columns: usize, title: &str, rows: &[(String, String)], style: Style) -> Vec<String> {
    let names = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    // a border and a space on either side, two spaces between name and value
    let room = columns.saturating_sub(names + 6).max(NARROWEST);
    let lines: Vec<(&str, String)> = rows
        .iter()
        .flat_map(|(name, value)| {
            let names = std::iter::once(name.as_str()).chain(std::iter::repeat(""));
            names.zip(wrapped(&harmless(value), room)).collect::<Vec<_>>()
        })
        .collect();
    let values = lines.iter().map(|(_, value)| width(value)).max().unwrap_or(0);
    let inner = (names + 2 + values).max(width(title) + 2) + 2;
    let mut out = vec![format!("╭─ {} {}╮", style.bold(title), "─".repeat(inner - width(title) - 3))];
    for (name, value) in &lines {
        let fill = " ".repeat(inner - 2 - names - 2 - width(value));
        let pad = " ".repeat(names - width(name));
        out.push(format!("│ {}{pad}  {value}{fill} │", style.dim(name)));
    }
    out.push(format!("╰{}╯", "─".repeat(inner)));
    out
}

/// `text` in lines of at most `room` characters, broken behind a space or slash where there is one.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > room {
        let at = rest[..room].iter().rposition(|c| matches!(c, ' ' | '/')).map_or(room, |at| at + 1);
        let line: String = rest.drain(..at).collect();
        lines.push(line.trim_end().to_string());
    }
    lines.push(rest.into_iter().collect());
    lines
}

/// Columns under their headings, the first to the left and the others to the right.
pub fn columns(headings: &[&str], rows: &[Vec<String>], style: Style) -> Vec<String> {
    let widths: Vec<usize> = (0..headings.len())
        .map(|i| rows.iter().map(|row| width(&row[i])).chain([width(headings[i])]).max().unwrap_or(0))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| -> String {
        let cells = cells.zip(&widths).enumerate().map(|(i, (cell, wide))| {
            let pad = " ".repeat(wide - width(cell));
            if i == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let mut lines = vec![style.dim(&line(&mut headings.iter().copied()))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_up() {
        let rows = [("a".to_string(), "1".to_string()), ("long".into(), "▁é".into())];
        assert_eq!(pairs(&rows, Style::PLAIN), ["a     1", "long  ▁é"]);
        let lines = boxed_within(80, "a title", &rows, Style::PLAIN);
        assert!(lines.iter().all(|line| width(line) == width(&lines[0])), "{lines:#?}");
        let rows = [vec!["x".into(), "1.25".into()], vec!["loss".into(), "3".into()]];
        assert_eq!(
            columns(&["", "before"], &rows, Style::PLAIN),
            ["      before", "x       1.25", "loss       3"]
        );
    }

    #[test]
    fn a_box_keeps_within_the_terminal() {
        let value = "/a/rather/long/path/to/a/model-with-a-long-name.gguf and words, many of them, behind it";
        let rows = [("model".to_string(), value.to_string()), ("steps".into(), "3".into())];
        for columns in [40, 60, 200] {
            let lines = boxed_within(columns, "a title", &rows, Style::PLAIN);
            assert!(lines.iter().all(|l| width(l) == width(&lines[0]) && width(l) <= columns), "{lines:#?}");
        }
        assert_eq!(wrapped("ab cd", 4), ["ab", "cd"]);
        assert_eq!(wrapped("abcdef", 4), ["abcd", "ef"]);
    }
}
