//! `toktune combine`.

use crate::args::{CombineArgs, LogFormat};
use crate::failure::{Failure, Outcome};
use crate::report;
use serde_json::json;
use std::io::Write;
use toktune::{CombineError, Error, combine_adapters};

/// Writes one adapter of several.
pub fn run(args: &CombineArgs) -> Outcome {
    let result = combine_adapters(&args.adapters, &args.output, args.on_conflict.into());
    let combined = result.map_err(|error| match error {
        CombineError::Conflicts { .. } => {
            Failure::Failed(format!("{error}; --on-conflict first or mean decides between them"))
        }
        other => Error::from(other).into(),
    })?;
    if !combined.bases.is_empty() {
        report::warning(&format!(
            "the adapters name different bases: {}; the first is kept",
            combined.bases.join(", ")
        ));
    }
    if args.told.log_format == LogFormat::Json {
        let renumbered = combined.renumbered.iter().map(
            |(token, adapter, was, is)| json!({"token": token, "adapter": adapter, "was": was, "is": is}),
        );
        return Ok(report::json_line(&json!({
            "event": "combine",
            "tokens": combined.tokens,
            "renumbered": renumbered.collect::<Vec<_>>(),
            "conflicts": combined.conflicts,
            "output": args.output,
        }))?);
    }
    for (token, adapter, was, is) in &combined.renumbered {
        report::note(&format!("{token} of {}: id {was} becomes {is}", adapter.display()));
    }
    if !combined.conflicts.is_empty() {
        report::note(&format!("with several rows: {}", combined.conflicts.join(", ")));
    }
    let tokens = report::plural(combined.tokens.len(), "token");
    writeln!(
        std::io::stdout().lock(),
        "{tokens} of {} in {}",
        report::plural(args.adapters.len(), "adapter"),
        args.output.display()
    )?;
    Ok(())
}
