//! The chat template of a run, and the control tokens of it that are trained.

use crate::args::{ChoiceArgs, TemplateChoice};
use crate::chosen::{Chosen, Texts};
use crate::failure::{Failure, Outcome, usage};
use crate::load::Tokenizer;
use crate::report;
use std::path::Path;
use toktune::Dataset;
use toktune::GenerationConfig;
use toktune::data::TokenUse;
use toktune::models::{ModelKind, PretrainedModel};
use toktune::template_tokens::{TemplateTokens, TemplateTokensError};
use toktune::text::{AutoTokenizer, ChatMl, ListedToken, NewToken, TextError};

const FLAG: &str = "--template-tokens";

/// Gives the tokenizer the template that `--chat-template` names; the tokens that it lacks for it.
pub fn set(args: &ChoiceArgs, tokenizer: &mut Tokenizer, chosen: &mut Chosen) -> Outcome<Vec<ListedToken>> {
    let Some(named) = args.chat_template.as_deref() else { return Ok(Vec::new()) };
    let tokenizer = tokenizer
        .as_mut()
        .map_err(|reason| Failure::Failed(format!("--chat-template needs a tokenizer: {reason}")))?;
    chosen.changed_tokenizer = true;
    if named != ChatMl::NAME {
        tokenizer.set_chat_template(read(named)?);
        // a fault of the template is found before anything is trained
        tokenizer
            .compile_chat_template(false)
            .map_err(|e| Failure::Usage(format!("--chat-template {named}: {e}")))?;
        return Ok(Vec::new());
    }
    let template = ChatMl::template(tokenizer);
    tokenizer.set_chat_template(template);
    let missing: Vec<&str> =
        ChatMl::TOKENS.into_iter().filter(|token| tokenizer.token_to_id(token).is_none()).collect();
    if args.template_tokens.is_some() {
        return Ok(missing.into_iter().map(|token| ListedToken::new(NewToken::special(token))).collect());
    }
    let given =
        |token: &&&str| !args.add_special_token.iter().chain(&args.add_token).any(|given| given == **token);
    if let Some(token) = missing.iter().find(given) {
        report::warning(&format!(
            "--chat-template {named}: the tokenizer has no '{token}', and cuts it into pieces ({FLAG} adds it and trains its row)"
        ));
    }
    Ok(Vec::new())
}

/// The source of a template in a file.
fn read(named: &str) -> Outcome<String> {
    let near = toktune::nearest(named, [ChatMl::NAME]).map(|name| format!("; did you mean '{name}'?"));
    std::fs::read_to_string(Path::new(named)).map_err(|error| {
        Failure::Usage(format!(
            "--chat-template {named}: {error}; expected a file with a Jinja template, or {}{}",
            ChatMl::NAME,
            near.unwrap_or_default()
        ))
    })
}

/// Chooses the template's tokens, those that the data have, and makes the ends of turns ends of texts. `others` is whether something
/// else is trained too. Gives the ids.
pub fn choose(
    choice: TemplateChoice,
    model: &PretrainedModel,
    tokenizer: &mut AutoTokenizer,
    texts: Texts<'_>,
    others: bool,
    chosen: &mut Chosen,
) -> Outcome<Vec<u32>> {
    if model.kind() != ModelKind::Causal {
        return usage(format!(
            "{FLAG}: the model is {}, which writes no turns of a conversation",
            model.kind()
        ));
    }
    let added: Vec<u32> = chosen.added.iter().copied().collect();
    let found = TemplateTokens::of(model, tokenizer, &added).map_err(refused)?;
    // the model's own ends stay ends, whatever says so
    tokenizer.add_stop_ids(&GenerationConfig::of_model(model)?.eos_token_ids);
    tokenizer.add_stop_ids(&found.turn_ends);
    chosen.changed_tokenizer = true;
    found.told().iter().for_each(|told| report::note(&format!("{FLAG}: {told}")));
    let ids = match (choice, found.unlearnt()) {
        (TemplateChoice::All, _) => found.ids(),
        (TemplateChoice::Unlearnt, Ok(ids)) => ids,
        (TemplateChoice::Unlearnt, Err(_)) if others => Vec::new(),
        (TemplateChoice::Unlearnt, Err(error)) => {
            return usage(format!("{FLAG}: {error}; {FLAG}=all trains them all the same"));
        }
    };
    let ids = in_data(&ids, tokenizer, model, texts, chosen)?;
    let is_unlearnt = |id: &&u32| found.tokens.iter().any(|token| token.id == **id && token.is_unlearnt());
    chosen.unlearnt.extend(ids.iter().filter(is_unlearnt));
    let ends = tokenizer.eos_token_ids();
    let named = |ids: &[u32]| {
        let names =
            ids.iter().map(|id| format!("'{}' (id {id})", tokenizer.id_to_token(*id).unwrap_or_default()));
        names.collect::<Vec<_>>().join(", ")
    };
    match found.turn_ends.as_slice() {
        [] => report::warning(&format!(
            "{FLAG}: no token of the template ends a turn of the assistant; texts end at {} alone",
            named(&ends)
        )),
        of_turn => report::note(&format!(
            "{FLAG}: a turn ends with {}; texts end at {}",
            named(of_turn),
            named(&ends)
        )),
    }
    Ok(ids)
}

/// The flags that help where there is no template, or none of tokens.
fn refused(error: TemplateTokensError) -> Failure {
    match &error {
        TemplateTokensError::Text(TextError::NoChatTemplate) => Failure::Usage(format!(
            "{FLAG}: {error}; --chat-template {} gives it one, --chat-template FILE another",
            ChatMl::NAME
        )),
        TemplateTokensError::NoControlTokens { .. } => Failure::Usage(format!(
            "{FLAG}: {error}; --add-special-token makes a mark of the template a token, --chat-template {} is one with tokens",
            ChatMl::NAME
        )),
        TemplateTokensError::Text(_) => toktune::Error::from(error).into(),
        _ => Failure::Usage(format!("{FLAG}: {error}")),
    }
}

/// Those of the tokens that something can be learnt of. A template has tokens for tools and thoughts that data may have none of.
fn in_data(
    ids: &[u32],
    tokenizer: &AutoTokenizer,
    model: &PretrainedModel,
    texts: Texts<'_>,
    chosen: &mut Chosen,
) -> Outcome<Vec<u32>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut options = texts.options.clone();
    options.vocab_size = model.vocabulary().max(tokenizer.required_rows());
    let data = Dataset::read_with(&texts.sources.list, Some(tokenizer), &options, &mut |_| {})?;
    let (never, used): (Vec<TokenUse>, Vec<TokenUse>) =
        data.uses(ids).into_iter().partition(TokenUse::is_never_learnt);
    let name = |token: &TokenUse| format!("'{}'", tokenizer.id_to_token(token.id).unwrap_or_default());
    if used.is_empty() {
        return usage(format!(
            "{FLAG}: nothing can be learnt of {} from the data: the template renders rows of `messages` (or of `conversations`)",
            never.iter().map(name).collect::<Vec<_>>().join(", ")
        ));
    }
    if !never.is_empty() {
        report::note(&format!(
            "{FLAG}: not trained, since the data have nothing to learn of them: {}",
            never.iter().map(name).collect::<Vec<_>>().join(", ")
        ));
    }
    chosen.only_read.extend(used.iter().filter(|token| token.labels == 0).map(|token| token.id));
    Ok(used.iter().map(|token| token.id).collect())
}
