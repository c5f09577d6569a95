//! A model's weights in whichever format they come, behind one interface.
//!
//! Owns the choice of the format by what lies at a path. It does not know which tensors a model has or what
//! they are called in each format.

use crate::table::{Scaling, StoredTensor, TensorTable};
use crate::{FrozenMatrix, Gguf, Memory, Pytorch, Safetensors, gguf};
use crate::{Result, WeightsError};
use std::path::{Path, PathBuf};
use toktune_kernels::{RowOrder, WeightType};

/// The file of a model that has one.
pub const SINGLE: &str = "model.safetensors";

/// The file that names the others of a model that has several.
pub const INDEX: &str = "model.safetensors.index.json";

/// The same as `torch.save` writes them.
const PYTORCH: &str = "pytorch_model.bin";
const PYTORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// How many entries of a folder a message lists.
const LISTED: usize = 12;

/// A model's frozen weights. Clones share their bytes.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// One safetensors file, or several with an index.
    Safetensors(Safetensors),
    /// One file of `torch.save`, or several with an index.
    Pytorch(Pytorch),
    /// A GGUF file, or several that are parts of one model.
    Gguf(Gguf),
    /// Tensors that another program holds.
    Memory(Memory),
}

impl Checkpoint {
    /// Opens a `.safetensors`, `.bin` or `.gguf` file or an index, or a folder with the first there is of
    /// `model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin`, `pytorch_model.bin.index.json` and
    /// exactly one `.gguf` file, or the parts of one model.
    ///
    /// # Errors
    /// Nothing of that is there (the message says what is), or the file is not sound.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(WeightsError::io(path))?;
        if metadata.is_dir() {
            return Self::open_folder(path);
        }
        if has_extension(path, "gguf") {
            return Gguf::open(path).map(Self::Gguf);
        }
        if has_extension(path, "safetensors") {
            return Safetensors::open(path).map(Self::Safetensors);
        }
        if has_extension(path, "bin") {
            return Pytorch::open(path).map(Self::Pytorch);
        }
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if name.ends_with(".safetensors.index.json") {
            return Safetensors::open_index(path).map(Self::Safetensors);
        }
        if name.ends_with(".bin.index.json") {
            return Pytorch::open_index(path).map(Self::Pytorch);
        }
        Err(WeightsError::NoCheckpoint {
            path: path.to_path_buf(),
            wanted: "a .safetensors, .bin or .gguf file, an index of the first two (.index.json) or a folder",
            found: "a file of another kind".to_owned(),
        })
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        if folder.join(SINGLE).is_file() {
            return Safetensors::open(&folder.join(SINGLE)).map(Self::Safetensors);
        }
        if folder.join(INDEX).is_file() {
            return Safetensors::open_index(&folder.join(INDEX)).map(Self::Safetensors);
        }
        if folder.join(PYTORCH).is_file() {
            return Pytorch::open(&folder.join(PYTORCH)).map(Self::Pytorch);
        }
        if folder.join(PYTORCH_INDEX).is_file() {
            return Pytorch::open_index(&folder.join(PYTORCH_INDEX)).map(Self::Pytorch);
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(WeightsError::io(folder))? {
            entries.push(entry.map_err(WeightsError::io(folder))?.path());
        }
        entries.sort();
        let ggufs: Vec<&PathBuf> =
            entries.iter().filter(|path| has_extension(path, "gguf") && path.is_file()).collect();
        let first = match ggufs.as_slice() {
            [one] => Some(one.as_path()),
            several => gguf::one_model(several),
        };
        match first {
            Some(first) => Gguf::open(first).map(Self::Gguf),
            None => Err(WeightsError::NoCheckpoint {
                path: folder.to_path_buf(),
                wanted: "model.safetensors, pytorch_model.bin, an index of either (.index.json) or exactly one \
                         .gguf file",
                found: listing(&entries),
            }),
        }
    }

    fn table(&self) -> &TensorTable {
        match self {
            Checkpoint::Safetensors(safetensors) => safetensors.table(),
            Checkpoint::Pytorch(pytorch) => pytorch.table(),
            Checkpoint::Gguf(gguf) => gguf.table(),
            Checkpoint::Memory(memory) => memory.table(),
        }
    }

