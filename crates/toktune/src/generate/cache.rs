//! Keys and values of the rows that have been computed, for the rows to come.

use crate::error::Result;
use crate::ops::KeyValues;
use candle_core::Tensor;

/// Rows a layer's buffers begin with, so that short texts grow them once or twice.
const FIRST_ROWS: usize = 64;

/// The keys and values of one sequence, for every block of a model.
///
/// A layer's buffers are written in place and doubled when they are full, so that `n` rows cost `O(n)`
/// copies; they are never shared, which is why a cache cannot be cloned. Layers with a window keep every row
/// too: the attention reads only those the window reaches.
#[derive(Debug)]
pub struct KeyValueCache {
    layers: Vec<Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    /// Room for at least `rows` rows; `None` before the first.
    buffers: Option<KeyValues>,
    rows: usize,
}

impl KeyValueCache {
    /// An empty cache for a model of this many blocks.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| Layer::default()).collect() }
    }

    /// Rows that every layer holds: the position of the next one.
    pub fn len(&self) -> usize {
        self.layers.iter().map(|layer| layer.rows).min().unwrap_or(0)
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys and values of one layer, with room behind the rows that are filled; `None` when none is.
    pub fn layer(&self, layer: usize) -> Option<&KeyValues> {
        self.layers[layer].buffers.as_ref()
    }

    /// Adds rows to one layer.
    ///
    /// # Errors
    /// They have another width than those before.
    pub fn append(&mut self, layer: usize, new: &KeyValues) -> Result<()> {
        let layer = &mut self.layers[layer];
        let rows = layer.rows + new.k.dim(0)?;
        let room = layer.buffers.as_ref().map_or(Ok(0), |buffers| buffers.k.dim(0))?;
        if rows > room {
            let room = rows.max(2 * room).max(FIRST_ROWS);
            let old = layer.buffers.take();
            layer.buffers = Some(KeyValues {
                k: grown(old.as_ref().map(|old| &old.k), layer.rows, &new.k, room)?,
                v: grown(old.as_ref().map(|old| &old.v), layer.rows, &new.v, room)?,
            });
        }
        if let Some(buffers) = &layer.buffers {
            buffers.k.slice_set(&new.k.contiguous()?, 0, layer.rows)?;
            buffers.v.slice_set(&new.v.contiguous()?, 0, layer.rows)?;
        }
        layer.rows = rows;
        Ok(())
    }
}

/// A buffer like `like` with `room` rows, the first `rows` of them those of `old`.
fn grown(old: Option<&Tensor>, rows: usize, like: &Tensor, room: usize) -> Result<Tensor> {
    let buffer = Tensor::zeros((room, like.dim(1)?), like.dtype(), like.device())?;
    if let Some(old) = old {
        buffer.slice_set(&old.narrow(0, 0, rows)?, 0, 0)?;
    }
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rows(first: usize, count: usize) -> KeyValues {
        let tensor = |sign: f32| {
            let values: Vec<f32> = (3 * first..3 * (first + count)).map(|x| sign * x as f32).collect();
            Tensor::from_vec(values, (count, 3), &Device::Cpu).expect("a tensor")
        };
        KeyValues { k: tensor(1.0), v: tensor(-1.0) }
    }

    #[test]
    fn rows_stay_as_they_were_appended_however_the_buffers_grow() {
        let mut cache = KeyValueCache::new(2);
        assert!(cache.is_empty() && cache.layer(0).is_none());
        let mut filled = 0;
        for count in [1, 0, 62, 1, 1, 200, 3] {
            cache.append(0, &rows(filled, count)).expect("appended");
            cache.append(1, &rows(filled, count)).expect("appended");
            filled += count;
            assert_eq!(cache.len(), filled);
            let expected = rows(0, filled);
            for layer in 0..2 {
                let found = cache.layer(layer).expect("a layer");
                for (found, expected) in [(&found.k, &expected.k), (&found.v, &expected.v)] {
                    let found = found.narrow(0, 0, filled).and_then(|t| t.to_vec2::<f32>()).expect("rows");
                    assert_eq!(found, expected.to_vec2::<f32>().expect("rows"), "{filled} rows");
                }
            }
        }
    }

    #[test]
    fn growth_is_amortised() {
        let mut cache = KeyValueCache::new(1);
        let (mut room, mut moves) = (0, 0);
        for at in 0..4096 {
            cache.append(0, &rows(at, 1)).expect("appended");
            let now = cache.layer(0).expect("a layer").k.dim(0).expect("rows");
            moves += usize::from(now != room);
            room = now;
        }
        assert_eq!((room, moves), (4096, 7));
    }

    #[test]
    fn another_width_is_refused() {
        let mut cache = KeyValueCache::new(1);
        cache.append(0, &rows(0, 2)).expect("appended");
        let wide = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let error = cache.append(0, &KeyValues { k: wide.clone(), v: wide }).expect_err("too wide");
        assert!(error.to_string().contains("3 <> 4"), "{error}");
        assert_eq!(cache.len(), 2);
    }
}
