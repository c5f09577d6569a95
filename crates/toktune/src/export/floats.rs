//! Tensors of plain floats as they are stored, read for being written or compared in another type.

use super::{MergedType, PANEL, first_beyond, not_finite};
use crate::peft::error::Result;
use crate::weights::{
    Bytes, Checkpoint, FrozenMatrix, RowOrder, TensorOut, WeightType, WeightsError, encode,
};
use std::collections::BTreeSet;

/// What the names of scales end in, those of weights and those of what a layer is given.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// A stored tensor whose entries are `F32`, `F16` or `BF16`.
#[derive(Clone, Copy)]
pub(super) struct StoredFloats<'a> {
    pub bytes: &'a [u8],
    pub dtype: WeightType,
}

impl<'a> StoredFloats<'a> {
    /// The tensor `name`; `None` where there is none or it is of another type.
    pub fn of(checkpoint: &'a Checkpoint, name: &str) -> Option<Self> {
        let dtype = checkpoint.dtype(name).filter(|dtype| MergedType::of(*dtype).is_some())?;
        Some(Self { bytes: checkpoint.stored_bytes(name)?, dtype })
    }

    /// How many entries it has.
    pub fn entries(&self) -> usize {
        self.bytes.len() / self.unit()
    }

    fn unit(&self) -> usize {
        self.dtype.bytes(1, 1).unwrap_or(1)
    }

    /// The values, a panel at a time.
    pub fn panels(self) -> impl Iterator<Item = Result<Vec<f32>>> + 'a {
        let (dtype, unit) = (self.dtype, self.unit());
        self.bytes.chunks(PANEL * unit).map(move |bytes| {
            let (entries, bytes) = (bytes.len() / unit, Bytes::owned(bytes.to_vec()));
            Ok(FrozenMatrix::new("", bytes, dtype, 1, entries, RowOrder::Plain)?.decode_rows(0..1))
        })
    }

    /// Writes all entries in `dtype`, each rounded once. Infinities stay what they are: masks are stored with them.
    ///
    /// # Errors
    /// A finite entry would become an infinity.
    pub fn write(&self, name: &str, dtype: WeightType, out: &mut TensorOut<'_>) -> Result<()> {
        if dtype == self.dtype {
            return Ok(out.put(self.bytes)?);
        }
        let mut start = 0;
        for values in self.panels() {
            let values = values?;
            if let Some(at) = first_beyond(&values, dtype).filter(|at| values[*at].is_finite()) {
                return Err(not_finite(format!("{name}, entry {}", start + at), values[at], dtype));
            }
            out.put(&in_type(dtype, &values, name)?)?;
            start += values.len();
        }
        Ok(())
    }

    /// Compares with what `found` has of it, which may have more rows and another type: the first entry, of those whose row is not
    /// in `but`, that is not the one of here in that type, and else the largest change of an entry by its rounding.
    pub fn compare(
        &self,
        found: &Self,
        width: usize,
        but: &BTreeSet<usize>,
    ) -> Result<std::result::Result<f32, usize>> {
        let (unit, mut start, mut most) = (found.unit(), 0, 0f32);
        let is_other = |start: usize, at: usize| !but.contains(&((start + at) / width.max(1)));
        for (values, read) in self.panels().zip(found.panels()) {
            let (values, read) = (values?, read?);
            let expected = in_type(found.dtype, &values, "")?;
            let stored = &found.bytes[start * unit..];
            let differ = |at: &usize| {
                let own = at * unit..(at + 1) * unit;
                expected.get(own.clone()) != stored.get(own) && is_other(start, *at)
            };
            if let Some(at) = (0..values.len()).find(differ) {
                return Ok(Err(start + at));
            }
            let others = values.iter().zip(&read).enumerate().filter(|(at, _)| is_other(start, *at));
            // the difference of two infinities is no number, which `max` passes over
            most = others.fold(most, |most, (_, (a, b))| most.max((a - b).abs()));
            start += values.len();
        }
        Ok(if start < self.entries() { Err(start) } else { Ok(most) })
    }
}

fn in_type(dtype: WeightType, values: &[f32], name: &str) -> Result<Vec<u8>> {
    let error = || WeightsError::Serialise(format!("{name} as {dtype}")).into();
    encode(dtype, values).ok_or_else(error)
}

/// The tensors of plain floats that can be written in another type: all but scales, which belong to numbers of 8 bits that stay
/// as they are.
pub(super) fn convertible(checkpoint: &Checkpoint) -> Vec<(&str, StoredFloats<'_>)> {
    let module = |name: &str| name.rsplit_once('.').map_or(String::new(), |(module, _)| module.to_owned());
    let scaled: BTreeSet<String> =
        checkpoint.names().filter(|name| checkpoint.is_scaled(name)).map(module).collect();
    let is_scale =
        |name: &str| SCALES.iter().any(|end| name.ends_with(end)) && scaled.contains(&module(name));
    let plain = checkpoint.names().filter(|name| !is_scale(name));
    plain.filter_map(|name| Some((name, StoredFloats::of(checkpoint, name)?))).collect()
}
