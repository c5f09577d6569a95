//! One optimizer step.

use super::log::{StepLog, peak_memory_bytes};
use super::optimizer::{AdamW, clip_grad_norm};
use super::preference::PreferenceMetrics;
use super::trainer::{Run, Trainer};
use crate::data::Batch;
use crate::engine::constants::CachedExamples;
use crate::engine::runner::{StepOptions, Wanted};
use crate::error::{Error, Result};
use crate::peft::Gradient;
use crate::profile;
use crate::random::Random;
use crate::workers::StepSums;
use std::time::Instant;
use toktune_engine::EngineError;

impl Trainer {
    /// Takes one optimizer step: the micro-batches' gradients summed, over all workers, divided by their labels together. The
    /// first one begins the run. Of two answers to one prompt, the gradients are divided by the number of pairs. Nothing is written; [`Trainer::save_checkpoint`] and [`Trainer::save_model`] do that.
    ///
    /// # Errors
    /// A loss, a gradient or a parameter is not finite, or has grown out of all proportion; the run that is to be resumed
    /// cannot be.
    pub fn step(&mut self) -> Result<StepLog> {
        self.begin(&mut ())?;
        let start = Instant::now();
        let StepSums { mut gradients, loss, weight, labels, tokens, preference } = self.sums()?;
        // a step of rows without labels moves nothing, but still counts
        let divisor = if weight > 0.0 { weight } else { 1.0 };
        let values = gradients.iter_mut().flat_map(|gradient| &mut gradient.values);
        values.for_each(|g| *g = (f64::from(*g) / divisor) as f32);
        let grad_norm = clip_grad_norm(&mut gradients, self.arguments.max_grad_norm);
        if !grad_norm.is_finite() {
            return Err(
                EngineError::NotFinite { what: format!("the norm of the gradients is {grad_norm}") }.into()
            );
        }
        let Some(mut run) = self.run.take() else { return Err(Error::NotBegun) };
        let updated =
            profile::time(profile::Part::Optimizer, 0, || self.update(&mut run.optimizer, &gradients));
        let (step, position) = (run.optimizer.step, run.sampler.position());
        self.run = Some(run);
        let learning_rate = updated?;
        let seconds = start.elapsed().as_secs_f64();
        let log = StepLog {
            step,
            epoch: position.epoch as f64 + position.offset as f64 / self.train.examples_per_epoch() as f64,
            loss: loss / divisor,
            learning_rate,
            grad_norm,
            tokens,
            loss_tokens: labels,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            peak_memory_bytes: peak_memory_bytes(),
            norms: self.norms.norms(&self.model),
            leak: None,
            emission: None,
            preference: preference.as_ref().map(PreferenceMetrics::of),
        };
        if let Some(run) = &mut self.run {
            run.beginning.1.get_or_insert_with(|| log.clone());
        }
        Ok(log)
    }

    /// The sums of the step's micro-batches, over all workers.
    fn sums(&mut self) -> Result<StepSums> {
        // taken out, so that the batches can be made of the run's data meanwhile
        let Some(mut run) = self.run.take() else { return Err(Error::NotBegun) };
        let mut team = std::mem::take(&mut self.team);
        let per_epoch = run.sampler.batches_per_epoch();
        let size = self.arguments.per_device_train_batch_size;
        let lanes = self.arguments.gradient_accumulation_steps;
        // A step does not span two epochs: the last one of an epoch may have fewer micro-steps.
        let in_epoch = run.sampler.position().offset.div_ceil(size) % per_epoch;
        let micro_steps = lanes.min(per_epoch - in_epoch);
        let batches: Vec<Batch> = (0..micro_steps).map(|_| run.sampler.next_batch()).collect();
        let costs: Vec<usize> = batches.iter().map(|batch| self.train.tokens_of(&batch.indices)).collect();
        let sums = team.sum(&costs, lanes, &mut |micro_step| {
            let batch: &Batch = &batches[micro_step];
            self.micro_step(&mut run, batch, micro_step)
        });
        (self.run, self.team) = (Some(run), team);
        sums
    }

    /// What one micro-batch sums up to.
    fn micro_step(&self, run: &mut Run, next: &Batch, micro_step: usize) -> Result<StepSums> {
        let indices = &next.indices;
        let mut batch = profile::time(profile::Part::Data, 0, || self.batch(indices, next.epoch))?;
        let base = self.model.base();
        let active = self.model.active().with_dropout(self.dropout_seed(run.optimizer.step, micro_step));
        let trained = active.trained();
        let sequences = self.train.sequences(indices);
        if let Some(reference) = &run.reference {
            let constants =
                run.constants.as_mut().map(|cache| CachedExamples { cache, examples: &sequences });
            let of = reference.objective((base, &self.train), (indices, &batch), constants)?;
            batch.preference = Some(of);
        }
        let constants = run.constants.as_mut().map(|cache| CachedExamples { cache, examples: &sequences });
        let options = StepOptions::new(self.planner().kept_bytes(&trained, &batch), constants);
        let output = base.step(&batch, &trained, Wanted::Gradients, options)?;
        Ok(StepSums {
            loss: output.losses.sum(),
            weight: output.losses.weight(),
            labels: output.losses.losses.len(),
            tokens: batch.tokens(),
            gradients: active.named(output.gradients),
            preference: output.losses.preference,
        })
    }

    /// Moves every parameter against its gradient; the learning rate of the rows.
    fn update(&mut self, optimizer: &mut AdamW, gradients: &[Gradient]) -> Result<f64> {
        let (rows, lora) = (self.schedule.at(optimizer.step), self.lora_schedule().at(optimizer.step));
        let parameters = self.model.parameters();
        self.last_good = Some(parameters.iter().map(|parameter| parameter.values.to_vec()).collect());
        let rates: Vec<f64> = parameters.iter().map(|p| if p.is_lora { lora } else { rows }).collect();
        optimizer.begin_step();
        for ((name, values), rate) in self.model.parameters_mut().into_iter().zip(rates) {
            let gradient = gradients.iter().find(|gradient| gradient.name == name);
            let Some(gradient) = gradient else { return Err(Error::NoGradient { name }) };
            optimizer.update(&name, values, &gradient.values, rate);
        }
        self.norms.hold(self.arguments.norm, &mut self.model);
        let parameters = self.model.parameters();
        match parameters.iter().find(|p| p.values.iter().any(|x| !x.is_finite())) {
            None => self.sizes.check(&self.model).map(|()| rows),
            Some(parameter) => {
                let (what, rate) = match parameter.is_lora {
                    true => ("the update", lora),
                    false => ("a trained row", rows),
                };
                let what = format!("{what} of {} after a step of rate {rate:e}", parameter.layer);
                Err(EngineError::NotFinite { what }.into())
            }
        }
    }

    /// Of what LoRA's dropout leaves out: the same for the same step of the same run, resumed or not.
    fn dropout_seed(&self, step: u64, micro_step: usize) -> u64 {
        let mut random =
            Random::new(self.arguments.seed ^ step.rotate_left(20) ^ (micro_step as u64).rotate_left(44));
        random.next()
    }
}
