//! The block decoders against a reference that finds the bits of one weight at a time.

use super::*;
use crate::testing::{assert_close, each_isa, random_blocks};
use crate::weight::{Matrix, RowOrder, Weight};
use half::f16;

/// The types of blocks: all but the plain ones.
fn block_types() -> impl Iterator<Item = WeightType> {
    WeightType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1)
}

/// Bits `start..start + count` of the bytes from `at`, counted from the lowest bit of the first byte.
fn bits(block: &[u8], at: usize, start: usize, count: usize) -> u64 {
    (0..count).map(|i| ((block[at + (start + i) / 8] >> ((start + i) % 8)) as u64 & 1) << i).sum()
}

fn half(block: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f64()
}

/// The 6-bit scale and minimum of group `g` of a Q4_K or Q5_K block.
fn group(block: &[u8], g: usize) -> (f64, f64) {
    let at = 4;
    let (scale, min) = if g < 4 {
        (bits(block, at + g, 0, 6), bits(block, at + 4 + g, 0, 6))
    } else {
        let packed = at + 4 + g;
        let top = |byte: usize| bits(block, byte, 6, 2) << 4;
        (bits(block, packed, 0, 4) + top(at + g - 4), bits(block, packed, 4, 4) + top(at + g))
    };
    (half(block, 0) * scale as f64, half(block, 2) * min as f64)
}

/// Weight `i` of a block.
fn reference(dtype: WeightType, block: &[u8], i: usize) -> f64 {
    // the 4-bit part of weight i of a block of 32, whose bytes begin at `at`
    let nibble = |at: usize| bits(block, at + i % 16, 4 * (i / 16), 4) as f64;
    let fifth = |at: usize| 16.0 * bits(block, at, i, 1) as f64;
    // and of a block of 256
    let k_nibble = |at: usize| bits(block, at + 32 * (i / 64) + i % 32, 4 * (i / 32 % 2), 4) as f64;
    match dtype {
        WeightType::Q4_0 => half(block, 0) * (nibble(2) - 8.0),
        WeightType::Q4_1 => half(block, 0) * nibble(4) + half(block, 2),
        WeightType::Q5_0 => half(block, 0) * (nibble(6) + fifth(2) - 16.0),
        WeightType::Q5_1 => half(block, 0) * (nibble(8) + fifth(4)) + half(block, 2),
        WeightType::Q8_0 => half(block, 0) * (block[2 + i] as i8) as f64,
        WeightType::Q4K => {
            let (scale, min) = group(block, i / 32);
            scale * k_nibble(16) - min
        }
        WeightType::Q5K => {
            let (scale, min) = group(block, i / 32);
            scale * (k_nibble(48) + 16.0 * bits(block, 16 + i % 32, i / 32, 1) as f64) - min
        }
        WeightType::Q6K => {
            let (n, run, l) = (i / 128, i / 32 % 4, i % 32);
            let low = bits(block, 64 * n + 32 * (run % 2) + l, 4 * (run / 2), 4);
            let high = bits(block, 128 + 32 * n + l, 2 * run, 2);
            half(block, 208) * (block[192 + i / 16] as i8) as f64 * ((low + 16 * high) as f64 - 32.0)
        }
        WeightType::Q2K => {
            let q = bits(block, 16 + 32 * (i / 128) + i % 32, 2 * (i / 32 % 4), 2) as f64;
            let (scale, min) = (bits(block, i / 16, 0, 4) as f64, bits(block, i / 16, 4, 4) as f64);
            half(block, 80) * scale * q - half(block, 82) * min
        }
        WeightType::Q3K => {
            let q = bits(block, 32 + 32 * (i / 128) + i % 32, 2 * (i / 32 % 4), 2) as f64;
            let less = 4.0 - 4.0 * bits(block, i % 32, i / 32, 1) as f64;
            let g = i / 16;
            let scale =
                bits(block, 96 + g % 8, 4 * (g / 8), 4) + (bits(block, 104 + g % 4, 2 * (g / 4), 2) << 4);
            half(block, 108) * (scale as f64 - 32.0) * (q - less)
        }
        _ => table_reference(dtype, block, i),
    }
}

