//! Files built from bytes, for tests: sound ones, and such as no writer would write.

/// A metadata pair or a tensor is written as it is told, sound or not.
#[derive(Clone, Default)]
pub struct GgufBytes {
    /// The version that the file says it has.
    pub version: u32,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

/// A length and the bytes: how GGUF writes text.
pub fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// An array's type, length and entries.
pub fn array(id: u32, count: u64, entries: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &count.to_le_bytes()[..], entries].concat()
}

impl GgufBytes {
    /// A file of version 3 with nothing in it.
    pub fn new() -> Self {
        Self { version: 3, ..Self::default() }
    }

    /// Adds a metadata pair: the type's number and the value's bytes.
    pub fn pair(mut self, key: impl AsRef<[u8]>, id: u32, value: &[u8]) -> Self {
        self.pairs.push([&text(key)[..], &id.to_le_bytes()[..], value].concat());
        self
    }

    /// Adds an entry to the table alone; `dims` innermost first.
    pub fn entry(mut self, name: &str, dims: &[u64], id: u32, offset: u64) -> Self {
        let mut entry = text(name);
        entry.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| entry.extend(dim.to_le_bytes()));
        entry.extend(id.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    /// Adds a tensor with its data, at the next multiple of 32.
    pub fn tensor(mut self, name: &str, dims: &[u64], id: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend(data);
        self.entry(name, dims, id, offset)
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        self.build_with_counts(self.tensors.len() as u64, self.pairs.len() as u64)
    }

    /// The file with other counts than it has.
    pub fn build_with_counts(&self, tensors: u64, pairs: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(tensors.to_le_bytes());
        out.extend(pairs.to_le_bytes());
        self.pairs.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// A safetensors file with this header.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A safetensors file with these `F32` tensors, one after the other.
pub fn safetensors_f32(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let end = data.len();
        entries
            .push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
    }
    safetensors(&format!("{{{}}}", entries.join(",")), &data)
}

/// A file as `torch.save` writes it.
pub struct TorchFile {
    /// The pickle up to what ends it.
    pub program: Vec<u8>,
    /// The zip archive's files, by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// Compression method of the archive's files.
    pub method: u16,
}

impl Default for TorchFile {
    fn default() -> Self {
        Self::new()
    }
}

impl TorchFile {
    /// A file without tensors.
    pub fn new() -> Self {
        let program = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
        Self { program, files: vec![("m/byteorder".into(), b"little".to_vec())], method: 0 }
    }

    /// Adds a storage; tensors call it by the number of those before it.
    pub fn storage(mut self, bytes: &[u8]) -> Self {
        let number = self.files.len() - 1;
        self.files.push((format!("m/data/{number}"), bytes.to_vec()));
        self
    }

    /// Adds a tensor in a storage that is there, of one of torch's classes of storages.
    pub fn tensor(
        mut self,
        name: &str,
        class: &str,
        key: usize,
        offset: u64,
        shape: &[u64],
        strides: &[u64],
    ) -> Self {
        let out = &mut self.program;
        push_text(out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        push_text(out, "storage");
        out.extend(format!("ctorch\n{class}\n").as_bytes());
        push_text(out, &key.to_string());
        push_text(out, "cpu");
        push_number(out, 0);
        out.extend(b"tQ");
        push_number(out, offset);
        for numbers in [shape, strides] {
            out.push(b'(');
            numbers.iter().for_each(|number| push_number(out, *number));
            out.push(b't');
        }
        out.extend(b"\x89h\x00)RtR");
        self
    }

    /// Adds a tensor with a storage of its own.
    pub fn f32(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let strides: Vec<u64> = (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect();
        let key = self.files.len() - 1;
        self.storage(&bytes).tensor(name, "FloatStorage", key, 0, shape, &strides)
    }

    /// Adds a value that is no tensor, by its instructions.
    pub fn value(mut self, name: &str, instructions: &[u8]) -> Self {
        push_text(&mut self.program, name);
        self.program.extend(instructions);
        self
    }

    /// The file.
    pub fn build(self) -> Vec<u8> {
        let program = [&self.program[..], b"u."].concat();
        self.build_with(&program)
    }

    /// The same as torch wrote it before 1.6; `sizes` are the bytes of an entry of each storage.
    pub fn build_stream(self, sizes: &[usize]) -> Vec<u8> {
        let mut out =
            b"\x80\x02\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}".to_vec();
        push_text(&mut out, "little_endian");
        out.extend(b"\x88s.");
        out.extend(&self.program);
        out.extend(b"u.\x80\x02](");
        (0..sizes.len()).for_each(|key| push_text(&mut out, &key.to_string()));
        out.extend(b"e.");
        for ((_, bytes), size) in self.files[1..].iter().zip(sizes) {
            out.extend(((bytes.len() / size) as u64).to_le_bytes());
            out.extend(bytes);
        }
        out
    }

    /// The file with another program.
    pub fn build_with(mut self, program: &[u8]) -> Vec<u8> {
        self.files.insert(0, ("m/data.pkl".into(), program.to_vec()));
        zip(&self.files, self.method)
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend(*b"\x8a\x08");
    out.extend(number.to_le_bytes());
}

/// A zip archive of files that are stored as they are, whatever `method` says.
pub fn zip(files: &[(String, Vec<u8>)], method: u16) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let sizes = [bytes.len() as u32, bytes.len() as u32];
        // version, flags, method, time, date, checksum
        let mut common = Vec::new();
        for number in [20, 0, method, 0, 0, 0, 0] {
            common.extend(number.to_le_bytes());
        }
        sizes.iter().for_each(|size| common.extend(size.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 12]);
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        // torch fills up with such fields, so that each file begins at a multiple of 64
        let padding = 63 - (out.len() + 2 + name.len() + 4 + 63) % 64;
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(*b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(vec![b'Z'; padding]);
        out.extend(bytes);
    }
    let (start, count) = (out.len() as u32, files.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number, of 56 bits.
    #[allow(clippy::should_implement_trait, reason = "an endless source, of which nothing is iterated")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
