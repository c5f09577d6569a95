//! Several prompts continued together, and how much faster that is than one after the other.
//!
//!     cargo run --release -p toktune --example generate_together -- MODEL [TOKENS]

use std::path::Path;
use std::time::Instant;
use toktune::models::AutoModel;
use toktune::peft::ActiveRows;
use toktune::{AutoTokenizer, Device, GenerationConfig, Generator, Result};

const PROMPTS: [&str; 8] = [
    "Once upon a time there was",
    "The capital of France is",
    "To bake a cake, you need",
    "In the year 1969,",
    "The three laws of motion are",
    "My favourite season is",
    "A computer is a machine that",
    "The doctor said that",
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), tokens) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: generate_together MODEL [TOKENS]");
        std::process::exit(2);
    };
    let tokens = tokens.and_then(|count| count.parse().ok()).unwrap_or(64);
    let model = AutoModel::from_pretrained(Path::new(&path), &Device::Cpu)?;
    let tokenizer = AutoTokenizer::from_checkpoint(model.checkpoint())?;
    let prompts =
        PROMPTS.iter().map(|text| Ok(tokenizer.encode_prompt(text)?)).collect::<Result<Vec<_>>>()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    // no end token, so that all are of one length
    let mut config = GenerationConfig::default();
    config.max_new_tokens = tokens;
    let generator = Generator::new(&model, ActiveRows::default(), config)?;
    for count in [1, 2, 4, 8] {
        let mut texts = generator.generate_batch(&prompts[..count])?;
        // the prompts are run before the first token
        texts.advance()?;
        let (start, mut written) = (Instant::now(), 0);
        loop {
            let next = texts.advance()?;
            if next.is_empty() {
                break;
            }
            written += next.len();
        }
        println!("{count} together: {:.1} tokens/s", written as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}
