//! Files built from bytes, for tests: sound ones, and such as no writer would write.

/// A metadata pair or a tensor is written as it is told, sound or not.
#[derive(Clone, Default)]
pub struct GgufBytes {
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

/// Numbers that look random and are the same for the same seed (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

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
