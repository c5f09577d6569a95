//! Attention, a row and a head at a time.

use super::{AttentionInputs, Distances, Saved};

/// A key that a row sees: which one it is of the past or of the own ones, and its position.
#[derive(Clone, Copy)]
struct Key {
    row: usize,
    is_past: bool,
    position: usize,
}

/// Calls `work(row, its position, the keys it sees)` for every row.
fn each_row(of: &AttentionInputs<'_, Vec<f64>>, mut work: impl FnMut(usize, usize, &[Key])) {
    for span in of.sequences.spans.iter() {
        let before =
            span.before.iter().flat_map(|stretch| stretch.rows.clone().map(|row| (row, stretch.is_past)));
        let own = span.keys.clone().map(|row| (row, false));
        let keys: Vec<Key> = before
            .chain(own)
            .enumerate()
            .map(|(position, (row, is_past))| Key { row, is_past, position })
            .collect();
        for row in span.rows.clone() {
            let at = span.position() + row - span.rows.start;
            let seen = of.shape.visible(at, keys.len());
            work(row, at, &keys[seen]);
        }
    }
}

struct Scores<'a> {
    of: &'a AttentionInputs<'a, Vec<f64>>,
    distances: Option<&'a Distances<'a, Vec<f64>>>,
    head: usize,
}

impl Scores<'_> {
    fn query(&self, row: usize) -> usize {
        (row * self.of.shape.heads + self.head) * self.of.shape.head_dim
    }

    fn key(&self, key: Key) -> usize {
        let shape = self.of.shape;
        (key.row * shape.kv_heads + self.head / (shape.heads / shape.kv_heads)) * shape.head_dim
    }

    fn keys(&self, key: Key) -> &[f64] {
        let from = match (key.is_past, self.of.past) {
            (true, Some((k, _))) => k,
            _ => self.of.k,
        };
        &from[self.key(key)..][..self.of.shape.head_dim]
    }

    fn values(&self, key: Key) -> &[f64] {
        let from = match (key.is_past, self.of.past) {
            (true, Some((_, v))) => v,
            _ => self.of.v,
        };
        &from[self.key(key)..][..self.of.shape.head_dim]
    }

    /// Where the row for the distance of a query and a key starts.
    fn place(&self, distances: &Distances<'_, Vec<f64>>, at: usize, key: Key) -> usize {
        let reach = distances.places.len().div_ceil(2);
        let place = distances.places[reach - 1 + at - key.position] as usize;
        (place * self.of.shape.heads + self.head) * self.of.shape.head_dim
    }

    /// The score before its cap, and after it.
    fn score(&self, row: usize, at: usize, key: Key) -> (f64, f64) {
        let hd = self.of.shape.head_dim;
        let q = &self.of.q[self.query(row)..][..hd];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut score = dot(q, self.keys(key));
        if let Some(of) = self.distances {
            let place = self.place(of, at, key);
            score += of.keys.map_or(0.0, |rows| dot(q, &rows[place..][..hd]));
            score += of.queries.map_or(0.0, |rows| dot(self.keys(key), &rows[place..][..hd]));
        }
        score *= f64::from(self.of.shape.scale);
        if let Some(bias) = &self.of.sequences.bias {
            score += f64::from(bias.get(self.head, at, key.position));
        }
        let capped =
            self.of.shape.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        (score, capped)
    }
}

pub(super) fn forward(
    of: &AttentionInputs<'_, Vec<f64>>,
    distances: Option<&Distances<'_, Vec<f64>>>,
    out: &mut [f64],
    lse: &mut [f64],
) {
    let (heads, hd) = (of.shape.heads, of.shape.head_dim);
    each_row(of, |row, at, seen| {
        for head in 0..heads {
            let scores = Scores { of, distances, head };
            let each: Vec<f64> = seen.iter().map(|&key| scores.score(row, at, key).1).collect();
            let sink = of.sinks.map(|sinks| sinks[head]);
            let top = each.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = each.iter().copied().chain(sink).map(|score| (score - top).exp()).sum();
            lse[row * heads + head] = top + total.ln();
            for d in 0..hd {
                let weighted =
                    |(score, key): (&f64, &Key)| (score - top).exp() / total * scores.values(*key)[d];
                out[(row * heads + head) * hd + d] = each.iter().zip(seen).map(weighted).sum();
            }
        }
    });
}

pub(super) fn backward(
    of: &AttentionInputs<'_, Vec<f64>>,
    distances: Option<&Distances<'_, Vec<f64>>>,
    saved: Saved<'_, Vec<f64>>,
    [dq, dk, dv]: [&mut Vec<f64>; 3],
    [mut dkeys, mut dqueries]: [Option<&mut Vec<f64>>; 2],
) {
    let (heads, hd) = (of.shape.heads, of.shape.head_dim);
    [&mut *dq, &mut *dk, &mut *dv].into_iter().for_each(|d| d.fill(0.0));
    for d in [&mut dkeys, &mut dqueries].into_iter().flatten() {
        d.fill(0.0);
    }
    each_row(of, |row, at, seen| {
        for head in 0..heads {
            let scores = Scores { of, distances, head };
            let query = scores.query(row);
            let dout = &saved.dout[query..][..hd];
            let delta: f64 = (0..hd).map(|d| dout[d] * saved.out[query + d]).sum();
            for &key in seen {
                let (plain, capped) = scores.score(row, at, key);
                let p = (capped - saved.lse[row * heads + head]).exp();
                let dp: f64 = (0..hd).map(|d| dout[d] * scores.values(key)[d]).sum();
                let slope = of.shape.soft_cap.map_or(1.0, |cap| {
                    let t = (plain / f64::from(cap)).tanh();
                    1.0 - t * t
                });
                let ds = p * (dp - delta) * slope * f64::from(of.shape.scale);
                let at_key = scores.key(key);
                for d in 0..hd {
                    dq[query + d] += ds * scores.keys(key)[d];
                    if !key.is_past {
                        dk[at_key + d] += ds * of.q[query + d];
                        dv[at_key + d] += p * dout[d];
                    }
                }
                let Some(rows) = distances else { continue };
                let place = scores.place(rows, at, key);
                for d in 0..hd {
                    if let Some(keys) = rows.keys {
                        dq[query + d] += ds * keys[place + d];
                    }
                    if let Some(queries) = rows.queries {
                        dk[at_key + d] += ds * queries[place + d];
                    }
                    if let Some(dkeys) = &mut dkeys {
                        dkeys[place + d] += ds * of.q[query + d];
                    }
                    if let Some(dqueries) = &mut dqueries {
                        dqueries[place + d] += ds * scores.keys(key)[d];
                    }
                }
            }
        }
    });
}
