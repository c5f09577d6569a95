//! The rows among the vocabulary, drawn.

use super::chart::{label, line, n};
use super::contents::Report;
use super::format::{number, plural};
use super::html::{Html, shortened};
use super::rows::{LayerRows, MapPoint as Point, RowMap};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 360.0;
const ROOM: f64 = 16.0;
/// How wide a letter of a name is taken to be, and how high.
const LETTER: f64 = 7.4;
const LINE: f64 = 14.0;
/// Letters of a module's name.
const MODULE: usize = 160;
/// Letters of a token's name.
const NAME: usize = 18;
/// Tokens whose names are drawn; all show theirs under the mouse.
const NAMED: usize = 16;
/// Neighbours whose names are drawn.
const NEIGHBOURS: usize = 24;
/// So many of a hundred rows of the vocabulary may lie outside, on each side.
const OUTSIDE: f64 = 1.0;

/// The section: a drawing for each layer.
pub(super) fn section(report: &Report, html: &mut Html) {
    if !report.rows.iter().any(|rows| rows.map.is_some()) {
        html.leaf("p", &[("class", "dim")], "No plane was found in which rows differ.");
        return;
    }
    html.tag("div", &[("class", "maps")], |html| {
        for rows in &report.rows {
            if let Some(map) = &rows.map {
                drawing(report, (rows, map), html);
            }
        }
    });
}

fn drawing(report: &Report, (rows, map): (&LayerRows, &RowMap), html: &mut Html) {
    html.tag("figure", &[("class", "chart map")], |html| {
        html.tag("figcaption", &[], |html| {
            html.leaf("b", &[], &shortened(&rows.layer, MODULE));
            let text = format!(
                " the two directions in which its rows differ most, with {} % of their variance",
                number(100.0 * map.share)
            );
            html.leaf("span", &[("class", "dim")], &text);
        });
        html.tag("p", &[("class", "legend")], |html| {
            let moved = map.tokens.iter().any(|of| of.1.is_some());
            let names = [
                ("key dot vocabulary", "rows of the vocabulary", true),
                ("key dot near", "nearest to a token", true),
                ("key ring", "a token before", moved),
                ("key dot after", if moved { "and after" } else { "a token" }, true),
            ];
            for (class, name, _) in names.into_iter().filter(|of| of.2) {
                html.tag("span", &[], |html| {
                    html.leaf("i", &[("class", class)], "");
                    html.text(name);
                });
            }
        });
        let Some(view) = View::of(map) else { return };
        let size = format!("0 0 {WIDTH} {HEIGHT}");
        let about = format!("Map of the rows of {}", shortened(&rows.layer, MODULE));
        html.tag("svg", &[("viewBox", &size), ("role", "img"), ("aria-label", &about)], |html| {
            view.points(report, map, html);
        });
        let outside = map.vocabulary.iter().filter(|of| view.at(of.1).is_none()).count();
        let mut note = format!(
            "{} drawn by chance; point at one to see its token. Rows that lie apart in other directions can look near here: \
             the table has the true neighbours.",
            plural(map.vocabulary.len(), "row")
        );
        if outside > 0 {
            note.push_str(&format!(" {outside} of them lie outside."));
        }
        html.leaf("p", &[("class", "note")], &note);
    });
}

/// What part of the plane is drawn.
struct View {
    centre: Point,
    /// Units of the drawing for one of the plane's, alike in both directions.
    scale: f64,
}

impl View {
    /// A view of the tokens and their neighbours, and of nearly all of the vocabulary.
    fn of(map: &RowMap) -> Option<Self> {
        let range = |of: fn(Point) -> f64| {
            let mut values: Vec<f64> = map.vocabulary.iter().map(|at| of(at.1)).collect();
            values.sort_unstable_by(f64::total_cmp);
            let last = values.len().checked_sub(1)?;
            let cut = (last as f64 * OUTSIDE / 100.0) as usize;
            let own = map.tokens.iter().flat_map(|of| of.1.into_iter().chain([of.2]));
            let own = own.chain(map.neighbours.iter().map(|of| of.1)).map(of).filter(|x| x.is_finite());
            Some(own.fold((values[cut], values[last - cut]), |(low, high), x| (low.min(x), high.max(x))))
        };
        let (x, y) = (range(|of| of.0)?, range(|of| of.1)?);
        let span = |(low, high): (f64, f64)| (high - low).max(f64::MIN_POSITIVE);
        let scale = ((WIDTH - 2.0 * ROOM) / span(x)).min((HEIGHT - 2.0 * ROOM) / span(y));
        let centre = ((x.0 + x.1) / 2.0, (y.0 + y.1) / 2.0);
        (scale.is_finite() && scale > 0.0).then_some(Self { centre, scale })
    }

    fn at(&self, point: Point) -> Option<Point> {
        let x = WIDTH / 2.0 + (point.0 - self.centre.0) * self.scale;
        let y = HEIGHT / 2.0 - (point.1 - self.centre.1) * self.scale;
        ((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y)).then_some((x, y))
    }

