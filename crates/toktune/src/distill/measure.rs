//! How near a token has come to the pieces of its word, on texts that were not trained on.

use super::{Match, Snippet};
use crate::data::RaggedBatch;
use crate::engine::trained::Trained;
use crate::error::Result;
use crate::models::{ModelKind, PretrainedModel};
use crate::peft::ActiveRows;
use rayon::prelude::*;
use serde::Serialize;

/// Rows behind a word that are looked at.
const FOLLOWING: usize = 30;

/// How the student's predictions compare with the teacher's, each a mean over rows, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Likeness {
    /// How far the student's distribution over the tokens is from the teacher's: `KL(teacher || student)`.
    pub kl: f64,
    /// The student's loss at the tokens that follow the words.
    pub loss: f64,
    /// The teacher's.
    pub teacher_loss: f64,
    /// The probability that the student gives to the new tokens together, where none of them stands.
    pub leak: f64,
    /// How many rows were looked at.
    pub rows: usize,
}

impl Likeness {
    /// The share of the gap between the teacher's loss and that of `start` that is closed: 0 as at the start, 1 as the teacher.
    pub fn gap_closed(&self, start: &Self) -> f64 {
        let gap = start.loss - start.teacher_loss;
        if gap == 0.0 { 0.0 } else { (start.loss - self.loss) / gap }
    }

    /// The share of the divergence of `start` that is gone.
    pub fn kl_closed(&self, start: &Self) -> f64 {
        if start.kl == 0.0 { 0.0 } else { 1.0 - self.kl / start.kl }
    }

    /// The mean over the rows of several, zeros where they have none.
    pub fn mean<'l>(of: impl IntoIterator<Item = &'l Self>) -> Self {
        let mut sum = Self::default();
        for one in of {
            let rows = one.rows as f64;
            sum.kl += rows * one.kl;
            sum.loss += rows * one.loss;
            sum.teacher_loss += rows * one.teacher_loss;
            sum.leak += rows * one.leak;
            sum.rows += one.rows;
        }
        let rows = sum.rows.max(1) as f64;
        let Self { kl, loss, teacher_loss, leak, .. } = sum;
        Self {
            kl: kl / rows,
            loss: loss / rows,
            teacher_loss: teacher_loss / rows,
            leak: leak / rows,
            rows: sum.rows,
        }
    }
}

/// Compares the student, which is `base` with `rows`, with the frozen `base`, whose new tokens are left out of what it predicts;
/// `new` are these tokens. The result is a mean over the rows behind the words of all snippets, 30 of each at most.
///
/// # Errors
/// As [`crate::engine::runner::Runner::each_logits`].
pub fn measure(
    base: &PretrainedModel,
    rows: ActiveRows<'_>,
    snippets: &[Snippet],
    new: &[u32],
) -> Result<Likeness> {
    Ok(Likeness::mean(&measure_each(base, rows, snippets, new)?))
}

/// The same of each of the snippets.
///
/// # Errors
/// As [`measure`].
pub fn measure_each(
    base: &PretrainedModel,
    rows: ActiveRows<'_>,
    snippets: &[Snippet],
    new: &[u32],
) -> Result<Vec<Likeness>> {
    let mut each = Vec::with_capacity(snippets.len());
    let student = rows.trained();
    for snippet in snippets {
        let matches = &snippet.matches[..snippet.matches.len().min(FOLLOWING)];
        let of = |ids: &[u32], row: fn(&Match) -> usize, trained: &Trained<'_>| -> Result<Vec<Vec<f32>>> {
            let mut targets = vec![None; ids.len()];
            matches.iter().for_each(|of| targets[row(of)] = Some(of.next));
            let mut batch = RaggedBatch::new(ModelKind::Causal);
            batch.push(ids.iter().copied(), targets, &[]);
            let mut rows = Vec::with_capacity(matches.len());
            base.runner().each_logits(&batch, trained, &mut |_, logits| rows.push(logits.to_vec()))?;
            Ok(rows)
        };
        let seen = of(&snippet.student, |of| of.student, &student)?;
        let known = of(&snippet.teacher, |of| of.teacher, &Trained::default())?;
        let rows: Vec<Likeness> = (matches, &seen, &known)
            .into_par_iter()
            .map(|(of, seen, known)| compare(seen, known, of.next, new))
            .collect();
        each.push(Likeness::mean(&rows));
    }
    Ok(each)
}

