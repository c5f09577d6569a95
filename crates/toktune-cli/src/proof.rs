//! Whether trained tokens are written where they belong: tried on held-out rows, and required.

use crate::args::EmissionArgs;
use crate::failure::{Failure, Outcome, usage};
use crate::report;
use std::ops::ControlFlow;
use toktune::data::Dataset;
use toktune::emission::{Cause, Circumstances, Emission, Prompt, prompts};
use toktune::models::{ModelKind, PretrainedModel};
use toktune::peft::ActiveRows;
use toktune::text::AutoTokenizer;

/// The rows that tokens are tried on.
#[derive(Debug)]
pub struct Proof {
    prompts: Vec<Prompt>,
    tokens: Vec<u32>,
    required: Option<f64>,
}

impl Proof {
    /// Of held-out rows; nothing where none is wanted, or nothing can be tried. `usual` is how many rows are tried without a word on it.
    pub fn of(
        args: &EmissionArgs,
        usual: usize,
        (kind, data): (ModelKind, Option<&Dataset>),
        tokens: &[u32],
    ) -> Outcome<Option<Self>> {
        let required = args.require_emission;
        if let Some(share) = required.filter(|share| !(0.0..=1.0).contains(share)) {
            return usage(format!("--require-emission: expected a share from 0 to 1, found {share}"));
        }
        let wanted = args.emission_prompts.unwrap_or(if required.is_some() { usual.max(30) } else { usual });
        let is_asked = required.is_some() || args.emission_prompts.is_some_and(|count| count > 0);
        let refuse = |reason: &str| match is_asked {
            true => usage(format!("--require-emission, --emission-prompts: {reason}")),
            false => Ok(None),
        };
        if kind != ModelKind::Causal {
            return refuse(&format!("the model is {kind}, which writes no text that goes on"));
        }
        let Some(data) = data else { return refuse("there are no held-out rows (--eval-data)") };
        if tokens.is_empty() {
            return refuse("no token is trained");
        }
        if wanted == 0 {
            return if required.is_some() { refuse("no prompts") } else { Ok(None) };
        }
        let prompts = prompts(data, wanted, tokens)?;
        if !prompts.iter().any(|prompt| prompt.expected.iter().any(|id| tokens.contains(id))) {
            return refuse("no held-out row has a trained token behind its prompt");
        }
        Ok(Some(Self { prompts, tokens: tokens.to_vec(), required }))
    }

    /// What the model goes on with.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Tries the tokens; nothing when `stop` ends it.
    pub fn run(
        &self,
        model: &PretrainedModel,
        rows: ActiveRows<'_>,
        tokenizer: Option<&AutoTokenizer>,
        stop: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Outcome<Option<Emission>> {
        Ok(Emission::of(model, rows, &self.prompts, (&self.tokens, tokenizer), &mut |_| stop())?)
    }

    /// Fails where a share was required that was not reached, or a token could not be tried: what nobody saw is no proof.
    pub fn check(&self, emission: &Emission, tokenizer: Option<&AutoTokenizer>) -> Outcome {
        let Some(required) = self.required else { return Ok(()) };
        let short: Vec<String> = emission
            .tokens
            .iter()
            .filter(|token| token.rate().is_none_or(|rate| rate < required))
            .map(|token| {
                let name = report::spelling(tokenizer, token.id).unwrap_or_else(|| token.id.to_string());
                format!("{name} in {} of {}", token.written, token.expected)
            })
            .collect();
        match short.is_empty() {
            true => Ok(()),
            false => Err(Failure::Unproven(format!(
                "--require-emission {required}: written too rarely: {}",
                short.join(", ")
            ))),
        }
    }
}

/// Why each token is probably missing, where one is; `training_labels` gives how often one is learnt, where that is known.
pub fn causes(
    emission: &Emission,
    model: &PretrainedModel,
    rows: &ActiveRows<'_>,
    tokenizer: Option<&AutoTokenizer>,
    training_labels: &dyn Fn(u32) -> Option<usize>,
) -> Vec<Option<Cause>> {
    // the norm that a row has whose entries are as large as the matrix's
    let usual = f64::from(model.embedding().statistics().1) * (model.embedding().width() as f64).sqrt();
    let norm = |id: u32| {
        let of = rows.input_rows().or(rows.output_rows())?;
        let row = of.row(of.position(id)?);
        Some(row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() / usual)
    };
    let is_encoded = |id: u32| {
        let Some(tokenizer) = tokenizer else { return true };
        let Some(text) = tokenizer.piece_text(id).or_else(|| tokenizer.id_to_token(id)) else { return true };
        tokenizer.encode(&text, false).is_ok_and(|ids| ids.contains(&id))
    };
    let of = |token: &toktune::emission::TokenEmission| {
        let mut about = Circumstances::default();
        about.training_labels = training_labels(token.id);
        about.is_encoded = is_encoded(token.id);
        about.is_special = tokenizer.is_some_and(|tokenizer| tokenizer.is_special(token.id));
        about.norm = norm(token.id);
        Cause::of(token, about)
    };
    emission.tokens.iter().map(of).collect()
}
