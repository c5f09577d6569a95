//! Numbers and tokens as people read them.

use toktune::text::AutoTokenizer;

pub use toktune::report::{bytes, count, duration, number, percent, plural};

/// The spelling of a token for people: what a text shows, if that is one token again, else the vocabulary's.
pub fn spelling(tokenizer: Option<&AutoTokenizer>, id: u32) -> Option<String> {
    tokenizer?.id_to_token(id)
}
