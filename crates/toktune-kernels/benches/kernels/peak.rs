//! The most that the machine does: multiply-adds with everything in registers, and copies of memory too large for a cache.

use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;
use toktune_kernels::{Isa, Precision};

/// Sums that do not wait for one another: more than latency times units of any processor at hand.
const CHAINS: usize = 12;

/// A loop of multiply-adds, and the floating-point operations of one turn (a multiply-add is two).
#[derive(Clone, Copy)]
struct Loop {
    run: fn(u64),
    flops: u64,
}

/// The instructions that the kernels use for this precision.
fn fastest(isa: Isa, precision: Precision) -> Loop {
    let bf16 = precision == Precision::Bf16 && isa.has_bf16();
    match isa.name() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is a set that the machine has; `has_bf16` covers the rest. So for the arms below.
        "amx" if bf16 => Loop { run: |n| unsafe { x86::amx(n) }, flops: 4 * 2 * 16 * 16 * 32 },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        "avx512" if bf16 => Loop { run: |n| unsafe { x86::avx512_bf16(n) }, flops: CHAINS as u64 * 64 },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        "avx512" | "amx" => Loop { run: |n| unsafe { x86::avx512(n) }, flops: CHAINS as u64 * 32 },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        "avx2" => Loop { run: |n| unsafe { x86::avx2(n) }, flops: CHAINS as u64 * 16 },
        _ => Loop { run: portable, flops: CHAINS as u64 * 8 },
    }
}

/// GFLOP/s of one thread, or of all of them at once, over some milliseconds.
pub fn gflops(isa: Isa, precision: Precision, all_threads: bool) -> f64 {
    let Loop { run, flops } = fastest(isa, precision);
    let threads = if all_threads { rayon::current_num_threads() as u64 } else { 1 };
    let mut turns = 1 << 18;
    loop {
        let start = Instant::now();
        if all_threads {
            rayon::broadcast(|_| run(turns));
        } else {
            run(turns);
        }
        let seconds = start.elapsed().as_secs_f64();
        if seconds > 4e-3 {
            return (turns * flops * threads) as f64 / seconds / 1e9;
        }
        turns *= 2;
    }
}

/// Two arrays to copy between.
pub struct Memory {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Memory {
    /// 128 MiB each, touched.
    pub fn new() -> Self {
        Self { from: vec![1.0; 32 << 20], to: vec![0.0; 32 << 20] }
    }

    /// GB/s, read and written bytes together, with all threads.
    pub fn gigabytes(&mut self) -> f64 {
        const CHUNK: usize = 64 << 10; // small enough for ordinary stores, as kernels make them
        let start = Instant::now();
        let pairs = self.to.par_chunks_mut(CHUNK).zip(self.from.par_chunks(CHUNK));
        pairs.for_each(|(to, from)| to.copy_from_slice(from));
        let bytes = 2 * size_of_val(&self.to[..]);
        bytes as f64 / start.elapsed().as_secs_f64() / 1e9
    }

    /// GB/s of reading alone, with all threads: no cache holds what is read.
    pub fn gigabytes_read(&mut self) -> f64 {
        const CHUNK: usize = 64 << 10;
        let start = Instant::now();
        let sum = |chunk: &[f32]| chunk.iter().fold(0u32, |sum, x| sum.wrapping_add(x.to_bits()));
        let sums = self.from.par_chunks(CHUNK).map(sum).reduce(|| 0, u32::wrapping_add);
        black_box(sums);
        size_of_val(&self.from[..]) as f64 / start.elapsed().as_secs_f64() / 1e9
    }
}

/// A factor and a summand that keep the sums near 1.
fn operands() -> (f32, f32) {
    black_box((0.5, 0.5))
}

/// What the compilation target guarantees; the plain kernels multiply and add in two instructions.
fn portable(turns: u64) {
    let (a, b) = operands();
    let mut sums = black_box([[0f32; 4]; CHAINS]);
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = sum.map(|x| x * a + b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, operands};
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(turns: u64) {
        let (a, b) = operands();
        let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
        let mut sums = black_box([b; CHAINS]);
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub fn avx512(turns: u64) {
        let (a, b) = operands();
        let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
        let mut sums = black_box([b; CHAINS]);
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn avx512_bf16(turns: u64) {
        // SAFETY: both types are 512 bits without padding; a bf16 of any bits is a number.
        let a: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(black_box(0x3800_3800))) };
        let mut sums = black_box([_mm512_setzero_ps(); CHAINS]);
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, a);
            }
        }
        black_box(sums);
    }

    /// The operand of LDTILECFG: palette 1, eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Config([u8; 64]);

    /// Four sums and all pairs of two by two operands, as the kernel has them; the tiles hold zeros.
    ///
    /// # Safety
    /// The machine has AMX with bf16 and the system has given this process leave to use it.
    pub unsafe fn amx(turns: u64) {
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (64, 16);
        }
        // SAFETY: a valid configuration; every tile that is used is cleared, and given back at the end.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const config,
                turns = inout(reg) turns.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
