//! Rows of a committed model, made to look like those that no training has moved.

use super::*;
use crate::models::testing::{HubModel, load};
use crate::text::{ChatMl, testing};
use serde_json::json;
use tempfile::TempDir;

const ROWS: usize = 280;
const START: u32 = 264;
const END: u32 = 265;
/// The first of four tokens in reserve, behind which ten rows have no token.
const RESERVED: u32 = 266;

/// A byte-level tokenizer with ChatML's tokens.
fn tokenizer(reserved: bool) -> AutoTokenizer {
    let mut tokenizer = testing::byte_level().build().expect("a tokenizer");
    assert_eq!(tokenizer.add_special_tokens(&ChatMl::TOKENS).expect("added"), [START, END]);
    if reserved {
        let names: Vec<String> = (0..4).map(|n| format!("<|reserved_special_token_{n}|>")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(tokenizer.add_special_tokens(&names).expect("added")[0], RESERVED);
    }
    let template = ChatMl::template(&tokenizer);
    tokenizer.set_chat_template(template);
    tokenizer
}

/// Numbers between -1 and 1 that follow no rule.
fn number(at: usize) -> f32 {
    let mut mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed >> 40) as f32) / 8_388_608.0 - 1.0
}

/// A row as unused ones are: all near one point.
fn unused(id: u32, width: usize) -> Vec<f32> {
    (0..width).map(|at| 0.2 + 0.001 * number(id as usize * width + at)).collect()
}

/// A model with rows of ordinary numbers, but for those that `change` gives, in the embedding or (`head`) in the head.
fn model(
    name: &str,
    rows: usize,
    change: impl Fn(&str, u32, usize) -> Option<Vec<f32>>,
) -> (PretrainedModel, TempDir) {
    let mut model = HubModel::read(name).with(json!({"vocab_size": rows}));
    for (name, shape, values) in &mut model.tensors {
        let salt = match name.as_str() {
            "model.embed_tokens.weight" => 0,
            "lm_head.weight" => 1_000_003,
            _ => continue,
        };
        let width = shape[1];
        *values = (0..rows as u32)
            .flat_map(|id| {
                change(name, id, width)
                    .unwrap_or_else(|| (0..width).map(|at| number(salt + id as usize * width + at)).collect())
            })
            .collect();
        shape[0] = rows;
    }
    let folder = model.folder();
    (load(folder.path()), folder)
}

fn states(found: &TemplateTokens) -> Vec<Vec<RowState>> {
    found.tokens.iter().map(|token| token.rows.iter().map(|row| row.state).collect()).collect()
}

#[test]
fn a_row_near_the_unused_ones_is_told_from_one_that_was_learnt() {
    let (model, _folder) =
        model("llama_tied", ROWS, |_, id, width| (id == START || id >= RESERVED).then(|| unused(id, width)));
    let found = TemplateTokens::of(&model, &tokenizer(true), &[]).expect("found");
    assert_eq!(found.ids(), [START, END]);
    assert_eq!(states(&found), [[RowState::NearUnused], [RowState::Learnt]]);
    assert_eq!(found.unlearnt().expect("one"), [START]);
    assert_eq!(found.turn_ends, [END]);
    let unused = found.unused[0].expect("measured");
    let bound = unused.bound.expect("apart");
    assert_eq!(unused.count, 14);
    assert!(unused.own < bound && bound < unused.lowest && unused.lowest < unused.usual, "{unused:?}");
    let distances: Vec<f64> =
        found.tokens.iter().map(|token| token.rows[0].distance.expect("measured")).collect();
    assert!(distances[0] < bound && distances[1] > bound, "{distances:?}");
    let told = found.told();
    assert!(told[0].starts_with("'<|im_start|>' (id 264): near the unused rows (distance 0.0"), "{told:?}");
    assert!(told[1].contains("'<|im_end|>' (id 265): learnt (distance"), "{told:?}");
}

