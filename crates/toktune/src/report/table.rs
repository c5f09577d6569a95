//! Tables that become a list of cards where the page is narrow: every cell knows its column's name.

use super::html::{Html, shortened};

/// Letters of a token's spelling.
const SPELLED: usize = 60;

/// A table with a heading for each column; the first column is what a row is about. `cell` writes row `row`'s cell in column
/// `column`.
pub(super) fn table(
    html: &mut Html,
    headings: &[&str],
    rows: usize,
    mut cell: impl FnMut(&mut Html, usize, usize),
) {
    html.tag("div", &[("class", "table")], |html| {
        html.tag("table", &[], |html| {
            html.tag("thead", &[], |html| {
                html.tag("tr", &[], |html| headings.iter().for_each(|name| html.leaf("th", &[], name)));
            });
            html.tag("tbody", &[], |html| {
                for row in 0..rows {
                    html.tag("tr", &[], |html| {
                        for (column, name) in headings.iter().enumerate() {
                            html.tag("td", &[("data-name", name)], |html| {
                                // one box, so that it stands beside its column's name where the page is narrow
                                html.tag("div", &[], |html| cell(html, row, column));
                            });
                        }
                    });
                }
            });
        });
    });
}

/// A token by its spelling.
pub(super) fn token(html: &mut Html, name: &str) {
    html.leaf("code", &[("class", "token")], &shortened(name, SPELLED));
}

/// `before → after`, or what is there of it.
pub(super) fn arrow(before: Option<String>, after: Option<String>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{before} → {after}"),
        (None, Some(one)) | (Some(one), None) => one,
        (None, None) => "–".into(),
    }
}

/// A share in percent: a small one keeps a digit that counts.
pub(super) fn share(of: f64) -> String {
    match 100.0 * of {
        x if x.abs() >= 9.95 || x == 0.0 => format!("{x:.0} %"),
        x if x.abs() >= 0.095 => format!("{x:.1} %"),
        x if x.abs() >= 0.0005 => format!("{x:.3} %"),
        x => format!("{x:.0e} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_a_digit() {
        let of = [0.974, 0.0234, 0.0011, 0.000_012, 1.0, 0.0, 3e-8].map(share);
        assert_eq!(of, ["97 %", "2.3 %", "0.1 %", "0.001 %", "100 %", "0 %", "3e-6 %"]);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let of = |text: &str| Some(text.to_owned());
        assert_eq!(arrow(of("a"), of("b")), "a → b");
        assert_eq!([arrow(None, of("b")), arrow(of("a"), None), arrow(None, None)], ["b", "a", "–"]);
    }
}
