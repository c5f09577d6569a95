//! The named special tokens of a tokenizer, as transformers stores them.

/// The names transformers gives to single special tokens, in its order.
pub(crate) const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Which token carries which name. A name without a token is absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpecialTokens(Vec<(&'static str, String)>);

impl SpecialTokens {
    /// The token of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, token)| token.as_str())
    }

    /// Gives a name a token; an unknown name is not taken.
    pub(crate) fn set(&mut self, name: &str, token: &str) {
        let Some(known) = NAMES.into_iter().find(|known| *known == name) else { return };
        match self.0.iter_mut().find(|(name, _)| *name == known) {
            Some((_, old)) => *old = token.to_owned(),
            None => self.0.push((known, token.to_owned())),
        }
    }

    /// Names with their tokens.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, token)| (*name, token.as_str()))
    }
}