#[test]
fn rows_of_zeros_and_equal_ones_need_nothing_to_be_compared_with() {
    let (zeros, _folder) = model("llama_tied", 266, |_, id, width| (id >= START).then(|| vec![0.0; width]));
    let found = TemplateTokens::of(&zeros, &tokenizer(false), &[]).expect("found");
    assert_eq!(states(&found), [[RowState::Zero], [RowState::Zero]]);
    let (equal, _folder) =
        model("llama_tied", 266, |_, id, width| (id == END || id == 70).then(|| vec![0.5; width]));
    let found = TemplateTokens::of(&equal, &tokenizer(false), &[]).expect("found");
    assert_eq!(states(&found), [[RowState::Learnt], [RowState::Duplicate { of: 70 }]]);
    assert!(found.told()[1].contains("the same row as id 70"), "{:?}", found.told());
    assert_eq!(found.unlearnt().expect("one"), [END]);
}

#[test]
fn either_end_of_an_untied_model_counts() {
    let (model, _folder) = model("llama_untied_head", ROWS, |name, id, width| {
        let is_unused = id >= RESERVED || (name == "lm_head.weight" && id == END);
        is_unused.then(|| unused(id, width))
    });
    let found = TemplateTokens::of(&model, &tokenizer(true), &[]).expect("found");
    assert_eq!(
        states(&found),
        [[RowState::Learnt, RowState::Learnt], [RowState::Learnt, RowState::NearUnused]]
    );
    assert_eq!(found.unlearnt().expect("one"), [END]);
    let told = found.told();
    assert!(
        told[1].contains("learnt in model.embed_tokens")
            && told[1].contains("near the unused rows in lm_head"),
        "{told:?}"
    );
}

#[test]
fn tokens_that_were_just_added_are_new_whatever_their_rows_hold() {
    let (mut model, _folder) = model("llama_tied", 265, |_, _, _| None);
    model.resize_token_embeddings(266);
    let found = TemplateTokens::of(&model, &tokenizer(false), &[START, END]).expect("found");
    assert_eq!(states(&found), [[RowState::New], [RowState::New]]);
    assert_eq!(found.told()[0], "'<|im_start|>' (id 264): new");
}

#[test]
fn a_model_that_has_learnt_them_all_says_so_with_the_distances() {
    // unused rows apart from the others, unused rows like any others, and none at all
    for (rows, apart, measured) in [(ROWS, true, true), (ROWS, false, true), (266, false, false)] {
        let (model, _folder) =
            model("llama_tied", rows, |_, id, width| (apart && id >= RESERVED).then(|| unused(id, width)));
        let found = TemplateTokens::of(&model, &tokenizer(rows == ROWS), &[]).expect("found");
        assert_eq!(found.unused[0].is_some(), measured);
        assert_eq!(found.unused[0].is_some_and(|unused| unused.bound.is_some()), apart);
        let error = found.unlearnt().expect_err("all learnt");
        let message = error.to_string();
        assert!(
            message.contains("has learnt every token") && message.contains("'<|im_end|>' (id 265): learnt"),
            "{message}"
        );
        assert_eq!(message.contains("distance"), measured, "{message}");
    }
}

#[test]
fn a_tokenizer_without_a_template_and_one_whose_template_has_no_tokens_are_refused() {
    let (model, _folder) = model("llama_tied", ROWS, |_, _, _| None);
    let mut tokenizer = testing::byte_level().build().expect("a tokenizer");
    let error = TemplateTokens::of(&model, &tokenizer, &[]).expect_err("no template");
    assert!(matches!(error, TemplateTokensError::Text(crate::text::TextError::NoChatTemplate)), "{error}");
    tokenizer.set_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    let error = TemplateTokens::of(&model, &tokenizer, &[]).expect_err("no tokens");
    assert!(matches!(error, TemplateTokensError::NoControlTokens { .. }), "{error}");
}
