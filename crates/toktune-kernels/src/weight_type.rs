//! The types in which frozen weights are stored, and how many bytes each takes.

use std::fmt;

/// A type in which a frozen weight may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// GGUF: 32 4-bit weights with a scale.
    Q4_0,
    /// GGUF: 32 4-bit weights with a scale and a minimum.
    Q4_1,
    /// GGUF: 32 5-bit weights with a scale.
    Q5_0,
    /// GGUF: 32 5-bit weights with a scale and a minimum.
    Q5_1,
    /// GGUF: 32 8-bit weights with a scale.
    Q8_0,
    /// GGUF: 256 2-bit weights, sixteen 4-bit scales and minima.
    Q2K,
    /// GGUF: 256 3-bit weights, sixteen 6-bit scales.
    Q3K,
    /// GGUF: 256 4-bit weights, eight 6-bit scales and minima.
    Q4K,
    /// GGUF: 256 5-bit weights, eight 6-bit scales and minima.
    Q5K,
    /// GGUF: 256 6-bit weights, sixteen 8-bit scales.
    Q6K,
    /// GGUF: 256 weights by a table of 2048 times eight, eight 3-bit scales.
    Iq1S,
    /// GGUF: 256 weights by a table of 2048 times eight, sixteen 3-bit scales.
    Iq1M,
    /// GGUF: 256 weights by a table of 256 times eight, eight 4-bit scales.
    Iq2Xxs,
    /// GGUF: 256 weights by a table of 512 times eight, sixteen 4-bit scales.
    Iq2Xs,
    /// GGUF: 256 weights by a table of 1024 times eight, sixteen 4-bit scales.
    Iq2S,
    /// GGUF: 256 weights by a table of 256 times four, eight 4-bit scales.
    Iq3Xxs,
    /// GGUF: 256 weights by a table of 512 times four, eight 4-bit scales.
    Iq3S,
    /// GGUF: 32 weights by a table of 16, with a scale.
    Iq4Nl,
    /// GGUF: 256 weights by a table of 16, eight 6-bit scales.
    Iq4Xs,
    /// GGUF: 256 weights of three values, five in a byte, with a scale.
    Tq1_0,
    /// GGUF: 256 weights of three values, four in a byte, with a scale.
    Tq2_0,
    /// GGUF: 32 4-bit floats with a power of two.
    Mxfp4,
    /// 8-bit floats with three bits of mantissa, which need [`Scales`](crate::weight::Scales).
    F8E4M3,
    /// 8-bit floats with two bits of mantissa, which need [`Scales`](crate::weight::Scales).
    F8E5M2,
}

impl WeightType {
    /// Every type.
    pub const ALL: [WeightType; 27] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::BF16,
        WeightType::Q4_0,
        WeightType::Q4_1,
        WeightType::Q5_0,
        WeightType::Q5_1,
        WeightType::Q8_0,
        WeightType::Q2K,
        WeightType::Q3K,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
        WeightType::Iq1S,
        WeightType::Iq1M,
        WeightType::Iq2Xxs,
        WeightType::Iq2Xs,
        WeightType::Iq2S,
        WeightType::Iq3Xxs,
        WeightType::Iq3S,
        WeightType::Iq4Nl,
        WeightType::Iq4Xs,
        WeightType::Tq1_0,
        WeightType::Tq2_0,
        WeightType::Mxfp4,
        WeightType::F8E4M3,
        WeightType::F8E5M2,
    ];

    /// The types that a GGUF file can have: all but the 8-bit floats.
    pub const GGUF: &'static [WeightType] = WeightType::ALL.split_at(25).0;

    /// The name, weights in a block and bytes of a block.
    #[rustfmt::skip]
    const fn layout(self) -> (&'static str, usize, usize) {
        match self {
            WeightType::F32 => ("F32", 1, 4),
            WeightType::F16 => ("F16", 1, 2),
            WeightType::BF16 => ("BF16", 1, 2),
            WeightType::Q4_0 => ("Q4_0", 32, 18),
            WeightType::Q4_1 => ("Q4_1", 32, 20),
            WeightType::Q5_0 => ("Q5_0", 32, 22),
            WeightType::Q5_1 => ("Q5_1", 32, 24),
            WeightType::Q8_0 => ("Q8_0", 32, 34),
            WeightType::Q2K => ("Q2_K", 256, 84),
            WeightType::Q3K => ("Q3_K", 256, 110),
            WeightType::Q4K => ("Q4_K", 256, 144),
            WeightType::Q5K => ("Q5_K", 256, 176),
            WeightType::Q6K => ("Q6_K", 256, 210),
            WeightType::Iq1S => ("IQ1_S", 256, 50),
            WeightType::Iq1M => ("IQ1_M", 256, 56),
            WeightType::Iq2Xxs => ("IQ2_XXS", 256, 66),
            WeightType::Iq2Xs => ("IQ2_XS", 256, 74),
            WeightType::Iq2S => ("IQ2_S", 256, 82),
            WeightType::Iq3Xxs => ("IQ3_XXS", 256, 98),
            WeightType::Iq3S => ("IQ3_S", 256, 110),
            WeightType::Iq4Nl => ("IQ4_NL", 32, 18),
            WeightType::Iq4Xs => ("IQ4_XS", 256, 136),
            WeightType::Tq1_0 => ("TQ1_0", 256, 54),
            WeightType::Tq2_0 => ("TQ2_0", 256, 66),
            WeightType::Mxfp4 => ("MXFP4", 32, 17),
            WeightType::F8E4M3 => ("F8_E4M3", 1, 1),
            WeightType::F8E5M2 => ("F8_E5M2", 1, 1),
        }
    }

    /// Weights in a block; 1 for the plain types.
    pub const fn block_len(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Bytes of `rows` rows of `cols` weights; `None` when `cols` is no multiple of the block or the size overflows.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())?.checked_mul(rows)
    }

    /// The name GGUF and safetensors use (`F32`, `BF16`, `Q4_K`).
    pub const fn name(self) -> &'static str {
        self.layout().0
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
