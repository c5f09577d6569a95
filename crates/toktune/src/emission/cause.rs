//! Why a token is probably not written.

use super::TokenEmission;
use std::fmt;

/// Below this share of the rows that are to have a token something is wrong with it.
const ENOUGH: f64 = 0.85;
/// A token with more probability than this where it does not belong is told apart from nothing.
const LEAK: f64 = 0.005;
/// Outside this range of the median norm a row acts unlike others.
const NORMS: std::ops::RangeInclusive<f64> = 0.5..=2.0;

/// What is known of a token beside how it does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Circumstances {
    /// Labels of the training data that are this token, where they are known.
    pub training_labels: Option<usize>,
    /// Whether its own text, put in tokens, is this token.
    pub is_encoded: bool,
    /// Whether it is a special token, which texts are shown without.
    pub is_special: bool,
    /// Its row's norm over the median norm of the vocabulary's rows.
    pub norm: Option<f64>,
}

/// Why a token is probably not written, the likeliest first to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The training data have it nowhere as a label.
    NeverLearnt,
    /// Its text is cut into other tokens.
    NeverEncoded,
    /// It is written and not shown.
    Hidden,
    /// Its row is far larger or smaller than others.
    Norm,
    /// It is likely where it does not belong.
    Leaking,
    /// It is not the likeliest where it belongs, though everything before is given.
    NotLearntWell,
    /// It is likely where it belongs, and the model does not come there by itself.
    NeverReached,
}

impl Cause {
    /// Of a token that was to be written, and was not or not often enough, or is hidden; `None` when nothing is wrong with it.
    pub fn of(token: &TokenEmission, about: Circumstances) -> Option<Self> {
        let rate = token.rate();
        if about.training_labels == Some(0) {
            return Some(Cause::NeverLearnt);
        }
        if !about.is_encoded {
            return Some(Cause::NeverEncoded);
        }
        if token.elsewhere > LEAK {
            return Some(Cause::Leaking);
        }
        if rate.is_none_or(|rate| rate >= ENOUGH) {
            // only a token that is written is missed where it is hidden
            return (about.is_special && token.written > 0).then_some(Cause::Hidden);
        }
        if about.norm.is_some_and(|norm| !NORMS.contains(&norm)) {
            return Some(Cause::Norm);
        }
        match token.top1 {
            Some(top1) if top1 >= ENOUGH => Some(Cause::NeverReached),
            _ => Some(Cause::NotLearntWell),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::NeverLearnt => "never a label of the training data",
            Cause::NeverEncoded => "its text is cut into other tokens",
            Cause::Hidden => "written, and hidden where special tokens are",
            Cause::Norm => "its row is far larger or smaller than others",
            Cause::Leaking => "likely where it does not belong",
            Cause::NotLearntWell => "not the likeliest where it belongs: more steps or a higher rate",
            Cause::NeverReached => "likely where it belongs, but the model does not come there by itself",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(written: usize, top1: f64) -> TokenEmission {
        TokenEmission {
            id: 1,
            labels: 10,
            probability: Some(top1),
            rank: Some(1),
            top1: Some(top1),
            elsewhere: 0.0,
            expected: 10,
            written,
            unexpected: 0,
        }
    }

    #[test]
    fn each_cause_is_found() {
        let fine =
            Circumstances { training_labels: Some(9), is_encoded: true, is_special: false, norm: Some(1.0) };
        let of = |token: &TokenEmission, about| Cause::of(token, about);
        assert_eq!(of(&token(9, 1.0), fine), None);
        assert_eq!(of(&token(8, 1.0), fine), Some(Cause::NeverReached));
        assert_eq!(of(&token(2, 0.5), fine), Some(Cause::NotLearntWell));
        assert_eq!(
            of(&token(0, 0.0), Circumstances { training_labels: Some(0), ..fine }),
            Some(Cause::NeverLearnt)
        );
        assert_eq!(
            of(&token(0, 0.0), Circumstances { is_encoded: false, ..fine }),
            Some(Cause::NeverEncoded)
        );
        assert_eq!(of(&token(0, 0.0), Circumstances { norm: Some(7.0), ..fine }), Some(Cause::Norm));
        assert_eq!(of(&token(10, 1.0), Circumstances { is_special: true, ..fine }), Some(Cause::Hidden));
        assert_eq!(of(&TokenEmission { elsewhere: 0.08, ..token(10, 1.0) }, fine), Some(Cause::Leaking));
        // a token that no row was to have is no failure
        assert_eq!(of(&TokenEmission { expected: 0, written: 0, ..token(0, 0.0) }, fine), None);
    }
}
