//! Which tokens are trained: flags to ids, with tokens added to the tokenizer on the way.

use crate::args::ChoiceArgs;
pub use crate::chosen::{Chosen, Texts};
use crate::failure::{Failure, Outcome, usage};
use crate::load::Tokenizer;
use crate::report;
use crate::template;
use std::collections::HashMap;
use toktune::models::PretrainedModel;
use toktune::text::{AutoTokenizer, ListedToken, NewToken, TextError, TokenKind, WordTokens, WordUse};

/// How many near names a message lists.
const NEAREST: usize = 5;
/// With more tokens than this, known and reserved ones are not told one by one.
const MOST_NOTES: usize = 32;

/// Resolves the flags; new tokens, and another chat template, are in `tokenizer` afterwards. `model` has rows for the tokens that were
/// there.
///
/// Without a token there is nothing to train, unless `lora` is.
pub fn choose(
    args: &ChoiceArgs,
    lora: bool,
    model: &PretrainedModel,
    tokenizer: &mut Tokenizer,
    texts: Texts<'_>,
) -> Outcome<Chosen> {
    let mut chosen = Chosen::default();
    let of_template = template::set(args, tokenizer, &mut chosen)?;
    // each id with the flag that chose it, for a message about the second
    let mut origins: Vec<(u32, String)> =
        args.token_ids.iter().map(|id| (*id, format!("--token-ids {id}"))).collect();
    for token in &args.token {
        let id = existing("--token", with("--token", tokenizer)?, token)?;
        origins.push((id, format!("--token '{token}'")));
    }
    let mut new = to_add(args)?;
    let is_given =
        |token: &ListedToken| new.iter().any(|(_, given)| given.token.content == token.token.content);
    let of_template: Vec<_> = of_template.into_iter().filter(|token| !is_given(token)).collect();
    new.extend(of_template.into_iter().map(|token| ("--template-tokens", token)));
    if !new.is_empty() || !args.word.is_empty() {
        chosen.before = tokenizer.as_ref().ok().cloned();
    }
    if !new.is_empty() {
        let tokenizer = with(new[0].0, tokenizer)?;
        add(args, &new, tokenizer, &mut chosen, &mut origins)?;
    } else if args.use_reserved {
        return usage(
            "--use-reserved renames reserved tokens to those of --add-token, --add-special-token, --tokens and \
             --chat-template chatml",
        );
    }
    if !args.word.is_empty() {
        words(&args.word, with("--word", tokenizer)?, texts, &mut chosen, &mut origins)?;
    }
    if let Some(choice) = args.template_tokens {
        let tokenizer = with("--template-tokens", tokenizer)?;
        let others = lora || !origins.is_empty();
        let ids = template::choose(choice, model, tokenizer, texts, others, &mut chosen)?;
        let is_chosen = |id: &u32| origins.iter().any(|(other, _)| other == id);
        let more: Vec<u32> = ids.into_iter().filter(|id| !is_chosen(id)).collect();
        origins.extend(more.into_iter().map(|id| (id, "--template-tokens".to_owned())));
    }
    if origins.is_empty() && !lora {
        return usage(
            "no token to train; choose some by --token-ids, --token, --word, --add-token, --add-special-token, --tokens or \
             --template-tokens (or go on with an adapter by --adapter)",
        );
    }
    refuse_repeats(&origins)?;
    chosen.ids = origins.into_iter().map(|(id, _)| id).collect();
    Ok(chosen)
}

/// The tokens to add, each with the flag that names it.
fn to_add(args: &ChoiceArgs) -> Outcome<Vec<(&'static str, ListedToken)>> {
    let mut new = Vec::new();
    for (flag, tokens, special) in
        [("--add-token", &args.add_token, false), ("--add-special-token", &args.add_special_token, true)]
    {
        if let Some(blank) = tokens.iter().find(|token| token.trim().is_empty()) {
            return usage(format!("{flag} '{blank}': expected a token with something in it"));
        }
        new.extend(tokens.iter().map(|token| {
            let token = NewToken { special, ..NewToken::new(token) };
            (flag, ListedToken::new(token))
        }));
    }
    if let Some(path) = &args.tokens {
        new.extend(ListedToken::read(path)?.into_iter().map(|listed| ("--tokens", listed)));
    }
    Ok(new)
}

