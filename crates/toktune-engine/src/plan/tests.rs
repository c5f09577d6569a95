use super::*;
use crate::prefixes::Segment;
use crate::spec::TrainedRows;

fn trained() -> TrainedRows {
    TrainedRows::new(vec![9], 1, vec![0.0])
}

fn batch(ids: &[u32], starts: &[usize], targets: &[Option<u32>]) -> RaggedBatch {
    RaggedBatch {
        ids: ids.to_vec(),
        starts: starts.to_vec(),
        targets: targets.to_vec(),
        ..RaggedBatch::default()
    }
}

fn past(rows: Range<usize>) -> Stretch {
    Stretch { rows, is_past: true }
}

fn own(rows: Range<usize>) -> Stretch {
    Stretch { rows, is_past: false }
}

/// What is known of a batch whose first sequence has been seen.
struct First;

impl Known for First {
    fn rows(&self, key: NodeKey) -> bool {
        key == NodeKey::Own(0)
    }

    fn labels(&self, sequence: usize) -> bool {
        sequence == 0
    }
}

#[test]
fn rows_are_cut_at_the_first_trainable_token_and_after_the_last_label() {
    let trained = trained();
    //        constant | depends | unused        all constant   no label   depends from the start
    let ids = [1, 2, 9, 3, 4, 5, 6, 9, 1, 9, 7];
    let targets = [None, Some(9), None, Some(4), None, Some(6), None, None, None, Some(7), None];
    let batch = batch(&ids, &[0, 5, 7, 9, 11], &targets);
    let rules = Rules::new(Some(&trained), true);
    let plan = Plan::new(&batch, &rules, &());
    assert_eq!(plan.constant.places.ids, [1, 2, 5]);
    assert_eq!((plan.constant.labelled(), plan.constant.targets()), (vec![1, 2], vec![9, 6]));
    assert_eq!(plan.depending.places.ids, [9, 3, 9]);
    assert_eq!((plan.depending.labelled(), plan.depending.targets()), (vec![1, 2], vec![4, 7]));
    assert_eq!(plan.depending.places.spans, [Span::new(0..2, 0..2), Span::new(2..3, 0..0)]);
    assert_eq!((plan.labels[0].sequence, plan.labels[0].row), (0, 3));
    let all = Plan::new(&batch, &Rules { shortcuts: false, ..rules }, &());
    assert!(all.constant.places.ids.is_empty() && all.depending.places.ids == batch.ids);

    // the other sequences, of which one depends because its encoder rows do, and one has no label
    let memory = [false, true, false, false];
    let plan = Plan::new(&batch, &Rules { memory: Some(&memory), ..rules }, &());
    assert_eq!((plan.depending.places.ids, plan.depending.sequences), (vec![9, 3, 5, 9], vec![0, 1, 3]));
    assert_eq!(plan.depending.places.lengths, [5, 2, 2]);
    let plan = Plan::new(&batch, &Rules { padding: Some(2), ..rules }, &());
    assert_eq!((plan.constant.places.uncounted, plan.depending.places.uncounted), (vec![0, 0], vec![1, 0]));

    // where rows see the whole sequence
    let plan = Plan::new(&batch, &Rules { causal: false, ..rules }, &());
    assert_eq!(plan.constant.places.ids, [5, 6]);
    assert_eq!(
        (plan.depending.places.ids, plan.depending.sequences),
        (vec![1, 2, 9, 3, 4, 9, 7], vec![0, 3])
    );
    let wanted = [false, true, true, false];
    let plan = Plan::new(&batch, &Rules { causal: false, wanted: Some(&wanted), ..rules }, &());
    assert_eq!((plan.constant.places.ids, plan.depending.places.ids), (vec![5, 6], vec![9, 1]));

    // with updates of the blocks: all rows but those after the last label
    let updated = Plan::new(&batch, &Rules { blocks: true, ..rules }, &());
    assert!(updated.constant.places.ids.is_empty());
    assert_eq!(updated.depending.places.ids, [1, 2, 9, 3, 5, 9]);

    // the first sequence is known: its past rows come after the one that is computed
    let plan = Plan::new(&batch, &rules, &First);
    assert_eq!((plan.constant.places.ids.clone(), plan.constant.targets()), (vec![5], vec![6]));
    assert_eq!(plan.depending.places.spans, [Span::new(0..2, 1..3), Span::new(2..3, 0..0)]);
    let key = NodeKey::Own(1);
    assert_eq!(plan.computed, [ComputedNode { key, rows: 0..1, is_seen: false }]);
    assert_eq!(plan.known, [KnownNode { key: NodeKey::Own(0), rows: 1..3 }]);
    let labels: Vec<_> = plan.constant_labels.iter().map(|of| (of.sequence, of.is_known)).collect();
    assert_eq!(labels, [(0, true), (1, false)]);
}

