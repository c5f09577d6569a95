//! In which precision a model's products with frozen weights are taken.

use toktune_kernels::{Isa, Precision, WeightType};

/// What a user asks for; sums, activations and trained rows are `f32` in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrecisionMode {
    /// bf16 where the instruction set in use multiplies it (AMX, AVX512-BF16) and the weight has 16 bits or fewer, else
    /// `f32`; 8-bit floats with scales in `f32`, in which transformers dequantises them. Text is generated from quantised
    /// weights in integers, with activations rounded to 8 bits; losses and gradients never are.
    #[default]
    Auto,
    /// `f32`, for parity with another implementation.
    F32,
    /// bf16; without instructions for it the operands are rounded to bf16 and multiplied in `f32`, which is no faster.
    Bf16,
}

impl PrecisionMode {
    /// The precision of products with a weight of type `dtype` that run with `isa`.
    pub fn of(self, isa: Isa, dtype: WeightType) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Auto if isa.has_fast_bf16() && !needs_f32(dtype) => Precision::Bf16,
            Self::Auto => Precision::F32,
        }
    }
}

/// Whether bf16 would round the weights to fewer digits than their checkpoint's own computation has.
fn needs_f32(dtype: WeightType) -> bool {
    matches!(dtype, WeightType::F32 | WeightType::F8E4M3 | WeightType::F8E5M2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_and_the_machine_decide() {
        for (isa, dtype) in Isa::available().flat_map(|isa| WeightType::ALL.map(|dtype| (isa, dtype))) {
            assert_eq!(PrecisionMode::F32.of(isa, dtype), Precision::F32);
            assert_eq!(PrecisionMode::Bf16.of(isa, dtype), Precision::Bf16);
            let exact = [WeightType::F32, WeightType::F8E4M3, WeightType::F8E5M2].contains(&dtype);
            let fast = isa.has_fast_bf16() && !exact;
            assert_eq!(PrecisionMode::Auto.of(isa, dtype) == Precision::Bf16, fast, "{isa} {dtype}");
        }
    }
}