    /// Puts other values in the place of a tensor's, for all that read it from now on; the file stays as it is.
    ///
    /// # Errors
    /// There is no such tensor, it has another number of entries, or its type cannot be written.
    pub fn replace(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.table_mut().replace(name, values)
    }

    fn table_mut(&mut self) -> &mut TensorTable {
        match self {
            Checkpoint::Safetensors(safetensors) => safetensors.table_mut(),
            Checkpoint::Pytorch(pytorch) => pytorch.table_mut(),
            Checkpoint::Gguf(gguf) => gguf.table_mut(),
            Checkpoint::Memory(memory) => memory.table_mut(),
        }
    }

    /// From now on matrices of 8-bit floats are read, each with the scales that lie beside it.
    pub fn set_scaling(&mut self, scaling: Scaling) {
        self.table_mut().set_scaling(scaling);
    }

    /// Whether a tensor has scales beside it, without which it is not what the model computes with.
    pub fn is_scaled(&self, name: &str) -> bool {
        self.table().scales_of(name).is_some()
    }

    /// The names of the tensors that are not the file's.
    pub fn replaced(&self) -> impl Iterator<Item = &str> {
        self.table().replaced()
    }

    fn tensors(&self) -> &[StoredTensor] {
        self.table().tensors()
    }

    /// The file that was opened: the weights or their index.
    pub fn path(&self) -> &Path {
        self.table().path()
    }

    /// The names of all tensors, in the order of the data (of the files by name, when there are several).
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors().iter().map(|tensor| &*tensor.name)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.table().get(name).is_some()
    }

    /// The shape of a tensor, outermost first: `[rows, cols]` for a linear layer's weight.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.table().get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The file that holds a tensor: a shard, when there are several.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.table().get(name).map(|tensor| &*tensor.file)
    }

    /// The stored type of a tensor; `None` when there is no such tensor or its type cannot be decoded.
    pub fn dtype(&self, name: &str) -> Option<WeightType> {
        self.table().get(name).and_then(|tensor| tensor.dtype)
    }

    /// The format's own name of a tensor's type, decodable or not.
    pub fn type_name(&self, name: &str) -> Option<&str> {
        self.table().get(name).map(|tensor| tensor.type_name.as_str())
    }

    /// The bytes of a tensor as they are stored, whatever its type.
    pub fn stored_bytes(&self, name: &str) -> Option<&[u8]> {
        self.table().get(name).map(|tensor| &*tensor.bytes)
    }

    /// A `[rows, cols]` matrix, left where it is.
    ///
    /// # Errors
    /// There is no such tensor (the nearest name is told), it has another shape, or its type cannot be
    /// decoded.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize, order: RowOrder) -> Result<FrozenMatrix> {
        self.table().matrix(name, rows, cols, order)
    }

    /// Whether a tensor is stored as blocks of 4-bit floats with an exponent each (MXFP4), under its name and two endings.
    pub fn is_microscaled(&self, name: &str) -> bool {
        self.table().is_microscaled(name)
    }

    /// The matrices `[rows, cols]` that lie one after the other in a tensor `[count, rows, cols]`, left where they are; where
    /// it [is stored as blocks](Checkpoint::is_microscaled), blocks of the same size in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`].
    pub fn matrices(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<FrozenMatrix>> {
        self.table().matrices(name, count, rows, cols)
    }

    /// A vector of `len` entries, as `f32`: the weights of a norm, a bias.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`], and when an entry is a NaN or an infinity.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.table().vector(name, len)
    }

    /// A single number, stored with a dimension or without.
    ///
    /// # Errors
    /// As [`Checkpoint::vector`].
    pub fn number(&self, name: &str) -> Result<f32> {
        self.table().number(name)
    }

    /// The factors of a convolution of each column by itself, `[width, 1, taps]`, as `f32`.
    ///
    /// # Errors
    /// As [`Checkpoint::vector`].
    pub fn taps(&self, name: &str, width: usize, taps: usize) -> Result<Vec<f32>> {
        self.table().entries(name, &[width, 1, taps])
    }

    /// The GGUF file, for its metadata.
    pub fn as_gguf(&self) -> Option<&Gguf> {
        match self {
            Checkpoint::Safetensors(_) | Checkpoint::Pytorch(_) | Checkpoint::Memory(_) => None,
            Checkpoint::Gguf(gguf) => Some(gguf),
        }
    }

    /// A hash of all tensors, in hexadecimal digits: their names, types, shapes and bytes. Every byte is read for it.
    pub fn fingerprint(&self) -> String {
        let mut tensors: Vec<&StoredTensor> = self.tensors().iter().collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = blake3::Hasher::new();
        for tensor in tensors {
            hash.update(format!("{:?} {} {:?} ", tensor.name, tensor.type_name, tensor.shape).as_bytes());
            hash.update_rayon(&tensor.bytes);
        }
        hash.finalize().to_hex().to_string()
    }

    /// Bytes of all tensors as they are stored.
    pub fn total_bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// Entries of all tensors.
    pub fn total_parameters(&self) -> u64 {
        let entries = self.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64);
        // a tensor whose type is unknown, or whose entries share bytes, may be said to have any number of them
        entries.fold(0, u64::saturating_add)
    }
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

