//! The words of a list: which of them become tokens, and what the list says of these.

use super::Corpus;
use crate::choose::Chosen;
use crate::failure::Outcome;
use crate::report;
use crate::signals::Signals;
use std::path::Path;
use toktune::distill::DistilledWord;
use toktune::text::{AutoTokenizer, ListedToken, TextError, WordUse};

/// Reads the words, without spaces around them.
pub(super) fn read(path: &Path) -> Outcome<Vec<ListedToken>> {
    let mut listed = ListedToken::read(path)?;
    for of in &mut listed {
        of.token.content = of.token.content.trim().to_owned();
    }
    Ok(listed)
}

/// Makes each word that comes up a token, and says which do not, or are one already. What the list says of a word goes with its
/// token.
pub(super) fn add(
    listed: &[ListedToken],
    (corpus, signals): (&Corpus, &Signals),
    before: &AutoTokenizer,
    with_words: &mut AutoTokenizer,
) -> Outcome<(Vec<DistilledWord>, Chosen)> {
    let mut uses: Vec<(WordUse, &ListedToken)> = Vec::new();
    for of in listed {
        let mut word = WordUse::new(&of.token.content);
        word.special = of.token.special;
        match uses.iter().find(|(earlier, _)| earlier.is_same_word(&word)) {
            Some((earlier, _)) => report::note(&format!(
                "{}: the same word as {} (the case of its first letter plays no part), left out",
                word.word(),
                earlier.word()
            )),
            None => uses.push((word, of)),
        }
    }
    corpus.each(signals, &mut |piece| {
        let mut words = uses.iter_mut().map(|(word, _)| word);
        Ok(words.try_for_each(|word| word.read_within(before, piece.text, &piece.own))?)
    })?;
    let mut words = Vec::new();
    let mut chosen = Chosen { before: Some(before.clone()), changed_tokenizer: true, ..Chosen::default() };
    for (word, of) in &uses {
        let name = word.word();
        match with_words.add_word(word) {
            Ok(found) => match (found.added, found.ids.as_slice()) {
                (Some(text), &[id]) => {
                    words.push(DistilledWord { id, text });
                    chosen.ids.push(id);
                    chosen.added.insert(id);
                    chosen.words.insert(id);
                    if let Some(text) = &of.description {
                        with_words.describe(id, text);
                    }
                    if let Some(init) = &of.init {
                        chosen.listed_inits.insert(id, init.clone());
                    }
                }
                (_, ids) => report::note(&format!(
                    "{name}: one token already (id {}), left out",
                    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
                )),
            },
            Err(TextError::Word { reason, .. }) => report::warning(&format!("{name}: {reason}; left out")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((words, chosen))
}
