//! On what a command runs: device, precision, instruction set and threads, settled before anything else.

use crate::args::{DeviceChoice, MachineArgs, Precision};
use crate::failure::{Failure, Outcome, usage};
use serde::Serialize;
use toktune::{Device, runtime};

/// What was settled.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Where activations live.
    #[serde(skip)]
    pub handle: Device,
    /// Its name.
    pub device: String,
    /// The type of the matrix products.
    pub precision: &'static str,
    /// The kernels' instruction set.
    pub instruction_set: &'static str,
    /// Threads of the kernels.
    pub threads: usize,
}

impl Machine {
    /// Settles the machine as the flags say.
    pub fn new(args: &MachineArgs) -> Outcome<Self> {
        let instruction_set = runtime::instruction_set()?;
        if args.precision == Precision::Bf16 {
            return usage(format!(
                "--precision bf16: there is no bf16 kernel for this machine's instruction set \
                 ({instruction_set}); use auto or f32"
            ));
        }
        if let Some(threads) = args.threads {
            runtime::set_num_threads(threads)?;
        }
        Ok(Self {
            handle: device(args.device)?,
            device: args.device.to_string(),
            precision: "f32",
            instruction_set,
            threads: runtime::num_threads(),
        })
    }
}

/// The device, if this program was built for its kind and the machine has it.
fn device(choice: DeviceChoice) -> Outcome<Device> {
    let (feature, built, opened) = match choice {
        DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Cuda(number) => ("cuda", cfg!(feature = "cuda"), Device::new_cuda(number)),
        DeviceChoice::Metal => ("metal", cfg!(feature = "metal"), Device::new_metal(0)),
    };
    if !built {
        return usage(format!(
            "--device {choice}: this toktune was built without {feature}; build it by `cargo install --path \
             crates/toktune-cli --features {feature}`, or use --device cpu"
        ));
    }
    opened.map_err(|e| Failure::Usage(format!("--device {choice}: {e}")))
}