/// Weight `i` of a block of a format with a table, or of three values.
fn table_reference(dtype: WeightType, block: &[u8], i: usize) -> f64 {
    let iq4 = |q: u64| {
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113][q as usize] as f64
    };
    let eight = |grid: &[u16], index: u64, values: [f64; 3]| {
        values[(grid[index as usize] >> (2 * (i % 8)) & 3) as usize]
    };
    let four = |grid: &[u16], index: u64| (grid[index as usize] >> (4 * (i % 4)) & 7) as f64;
    let sign = |negative: bool| if negative { -1.0 } else { 1.0 };
    // the sign of a weight of eight from seven bits, the last one making their number even
    let of_seven = |seven: u64| match i % 8 {
        7 => sign(seven.count_ones() % 2 == 1),
        at => sign(seven >> at & 1 == 1),
    };
    let (low, mid, odd) = ([8.0, 25.0, 43.0], i / 8, |at: usize, g: usize| bits(block, at, 4 * g, 4) as f64);
    match dtype {
        WeightType::Iq4Nl => half(block, 0) * iq4(bits(block, 2 + i % 16, 4 * (i / 16), 4)),
        WeightType::Iq4Xs => {
            let g = i / 32;
            let scale = odd(4, g) + 16.0 * bits(block, 2, 2 * g, 2) as f64 - 32.0;
            half(block, 0) * scale * iq4(bits(block, 8 + 16 * g + i % 16, 4 * (i % 32 / 16), 4))
        }
        WeightType::Mxfp4 => {
            let q = bits(block, 1 + i % 16, 4 * (i / 16), 4);
            let (exponent, odd) = ((q >> 1 & 3) as i32, (q & 1) as f64 / 2.0);
            let size = if exponent == 0 { odd } else { (1.0 + odd) * 2f64.powi(exponent - 1) };
            sign(q >= 8) * size * 2f64.powi(block[0] as i32 - 127)
        }
        WeightType::Iq2Xxs => {
            let at = 2 + 8 * (i / 32);
            let entry = eight(&grids::IQ2_XXS, block[at + mid % 4] as u64, low);
            let scale = (bits(block, at + 4, 28, 4) as f64 + 0.5) / 4.0;
            half(block, 0) * scale * entry * of_seven(bits(block, at + 4, 7 * (mid % 4), 7))
        }
        WeightType::Iq2Xs => {
            let entry = eight(&grids::IQ2_XS, bits(block, 2 + 2 * mid, 0, 9), low);
            half(block, 0) * (odd(66, i / 16) + 0.5) / 4.0 * entry * of_seven(bits(block, 2 + 2 * mid, 9, 7))
        }
        WeightType::Iq2S => {
            let index = block[2 + mid] as u64 + (bits(block, 66, 2 * mid, 2) << 8);
            let entry = eight(&grids::IQ2_S, index, low) * sign(bits(block, 34, i, 1) == 1);
            half(block, 0) * (odd(74, i / 16) + 0.5) / 4.0 * entry
        }
        WeightType::Iq3Xxs => {
            let q = four(&grids::IQ3_XXS, block[2 + i / 4] as u64);
            let entry = if q == 7.0 { 62.0 } else { 8.0 * q + 4.0 };
            let at = 66 + 4 * (i / 32);
            let scale = (bits(block, at, 28, 4) as f64 + 0.5) / 2.0;
            half(block, 0) * scale * entry * of_seven(bits(block, at, 7 * (mid % 4), 7))
        }
        WeightType::Iq3S => {
            let index = block[2 + i / 4] as u64 + (bits(block, 66, i / 4, 1) << 8);
            let entry = (2.0 * four(&grids::IQ3_S, index) + 1.0) * sign(bits(block, 74, i, 1) == 1);
            half(block, 0) * (2.0 * odd(106, i / 32) + 1.0) * entry
        }
        WeightType::Iq1S => {
            let at = 34 + 2 * (i / 32);
            let index = block[2 + mid] as u64 + (bits(block, at, 3 * (mid % 4), 3) << 8);
            let shift = sign(bits(block, at, 15, 1) == 1) / 8.0;
            let scale = 2.0 * bits(block, at, 12, 3) as f64 + 1.0;
            half(block, 0) * scale * (eight(&grids::IQ1_S, index, [-1.0, 0.0, 1.0]) + shift)
        }
        WeightType::Iq1M => {
            let d: u64 = (0..4).map(|part| bits(block, 48 + 2 * part, 12, 4) << (4 * part)).sum();
            let index = block[mid] as u64 + (bits(block, 32, 4 * mid, 3) << 8);
            let shift = sign(bits(block, 32, 4 * mid + 3, 1) == 1) / 8.0;
            let scale = 2.0 * bits(block, 48 + 2 * (i / 64), 3 * (i / 16 % 4), 3) as f64 + 1.0;
            let entry = eight(&grids::IQ1_S, index, [-1.0, 0.0, 1.0]);
            f16::from_bits(d as u16).to_f64() * scale * (entry + shift)
        }
        WeightType::Tq1_0 => {
            let (byte, digit) = match i {
                0..160 => (i % 32, i / 32),
                160..240 => (32 + i % 16, (i - 160) / 16),
                _ => (48 + i % 4, (i - 240) / 4),
            };
            // a byte is a fraction of 256: multiplying it by 3 brings out one digit after the other
            let rest = block[byte] as u32 * 3u32.pow(digit as u32) % 256;
            half(block, 52) * ((rest * 3 / 256) as f64 - 1.0)
        }
        WeightType::Tq2_0 => {
            half(block, 64) * (bits(block, 32 * (i / 128) + i % 32, 2 * (i / 32 % 4), 2) as f64 - 1.0)
        }
        _ => panic!("no block type"),
    }
}

