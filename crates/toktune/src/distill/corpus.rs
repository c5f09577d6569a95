//! Texts that the model writes itself about the words.

use super::DistilledWord;
use crate::error::Result;
use crate::generate::{GenerationConfig, Generator};
use crate::models::PretrainedModel;
use crate::peft::ActiveRows;
use crate::text::AutoTokenizer;
use std::ops::ControlFlow;

/// Texts that are written at a time.
const TOGETHER: usize = 8;

/// What a text begins with: each has the word where something about it follows.
const BEGINNINGS: [&str; 8] = [
    "{}",
    "The{}",
    "A{}",
    "What is{}? The{}",
    "Everybody knows that{}",
    "In this article about{}, we",
    "They talked about{}, and",
    "Here is an example of how{}",
];

/// Has the model go on from beginnings with each of the words, `per_word` times with `tokens` tokens, drawn at a temperature of 1.
/// `take` gets each text with the share that is written, and may end it.
///
/// # Errors
/// The model is no decoder; its settings are out of range; a text cannot be decoded.
pub fn generated_texts(
    model: &PretrainedModel,
    tokenizer: &AutoTokenizer,
    words: &[DistilledWord],
    (per_word, tokens): (usize, usize),
    take: &mut dyn FnMut(&str, f64) -> ControlFlow<()>,
) -> Result<()> {
    let texts: Vec<String> = (0..per_word)
        .flat_map(|i| {
            let beginning = BEGINNINGS[i % BEGINNINGS.len()];
            words.iter().map(move |word| beginning.replace("{}", &word.text).trim_start().to_owned())
        })
        .collect();
    let mut config = GenerationConfig::of_model(model)?;
    (config.do_sample, config.temperature, config.top_k, config.top_p) = (true, 1.0, 0, 1.0);
    config.max_new_tokens = tokens;
    for (chunk, some) in texts.chunks(TOGETHER).enumerate() {
        config.seed = (chunk * TOGETHER) as u64;
        let prompts =
            some.iter().map(|text| Ok(tokenizer.encode_prompt(text)?)).collect::<Result<Vec<_>>>()?;
        let of: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let generator = Generator::new(model, ActiveRows::default(), config.clone())?;
        let mut going = generator.generate_batch(&of)?;
        // decoded with what they go on from: some tokenizers take the space off the first token of a text
        let mut written = prompts.clone();
        loop {
            let next = going.advance()?;
            if next.is_empty() {
                break;
            }
            next.into_iter().for_each(|(at, token)| written[at].push(token));
        }
        for (i, ids) in written.iter().enumerate() {
            let share = (chunk * TOGETHER + i + 1) as f64 / texts.len() as f64;
            if take(&tokenizer.decode(ids, true)?, share).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}
