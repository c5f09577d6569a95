//! What the decoder of an encoder-decoder reads to say its targets.

/// The tokens that a decoder reads where its targets do not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderInputs {
    /// Before the first target.
    pub start: DecoderStart,
    /// In the place of a target that is not learnt: `pad_token_id`.
    pub pad: u32,
}

/// What a decoder reads before the first target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderStart {
    /// A token: `decoder_start_token_id`.
    Token(u32),
    /// The target whose number is that of all targets that are no padding, which is the last one where nothing is left out
    /// (mBART: the language).
    LastTarget,
}

impl DecoderInputs {
    /// What the decoder reads to say `labels`: each position the label before, as transformers' `shift_tokens_right` gives
    /// it.
    pub fn of<'l>(&self, labels: &'l [Option<u32>]) -> impl Iterator<Item = u32> + use<'l> {
        let pad = self.pad;
        let padded = move || labels.iter().map(move |label| label.unwrap_or(pad));
        let start = match self.start {
            DecoderStart::Token(token) => token,
            DecoderStart::LastTarget => {
                let count = padded().filter(|token| *token != pad).count();
                // without any, the number before the first is the last position
                padded().nth(count.checked_sub(1).unwrap_or(labels.len().saturating_sub(1))).unwrap_or(pad)
            }
        };
        std::iter::once(start).chain(padded()).take(labels.len())
    }

    /// The tokens among them that must have a row.
    pub fn tokens(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let start = match self.start {
            DecoderStart::Token(token) => Some(("decoder start token", token)),
            DecoderStart::LastTarget => None,
        };
        start.into_iter().chain([("pad token", self.pad)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_read_what_shift_tokens_right_gives() {
        let of =
            |start, labels: &[Option<u32>]| DecoderInputs { start, pad: 1 }.of(labels).collect::<Vec<_>>();
        let labels = [Some(5), None, Some(6), Some(2)];
        assert_eq!(of(DecoderStart::Token(0), &labels), [0, 5, 1, 6]);
        // transformers.models.mbart.modeling_mbart.shift_tokens_right([[5, -100, 6, 2]], 1)
        assert_eq!(of(DecoderStart::LastTarget, &labels), [6, 5, 1, 6]);
        assert_eq!(of(DecoderStart::LastTarget, &[Some(5), Some(9)]), [9, 5]);
        assert_eq!(of(DecoderStart::LastTarget, &[None, None]), [1, 1]);
        assert!(of(DecoderStart::LastTarget, &[]).is_empty());
    }
}
