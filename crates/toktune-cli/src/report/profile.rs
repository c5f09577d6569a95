//! Where the time of a run went.

use super::table::boxed;
use super::{Progress, stdout_style};
use serde_json::json;
use toktune::profile::Share;

/// Tells of the parts of a run whose steps took `seconds`.
pub fn profile(progress: &Progress<'_>, shares: &[Share], seconds: f64) {
    if progress.is_json() {
        let parts = shares.iter().map(|share| {
            json!({"part": share.part.name(), "seconds": share.seconds, "gflops_per_second": rate(share)})
        });
        return progress
            .json(&json!({"event": "profile", "seconds": seconds, "parts": parts.collect::<Vec<_>>()}));
    }
    let mut rows: Vec<(String, String)> =
        shares.iter().map(|share| (share.part.name().to_string(), line(share, seconds))).collect();
    // additions of rows, copies, and what else no part counts; evaluation is in the parts but not in the steps
    let rest = seconds - shares.iter().map(|share| share.seconds).sum::<f64>();
    rows.push(("the rest".into(), of(rest.max(0.0), seconds)));
    progress.lines(&boxed("where the time went", &rows, stdout_style()));
}

fn line(share: &Share, seconds: f64) -> String {
    let rate = rate(share).map_or(String::new(), |rate| format!("  {rate:6.1} GFLOP/s"));
    of(share.seconds, seconds) + &rate
}

fn of(part: f64, whole: f64) -> String {
    format!("{part:8.2} s  {:4.1} %", 100.0 * part / whole.max(f64::MIN_POSITIVE))
}

/// Billions of operations a second, where operations are counted.
fn rate(share: &Share) -> Option<f64> {
    (share.flops > 0.0 && share.seconds > 0.0).then(|| share.flops / share.seconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use toktune::profile::Part;

    #[test]
    fn a_part_is_told_with_its_share_and_its_rate() {
        let share = Share { part: Part::Products, seconds: 2.0, flops: 5e9 };
        assert_eq!(line(&share, 8.0), "    2.00 s  25.0 %     2.5 GFLOP/s");
        let share = Share { part: Part::Data, seconds: 0.5, flops: 0.0 };
        assert_eq!(line(&share, 0.0).split_whitespace().next(), Some("0.50"));
        assert_eq!(rate(&share), None);
    }
}
