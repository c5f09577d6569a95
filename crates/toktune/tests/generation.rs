//! Generation with kept keys and values against the plain computation of every step, on every fixture.

#[macro_use]
mod common;

use common::{decoders, fixture};
use std::path::Path;
use toktune::Device;
use toktune::generate::{FinishReason, GenerationConfig, Generator, Tokens};
use toktune::models::{AutoModelForCausalLM, PretrainedModel, TokenRows};
use toktune::peft::{ActiveRows, PeftModel};
use toktune::{EngineError, Error};

/// Long enough for the Gemma fixture to leave its window of 8 behind, in the prompt and in the text.
const PROMPT: [u32; 11] = [5, 17, 44, 6, 90, 3, 3, 21, 64, 70, 4];

fn base(folder: &Path) -> PretrainedModel {
    AutoModelForCausalLM::from_pretrained(folder, &Device::Cpu).expect("a model")
}

fn with_adapter(folder: &Path) -> PeftModel {
    PeftModel::from_pretrained(base(folder), &folder.join("adapter")).expect("an adapter")
}

fn tokens<'a>(
    model: &'a PretrainedModel,
    rows: ActiveRows<'a>,
    config: &GenerationConfig,
    prompt: &[u32],
) -> Tokens<'a> {
    Generator::new(model, rows, config.clone()).and_then(|g| g.generate(prompt)).expect("a valid prompt")
}

fn text(model: &PretrainedModel, rows: ActiveRows<'_>, config: &GenerationConfig) -> Vec<u32> {
    tokens(model, rows, config, &PROMPT).collect::<Result<_, _>>().expect("tokens")
}

/// The logits of the last token, everything computed at once.
fn logits_from_scratch(model: &PretrainedModel, active: ActiveRows<'_>, ids: &[u32]) -> Vec<f32> {
    let tokens = TokenRows { ids, starts: &[0, ids.len()] };
    let logits = model.runner().logits(tokens, None, &active.trained()).expect("logits").concat();
    logits[(ids.len() - 1) * model.head().rows()..].to_vec()
}

fn likeliest(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|x| *x == largest).expect("a largest") as u32
}

#[test]
fn every_step_equals_the_computation_from_scratch() {
    let greedy = with!(GenerationConfig::default(); max_new_tokens: 30);
    // left to itself a tiny random model repeats one token
    let varied = with!(greedy.clone(); do_sample: true, temperature: 3.0);
    for folder in decoders() {
        let model = with_adapter(&folder);
        // past a length the frequencies are others, and keys that were kept stay as they were, as in transformers
        if model.base().rotations_depend_on_length() {
            continue;
        }
        for (prompt, config) in [(&PROMPT[..], &greedy), (&PROMPT, &varied), (&PROMPT[..1], &varied)] {
            let mut ids = prompt.to_vec();
            let mut stream = tokens(model.base(), model.active(), config, prompt);
            while let Some(token) = stream.next() {
                let token = token.expect("a token");
                let expected = logits_from_scratch(model.base(), model.active(), &ids);
                let scale = expected.iter().fold(1f32, |m, x| m.max(x.abs()));
                for (found, expected) in stream.logits().iter().zip(&expected) {
                    assert!((found - expected).abs() <= 1e-4 * scale, "{folder:?} at {}", ids.len());
                }
                if !config.do_sample {
                    assert_eq!(token, likeliest(&expected), "{folder:?} at {}", ids.len());
                }
                ids.push(token);
            }
            assert_eq!(ids.len(), prompt.len() + 30);
            assert_eq!(stream.finish_reason(), Some(FinishReason::MaxNewTokens));
        }
    }
}

