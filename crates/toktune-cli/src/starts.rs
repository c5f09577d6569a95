//! What rows start from: flags, lists and kinds of tokens to the rules of the library, and what came of them.

use crate::args::{Init, Start, TokenArgs};
use crate::choose::{Chosen, existing};
use crate::failure::{Failure, Outcome, usage};
use crate::load::Tokenizer;
use crate::report::{NAMED, NeighbourLine, PlaceLine, StartLine, spelling};
use std::collections::{BTreeMap, HashMap};
use toktune::peft::{RowInit, RowPlace};
use toktune::text::AutoTokenizer;
use toktune::train::{Prior, Trainer, prior};
use toktune::{EngineError, Error, nearest};

/// What the row of each chosen token starts from.
pub type Starts = BTreeMap<u32, RowInit>;

/// Nearest tokens that are told.
const NEIGHBOURS: usize = 3;

/// What flags and lists say, and for tokens of which they say nothing what suits their kind.
pub fn of(args: &TokenArgs, chosen: &Chosen, tokenizer: &Tokenizer, seed: u64) -> Outcome<Starts> {
    if !(args.init_spread >= 0.0 && args.init_spread.is_finite()) {
        return usage(format!("--init-spread is {}, expected at least 0", args.init_spread));
    }
    let given = Given::of(&args.init, chosen, tokenizer)?;
    let makes = Maker { chosen, tokenizer, seed };
    let mut starts = Starts::new();
    for &id in &chosen.ids {
        let start = match (given.own.get(&id), chosen.listed_inits.get(&id), &given.all) {
            (Some(own), ..) => makes.start(id, own, "--init")?,
            (_, Some(listed), _) => makes.listed(id, listed, "--tokens")?,
            (.., Some(all)) => makes.start(id, all, "--init")?,
            _ => makes.usual(id)?,
        };
        starts.insert(id, start);
    }
    Ok(starts)
}

/// What the list of the flag `of` says, and for tokens of which it says nothing what suits their kind.
pub fn of_list(of: &str, chosen: &Chosen, tokenizer: &Tokenizer, seed: u64) -> Outcome<Starts> {
    let makes = Maker { chosen, tokenizer, seed };
    let start = |id: &u32| match chosen.listed_inits.get(id) {
        Some(listed) => makes.listed(*id, listed, of),
        None => makes.usual(*id),
    };
    chosen.ids.iter().map(|id| Ok((*id, start(id)?))).collect()
}

/// What `--init` says.
struct Given<'a> {
    all: Option<&'a Start>,
    own: HashMap<u32, &'a Start>,
}

impl<'a> Given<'a> {
    fn of(inits: &'a [Init], chosen: &Chosen, tokenizer: &Tokenizer) -> Outcome<Self> {
        let mut given = Given { all: None, own: HashMap::new() };
        for Init { token, start } in inits {
            let first = match token {
                None => given.all.replace(start),
                Some(token) => given.own.insert(chosen_token(token, chosen, tokenizer)?, start),
            };
            if first.is_some_and(|first| first != start) {
                let of = token.as_ref().map_or("all tokens".to_owned(), |token| format!("'{token}'"));
                return usage(format!("--init says two things of {of}"));
            }
        }
        Ok(given)
    }
}

/// The chosen token that `--init` names: by its spelling, its text, or its id where there is no such token.
fn chosen_token(token: &str, chosen: &Chosen, tokenizer: &Tokenizer) -> Outcome<u32> {
    let tokenizer = tokenizer.as_ref().ok();
    let is_spelled = |id: &&u32| spelling(tokenizer, **id).as_deref() == Some(token);
    let is_text = |id: &&u32| {
        tokenizer.and_then(|of| of.piece_text(**id)).is_some_and(|text| text.trim() == token.trim())
    };
    let number: Option<u32> = token.parse().ok();
    let ids = &chosen.ids;
    let found = ids.iter().find(is_spelled).or_else(|| ids.iter().find(is_text));
    if let Some(id) = found.or_else(|| ids.iter().find(|id| Some(**id) == number)) {
        return Ok(*id);
    }
    let names: Vec<String> = ids.iter().filter_map(|id| spelling(tokenizer, *id)).collect();
    let near = nearest(token, names.iter().map(String::as_str));
    let near = near.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default();
    usage(format!("--init '{token}=...': it is not among the tokens to train{near}"))
}

/// Makes starts of what is asked for.
struct Maker<'a> {
    chosen: &'a Chosen,
    tokenizer: &'a Tokenizer,
    seed: u64,
}

