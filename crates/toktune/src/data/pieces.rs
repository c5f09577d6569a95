//! Long texts in parts of a bounded size, for what tokenises all that it looks at.

use std::ops::Range;

/// Bytes of a text that are looked at together.
const WINDOW: usize = 64 << 10;

/// Bytes beside a part that are looked at with it: a word across a border is seen whole from the part where it begins.
pub(super) const BESIDE: usize = 2 << 10;

/// A part of a text, with some of what stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece<'t> {
    /// The part and what stands beside it.
    pub text: &'t str,
    /// Bytes of the part itself: what begins here is in no other part.
    pub own: Range<usize>,
}

impl<'t> Piece<'t> {
    /// A text that is not cut.
    pub fn whole(text: &'t str) -> Self {
        Self { text, own: 0..text.len() }
    }

    /// The parts of a text of which `own` is to be looked at.
    pub(super) fn each<E>(
        text: &'t str,
        own: Range<usize>,
        take: &mut dyn FnMut(Piece<'t>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut from = own.start;
        while from < own.end {
            let to = match own.end - from > WINDOW {
                true => border(text.as_bytes(), from + WINDOW),
                false => own.end,
            };
            let begin = letter(text.as_bytes(), from.saturating_sub(BESIDE));
            let end = letter(text.as_bytes(), text.len().min(to + BESIDE));
            take(Piece { text: &text[begin..end], own: from - begin..to - begin })?;
            from = to;
        }
        Ok(())
    }
}

/// Where to cut at `most` or a little before it: at white space if there is some, and never within a letter.
pub(super) fn border(text: &[u8], most: usize) -> usize {
    let from = most.saturating_sub(BESIDE);
    let space = text[from..most].iter().rposition(u8::is_ascii_whitespace).filter(|at| from + at > 0);
    space.map_or_else(|| letter(text, most), |at| from + at)
}

/// Where the letter of UTF-8 begins that a byte is of.
pub(super) fn letter(text: &[u8], at: usize) -> usize {
    let goes_on = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (at.saturating_sub(3)..=at).rev().find(|at| !goes_on(at)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<Piece<'_>> {
        let mut all = Vec::new();
        let done: Result<(), ()> = Piece::each(text, 0..text.len(), &mut |piece| {
            all.push(piece);
            Ok(())
        });
        done.expect("nothing fails");
        all
    }

    #[test]
    fn parts_make_up_the_text_and_see_beyond_themselves() {
        for text in ["ab cd ".repeat(40_000), "äöü\u{1f600}".repeat(30_000), "x".into(), String::new()] {
            let all = pieces(&text);
            let together: String = all.iter().map(|piece| &piece.text[piece.own.clone()]).collect();
            assert_eq!(together, text);
            for (at, piece) in all.iter().enumerate() {
                assert!(piece.own.len() <= WINDOW && piece.own.start <= BESIDE + 3, "{:?}", piece.own);
                assert!(at == 0 || piece.own.start >= BESIDE, "{:?}", piece.own);
                let beyond = piece.text.len() - piece.own.end;
                assert!(at + 1 == all.len() || beyond > BESIDE - 4, "{beyond}");
            }
        }
        let text = "ab cd ".repeat(40_000);
        assert!(pieces(&text)[1..].iter().all(|piece| piece.text[piece.own.clone()].starts_with(' ')));
    }
}
