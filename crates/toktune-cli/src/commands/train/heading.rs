//! What is told of a run before its first step.

use super::ready::Ready;
use crate::failure::Outcome;
use crate::report::{self, Header, LoraLine, PreferenceLine, ProcessesLine, TokenLine};
use toktune::text::AutoTokenizer;
use toktune::train::TrainingArguments;

/// The header of a run, without its start rows.
pub(super) fn of(ready: &Ready<'_>, tokenizer: Option<&AutoTokenizer>) -> Outcome<Header> {
    let Ready { args, machine, trainer, chosen, uses, .. } = ready;
    let (model, schedule, arguments) = (&trainer.model, trainer.schedule(), trainer.arguments());
    let TrainingArguments { per_device_train_batch_size, gradient_accumulation_steps, .. } = arguments;
    let tokens = uses.iter().map(|token| TokenLine {
        id: token.id,
        token: report::spelling(tokenizer, token.id),
        added: chosen.added.contains(&token.id),
        inputs: token.inputs,
        labels: token.labels,
    });
    Ok(Header {
        model: args.model.clone(),
        family: model.base().family().name,
        parameters: model.base().num_parameters(),
        trainable_parameters: model.parameter_counts().0,
        modules: model.layers().iter().map(|layer| layer.name().to_string()).collect(),
        tied_modules: model.layers().iter().flat_map(|layer| layer.tied().to_vec()).collect(),
        tokens: tokens.collect(),
        starts: Vec::new(),
        data: trainer.train_data().into(),
        eval_data: trainer.eval_data().map(Into::into),
        shared_rows: trainer.prefixes().shared_rows(),
        machine: machine.clone(),
        processes: ready.process.as_ref().map(|process| ProcessesLine {
            count: process.count,
            on_this_machine: process.on_this_machine,
            step_bytes: 4 * model.parameter_counts().0 as usize,
        }),
        lora: LoraLine::of(trainer),
        preference: PreferenceLine::of(trainer),
        learning_rate: schedule.learning_rate,
        learning_rate_is_relative: arguments.learning_rate.is_none(),
        relative_learning_rate: arguments.relative_learning_rate,
        lr_scheduler: schedule.kind.name(),
        steps: schedule.total_steps,
        expected_memory_bytes: trainer.memory_estimate()?,
        memory_room: trainer.memory_room(),
        batch_size: *per_device_train_batch_size,
        gradient_accumulation_steps: *gradient_accumulation_steps,
        output: args.output.display().to_string(),
    })
}
