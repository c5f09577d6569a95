//! The library's errors as Python's: classes of `toktune.errors`, which are what Python people expect besides.

use pyo3::prelude::*;
use pyo3::types::PyString;
use std::io;
use toktune::Error;

/// The class of an error, by its name in `toktune.errors`.
fn class_of(error: &Error) -> &'static str {
    let mut source = Some(error as &(dyn std::error::Error + 'static));
    while let Some(of) = source {
        if let Some(io) = of.downcast_ref::<io::Error>() {
            return if io.kind() == io::ErrorKind::NotFound { "MissingFileError" } else { "FileError" };
        }
        source = of.source();
    }
    match error {
        Error::Diverged { .. } | Error::Growth { .. } => "DivergedError",
        Error::OutputLocked { .. } | Error::OutputNotEmpty { .. } => "OutputError",
        _ => "InputError",
    }
}

/// An exception of one of the classes.
pub(crate) fn exception(class: &str, message: &str) -> PyErr {
    Python::attach(|py| {
        let made = py.import("toktune.errors").and_then(|errors| errors.getattr(class));
        match made.and_then(|class| class.call1((PyString::new(py, message),))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    })
}

/// Settings by the library's names, and what Python calls them.
const NAMES: [(&str, &str); 6] = [
    ("batch_size", "per_device_train_batch_size"),
    ("num_epochs", "num_train_epochs"),
    ("eval_every", "eval_steps"),
    ("save_every", "save_steps"),
    ("keep_last", "save_total_limit"),
    ("keep_best", "load_best_model_at_end"),
];

/// An error of the library as an exception.
pub(crate) fn raise(error: impl Into<Error>) -> PyErr {
    let error = error.into();
    let message = match &error {
        Error::Argument { name, expected, found } => {
            let called = |name: &str| {
                NAMES.iter().find(|(own, _)| *own == name).map_or(name.to_owned(), |(_, py)| (*py).to_owned())
            };
            let expected = NAMES.iter().fold((*expected).to_owned(), |text, (own, py)| {
                text.replace(&format!("`{own}`"), &format!("`{py}`"))
            });
            format!("{}: expected {expected}, found {found}", called(name))
        }
        Error::OutputNotEmpty { is_run: true, .. } => {
            let text = error.to_string();
            text.replace(
                "by `resume`",
                "by train(resume_from_checkpoint=True), or overwrite it (overwrite_output_dir=True)",
            )
        }
        _ => error.to_string(),
    };
    exception(class_of(&error), &message)
}

/// What an argument should have been.
pub(crate) fn argument(name: &str, expected: &str, found: impl std::fmt::Display) -> PyErr {
    exception("InputError", &format!("{name}: expected {expected}, found {found}"))
}