impl Maker<'_> {
    fn name(&self, id: u32) -> String {
        spelling(self.tokenizer.as_ref().ok(), id).unwrap_or_else(|| id.to_string())
    }

    /// What suits the kind of token.
    fn usual(&self, id: u32) -> Outcome<RowInit> {
        if self.chosen.unlearnt.contains(&id) {
            return Ok(RowInit::Mean);
        }
        if !self.chosen.added.contains(&id) {
            return Ok(RowInit::Base);
        }
        let described = self.description(id)?;
        if !described.is_empty() {
            return Ok(RowInit::Description(described));
        }
        let is_word = self.chosen.words.contains(&id) || is_word(&self.name(id));
        let pieces = if is_word { self.pieces(id)? } else { Vec::new() };
        Ok(if pieces.is_empty() { RowInit::Mean } else { RowInit::Pieces(pieces) })
    }

    /// What `init` in the list of the flag `of` asks for.
    fn listed(&self, id: u32, listed: &str, of: &str) -> Outcome<RowInit> {
        let place = format!("{of}, '{}'", self.name(id));
        let start: Start = listed
            .parse()
            .map_err(|expected| Failure::Usage(format!("{place}: {expected} in `init`, found '{listed}'")))?;
        self.start(id, &start, &place)
    }

    /// What `place` asks for.
    fn start(&self, id: u32, start: &Start, place: &str) -> Outcome<RowInit> {
        let name = || self.name(id);
        Ok(match start {
            Start::Base => RowInit::Base,
            Start::Mean => RowInit::Mean,
            Start::Random => RowInit::Random { seed: self.seed },
            Start::Pieces => match self.pieces(id)? {
                pieces if pieces.is_empty() => {
                    return usage(format!(
                        "{place}: '{}' has no pieces to start from: the tokenizer does not know them, or there is none",
                        name()
                    ));
                }
                pieces => RowInit::Pieces(pieces),
            },
            Start::Description => match self.description(id)? {
                pieces if pieces.is_empty() => {
                    return usage(format!(
                        "{place}: '{}' has no description to start from (a list of tokens can give one)",
                        name()
                    ));
                }
                pieces => RowInit::Description(pieces),
            },
            Start::Like(other) => {
                let id = match (self.before(), other.parse()) {
                    (Some(tokenizer), _) => existing(&format!("{place} like:"), tokenizer, other)?,
                    (None, Ok(id)) => id,
                    (None, Err(_)) => return usage(format!("{place} like:{other} needs a tokenizer")),
                };
                if self.chosen.added.contains(&id) {
                    return usage(format!("{place}: like:{other} is a token that is added itself"));
                }
                RowInit::Like(id)
            }
        })
    }

    /// The tokenizer that knows nothing of added tokens.
    fn before(&self) -> Option<&AutoTokenizer> {
        self.chosen.before.as_ref().or(self.tokenizer.as_ref().ok())
    }

    /// The pieces of a token's text.
    fn pieces(&self, id: u32) -> Outcome<Vec<u32>> {
        let text = self.tokenizer.as_ref().ok().and_then(|tokenizer| tokenizer.piece_text(id));
        text.map_or(Ok(Vec::new()), |text| self.cut(&text))
    }

    fn description(&self, id: u32) -> Outcome<Vec<u32>> {
        let text = self.tokenizer.as_ref().ok().and_then(|tokenizer| tokenizer.description(id));
        text.map_or(Ok(Vec::new()), |text| self.cut(text))
    }

    /// The tokens of a text that were there before, but for what stands for unknown ones.
    fn cut(&self, text: &str) -> Outcome<Vec<u32>> {
        let Some(tokenizer) = self.before() else { return Ok(Vec::new()) };
        let mut ids = tokenizer.encode(text, false)?;
        let unknown = tokenizer.unk_token_id();
        ids.retain(|id| Some(*id) != unknown);
        Ok(ids)
    }
}

/// Whether a token reads as a word or some, and not as a sign: it begins and ends with a letter or a digit.
fn is_word(token: &str) -> bool {
    let token = token.trim();
    let ends = [token.chars().next(), token.chars().next_back()];
    ends.iter().all(|end| end.is_some_and(char::is_alphanumeric))
}

/// What the header tells of the first tokens.
pub fn told(
    starts: &Starts,
    trainer: &Trainer,
    tokenizer: Option<&AutoTokenizer>,
) -> Outcome<Vec<StartLine>> {
    let mut ids = trainer.model.token_indices();
    ids.truncate(NAMED);
    let places = trainer.model.row_places(&ids, NEIGHBOURS);
    let prior = match prior(&trainer.model, trainer.train_data(), &ids) {
        // the first step will say so, and more
        Err(Error::Engine(EngineError::NotFinite { .. })) => None,
        other => other?,
    };
    let of = |(at, id): (usize, &u32)| {
        let start = starts.get(id).unwrap_or(&RowInit::Base);
        let probability = prior.as_ref().map(|Prior { probabilities, .. }| probabilities[at]);
        StartLine {
            id: *id,
            token: spelling(tokenizer, *id),
            start: start.name(),
            from: start.sources().iter().map(|id| NeighbourLine::of(*id, None, tokenizer)).collect(),
            places: places.iter().filter(|place| place.id == *id).map(|of| place(of, tokenizer)).collect(),
            probability,
        }
    };
    Ok(ids.iter().enumerate().map(of).collect())
}

fn place(place: &RowPlace, tokenizer: Option<&AutoTokenizer>) -> PlaceLine {
    let near = |(id, cosine): &(u32, f32)| NeighbourLine::of(*id, Some(*cosine), tokenizer);
    PlaceLine {
        module: place.layer.clone(),
        norm: place.norm,
        norm_percentile: place.percentile,
        nearest: place.nearest.iter().map(near).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_signs_are_told_apart() {
        for word in ["medical", " medical", "St. John's wort", "naïve", "医薬", "Q10"] {
            assert!(is_word(word), "{word}");
        }
        for sign in ["<calc>", "[END]", "####", " <<", "</s>", "", "|x|", "(a)"] {
            assert!(!is_word(sign), "{sign}");
        }
    }
}
