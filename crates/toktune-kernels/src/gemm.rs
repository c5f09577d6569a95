//! The dense product of two small `f32` matrices on one thread.

use crate::Isa;
use crate::isa::multiversion;
use crate::math::{axpy, dot};
use crate::operand::{FloatRows, Rows};
use crate::product::{Left, Precision, Product};
use crate::shared::{aligned_pieces, pieces, with_scratch};
use crate::view::View;

/// Columns of the right operand that are packed at a time.
const PANEL_COLS: usize = 128;

/// Up to this many rows the right operand is used as it lies.
const FEW_ROWS: usize = 3;

/// `out[m, n] = a[m, k] b[k, n]`, added to what is there when `accumulate`; `out` is row-major with stride
/// `out_stride`. One stride of `b` is 1.
pub(crate) fn gemm(
    isa: Isa,
    (m, n, k): (usize, usize, usize),
    [a, b]: [View<'_>; 2],
    out: &mut [f32],
    out_stride: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= out_stride || m == 1, "rows of {n} entries, {out_stride} apart");
    assert!((m - 1) * out_stride + n <= out.len(), "{m} rows of {n} into {} entries", out.len());
    a.check(m, k);
    b.check(k, n);
    if m <= FEW_ROWS {
        return few_rows(isa, (m, n, k), [a, b], out, out_stride, accumulate);
    }
    let product = Product::new(isa, Precision::F32);
    let unit = product.cols_unit();
    for cols in aligned_pieces(n, PANEL_COLS, unit) {
        for depth in pieces(k, product.depth()) {
            let size = (cols.len(), depth.len());
            with_scratch(product.right_len(size.0, size.1), |right| {
                let from = &b.data[depth.start * b.row_stride + cols.start * b.col_stride..];
                pack(&product, View { data: from, ..b }, size, right);
                let add = accumulate || depth.start > 0;
                let to = out[cols.start..].as_mut_ptr();
                // SAFETY: the assertions above, and `out` is borrowed exclusively.
                unsafe {
                    product.multiply(Left::Floats(a), (0..m, depth), (right, size.0), (to, out_stride), add)
                };
            });
        }
        if k == 0 && !accumulate {
            out.chunks_mut(out_stride).take(m).for_each(|row| row[cols.clone()].fill(0.0));
        }
    }
}

/// A right operand `[k, n]` that is multiplied several times: packed once, where the rows to come repay it.
pub(crate) struct Right<'a> {
    view: View<'a>,
    n: usize,
    k: usize,
    product: Product,
    packed: Option<&'a [f32]>,
}

impl<'a> Right<'a> {
    /// `view` as a right operand of `product` for left ones of `rows` rows, packed into `room` of at least
    /// [`Product::right_len`]; `k` is at most one block of depth.
    ///
    /// The product is the caller's, made once for the whole operation: what another instruction set packs has another
    /// size.
    pub(crate) fn new(
        product: Product,
        view: View<'a>,
        (n, k): (usize, usize),
        rows: usize,
        room: &'a mut [f32],
    ) -> Self {
        view.check(k, n);
        if rows <= FEW_ROWS {
            return Self { view, n, k, product, packed: None };
        }
        let room = &mut room[..product.right_len(n, k)];
        pack(&product, view, (n, k), room);
        Self { view, n, k, product, packed: Some(room) }
    }

    /// The instructions that it is multiplied with.
    pub(crate) fn isa(&self) -> Isa {
        self.product.isa()
    }

    /// The first `cols` columns of `a [m, k] right`, into rows of `out.0` that are `out.1` apart.
    pub(crate) fn multiply_part(
        &self,
        m: usize,
        a: View<'_>,
        room: &mut [f32],
        (out, out_row): (&mut [f32], usize),
        cols: usize,
    ) {
        assert!(cols <= self.n.min(out_row) && m * out_row <= out.len(), "{m} rows of {cols}");
        match &self.packed {
            None => gemm(self.product.isa(), (m, cols, self.k), [a, self.view], out, out_row, false),
            Some(right) => {
                let left = self.product.left(a, (m, self.k), room);
                let (right, out) = ((*right, cols), (out.as_mut_ptr(), out_row));
                // SAFETY: the assertion above, and `out` is borrowed exclusively.
                unsafe { self.product.multiply(left, (0..m, 0..self.k), right, out, false) }
            }
        }
    }