    fn points(&self, report: &Report, map: &RowMap, html: &mut Html) {
        html.tag("g", &[("class", "vocabulary")], |html| {
            for (id, at) in &map.vocabulary {
                self.dot(html, *at, "1.6", &report.name(*id));
            }
        });
        html.tag("g", &[("class", "near")], |html| {
            for (id, at) in &map.neighbours {
                self.dot(html, *at, "2.4", &report.name(*id));
            }
        });
        let mut names = Names::default();
        for (_, before, after) in &map.tokens {
            names.taken.extend(
                [*before, Some(*after)].into_iter().flatten().filter_map(|at| self.at(at)).map(around),
            );
        }
        html.tag("g", &[("class", "moved")], |html| {
            for (id, before, after) in &map.tokens {
                let name = report.name(*id);
                if let (Some(from), Some(to)) = (before.and_then(|at| self.at(at)), self.at(*after)) {
                    arrow(html, from, to);
                    circle(html, "ring", from, "4", &format!("{name} before"));
                }
                if let Some(at) = self.at(*after) {
                    circle(html, "after", at, "4.5", &name);
                }
            }
        });
        let tokens = map.tokens.iter().take(NAMED).map(|(id, _, at)| (*id, *at, "name token"));
        let near = map.neighbours.iter().take(NEIGHBOURS).map(|(id, at)| (*id, *at, "name"));
        for (id, at, class) in tokens.chain(near) {
            if let Some(at) = self.at(at) {
                names.put(html, class, at, &shortened(&report.name(id), NAME));
            }
        }
    }

    fn dot(&self, html: &mut Html, at: Point, radius: &str, name: &str) {
        if let Some(at) = self.at(at) {
            circle(html, "", at, radius, name);
        }
    }
}

fn circle(html: &mut Html, class: &'static str, (x, y): Point, radius: &str, name: &str) {
    let (x, y) = (n(x), n(y));
    let place = [("cx", x.as_str()), ("cy", y.as_str()), ("r", radius)];
    let class: &[(&'static str, &str)] = if class.is_empty() { &[] } else { &[("class", class)] };
    html.tag("circle", &[class, &place].concat(), |html| html.leaf("title", &[], &shortened(name, 80)));
}

/// A line with a head, where it is long enough to have one.
fn arrow(html: &mut Html, from: Point, to: Point) {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx.hypot(dy);
    if length < 12.0 {
        return;
    }
    let (ux, uy) = (dx / length, dy / length);
    let tip = (to.0 - 5.5 * ux, to.1 - 5.5 * uy);
    line(html, "way", (from.0 + 4.0 * ux, from.1 + 4.0 * uy), tip);
    for side in [-1.0, 1.0] {
        let end = (tip.0 - 5.0 * ux + side * 3.0 * uy, tip.1 - 5.0 * uy - side * 3.0 * ux);
        line(html, "way", tip, end);
    }
}

/// A box: left, top, right, bottom.
type Area = (f64, f64, f64, f64);

fn around((x, y): Point) -> Area {
    (x - 5.0, y - 5.0, x + 5.0, y + 5.0)
}

/// Names that do not stand over each other.
#[derive(Default)]
struct Names {
    taken: Vec<Area>,
}

impl Names {
    /// Writes a name beside its point where there is room; without room the mouse shows it.
    fn put(&mut self, html: &mut Html, class: &'static str, (x, y): Point, name: &str) {
        let width = LETTER * name.chars().count() as f64;
        let places = [
            ("start", 7.0, 4.0),
            ("end", -7.0, 4.0),
            ("middle", 0.0, -8.0),
            ("middle", 0.0, 17.0),
            ("start", 6.0, -7.0),
            ("end", -6.0, -7.0),
            ("start", 6.0, 15.0),
            ("end", -6.0, 15.0),
        ];
        for (anchor, dx, dy) in places {
            let left = match anchor {
                "start" => x + dx,
                "end" => x + dx - width,
                _ => x - width / 2.0,
            };
            let area = (left, y + dy - LINE + 3.0, left + width, y + dy + 3.0);
            let is_inside = area.0 >= 0.0 && area.2 <= WIDTH && area.1 >= 0.0 && area.3 <= HEIGHT;
            let meets = |of: &Area| area.0 < of.2 && of.0 < area.2 && area.1 < of.3 && of.1 < area.3;
            if is_inside && !self.taken.iter().any(meets) {
                self.taken.push(area);
                label(html, (anchor, class), (x + dx, y + dy), name);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(tokens: Vec<(u32, Option<Point>, Point)>) -> RowMap {
        let vocabulary = (0..100).map(|i| (i, (f64::from(i % 10), f64::from(i / 10)))).collect();
        RowMap { share: 0.125, vocabulary, neighbours: vec![(500, (4.0, 4.0))], tokens }
    }

    fn drawn(map: RowMap) -> String {
        let rows =
            LayerRows { layer: "m".into(), tied: vec![], before: vec![], after: vec![], map: Some(map) };
        let report = Report { rows: vec![rows], ..Report::default() };
        let mut html = Html::default();
        section(&report, &mut html);
        html.finish()
    }

    #[test]
    fn tokens_are_drawn_wherever_they_are() {
        let text = drawn(map(vec![(900, Some((0.0, 0.0)), (80.0, 80.0)), (901, None, (-60.0, 5.0))]));
        for part in ["class=\"ring\"", "class=\"way\"", ">900<", ">901<", ">500<", "12.5 % of their variance"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn names_do_not_stand_over_each_other() {
        let mut names = Names::default();
        let mut html = Html::default();
        for _ in 0..40 {
            names.put(&mut html, "name", (200.0, 200.0), "a name");
        }
        // there is no room for forty of them
        assert_eq!(names.taken.len(), html.finish().matches("<text").count());
        assert!((2..9).contains(&names.taken.len()), "{:?}", names.taken);
        let meets = |a: &Area, b: &Area| a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3;
        for (at, one) in names.taken.iter().enumerate() {
            assert!(!names.taken[at + 1..].iter().any(|other| meets(one, other)));
        }
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        let text = drawn(map(vec![(900, None, (f64::NAN, 1.0))]));
        assert!(!text.contains("NaN") && !text.contains(">900<"), "{text}");
        assert!(
            drawn(RowMap { share: 0.0, vocabulary: vec![], neighbours: vec![], tokens: vec![] })
                .contains("figure")
        );
    }
}