#[test]
fn trained_rows_change_the_text() {
    let config = with!(GenerationConfig::default(); max_new_tokens: 30);
    let changed = decoders().into_iter().filter(|folder| {
        let model = with_adapter(folder);
        let mut prompt = PROMPT;
        prompt[3] = model.token_indices()[0];
        let plain = text(model.base(), ActiveRows::default(), &config);
        assert_eq!(plain, text(&base(folder), ActiveRows::default(), &config));
        let mut with_rows = tokens(model.base(), model.active(), &config, &prompt);
        let mut without = tokens(model.base(), ActiveRows::default(), &config, &prompt);
        for stream in [&mut with_rows, &mut without] {
            stream.next().expect("a first token").expect("a token");
        }
        assert_ne!(with_rows.logits(), without.logits(), "{folder:?}");
        plain != text(model.base(), model.active(), &config)
    });
    assert!(changed.count() > 0, "no trained row changed any text");
}

#[test]
fn a_seed_fixes_the_text_and_another_changes_it() {
    let model = with_adapter(&fixture("gemma3"));
    let of = |seed| {
        let config = with!(GenerationConfig::default(); do_sample: true, seed, max_new_tokens: 24);
        text(model.base(), model.active(), &config)
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn the_end_token_is_given_and_nothing_after_it() {
    let model = base(&fixture("gemma3"));
    // a tiny random model repeats itself; the penalty makes it say different tokens
    let mut config = with!(GenerationConfig::default(); max_new_tokens: 20, repetition_penalty: 3.0);
    let all = text(&model, ActiveRows::default(), &config);
    // an end token that appears first at this place
    let at = (1..all.len()).find(|&i| !all[..i].contains(&all[i])).expect("a text of more than one token");
    config.eos_token_ids = vec![all[at]];
    let mut stream = tokens(&model, ActiveRows::default(), &config, &PROMPT);
    let given: Vec<u32> = stream.by_ref().map(|token| token.expect("a token")).collect();
    assert_eq!(given, all[..=at]);
    assert_eq!(stream.finish_reason(), Some(FinishReason::EndToken));
    assert!(stream.next().is_none());
}

#[test]
fn no_token_and_all_positions() {
    let model = base(&fixture("gemma3"));
    let mut config = with!(GenerationConfig::default(); max_new_tokens: 0);
    let mut stream = tokens(&model, ActiveRows::default(), &config, &PROMPT);
    assert!(stream.next().is_none() && stream.logits().is_empty());
    assert_eq!(stream.finish_reason(), Some(FinishReason::MaxNewTokens));

    config.max_new_tokens = 1000;
    let mut stream = tokens(&model, ActiveRows::default(), &config, &PROMPT);
    assert_eq!(stream.by_ref().filter(|token| token.is_ok()).count(), 64 - PROMPT.len());
    assert_eq!(stream.finish_reason(), Some(FinishReason::MaxPositions));
    let mut stream = tokens(&model, ActiveRows::default(), &config, &[3; 64]);
    assert!(stream.next().is_none());
    assert_eq!(stream.finish_reason(), Some(FinishReason::MaxPositions));
}

#[test]
fn prompts_that_cannot_be_run_are_refused() {
    let model = base(&fixture("gemma3"));
    let generator =
        Generator::new(&model, ActiveRows::default(), GenerationConfig::default()).expect("valid");
    let refused = |prompt: &[u32]| generator.generate(prompt).expect_err("no usable prompt");
    assert!(matches!(refused(&[]), Error::Engine(EngineError::EmptyPrompt)));
    assert!(matches!(
        refused(&[1, 5000]),
        Error::Engine(EngineError::TokenOutOfRange { id: 5000, rows: 110 })
    ));
    let error = refused(&[3; 65]);
    assert!(matches!(error, Error::PromptTooLong { found: 65, limit: 64 }), "{error}");
    let bad = with!(GenerationConfig::default(); top_p: 2.0);
    let error = Generator::new(&model, ActiveRows::default(), bad).expect_err("out of range");
    assert!(error.to_string().starts_with("top_p is 2; expected"), "{error}");
}

#[test]
fn the_model_says_its_end_token() {
    let config = GenerationConfig::of_model(&base(&fixture("gemma3"))).expect("a configuration");
    assert_eq!(config.eos_token_ids, [1]);
}
