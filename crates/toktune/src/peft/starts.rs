//! What trained rows start from, and where they then lie among the rows of the vocabulary.

use super::inject::normal;
use super::layer::TrainableTokensLayer;
use super::model::PeftModel;
use crate::models::{MatrixSurvey, PretrainedModel, TokenMatrix, TrainedRows};
use crate::random::Random;
use std::cell::OnceCell;
use std::collections::HashSet;

/// What the row of a token starts from. Rows of a head that is a matrix of its own start from rows of the head by the same
/// rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowInit {
    /// The row as it is.
    Base,
    /// The mean of the rows that were trained ([`MatrixSurvey`](crate::models::MatrixSurvey) says which were not). transformers' `resize_token_embeddings`
    /// takes the mean of all rows, by Hewitt's argument (*Initializing New Word Embeddings for Pretrained Language Models*,
    /// 2021): what the model says of other tokens hardly changes.
    Mean,
    /// Normal numbers with the root mean square of the matrix's entries.
    Random {
        /// Of the generator.
        seed: u64,
    },
    /// The mean of the rows of these tokens: the pieces that the token's text was cut into before the token was there. Also
    /// known as fast vocabulary transfer (Gee et al. 2022); NVIDIA's tokenizer extension for Nemotron and Token Distillation
    /// (arXiv 2505.20133) start so.
    Pieces(Vec<u32>),
    /// The same of the tokens of a description, as LLaMA-Factory's `desc_init`, which however puts rows of the embedding into
    /// the head.
    Description(Vec<u32>),
    /// The row of another token.
    Like(u32),
}

impl RowInit {
    /// The tokens whose rows it is made of.
    pub fn sources(&self) -> &[u32] {
        match self {
            RowInit::Pieces(ids) | RowInit::Description(ids) => ids,
            RowInit::Like(id) => std::slice::from_ref(id),
            _ => &[],
        }
    }

    /// The name of the rule.
    pub fn name(&self) -> &'static str {
        match self {
            RowInit::Base => "base",
            RowInit::Mean => "mean",
            RowInit::Random { .. } => "random",
            RowInit::Pieces(_) => "pieces",
            RowInit::Description(_) => "description",
            RowInit::Like(_) => "like",
        }
    }
}

/// Where a trained row lies among the rows of its matrix.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowPlace {
    /// The layer.
    pub layer: String,
    /// The token.
    pub id: u32,
    /// The row's norm.
    pub norm: f64,
    /// How many of a hundred trained rows of the matrix are shorter.
    pub percentile: f64,
    /// The tokens whose rows are nearest by cosine, none of them a trained one, the nearest first.
    pub nearest: Vec<(u32, f32)>,
}

impl PeftModel {
    /// Starts the rows of `tokens`, those of them that the active adapter trains, anew.
    pub fn init_rows(&mut self, tokens: &[u32], init: RowInit) {
        let starts: Vec<(u32, RowInit)> = tokens.iter().map(|id| (*id, init.clone())).collect();
        self.start_rows(&starts);
    }

    /// Starts rows of the active adapter anew, each from something of its own. Tokens that it does not train are passed over.
    ///
    /// Panics when a start is made of a token that has no row.
    pub fn start_rows(&mut self, starts: &[(u32, RowInit)]) {
        self.each_layer(|adapter, matrix, layer| {
            let (name, width) = (layer.name().to_owned(), matrix.width());
            let survey = OnceCell::new();
            let survey = || survey.get_or_init(|| matrix.survey());
            let rows = layer.rows_mut();
            for (token, init) in starts {
                let Some(at) = rows.position(*token) else { continue };
                let start = match init {
                    RowInit::Base => matrix.gather(&[*token]),
                    RowInit::Mean => survey().mean.clone(),
                    RowInit::Random { seed } => {
                        let id = token.to_string();
                        let random = Random::named(*seed, &[adapter, name.as_str(), &id]);
                        normal(width, survey().rms, random)
                    }
                    made_of => mean_of(&matrix.gather(made_of.sources()), width),
                };
                rows.values[at * width..][..width].copy_from_slice(&start);
            }
        });
    }

