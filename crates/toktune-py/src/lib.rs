//! The engine behind the Python package `toktune`: the module `toktune._toktune`.
//!
//! What a Python user sees (names of transformers and PEFT, defaults, messages of arguments) is in `python/toktune`; here are the
//! few classes and functions that it stands on, over the library. Settings and reports cross as JSON, numbers as buffers. Whatever
//! takes long runs without the interpreter's lock.

mod adapters;
mod array;
mod callback;
mod dataset;
mod dlpack;
mod errors;
mod files;
mod generation;
mod interrupt;
mod model;
mod passes;
mod processes;
mod tensors;
mod tokenizer;
mod trainer;
mod values;

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command line with these arguments, the program's name first; the exit status.
#[pyfunction]
fn command_line(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    let code = py.detach(|| toktune_cli::run(arguments));
    // the status that a process would end with is all that is known of an `ExitCode`
    (0..=u8::MAX).find(|status| std::process::ExitCode::from(*status) == code).unwrap_or(1)
}

/// Threads that the kernels run on.
#[pyfunction]
fn num_threads() -> usize {
    toktune::runtime::num_threads()
}

/// Sets the number of threads, before anything was computed.
#[pyfunction]
fn set_num_threads(threads: usize) -> PyResult<()> {
    toktune::runtime::set_num_threads(threads).map_err(errors::raise)
}

/// The instruction set that models compute with.
#[pyfunction]
fn instruction_set() -> PyResult<&'static str> {
    toktune::runtime::instruction_set().map(|isa| isa.name()).map_err(errors::raise)
}

/// The module.
#[pymodule]
mod _toktune {
    /// The version of the package.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use super::adapters::{
        adapted, adapter_config, adapters, add_adapter, delete_adapter, load_adapter, merge_adapter,
        parameters, recipe, set_adapter, set_state_dict, state_dict, unloaded, unmerge_adapter, with_adapter,
    };
    #[pymodule_export]
    use super::array::Array;
    #[pymodule_export]
    use super::dataset::Dataset;
    #[pymodule_export]
    use super::files::{combine, export, merge_to_folder, save_adapter};
    #[pymodule_export]
    use super::generation::{emission, generate};
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::passes::{evaluate, hidden_states, logits, sentence_embeddings};
    #[pymodule_export]
    use super::processes::{abort_processes, leave_processes, processes};
    #[pymodule_export]
    use super::tokenizer::Tokenizer;
    #[pymodule_export]
    use super::trainer::{schedule, train};
    #[pymodule_export]
    use super::{command_line, instruction_set, num_threads, set_num_threads};
}