/// Adds tokens, or gives their names to reserved ones.
fn add(
    args: &ChoiceArgs,
    new: &[(&'static str, ListedToken)],
    tokenizer: &mut AutoTokenizer,
    chosen: &mut Chosen,
    origins: &mut Vec<(u32, String)>,
) -> Outcome {
    let tokens: Vec<NewToken> = new.iter().map(|(_, listed)| listed.token.clone()).collect();
    let before: Vec<Option<u32>> = tokens.iter().map(|token| tokenizer.token_to_id(&token.content)).collect();
    let kinds: Vec<_> = before.iter().map(|id| id.and_then(|id| tokenizer.kind(id))).collect();
    let ids = match args.use_reserved {
        true => use_reserved(tokenizer, &tokens)?,
        false => tokenizer.add_new_tokens(&tokens)?,
    };
    for (at, ((flag, listed), &id)) in new.iter().zip(&ids).enumerate() {
        let content = &listed.token.content;
        origins.push((id, format!("{flag} '{content}'")));
        if let Some(text) = &listed.description {
            tokenizer.describe(id, text);
        }
        if let Some(init) = &listed.init {
            chosen.listed_inits.insert(id, init.clone());
        }
        let is_known = before[at].is_some()
            || !matches!(tokenizer.kind(id), Some(TokenKind::Added | TokenKind::Special));
        if is_known {
            // a list of thousands would bury what else there is to read
            if new.len() <= MOST_NOTES {
                report::note(&format!(
                    "'{content}' is in the tokenizer already (id {id}); its row is trained as it is"
                ));
            }
            chosen.changed_tokenizer |= before[at].is_some() && tokenizer.kind(id) != kinds[at];
        } else {
            chosen.added.insert(id);
            chosen.changed_tokenizer = true;
        }
    }
    Ok(())
}

/// Gives the names of tokens to reserved ones, and says which.
fn use_reserved(tokenizer: &mut AutoTokenizer, tokens: &[NewToken]) -> Outcome<Vec<u32>> {
    let reserved: HashMap<u32, String> = tokenizer.reserved_tokens().into_iter().collect();
    let ids = tokenizer.use_reserved_tokens(tokens).map_err(|error| match error {
        TextError::TooFewReserved { .. } => {
            Failure::Failed(format!("{error}; leave out --use-reserved: the model grows instead"))
        }
        other => other.into(),
    })?;
    let named = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_default();
    // a reserved token that was asked for by its own name keeps it
    let taken: Vec<(u32, &String)> = ids
        .iter()
        .filter_map(|id| Some((*id, reserved.get(id)?)))
        .filter(|(id, old)| named(id) != **old)
        .collect();
    match taken.as_slice() {
        [(first, old), .., (last, oldest)] if taken.len() > MOST_NOTES => report::note(&format!(
            "{} take the places of '{old}' (id {first}) to '{oldest}' (id {last})",
            report::plural(taken.len(), "token")
        )),
        few => few.iter().for_each(|(id, old)| {
            report::note(&format!("'{}' takes the place of '{old}' (id {id})", named(id)));
        }),
    }
    Ok(ids)
}

/// Finds the tokens of words in the data, or adds them.
fn words(
    words: &[String],
    tokenizer: &mut AutoTokenizer,
    texts: Texts<'_>,
    chosen: &mut Chosen,
    origins: &mut Vec<(u32, String)>,
) -> Outcome {
    if let Some(blank) = words.iter().find(|word| word.trim().is_empty()) {
        return usage(format!("--word '{blank}': expected a word with something in it"));
    }
    let mut uses: Vec<WordUse> = Vec::new();
    for word in words.iter().map(|word| WordUse::new(word)) {
        match uses.iter().find(|earlier| earlier.is_same_word(&word)) {
            Some(earlier) => report::note(&format!(
                "--word {}: the same word as --word {} (the case of its first letter plays no part)",
                word.word(),
                earlier.word()
            )),
            None => uses.push(word),
        }
    }
    toktune::data::texts(&texts.sources.list, texts.options, &mut |text| {
        Ok(uses.iter_mut().try_for_each(|word| word.read(tokenizer, text))?)
    })?;
    for word in &uses {
        let name = word.word();
        let found = tokenizer.add_word(word).map_err(|error| match error {
            TextError::Word { reason, .. } => {
                let near = tokenizer.nearest_tokens(name, NEAREST);
                let near = match near.is_empty() {
                    true => String::new(),
                    false => format!("; near tokens are '{}'", near.join("', '")),
                };
                Failure::Usage(format!("--word '{name}': {reason}{near}"))
            }
            other => other.into(),
        })?;
        tell(tokenizer, word, &found);
        for id in found.ids {
            if found.added.is_some() {
                chosen.added.insert(id);
                chosen.words.insert(id);
                chosen.changed_tokenizer = true;
            }
            match origins.iter().find(|(other, _)| *other == id) {
                Some((_, first)) => report::note(&format!(
                    "--word {name}: token id {id} is chosen by {first} too; its row is trained once"
                )),
                None => origins.push((id, format!("--word '{name}'"))),
            }
        }
    }
    Ok(())
}

/// Says what became of a word.
fn tell(tokenizer: &AutoTokenizer, word: &WordUse, found: &WordTokens) {
    let name = word.word();
    let counted: Vec<String> = found
        .ids
        .iter()
        .map(|id| {
            let token = tokenizer.id_to_token(*id).unwrap_or_default();
            match word.tokens.get(id) {
                Some(count) => format!("'{token}' (id {id}, {})", report::plural(*count, "time")),
                None => format!("'{token}' (id {id}, new)"),
            }
        })
        .collect();
    report::note(&format!("--word {name}: {}", counted.join(", ")));
    let left: Vec<String> = found
        .left
        .iter()
        .map(|(form, count)| format!("'{form}' {}", report::plural(*count, "time")))
        .collect();
    if !left.is_empty() {
        // one that the vocabulary has lies within longer tokens there
        let is_token = |form: &String| tokenizer.encode(form, false).is_ok_and(|ids| ids.len() == 1);
        let advice = if found.left.keys().all(is_token) { "" } else { " (--add-token adds a spelling)" };
        report::warning(&format!(
            "--word {name}: {} in the data, cut into other tokens, which are not trained{advice}",
            left.join(", ")
        ));
    }
    if found.other_spaces {
        report::warning(&format!(
            "--word {name}: this tokenizer puts a space behind every added token when it decodes; texts with the new \
             one keep their words and not all of their spaces"
        ));
    }
    if let (times @ 1.., Some(longer)) = (found.in_longer, &word.longer) {
        report::warning(&format!(
            "--word {name}: the new token is found in longer words too, as '{longer}', {} in the data",
            report::plural(times, "time")
        ));
    }
}

fn with<'t>(flag: &str, tokenizer: &'t mut Tokenizer) -> Outcome<&'t mut AutoTokenizer> {
    tokenizer.as_mut().map_err(|reason| Failure::Failed(format!("{flag} needs a tokenizer: {reason}")))
}

