//! The curves of a run.

use super::axis::Scale;
use super::chart::{Chart, Mark, Series};
use super::contents::Report;
use super::html::Html;
use crate::train::StepLog;

/// The section.
pub(super) fn section(report: &Report, html: &mut Html) {
    if report.log.is_empty() && report.evaluations.is_empty() {
        html.leaf("p", &[("class", "dim")], "No step was logged.");
        return;
    }
    html.tag("div", &[("class", "charts")], |html| {
        charts(report).iter().for_each(|chart| chart.draw(html));
    });
}

fn charts(report: &Report) -> Vec<Chart> {
    let of_log = |name: &str, class, of: &dyn Fn(&StepLog) -> Option<f64>| {
        let point = |step: &StepLog| Some((step.step as f64, of(step)?));
        let points = report.log.iter().filter_map(point).collect();
        Series { name: name.into(), class, mark: Mark::Line, points }
    };
    let chart = |title, unit: &str, scale, series| Chart {
        title,
        unit: unit.into(),
        scale,
        series,
        levels: Vec::new(),
        events: Vec::new(),
    };
    let mut loss = vec![of_log("training", "one", &|step| Some(step.loss))];
    let held_out = |name: &str, class, of: &dyn Fn(usize) -> Option<f64>| {
        let point = |at: usize| Some((report.evaluations[at].step as f64, of(at)?));
        let points: Vec<(f64, f64)> = (0..report.evaluations.len()).filter_map(point).collect();
        (!points.is_empty()).then(|| Series { name: name.into(), class, mark: Mark::Dots, points })
    };
    loss.extend(held_out("held out", "two", &|at| Some(report.evaluations[at].loss)));
    loss.extend(held_out("held out, at the tokens", "three", &|at| report.evaluations[at].token_loss));
    let mut loss = chart("Loss", &report.loss_unit, Scale::MaybeLog, loss);
    loss.events.extend(report.kept_step.map(|step| (step as f64, "kept".to_owned())));
    let rate = of_log("rows", "one", &|step| Some(step.learning_rate));
    let gradient = of_log("all gradients together", "one", &|step| Some(step.grad_norm));
    let mut gradient = chart("Gradient norm", "before clipping", Scale::MaybeLog, vec![gradient]);
    gradient.levels.extend(report.max_grad_norm.map(|most| (most, "clipped above".to_owned())));
    let mut all = vec![loss, gradient, chart("Learning rate", "of the rows", Scale::FromZero, vec![rate])];
    if report.log.iter().any(|step| step.preference.is_some()) {
        let rewards = [
            of_log("of the chosen answer", "one", &|step| Some(step.preference?.rewards_chosen)),
            of_log("of the rejected one", "two", &|step| Some(step.preference?.rewards_rejected)),
        ];
        all.push(chart("Reward", "over the model as the run began", Scale::FromZero, rewards.to_vec()));
        let share = [of_log("of the pairs", "one", &|step| Some(step.preference?.accuracies))];
        all.push(chart("Chosen answer preferred", "share", Scale::FromZero, share.to_vec()));
    }
    if report.log.iter().any(|step| step.norms.is_some()) {
        let norms = [
            of_log("median", "one", &|step| Some(step.norms?.median)),
            of_log("largest", "two", &|step| Some(step.norms?.largest)),
        ];
        let mut norms =
            chart("Norm of the rows", "times the vocabulary's median", Scale::FromZero, norms.to_vec());
        norms.levels = vec![(1.0, "the vocabulary's median".into()), (2.0, "twice it".into())];
        all.push(norms);
    }
    all
}
