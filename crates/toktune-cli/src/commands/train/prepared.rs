//! What a run begins with: a model with its trained rows, from chosen tokens or from an adapter.

use crate::args::TrainArgs;
use crate::choose::{Chosen, Texts, choose};
use crate::data::{self, Sources};
use crate::failure::{Failure, Outcome};
use crate::load::{self, Tokenizer};
use crate::report;
use crate::starts::{self, Starts};
use std::path::Path;
use toktune::Recipe;
use toktune::config::{TargetModules, check_tokens};
use toktune::data::Collator;
use toktune::models::PretrainedModel;
use toktune::peft::PeftModel;

/// A model ready to train, with what belongs to it.
pub(super) struct Prepared {
    pub(super) model: PeftModel,
    pub(super) tokenizer: Tokenizer,
    pub(super) chosen: Chosen,
    /// What each row starts from; nothing where they are an adapter's.
    pub(super) starts: Option<Starts>,
}

impl Prepared {
    /// The rows that the flags ask for.
    pub(super) fn of(
        args: &TrainArgs,
        base: PretrainedModel,
        tokenizer: Tokenizer,
        sources: &Sources,
    ) -> Outcome<Self> {
        match &args.tokens.adapter {
            Some(folder) => from_adapter(args, base, tokenizer, folder),
            None => from_flags(args, base, tokenizer, sources),
        }
    }
}

/// Goes on from an adapter: its tokens, its rows and, where it has one, its tokenizer.
fn from_adapter(
    args: &TrainArgs,
    base: PretrainedModel,
    tokenizer: Tokenizer,
    folder: &Path,
) -> Outcome<Prepared> {
    let changed_tokenizer = load::adapter_tokenizer(folder)?.is_some();
    let (model, mut tokenizer) = load::with_adapter(base, tokenizer, folder)?;
    load::set_languages(&mut tokenizer, &args.languages)?;
    let chosen = Chosen { ids: model.token_indices(), changed_tokenizer, ..Chosen::default() };
    Ok(Prepared { model, tokenizer, chosen, starts: None })
}

/// Starts from the chosen tokens.
fn from_flags(
    args: &TrainArgs,
    mut base: PretrainedModel,
    mut tokenizer: Tokenizer,
    sources: &Sources,
) -> Outcome<Prepared> {
    let flags = &args.tokens;
    let lora = args.lora.config().map_err(Failure::Usage)?;
    let chosen = choose(
        &flags.choice,
        lora.is_some(),
        &base,
        &mut tokenizer,
        Texts { sources, options: &data::options(&args.options, &Collator::Causal, base.vocabulary()) },
    )?;
    if let (true, Ok(tokenizer)) = (chosen.changed_tokenizer, &tokenizer) {
        let (before, size) = (base.vocabulary(), tokenizer.required_rows());
        base.resize_token_embeddings(size);
        if size > before {
            report::note(&format!("the model grows from {before} to {size} rows"));
        }
        // transformers gives the model as many rows as the tokenizer has tokens
        if let Some(id) = chosen.ids.iter().find(|&&id| id as usize >= size) {
            return Err(Failure::Usage(format!(
                "--token-ids {id}: the tokenizer has {size} tokens with those added, and a model that is \
                 loaded with it has no row {id}"
            )));
        }
    }
    if lora.is_none() || !chosen.ids.is_empty() {
        check_tokens(&chosen.ids, base.vocabulary())
            .map_err(|e| Failure::Usage(format!("--token-ids: {e}")))?;
    }
    // a row that was never trained knows no more of its token than a new one
    let is_added = |id: &u32| chosen.added.contains(id) || chosen.unlearnt.contains(id);
    let mut recipe = Recipe::new(chosen.ids.clone());
    recipe.added = chosen.ids.iter().copied().filter(is_added).collect();
    recipe.target_modules = flags.target_modules.as_deref().map(TargetModules::parse);
    recipe.lora = lora;
    recipe.seed = args.steps.seed;
    let starts = starts::of(flags, &chosen, &tokenizer, args.steps.seed)?;
    recipe.inits = starts.clone();
    recipe.spread = Some(flags.init_spread);
    if recipe.trains_untied_head(&base) {
        let (embedding, head) = (base.embedding_name(), base.head_name());
        report::note(&format!(
            "the head {head} is not tied to {embedding}: rows of both are trained, or the added tokens \
             could never be generated (--target-modules {embedding} for the embedding alone)"
        ));
    }
    let model = recipe.apply(base)?;
    if args.run.cache_constants.is_some() && !model.lora_layers().is_empty() {
        report::note("with LoRA every row depends on what is trained: --cache-constants keeps nothing");
    }
    tell_one_end(&model, chosen.added.is_empty() && chosen.unlearnt.is_empty());
    let head = model.base().head_name();
    if model.base().is_tied() && model.layers().iter().any(|layer| layer.name() == head) {
        report::warning(&format!(
            "the rows of {head} are trained apart from the embedding, with which it is one matrix: such an adapter \
             cannot be merged"
        ));
    }
    Ok(Prepared { model, tokenizer, chosen, starts: Some(starts) })
}

/// Says it where tokens are trained at one end of a model that has a matrix for each.
fn tell_one_end(model: &PeftModel, known: bool) {
    let base = model.base();
    let (embedding, head) = (base.embedding_name(), base.head_name());
    let has = |name: &str| model.layers().iter().any(|layer| layer.modules().any(|module| module == name));
    if base.is_tied() || !base.has_head() {
        return;
    }
    let both = format!("(--target-modules {embedding},{head} trains both)");
    match (has(embedding), has(head)) {
        (true, false) => report::note(&format!(
            "{head} is a matrix of its own, of which no row is trained: the tokens are read anew, and said {} {both}",
            if known { "as before" } else { "by rows that know nothing of them" }
        )),
        (false, true) => report::note(&format!(
            "only rows of {head} are trained: the tokens are said anew, and read as {embedding} has them {both}"
        )),
        _ => {}
    }
}