    /// Moves rows of the active adapter that are equal, number for number, apart: each gets normal numbers of `size` times the
    /// root mean square of its matrix's entries on top. Tokens that start alike are one token to the model until training
    /// tells them apart. Gives the tokens that were moved, in ascending order.
    pub fn spread_rows(&mut self, size: f64, seed: u64) -> Vec<u32> {
        let mut moved = Vec::new();
        self.each_layer(|adapter, matrix, layer| {
            let (name, width) = (layer.name().to_owned(), matrix.width());
            let alike = alike(layer);
            if alike.is_empty() {
                return;
            }
            let sigma = (size * f64::from(matrix.survey().rms)) as f32;
            let rows = layer.rows_mut();
            for at in alike {
                let id = rows.indices()[at];
                let random = Random::named(seed, &[adapter, name.as_str(), &id.to_string(), "spread"]);
                let row = &mut rows.values[at * width..][..width];
                row.iter_mut().zip(normal(width, sigma, random)).for_each(|(x, by)| *x += by);
                moved.push(id);
            }
        });
        moved.sort_unstable();
        moved.dedup();
        moved
    }

    /// Where the active adapter's rows of some tokens lie among those of the vocabulary: for each of its layers, a place for
    /// each token that it trains, with the `neighbours` nearest tokens.
    pub fn row_places(&self, tokens: &[u32], neighbours: usize) -> Vec<RowPlace> {
        let mut places = Vec::new();
        for layer in self.layers() {
            let survey = matrix_of(self.base(), layer).survey();
            places.extend(self.places_in(layer, &survey, &[layer.rows()], (tokens, neighbours)).concat());
        }
        places
    }

    /// The same of one of the layers, whose matrix was surveyed, for each of some states of its rows.
    pub(crate) fn places_in(
        &self,
        layer: &TrainableTokensLayer,
        survey: &MatrixSurvey,
        states: &[&TrainedRows],
        (tokens, neighbours): (&[u32], usize),
    ) -> Vec<Vec<RowPlace>> {
        let trained: HashSet<u32> = self.token_indices().into_iter().collect();
        let found = |rows: &TrainedRows| -> Vec<(u32, usize)> {
            tokens.iter().filter_map(|id| Some((*id, rows.position(*id)?))).collect()
        };
        let found: Vec<Vec<(u32, usize)>> = states.iter().map(|rows| found(rows)).collect();
        let of = || states.iter().zip(&found).flat_map(|(rows, found)| found.iter().map(|of| (*rows, of)));
        let values: Vec<&[f32]> = of().map(|(rows, (_, at))| rows.row(*at)).collect();
        // one pass over the matrix for all of them
        let matrix = matrix_of(self.base(), layer);
        let nearest = matrix.nearest(&values, neighbours, |id| trained.contains(&id));
        let mut places = of().zip(nearest).map(|((rows, (id, at)), nearest)| {
            let norm = rows.norm(*at);
            let percentile = survey.percentile(norm);
            RowPlace { layer: layer.name().to_owned(), id: *id, norm, percentile, nearest }
        });
        found.iter().map(|found| places.by_ref().take(found.len()).collect()).collect()
    }

    /// Shows every layer of the first active adapter, with the adapter's name and the matrix whose rows it replaces.
    fn each_layer(&mut self, mut show: impl FnMut(&str, &TokenMatrix, &mut TrainableTokensLayer)) {
        self.joined.take();
        let Some(name) = self.active.first() else { return };
        let (base, adapters) = (&self.base, &mut self.adapters);
        let Some(adapter) = adapters.iter_mut().find(|adapter| adapter.name == *name) else { return };
        adapter.tokens.iter_mut().for_each(|layer| show(&adapter.name, matrix_of(base, layer), layer));
    }
}

/// The matrix whose rows a layer replaces.
pub(crate) fn matrix_of<'m>(base: &'m PretrainedModel, layer: &TrainableTokensLayer) -> &'m TokenMatrix {
    if layer.name() == base.head_name() { base.head() } else { base.embedding() }
}

/// Where rows stand that another row of the layer is equal to.
fn alike(layer: &TrainableTokensLayer) -> Vec<usize> {
    let rows = layer.rows();
    let bits = |at: usize| rows.row(at).iter().map(|x| x.to_bits());
    let mut order: Vec<usize> = (0..rows.indices().len()).collect();
    order.sort_by(|x, y| bits(*x).cmp(bits(*y)));
    let mut alike: Vec<usize> =
        order.windows(2).filter(|pair| bits(pair[0]).eq(bits(pair[1]))).flatten().copied().collect();
    alike.sort_unstable();
    alike.dedup();
    alike
}

/// The mean of rows, summed in `f64`; a single row stays what it is.
fn mean_of(rows: &[f32], width: usize) -> Vec<f32> {
    let count = (rows.len() / width.max(1)).max(1) as f64;
    let of = |column: usize| rows.iter().skip(column).step_by(width).map(|x| f64::from(*x)).sum::<f64>();
    (0..width).map(|column| (of(column) / count) as f32).collect()
}
