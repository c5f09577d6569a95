//! On what a command runs: device, precision, instruction set and threads, settled before anything else.

use crate::args::{DeviceChoice, MachineArgs, Precision};
use crate::failure::{Outcome, usage};
use serde::Serialize;
use toktune::Device;
use toktune::models::{PrecisionMode, PretrainedModel};
use toktune::runtime::{self, Isa};

/// What was settled.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Where activations live.
    #[serde(skip)]
    pub handle: Device,
    /// Its name.
    pub device: String,
    /// As it was asked for.
    #[serde(skip)]
    pub mode: PrecisionMode,
    /// The type of the matrix products.
    pub precision: &'static str,
    /// The kernels' instruction set.
    pub instruction_set: &'static str,
    /// That set itself.
    #[serde(skip)]
    isa: Isa,
    /// Threads of the kernels.
    pub threads: usize,
}

impl Machine {
    /// Settles the machine as the flags say.
    pub fn new(args: &MachineArgs) -> Outcome<Self> {
        let isa = runtime::instruction_set()?;
        let mode = match args.precision {
            Precision::Auto => PrecisionMode::Auto,
            Precision::F32 => PrecisionMode::F32,
            Precision::Bf16 => PrecisionMode::Bf16,
        };
        if let Some(threads) = args.threads {
            runtime::set_num_threads(threads)?;
        }
        Ok(Self {
            handle: device(args.device)?,
            device: args.device.to_string(),
            mode,
            precision: "f32",
            instruction_set: isa.name(),
            isa,
            threads: runtime::num_threads(),
        })
    }
}

impl Machine {
    /// What is to be said of the precision that was asked for.
    pub fn note(&self) -> Option<String> {
        if self.mode != PrecisionMode::Bf16 || self.isa.has_fast_bf16() {
            return None;
        }
        let set = self.instruction_set;
        Some(match self.isa.has_bf16() {
            true => format!(
                "this processor multiplies bf16 with {set} more slowly than f32, which --precision auto takes"
            ),
            false => format!(
                "{set} has no instructions for bf16: operands are rounded to it and multiplied in f32, which is no faster"
            ),
        })
    }

    /// Has `model` compute as was asked for, and takes note of what that means for its weights.
    pub fn set_precision(&mut self, model: &mut PretrainedModel) {
        model.set_precision(self.mode);
        self.precision = if model.uses_bf16() { "bf16" } else { "f32" };
    }
}

/// The device, if there is a backend for it.
fn device(choice: DeviceChoice) -> Outcome<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        _ => usage(format!("--device {choice}: there is no backend for it yet; use --device cpu")),
    }
}
