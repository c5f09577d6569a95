//! A chat template and messages: the template, a zero, a JSON array.

#![no_main]

use toktune::text::{ChatOptions, ChatTemplate};
use toktune_fuzz::parts;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some([template, messages]) = parts(input) else { return };
    let Ok(template) = std::str::from_utf8(template) else { return };
    let Ok(messages) = serde_json::from_slice::<Vec<serde_json::Value>>(messages) else { return };
    let Ok(template) = ChatTemplate::new(template) else { return };
    let mut options = ChatOptions::default();
    options.now = Some(0);
    let _ = template.render(&messages, &options);
});
