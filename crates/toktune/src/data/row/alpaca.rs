//! Rows of `instruction`, `input` and `output`, as Stanford's Alpaca has them.

use super::{DataError, Reader, Value, Words};

/// Before an instruction with an input; Alpaca's own words.
const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
     context. Write a response that appropriately completes the request.";
/// Before an instruction alone.
const WITHOUT_INPUT: &str = "Below is an instruction that describes a task. Write a response that appropriately \
     completes the request.";

impl Reader<'_> {
    /// The usual prompt of such rows, the output its completion. A `system` text stands in the place of the usual
    /// first paragraph, as Axolotl has it.
    pub(super) fn instruction(&self) -> Result<Words, DataError> {
        let (instruction, output) = (self.string("instruction")?, self.string("output")?);
        let (input, system) = (self.optional("input")?, self.optional("system")?);
        // LLaMA-Factory's earlier turns: a prompt for one turn has no room for them
        if let Some(Value::Array(turns)) =
            self.fields.get("history").filter(|turns| turns != &&Value::Array(vec![]))
        {
            let problem = format!(
                "{} earlier turns, which the prompt of `instruction` has no place for; write such rows as `messages`",
                turns.len()
            );
            return Err(DataError::NotObeyed { at: self.at(), key: "history".to_owned(), problem });
        }
        let before = match (system.is_empty(), input.is_empty()) {
            (false, _) => system.as_str(),
            (true, false) => WITH_INPUT,
            (true, true) => WITHOUT_INPUT,
        };
        let input = if input.is_empty() { input } else { format!("### Input:\n{input}\n\n") };
        let prompt = format!("{before}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n");
        Ok(Words::Prompt { prompt, completion: output })
    }
}
