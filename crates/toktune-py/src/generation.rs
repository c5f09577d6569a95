//! Text from a model, and whether trained tokens are written in it.

use crate::dataset::Dataset;
use crate::errors::{argument, raise};
use crate::interrupt::{asked, raised};
use crate::model::{Model, Seen};
use crate::tokenizer::{Tokenizer, cloned};
use crate::values::{parsed, written};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use toktune::emission::{Emission, prompts};
use toktune::generate::{FinishReason, GenerationConfig, Generator};
use toktune::models::PretrainedModel;

/// What Python says of generation; what it does not say is as the model's files have it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    max_new_tokens: Option<usize>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
    eos_token_id: Option<Vec<u32>>,
    stop_strings: Option<Vec<String>>,
    forced_bos_token_id: Option<u32>,
    decoder_start_token_id: Option<u32>,
}

impl Wanted {
    fn config(
        self,
        model: &PretrainedModel,
        tokenizer: Option<&toktune::AutoTokenizer>,
    ) -> toktune::Result<GenerationConfig> {
        let mut config = GenerationConfig::of_model(model)?;
        if let Some(tokenizer) = tokenizer {
            config = config.with_ends_of(tokenizer);
            config.forced_bos_token_id = tokenizer.forced_bos_token_id().or(config.forced_bos_token_id);
            config.decoder_start_token_id = tokenizer.decoder_start_token_id();
        }
        // what was trained shows best without chance, whatever the model's folder says
        config.do_sample = self.do_sample.unwrap_or(false);
        config.max_new_tokens = self.max_new_tokens.unwrap_or(config.max_new_tokens);
        config.temperature = self.temperature.unwrap_or(config.temperature);
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.repetition_penalty = self.repetition_penalty.unwrap_or(config.repetition_penalty);
        config.seed = self.seed.unwrap_or(config.seed);
        config.eos_token_ids = self.eos_token_id.unwrap_or(config.eos_token_ids);
        config.stop_strings = self.stop_strings.unwrap_or(config.stop_strings);
        config.forced_bos_token_id = self.forced_bos_token_id.or(config.forced_bos_token_id);
        config.decoder_start_token_id = self.decoder_start_token_id.or(config.decoder_start_token_id);
        Ok(config)
    }
}

/// Continues prompts together. `tell` is called with the next tokens, `(prompt, token)` each; the tokens of each text without its
/// prompt, and why it ended.
#[pyfunction]
pub fn generate(
    py: Python<'_>,
    model: &Model,
    prompts: Vec<Vec<u32>>,
    adapter_names: Option<Vec<String>>,
    config: &str,
    tokenizer: Option<&Tokenizer>,
    tell: Option<Bound<'_, PyAny>>,
) -> PyResult<Vec<(Vec<u32>, &'static str)>> {
    let wanted: Wanted = parsed("the generation's configuration", config)?;
    let tokenizer = cloned(py, tokenizer);
    let tokenizer = tokenizer.as_ref();
    let names: Option<Vec<&str>> = adapter_names.as_ref().map(|of| of.iter().map(String::as_str).collect());
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    model.look(py, |seen| {
        let config = wanted.config(seen.base(), tokenizer).map_err(raise)?;
        let begin = || match seen {
            Seen::Adapted(model) => model.generate(&prompts, names.as_deref(), &config, tokenizer),
            Seen::Base(base) => {
                let generator = Generator::new(base, seen.active(), config.clone())?;
                match tokenizer {
                    Some(tokenizer) => generator.with_tokenizer(tokenizer).generate_batch(&prompts),
                    None => generator.generate_batch(&prompts),
                }
            }
        };
        let mut texts = py.detach(begin).map_err(raise)?;
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        loop {
            let next = py.detach(|| texts.advance()).map_err(raise)?;
            if next.is_empty() {
                break;
            }
            next.iter().for_each(|(at, token)| found[*at].push(*token));
            if let Some(tell) = &tell {
                tell.call1((next,))?;
            }
            // Ctrl-C
            py.check_signals()?;
        }
        let reason = |at| match texts.finish_reason(at) {
            Some(FinishReason::EndToken) => "stop_token",
            Some(FinishReason::StopString) => "stop_string",
            Some(FinishReason::MaxNewTokens) => "max_new_tokens",
            Some(FinishReason::MaxPositions) => "max_position_embeddings",
            _ => "",
        };
        Ok(found.into_iter().enumerate().map(|(at, ids)| (ids, reason(at))).collect())
    })
}

/// Whether a model's trained tokens are written where they belong, tried on held-out rows; as JSON.
#[pyfunction]
pub fn emission(
    py: Python<'_>,
    model: &Model,
    data: &Dataset,
    most: usize,
    tokenizer: Option<&Tokenizer>,
) -> PyResult<String> {
    if most == 0 {
        return Err(argument("prompts", "at least 1", 0));
    }
    let tokenizer = cloned(py, tokenizer);
    let found = model.look(py, |seen| {
        let adapted = seen.adapted()?;
        let tokens = adapted.token_indices();
        let work = || {
            let prompts = prompts(&data.inner, most, &tokens)?;
            let of = (&tokens[..], tokenizer.as_ref());
            Emission::of(adapted.base(), adapted.active(), &prompts, of, &mut |_| asked())
        };
        let found = py.detach(work).map_err(raise)?;
        match found {
            Some(found) => Ok(found),
            None => Err(raised(py)),
        }
    })?;
    let spelling = |id: u32| tokenizer.as_ref().and_then(|tokenizer| tokenizer.id_to_token(id));
    let tokens: Vec<Value> = found
        .tokens
        .iter()
        .map(|of| {
            json!({
                "id": of.id,
                "token": spelling(of.id),
                "expected": of.expected,
                "written": of.written,
                "unexpected": of.unexpected,
                "rate": of.rate(),
                "probability": of.probability,
                "rank": of.rank,
                "elsewhere": of.elsewhere,
            })
        })
        .collect();
    let pairs: Vec<Value> = found
        .pairs
        .iter()
        .map(|of| json!({"open": spelling(of.open), "close": spelling(of.close), "rate": of.rate()}))
        .collect();
    written(
        &json!({"prompts": found.prompts, "least_rate": found.least_rate(), "tokens": tokens, "pairs": pairs}),
    )
}