#[test]
fn sequences_that_begin_alike_share_their_rows() {
    let trained = trained();
    let segment = |id, end| Segment { id, end };
    // [1 2 3 | 9 4] 5 6    [1 2 3 | 9 4] 7    [1 2 3 | 8] : two segments, of which the second holds a trained token
    let ids = [1, 2, 3, 9, 4, 5, 6, 1, 2, 3, 9, 4, 7, 1, 2, 3, 8];
    let mut targets = vec![None; ids.len()];
    for (row, target) in [(2, 9), (4, 5), (5, 6), (9, 9), (11, 7), (15, 8)] {
        targets[row] = Some(target);
    }
    let batch = RaggedBatch {
        segments: vec![
            vec![segment(3, 3), segment(5, 5)],
            vec![segment(3, 3), segment(5, 5)],
            vec![segment(3, 3)],
        ],
        ..batch(&ids, &[0, 7, 13, 17], &targets)
    };
    let rules = Rules::new(Some(&trained), true);
    let plan = Plan::new(&batch, &rules, &());
    assert_eq!(
        (&plan.constant.places.ids[..], &plan.depending.places.ids[..]),
        (&[1, 2, 3][..], &[9, 4, 5][..])
    );
    let spans = [
        Span { before: vec![past(0..3)], ..Span::new(0..2, 0..0) },
        Span { before: vec![past(0..3), own(0..2)], ..Span::new(2..3, 0..0) },
    ];
    assert_eq!(plan.depending.places.spans, spans);
    // equal labels of a shared row are one entry that counts for both; others are entries of their own
    let entry = |row, target, weight| Entry { row, target, weight };
    assert_eq!(plan.constant.entries, [entry(2, 9, 2.0), entry(2, 8, 1.0)]);
    assert_eq!(plan.depending.entries, [entry(1, 5, 1.0), entry(2, 6, 1.0), entry(1, 7, 1.0)]);
    assert_eq!(plan.unshared_rows, 6 + 5 + 3);
    assert!(plan.depending.weights().is_empty() && plan.constant.weights() == [2.0, 1.0]);

    // with updates of the blocks the whole forest depends
    let updated = Plan::new(&batch, &Rules { blocks: true, ..rules }, &());
    assert_eq!(updated.depending.places.ids, [1, 2, 3, 9, 4, 5]);
    assert_eq!(updated.depending.places.spans[2].before, [own(0..3), own(3..5)]);

    // a known segment is not computed again, but for labels that are new
    struct Seen(bool);
    impl Known for Seen {
        fn rows(&self, key: NodeKey) -> bool {
            key == NodeKey::Segment(3)
        }
        fn labels(&self, _: usize) -> bool {
            self.0
        }
    }
    let plan = Plan::new(&batch, &rules, &Seen(true));
    assert!(plan.constant.places.ids.is_empty() && plan.known.len() == 1);
    assert_eq!(plan.depending.places.spans[0].before, [past(0..3)]);
    assert_eq!(Plan::new(&batch, &rules, &Seen(false)).constant.places.ids, [1, 2, 3]);

    // where rows see the whole sequence nothing is shared
    let plan = Plan::new(&batch, &Rules { causal: false, ..rules }, &());
    assert_eq!(plan.constant.rows() + plan.depending.rows(), ids.len());
}

#[test]
fn a_shared_run_is_computed_whole() {
    let trained = trained();
    let ids = [1, 2, 9, 4, 1, 2, 9, 4, 5];
    let mut targets = vec![None; ids.len()];
    (targets[0], targets[7]) = (Some(2), Some(5));
    let segments = vec![vec![Segment { id: 0, end: 4 }]; 2];
    let batch = RaggedBatch { segments, ..batch(&ids, &[0, 4, 9], &targets) };
    let plan = Plan::new(&batch, &Rules::new(Some(&trained), true), &());
    // the first sequence needs one row of it, the second all
    assert_eq!((&plan.constant.places.ids[..], &plan.depending.places.ids[..]), (&[1, 2][..], &[9, 4][..]));
    assert_eq!(plan.constant_labels[0].labels[0].row, 0);
    assert_eq!(plan.depending.entries, [Entry { row: 1, target: 5, weight: 1.0 }]);
}

#[test]
fn decoder_rows_find_the_rows_of_their_encoder() {
    let trained = trained();
    let rules = Rules { wanted: Some(&[true, true, true]), ..Rules::new(Some(&trained), false) };
    let encoder = Plan::new(&batch(&[1, 2, 3, 9, 4, 5, 9], &[0, 2, 5, 7], &[None; 7]), &rules, &());
    let decoder = batch(&[1, 9, 2, 3, 4], &[0, 2, 4, 5], &[Some(7); 5]);
    let rules = Rules { memory: Some(&[false, true, true]), ..Rules::new(Some(&trained), true) };
    let decoder = Plan::new(&decoder, &rules, &());
    let crossing = Crossing::new(&encoder, &decoder);
    let span = |rows, past, keys| Span { keys, ..Span::new(rows, past) };
    assert_eq!(*crossing.constant.spans, [span(0..1, 0..2, 0..0)]);
    assert_eq!(
        *crossing.depending.spans,
        [span(0..1, 0..2, 0..0), span(1..3, 0..0, 0..3), span(3..4, 0..0, 3..5)]
    );
}
