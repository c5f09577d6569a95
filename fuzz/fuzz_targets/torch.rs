//! A file of `torch.save`: a zip archive, or the stream of before torch 1.6.

#![no_main]

use std::path::Path;
use toktune::weights::{Bytes, Checkpoint, Pytorch};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::owned(input.to_vec());
    toktune_fuzz::read_all(
        Pytorch::from_bytes(Path::new("pytorch_model.bin"), bytes).map(Checkpoint::Pytorch),
    );
});