/// The logarithm of the sum of exponentials of the logits, those of `without` left out.
fn log_sum(logits: &[f32], without: &[u32]) -> f64 {
    let is_in = |id: usize| !without.contains(&(id as u32));
    let counted = || logits.iter().enumerate().filter(|(id, _)| is_in(*id)).map(|(_, x)| f64::from(*x));
    let largest = counted().fold(f64::NEG_INFINITY, f64::max);
    largest + counted().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

/// One row of the student's and the teacher's logits.
fn compare(student: &[f32], teacher: &[f32], next: u32, new: &[u32]) -> Likeness {
    let (of_student, of_teacher) = (log_sum(student, &[]), log_sum(teacher, new));
    let mut kl = 0.0;
    for (id, (s, t)) in student.iter().zip(teacher).enumerate() {
        if !new.contains(&(id as u32)) {
            let log = f64::from(*t) - of_teacher;
            kl += log.exp() * (log - (f64::from(*s) - of_student));
        }
    }
    let of = |logits: &[f32], sum: f64, id: u32| logits.get(id as usize).map_or(0.0, |x| f64::from(*x) - sum);
    Likeness {
        kl,
        loss: -of(student, of_student, next),
        teacher_loss: -of(teacher, of_teacher, next),
        leak: new.iter().map(|id| of(student, of_student, *id).exp()).sum(),
        rows: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_student_like_its_teacher_is_at_no_distance() {
        let logits = [0.3, -1.0, 2.0, 0.0];
        let mut with_new = logits;
        with_new[3] = f32::NEG_INFINITY;
        let of = compare(&with_new, &logits, 2, &[3]);
        assert!(of.kl.abs() < 1e-12 && of.leak == 0.0, "{of:?}");
        assert!((of.loss - of.teacher_loss).abs() < 1e-12, "{of:?}");
    }

    #[test]
    fn what_leaks_is_missed_elsewhere() {
        // a new token as likely as the two others together
        let student = [0.0, 0.0, 2f32.ln()];
        let of = compare(&student, &[0.0, 0.0, 9.0], 0, &[2]);
        let ln2 = std::f64::consts::LN_2;
        assert!((of.leak - 0.5).abs() < 1e-7 && (of.kl - ln2).abs() < 1e-7, "{of:?}");
        assert!((of.loss - 2.0 * ln2).abs() < 1e-7 && (of.teacher_loss - ln2).abs() < 1e-12, "{of:?}");
    }

    #[test]
    fn a_mean_counts_rows() {
        let of = |x, rows| Likeness { kl: x, loss: x, teacher_loss: 2.0 * x, leak: 0.5, rows };
        let mean = Likeness::mean([&of(1.0, 1), &of(4.0, 2), &of(9.0, 0)]);
        assert_eq!(mean, Likeness { teacher_loss: 6.0, ..of(3.0, 3) });
        assert_eq!(Likeness::mean([]), Likeness::default());
    }

    #[test]
    fn gaps_are_shares_of_the_start() {
        let of = |kl, loss| Likeness { kl, loss, teacher_loss: 2.0, leak: 0.0, rows: 1 };
        let (start, end) = (of(0.4, 3.0), of(0.1, 2.25));
        assert_eq!((end.gap_closed(&start), end.kl_closed(&start)), (0.75, 0.75));
        assert_eq!((start.gap_closed(&start), start.kl_closed(&start)), (0.0, 0.0));
        assert_eq!(of(0.0, 2.0).gap_closed(&of(0.0, 2.0)), 0.0);
    }
}
