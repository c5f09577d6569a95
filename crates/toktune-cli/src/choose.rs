//! Which tokens are trained: flags to ids, with tokens added to the tokenizer on the way.

use crate::args::ChoiceArgs;
use crate::failure::{Failure, Outcome, usage};
use crate::load::Tokenizer;
use crate::report;
use std::collections::HashMap;
use toktune::text::AutoTokenizer;

/// How many near names a message lists.
const NEAREST: usize = 5;

/// The chosen tokens.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Their ids, in the order of the adapter's rows.
    pub ids: Vec<u32>,
    /// Those that the tokenizer did not have.
    pub added: Vec<u32>,
    /// Whether the tokenizer is another one now, and so belongs to the adapter.
    pub changed_tokenizer: bool,
}

/// Resolves the flags; new tokens are in `tokenizer` afterwards.
///
/// Without a token there is nothing to train, unless `lora` is.
pub fn choose(args: &ChoiceArgs, lora: bool, tokenizer: &mut Tokenizer) -> Outcome<Chosen> {
    let mut chosen = Chosen::default();
    // each id with the flag that chose it, for a message about the second
    let mut origins: Vec<(u32, String)> =
        args.token_ids.iter().map(|id| (*id, format!("--token-ids {id}"))).collect();
    for token in &args.token {
        let id = existing(with("--token", tokenizer)?, token)?;
        origins.push((id, format!("--token '{token}'")));
    }
    for (flag, tokens, special) in
        [("--add-token", &args.add_token, false), ("--add-special-token", &args.add_special_token, true)]
    {
        if tokens.is_empty() {
            continue;
        }
        if let Some(blank) = tokens.iter().find(|token| token.trim().is_empty()) {
            return usage(format!("{flag} '{blank}': expected a token with something in it"));
        }
        let tokenizer = with(flag, tokenizer)?;
        for token in tokens {
            if let Some(id) = tokenizer.token_to_id(token).filter(|id| !chosen.added.contains(id)) {
                report::note(&format!(
                    "'{token}' is in the tokenizer already (id {id}); its row is trained as it is"
                ));
            }
        }
        let new: Vec<bool> = tokens.iter().map(|token| tokenizer.token_to_id(token).is_none()).collect();
        let names: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let ids = if special { tokenizer.add_special_tokens(&names) } else { tokenizer.add_tokens(&names) }?;
        for ((id, token), new) in ids.into_iter().zip(tokens).zip(new) {
            origins.push((id, format!("{flag} '{token}'")));
            if new {
                chosen.added.push(id);
            }
        }
        chosen.changed_tokenizer = true;
    }
    if origins.is_empty() && !lora {
        return usage(
            "no token to train; choose some by --token-ids, --token, --add-token or --add-special-token (or \
             go on with an adapter by --adapter)",
        );
    }
    refuse_repeats(&origins)?;
    chosen.ids = origins.into_iter().map(|(id, _)| id).collect();
    Ok(chosen)
}

fn with<'t>(flag: &str, tokenizer: &'t mut Tokenizer) -> Outcome<&'t mut AutoTokenizer> {
    tokenizer.as_mut().map_err(|reason| Failure::Failed(format!("{flag} needs a tokenizer: {reason}")))
}

/// The id of a token that must be there.
pub fn existing(tokenizer: &AutoTokenizer, token: &str) -> Outcome<u32> {
    if let Some(id) = tokenizer.token_to_id(token) {
        return Ok(id);
    }
    let pieces = tokenizer.encode(token, false)?;
    let spelled: Vec<String> =
        pieces.iter().map(|id| tokenizer.id_to_token(*id).unwrap_or_default()).collect();
    let near = tokenizer.nearest_tokens(token, NEAREST);
    let near = match near.is_empty() {
        true => String::new(),
        false => format!("; the nearest are '{}'", near.join("', '")),
    };
    usage(match (pieces.as_slice(), spelled.as_slice()) {
        ([id], [name]) => format!(
            "--token '{token}': the tokenizer has no token of this spelling, but it encodes to one token, \
             '{name}'; use --token '{name}' or --token-ids {id}{near}"
        ),
        ([], _) => format!("--token '{token}': the tokenizer has no such token{near}"),
        _ => format!(
            "--token '{token}': the tokenizer has no such token: it encodes to {} tokens ('{}'){near}; use \
             --add-token '{token}' to make it one",
            pieces.len(),
            spelled.join("' '")
        ),
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

/// The spelling of a token for people: what a text shows, if that is one token again, else the vocabulary's.
pub fn spelling(tokenizer: Option<&AutoTokenizer>, id: u32) -> Option<String> {
    tokenizer?.id_to_token(id)
}
