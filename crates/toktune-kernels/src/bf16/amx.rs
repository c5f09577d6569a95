//! AMX: two by two tiles of 16 x 16 sums; each step multiplies 32 rows, 32 columns and 32 of depth.
//!
//! The instructions are written in assembly, since Rust's intrinsics for them are not stable. A thread's tile registers
//! hold nothing between two calls: they are configured at the start and released at the end.

use super::{BLOCK, Operands, SIDE};
use std::arch::asm;

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

/// # Safety
/// As [`super::multiply`], where [`is_available`].
pub(super) unsafe fn multiply(of: &Operands) {
    let mut buffer = [0f32; WIDE * WIDE];
    // SAFETY: AMX is available, and the configuration is a valid one of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly)) };
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
                    step(of, left, right, out, of.out_row, of.accumulate);
                } else {
                    step(of, left, right, buffer.as_mut_ptr(), WIDE, false);
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
    // SAFETY: gives the tiles back, so that the system need not save them.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
}

/// Two by two tiles of sums over the whole depth.
///
/// # Safety
/// The tiles are configured; two rows of blocks are readable at `left` and `right`, 32 rows of 32 floats at `out`
/// are writable, and readable where `accumulate`.
#[inline(always)]
unsafe fn step(
    of: &Operands,
    left: *const u16,
    right: *const u16,
    out: *mut f32,
    out_row: usize,
    accumulate: bool,
) {
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
