//! Text on its way in and out: tokenizers, added tokens and chat templates.
//!
//! [`AutoTokenizer`] wraps the `tokenizers` crate and adds what lies around a `tokenizer.json` in a
//! transformers folder: the named special tokens, the chat templates and the files transformers needs to load
//! the result again. [`GgufTokenizer`] is what a GGUF file says about its tokenizer, and builds the same
//! [`AutoTokenizer`] from it. Nothing here downloads anything, and nothing here knows a model.

mod adding;
mod chat;
mod class;
mod error;
mod folder;
mod frame;
pub(crate) mod gguf;
mod guard;
mod language;
mod reserved;
mod special;
mod spelling;
mod stream;
#[cfg(test)]
mod tests;
mod token_list;
mod tokenizer;
mod vocabulary;
mod words;

pub use adding::NewToken;
pub use chat::{ChatOptions, ChatTemplate, RenderedChat};
pub(crate) use chat::{PreparedChat, printed};
pub use error::TextError;
pub use gguf::GgufTokenizer;
pub use spelling::TokenKind;
pub use stream::DecodeStream;
pub use token_list::ListedToken;
pub use tokenizer::AutoTokenizer;
pub use words::{WordTokens, WordUse};