#[test]
fn every_type_decodes_as_the_reference_on_every_instruction_set() {
    each_isa(|isa| {
        for dtype in block_types() {
            for count in [0, 1, 2, 7] {
                // one byte further on as well: blocks in a file are not aligned
                for shift in [0, 1] {
                    let mut data = vec![0; shift];
                    data.extend(random_blocks(dtype, count, 5 + count as u64));
                    let data = &data[shift..];
                    let mut out = vec![f32::NAN; count * dtype.block_len()];
                    decode(isa, dtype, data, &mut out);
                    let expected: Vec<f64> = data
                        .chunks_exact(dtype.block_bytes())
                        .flat_map(|block| (0..dtype.block_len()).map(|i| reference(dtype, block, i)))
                        .collect();
                    assert_close(&out, &expected, 1e-6, &format!("{isa} {dtype} {count} blocks"));
                }
            }
        }
    });
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for dtype in block_types() {
        let data = random_blocks(dtype, 5, 11);
        let first = std::cell::OnceCell::new();
        each_isa(|isa| {
            let mut out = vec![0.0; 5 * dtype.block_len()];
            decode(isa, dtype, &data, &mut out);
            let out: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
            assert_eq!(first.get_or_init(|| out.clone()), &out, "{isa} {dtype}");
        });
    }
}

#[test]
fn every_half_is_converted() {
    for bits in 0..=u16::MAX {
        let (got, expected) = (half_at(&bits.to_le_bytes(), 0), f16::from_bits(bits).to_f32());
        assert!(got == expected || (got.is_nan() && expected.is_nan()), "{bits:#x}: {got} {expected}");
        assert_eq!(got.is_sign_negative(), expected.is_sign_negative(), "{bits:#x}");
    }
}

