//! Lines over the steps of a run, as a drawing.

use super::axis::{Axis, Scale, mark};
use super::format::number;
use super::html::Html;

/// A drawing's size and the room around it, in its own units.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;
/// Points of a line, at most: a longer one is drawn by the means of parts of it, over a band from least to largest.
pub(super) const POINTS: usize = 240;
/// Points that show their numbers under the mouse, at most.
const TOLD: usize = 120;

/// How something is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line.
    Line,
    /// Points that a thin line joins.
    Dots,
}

/// Numbers over steps.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    /// Its colour, by the name that the style sheet has.
    pub(super) class: &'static str,
    pub(super) mark: Mark,
    /// Step and value; what is no finite number leaves a gap.
    pub(super) points: Vec<(f64, f64)>,
}

/// A drawing of one or several of them.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What the values are, and in which unit.
    pub(super) unit: String,
    pub(super) scale: Scale,
    pub(super) series: Vec<Series>,
    /// Values that are drawn across, with what they mean; one that lies outside is not.
    pub(super) levels: Vec<(f64, String)>,
    /// Steps that are drawn upwards, with what they mean.
    pub(super) events: Vec<(f64, String)>,
}

/// A part of a line: where, the mean, the least and the largest.
type Part = (f64, f64, f64, f64);

impl Chart {
    /// Draws it; without a number that can be drawn it says so.
    pub(super) fn draw(&self, html: &mut Html) {
        html.tag("figure", &[("class", "chart")], |html| {
            let values = || self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
            let steps = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
            let axes = Axis::of(values(), self.scale).zip(Axis::of(steps, Scale::Exact));
            let log = axes.as_ref().is_some_and(|(y, _)| y.is_log);
            html.tag("figcaption", &[], |html| {
                html.leaf("b", &[], self.title);
                let unit = if log { format!("{}, logarithmic", self.unit) } else { self.unit.clone() };
                html.leaf("span", &[("class", "dim")], &format!(" {unit}"));
            });
            match axes {
                Some((y, x)) => self.drawing(html, &x, &y),
                None => html.leaf("p", &[("class", "dim")], "There is no finite number to draw."),
            }
        });
    }

    fn drawing(&self, html: &mut Html, x: &Axis, y: &Axis) {
        if self.series.len() > 1 || self.series.iter().any(|series| series.points.len() > 1) {
            self.legend(html);
        }
        let label = format!("{}, {}, over the steps", self.title, self.unit);
        let size = format!("0 0 {WIDTH} {HEIGHT}");
        html.tag("svg", &[("viewBox", &size), ("role", "img"), ("aria-label", &label)], |html| {
            let frame = Frame { x, y };
            frame.grid(html);
            for (value, _) in &self.levels {
                frame.level(html, *value);
            }
            for (step, name) in &self.events {
                frame.event(html, *step, name);
            }
            self.series.iter().for_each(|series| frame.series(html, series));
            // names over the lines, where they can be read
            for (value, name) in &self.levels {
                frame.level_name(html, (*value, name), &self.series);
            }
        });
        let longest = self.series.iter().filter(|of| of.mark == Mark::Line).map(|of| of.points.len()).max();
        if let Some(longest) = longest.filter(|longest| *longest > POINTS) {
            let each = longest.div_ceil(POINTS);
            html.leaf(
                "p",
                &[("class", "note")],
                &format!(
                    "Each point is the mean of {each} steps; the band goes from their least to their largest."
                ),
            );
        }
    }

    /// The names, each with its first and last number.
    fn legend(&self, html: &mut Html) {
        html.tag("p", &[("class", "legend")], |html| {
            for series in &self.series {
                html.tag("span", &[], |html| {
                    let mark = if series.mark == Mark::Dots { "key dot" } else { "key" };
                    html.leaf("i", &[("class", &format!("{mark} {}", series.class))], "");
                    let mut finite = series.points.iter().map(|of| of.1).filter(|x| x.is_finite());
                    let text = match (finite.next(), finite.next_back()) {
                        (Some(first), Some(last)) => {
                            format!("{} {} → {}", series.name, number(first), number(last))
                        }
                        (Some(only), None) => format!("{} {}", series.name, number(only)),
                        _ => format!("{}: none", series.name),
                    };
                    html.text(&text);
                });
            }
        });
    }
}

/// The room of a drawing and its axes.
struct Frame<'a> {
    x: &'a Axis,
    y: &'a Axis,
}

