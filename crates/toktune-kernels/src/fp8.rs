//! Decoding of 8-bit floats, as PyTorch's `float8_e4m3fn` and `float8_e5m2` are.
//!
//! The loops have no branches, which is what lets the compiler vectorise them.

use crate::isa::multiversion;

/// 2^120: between the exponent biases, 127 and 7.
const E4M3_SCALE: f32 = f32::from_bits((127 + 120) << 23);

/// 2^112: between the exponent biases, 127 and 15.
const E5M2_SCALE: f32 = f32::from_bits((127 + 112) << 23);

multiversion! {
    /// A sign, four bits of exponent, three of mantissa; no infinities, and a NaN where all bits are set.
    pub(crate) fn e4m3(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (x, byte) in out.iter_mut().zip(data) {
            let bits = *byte as u32;
            let magnitude = (f32::from_bits((bits & 0x7F) << 20) * E4M3_SCALE).to_bits();
            let special = if bits & 0x7F == 0x7F { 0x7FC0_0000 } else { 0 };
            *x = f32::from_bits(magnitude | special | (bits & 0x80) << 24);
        }
    }
}

multiversion! {
    /// A sign, five bits of exponent, two of mantissa: the upper half of a half-precision number.
    pub(crate) fn e5m2(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (x, byte) in out.iter_mut().zip(data) {
            let bits = *byte as u32;
            let magnitude = (f32::from_bits((bits & 0x7F) << 21) * E5M2_SCALE).to_bits();
            let special = if bits & 0x7C == 0x7C { 0xFF << 23 } else { 0 };
            *x = f32::from_bits(magnitude | special | (bits & 0x80) << 24);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_isa;
    use half::f16;

    /// By the definition of the format.
    fn e4m3_reference(byte: u8) -> f64 {
        let (exponent, mantissa) = ((byte >> 3 & 15) as i32, (byte & 7) as f64 / 8.0);
        let size = match exponent {
            15 if byte & 7 == 7 => f64::NAN,
            0 => mantissa * 2f64.powi(-6),
            _ => (1.0 + mantissa) * 2f64.powi(exponent - 7),
        };
        if byte & 0x80 != 0 { -size } else { size }
    }

    #[test]
    fn every_byte_is_decoded_on_every_instruction_set() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        each_isa(|isa| {
            let (mut four, mut five) = (vec![0f32; 256], vec![0f32; 256]);
            e4m3(isa, &bytes, &mut four);
            e5m2(isa, &bytes, &mut five);
            for byte in 0..=u8::MAX {
                let expected = [e4m3_reference(byte), f16::from_bits((byte as u16) << 8).to_f64()];
                for (got, expected) in [four[byte as usize], five[byte as usize]].into_iter().zip(expected) {
                    let same = got as f64 == expected || (got.is_nan() && expected.is_nan());
                    assert!(same, "{isa} {byte:#x}: {got} {expected}");
                    assert_eq!(got.is_sign_negative(), byte >= 0x80, "{isa} {byte:#x}");
                }
            }
            assert_eq!((four[0x7E], five[0x7B]), (448.0, 57344.0));
        });
    }
}
