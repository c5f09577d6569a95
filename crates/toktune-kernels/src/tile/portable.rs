//! Plain Rust that the compiler turns into whatever vectors the target guarantees (SSE2 on x86-64, NEON on aarch64).

use super::dots::dots_with;
use super::{Dots, Operands, Vector, multiply_with};

const ROWS: usize = 6;
/// SSE2 has 16 registers of four floats, NEON has 32.
const VECTORS: usize = if cfg!(target_arch = "aarch64") { 2 } else { 1 };

/// Floats in a vector.
pub(super) const LEN: usize = Eight::LEN;

/// Columns of a packed panel.
pub(super) const COLS: usize = VECTORS * Eight::LEN;

/// Eight floats; two registers on most targets.
#[derive(Clone, Copy)]
struct Eight([f32; 8]);

impl Vector for Eight {
    const LEN: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: eight readable floats, the caller's promise; an array of floats has no stricter alignment.
        Self(unsafe { *at.cast() })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: eight writable floats, the caller's promise.
        unsafe { *at.cast() = self.0 }
    }

    #[inline(always)]
    unsafe fn splat(at: *const f32) -> Self {
        // SAFETY: one readable float, the caller's promise.
        Self([unsafe { *at }; 8])
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..8 {
            // where the target lacks a fused instruction, `mul_add` would be a call into the maths library
            self.0[i] = if cfg!(target_arch = "aarch64") {
                a.0[i].mul_add(b.0[i], self.0[i])
            } else {
                self.0[i] + a.0[i] * b.0[i]
            };
        }
        self
    }

    #[inline(always)]
    unsafe fn add(mut self, a: Self) -> Self {
        for i in 0..8 {
            self.0[i] += a.0[i];
        }
        self
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        // SAFETY: eight readable bf16, the caller's promise; an array of bytes has no alignment.
        let bytes = unsafe { at.cast::<[[u8; 2]; 8]>().read() };
        Self(bytes.map(|bytes| f32::from_bits((u16::from_le_bytes(bytes) as u32) << 16)))
    }
}

/// # Safety
/// As [`super::multiply`].
pub(super) unsafe fn multiply(of: &Operands) {
    // SAFETY: passed on; the instructions are those of the target.
    unsafe { multiply_with::<Eight, ROWS, VECTORS>(of) }
}

/// # Safety
/// As [`super::dots`].
pub(super) unsafe fn dots(of: &Dots<'_>) {
    // SAFETY: passed on.
    unsafe { dots_with::<Eight, 1>(of) }
}