    /// `out [m, n] (+)= a [m, k] right`, `out` without gaps; `room` is for [`Product::left_len`] floats.
    pub(crate) fn multiply(&self, m: usize, a: View<'_>, room: &mut [f32], out: &mut [f32], add: bool) {
        assert!(m * self.n <= out.len(), "{m} rows of {}", self.n);
        match &self.packed {
            None => gemm(self.product.isa(), (m, self.n, self.k), [a, self.view], out, self.n, add),
            Some(right) => {
                let left = self.product.left(a, (m, self.k), room);
                let (right, out) = ((*right, self.n), (out.as_mut_ptr(), self.n));
                // SAFETY: the assertion above, and `out` is borrowed exclusively.
                unsafe { self.product.multiply(left, (0..m, 0..self.k), right, out, add) }
            }
        }
    }
}

/// Packs a right operand `[k, n]`.
fn pack(product: &Product, of: View<'_>, (n, k): (usize, usize), room: &mut [f32]) {
    if of.col_stride == 1 {
        product.pack_rows(Rows::Floats(FloatRows::new(of.data, of.row_stride, (k, n))), 0, k, room);
    } else {
        assert_eq!(of.row_stride, 1, "one stride of the right operand is 1");
        product.pack_transposed(Rows::Floats(FloatRows::new(of.data, of.col_stride, (n, k))), 0, room);
    }
}

/// [`gemm`] without packing, which very few rows do not repay.
fn few_rows(
    isa: Isa,
    (m, n, k): (usize, usize, usize),
    [a, b]: [View<'_>; 2],
    out: &mut [f32],
    out_stride: usize,
    accumulate: bool,
) {
    with_scratch(k, |left| {
        for (i, row) in out.chunks_mut(out_stride).take(m).enumerate() {
            left.iter_mut().enumerate().for_each(|(l, x)| *x = a.data[i * a.row_stride + l * a.col_stride]);
            let row = &mut row[..n];
            if !accumulate {
                row.fill(0.0);
            }
            if b.col_stride == 1 {
                for (l, x) in left.iter().enumerate() {
                    axpy(isa, row, *x, &b.data[l * b.row_stride..][..n]);
                }
            } else {
                assert_eq!(b.row_stride, 1, "one stride of the right operand is 1");
                add_dots(isa, left, b.data, b.col_stride, row);
            }
        }
    });
}

multiversion! {
    /// `out[j] += x · rows[j]`, the rows `stride` apart.
    fn add_dots(isa: Isa, x: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
        if x.is_empty() {
            return;
        }
        for (o, row) in out.iter_mut().zip(rows.chunks(stride)) {
            *o += dot(x, &row[..x.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};

    #[test]
    fn every_layout_matches_the_f64_product() {
        each_isa(|isa| {
            for (m, n, k) in
                [(0, 3, 4), (1, 1, 1), (3, 0, 2), (2, 3, 0), (5, 7, 9), (17, 33, 16), (70, 65, 64)]
            {
                let (a, b) = (random(m * k, 1), random(k * n, 2));
                for flags in 0..8 {
                    let (ta, tb, accumulate) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                    let av = if ta { View::transposed(&a, m) } else { View::rows(&a, k) };
                    let bv = if tb { View::transposed(&b, k) } else { View::rows(&b, n) };
                    let mut out = vec![0.5f32; m * n];
                    gemm(isa, (m, n, k), [av, bv], &mut out, n, accumulate);
                    let expected: Vec<f64> = (0..m * n)
                        .map(|at| {
                            let (i, j) = (at / n, at % n);
                            let start = if accumulate { 0.5 } else { 0.0 };
                            (0..k).fold(start, |sum, l| {
                                let x = if ta { a[l * m + i] } else { a[i * k + l] };
                                let y = if tb { b[j * k + l] } else { b[l * n + j] };
                                sum + x as f64 * y as f64
                            })
                        })
                        .collect();
                    assert_close(&out, &expected, 1e-6, &format!("{isa} {m}x{n}x{k} {ta} {tb} {accumulate}"));
                }
            }
        });
    }
}
