//! Tokenizers from SentencePiece's model files: Llama, Gemma, T5, XLM-RoBERTa, mBART, NLLB, M2M100, ALBERT, DeBERTa and
//! Pegasus, and files of no known class.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::normalizers::Precompiled;
use tokenizers::normalizers::utils::Sequence;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use super::byte_level::vocabulary;
use super::sentence_piece_file::{CONTROL, ModelFile, USER_DEFINED};
use super::{Rules, assemble, read, wrong};
use crate::Result;
use crate::class::Class;
use crate::guard::guarded;
use crate::language::{MBART, MBART50};

/// A piece with its score.
type Scored = (String, f64);

/// Builds the tokenizer of a class.
pub(super) fn build(path: &Path, rules: Rules<'_>) -> Result<Tokenizer> {
    let file = ModelFile::parse(path, &read(path)?)?;
    let pairs = match rules.class {
        Class::Llama | Class::CodeLlama | Class::Gemma | Class::Nllb => true,
        Class::Backend => file.merges_pairs,
        _ => false,
    };
    let model = match pairs {
        true => pair_model(path, &file, rules)?,
        false => unigram_model(path, &file, rules)?,
    };
    let (pre_tokenizer, decoder) = cutting(&file, rules);
    let mut tokenizer =
        assemble(path, json!({"model": model, "pre_tokenizer": pre_tokenizer, "decoder": decoder}))?;
    let normalizers = normalizers(path, &file, rules)?;
    if !normalizers.is_empty() {
        let sequence = NormalizerWrapper::Sequence(Sequence::new(normalizers));
        guarded("set the normaliser", || tokenizer.with_normalizer(Some(sequence)).map(|_| ()))?;
    }
    // NLLB takes its configuration's list in place of the file's
    let is_listed = ["extra_special_tokens", "additional_special_tokens"]
        .iter()
        .any(|key| rules.config.contains_key(*key));
    if rules.class != Class::Nllb || !is_listed {
        add_whole(&mut tokenizer, &file)?;
    }
    Ok(tokenizer)
}

/// M2M100's: pieces by a model file, their ids by a vocabulary beside it.
pub(super) fn with_vocabulary(model: &Path, vocab: &Path) -> Result<Tokenizer> {
    let file = ModelFile::parse(model, &read(model)?)?;
    let ids = vocabulary(vocab)?;
    let known = |text: &str| ids.contains_key(text);
    let parts = if file.merges_pairs {
        json!({
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": file.byte_fallback, "ignore_merges": false,
            "merges": merges(&file, known), "vocab": ids,
        })
    } else {
        let scores: HashMap<&str, f32> =
            file.pieces.iter().map(|piece| (piece.text.as_str(), piece.score)).collect();
        let mut pieces: Vec<Option<Scored>> = vec![None; ids.len()];
        for (token, id) in &ids {
            let score = scores.get(token.as_str()).map_or(f64::from(f32::MIN), |score| f64::from(*score));
            let place = id.as_u64().and_then(|id| pieces.get_mut(usize::try_from(id).ok()?));
            let place =
                place.ok_or_else(|| wrong(vocab, "the ids have holes, and the model is one of lists"))?;
            *place = Some((token.clone(), score));
        }
        let pieces: Option<Vec<Scored>> = pieces.into_iter().collect();
        let pieces = pieces.ok_or_else(|| wrong(vocab, "an id stands twice"))?;
        json!({"type": "Unigram", "unk_id": ids.get("<unk>"), "vocab": pieces, "byte_fallback": file.byte_fallback})
    };
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let parts = json!({"model": parts, "pre_tokenizer": metaspace, "decoder": metaspace});
    let mut tokenizer = assemble(vocab, parts)?;
    let mut normalizers = precompiled(model, &file)?;
    if file.removes_spaces {
        normalizers.push(rule(json!({"type": "Strip", "strip_left": true, "strip_right": true}))?);
        normalizers.push(replaced(json!({"Regex": " {2,}"}), " ")?);
    }
    // unlike the crate's own rule, SentencePiece puts its space before a space too
    normalizers.push(rule(json!({"type": "Prepend", "prepend": "▁"}))?);
    let sequence = NormalizerWrapper::Sequence(Sequence::new(normalizers));
    guarded("set the normaliser", || tokenizer.with_normalizer(Some(sequence)).map(|_| ()))?;
    Ok(tokenizer)
}

/// Control pieces and those of the user are matched whole.
fn add_whole(tokenizer: &mut Tokenizer, file: &ModelFile) -> Result<()> {
    let whole: Vec<AddedToken> = file
        .pieces
        .iter()
        .filter(|piece| matches!(piece.kind, CONTROL | USER_DEFINED) && !piece.text.is_empty())
        .map(|piece| AddedToken::from(piece.text.as_str(), piece.kind == CONTROL).normalized(false))
        .collect();
    guarded("add tokens", || tokenizer.add_tokens(whole))?;
    Ok(())
}

