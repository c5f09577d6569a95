//! Which precision rounds the activations of generated text, and that nothing else is rounded.

use super::PretrainedModel;
use crate::models::testing::{assert_close, convertible, load};
use crate::models::{PrecisionMode, TokenRows};
use crate::trained::Trained;
use candle_core::quantized::GgmlDType;
use tempfile::TempDir;

const TEXTS: [[u32; 9]; 3] =
    [[5, 17, 44, 6, 90, 3, 3, 21, 64], [7, 7, 30, 2, 81, 15, 9, 40, 11], [60, 4, 4, 31, 8, 77, 25, 19, 1]];

/// A model whose matrices are Q8_0, and where it lies.
fn quantised() -> (PretrainedModel, TempDir) {
    let case = convertible().into_iter().find(|case| case.name == "llama_tied").expect("a case");
    let folder = case.model.gguf(GgmlDType::Q8_0);
    (load(folder.path()), folder)
}

/// The logits of each step of texts that grow together, those of each text in a row.
fn generated(model: &PretrainedModel, texts: &[[u32; 9]]) -> Vec<f32> {
    let mut session = model.runner.session(texts.len(), None, &Trained::default()).expect("a session");
    let mut logits = vec![Vec::new(); texts.len()];
    for step in [0..3, 3..4, 4..5, 5..6, 6..7, 7..8, 8..9] {
        let next: Vec<(usize, &[u32])> =
            texts.iter().enumerate().map(|(i, text)| (i, &text[step.clone()])).collect();
        for (all, new) in logits.iter_mut().zip(session.advance(&next).expect("logits")) {
            all.extend(new);
        }
    }
    logits.concat()
}

/// The logits of a few rows that are not generated.
fn evaluated(model: &PretrainedModel) -> Vec<f32> {
    let tokens = TokenRows { ids: &TEXTS[0][..5], starts: &[0, 5] };
    model.runner.logits(tokens, None, &Trained::default()).expect("logits").concat()
}

#[test]
fn auto_rounds_generated_text_and_nothing_else() {
    let (mut model, _folder) = quantised();
    let unsaid = generated(&model, &TEXTS);
    for mode in [PrecisionMode::F32, PrecisionMode::Bf16] {
        model.set_precision(mode);
        let found = generated(&model, &TEXTS);
        assert!(mode != PrecisionMode::F32 || found == unsaid, "f32 is what is done where nothing is said");
        model.runner.round_generation(false);
        assert!(found == generated(&model, &TEXTS), "{mode:?} does not round");
    }
    model.set_precision(PrecisionMode::Auto);
    let (found, of_rows) = (generated(&model, &TEXTS), evaluated(&model));
    assert_close(&found, &unsaid, 0.05, "rounded");
    model.runner.round_generation(false);
    assert!(found != generated(&model, &TEXTS), "auto rounds");
    assert!(of_rows == evaluated(&model), "what is not generated is not rounded");
}

#[test]
fn texts_are_rounded_together_as_alone() {
    let (mut model, _folder) = quantised();
    model.set_precision(PrecisionMode::Auto);
    let alone: Vec<f32> = TEXTS.iter().flat_map(|text| generated(&model, &[*text])).collect();
    assert!(generated(&model, &TEXTS[..2]) == alone[..alone.len() / 3 * 2]);
}
