//! Text on its way in and out: tokenizers, added tokens and chat templates.
//!
//! [`AutoTokenizer`] wraps the `tokenizers` crate and adds what lies around a `tokenizer.json` in a
//! transformers folder: the named special tokens, the chat templates and the files transformers needs to load
//! the result again. [`GgufTokenizer`] is what a GGUF file says about its tokenizer, and builds the same
//! [`AutoTokenizer`] from it. Nothing here downloads anything, and nothing here knows a model.

mod adding;
mod chat;
mod chatml;
mod class;
mod ends;
mod error;
mod files;
mod folder;
mod frame;
mod gguf;
mod guard;
mod language;
mod reserved;
mod special;
mod spelling;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod token_list;
mod tokenizer;
mod vocabulary;
mod words;

/// Names the code that turns texts into ids: other ids may come of another build's. For caches of encoded data.
pub const ENCODING: &str = env!("TOKTUNE_TEXT_ENCODING");

pub use adding::NewToken;
pub use chat::{ChatOptions, ChatTemplate, PreparedChat, RenderedChat, printed};
pub use chatml::ChatMl;
pub use error::{Result, TextError};
pub use gguf::{GgufTokenizer, PatchedTokens, patch_gguf_tokens};
pub use spelling::TokenKind;
pub use stream::DecodeStream;
pub use token_list::ListedToken;
pub use tokenizer::AutoTokenizer;
pub use words::{WordTokens, WordUse, stands_alone};