/// The id of a token that `flag` names and that must be there: in the vocabulary's spelling, or as the text that it is.
pub fn existing(flag: &str, tokenizer: &AutoTokenizer, token: &str) -> Outcome<u32> {
    if let Some(id) = tokenizer.token_to_id(token) {
        return Ok(id);
    }
    // `Ġx` stands for ` x`, and would be cut as the letters that it is written with
    let text = tokenizer.text_of_spelling(token);
    let pieces = tokenizer.encode(text.as_deref().unwrap_or(token), false)?;
    let spelled: Vec<String> =
        pieces.iter().map(|id| tokenizer.id_to_token(*id).unwrap_or_default()).collect();
    if let ([id], [name]) = (pieces.as_slice(), spelled.as_slice())
        && tokenizer.piece_text(*id).as_deref() == Some(token)
    {
        report::note(&format!("{flag} '{token}': the vocabulary spells it '{name}' (id {id})"));
        return Ok(*id);
    }
    let near = tokenizer.nearest_tokens(token, NEAREST);
    let near = match near.is_empty() {
        true => String::new(),
        false => format!("; the nearest are '{}'", near.join("', '")),
    };
    usage(match (pieces.as_slice(), spelled.as_slice()) {
        ([id], [name]) => {
            let advice = match flag {
                "--token" => format!("use --token '{name}' or --token-ids {id}"),
                _ => format!("its id is {id}"),
            };
            format!(
                "{flag} '{token}': the tokenizer has no token of this spelling, but it encodes to one token, \
                 '{name}'; {advice}{near}"
            )
        }
        ([], _) => format!("{flag} '{token}': the tokenizer has no such token{near}"),
        _ => {
            let advice = match flag {
                "--token" => format!("; use --add-token '{token}' to make it one"),
                _ => String::new(),
            };
            format!(
                "{flag} '{token}': the tokenizer has no such token: it encodes to {} tokens ('{}'){near}{advice}",
                pieces.len(),
                spelled.join("' '")
            )
        }
    })
}

fn refuse_repeats(origins: &[(u32, String)]) -> Outcome {
    let mut seen: HashMap<u32, &str> = HashMap::new();
    for (id, origin) in origins {
        if let Some(first) = seen.insert(*id, origin) {
            return usage(format!("token id {id} is chosen twice: by {first} and by {origin}"));
        }
    }
    Ok(())
}
