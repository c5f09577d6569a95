//! Where the rows of a decoder find the encoder's.

use super::{Part, Plan};
use crate::backend::{Sequences, Span};
use toktune_kernels::attention::Stretch;

/// The encoder's rows beside those of the decoder.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// For the constant rows.
    pub constant: Sequences,
    /// For the depending rows.
    pub depending: Sequences,
}

impl Crossing {
    /// The rows of `decoder` beside those of `encoder`, both cut from the same batch.
    pub fn new(encoder: &Plan, decoder: &Plan) -> Self {
        let of = |part: &Part| {
            let mut next = 0;
            let span = |(span, sequence): (&Span, &usize)| {
                let rows_in = |part: &Part| {
                    let at = part.sequences.binary_search(sequence).ok()?;
                    Some(part.places.spans[at].rows.clone())
                };
                let keys = rows_in(&encoder.depending).unwrap_or(next..next);
                next = keys.end;
                let past = rows_in(&encoder.constant).map(|rows| Stretch { rows, is_past: true });
                Span { rows: span.rows.clone(), before: past.into_iter().collect(), keys }
            };
            Sequences::new(part.places.spans.iter().zip(&part.sequences).map(span).collect())
        };
        Self { constant: of(&decoder.constant), depending: of(&decoder.depending) }
    }
}
