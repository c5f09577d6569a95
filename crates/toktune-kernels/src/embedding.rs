//! Gathering token rows and scattering their gradients.

use crate::Isa;
use crate::weight::Matrix;
use rayon::prelude::*;

/// Rows handled by one task.
const TASK_ROWS: usize = 64;

/// `out[i] = scale * table[ids[i]]`; overwrites `out [ids, d]`.
///
/// The scale is applied after trained rows have replaced frozen ones, as transformers' scaled embeddings do.
/// Panics when an id is past the table or `out` has another size.
pub fn gather(isa: Isa, ids: &[u32], table: &impl Matrix, scale: f32, out: &mut [f32]) {
    let d = table.cols();
    assert_eq!(out.len(), ids.len() * d, "{} rows of {d}", ids.len());
    out.par_chunks_mut(TASK_ROWS * d.max(1)).zip(ids.par_chunks(TASK_ROWS)).for_each(|(out, ids)| {
        for (row, &id) in out.chunks_exact_mut(d).zip(ids) {
            table.decode(isa, id as usize..id as usize + 1, 0..d, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
    });
}

/// Adds `scale * gradient[i]` to `sums[at]` for every `(i, at)` of `places`, in that order.
///
/// `gradient` is `[rows, d]`, `sums` is `[k, d]`. Panics when a place is outside of either.
pub fn scatter_add(
    isa: Isa,
    gradient: &[f32],
    places: &[(usize, usize)],
    scale: f32,
    d: usize,
    sums: &mut [f32],
) {
    for &(row, at) in places {
        crate::math::axpy(isa, &mut sums[at * d..][..d], scale, &gradient[row * d..][..d]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::{RowOrder, TokenTable, Weight, encode};
    use crate::weight_type::WeightType;

    #[test]
    fn trained_rows_come_before_the_scale_and_gradients_return_to_them() {
        let data = encode(WeightType::F32, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("a plain type");
        let base = Weight::new(WeightType::F32, &data, 3, 2, RowOrder::Plain).expect("a valid weight");
        let values = [10.0, 20.0];
        let table = TokenTable::new(base, &[], &[(1, 0)], &values);
        let mut out = vec![0.0; 8];
        gather(Isa::best(), &[2, 1, 0, 1], &table, 2.0, &mut out);
        assert_eq!(out, [10.0, 12.0, 20.0, 40.0, 2.0, 4.0, 20.0, 40.0]);
        let mut sums = vec![0.5; 2];
        scatter_add(Isa::best(), &out, &[(1, 0), (3, 0)], 2.0, 2, &mut sums);
        assert_eq!(sums, [80.5, 160.5]);
        gather(Isa::best(), &[], &table, 2.0, &mut []);
    }
}