/// Every way to build a piece from two others: pieces in the order of the vocabulary, the shorter left part first.
///
/// The scores play no part: so transformers 5 has it.
fn merges(file: &ModelFile, known: impl Fn(&str) -> bool) -> Vec<[&str; 2]> {
    let mut merges = Vec::new();
    for piece in file.pieces.iter().filter(|piece| known(&piece.text)) {
        for (cut, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(cut);
            if known(left) && known(right) {
                merges.push([left, right]);
            }
        }
    }
    merges
}

fn pair_model(path: &Path, file: &ModelFile, rules: Rules<'_>) -> Result<Value> {
    let mut ids = Map::new();
    if rules.class == Class::Nllb {
        // fairseq's order
        for name in ["bos_token", "pad_token", "eos_token", "unk_token"] {
            if let Some(token) = rules.special(name) {
                let next = ids.len();
                ids.entry(token).or_insert_with(|| next.into());
            }
        }
    }
    for (id, piece) in file.pieces.iter().enumerate() {
        match rules.class {
            Class::Nllb => {
                let next = ids.len();
                ids.entry(piece.text.as_str()).or_insert_with(|| next.into());
            }
            _ => {
                if ids.insert(piece.text.clone(), id.into()).is_some() {
                    return Err(wrong(path, format!("piece `{}` stands twice", piece.text)));
                }
            }
        }
    }
    let pieces: std::collections::HashSet<&str> =
        file.pieces.iter().map(|piece| piece.text.as_str()).collect();
    let merges = merges(file, |text| pieces.contains(text));
    let (unk, bytes) = match rules.class {
        Class::Llama | Class::CodeLlama => (None, true),
        Class::Gemma => (rules.special("unk_token"), true),
        Class::Nllb => (rules.special("unk_token"), false),
        _ => (Some(file.unk_piece.as_str()), file.byte_fallback),
    };
    if let Some(unk) = unk.filter(|unk| !ids.contains_key(*unk)) {
        return Err(wrong(
            path,
            format!("the vocabulary has no `{unk}`, which stands for what it cannot spell"),
        ));
    }
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": bytes, "ignore_merges": false,
        "merges": merges, "vocab": ids,
    }))
}

fn unigram_model(path: &Path, file: &ModelFile, rules: Rules<'_>) -> Result<Value> {
    let own: Vec<Scored> =
        file.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))).collect();
    let named = |name: &str| rules.special(name).map(|token| (token.to_owned(), 0.0));
    // fairseq's vocabularies begin with four of their own in place of the file's three
    let fairseq = |languages: &[&str]| -> Vec<Scored> {
        let first = if rules.class == Class::MBart50 { "cls_token" } else { "bos_token" };
        let start = [first, "pad_token", "eos_token", "unk_token"].into_iter().filter_map(named);
        let languages = languages.iter().map(|code| ((*code).to_owned(), 0.0));
        start.chain(own.iter().skip(3).cloned()).chain(languages).chain(named("mask_token")).collect()
    };
    let unk = rules.special("unk_token").unwrap_or_default();
    let (pieces, unk_id) = match rules.class {
        Class::XlmRoberta => (fairseq(&[]), 3),
        Class::MBart => (fairseq(&MBART), 3),
        Class::MBart50 => (fairseq(&MBART50), 3),
        Class::T5 => {
            let extra = rules.config.get("extra_ids").and_then(Value::as_u64).unwrap_or(100).min(10_000);
            let extra = (0..extra).rev().map(|number| (format!("<extra_id_{number}>"), 0.0));
            (own.into_iter().chain(extra).collect(), 2)
        }
        Class::Pegasus => pegasus(&own, rules),
        Class::Albert => (own, 1),
        Class::DebertaV2 => {
            let at = own.iter().position(|(piece, score)| piece == unk && *score == 0.0);
            (own, at.unwrap_or(file.unk_id as usize))
        }
        _ => (own, file.unk_id as usize),
    };
    if unk_id >= pieces.len() {
        return Err(wrong(path, format!("the unknown token is piece {unk_id}, of {}", pieces.len())));
    }
    let bytes = rules.class == Class::Backend && file.byte_fallback;
    Ok(json!({"type": "Unigram", "unk_id": unk_id, "vocab": pieces, "byte_fallback": bytes}))
}

/// Pegasus has its masks and a hundred unused tokens before the pieces.
fn pegasus(own: &[Scored], rules: Rules<'_>) -> (Vec<Scored>, usize) {
    let text =
        |name: &str| rules.config.get(name).and_then(|value| value.get("content").unwrap_or(value).as_str());
    let offset = rules.config.get("offset").and_then(Value::as_u64).unwrap_or(103).min(10_000);
    let (mask, sentence) =
        (text("mask_token").unwrap_or("<mask_1>"), text("mask_token_sent").unwrap_or("<mask_2>"));
    let mut pieces: Vec<Scored> = ["pad_token", "eos_token"]
        .into_iter()
        .filter_map(|name| rules.special(name))
        .map(|token| (token.to_owned(), 0.0))
        .collect();
    pieces.push((mask.to_owned(), 0.0));
    if sentence != mask {
        pieces.push((sentence.to_owned(), 0.0));
    }
    pieces.extend((2..offset).map(|number| (format!("<unk_{number}>"), -100.0)));
    pieces.extend(own.iter().skip(2).cloned());
    let unk = rules.special("unk_token").unwrap_or_default();
    let at = pieces.iter().position(|(piece, score)| piece == unk && *score == 0.0).unwrap_or(usize::MAX);
    (pieces, at)
}

