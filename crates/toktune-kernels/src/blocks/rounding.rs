//! Rounding rows to blocks, as ggml's reference functions do (`quantize_row_*_ref` of its `ggml-quants.c`).
//!
//! Sums are taken in the order in which they stand there, in single precision, so that the blocks are those that llama.cpp
//! writes, to the last bit. A block depends on its own weights alone.

use crate::weight_type::WeightType;
use half::f16;

/// Groups of weights that are smaller than this count as zeros.
const LEAST: f32 = 1e-15;

/// Rounds `values`, a run of whole blocks of finite numbers, to blocks of `dtype`; `None` for types that are not written, or a
/// run that ends inside a block.
pub(crate) fn round(dtype: WeightType, values: &[f32]) -> Option<Vec<u8>> {
    let block: fn(&[f32], &mut Vec<u8>) = match dtype {
        WeightType::Q4_0 => |x, out| around_zero(x, 8, out),
        WeightType::Q5_0 => |x, out| around_zero(x, 16, out),
        WeightType::Q4_1 => |x, out| from_minimum(x, 15, out),
        WeightType::Q5_1 => |x, out| from_minimum(x, 31, out),
        WeightType::Q8_0 => q8_0,
        WeightType::Q4K => |x, out| with_minima(x, &Steps { levels: 15, first: -1.0, count: 20 }, out),
        WeightType::Q5K => |x, out| with_minima(x, &Steps { levels: 31, first: -0.5, count: 15 }, out),
        WeightType::Q6K => q6_k,
        _ => return None,
    };
    let len = dtype.block_len();
    if !values.len().is_multiple_of(len) {
        return None;
    }
    let mut out = Vec::with_capacity(values.len() / len * dtype.block_bytes());
    values.chunks_exact(len).for_each(|values| block(values, &mut out));
    Some(out)
}

fn put_half(x: f32, out: &mut Vec<u8>) -> f32 {
    let half = f16::from_f32(x);
    out.extend(half.to_le_bytes());
    half.to_f32()
}

