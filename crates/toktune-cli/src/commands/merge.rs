//! `toktune merge`.

use crate::args::{MergeArgs, MergeType};
use crate::failure::Outcome;
use crate::load;
use crate::report;
use std::io::Write;
use toktune::Device;
use toktune::export::{MergeOptions, MergeProof, merge_to_folder, prove_merge};
use toktune::models::PrecisionMode;

/// Writes the merged model, with its tokenizer beside it.
pub fn run(args: &MergeArgs) -> Outcome {
    toktune::runtime::instruction_set()?;
    let (mut base, tokenizer) = load::model(&args.model, &Device::Cpu)?;
    // what rounding changes is compared in full precision
    base.set_precision(PrecisionMode::F32);
    load::resize(&mut base, args.resize)?;
    let (model, tokenizer) = load::with_adapter(base, tokenizer, &args.adapter)?;
    let mut options = MergeOptions::default();
    options.dtype = args.dtype.map(Into::into);
    merge_to_folder(&model, &args.output, options)?;
    match tokenizer {
        Ok(tokenizer) => tokenizer.save_pretrained(&args.output)?,
        Err(reason) => report::warning(&format!("no tokenizer was written: {reason}")),
    }
    let proof = prove_merge(&model, &args.output)?;
    let size = load::size_on_disk(&args.output);
    let tokens = report::plural(model.token_indices().len(), "token");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{tokens} merged into {} ({})", args.output.display(), report::bytes(size))?;
    writeln!(out, "{}", told(&proof))?;
    if let (others @ 1.., places) = proof.changed {
        let advice = match (args.dtype, model.base().checkpoint().as_gguf()) {
            (Some(MergeType::F32), _) => {
                "what adding up in another order does: nothing was rounded to fewer bits"
            }
            (_, Some(_)) => "what rounding the file's weights does (--dtype f32 keeps them)",
            (Some(_), None) => "what rounding the model's weights does (--dtype f32 keeps them)",
            (None, None) => {
                "what rounding what was trained to the model's type does (--dtype f32 keeps it as it was trained)"
            }
        };
        report::warning(&format!(
            "another token is the likeliest in {others} of {places} places of a random text: {advice}"
        ));
    }
    Ok(())
}

/// What was found when the folder was opened again.
fn told(proof: &MergeProof) -> String {
    let mut parts = vec![format!(
        "opened again: {} as trained or appended, rounded by at most {}",
        report::plural(proof.rows, "row"),
        report::number(proof.rounding.into())
    )];
    if proof.unchanged_tensors > 0 {
        parts.push(format!(
            "every other byte of {} ({}) as it was",
            report::plural(proof.unchanged_tensors, "tensor"),
            report::bytes(proof.unchanged_bytes)
        ));
    }
    if proof.converted_tensors > 0 {
        let rounded = match proof.conversion {
            0.0 => "as it was".to_owned(),
            most => format!("rounded by at most {}", report::number(most.into())),
        };
        parts.push(format!(
            "every other entry of {} in the type asked for {rounded}",
            report::plural(proof.converted_tensors, "tensor")
        ));
    }
    if let Some(logits) = proof.logits {
        parts.push(format!("logits differ by at most {}", report::number(logits.into())));
    }
    parts.join("; ")
}
