//! The loss against the vocabulary, a row at a time with all its logits.

use super::{Decoded, FrozenPart, Head, Labels, Reference, Table};

/// A row of a table: the trained one, the appended one or the frozen one.
pub(super) fn row(table: &Table<'_, Reference>, row: usize) -> Vec<f64> {
    let Decoded { rows, cols, .. } = *table.base;
    let replaced = table.overrides.iter().find(|over| over.0 == row);
    match (replaced, table.values, table.extra) {
        (Some(&(_, at)), Some(values), _) => values[at * cols..(at + 1) * cols].to_vec(),
        (_, _, Some(extra)) if row >= rows => extra[(row - rows) * cols..(row - rows + 1) * cols].to_vec(),
        _ => table.base.row(row).to_vec(),
    }
}

fn entries(table: &Table<'_, Reference>) -> usize {
    table.base.rows + table.extra.map_or(0, |extra| extra.len() / table.base.cols.max(1))
}

/// The logits of a row.
pub(super) fn logits(hidden: &[f64], head: &Head<'_, Reference>) -> Vec<f64> {
    let of = |entry: usize| {
        let product: f64 = row(&head.table, entry).iter().zip(hidden).map(|(w, h)| w * h).sum();
        let logit = product + head.bias.and_then(|bias| bias.get(entry)).copied().unwrap_or(0.0);
        head.soft_cap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
    };
    (0..entries(&head.table)).map(of).collect()
}

/// What a row makes of its target.
struct OfTarget {
    loss: f64,
    /// What the softmax leaves to the others: `1 - p`, without the digits that a difference would lose.
    missed: f64,
}

impl OfTarget {
    fn new(logits: &[f64], target: usize) -> Self {
        let others = lse(logits.iter().enumerate().filter(|(entry, _)| *entry != target).map(|(_, l)| *l));
        let gap = others - logits[target];
        // ln(1 + e^gap), whichever of the two is the larger
        let loss = gap.max(0.0) + (-gap.abs()).exp().ln_1p();
        Self { loss, missed: (gap - loss).exp() }
    }
}

fn lse(logits: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY { top } else { top + logits.map(|l| (l - top).exp()).sum::<f64>().ln() }
}

pub(super) fn cross_entropy(
    hidden: &[f64],
    head: &Head<'_, Reference>,
    labels: Labels<'_>,
    mut dhidden: Option<&mut Vec<f64>>,
    mut dtrained: Option<&mut Vec<f64>>,
) -> Vec<f32> {
    let d = head.table.base.cols;
    if let Some(dhidden) = &mut dhidden {
        dhidden.fill(0.0);
    }
    let mut losses = Vec::new();
    for (i, (hidden, &target)) in hidden.chunks_exact(d).zip(labels.targets).enumerate() {
        let logits = logits(hidden, head);
        let lse = lse(logits.iter().copied());
        let of_target = OfTarget::new(&logits, target as usize);
        losses.push(of_target.loss as f32);
        let weight = labels.weights.get(i).map_or(1.0, |weight| f64::from(*weight));
        for (entry, logit) in logits.iter().enumerate() {
            let slope = head.soft_cap.map_or(1.0, |cap| 1.0 - (logit / f64::from(cap)).powi(2));
            let is_target = entry == target as usize;
            let dlogit = weight * slope * if is_target { -of_target.missed } else { (logit - lse).exp() };
            if let Some(dhidden) = &mut dhidden {
                let w = row(&head.table, entry);
                dhidden[i * d..(i + 1) * d].iter_mut().zip(w).for_each(|(dh, w)| *dh += dlogit * w);
            }
            let trained = head.table.overrides.iter().find(|over| over.0 == entry);
            if let (Some(dtrained), Some(&(_, at))) = (&mut dtrained, trained) {
                dtrained[at * d..(at + 1) * d].iter_mut().zip(hidden).for_each(|(dt, h)| *dt += dlogit * h);
            }
        }
    }
    losses
}

pub(super) fn frozen_parts(hidden: &[f64], head: &Head<'_, Reference>, targets: &[u32]) -> Vec<FrozenPart> {
    let is_trained = |entry: usize| head.table.overrides.iter().any(|over| over.0 == entry);
    let of = |(hidden, &target): (&[f64], &u32)| {
        let (logits, target) = (logits(hidden, head), target as usize);
        let is_other = |entry: usize| entry != target && !is_trained(entry);
        let others = logits.iter().enumerate().filter(|(entry, _)| is_other(*entry)).map(|(_, l)| *l);
        let own = if is_trained(target) { f64::NEG_INFINITY } else { logits[target] };
        FrozenPart { others: lse(others) as f32, target: own as f32 }
    };
    hidden.chunks_exact(head.table.base.cols).zip(targets).map(of).collect()
}
