//! Tiles of keys, and the scores of a tile of queries with one of them.

use super::{Inputs, ScoreBias, Shape, Span, TILE_KEYS, TILE_QUERIES};
use crate::gemm::Right;
use crate::math::{axpy, scale, tanh};
use crate::product::Product;
use crate::shared::pieces;
use crate::view::View;
use std::ops::Range;

/// Floats of room for the packed keys or values of a tile, either way round.
pub(super) fn tile_room(product: &Product, head_dim: usize) -> usize {
    product.right_len(TILE_KEYS, head_dim).max(product.right_len(head_dim, TILE_KEYS))
}

/// Floats of room for any left operand of a tile.
pub(super) fn left_room(product: &Product, head_dim: usize) -> usize {
    let of_queries = product.left_len(TILE_QUERIES, head_dim.max(TILE_KEYS));
    of_queries.max(product.left_len(TILE_KEYS, TILE_QUERIES))
}

/// A run of keys of one sequence: positions `at ..`, rows `rows` of `keys` and `values`.
pub(super) struct KeyTile<'a> {
    pub(super) at: usize,
    pub(super) rows: Range<usize>,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// Whether they are past keys, which get no gradient.
    pub(super) is_past: bool,
}

impl KeyTile<'_> {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn positions(&self) -> Range<usize> {
        self.at..self.at + self.rows.len()
    }

    /// The part of the tile at positions inside `seen`.
    fn within(mut self, seen: &Range<usize>) -> Option<Self> {
        let (first, last) = (self.at.max(seen.start), self.positions().end.min(seen.end));
        if first >= last {
            return None;
        }
        self.rows = self.rows.start + (first - self.at)..self.rows.start + (last - self.at);
        self.at = first;
        Some(self)
    }

    /// The keys (or values) of a head, as the right operand of `rows [m, head_dim] keysᵀ`.
    pub(super) fn transposed<'b>(&self, of: &'b [f32], shape: &Shape, kv_head: usize) -> View<'b> {
        View::transposed(
            &of[self.rows.start * shape.kv_width() + kv_head * shape.head_dim..],
            shape.kv_width(),
        )
    }

    /// The same, as the right operand of `weights [m, keys] values`.
    pub(super) fn rows_of<'b>(&self, of: &'b [f32], shape: &Shape, kv_head: usize) -> View<'b> {
        View::rows(&of[self.rows.start * shape.kv_width() + kv_head * shape.head_dim..], shape.kv_width())
    }
}

/// The keys of a sequence that a row in `positions` can see, in tiles and in order of position.
pub(super) fn key_tiles<'a>(
    shape: &Shape,
    span: &Span,
    x: &Inputs<'a>,
    positions: Range<usize>,
) -> Vec<KeyTile<'a>> {
    let seen = shape.visible_from(&positions, span.total());
    let mut at = 0;
    let mut past = Vec::new();
    for stretch in &span.before {
        past.extend(pieces(stretch.rows.len(), TILE_KEYS).into_iter().map(|r| KeyTile {
            at: at + r.start,
            rows: stretch.rows.start + r.start..stretch.rows.start + r.end,
            keys: if stretch.is_past { x.past_k } else { x.k },
            values: if stretch.is_past { x.past_v } else { x.v },
            is_past: stretch.is_past,
        }));
        at += stretch.rows.len();
    }
    let own = own_key_tiles(span, x);
    past.into_iter().chain(own).filter_map(|tile| tile.within(&seen)).collect()
}

/// The keys of a span's own, in tiles.
pub(super) fn own_key_tiles<'a>(span: &Span, x: &Inputs<'a>) -> impl Iterator<Item = KeyTile<'a>> {
    let (at, first, keys, values) = (span.position(), span.keys.start, x.k, x.v);
    pieces(span.keys.len(), TILE_KEYS).into_iter().map(move |r| KeyTile {
        at: at + r.start,
        rows: first + r.start..first + r.end,
        keys,
        values,
        is_past: false,
    })
}

/// Tasks of a pass: `(sequence, key/value head, queries or keys within the sequence)`, the `length(sequence)` cut into tiles.
pub(super) fn tasks(
    spans: &[Span],
    heads: usize,
    tile: usize,
    length: impl Fn(&Span) -> usize,
) -> Vec<(&Span, usize, Range<usize>)> {
    let of = |span| (0..heads).map(move |head| (span, head));
    spans
        .iter()
        .flat_map(of)
        .flat_map(|(span, head)| pieces(length(span), tile).into_iter().map(move |rows| (span, head, rows)))
        .collect()
}

/// A run of queries of one head of a sequence, at `positions` of it.
pub(super) struct Queries<'a> {
    pub(super) span: &'a Span,
    pub(super) head: usize,
    pub(super) positions: Range<usize>,
    /// `[positions, head_dim]`.
    pub(super) rows: View<'a>,
}

impl Queries<'_> {
    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    /// How many keys of `tile`, from its first on, one of the queries or more may see.
    pub(super) fn reach(&self, shape: &Shape, tile: &KeyTile<'_>) -> usize {
        let seen = shape.visible_from(&self.positions, self.span.total());
        seen.end.saturating_sub(tile.at).min(tile.len())
    }

    /// The keys of `tile` that query `i` sees.
    pub(super) fn seen(&self, shape: &Shape, tile: &KeyTile<'_>, i: usize) -> Range<usize> {
        let seen = shape.visible(self.positions.start + i, self.span.total());
        let first = seen.start.saturating_sub(tile.at).min(tile.len());
        first..seen.end.saturating_sub(tile.at).clamp(first, tile.len())
    }

    /// `scores[i, j] = q_i · k_j` of [`Self::reach`] keys, `tile.len()` apart, capped or with their bias, and the factor that they
    /// still have to be multiplied with. What a query does not see is anything. `room` is [`left_room`].
    pub(super) fn scores(
        &self,
        shape: &Shape,
        bias: Option<&ScoreBias>,
        tile: &KeyTile<'_>,
        keys: &Right<'_>,
        (scores, room): (&mut [f32], &mut [f32]),
    ) -> f32 {
        let (isa, n, reach) = (keys.isa(), tile.len(), self.reach(shape, tile));
        keys.multiply_part(self.len(), self.rows, room, (scores, n), reach);
        if shape.soft_cap.is_none() && bias.is_none() {
            return shape.scale;
        }
        for (row, at) in scores.chunks_exact_mut(n).zip(self.positions.clone()) {
            let row = &mut row[..reach];
            scale(isa, row, shape.scale);
            if let Some(cap) = shape.soft_cap {
                cap_scores(isa, row, cap);
            }
            if let Some(bias) = bias {
                axpy(isa, row, 1.0, bias.line(self.head, at, tile.at, reach));
            }
        }
        1.0
    }
}

crate::isa::multiversion! {
    /// `cap tanh(score / cap)`.
    fn cap_scores(isa: Isa, scores: &mut [f32], cap: f32) {
        for score in scores {
            *score = cap * tanh(*score / cap);
        }
    }
}
