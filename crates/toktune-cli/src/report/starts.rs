//! What rows start from, where that lies, and what the model makes of it before training.

use super::format::{count, number, spelling};
use super::rows::plain;
use serde::Serialize;
use toktune::text::AutoTokenizer;

/// What the row of a token starts from, and where that lies.
#[derive(Clone, Debug, Serialize)]
pub struct StartLine {
    /// Its id.
    pub id: u32,
    /// Its spelling, where there is a tokenizer.
    pub token: Option<String>,
    /// The rule.
    pub start: &'static str,
    /// The tokens whose rows it is made of.
    pub from: Vec<NeighbourLine>,
    /// Where it lies, in each matrix that has a row for it.
    pub places: Vec<PlaceLine>,
    /// Its mean probability where other tokens belong.
    pub probability: Option<f64>,
}

/// Where a row lies among those of a matrix.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceLine {
    /// The matrix.
    pub module: String,
    /// The row's norm.
    pub norm: f64,
    /// How many of a hundred rows are shorter.
    pub norm_percentile: f64,
    /// The rows that are nearest by cosine.
    pub nearest: Vec<NeighbourLine>,
}

/// Another token.
#[derive(Clone, Debug, Serialize)]
pub struct NeighbourLine {
    /// Its id.
    pub id: u32,
    /// Its spelling.
    pub token: Option<String>,
    /// How near it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f32>,
}

/// Tokens that a start is made of, or that a warning names, at most.
const NAMED: usize = 6;
/// How many times an even share a probability may be, or the other way round.
const FAR: f64 = 10.0;

impl NeighbourLine {
    /// A token, and how near it is where that is known.
    pub fn of(id: u32, cosine: Option<f32>, tokenizer: Option<&AutoTokenizer>) -> Self {
        Self { id, token: spelling(tokenizer, id), cosine }
    }

    fn text(&self) -> String {
        self.token.clone().unwrap_or_else(|| self.id.to_string())
    }
}

/// Some tokens after each other.
fn listed(tokens: &[NeighbourLine]) -> String {
    let more = if tokens.len() > NAMED { " …" } else { "" };
    tokens.iter().take(NAMED).map(|token| plain(&token.text())).collect::<Vec<_>>().join(" ") + more
}

impl StartLine {
    fn name(&self) -> String {
        self.token.clone().unwrap_or_else(|| self.id.to_string())
    }

    /// A line of the header; of several matrices the first one.
    pub fn text(&self) -> String {
        let from = match (self.start, self.from.is_empty()) {
            ("mean", _) => "the mean of the trained rows".to_owned(),
            ("base", _) => "its row as it is".to_owned(),
            (rule, true) => rule.to_owned(),
            (rule, false) => format!("{rule} {}", listed(&self.from)),
        };
        let mut parts = vec![format!("{} from {from}", self.name())];
        if let Some(place) = self.places.first() {
            parts.push(format!("longer than {:.0} % of the rows", place.norm_percentile));
            if !place.nearest.is_empty() {
                parts.push(format!("near {}", listed(&place.nearest)));
            }
        }
        parts.extend(self.probability.map(|p| format!("probability {}", number(p))));
        parts.join(", ")
    }
}

/// Warns of rows that start far above or below an even share of the probability, those that start as they are left out.
pub fn tell_prior(starts: &[StartLine], rows: usize) {
    let even = 1.0 / rows.max(1) as f64;
    let far = |is_far: &dyn Fn(f64) -> bool| -> Vec<&StartLine> {
        let fresh = starts.iter().filter(|start| start.start != "base");
        fresh.filter(|start| start.probability.is_some_and(is_far)).collect()
    };
    let (above, below) = (far(&|p| p > FAR * even), far(&|p| p * FAR < even));
    let share = number(even);
    let rows = count(rows as u64);
    if let Some((names, most)) = named(&above, f64::max) {
        super::warning(&format!(
            "{names}: probability {} at the start in places of other tokens, where an even share among {rows} rows is \
             {share}: what the model says of all other tokens suffers until training has brought it down, which it does \
             within the first steps; for a short run choose another start (--init mean)",
            number(most)
        ));
    }
    if let Some((names, least)) = named(&below, f64::min) {
        super::warning(&format!(
            "{names}: probability {} at the start in places of other tokens, where an even share among {rows} rows is \
             {share}: other tokens are as they were, and the new ones begin far down where they belong too, so that the \
             first losses at them are high; nothing needs to be done for a run of some dozens of steps, and a shorter one \
             can start nearer (--init pieces, --init TOKEN=like:OTHER)",
            number(least)
        ));
    }
}

/// The names of tokens, and the most of their probabilities by `of`.
fn named(starts: &[&StartLine], of: fn(f64, f64) -> f64) -> Option<(String, f64)> {
    let most = starts.iter().filter_map(|start| start.probability).reduce(of)?;
    let names: Vec<String> = starts.iter().take(NAMED).map(|start| format!("'{}'", start.name())).collect();
    let more = if starts.len() > NAMED { ", ..." } else { "" };
    Some((names.join(", ") + more, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_told_in_a_line() {
        let near = |token: &str| NeighbourLine { id: 1, token: Some(token.into()), cosine: Some(0.5) };
        let start = StartLine {
            id: 9,
            token: Some("<calc>".into()),
            start: "pieces",
            from: ["<", "cal", "c", ">"].map(near).to_vec(),
            places: vec![PlaceLine {
                module: "m".into(),
                norm: 2.0,
                norm_percentile: 12.4,
                nearest: ["<", "\n\n"].map(near).to_vec(),
            }],
            probability: Some(2.5e-7),
        };
        let expected =
            "<calc> from pieces < cal c >, longer than 12 % of the rows, near < ⏎⏎, probability 2.500e-7";
        assert_eq!(start.text(), expected);
        let mean = StartLine { start: "mean", from: vec![], places: vec![], probability: None, ..start };
        assert_eq!(mean.text(), "<calc> from the mean of the trained rows");
    }
}