#[test]
fn panels_of_a_matrix_are_parts_of_the_whole() {
    let (heads, head_dim, blocks) = (2, 4, 3);
    let rows = heads * head_dim;
    each_isa(|isa| {
        for dtype in block_types() {
            let (unit, cols) = (dtype.block_len(), blocks * dtype.block_len());
            let data = random_blocks(dtype, rows * blocks, 17);
            let mut stored = vec![0.0; rows * cols];
            decode(isa, dtype, &data, &mut stored);
            for order in [RowOrder::Plain, RowOrder::Interleaved { head_dim }] {
                let weight = Weight::new(dtype, &data, rows, cols, order).expect("a valid weight");
                assert_eq!(weight.column_unit(), unit);
                for (row_range, from, to) in
                    [(0..rows, 0, 3), (1..6, 1, 3), (3..4, 1, 2), (0..8, 2, 2), (5..5, 0, 3)]
                {
                    let width = (to - from) * unit;
                    let mut panel = vec![f32::NAN; row_range.len() * width];
                    weight.decode(isa, row_range.clone(), from * unit..to * unit, &mut panel);
                    let expected: Vec<f32> = row_range
                        .clone()
                        .flat_map(|row| stored[order.stored(row) * cols + from * unit..][..width].to_vec())
                        .collect();
                    assert_eq!(panel, expected, "{isa} {dtype} {order:?} {row_range:?} blocks {from}..{to}");
                }
            }
        }
    });
}

#[test]
#[should_panic(expected = "end inside a Q5_K block")]
fn a_part_of_a_block_is_refused() {
    decode(Isa::best(), WeightType::Q5K, &[0; 175], &mut [0.0; 256]);
}

#[test]
#[should_panic(expected = "the length of decoded Q4_0 blocks")]
fn an_output_of_another_length_is_refused() {
    decode(Isa::best(), WeightType::Q4_0, &[0; 18], &mut [0.0; 31]);
}

/// The types that are written, in the order of the file of `tools/fixtures/make_gguf_blocks.py`.
const ROUNDED: [WeightType; 8] = [
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q5_0,
    WeightType::Q5_1,
    WeightType::Q8_0,
    WeightType::Q4K,
    WeightType::Q5K,
    WeightType::Q6K,
];

/// Numbers, and what ggml's reference functions round them to.
fn rounded() -> (Vec<f32>, Vec<(WeightType, Vec<u8>)>) {
    let mut file = &include_bytes!("rounded.bin")[..];
    let mut take = |count: usize| {
        let (taken, rest) = file.split_at(count);
        file = rest;
        taken.to_vec()
    };
    let values: Vec<f32> = take(2560 * 4).as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    let types = ROUNDED.map(|dtype| (dtype, take(dtype.bytes(1, 2560).expect("whole blocks"))));
    assert!(file.is_empty());
    (values, types.to_vec())
}

#[test]
fn blocks_are_rounded_as_ggml_rounds_them_to_the_last_bit() {
    let (values, types) = rounded();
    for (dtype, expected) in types {
        let found = round(dtype, &values).expect("a type that is written");
        let (size, len) = (dtype.block_bytes(), dtype.block_len());
        for (at, (found, expected)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(found, expected, "{dtype}: block {at} of {:?}", &values[at * len..(at + 1) * len]);
        }
        assert_eq!(found.len(), expected.len());
        // a block depends on its own weights alone
        let last = round(dtype, &values[values.len() - len..]).expect("a block");
        assert_eq!(last, expected[expected.len() - size..]);
    }
}

#[test]
fn what_is_rounded_is_near() {
    let (values, types) = rounded();
    for (dtype, expected) in types {
        let mut decoded = vec![0f32; values.len()];
        decode(Isa::best(), dtype, &expected, &mut decoded);
        for (row, (x, y)) in values.chunks(256).zip(decoded.chunks(256)).enumerate() {
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let lost = norm(&mut x.iter().zip(y).map(|(x, y)| x - y));
            let share = lost / norm(&mut x.iter().copied()).max(1e-30);
            // numbers of 1e-7 have no half-precision scale
            assert!(row == 4 || share < 0.12, "{dtype}: row {row} loses {share}");
        }
    }
}

#[test]
fn other_types_and_parts_of_blocks_are_not_written() {
    for dtype in WeightType::ALL.into_iter().filter(|dtype| !ROUNDED.contains(dtype)) {
        assert_eq!(round(dtype, &[0.0; 256]), None, "{dtype}");
    }
    for dtype in ROUNDED {
        assert_eq!(round(dtype, &[0.0; 300]), None, "{dtype}");
        assert_eq!(round(dtype, &[]), Some(Vec::new()), "{dtype}");
    }
}
