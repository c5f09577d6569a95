//! AMX: two by two tiles of 16 x 16 sums; each step multiplies 32 rows, 32 columns and 32 of depth.
//!
//! The instructions are written in assembly, since Rust's intrinsics for them are not stable. A thread's tile registers
//! hold nothing between two calls; they are configured once for all products of a task ([`session`]).

use super::{BLOCK, Operands, SIDE};
use std::arch::asm;
use std::cell::Cell;

/// Rows and columns of the sums of one step.
const WIDE: usize = 2 * SIDE;

/// Bytes from one row of a block to the next.
const ROW_BYTES: usize = 64;

/// The operand of LDTILECFG: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

thread_local! {
    /// Whether this thread's tile registers are configured.
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// The configuration of a thread's tile registers: they are given back when it goes, so that the system need not save them.
struct Session;

impl Session {
    /// # Safety
    /// AMX is available.
    unsafe fn start() -> Self {
        // SAFETY: the configuration is a valid one of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly))
        };
        CONFIGURED.set(true);
        Self
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        CONFIGURED.set(false);
        // SAFETY: there is a session only where AMX is available.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Runs `work` with this thread's tiles configured once for all its products.
///
/// # Safety
/// AMX is available.
pub(crate) unsafe fn session<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the caller's promise.
    let _session = (!CONFIGURED.get()).then(|| unsafe { Session::start() });
    work()
}

/// # Safety
/// As [`super::multiply`], where AMX is available.
pub(super) unsafe fn multiply(of: &Operands) {
    // SAFETY: passed on; the tiles are configured while the steps run.
    unsafe { session(|| steps(of, |at| step(of, at))) }
}

/// The operands of a step: two rows of blocks on each side, and 32 by 32 sums.
#[derive(Clone, Copy)]
struct Step {
    left: *const u16,
    right: *const u16,
    out: *mut f32,
    out_row: usize,
    accumulate: bool,
}

/// Cuts a product into steps.
///
/// # Safety
/// As [`super::multiply`]; `step` reads and writes what a [`Step`] says.
unsafe fn steps(of: &Operands, step: impl Fn(Step)) {
    let mut buffer = [0f32; WIDE * WIDE];
    for col in (0..of.n).step_by(WIDE) {
        for row in (0..of.m).step_by(WIDE) {
            let (height, width) = (WIDE.min(of.m - row), WIDE.min(of.n - col));
            // SAFETY: the blocks of this step are inside the operands, padding included; sums that reach past the result
            // go through the buffer.
            unsafe {
                let left = of.left.add(row / SIDE * of.left_stride);
                let right = of.right.add(col / SIDE * of.right_stride);
                let out = of.out.add(row * of.out_row + col);
                if (height, width) == (WIDE, WIDE) {
                    step(Step { left, right, out, out_row: of.out_row, accumulate: of.accumulate });
                    continue;
                }
                step(Step { left, right, out: buffer.as_mut_ptr(), out_row: WIDE, accumulate: false });
                for (i, sums) in buffer.chunks_exact(WIDE).enumerate().take(height) {
                    for (j, sum) in sums[..width].iter().enumerate() {
                        let to = out.add(i * of.out_row + j);
                        *to = if of.accumulate { *to + sum } else { *sum };
                    }
                }
            }
        }
    }
}

/// Two by two tiles of sums over the whole depth.
///
/// # Safety
/// The tiles are configured; two rows of blocks are readable at `left` and `right`, 32 rows of 32 floats at `out`
/// are writable, and readable where `accumulate`.
#[inline(always)]
unsafe fn step(of: &Operands, at: Step) {
    let Step { left, right, out, out_row, accumulate } = at;
    if of.blocks == 0 {
        return;
    }
    let stride = out_row * size_of::<f32>();
    // SAFETY: tiles 0 to 3 are the sums, 4 and 5 the left blocks, 6 and 7 the right ones; every address is inside what
    // the caller vouches for. The registers that change are named as outputs or clobbers.
    unsafe {
        asm!(
            "test {accumulate:e}, {accumulate:e}",
            "jnz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{out} + {stride}]",
            "tileloadd tmm1, [{out} + {stride} + 64]",
            "tileloadd tmm2, [{below} + {stride}]",
            "tileloadd tmm3, [{below} + {stride} + 64]",
            "3:",
            "tileloadd tmm4, [{left} + {row}]",
            "tileloadd tmm6, [{right} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right1} + {row}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{left1} + {row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, {block}",
            "add {left1}, {block}",
            "add {right}, {block}",
            "add {right1}, {block}",
            "dec {blocks}",
            "jnz 3b",
            "tilestored [{out} + {stride}], tmm0",
            "tilestored [{out} + {stride} + 64], tmm1",
            "tilestored [{below} + {stride}], tmm2",
            "tilestored [{below} + {stride} + 64], tmm3",
            accumulate = in(reg) accumulate as u32,
            out = in(reg) out,
            below = in(reg) out.wrapping_add(SIDE * out_row),
            stride = in(reg) stride,
            row = in(reg) ROW_BYTES,
            left = inout(reg) left => _,
            left1 = inout(reg) left.wrapping_add(of.left_stride) => _,
            right = inout(reg) right => _,
            right1 = inout(reg) right.wrapping_add(of.right_stride) => _,
            blocks = inout(reg) of.blocks => _,
            block = const BLOCK * 2,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::bf16::{left_len, left_stride, pack_left, pack_right_transposed, packed_len};
    use crate::operand::{FloatRows, Rows};
    use crate::testing::{assert_close, random};

    fn number(x: u16) -> f32 {
        f32::from_bits((x as u32) << 16)
    }

    /// A tile register: 16 rows of 64 bytes, as 32 bf16 or 16 floats.
    type Tile<T, const N: usize> = [[T; N]; 16];

    /// TILELOADD of rows of bf16, 64 bytes apart.
    unsafe fn load(from: *const u16) -> Tile<u16, 32> {
        // SAFETY: the caller's: a block of 1 KiB.
        std::array::from_fn(|i| std::array::from_fn(|j| unsafe { *from.add(i * ROW_BYTES / 2 + j) }))
    }

    /// TDPBF16PS, as Intel's manual has it: pairs of a row of `a` with pairs of a column of `b`.
    fn multiply_add(sums: &mut Tile<f32, 16>, a: &Tile<u16, 32>, b: &Tile<u16, 32>) {
        for m in 0..16 {
            for k in 0..16 {
                for n in 0..16 {
                    sums[m][n] += number(a[m][2 * k]) * number(b[k][2 * n]);
                    sums[m][n] += number(a[m][2 * k + 1]) * number(b[k][2 * n + 1]);
                }
            }
        }
    }

    /// What the assembly of [`step`] does, an instruction at a time.
    unsafe fn emulated(of: &Operands, at: Step) {
        for (half, side) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            // SAFETY: the caller's: two rows of blocks on each side, 32 by 32 sums.
            unsafe {
                let out = at.out.add(half * SIDE * at.out_row + side * SIDE);
                let mut sums: Tile<f32, 16> = std::array::from_fn(|i| {
                    std::array::from_fn(|j| if at.accumulate { *out.add(i * at.out_row + j) } else { 0.0 })
                });
                for block in 0..of.blocks {
                    let left = load(at.left.add(half * of.left_stride + block * BLOCK));
                    let right = load(at.right.add(side * of.right_stride + block * BLOCK));
                    multiply_add(&mut sums, &left, &right);
                }
                for (i, row) in sums.iter().enumerate() {
                    row.iter().enumerate().for_each(|(j, sum)| *out.add(i * at.out_row + j) = *sum);
                }
            }
        }
    }

    /// The cutting into steps, the blocks and the edges, with the instructions emulated: this needs no machine that has them.
    #[test]
    fn emulated_steps_give_the_product() {
        for (m, n, k) in [(1, 1, 1), (16, 16, 32), (17, 33, 33), (32, 64, 64), (40, 70, 100), (65, 32, 129)] {
            let (a, b) = (random(m * k, 1), random(n * k, 2));
            let exact = |x: &f32| number(super::super::round(*x)) as f64;
            let mut left = vec![0u16; left_len(m, k)];
            for (i, out) in left.chunks_exact_mut(left_stride(k)).enumerate() {
                let rows = &a[(i * SIDE * k).min(m * k)..((i + 1) * SIDE * k).min(m * k)];
                pack_left(Isa::PORTABLE, FloatRows::dense(rows, k), out);
            }
            let mut right = vec![0u16; packed_len(n, k)];
            let block = k.next_multiple_of(super::super::DEPTH) * SIDE;
            for (j, out) in right.chunks_exact_mut(block).enumerate().filter(|(j, _)| j * SIDE < n) {
                let rows = &b[j * SIDE * k..((j + 1) * SIDE * k).min(n * k)];
                pack_right_transposed(Isa::PORTABLE, Rows::floats(rows, k), out);
            }
            let product: Vec<f64> = (0..m * n)
                .map(|e| (0..k).map(|l| exact(&a[e / n * k + l]) * exact(&b[e % n * k + l])).sum())
                .collect();
            let mut out = vec![f32::NAN; m * n];
            for times in 1..=2 {
                let of = Operands {
                    m,
                    n,
                    blocks: k.div_ceil(super::super::DEPTH),
                    left: left.as_ptr(),
                    left_stride: left_stride(k),
                    right: right.as_ptr(),
                    right_stride: block,
                    out: out.as_mut_ptr(),
                    out_row: n,
                    accumulate: times == 2,
                };
                // SAFETY: the operands are whole vectors, and the emulation stays inside a step.
                unsafe { steps(&of, |at| emulated(&of, at)) };
                let expected: Vec<f64> = product.iter().map(|x| x * times as f64).collect();
                assert_close(&out, &expected, 1e-5, &format!("{m}x{n}x{k}, {times} times"));
            }
        }
    }
}
