//! What training will see of the tokens to train.

use std::collections::HashMap;

use super::Dataset;

/// How often one token occurs in the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// The token.
    pub id: u32,
    /// As an input, of the encoder or the decoder.
    pub inputs: usize,
    /// As a label that the model learns from; where tokens are masked anew in every epoch, how often it can be one.
    pub labels: usize,
    /// Behind the end of rows that `max_length` cut.
    pub cut: usize,
}

impl TokenUse {
    /// Whether training never meets the token: neither its input row nor its output row would have a reason
    /// to move.
    pub fn is_unseen(&self) -> bool {
        self.inputs == 0 && self.labels == 0
    }
}

/// Counts the given tokens over the data; the answer has their order.
pub fn audit(data: &Dataset, ids: &[u32]) -> Vec<TokenUse> {
    let places: HashMap<u32, usize> = ids.iter().enumerate().rev().map(|(place, id)| (*id, place)).collect();
    let mut uses: Vec<TokenUse> =
        ids.iter().map(|&id| TokenUse { id, inputs: 0, labels: 0, cut: 0 }).collect();
    for example in &data.examples {
        let mut count = |id: u32, part: fn(&mut TokenUse) -> &mut usize| {
            if let Some(place) = places.get(&id) {
                *part(&mut uses[*place]) += 1;
            }
        };
        data.collator.inputs(example).for_each(|id| count(id, |token| &mut token.inputs));
        data.collator.targets(example).for_each(|id| count(id, |token| &mut token.labels));
        example.cut.iter().for_each(|&id| count(id, |token| &mut token.cut));
    }
    // A token named twice was counted at its first place.
    (0..uses.len()).for_each(|place| uses[place] = uses[places[&uses[place].id]]);
    uses
}
