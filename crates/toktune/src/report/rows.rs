//! Trained rows among the vocabulary's, before and after: norms, neighbours, and a map.

use super::projection::Plane;
use crate::models::{MatrixSurvey, TokenMatrix, TrainedRows};
use crate::peft::{PeftModel, RowPlace, TrainableTokensLayer, matrix_of};
use crate::random::Random;
use std::collections::{BTreeSet, HashSet};

/// Nearest rows of a row that are told.
const NEIGHBOURS: usize = 5;
/// Of these, those that the map has too.
const ON_MAP: usize = 3;
/// Rows of the vocabulary on a map.
const SAMPLE: usize = 700;

/// The trained rows of a model as they were at some time, so that they can be compared with what they become.
#[derive(Clone, Debug)]
pub struct StartRows(Vec<(String, TrainedRows)>);

impl StartRows {
    /// The rows as they are now.
    pub fn of(model: &PeftModel) -> Self {
        Self(model.layers().iter().map(|layer| (layer.name().to_owned(), layer.rows().clone())).collect())
    }

    fn of_layer(&self, layer: &TrainableTokensLayer) -> Option<&TrainedRows> {
        let found = self.0.iter().find(|(name, _)| name == layer.name()).map(|(_, rows)| rows);
        found.filter(|rows| rows.indices() == layer.rows().indices() && rows.width() == layer.rows().width())
    }
}

/// The rows of one layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerRows {
    /// The module.
    pub layer: String,
    /// The modules that share its rows.
    pub tied: Vec<String>,
    /// Where each of the tokens began; empty where that is not known.
    pub before: Vec<RowPlace>,
    /// Where each is now.
    pub after: Vec<RowPlace>,
    /// Where they lie in the plane in which the vocabulary's rows differ most; `None` where there is no such plane.
    pub map: Option<RowMap>,
}

/// A place in the plane of a map: along the direction in which rows differ most, and along the next one.
pub type MapPoint = (f64, f64);

/// Rows in the plane in which those of the vocabulary differ most.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowMap {
    /// The share of the variance of the vocabulary's rows that lies in the plane.
    pub share: f64,
    /// Some rows of the vocabulary, with their tokens.
    pub vocabulary: Vec<(u32, MapPoint)>,
    /// Rows that trained ones are near to.
    pub neighbours: Vec<(u32, MapPoint)>,
    /// Trained tokens: where they were, as far as that is known, and where they are.
    pub tokens: Vec<(u32, Option<MapPoint>, MapPoint)>,
}

/// The rows of each layer of `model`, those of `tokens`, beside what they were at the `start`. The vocabulary's rows on the map are
/// drawn by `seed`; rows that no text ever moved are left out.
pub(super) fn layer_rows(
    model: &PeftModel,
    start: Option<&StartRows>,
    tokens: &[u32],
    seed: u64,
) -> Vec<LayerRows> {
    let of = |layer: &TrainableTokensLayer| {
        let survey = matrix_of(model.base(), layer).survey();
        let began = start.and_then(|start| start.of_layer(layer));
        let states: Vec<&TrainedRows> = began.into_iter().chain([layer.rows()]).collect();
        let mut places = model.places_in(layer, &survey, &states, (tokens, NEIGHBOURS));
        let after = places.pop().unwrap_or_default();
        let before = places.pop().unwrap_or_default();
        let map = map(model, (layer, began), &survey, &after, seed);
        LayerRows { layer: layer.name().to_owned(), tied: layer.tied().to_vec(), before, after, map }
    };
    model.layers().iter().map(of).collect()
}

fn map(
    model: &PeftModel,
    (layer, began): (&TrainableTokensLayer, Option<&TrainedRows>),
    survey: &MatrixSurvey,
    after: &[RowPlace],
    seed: u64,
) -> Option<RowMap> {
    let matrix = matrix_of(model.base(), layer);
    let trained: HashSet<u32> = model.token_indices().into_iter().collect();
    let near: BTreeSet<u32> =
        after.iter().flat_map(|place| place.nearest.iter().take(ON_MAP)).map(|(id, _)| *id).collect();
    let near: Vec<u32> = near.into_iter().collect();
    let sample = sample(matrix, survey, |id| trained.contains(&id) || near.contains(&id), seed);
    let values = matrix.gather(&sample);
    let width = matrix.width();
    let plane = Plane::of(&values, width, seed)?;
    let placed = |ids: Vec<u32>, values: &[f32]| -> Vec<(u32, MapPoint)> {
        ids.into_iter().zip(values.chunks_exact(width).map(|row| plane.place(row))).collect()
    };
    let rows = layer.rows();
    let of_token = |place: &RowPlace| {
        let was = began.and_then(|rows| Some(plane.place(rows.row(rows.position(place.id)?))));
        Some((place.id, was, plane.place(rows.row(rows.position(place.id)?))))
    };
    let neighbours = placed(near.clone(), &matrix.gather(&near));
    Some(RowMap {
        share: plane.share,
        vocabulary: placed(sample, &values),
        neighbours,
        tokens: after.iter().filter_map(of_token).collect(),
    })
}

/// Some rows of the checkpoint, in ascending order.
fn sample(matrix: &TokenMatrix, survey: &MatrixSurvey, skip: impl Fn(u32) -> bool, seed: u64) -> Vec<u32> {
    let rows = matrix.frozen().rows() as u32;
    let fits = |id: &u32| survey.untrained.binary_search(id).is_err() && !skip(*id);
    let mut all: Vec<u32> = (0..rows).filter(fits).collect();
    let mut random = Random::named(seed, &["map", "sample"]);
    // the first places of a shuffle
    let wanted = all.len().min(SAMPLE);
    for at in 0..wanted {
        let other = at + random.below((all.len() - at) as u64) as usize;
        all.swap(at, other);
    }
    all.truncate(wanted);
    all.sort_unstable();
    all
}
