//! A GGUF file.

#![no_main]

use std::path::Path;
use toktune::weights::{Bytes, Checkpoint, Gguf};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::owned(input.to_vec());
    toktune_fuzz::read_all(Gguf::from_bytes(Path::new("model.gguf"), bytes).map(Checkpoint::Gguf));
});
