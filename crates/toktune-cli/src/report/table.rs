//! Boxes and columns of text.

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
        format!("{}{pad}  {value}", style.dim(name)).trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

/// The same in a box with a title.
pub fn boxed(title: &str, rows: &[(String, String)], style: Style) -> Vec<String> {
    let names = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value)| width(value)).max().unwrap_or(0);
    let inner = (names + 2 + values).max(width(title) + 2) + 2;
    let mut lines = vec![format!("╭─ {} {}╮", style.bold(title), "─".repeat(inner - width(title) - 3))];
    for (name, value) in rows {
        let fill = " ".repeat(inner - 2 - names - 2 - width(value));
        let pad = " ".repeat(names - width(name));
        lines.push(format!("│ {}{pad}  {value}{fill} │", style.dim(name)));
    }
    lines.push(format!("╰{}╯", "─".repeat(inner)));
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
        let lines = boxed("a title", &rows, Style::PLAIN);
        assert!(lines.iter().all(|line| width(line) == width(&lines[0])), "{lines:#?}");
        let rows = [vec!["x".into(), "1.25".into()], vec!["loss".into(), "3".into()]];
        assert_eq!(
            columns(&["", "before"], &rows, Style::PLAIN),
            ["      before", "x       1.25", "loss       3"]
        );
    }
}
