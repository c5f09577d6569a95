//! What several processes must have alike before their first step: the settings of the run, and where it stands.

use super::checkpoint::{Resumed, TrainerState};
use super::optimizer::AdamW;
use super::settings::Settings;
use crate::error::Result;
use crate::peft::PeftModel;
use crate::weights::{Isa, WeightsError};
use crate::workers::{Reader, Team, WorkersError, Writer};
use toktune_engine::EngineError;

/// Compares the settings of this process with those of all: hashes of model and data among them, and the instruction set, on which the last
/// bits of products depend.
///
/// # Errors
/// A process has others than the first one, which is named with what it has.
pub(super) fn check(team: &mut Team, own: &Settings) -> Result<()> {
    let isa = Isa::from_environment().map_err(EngineError::from)?;
    let machine = team.machine();
    let told = serde_json::to_vec(&(own, isa.name(), &machine)).map_err(unwritten)?;
    let said = team.gathered(told)?;
    let mut first: Option<(Settings, String)> = None;
    for (worker, said) in said.iter().enumerate() {
        let read = serde_json::from_slice::<(Settings, String, String)>(said);
        let (settings, isa, machine) = read.map_err(|_| WorkersError::Message { from: worker })?;
        let Some((expected, set)) = &first else {
            first = Some((settings, isa));
            continue;
        };
        let mut differences: Vec<String> = expected
            .changes(&settings)
            .into_iter()
            .map(|of| format!("{} is {}, expected {}", of.name, of.is, of.was))
            .collect();
        if *set != isa {
            differences.push(format!(
                "the instruction set is {isa}, expected {set} (TOKTUNE_ISA names one that all machines have)"
            ));
        }
        if !differences.is_empty() {
            return Err(WorkersError::Other { worker, machine, differences }.into());
        }
    }
    Ok(())
}

/// Gives all processes what the first one has read from a checkpoint.
///
/// # Errors
/// A process cannot be reached.
pub(super) fn share(
    team: &mut Team,
    model: &mut PeftModel,
    optimizer: &mut AdamW,
    of_first: Option<Resumed>,
) -> Result<Option<Resumed>> {
    if team.count() == 1 {
        return Ok(of_first);
    }
    let written = match (&of_first, team.leads()) {
        (Some(resumed), true) => Some(written(resumed, model, optimizer)?),
        _ => None,
    };
    let leads = team.leads();
    let told = team.told(written)?;
    if leads || told.is_empty() {
        return Ok(of_first);
    }
    let mut message = Reader::new(0, &told);
    let json = message.bytes()?;
    let state: TrainerState = serde_json::from_slice(json).map_err(|_| message.fault())?;
    let mut resumed = Resumed { state, changes: Vec::new() };
    for (_, values) in model.parameters_mut() {
        fill(&mut message, values)?;
    }
    for (m, v) in optimizer.moments.values_mut() {
        fill(&mut message, m)?;
        fill(&mut message, v)?;
    }
    optimizer.step = resumed.state.step;
    for _ in 0..message.number()? {
        resumed.state.best.values.push((message.text()?, message.floats()?));
    }
    Ok(Some(resumed))
}

/// A run's state, its parameters, moments and best values.
fn written(resumed: &Resumed, model: &PeftModel, optimizer: &AdamW) -> Result<Vec<u8>> {
    let mut message = Writer::default();
    message.bytes(&serde_json::to_vec(&resumed.state).map_err(unwritten)?);
    model.parameters().iter().for_each(|parameter| message.floats(parameter.values));
    for (m, v) in optimizer.moments.values() {
        message.floats(m);
        message.floats(v);
    }
    let best = &resumed.state.best.values;
    message.number(best.len());
    for (name, values) in best {
        message.text(name);
        message.floats(values);
    }
    Ok(message.finish())
}

/// Numbers of a message in the place of as many.
fn fill(message: &mut Reader<'_>, values: &mut [f32]) -> Result<()> {
    let read = message.floats()?;
    if read.len() != values.len() {
        return Err(message.fault().into());
    }
    values.copy_from_slice(&read);
    Ok(())
}

fn unwritten(error: serde_json::Error) -> WeightsError {
    WeightsError::Serialise(error.to_string())
}
