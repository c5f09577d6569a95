//! ChatML, for models that have no chat template of their own.

use crate::AutoTokenizer;

/// ChatML: the form of conversations that Qwen, SmolLM and many fine-tunes of base models have.
///
/// A message stands between two control tokens, its role in the first line. It knows no tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatMl;

impl ChatMl {
    /// What `--chat-template` and others call it.
    pub const NAME: &'static str = "chatml";
    /// The control tokens, in the order in which they are added.
    pub const TOKENS: [&'static str; 2] = ["<|im_start|>", "<|im_end|>"];

    /// The template's source for a tokenizer: it begins with `bos_token` where the tokenizer puts that before every text, since what a
    /// template renders is encoded without the tokenizer's own frame.
    pub fn template(tokenizer: &AutoTokenizer) -> String {
        let frame = tokenizer.encode("", true).unwrap_or_default();
        let has_bos =
            tokenizer.bos_token_id().is_some() && frame.first() == tokenizer.bos_token_id().as_ref();
        format!(
            "{}{{% for message in messages %}}{{{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}}}\
             {{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}",
            if has_bos { "{{ bos_token }}" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChatOptions, testing};
    use serde_json::json;

    #[test]
    fn a_conversation_is_rendered_with_the_bos_that_the_tokenizer_wants() {
        let messages =
            [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Ho"})];
        let rendered = |tokenizer: &mut AutoTokenizer, ask: bool| {
            let template = ChatMl::template(tokenizer);
            tokenizer.set_chat_template(template);
            let options = ChatOptions { add_generation_prompt: ask, ..ChatOptions::default() };
            tokenizer.apply_chat_template(&messages, &options).expect("rendered")
        };
        let body = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n";
        let mut with_bos = testing::sentence_piece("gemma").build().expect("a tokenizer");
        assert_eq!(rendered(&mut with_bos, false), format!("<s>{body}"));
        let mut without = testing::byte_level().build().expect("a tokenizer");
        assert_eq!(rendered(&mut without, true), format!("{body}<|im_start|>assistant\n"));
    }
}
