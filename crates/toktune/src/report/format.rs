//! Numbers as people read them.

/// Digits in groups of three.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// A size in memory or on disk.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut size = n as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < units.len() {
        size /= 1000.0;
        unit += 1;
    }
    let places = usize::from(size < 100.0);
    if unit == 0 { format!("{n} B") } else { format!("{size:.places$} {}", units[unit]) }
}

/// A number to four significant places.
pub fn number(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 {
        "0".into()
    } else if (1e-3..1e5).contains(&size) {
        let places = (3 - size.log10().floor() as i32).max(0) as usize;
        let text = format!("{x:.places$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    } else {
        format!("{x:.3e}")
    }
}

/// A share in percent with two digits that count, however small.
pub fn percent(share: f64) -> String {
    let places = if share > 0.0 { (1 - share.log10().floor() as i32).clamp(0, 12) as usize } else { 0 };
    format!("{share:.places$}")
}

/// A time in its two largest units.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// `1 row`, `2 rows`.
pub fn plural(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 134_515_008].map(count), ["0", "999", "1,000", "134,515,008"]);
        assert_eq!([12, 1200, 98_362_432, 1_500_000_000].map(bytes), ["12 B", "1.2 KB", "98.4 MB", "1.5 GB"]);
        assert_eq!(
            [0.0, 0.136, 2.5, 1234.567, 0.00012, 1e30].map(number),
            ["0", "0.136", "2.5", "1235", "1.200e-4", "1.000e30"]
        );
        assert_eq!(
            [0.4, 59.6, 3599.0, 7260.0].map(duration),
            ["0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min"]
        );
        assert_eq!([plural(1, "row"), plural(2000, "row")], ["1 row", "2,000 rows"]);
    }
}
