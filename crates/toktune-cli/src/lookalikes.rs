//! Text of the data that looks like a chosen token and is cut into other ones: written in another case, with a space inside,
//! or beside something that takes a part of it.

use crate::failure::Outcome;
use crate::report;
use std::collections::BTreeMap;
use toktune::data::{DataOptions, DataSource};
use toktune::text::AutoTokenizer;

/// Ways of writing a token that are told.
const MOST_FORMS: usize = 3;
/// Tokens that are looked for.
const MOST_TOKENS: usize = 64;
/// Ways of writing a token that are counted.
const MOST_COUNTED: usize = 64;

/// The ways in which texts write a token without its being cut there.
#[derive(Debug)]
pub struct Lookalikes {
    id: u32,
    /// What is looked for: the token's text in lower case; a sign without its spaces.
    wanted: String,
    is_word: bool,
    /// What stands in the data, with its pieces, and how often.
    forms: BTreeMap<(String, Vec<String>), usize>,
}

/// A text in lower case, with where each byte comes from.
struct Folded {
    text: String,
    places: Vec<(usize, usize)>,
}

impl Folded {
    fn of(text: &str, spaces: bool) -> Self {
        let mut folded =
            Folded { text: String::with_capacity(text.len()), places: Vec::with_capacity(text.len()) };
        for (at, letter) in text.char_indices().filter(|(_, letter)| spaces || !letter.is_whitespace()) {
            folded.text.extend(letter.to_lowercase());
            folded.places.resize(folded.text.len(), (at, at + letter.len_utf8()));
        }
        folded
    }

    /// Where `wanted` stands, as bytes of the text that was folded.
    fn find<'f>(&'f self, wanted: &'f str) -> impl Iterator<Item = (usize, usize)> + 'f {
        let found = self.text.match_indices(wanted).map(|(at, found)| (at, at + found.len()));
        found.map(|(from, to)| (self.places[from].0, self.places[to - 1].1))
    }
}

impl Lookalikes {
    /// Of a token that has a text; nothing of others.
    fn new(id: u32, tokenizer: &AutoTokenizer) -> Option<Self> {
        let text = tokenizer.piece_text(id)?;
        let text = text.trim();
        let is_word = text.chars().all(|letter| letter.is_alphanumeric() || letter == '_' || letter == ' ');
        let wanted = Folded::of(text, is_word).text;
        (!wanted.is_empty()).then(|| Lookalikes { id, wanted, is_word, forms: BTreeMap::new() })
    }

    fn read(
        &mut self,
        folded: &Folded,
        text: &str,
        cut: &[(u32, (usize, usize))],
        tokenizer: &AutoTokenizer,
    ) {
        for (start, end) in folded.find(&self.wanted) {
            let beside = [text[..start].chars().next_back(), text[end..].chars().next()];
            if self.is_word
                && beside.iter().flatten().any(|letter| letter.is_alphanumeric() || *letter == '_')
            {
                continue;
            }
            let pieces: Vec<u32> =
                cut.iter().filter(|(_, (from, to))| *from < end && start < *to).map(|(id, _)| *id).collect();
            if pieces.contains(&self.id) {
                continue;
            }
            let spelled = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_else(|| id.to_string());
            let key = (text[start..end].to_owned(), pieces.iter().map(spelled).collect());
            if self.forms.len() < MOST_COUNTED || self.forms.contains_key(&key) {
                *self.forms.entry(key).or_default() += 1;
            }
        }
    }

    /// What to tell of it, behind the token's name: nothing where every text that looks like it is it.
    fn told(&self) -> Option<String> {
        let mut forms: Vec<_> = self.forms.iter().collect();
        forms.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let told = forms.iter().take(MOST_FORMS).map(|((form, pieces), count)| {
            format!("'{form}' {}, cut into '{}'", report::plural(**count, "time"), pieces.join("' '"))
        });
        let more = if forms.len() > MOST_FORMS { ", ..." } else { "" };
        (!forms.is_empty()).then(|| told.collect::<Vec<_>>().join("; ") + more)
    }
}

/// What looks like each of `ids` in the texts of `sources` and is cut into other tokens, in words.
pub fn find(
    ids: &[u32],
    tokenizer: &AutoTokenizer,
    sources: &[DataSource],
    options: &DataOptions,
) -> Outcome<BTreeMap<u32, String>> {
    let mut wanted: Vec<Lookalikes> =
        ids.iter().take(MOST_TOKENS).filter_map(|id| Lookalikes::new(*id, tokenizer)).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    toktune::data::texts(sources, options, &mut |text| {
        let [words, signs] = [true, false].map(|spaces| Folded::of(text, spaces));
        let folded = |of: &Lookalikes| if of.is_word { &words } else { &signs };
        if wanted.iter().any(|of| folded(of).text.contains(&of.wanted)) {
            let cut = tokenizer.encode_with_offsets(text)?;
            for of in &mut wanted {
                let folded = if of.is_word { &words } else { &signs };
                of.read(folded, text, &cut, tokenizer);
            }
        }
        Ok(())
    })?;
    Ok(wanted.into_iter().filter_map(|of| Some((of.id, of.told()?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_without_case_and_signs_without_spaces() {
        let found = |text: &str, wanted: &str, spaces: bool| -> Vec<String> {
            Folded::of(text, spaces).find(wanted).map(|(from, to)| text[from..to].to_owned()).collect()
        };
        assert_eq!(found("a <Calc>b < calc > <cal", "<calc>", false), ["<Calc>", "< calc >"]);
        assert_eq!(found("A medical, MEDICAL med ical", "medical", true), ["medical", "MEDICAL"]);
        // letters that become longer in lower case
        assert_eq!(found("İx <İ>", "<i\u{307}>", false), ["<İ>"]);
    }
}