/// What is in a folder, for a message.
fn listing(entries: &[PathBuf]) -> String {
    let names: Vec<_> = entries.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > LISTED => format!("{} and {} more", names[..LISTED].join(", "), count - LISTED),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{GgufBytes, TorchFile, safetensors_f32};
    use std::fs;

    /// Names and contents.
    type Files<'a> = &'a [(&'a str, &'a [u8])];

    fn small_safetensors() -> Vec<u8> {
        safetensors_f32(&[
            ("model.embed_tokens.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            ("model.norm.weight", &[2], &[1.0, f32::NAN]),
        ])
    }

    fn small_gguf() -> Vec<u8> {
        GgufBytes::new().tensor("w", &[2], 0, &[0; 8]).build()
    }

    /// A folder with these files.
    fn folder(files: Files<'_>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).expect("a written file");
        }
        folder
    }

    #[test]
    fn the_format_is_found_by_what_lies_there() {
        let (safetensors, gguf) = (small_safetensors(), small_gguf());
        let index = br#"{"weight_map":{"model.norm.weight":"part.safetensors"}}"#;
        let index: (&str, &[u8]) = (INDEX, index);
        let torch = TorchFile::new().f32("model.norm.weight", &[1], &[1.0]).build();
        let torch_index = br#"{"weight_map":{"model.norm.weight":"part.bin"}}"#;
        let torch_index: (&str, &[u8]) = (PYTORCH_INDEX, torch_index);
        let cases: [(Files<'_>, &str, usize); 12] = [
            (&[(SINGLE, &safetensors), (PYTORCH, &torch)], "", 2),
            (&[(PYTORCH, &torch), ("a.gguf", &gguf), torch_index], "", 1),
            (&[("part.bin", &torch), ("a.gguf", &gguf), torch_index], "", 1),
            (&[("part.bin", &torch), torch_index], PYTORCH_INDEX, 1),
            (&[("part.bin", &torch)], "part.bin", 1),
            (&[(SINGLE, &safetensors), ("a.gguf", &gguf), index], "", 2),
            (&[("part.safetensors", &safetensors), index, ("a.gguf", &gguf)], "", 1),
            (&[("part.safetensors", &safetensors), index], INDEX, 1),
            (&[("a.gguf", &gguf), ("config.json", b"{}")], "", 1),
            (&[("a.GGUF", &gguf), ("b.gguf", b"")], "a.GGUF", 1),
            (&[("weights.safetensors", &safetensors)], "weights.safetensors", 2),
            (&[("a.gguf", &gguf)], "a.gguf", 1),
        ];
        for (files, name, count) in cases {
            let folder = folder(files);
            let path = if name.is_empty() { folder.path().to_path_buf() } else { folder.path().join(name) };
            let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
            assert_eq!(checkpoint.names().count(), count, "{name}");
            assert!(checkpoint.path().starts_with(folder.path()));
        }
    }

    #[test]
    fn where_there_is_no_model_the_message_says_what_there_is() {
        let gguf = small_gguf();
        let many: Vec<String> = (0..20).map(|i| format!("file{i:02}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let cases: [(Files<'_>, &str); 4] = [
            (&[], "there is nothing"),
            (&[("tf_model.h5", b"")], "there is tf_model.h5"),
            (&[("a.gguf", &gguf), ("b.gguf", &gguf)], "there is a.gguf, b.gguf"),
            (&many, "file11 and 8 more"),
        ];
        for (files, expected) in cases {
            let folder = folder(files);
            let error = Checkpoint::open(folder.path()).expect_err("no model");
            let message = error.to_string();
            assert!(matches!(error, WeightsError::NoCheckpoint { .. }), "{message}");
            assert!(message.contains(expected) && message.contains("pytorch_model.bin"), "{message}");
        }
        let folder = folder(&[("tf_model.h5", b"")]);
        let error = Checkpoint::open(&folder.path().join("tf_model.h5")).expect_err("another kind");
        assert!(matches!(error, WeightsError::NoCheckpoint { .. }), "{error}");
        let error = Checkpoint::open(&folder.path().join("none")).expect_err("nothing there");
        assert!(matches!(error, WeightsError::Io { .. }) && error.to_string().contains("none"), "{error}");
    }

    #[test]
    fn what_is_asked_for_is_compared_with_what_is_there() {
        let folder = folder(&[(SINGLE, &small_safetensors())]);
        let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
        let name = "model.embed_tokens.weight";
        assert!(checkpoint.contains(name) && !checkpoint.contains("lm_head.weight"));
        assert_eq!(checkpoint.shape(name), Some(&[2, 2][..]));
        assert_eq!(
            (checkpoint.dtype(name), checkpoint.type_name(name)),
            (Some(WeightType::F32), Some("F32"))
        );
        assert_eq!(checkpoint.stored_bytes(name).map(<[u8]>::len), Some(16));
        assert_eq!((checkpoint.total_bytes(), checkpoint.total_parameters()), (24, 6));
        assert!(checkpoint.as_gguf().is_none());
        assert_eq!(
            checkpoint.matrix(name, 2, 2, RowOrder::Plain).expect("a matrix").decode_rows(1..2),
            [3.0, 4.0]
        );

        let error =
            checkpoint.matrix("model.embed_token.weight", 2, 2, RowOrder::Plain).expect_err("no such tensor");
        assert!(matches!(error, WeightsError::MissingTensor { .. }), "{error}");
        assert!(error.to_string().ends_with("did you mean 'model.embed_tokens.weight'?"), "{error}");
        let error = checkpoint.vector("zzz", 2).expect_err("no such tensor");
        assert!(error.to_string().ends_with("there is no tensor 'zzz'"), "{error}");
        for (rows, cols) in [(4, 1), (2, 3)] {
            let error = checkpoint.matrix(name, rows, cols, RowOrder::Plain).expect_err("another shape");
            assert!(matches!(error, WeightsError::TensorShape { .. }), "{error}");
            assert!(
                error.to_string().contains(&format!("shape [2, 2], expected [{rows}, {cols}]")),
                "{error}"
            );
        }
        assert!(
            matches!(checkpoint.vector(name, 4), Err(WeightsError::TensorShape { .. })),
            "a matrix is no vector"
        );
        let error = checkpoint.vector("model.norm.weight", 2).expect_err("not finite");
        assert!(
            matches!(error, WeightsError::NonFinite { index: 1, .. }) && error.to_string().contains("NaN"),
            "{error}"
        );
        let order = RowOrder::Interleaved { head_dim: 4 };
        let error = checkpoint.matrix(name, 2, 2, order).expect_err("no whole head");
        assert!(matches!(error, WeightsError::Matrix { .. }) && error.to_string().contains(name), "{error}");
    }
}
