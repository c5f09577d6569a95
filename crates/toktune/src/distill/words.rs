//! What the rows of words start from.

use super::DistilledWord;
use crate::error::Result;
use crate::peft::PeftModel;
use crate::text::AutoTokenizer;

/// Gives each word's row the mean of the rows that its pieces have in the same matrix; `before` is the tokenizer without the words.
///
/// # Errors
/// A word cannot be put in tokens.
pub fn start_from_pieces(
    model: &mut PeftModel,
    words: &[DistilledWord],
    before: &AutoTokenizer,
) -> Result<()> {
    for word in words {
        let pieces = before.encode(&word.text, false)?;
        let names: Vec<String> = model.layers().iter().map(|layer| layer.name().to_owned()).collect();
        for (at, name) in names.iter().enumerate() {
            let Some(matrix) = model.base().token_matrix_named(name) else { continue };
            let (rows, width) = (matrix.gather(&pieces), matrix.width());
            let count = pieces.len().max(1) as f32;
            let mean: Vec<f32> =
                (0..width).map(|j| rows.iter().skip(j).step_by(width).sum::<f32>() / count).collect();
            let trained = model.layers_mut()[at].rows_mut();
            if let Some(place) = trained.position(word.id) {
                trained.values[place * width..][..width].copy_from_slice(&mean);
            }
        }
    }
    Ok(())
}
