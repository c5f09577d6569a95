//! Rows, batches and counts for each kind of model.

use super::*;
use crate::data::{DecoderInputs, DecoderStart, Masking, ModelKind, RaggedRows};
use crate::text::testing::name_token;
use serde_json::Value;

/// Puts `<|end|>` before and behind every text; `<think>` is its mask token.
fn framing() -> AutoTokenizer {
    let framed = GgufTokenizer { add_bos: Some(true), add_eos: Some(true), ..byte_level() };
    let mut tokenizer = framed.build().unwrap();
    name_token(&mut tokenizer, "mask_token", "<think>");
    tokenizer
}

fn masking() -> Masking {
    Masking::of(&framing(), 5)
}

fn collators() -> [Collator; 4] {
    [
        Collator::Causal,
        Collator::MaskedLm(masking()),
        Collator::Seq2Seq(DecoderInputs { start: DecoderStart::Token(2), pad: 0 }),
        Collator::SentencePairs,
    ]
}

fn of(collator: &Collator) -> DataOptions {
    DataOptions { collator: collator.clone(), ..options() }
}

fn read_for(collator: &Collator, rows: &[Value]) -> Result<Dataset, String> {
    let text: Vec<String> = rows.iter().map(Value::to_string).collect();
    read_with(text.join("\n").as_bytes(), Some(&framing()), &of(collator))
}

fn spelled(ids: &[u32]) -> String {
    framing().decode(ids, false).unwrap()
}

fn learnt(ids: &[u32]) -> Vec<Option<u32>> {
    ids.iter().copied().map(Some).collect()
}

#[test]
fn rows_of_another_kind_say_what_is_expected() {
    let rows = [
        json!({"input_ids": [1, 2]}),
        json!({"input_ids": [1, 2], "labels": [1, 2]}),
        json!({"input_ids": [1, 2], "labels": [1, 2, 3]}),
        json!({"text": "ab"}),
        json!({"prompt": "a", "completion": "b"}),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        json!({"anchor": "a", "positive": [1, 2]}),
    ];
    let (fine, length) = ("", "labels longer than input: 3 labels, 2 input_ids");
    let masked = "is not for a masked language model; expected `input_ids` (and `labels`) or `text`";
    let seq2seq = "is not for an encoder-decoder model; expected `input_ids` with `labels`, or `prompt` with";
    let pairs = "is not for a model of sentence pairs; expected `anchor` with `positive`";
    let expected = [
        [fine, fine, length, fine, fine, "no chat template", "is not for a causal language model; expected"],
        [fine, fine, length, fine, masked, masked, masked],
        ["`input_ids` without `labels`", fine, fine, seq2seq, fine, seq2seq, seq2seq],
        [pairs, pairs, pairs, pairs, pairs, pairs, fine],
    ];
    for (collator, expected) in collators().iter().zip(expected) {
        for (row, expected) in rows.iter().zip(expected) {
            let result = read_for(collator, std::slice::from_ref(row)).map(|_| ());
            match expected.is_empty() {
                true => assert_eq!(result, Ok(()), "{collator:?}: {row}"),
                false => {
                    let error = result.unwrap_err();
                    assert!(error.starts_with("/rows.jsonl:1: ") && error.contains(expected), "{error}");
                }
            }
        }
    }
    assert_eq!(collators().map(|c| c.kind())[3], ModelKind::SentencePairs);
}

