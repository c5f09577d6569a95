//! `toktune merge`.

use crate::args::MergeArgs;
use crate::failure::Outcome;
use crate::load;
use crate::report;
use std::io::Write;
use toktune::Device;
use toktune::export::{MergeOptions, merge_to_folder};

/// Writes the merged model, with its tokenizer beside it.
pub fn run(args: &MergeArgs) -> Outcome {
    toktune::runtime::instruction_set()?;
    let (mut base, tokenizer) = load::model(&args.model, &Device::Cpu)?;
    load::resize(&mut base, args.resize)?;
    let (model, tokenizer) = load::with_adapter(base, tokenizer, &args.adapter)?;
    let mut options = MergeOptions::default();
    options.gguf_type = args.dtype.map(Into::into);
    merge_to_folder(&model, &args.output, options)?;
    match tokenizer {
        Ok(tokenizer) => tokenizer.save_pretrained(&args.output)?,
        Err(reason) => report::warning(&format!("no tokenizer was written: {reason}")),
    }
    let size = load::size_on_disk(&args.output);
    let tokens = report::plural(model.token_indices().len(), "token");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{tokens} merged into {} ({})", args.output.display(), report::bytes(size))?;
    Ok(())
}