impl Frame<'_> {
    fn left(&self, step: f64) -> Option<f64> {
        Some(LEFT + self.x.place(step)? * (WIDTH - LEFT - RIGHT))
    }

    fn top(&self, value: f64) -> Option<f64> {
        Some(HEIGHT - BOTTOM - self.y.place(value)? * (HEIGHT - TOP - BOTTOM))
    }

    fn grid(&self, html: &mut Html) {
        let right = WIDTH - RIGHT;
        for value in &self.y.marks {
            let Some(top) = self.top(*value) else { continue };
            line(html, "grid", (LEFT, top), (right, top));
            label(html, ("end", "tick"), (LEFT - 6.0, top + 4.0), &mark(*value));
        }
        let foot = HEIGHT - BOTTOM;
        for step in self.x.marks.iter().filter(|step| (**step - step.round()).abs() < 1e-6) {
            let Some(left) = self.left(*step) else { continue };
            line(html, "grid", (left, foot), (left, foot + 4.0));
            label(html, ("middle", "tick"), (left, foot + 17.0), &number(*step));
        }
        line(html, "axis", (LEFT, foot), (right, foot));
        let last = self.x.marks.iter().filter_map(|step| self.left(*step)).fold(LEFT, f64::max);
        let below = if last > right - 50.0 { 30.0 } else { 17.0 };
        label(html, ("end", "tick"), (right, foot + below), "step");
    }

    fn level(&self, html: &mut Html, value: f64) {
        let Some(top) = self.top(value) else { return };
        line(html, "level", (LEFT, top), (WIDTH - RIGHT, top));
    }

    /// The name of a level, above it at that end where the lines are further away.
    fn level_name(&self, html: &mut Html, (value, name): (f64, &str), series: &[Series]) {
        let Some(top) = self.top(value) else { return };
        let above = if top - 4.0 < TOP + 8.0 { top + 12.0 } else { top - 4.0 };
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let room = |is_start: bool| {
            let points = series.iter().flat_map(|series| &series.points);
            let points = points.filter_map(|(step, value)| self.point(*step, *value));
            let beside = points.filter(|(left, _)| (*left < middle) == is_start);
            beside.map(|(_, at)| (at - (above - 4.0)).abs()).fold(f64::INFINITY, f64::min)
        };
        let (anchor, left) = match room(true) > room(false) {
            true => ("start", LEFT + 4.0),
            false => ("end", WIDTH - RIGHT - 2.0),
        };
        label(html, (anchor, "level"), (left, above), name);
    }

    fn event(&self, html: &mut Html, step: f64, name: &str) {
        let Some(left) = self.left(step) else { return };
        line(html, "level", (left, TOP), (left, HEIGHT - BOTTOM));
        let is_late = left > WIDTH * 0.6;
        let (anchor, at) = if is_late { ("end", left - 4.0) } else { ("start", left + 4.0) };
        label(html, (anchor, "level"), (at, TOP + 10.0), name);
    }

    fn series(&self, html: &mut Html, series: &Series) {
        html.tag("g", &[("class", series.class)], |html| {
            match series.mark {
                Mark::Line => self.line_of(html, series),
                Mark::Dots => self.dots_of(html, series),
            };
        });
    }

    fn line_of(&self, html: &mut Html, series: &Series) {
        let parts = thinned(&series.points, POINTS);
        if parts.len() < series.points.len() {
            for run in runs(&parts) {
                let there = run.iter().filter_map(|of| self.point(of.0, of.3));
                let back = run.iter().rev().filter_map(|of| self.point(of.0, of.2));
                html.void_path("band", &path(there.chain(back), true));
            }
        }
        for run in runs(&parts) {
            match run {
                [only] => self.dot(html, (only.0, only.1), series),
                _ => html.void_path("line", &path(run.iter().filter_map(|of| self.point(of.0, of.1)), false)),
            }
        }
        if series.points.len() <= TOLD {
            for (step, value) in &series.points {
                let Some((left, top)) = self.point(*step, *value) else { continue };
                html.tag(
                    "circle",
                    &[("class", "hit"), ("cx", &n(left)), ("cy", &n(top)), ("r", "5")],
                    |html| {
                        html.leaf("title", &[], &told(series, *step, *value));
                    },
                );
            }
        }
    }

    fn dots_of(&self, html: &mut Html, series: &Series) {
        let parts = thinned(&series.points, POINTS);
        for run in runs(&parts) {
            html.void_path("thin", &path(run.iter().filter_map(|of| self.point(of.0, of.1)), false));
        }
        parts.iter().for_each(|of| self.dot(html, (of.0, of.1), series));
    }

    fn dot(&self, html: &mut Html, (step, value): (f64, f64), series: &Series) {
        let Some((left, top)) = self.point(step, value) else { return };
        html.tag("circle", &[("class", "point"), ("cx", &n(left)), ("cy", &n(top)), ("r", "3.5")], |html| {
            html.leaf("title", &[], &told(series, step, value));
        });
    }

    fn point(&self, step: f64, value: f64) -> Option<(f64, f64)> {
        Some((self.left(step)?, self.top(value)?))
    }
}