/// The pre-tokenizer and the decoder.
fn cutting(file: &ModelFile, rules: Rules<'_>) -> (Value, Value) {
    let prefix = rules.switch("add_prefix_space").unwrap_or(true);
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let always = metaspace("always", true);
    let words = |metaspace: &Value| json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]});
    let spaces = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let steps = |mut steps: Vec<Value>, bytes: bool, strip: bool| {
        if bytes {
            steps.extend([json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
        }
        if strip {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    };
    match rules.class {
        Class::Llama | Class::CodeLlama => {
            let scheme = match (prefix, rules.switch("legacy").unwrap_or(false)) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            (metaspace(scheme, false), steps(vec![spaces], true, prefix))
        }
        Class::Gemma => {
            let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
            (split, steps(vec![spaces], true, false))
        }
        Class::T5 | Class::MBart => (words(&always), always),
        Class::XlmRoberta | Class::Albert => {
            let metaspace = metaspace(if prefix { "always" } else { "never" }, true);
            (words(&metaspace), metaspace)
        }
        Class::MBart50 | Class::Nllb | Class::Pegasus => (always.clone(), always),
        Class::DebertaV2 => {
            let metaspace = metaspace(if prefix { "always" } else { "first" }, true);
            let mut list = Vec::new();
            if rules.switch("split_by_punct").unwrap_or(false) {
                list.push(json!({"type": "Punctuation", "behavior": "Isolated"}));
            }
            list.push(metaspace.clone());
            (json!({"type": "Sequence", "pretokenizers": list}), metaspace)
        }
        _ => (Value::Null, steps(vec![spaces], file.byte_fallback, false)),
    }
}

/// The normalisers, in their order.
fn normalizers(path: &Path, file: &ModelFile, rules: Rules<'_>) -> Result<Vec<NormalizerWrapper>> {
    let regex = |pattern: &str, to: &str| replaced(json!({"Regex": pattern}), to);
    let string = |from: &str, to: &str| replaced(json!({"String": from}), to);
    let lower = || rule(json!({"type": "Lowercase"}));
    let mut list = Vec::new();
    match rules.class {
        Class::Gemma => list.push(string(" ", "▁")?),
        Class::T5 | Class::XlmRoberta => list.extend(precompiled(path, file)?),
        Class::MBart50 => {
            list.extend(precompiled(path, file)?);
            list.push(regex(" {2,}", " ")?);
        }
        Class::Nllb if !file.charsmap.is_empty() => {
            list.extend(precompiled(path, file)?);
            list.push(regex(" {2,}", " ")?);
        }
        Class::Pegasus => {
            match file.charsmap.is_empty() {
                true => list.push(regex("\\n", " ")?),
                false => list.extend(precompiled(path, file)?),
            }
            list.push(regex(" {2,}", " ")?);
        }
        Class::Albert => {
            list.extend([string("``", "\"")?, string("''", "\"")?]);
            if !rules.switch("keep_accents").unwrap_or(false) {
                list.extend([rule(json!({"type": "NFKD"}))?, rule(json!({"type": "StripAccents"}))?]);
            }
            if rules.switch("do_lower_case").unwrap_or(true) {
                list.push(lower()?);
            }
            list.extend(precompiled(path, file)?);
        }
        Class::DebertaV2 => {
            if rules.switch("do_lower_case").unwrap_or(false) {
                list.push(lower()?);
            }
            list.push(regex("\\s{2,}|[\\n\\r\\t]", " ")?);
            list.push(rule(json!({"type": "NFC"}))?);
            list.push(rule(json!({"type": "Strip", "strip_left": false, "strip_right": true}))?);
        }
        Class::Backend => {
            list.extend(precompiled(path, file)?);
            list.push(string(" ", "▁")?);
        }
        _ => {}
    }
    Ok(list)
}

/// The file's compiled normaliser, if it has one.
fn precompiled(path: &Path, file: &ModelFile) -> Result<Vec<NormalizerWrapper>> {
    if file.charsmap.is_empty() {
        return Ok(Vec::new());
    }
    let map = guarded("read the normaliser", || Ok(Precompiled::from(&file.charsmap)?))
        .map_err(|error| wrong(path, format!("the compiled normaliser cannot be read: {error}")))?;
    Ok(vec![NormalizerWrapper::Precompiled(map)])
}

fn replaced(pattern: Value, to: &str) -> Result<NormalizerWrapper> {
    rule(json!({"type": "Replace", "pattern": pattern, "content": to}))
}

fn rule(json: Value) -> Result<NormalizerWrapper> {
    guarded("build the normaliser", || Ok(serde_json::from_value(json)?))
}
