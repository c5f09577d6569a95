//! `toktune eval`.

use crate::args::{EvalArgs, LogFormat};
use crate::choose::existing;
use crate::data::{self, Sources};
use crate::failure::{Failure, Outcome};
use crate::load::{self, Loaded, set_languages};
use crate::report;
use serde_json::json;
use std::io::Write;
use toktune::data::Collator;
use toktune::peft::ActiveRows;
use toktune::train::{Evaluation, evaluate};
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
    let pass = |active: ActiveRows<'_>| evaluate(model.base(), active, &data, args.batch_size, &tokens);
    let base = if args.compare_base { Some(pass(ActiveRows::default())?) } else { None };
    let result = pass(model.active())?;
    let tokenizer = tokenizer.as_ref().ok();
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
        return Ok(report::json_line(&object)?);
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
    Ok(())
}
