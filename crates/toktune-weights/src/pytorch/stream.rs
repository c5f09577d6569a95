//! The stream that `torch.save` wrote before torch 1.6: four pickles, a list of the storages' keys, and the storages
//! one after the other, each behind the number of its entries.
//!
//! Nothing says how long a storage's entries are but the class that the dictionary's pickle gives for its key.

use super::pickle::{self, Value, Values};
use super::{Bytes, STORAGES, fault};
use crate::{Result, WeightsError};
use std::collections::HashMap;
use std::path::Path;

/// The number that such a file begins with, as a pickle has it.
const MAGIC: &[u8; 10] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The version of the stream, which never changed.
const PROTOCOL: u64 = 1001;

/// Whether a file can be such a stream: it begins with a pickle of version 2 or later.
pub(super) fn is_stream(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

/// The dictionary and the storages by their keys.
///
/// # Errors
/// The file is something else, is cut short, has numbers that are big-endian, or storages of an unknown class.
pub(super) fn read<'a>(path: &Path, bytes: &'a Bytes) -> Result<(Values<'a>, HashMap<&'a str, Bytes>)> {
    let mut at = 0;
    let mut next = || {
        let values = pickle::run_from(path, bytes, at)?;
        at = values.end();
        Ok::<_, WeightsError>(values)
    };
    let magic = next()?;
    if !matches!(magic.top(), Value::Long(number) if number == MAGIC) {
        return Err(super::no_torch_file(path, bytes));
    }
    let protocol = next()?;
    if !matches!(protocol.top(), Value::Int(number) if *number as u64 == PROTOCOL) {
        return Err(fault(path, format!("a stream of another version than {PROTOCOL}")));
    }
    if !is_little_endian(&next()?) {
        return Err(fault(path, "its numbers are big-endian; little-endian ones are read"));
    }
    let (values, keys) = (next()?, next()?);
    let storages = storages(path, bytes, &values, &keys)?;
    Ok((values, storages))
}

/// What the third pickle says of the machine; those that say nothing are of the common kind.
fn is_little_endian(system: &Values<'_>) -> bool {
    let pairs = system.pairs(system.top_id()).unwrap_or_default();
    let order = pairs.iter().find(|(key, _)| system.text(*key) == Some("little_endian"));
    !matches!(order.map(|(_, order)| system.get(*order)), Some(Value::Bool(false)))
}

fn storages<'a>(
    path: &Path,
    bytes: &'a Bytes,
    values: &Values<'a>,
    keys: &Values<'a>,
) -> Result<HashMap<&'a str, Bytes>> {
    let Value::List(listed) = keys.top() else {
        return Err(fault(path, "behind its dictionary there is no list of storages"));
    };
    let sizes = sizes(values);
    let (mut storages, mut at) = (HashMap::new(), keys.end());
    for key in listed {
        let Some(key) = keys.text(*key) else { return Err(fault(path, "the key of a storage is no text")) };
        let size = match sizes.get(key) {
            Some(Ok(size)) => *size as u64,
            Some(Err(class)) => {
                return Err(fault(path, format!("storage '{key}' is a {class}, which is not read")));
            }
            None => return Err(fault(path, format!("storage '{key}' belongs to no tensor"))),
        };
        let truncated = |needed: u64| {
            let (what, available) = (format!("storage '{key}'"), (bytes.len() - at) as u64);
            WeightsError::Truncated { path: path.to_path_buf(), what, needed, available }
        };
        let count = bytes[at..].first_chunk::<8>().ok_or_else(|| truncated(8))?;
        let needed = u64::from_le_bytes(*count).saturating_mul(size);
        let end = usize::try_from(needed).ok().and_then(|needed| (at + 8).checked_add(needed));
        let storage = end.and_then(|end| bytes.slice(at + 8..end));
        let storage = storage.ok_or_else(|| truncated(needed.saturating_add(8)))?;
        at += 8 + storage.len();
        if storages.insert(key, storage).is_some() {
            return Err(fault(path, format!("storage '{key}' is there twice")));
        }
    }
    Ok(storages)
}

/// Bytes of an entry of each storage that the dictionary refers to, or the name of a class that is not known.
fn sizes<'a>(values: &Values<'a>) -> HashMap<&'a str, std::result::Result<usize, &'a str>> {
    let size = |class: &'a str| {
        STORAGES.iter().find(|(known, _, _)| *known == class).map(|(_, _, size)| *size).ok_or(class)
    };
    let of = |id: pickle::Id| {
        let [_, class, key, ..] = *values.tuple(id)? else { return None };
        let Value::Global(_, class) = *values.get(class) else { return None };
        Some((values.text(key)?, size(class)))
    };
    values.outside().filter_map(of).collect()
}