fn told(series: &Series, step: f64, value: f64) -> String {
    format!("{} at step {}: {}", series.name, number(step), number(value))
}

/// A coordinate: tenths are finer than a screen.
pub(super) fn n(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A straight line.
pub(super) fn line(html: &mut Html, class: &str, from: (f64, f64), to: (f64, f64)) {
    let (x1, y1, x2, y2) = (n(from.0), n(from.1), n(to.0), n(to.1));
    html.leaf("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], "");
}

/// A text in a drawing, by where it is held.
pub(super) fn label(html: &mut Html, (anchor, class): (&str, &str), at: (f64, f64), text: &str) {
    let (x, y) = (n(at.0), n(at.1));
    html.leaf("text", &[("class", class), ("text-anchor", anchor), ("x", &x), ("y", &y)], text);
}

impl Html {
    fn void_path(&mut self, class: &str, path: &str) {
        self.leaf("path", &[("class", class), ("d", path)], "");
    }
}

/// A way from point to point.
fn path(points: impl Iterator<Item = (f64, f64)>, closed: bool) -> String {
    let steps: Vec<String> = points.map(|(x, y)| format!("{} {}", n(x), n(y))).collect();
    let end = if closed { "Z" } else { "" };
    if steps.is_empty() { String::new() } else { format!("M{}{end}", steps.join("L")) }
}

/// At most `most` parts of a line, each with its mean, least and largest; a part without a finite number is a gap.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<Part> {
    let size = points.len().div_ceil(most).max(1);
    let of = |part: &[(f64, f64)]| {
        let step = part.iter().map(|of| of.0).sum::<f64>() / part.len() as f64;
        let finite = || part.iter().map(|of| of.1).filter(|x| x.is_finite());
        let (sum, count) = finite().fold((0.0, 0), |(sum, count), x| (sum + x, count + 1));
        if count == 0 {
            return (step, f64::NAN, f64::NAN, f64::NAN);
        }
        let (least, largest) =
            (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        // the mean of huge numbers may not be one
        let mean = (sum / f64::from(count)).clamp(least, largest);
        (step, mean, least, largest)
    };
    points.chunks(size).map(of).collect()
}

/// The parts of a line between its gaps.
fn runs(parts: &[Part]) -> impl Iterator<Item = &[Part]> {
    parts.split(|part| !part.1.is_finite()).filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let series = Series { name: "training".into(), class: "a", mark: Mark::Line, points };
        Chart {
            title: "Loss",
            unit: "nats".into(),
            scale: Scale::MaybeLog,
            series: vec![series],
            levels: vec![(1.0, "level".into()), (1e9, "outside".into())],
            events: vec![],
        }
    }

    fn drawn(points: Vec<(f64, f64)>) -> String {
        let mut html = Html::default();
        chart(points).draw(&mut html);
        html.finish()
    }

    #[test]
    fn one_step_is_a_point_and_none_is_said() {
        let one = drawn(vec![(1.0, 2.0)]);
        assert!(one.contains("class=\"point\"") && !one.contains("<path"), "{one}");
        assert!(one.contains("training at step 1: 2"), "{one}");
        for none in [vec![], vec![(1.0, f64::NAN)]] {
            assert!(drawn(none).contains("no finite number"));
        }
        assert!(!one.contains("outside"), "{one}");
    }

    #[test]
    fn what_is_no_number_leaves_a_gap() {
        let points = [1.0, 1.5, f64::NAN, 1.2, 1.1, f64::INFINITY].into_iter().enumerate();
        let text = drawn(points.map(|(step, x)| (step as f64, x)).collect());
        assert_eq!(text.matches("class=\"line\"").count(), 2, "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn a_long_line_is_of_a_bounded_size_and_keeps_its_extremes() {
        let mut points: Vec<(f64, f64)> = (0..20_000).map(|step| (step as f64, 1.0)).collect();
        points[777].1 = 9.0;
        let parts = thinned(&points, POINTS);
        assert!(parts.len() <= POINTS);
        assert_eq!(parts.iter().map(|of| of.3).fold(0.0, f64::max), 9.0);
        let text = drawn(points);
        assert!(text.len() < 20_000, "{}", text.len());
        assert!(text.contains("class=\"band\"") && text.contains("mean of 84 steps"), "{text}");
    }
}
