//! Text on its way in and out: tokenizers, added tokens and chat templates.
//!
//! [`AutoTokenizer`] wraps the `tokenizers` crate and adds what lies around a `tokenizer.json` in a
//! transformers folder: the named special tokens, the chat templates and the files transformers needs to load
//! the result again. [`GgufTokenizer`] is what a GGUF file says about its tokenizer, and builds the same
//! [`AutoTokenizer`] from it. Nothing here downloads anything, and nothing here knows a model.

mod chat;
mod error;
mod folder;
pub(crate) mod gguf;
mod special;
mod stream;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use chat::{ChatOptions, ChatTemplate, RenderedChat};
pub(crate) use chat::{PreparedChat, printed};
pub use error::TextError;
pub use gguf::GgufTokenizer;
pub use stream::DecodeStream;
pub use tokenizer::AutoTokenizer;
