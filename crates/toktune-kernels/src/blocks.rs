//! The GGUF block formats: decoding runs of whole blocks to `f32`.

use crate::weight::WeightType;

/// Decodes `data`, a run of whole blocks of `dtype`, into `out`.
pub fn decode(dtype: WeightType, data: &[u8], out: &mut [f32]) {
    let _ = (dtype, data, out);
}