/// The inverse of a factor; 0 for 0.
fn inverse(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

/// The nearest integer of a number of at most 4194303, halves to even.
fn nearest(x: f32) -> i32 {
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23
    ((x + TO_INTEGER).to_bits() & 0x007F_FFFF) as i32 - 0x0040_0000
}

/// Numbers of 32 weights in the halves of 16 bytes, the first 16 in the low ones; before them fifth bits, if there are any.
fn put_numbers(numbers: [u8; 32], fifth: bool, out: &mut Vec<u8>) {
    if fifth {
        let bits = (0..32).fold(0u32, |bits, i| bits | u32::from(numbers[i] >> 4 & 1) << i);
        out.extend(bits.to_le_bytes());
    }
    out.extend((0..16).map(|i| (numbers[i] & 15) | (numbers[i + 16] & 15) << 4));
}

/// Q4_0 and Q5_0: the largest weight becomes `-half` steps.
fn around_zero(x: &[f32], half: u8, out: &mut Vec<u8>) {
    let largest = x.iter().fold(0f32, |largest, x| if largest.abs() < x.abs() { *x } else { largest });
    let d = largest / -f32::from(half);
    let id = inverse(d);
    put_half(d, out);
    let number = |i: usize| ((x[i] * id + (f32::from(half) + 0.5)) as i8 as u8).min(2 * half - 1);
    put_numbers(std::array::from_fn(number), half == 16, out);
}

/// Q4_1 and Q5_1: the smallest weight is 0 steps, the largest `levels`.
fn from_minimum(x: &[f32], levels: u8, out: &mut Vec<u8>) {
    let min = x.iter().fold(f32::MAX, |min, x| if *x < min { *x } else { min });
    let max = x.iter().fold(-f32::MAX, |max, x| if *x > max { *x } else { max });
    let d = (max - min) / f32::from(levels);
    let id = inverse(d);
    put_half(d, out);
    put_half(min, out);
    let number = |i: usize| (((x[i] - min) * id + 0.5) as u8).min(levels);
    put_numbers(std::array::from_fn(number), levels == 31, out);
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let d = x.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 127.0;
    let id = inverse(d);
    put_half(d, out);
    // halves away from zero
    out.extend(x.iter().map(|x| (x * id).round() as i8 as u8));
}

/// Which scales Q4_K and Q5_K try for a group.
struct Steps {
    /// The highest number of a weight.
    levels: i32,
    first: f32,
    count: i32,
}

/// Eight groups of 32 weights, each with a 6-bit scale and minimum: Q4_K and Q5_K.
fn with_minima(x: &[f32], steps: &Steps, out: &mut Vec<u8>) {
    let mut numbers = [0u8; 256];
    let (mut scales, mut minima) = ([0f32; 8], [0f32; 8]);
    for (g, x) in x.chunks_exact(32).enumerate() {
        let squares = x.iter().fold(0f32, |sum, x| sum + x * x);
        let mean = (squares / 32.0).sqrt();
        let weights: [f32; 32] = std::array::from_fn(|i| mean + x[i].abs());
        (scales[g], minima[g]) = scale_and_minimum(x, &weights, steps, &mut numbers[32 * g..32 * g + 32]);
    }
    let largest = |of: &[f32; 8]| of.iter().fold(0f32, |largest, x| if *x > largest { *x } else { largest });
    let (max_scale, max_min) = (largest(&scales), largest(&minima));
    let steps_in = |largest: f32| if largest > 0.0 { 63.0 / largest } else { 0.0 };
    let six_bits = |of: &[f32; 8], inverse: f32| of.map(|x| (nearest(inverse * x) as u8).min(63));
    let (scale_bits, min_bits) =
        (six_bits(&scales, steps_in(max_scale)), six_bits(&minima, steps_in(max_min)));
    let d = put_half(max_scale / 63.0, out);
    let d_min = put_half(max_min / 63.0, out);
    out.extend((0..4).map(|g| scale_bits[g] | (scale_bits[g + 4] >> 4) << 6));
    out.extend((0..4).map(|g| min_bits[g] | (min_bits[g + 4] >> 4) << 6));
    out.extend((4..8).map(|g| (scale_bits[g] & 15) | (min_bits[g] & 15) << 4));
    // once more with the scales as they are stored
    for (g, x) in x.chunks_exact(32).enumerate() {
        let d = d * f32::from(scale_bits[g]);
        if d != 0.0 {
            let min = d_min * f32::from(min_bits[g]);
            for (number, x) in numbers[32 * g..].iter_mut().zip(x) {
                *number = nearest((x + min) / d).clamp(0, steps.levels) as u8;
            }
        }
    }
    if steps.levels == 31 {
        let fifth = |i: usize| (0..8).fold(0, |bits, g| bits | (numbers[32 * g + i] >> 4) << g);
        out.extend((0..32).map(fifth));
    }
    for pair in numbers.chunks_exact(64) {
        out.extend((0..32).map(|i| (pair[i] & 15) | (pair[i + 32] & 15) << 4));
    }
}

/// The scale and the minimum (less than zero, without its sign) of a group with the least weighted squares of what is lost:
/// ggml's `make_qkx2_quants`. `numbers` are set with them.
fn scale_and_minimum(x: &[f32], weights: &[f32; 32], steps: &Steps, numbers: &mut [u8]) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for (x, w) in x.iter().zip(weights).skip(1) {
        min = if *x < min { *x } else { min };
        max = if *x > max { *x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = min.min(0.0);
    if max == min {
        numbers.fill(0);
        return (0.0, -min);
    }
    let numbers_of = |inverse: f32, min: f32| -> [u8; 32] {
        std::array::from_fn(|i| nearest(inverse * (x[i] - min)).clamp(0, steps.levels) as u8)
    };
    let lost = |numbers: &[u8], scale: f32, min: f32| {
        let each = numbers.iter().zip(x).zip(weights);
        each.fold(0f32, |sum, ((l, x), w)| {
            let diff = scale * f32::from(*l) + min - x;
            sum + w * (diff * diff)
        })
    };
    let inverse = steps.levels as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    numbers.copy_from_slice(&numbers_of(inverse, min));
    let mut best = lost(numbers, scale, min);
    for step in 0..=steps.count {
        // counted from the minimum that a former step has found
        let inverse = (steps.first + 0.1 * step as f32 + steps.levels as f32) / (max - min);
        let tried = numbers_of(inverse, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
        for ((l, x), w) in tried.iter().zip(x).zip(weights) {
            let l = f32::from(*l);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let error = lost(&tried, this_scale, this_min);
            if error < best {
                numbers.copy_from_slice(&tried);
                (best, scale, min) = (error, this_scale, this_min);
            }
        }
    }
    (scale, -min)
}

/// Sixteen groups of 16 weights with an 8-bit scale each.
fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let mut numbers = [0u8; 256];
    let mut scales = [0f32; 16];
    for (g, x) in x.chunks_exact(16).enumerate() {
        scales[g] = scale_around_zero(x, &mut numbers[16 * g..16 * g + 16]);
    }
    let largest = scales.iter().fold(0f32, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
    if largest.abs() < LEAST {
        out.extend([0; 210]);
        return;
    }
    let inverse = -128.0 / largest;
    let bits = scales.map(|scale| nearest(inverse * scale).min(127) as i8);
    let d = f16::from_f32(1.0 / inverse);
    for (g, x) in x.chunks_exact(16).enumerate() {
        let d = d.to_f32() * f32::from(bits[g]);
        if d != 0.0 {
            for (number, x) in numbers[16 * g..].iter_mut().zip(x) {
                *number = (nearest(x / d).clamp(-32, 31) + 32) as u8;
            }
        }
    }
    for half in numbers.chunks_exact(128) {
        out.extend((0..64).map(|i| (half[i] & 15) | (half[i + 64] & 15) << 4));
    }
    for half in numbers.chunks_exact(128) {
        let top = |i: usize| (0..4).fold(0, |bits, run| bits | (half[32 * run + i] >> 4) << (2 * run));
        out.extend((0..32).map(top));
    }
    out.extend(bits.map(|scale| scale as u8));
    out.extend(d.to_le_bytes());
}

/// The scale of a group with the least weighted squares of what is lost, large weights counting more: ggml's `make_qx_quants`.
/// `numbers` are set with it, 32 more than they are.
fn scale_around_zero(x: &[f32], numbers: &mut [u8]) -> f32 {
    const HALF: f32 = 32.0;
    let largest = x.iter().fold(0f32, |largest, x| if x.abs() > largest.abs() { *x } else { largest });
    if largest.abs() < LEAST {
        numbers.fill(0);
        return 0.0;
    }
    let number = |inverse: f32, x: f32| nearest(inverse * x).clamp(-32, 31);
    // the sums of w x l and of w l l
    let sums = |inverse: f32| {
        x.iter().fold((0f32, 0f32), |(sum_lx, sum_l2), &x| {
            let (l, w) = (number(inverse, x) as f32, x * x);
            (sum_lx + w * x * l, sum_l2 + w * l * l)
        })
    };
    let mut set = |inverse: f32| {
        numbers.iter_mut().zip(x).for_each(|(to, x)| *to = (number(inverse, *x) + 32) as u8);
    };
    let inverse = -HALF / largest;
    let (sum_lx, sum_l2) = sums(inverse);
    set(inverse);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let inverse = -(HALF + 0.1 * f32::from(step)) / largest;
        let (sum_lx, sum_l2) = sums(inverse);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            set(inverse);
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    scale
}
