//! A safetensors file.

#![no_main]

use std::path::Path;
use toktune::weights::{Bytes, Checkpoint, Safetensors};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::owned(input.to_vec());
    toktune_fuzz::read_all(
        Safetensors::from_bytes(Path::new("model.safetensors"), bytes).map(Checkpoint::Safetensors),
    );
});