#[test]
fn pairs_are_texts_or_ids() {
    let rows = [json!({"anchor": "ab", "positive": "the"}), json!({"anchor": [1, 2, 3], "positive": [4]})];
    let data = read_for(&Collator::SentencePairs, &rows).unwrap();
    let first = data.example(0).unwrap();
    assert_eq!(
        (spelled(&first.input_ids), spelled(&first.second)),
        ("<|end|>ab<|end|>".into(), "<|end|>the<|end|>".into())
    );
    assert!(first.labels.is_empty());
    assert_eq!((data.tokens(), data.label_tokens(), data.rows_without_labels()), (10, 0, 0));
    let batch = data.batch(&[1, 0], 3).unwrap();
    assert_eq!(batch.starts, [0, 3, 4, 7, 10]);
    assert_eq!(batch.ids[..4], [1, 2, 3, 4]);
    assert_eq!(batch.ids[4..7], first.input_ids);
    assert_eq!((batch.label_tokens(), batch.targets.len(), batch.tokens()), (0, 10, 10));
    for (row, expected) in [
        (json!({"anchor": "a"}), "`anchor` without `positive`"),
        (json!({"positive": "a"}), "`positive` without `anchor`"),
        (json!({"anchor": "a", "positive": 3}), "`positive` is 3, expected a string or a list of ids"),
        (json!({"anchor": "a", "positive": []}), "`positive` is empty"),
        (json!({"anchor": "", "positive": "a"}), "`anchor` is empty"),
        (json!({"anchor": [99999], "positive": "a"}), "`anchor[0]` is 99999, expected an id below"),
        (
            json!({"anchor": "a", "positive": "b", "prompt": "c", "completion": "d"}),
            "found `prompt` and `anchor` in one row",
        ),
    ] {
        let error = read_for(&Collator::SentencePairs, &[row]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_encoder_decoder_reads_its_targets_shifted() {
    let collator = Collator::Seq2Seq(DecoderInputs { start: DecoderStart::Token(2), pad: 0 });
    let rows = [
        json!({"input_ids": [5, 6], "labels": [7, -100, 8]}),
        json!({"input_ids": [9], "labels": [-100]}),
        json!({"prompt": "ab", "completion": "the"}),
    ];
    let data = read_for(&collator, &rows).unwrap();
    let text = data.example(2).unwrap();
    let target: Vec<u32> = text.labels.iter().flatten().copied().collect();
    assert_eq!(
        (spelled(&text.input_ids), spelled(&target)),
        ("<|end|>ab<|end|>".into(), "<|end|>the<|end|>".into())
    );
    let batch = data.batch(&[0, 1], 0).unwrap();
    // as transformers' shift_tokens_right(torch.tensor([[7, -100, 8]]), pad_token_id=0, decoder_start_token_id=2)
    assert_eq!((&batch.ids[..], &batch.starts[..]), (&[2, 7, 0, 2][..], &[0, 3, 4][..]));
    assert_eq!(batch.targets, [Some(7), None, Some(8), None]);
    assert_eq!(batch.encoder, Some(RaggedRows { ids: vec![5, 6, 9], starts: vec![0, 2, 3] }));
    let encoder = batch.encoder.as_ref().unwrap();
    assert_eq!(encoder.sequences().collect::<Vec<_>>(), [0..2, 2..3]);
    assert_eq!((batch.tokens(), batch.label_tokens()), (7, 2));
    assert_eq!((data.tokens(), data.label_tokens(), data.rows_without_labels()), (7 + 6, 5, 1));
    let empty = read_for(&collator, &[json!({"input_ids": [1], "labels": []})]).unwrap_err();
    assert!(empty.ends_with("`labels` is empty"), "{empty}");
    // a tokenizer without a frame: `eos` is put behind the target all the same
    let plain = read_with(rows[2].to_string().as_bytes(), Some(&tokenizer()), &of(&collator)).unwrap();
    let target: Vec<u32> = plain.example(0).unwrap().labels.iter().flatten().copied().collect();
    assert_eq!(
        (spelled(&plain.example(0).unwrap().input_ids), spelled(&target)),
        ("ab".into(), "the<|end|>".into())
    );
}

#[test]
fn a_masked_model_has_its_labels_in_place() {
    let collator = Collator::MaskedLm(masking());
    let rows =
        [json!({"input_ids": [5, 6, 7], "labels": [-100, 8, 7]}), json!({"text": "ab12 ab12 ab12 ab12"})];
    let data = read_for(&collator, &rows).unwrap();
    let (given, text) = (data.example(0).unwrap(), data.example(1).unwrap());
    assert_eq!(given.labels, [None, Some(8), Some(7)]);
    assert!(text.labels.is_empty(), "chosen later");
    assert_eq!(spelled(&text.input_ids), "<|end|>ab12 ab12 ab12 ab12<|end|>");
    let all: Vec<RaggedBatch> = (0..40).map(|epoch| data.batch(&[0, 1], epoch).unwrap()).collect();
    for (epoch, batch) in all.iter().enumerate() {
        assert_eq!(
            (&batch.ids[..3], &batch.targets[..3]),
            (&[5, 6, 7][..], &given.labels[..]),
            "as they stand"
        );
        // the same in whatever batch
        let alone = data.batch(&[1], epoch as u64).unwrap();
        assert_eq!((&alone.ids[..], &alone.targets[..]), (&batch.ids[3..], &batch.targets[3..]));
        let last = batch.targets.len() - 1;
        assert_eq!((batch.targets[3], batch.targets[last]), (None, None), "the frame");
    }
    assert!((1..40).any(|epoch| all[epoch].targets != all[0].targets), "another choice each epoch");
    assert!(all.iter().any(|batch| batch.label_tokens() == 2), "a row without a target breaks nothing");
    assert_eq!(data.label_tokens(), all[0].label_tokens(), "counted in the first epoch");
    assert_eq!(data.tokens(), 3 + text.input_ids.len());
    let frame = read_for(&collator, &[json!({"text": "<|end|>"})]).unwrap_err();
    assert!(frame.contains("no label to learn from"), "{frame}");
    let error = DataOptions { loss_on: Some(LossOn::Completion), ..of(&collator) };
    let error = read_with(br#"{"text": "a"}"#, Some(&framing()), &error).unwrap_err();
    assert!(error.contains("`text` has none"), "{error}");
}

#[test]
fn what_frames_a_text_is_not_cut_off() {
    let [_, masked, seq2seq, pairs] = collators();
    let read = |collator: &Collator, row: Value, most| {
        let options = DataOptions { max_length: Some(most), ..of(collator) };
        let data = read_with(row.to_string().as_bytes(), Some(&framing()), &options).unwrap();
        data.example(0).unwrap()
    };
    let example = read(&masked, json!({"text": "xyz"}), 4);
    assert_eq!((spelled(&example.input_ids), spelled(&example.cut)), ("<|end|>xy<|end|>".into(), "z".into()));
    let example = read(&pairs, json!({"anchor": "xyz", "positive": [1, 2, 3, 4, 5]}), 4);
    assert_eq!(spelled(&example.input_ids), "<|end|>xy<|end|>");
    assert_eq!((&example.second[..], example.cut.len()), (&[1, 2, 3, 4][..], 2));
    let example = read(&seq2seq, json!({"prompt": "xyz", "completion": "uvw"}), 3);
    assert_eq!(spelled(&example.input_ids), "<|end|>x<|end|>");
    let target: Vec<u32> = example.labels.iter().flatten().copied().collect();
    assert_eq!((spelled(&target), spelled(&example.cut)), ("<|end|>uv".into(), "yzw<|end|>".into()));
    let example = read(&masked, json!({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}), 2);
    assert_eq!((example.labels, example.cut), (vec![None, Some(2)], vec![3]));
    let example = read(&pairs, json!({"anchor": "xyz", "positive": "uvw"}), 1);
    assert_eq!(
        (spelled(&example.input_ids), example.cut.len()),
        ("<|end|>".into(), 8),
        "nothing else has room"
    );
    for (collator, row) in [
        (&seq2seq, json!({"input_ids": [1], "labels": [1, 2, 3]})),
        (&pairs, json!({"anchor": [1], "positive": [1, 2, 3]})),
    ] {
        let options = DataOptions { max_positions: Some(2), ..of(collator) };
        let error = read_with(row.to_string().as_bytes(), None, &options).unwrap_err();
        assert!(error.contains("3 tokens, but the model has 2 positions"), "{error}");
    }
}

#[test]
fn the_audit_counts_both_sides() {
    // nothing that an encoder reads is without a loss
    let expected = |id, inputs, labels, cut| TokenUse { id, inputs, labels, cut, acting: inputs };
    let [_, _, seq2seq, pairs] = collators();
    let mut pair = example(&[7, 8], &[], &[9]);
    pair.second = vec![8, 8];
    assert_eq!(
        dataset([pair], pairs).uses(&[7, 8, 9]),
        [expected(7, 1, 0, 0), expected(8, 3, 0, 0), expected(9, 0, 0, 1)]
    );
    // the decoder reads 2 8 0: the last target is never an input
    let both = example(&[7, 8], &[Some(8), None, Some(9)], &[]);
    assert_eq!(
        dataset([both], seq2seq).uses(&[7, 8, 9, 0]),
        [expected(7, 1, 0, 0), expected(8, 2, 1, 0), expected(9, 0, 1, 0), expected(0, 1, 0, 0)]
    );
    let masking = Masking { special: [1, 2].into(), always: [2].into(), ..masking() };
    let rows = [example(&[1, 2, 7], &[], &[]), example(&[7, 1], &learnt(&[7, 1]), &[])];
    assert_eq!(
        dataset(rows, Collator::MaskedLm(masking)).uses(&[1, 2, 7]),
        [expected(1, 2, 1, 0), expected(2, 1, 1, 0), expected(7, 2, 2, 0)]
    );
}

#[test]
fn what_batches_need_is_checked_first() {
    let seq2seq = |start, pad| Collator::Seq2Seq(DecoderInputs { start: DecoderStart::Token(start), pad });
    let size = options().vocab_size as u32;
    for (collator, expected) in [
        (Collator::MaskedLm(Masking { probability: 0.0, ..masking() }), "`mlm_probability` is 0".to_owned()),
        (
            Collator::MaskedLm(Masking { mask_token: Some(size), ..masking() }),
            format!("the mask token has id {size}"),
        ),
        (seq2seq(size, 0), format!("the decoder start token has id {size}, but the model has {size} rows")),
        (seq2seq(0, size), format!("the pad token has id {size}")),
    ] {
        let error = read_for(&collator, &[json!({"input_ids": [1], "labels": [1]})]).unwrap_err();
        assert!(error.contains(&expected), "{error}");
    }
    let mask_token = masking().mask_token.expect("a mask token");
    assert!(masking().special.contains(&mask_token), "the mask token itself is never chosen");
    // without one, rows must bring their labels
    let without = Collator::MaskedLm(Masking::of(&tokenizer(), 0));
    assert!(read_for(&without, &[json!({"input_ids": [1], "labels": [1]})]).is_ok());
    let error = read_for(&without, &[json!({"input_ids": [1]})]).unwrap_err();
    assert!(error.contains("`input_ids`") && error.contains("no mask token"), "{error}");
}
