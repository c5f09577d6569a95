//! A product in blocks that fit the caches, in either precision, on one thread: what packs the right operand for which
//! tile, and what multiplies it.
//!
//! In `f32` the left operand is read where it lies. In bf16 both are packed; where the machine has no instructions for
//! it, the operands are rounded to bf16 and multiplied in `f32`, which gives the same numbers to rounding of the sums.

use crate::Isa;
use crate::bf16;
use crate::operand::{FloatRows, Rows};
use crate::pack;
use crate::shared::with_scratch;
use crate::tile;
use crate::view::View;
use rayon::prelude::*;
use std::ops::Range;

/// In which precision the operands of a product with a frozen weight are multiplied; sums are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16 first.
    Bf16,
}

/// How operands are packed and multiplied; fixed for the length of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    isa: Isa,
    precision: Precision,
    engine: Option<bf16::Engine>,
}

/// The left operand `[m, k]` of products, ready to be multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// In `f32`, where it lies.
    Floats(View<'a>),
    /// Packed by [`bf16::pack_left`], with the numbers of one block of rows.
    Packed { data: &'a [u16], stride: usize },
}

impl Product {
    pub(crate) fn new(isa: Isa, precision: Precision) -> Self {
        let engine = if precision == Precision::Bf16 { bf16::engine(isa) } else { None };
        Self { isa, precision, engine }
    }

    /// The instructions that it runs with.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// The most depth that a block of `X Wᵀ` should have. In `f32` a panel of the right operand then fits the first-level cache.
    /// With AVX512-BF16 it need not: a step reads 192 bytes of it and computes for 24 cycles, which the second level
    /// keeps up with, and the fewer the blocks, the less often sums are written and read again. AMX computes for less time, so
    /// there the panel (32 KiB) fits.
    pub(crate) fn depth(&self) -> usize {
        match self.engine {
            Some(bf16::Engine::Avx512) => 1024,
            Some(bf16::Engine::Amx) => 512,
            None => 320,
        }
    }

    /// The same of `dY W`, whose panels are wider (`matmul::WIDE_COLS`).
    pub(crate) fn depth_of_wide(&self) -> usize {
        if self.engine.is_some() { 512 } else { self.depth() }
    }

    /// Where depth is cut: at whole blocks in bf16, at whole vectors of packing in `f32`.
    pub(crate) fn depth_unit(&self) -> usize {
        if self.engine.is_some() { bf16::DEPTH } else { 8 }
    }

    /// Columns that are packed together.
    pub(crate) fn cols_unit(&self) -> usize {
        if self.engine.is_some() { 2 * bf16::SIDE } else { tile::panel_cols(self.isa) }
    }

    /// Floats of room for a packed right operand.
    pub(crate) fn right_len(&self, n: usize, k: usize) -> usize {
        match self.engine {
            Some(_) => bf16::packed_len(n, k) / 2,
            None => pack::packed_len(n, k, tile::panel_cols(self.isa)),
        }
    }

    /// Calls `work` with `x [m, k]` as a left operand, which is packed (by all threads) where the precision asks for it.
    pub(crate) fn with_left<R>(&self, x: &[f32], k: usize, work: impl FnOnce(Left<'_>) -> R) -> R {
        match (self.precision, self.engine) {
            (Precision::F32, _) => work(Left::Floats(View::rows(x, k))),
            (Precision::Bf16, None) => with_scratch(x.len(), |rounded| {
                rounded.par_chunks_mut(16 * 1024).zip(x.par_chunks(16 * 1024)).for_each(|(to, x)| {
                    to.copy_from_slice(x);
                    bf16::round_all(self.isa, to);
                });
                work(Left::Floats(View::rows(rounded, k)))
            }),
            (Precision::Bf16, Some(_)) => {
                let (m, stride) = (x.len() / k.max(1), bf16::left_stride(k));
                with_scratch(bf16::left_len(m, k) / 2, |packed| {
                    let packed = bf16::as_bf16(packed);
                    packed.par_chunks_mut(stride.max(1)).enumerate().for_each(|(block, out)| {
                        let rows = block * bf16::SIDE * k..((block + 1) * bf16::SIDE * k).min(m * k);
                        let rows = rows.start.min(m * k)..rows.end;
                        bf16::pack_left(self.isa, FloatRows::dense(&x[rows], k), out);
                    });
                    work(Left::Packed { data: packed, stride })
                })
            }
        }
    }

    /// Runs a task of several products on one thread: what the instructions have to be told once is told once.
    pub(crate) fn task<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.engine {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: there is this engine only where AMX is available.
            Some(bf16::Engine::Amx) => unsafe { bf16::amx::session(work) },
            _ => work(),
        }
    }

    /// [`Self::task`] with a buffer of `len` floats of arbitrary content.
    pub(crate) fn task_with<R>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        self.task(|| with_scratch(len, work))
    }

    /// Whether right operands are packed from rows of bf16 as they are stored.
    pub(crate) fn packs_stored_bf16(&self) -> bool {
        self.engine.is_some()
    }

    /// Packs columns `at ..` (a multiple of [`Self::cols_unit`]) of a right operand `[k, n]` from the rows of its
    /// transpose, `rows [width, k]`; `width` is a multiple of the unit or reaches the last column.
    ///
    /// Panics on stored rows unless [`Self::packs_stored_bf16`].
    pub(crate) fn pack_transposed(&self, rows: Rows<'_>, at: usize, out: &mut [f32]) {
        let (width, k) = (rows.count(), rows.width());
        if self.engine.is_some() {
            let stride = k.next_multiple_of(bf16::DEPTH) * bf16::SIDE;
            let blocks = width.next_multiple_of(2 * bf16::SIDE) / bf16::SIDE;
            let out = &mut bf16::as_bf16(out)[at / bf16::SIDE * stride..];
            for (block, out) in out.chunks_exact_mut(stride.max(1)).enumerate().take(blocks) {
                let part = (block * bf16::SIDE).min(width)..((block + 1) * bf16::SIDE).min(width);
                if part.is_empty() {
                    out.fill(0);
                } else {
                    bf16::pack_right_transposed(self.isa, rows.part(part), out);
                }
            }
            return;
        }
        let (floats, cols) = (Self::floats(rows), tile::panel_cols(self.isa));
        let out = &mut out[at * k..][..pack::packed_len(width, k, cols)];
        pack::pack_transposed(self.isa, floats.data, floats.stride, (width, k), cols, out);
        if self.precision == Precision::Bf16 {
            bf16::round_all(self.isa, out);
        }
    }

    /// Packs depth `at ..` (a multiple of [`Self::depth_unit`]) of a right operand `[k, n]` from its rows
    /// `[depth, n]`.
    ///
    /// Panics on stored rows unless [`Self::packs_stored_bf16`].
    pub(crate) fn pack_rows(&self, rows: Rows<'_>, at: usize, k: usize, out: &mut [f32]) {
        if self.engine.is_some() {
            return bf16::pack_right(self.isa, rows, at, k, bf16::as_bf16(out));
        }
        let (floats, n) = (Self::floats(rows), rows.width());
        let (cols, height) = (tile::panel_cols(self.isa), rows.count());
        pack::pack_rows(floats.data, floats.stride, at..at + height, (k, n), cols, out);
        if self.precision == Precision::Bf16 {
            for panel in out[..pack::packed_len(n, k, cols)].chunks_exact_mut(cols * k) {
                bf16::round_all(self.isa, &mut panel[at * cols..][..height * cols]);
            }
        }
    }

    /// What an `f32` product packs.
    fn floats(rows: Rows<'_>) -> FloatRows<'_> {
        match rows {
            Rows::Floats(rows) => rows,
            Rows::Stored(_) => panic!("rows of stored bf16 for an f32 product"),
        }
    }

    /// Floats of room that [`Self::left`] takes.
    pub(crate) fn left_len(&self, m: usize, k: usize) -> usize {
        if self.engine.is_some() { bf16::left_len(m, k) / 2 } else { 0 }
    }

    /// A view `[m, k]` as a left operand, packed into `room` where the precision asks for it; one stride of the view is 1.
    pub(crate) fn left<'a>(&self, of: View<'a>, (m, k): (usize, usize), room: &'a mut [f32]) -> Left<'a> {
        if self.engine.is_none() {
            return Left::Floats(of);
        }
        of.check(m, k);
        let (stride, len) = (bf16::left_stride(k), bf16::left_len(m, k));
        let packed = &mut bf16::as_bf16(room)[..len];
        if of.col_stride == 1 {
            let rows = FloatRows::new(of.data, of.row_stride, (m, k));
            for (block, out) in packed.chunks_exact_mut(stride).enumerate() {
                let part = (block * bf16::SIDE).min(m)..((block + 1) * bf16::SIDE).min(m);
                bf16::pack_left(self.isa, rows.part(part), out);
            }
        } else {
            assert_eq!(of.row_stride, 1, "one stride of the left operand is 1");
            bf16::pack_left_transposed(self.isa, FloatRows::new(of.data, of.col_stride, (k, m)), packed);
        }
        Left::Packed { data: packed, stride }
    }

    /// `out[rows, n] (+)= left[rows, depth] right`, `right` packed with depth `depth.len()`.
    ///
    /// # Safety
    /// `out` points to `rows.len()` rows of `n` entries, `out_row` apart, that nobody else uses meanwhile; they hold
    /// numbers where `accumulate`.
    pub(crate) unsafe fn multiply(
        &self,
        left: Left<'_>,
        (rows, depth): (Range<usize>, Range<usize>),
        (right, n): (&[f32], usize),
        (out, out_row): (*mut f32, usize),
        accumulate: bool,
    ) {
        if rows.is_empty() || n == 0 {
            return;
        }
        if depth.is_empty() {
            for i in (0..rows.len()).filter(|_| !accumulate) {
                // SAFETY: row `i` of the caller's rows.
                unsafe { std::slice::from_raw_parts_mut(out.add(i * out_row), n) }.fill(0.0);
            }
            return;
        }
        let (m, k) = (rows.len(), depth.len());
        assert!(right.len() >= self.right_len(n, k), "a packed right operand of {k} x {n}");
        match (left, self.engine) {
            (Left::Floats(a), None) => {
                a.check(rows.end, depth.end);
                let first = rows.start * a.row_stride + depth.start * a.col_stride;
                let of = tile::Operands {
                    m,
                    n,
                    k,
                    a: a.data.as_ptr().wrapping_add(first),
                    a_row: a.row_stride,
                    a_col: a.col_stride,
                    b: right.as_ptr(),
                    b_row: None,
                    out,
                    out_row,
                    accumulate,
                };
                // SAFETY: an `Isa` is one that the machine has; the view and the right operand were checked above, `out` is
                // the caller's promise.
                unsafe { tile::multiply(self.isa, &of) }
            }
            (Left::Packed { data, stride }, Some(engine)) => {
                assert!(rows.start.is_multiple_of(2 * bf16::SIDE) && depth.start.is_multiple_of(bf16::DEPTH));
                let blocks = k.div_ceil(bf16::DEPTH);
                let first = rows.start / bf16::SIDE * stride + depth.start * bf16::SIDE;
                // a tile reads two blocks of rows at a time
                let last = (m.div_ceil(2 * bf16::SIDE) * 2 - 1) * stride + blocks * bf16::DEPTH * bf16::SIDE;
                assert!(first + last <= data.len(), "{rows:?} x {depth:?} of {} packed numbers", data.len());
                let of = bf16::Operands {
                    m,
                    n,
                    blocks,
                    left: data[first..].as_ptr(),
                    left_stride: stride,
                    right: right.as_ptr().cast(),
                    right_stride: blocks * bf16::DEPTH * bf16::SIDE,
                    out,
                    out_row,
                    accumulate,
                };
                // SAFETY: as above; the blocks were checked to be inside both operands.
                unsafe { bf16::multiply(engine, &of) }
            }
            _ => unreachable!("a left operand that this product made"),
        }
    }
}
