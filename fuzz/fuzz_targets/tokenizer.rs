//! A tokenizer's folder: `tokenizer_config.json`, a zero, `tokenizer.json`.

#![no_main]

use toktune::AutoTokenizer;
use toktune_fuzz::{folder, parts};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some([config, tokenizer]) = parts(input) else { return };
    let folder = folder(&[("tokenizer_config.json", config), ("tokenizer.json", tokenizer)]);
    let Ok(tokenizer) = AutoTokenizer::from_pretrained(folder.path()) else { return };
    let Ok(ids) = tokenizer.encode("Two words, ä and 🦀.", true) else { return };
    let _ = tokenizer.decode(&ids, false);
    let _ = tokenizer.vocab_size();
});
