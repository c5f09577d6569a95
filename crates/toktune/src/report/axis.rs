//! Axes: from where to where, in which steps, and what is written beside them.

use super::format::number;

/// Marks of an axis, about.
const MARKS: f64 = 5.0;
/// Values that are so many times apart are drawn by their logarithms where that is allowed.
const APART: f64 = 30.0;

/// Marks of an axis whose equal steps are equal factors, at most.
const FEW: usize = 7;

/// What an axis does with values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Equal steps; the axis begins at 0 unless a value is below.
    FromZero,
    /// Equal steps, from the least value to the largest.
    Exact,
    /// As `FromZero`, or equal factors where all values are above 0 and far apart.
    MaybeLog,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// Whether equal steps are equal factors.
    pub(super) is_log: bool,
    /// Where marks are.
    pub(super) marks: Vec<f64>,
}

impl Axis {
    /// An axis for these values, of which those that are no finite numbers are passed over; nothing where none is left.
    pub(super) fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Option<Self> {
        let finite = values.filter(|x| x.is_finite());
        let (low, high) = finite.fold(None, |range: Option<(f64, f64)>, x| {
            Some(range.map_or((x, x), |(low, high)| (low.min(x), high.max(x))))
        })?;
        if scale == Scale::MaybeLog && low > 0.0 && high / low >= APART {
            return Some(Self::by_factors(low, high));
        }
        let (low, high) = match scale {
            Scale::Exact => (low, high),
            _ => (low.min(0.0), high.max(0.0)),
        };
        Some(Self::by_steps(low, high, scale == Scale::Exact))
    }

    fn by_steps(low: f64, high: f64, is_exact: bool) -> Self {
        // a single value has room on both sides
        let (low, high) = match high - low {
            0.0 if low == 0.0 => (0.0, 1.0),
            0.0 => (low - low.abs() / 2.0, high + high.abs() / 2.0),
            _ => (low, high),
        };
        let step = nice((high - low) / MARKS);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let marks: Vec<f64> = (0..=(last - first) as usize).map(|n| (first + n as f64) * step).collect();
        if is_exact {
            let marks = marks.into_iter().filter(|mark| (low..=high).contains(mark)).collect();
            return Self { low, high, is_log: false, marks };
        }
        Self { low: first * step, high: last * step, is_log: false, marks }
    }

    fn by_factors(low: f64, high: f64) -> Self {
        let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
        let steps: Vec<f64> = decades.flat_map(|n| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(n))).collect();
        let first = steps.iter().rposition(|mark| *mark <= low).unwrap_or(0);
        let last = steps.iter().position(|mark| *mark >= high).unwrap_or(steps.len() - 1);
        let (low, high) = (steps[first], steps[last]);
        // over more than two decades the powers of ten are enough, and of very many some of them
        let of = |every: usize| {
            let marks = steps.iter().enumerate().skip(first).take(last + 1 - first);
            marks.filter(|(at, _)| at % every == 0).map(|(_, mark)| *mark).collect::<Vec<f64>>()
        };
        let marks = if last - first < FEW { of(1) } else { of(3 * (last - first).div_ceil(3 * FEW)) };
        Self { low, high, is_log: true, marks }
    }

    /// Where a value lies, 0 at the beginning and 1 at the end; nothing for what has no place.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let (low, high, value) = match self.is_log {
            true => (self.low.ln(), self.high.ln(), value.ln()),
            false => (self.low, self.high, value),
        };
        let place = (value - low) / (high - low);
        (place.is_finite() && (-1e-9..=1.0 + 1e-9).contains(&place)).then_some(place)
    }
}

/// The next step of 1, 2 or 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let power = if power > 0.0 && power.is_finite() { power } else { f64::MIN_POSITIVE };
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|x| *x >= step * 0.999).unwrap_or(10.0 * power)
}

/// What is written beside a mark.
pub(super) fn mark(x: f64) -> String {
    let size = x.abs();
    match size {
        _ if size < 1e-300 => "0".into(),
        _ if (1e-3..1e5).contains(&size) => number(x),
        _ => {
            let text = format!("{x:.1e}");
            text.replace(".0e", "e")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64], scale: Scale) -> Axis {
        Axis::of(values.iter().copied(), scale).expect("an axis")
    }

    #[test]
    fn marks_are_round_and_hold_the_values() {
        let axis = of(&[0.3, 4.2, f64::NAN], Scale::FromZero);
        assert_eq!(axis.marks, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((axis.place(0.0), axis.place(5.0), axis.place(6.0)), (Some(0.0), Some(1.0), None));
        let axis = of(&[1.0, 85.0], Scale::Exact);
        assert_eq!(axis.marks, [20.0, 40.0, 60.0, 80.0]);
        assert_eq!((axis.place(1.0), axis.place(85.0)), (Some(0.0), Some(1.0)));
        let axis = of(&[-2.0, 3.0], Scale::FromZero);
        assert_eq!(axis.marks, [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn far_values_are_drawn_by_their_logarithms_where_they_can() {
        let axis = of(&[0.03, 19.0], Scale::MaybeLog);
        assert!(axis.is_log);
        let marks = |axis: &Axis| axis.marks.iter().map(|x| mark(*x)).collect::<Vec<_>>().join(" ");
        assert_eq!(marks(&axis), "0.1 1 10");
        let close = |x: Option<f64>, to: f64| x.is_some_and(|x| (x - to).abs() < 1e-9);
        assert!(close(axis.place(0.02), 0.0) && close(axis.place(20.0), 1.0), "{axis:?}");
        assert_eq!(marks(&of(&[0.3, 11.0], Scale::MaybeLog)), "0.2 0.5 1 2 5 10 20");
        assert!(axis.place(0.0).is_none() && axis.place(f64::NAN).is_none());
        assert!(!of(&[0.0, 19.0], Scale::MaybeLog).is_log, "0 has no logarithm");
        assert!(!of(&[1.0, 19.0], Scale::MaybeLog).is_log);
        assert!(of(&[1e-30, 1e30], Scale::MaybeLog).marks.len() <= 9);
    }

    #[test]
    fn any_values_have_an_axis() {
        assert_eq!(Axis::of([f64::NAN, f64::INFINITY].into_iter(), Scale::FromZero), None);
        assert_eq!(Axis::of(std::iter::empty(), Scale::FromZero), None);
        for values in [&[0.0][..], &[5.0], &[-3.0], &[1e-300], &[1e300, -1e300], &[1.0, 1.0 + f64::EPSILON]] {
            for scale in [Scale::FromZero, Scale::Exact, Scale::MaybeLog] {
                let axis = of(values, scale);
                assert!(axis.marks.len() < 20, "{values:?} {axis:?}");
            }
        }
        assert_eq!(
            [0.0, 0.0136, 1e-4, 2.5e-5, 1e5, 20.0].map(mark),
            ["0", "0.0136", "1e-4", "2.5e-5", "1e5", "20"]
        );
    }
}
