//! Writing safetensors files of any size, a tensor at a time.
//!
//! The `safetensors` crate's writer wants all tensors at once; here the header is made from their sizes and
//! the data follow from wherever they come, so that memory does not grow with the file.

use crate::Bytes;
use crate::safetensors::split;
use crate::{Result, WeightsError};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes gathered before they go to the system.
const BUFFER: usize = 1 << 20;

/// What the header says of a tensor to be written.
#[derive(Clone, Debug)]
pub struct TensorHeader {
    /// Its name.
    pub name: String,
    /// As safetensors names the type.
    pub dtype: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// How many bytes it takes.
    pub bytes: u64,
}

/// Writes a new file with these tensors, in this order. `data` puts the bytes of the tensor of the given
/// index.
///
/// # Errors
/// The file cannot be written; `data` fails, or writes another number of bytes than it should.
pub fn write_safetensors<E: From<WeightsError>>(
    path: &Path,
    metadata: &Map<String, Value>,
    tensors: &[TensorHeader],
    data: impl FnMut(usize, &mut TensorOut<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut file = File::create_new(path).map_err(WeightsError::io(path))?;
    write_safetensors_into(path, &mut file, metadata, tensors, data)?;
    Ok(file.sync_all().map_err(WeightsError::io(path))?)
}

/// The same into an open and empty file, which `path` is called in messages; it is not synced.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_into<E: From<WeightsError>>(
    path: &Path,
    file: &mut File,
    metadata: &Map<String, Value>,
    tensors: &[TensorHeader],
    mut data: impl FnMut(usize, &mut TensorOut<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut out = TensorOut::new(path, file);
    let header = header(metadata, tensors);
    out.put(&(header.len() as u64).to_le_bytes())?;
    out.put(header.as_bytes())?;
    for (index, tensor) in tensors.iter().enumerate() {
        out.tensor(tensor, |out| data(index, out))?;
    }
    Ok(out.finish()?)
}

/// The header, filled up with spaces so that the data begin at a multiple of 8, as the reference writer does.
fn header(metadata: &Map<String, Value>, tensors: &[TensorHeader]) -> String {
    let mut object = Map::new();
    object.insert("__metadata__".into(), Value::Object(metadata.clone()));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.bytes;
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        object.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(object).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    header
}

/// The `__metadata__` of a safetensors file; empty when it has none.
///
/// # Errors
/// The file cannot be mapped, or its header is not sound.
pub fn read_metadata(path: &Path) -> Result<Map<String, Value>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        metadata: Option<Map<String, Value>>,
    }
    let bytes = Bytes::map(path)?;
    let (header, _) = split(path, &bytes)?;
    let header: Header = serde_json::from_slice(header).map_err(|source| WeightsError::Json {
        path: path.to_path_buf(),
        what: "the header",
        source,
    })?;
    Ok(header.metadata.unwrap_or_default())
}

/// Where the bytes of tensors go.
pub struct TensorOut<'a> {
    path: &'a Path,
    file: BufWriter<&'a mut File>,
    written: u64,
}

impl<'a> TensorOut<'a> {
    /// Into an open and empty file, which `path` is called in messages.
    pub(super) fn new(path: &'a Path, file: &'a mut File) -> Self {
        Self { path, file: BufWriter::with_capacity(BUFFER, file), written: 0 }
    }

    /// Writes a tensor by `data`, and makes sure that it has as many bytes as were announced.
    pub(super) fn tensor<E: From<WeightsError>>(
        &mut self,
        header: &TensorHeader,
        data: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.written;
        data(self)?;
        let written = self.written - before;
        if written != header.bytes {
            let what = format!("'{}' has {written} bytes, announced were {}", header.name, header.bytes);
            return Err(WeightsError::Serialise(what).into());
        }
        Ok(())
    }

    /// Writes zeros up to the next multiple of `alignment`.
    pub(super) fn align(&mut self, alignment: u64) -> Result<()> {
        let missing = self.written.next_multiple_of(alignment) - self.written;
        self.put(&vec![0; missing as usize])
    }

    /// Hands what is gathered to the system.
    pub(super) fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(WeightsError::io(self.path))
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// The system refuses; the error names the file.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).map_err(WeightsError::io(self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Safetensors;

    fn tensor(name: &str, dtype: &str, shape: &[usize], bytes: u64) -> TensorHeader {
        TensorHeader { name: name.into(), dtype: dtype.into(), shape: shape.into(), bytes }
    }

    #[test]
    fn what_is_written_is_read_by_us_and_by_the_reference_reader() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let tensors = [tensor("a \"b\"", "BF16", &[2, 1], 4), tensor("none", "F32", &[0], 0)];
        let tensors = [&tensors[..], &[tensor("c", "F32", &[1], 4)]].concat();
        let Value::Object(metadata) = json!({"format": "pt", "by": "x"}) else { unreachable!("an object") };
        let data = [&[1u8, 2, 3, 4][..], &[], &[0, 0, 0x80, 0x3F]];
        write_safetensors(&path, &metadata, &tensors, |i, out| out.put(data[i])).expect("written");
        assert_eq!(read_metadata(&path).expect("metadata"), metadata);
        let file = Safetensors::open(&path).expect("a sound file");
        let names: Vec<&str> = file.table().tensors().iter().map(|tensor| &*tensor.name).collect();
        assert_eq!(names, ["a \"b\"", "none", "c"]);
        assert_eq!(file.table().vector("c", 1).expect("a vector"), [1.0]);
        let bytes = std::fs::read(&path).expect("the file");
        let reference = ::safetensors::SafeTensors::deserialize(&bytes).expect("the reference reader");
        assert_eq!(reference.tensor("a \"b\"").expect("a tensor").data(), [1, 2, 3, 4]);
        assert_eq!((bytes.len() - 8) % 8, 0, "8 bytes of data behind an aligned header");
    }

    #[test]
    fn another_number_of_bytes_than_announced_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let result =
            write_safetensors(&path, &Map::new(), &[tensor("w", "F32", &[2], 8)], |_, out| out.put(&[0; 4]));
        let message = result.expect_err("too short").to_string();
        assert!(message.contains("'w' has 4 bytes, announced were 8"), "{message}");
    }

    #[test]
    fn a_file_without_metadata_has_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, crate::testing::safetensors("{}", &[])).expect("written");
        assert!(read_metadata(&path).expect("metadata").is_empty());
    }
}
