//! A run told to Python.

use crate::errors::raise;
use crate::model::Model;
use crate::values::written;
use pyo3::prelude::*;
use serde::Serialize;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::Path;
use toktune::TrainerCallback;
use toktune::peft::PeftModel;
use toktune::train::{Evaluation, StepLog, TrainerWarning};

/// Tells a Python object what happens: it has `train_begin(step)`, `step(json)`, `evaluated(step, json)`, `saved(folder)` and
/// `warning(text)`, each of which gives whether the run is to stop and whether it is to be saved.
pub(crate) struct PyCallback<'m> {
    pub(crate) handler: Py<PyAny>,
    /// The model that Python knows, to look at while it is told.
    pub(crate) model: &'m Model,
    /// What the handler raised first, Ctrl-C among it: it ends the run.
    pub(crate) fault: Option<PyErr>,
    /// Whether it wants the run to end.
    pub(crate) stops: bool,
    /// Whether it wants a checkpoint.
    pub(crate) saves: bool,
}

impl<'m> PyCallback<'m> {
    pub(crate) fn new(handler: Py<PyAny>, model: &'m Model) -> Self {
        Self { handler, model, fault: None, stops: false, saves: false }
    }

    /// Calls a method, with the model to be looked at where there is one.
    fn tell<'a, A>(&mut self, method: &str, model: Option<&PeftModel>, arguments: A) -> ControlFlow<()>
    where
        A: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>>,
    {
        if self.fault.is_some() {
            return ControlFlow::Break(());
        }
        let told = Python::attach(|py| {
            py.check_signals()?;
            let arguments = arguments(py)?;
            let call = || self.handler.bind(py).call_method1(method, arguments);
            let answer = match model {
                Some(model) => self.model.lend(py, model, call),
                None => call(),
            }?;
            py.check_signals()?;
            answer.extract::<Option<(bool, bool)>>()
        });
        match told {
            Ok(answer) => {
                let (stops, saves) = answer.unwrap_or_default();
                self.stops |= stops;
                self.saves |= saves;
            }
            Err(error) => self.fault = Some(error),
        }
        match self.stops || self.fault.is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

fn json_of(of: &impl Serialize) -> PyResult<String> {
    written(of)
}

impl TrainerCallback for PyCallback<'_> {
    fn on_train_begin(&mut self, model: &PeftModel, step: u64) {
        let _ = self.tell("train_begin", Some(model), |py| (step,).into_pyobject(py));
    }

    fn on_step_end(&mut self, model: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        self.tell("step", Some(model), |py| (json_of(log)?,).into_pyobject(py))
    }

    fn should_save(&mut self) -> bool {
        std::mem::take(&mut self.saves)
    }

    fn on_prediction_step(&mut self) -> ControlFlow<()> {
        if self.fault.is_none()
            && let Err(error) = Python::attach(|py| py.check_signals())
        {
            self.fault = Some(error);
        }
        match self.stops || self.fault.is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn on_evaluate(&mut self, model: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        self.tell("evaluated", Some(model), |py| (step, json_of(evaluation)?).into_pyobject(py))
    }

    fn on_save(&mut self, folder: &Path) {
        let _ = self.tell("saved", None, |py| (folder.to_path_buf(),).into_pyobject(py));
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        let told = match warning {
            TrainerWarning::NoCheckpoint => {
                "there is no checkpoint to go on from: the run begins with the first step".to_owned()
            }
            TrainerWarning::OtherSettings(changes) => {
                let names: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
                format!("the run goes on with other settings than it began with: {}", names.join(", "))
            }
            TrainerWarning::CacheEnded { reason } => format!("no more constants are kept: {reason}"),
            TrainerWarning::OddNorm(odd) => format!(
                "the row of token {} in {} is {:.2} times as long as the median row of the vocabulary now: a lower learning_rate \
                 keeps it nearer, and so does norm",
                odd.token, odd.layer, odd.times
            ),
            TrainerWarning::Leaking(leak) => format!(
                "step {}: the tokens take {:.2} % of the probability where other tokens belong, most of it token {} ({:.2} %): a lower \
                 learning_rate makes them less likely there",
                leak.step,
                100.0 * leak.probability,
                leak.token,
                100.0 * leak.of_token
            ),
            other => format!("{other:?}"),
        };
        let _ = self.tell("warning", None, |py| (told,).into_pyobject(py));
    }
}

/// What a run came to, as JSON.
///
/// # Errors
/// What it was ended by.
pub(crate) fn finished(
    result: toktune::Result<toktune::train::TrainOutput>,
    fault: Option<PyErr>,
) -> PyResult<String> {
    if let Some(fault) = fault {
        return Err(fault);
    }
    let output = result.map_err(raise)?;
    written(&json!({
        "global_step": output.global_step,
        "stopped": output.stopped,
        "ended_early": output.ended_early,
        "steps": output.steps,
        "seconds": output.seconds,
        "tokens": output.tokens,
        "before": output.before,
        "after": output.after,
        "best_step": output.best.as_ref().map(|best| best.step),
        "best_loss": output.best.as_ref().map(|best| best.evaluation.loss),
        "peak_memory_bytes": toktune::train::peak_memory_bytes(),
    }))
}
