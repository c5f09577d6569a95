//! `toktune eval`.

use crate::args::{EvalArgs, LogFormat};
use crate::choose::existing;
use crate::data::{self, Sources};
use crate::failure::{Failure, Outcome};
use crate::load::{self, Loaded, set_languages};
use crate::proof::{Proof, causes};
use crate::report;
use serde_json::json;
use std::io::Write;
use toktune::data::Collator;
use toktune::emission::Emission;
use toktune::peft::ActiveRows;
use toktune::text::AutoTokenizer;
use toktune::train::{Evaluation, evaluate, evaluate_preferences};
use toktune::{EngineError, Error};

/// Evaluates and writes a table, or one JSON object.
pub fn run(args: &EvalArgs) -> Outcome {
    if args.batch_size == 0 {
        return Err(Error::Argument { name: "batch_size", expected: "at least 1", found: "0".into() }.into());
    }
    let machine = load::machine(&args.machine)?;
    let (model, mut tokenizer) = Loaded::open(&args.model, &machine)?;
    set_languages(&mut tokenizer, &args.languages)?;
    let mut tokens = model.tokens();
    tokens.extend(&args.token_ids);
    for token in &args.token {
        let tokenizer = tokenizer
            .as_ref()
            .map_err(|reason| Failure::Failed(format!("--token needs a tokenizer: {reason}")))?;
        tokens.push(existing("--token", tokenizer, token)?);
    }
    let rows = model.base().vocabulary();
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= rows) {
        return Err(EngineError::TokenOutOfRange { id: id.into(), rows }.into());
    }
    let collator = Collator::of(model.base(), tokenizer.as_ref().ok(), 0);
    let sources = Sources::find(&args.data, false)?;
    let data = data::read(&sources, &tokenizer, &args.options, model.base(), &collator)?;
    args.preference.check(&data).map_err(Failure::Usage)?;
    let pass = |active: ActiveRows<'_>| match data.is_preference() {
        true => evaluate_preferences(model.base(), active, &data, args.batch_size, args.preference.config()),
        false => evaluate(model.base(), active, &data, args.batch_size, &tokens),
    };
    let base = if args.compare_base { Some(pass(ActiveRows::default())?) } else { None };
    let result = pass(model.active())?;
    let tokenizer = tokenizer.as_ref().ok();
    let proof = Proof::of(&args.emission, 0, (model.base().kind(), Some(&data)), &tokens)?;
    let mut on = || std::ops::ControlFlow::Continue(());
    let mut try_rows = |rows: ActiveRows<'_>| match &proof {
        Some(proof) => proof.run(model.base(), rows, tokenizer, &mut on),
        None => Ok(None),
    };
    let tried_base = if args.compare_base { try_rows(ActiveRows::default())? } else { None };
    let tried = try_rows(model.active())?;
    let causes = tried
        .as_ref()
        .map_or(Vec::new(), |tried| causes(tried, model.base(), &model.active(), tokenizer, &|_| None));
    if args.output.log_format == LogFormat::Json {
        let of = |evaluation: &Evaluation| report::evaluation_json(evaluation, tokenizer);
        let mut object = json!({
            "event": "eval",
            "model": args.model.model,
            "adapter": args.model.adapter,
            "rows": data.rows(),
            "input_tokens": data.tokens(),
        });
        for (key, value) in of(&result).as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        if let Some(base) = &base {
            object["base"] = of(base);
        }
        if let Some(tried) = &tried {
            object["emission"] = report::emission_json(tried, &causes, tokenizer);
        }
        if let Some(tried) = &tried_base {
            object["base"]["emission"] = report::emission_json(tried, &[], tokenizer);
        }
        report::json_line(&object)?;
        return required(proof.as_ref(), tried.as_ref(), tokenizer);
    }
    let heading = if args.model.adapter.is_some() { "adapter" } else { "model" };
    let mut shown = vec![(heading, &result)];
    if let Some(base) = &base {
        shown.insert(0, ("base", base));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}, {}", report::plural(data.rows(), "row"), report::plural(data.tokens(), "token"))?;
    for line in report::evaluation_table(&shown, tokenizer, report::stdout_style()) {
        writeln!(out, "{line}")?;
    }
    if let Some(tried) = &tried {
        writeln!(out, "\nwritten by the model itself ({})", report::plural(tried.prompts, "prompt"))?;
        let shown: Vec<_> = tried_base.iter().map(|base| ("base", base)).chain([(heading, tried)]).collect();
        for line in report::emission_table(&shown, &causes, tokenizer, report::stdout_style()) {
            writeln!(out, "{line}")?;
        }
    }
    required(proof.as_ref(), tried.as_ref(), tokenizer)
}

/// Fails where a share was required that was not reached.
fn required(proof: Option<&Proof>, tried: Option<&Emission>, tokenizer: Option<&AutoTokenizer>) -> Outcome {
    match (proof, tried) {
        (Some(proof), Some(tried)) => proof.check(tried, tokenizer),
        _ => Ok(()),
    }
}
