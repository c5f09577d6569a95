//! Mixtures of experts, as data.

/// A mixture of experts in place of a block's MLP; the activation is that of the MLP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertsSpec {
    /// How many there are.
    pub count: usize,
    /// Width inside each.
    pub inner: usize,
    /// Which of them a row takes, and with which weights.
    pub routing: Routing,
    /// How they are stored.
    pub layout: ExpertLayout,
    /// Their linear layers have biases.
    pub bias: bool,
    /// The router has a bias.
    pub router_bias: bool,
    /// Width inside the MLP that every row passes through beside those it chooses; its biases are those of the MLP.
    pub shared: Option<usize>,
}

impl ExpertsSpec {
    /// `count` experts that are stored one by one, without biases, of which a row takes what `routing` says.
    pub fn new(count: usize, inner: usize, routing: Routing) -> Self {
        let layout = ExpertLayout::Each;
        Self { count, inner, routing, layout, bias: false, router_bias: false, shared: None }
    }

    /// Whether the numbers fit together, as `Err((key, problem))` in terms of `config.json`.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let (of, count) = (&self.routing, self.count);
        if !(1..=count).contains(&of.chosen) {
            return Err(("num_experts_per_tok", format!("{} of {count} experts", of.chosen)));
        }
        let Some(groups) = &of.groups else { return Ok(()) };
        if groups.count == 0 || !count.is_multiple_of(groups.count) {
            return Err(("n_group", format!("{} groups of {count} experts", groups.count)));
        }
        if !(1..=groups.count).contains(&groups.chosen) {
            return Err(("topk_group", format!("{} of {} groups", groups.chosen, groups.count)));
        }
        let reached = count / groups.count * groups.chosen;
        if of.chosen > reached {
            return Err((
                "num_experts_per_tok",
                format!("{} of {reached} experts in the chosen groups", of.chosen),
            ));
        }
        Ok(())
    }
}

/// How the weights of a layer's experts are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpertLayout {
    /// Each expert has tensors of its own, its number in their names.
    #[default]
    Each,
    /// One tensor for all: `[experts, 2 inner, d]`, the gate above the up projection, and `[experts, d, inner]` (Granite).
    Rows,
    /// One tensor for all, `[experts, d, 2 inner]` and `[experts, inner, d]`, with biases `[experts, …]` beside them; the names
    /// are those of tensors, in full (Llama 4, GPT-OSS).
    Columns {
        /// The gate and the up projection take turns, output by output.
        interleaved: bool,
    },
}

/// How a row comes to its experts: the router's logits become scores, the best scores choose, and weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// How many experts a row takes.
    pub chosen: usize,
    /// What is made of the logits. Where the names have a correction, it is added to the scores for the choice alone.
    pub scores: ExpertScores,
    /// Only experts of the best groups are chosen.
    pub groups: Option<ExpertGroups>,
    /// What the scores of the chosen are divided by.
    pub normalised: Normalised,
    /// Factor on the weights.
    pub scale: f32,
    /// An expert's input is weighed, not its result (Llama 4).
    pub weighs_input: bool,
}

impl Routing {
    /// The `chosen` likeliest by a softmax; with `normalised` their weights sum to 1.
    pub fn softmax(chosen: usize, normalised: bool) -> Self {
        let scores = ExpertScores::Softmax;
        let normalised = if normalised { Normalised::Sum { plus: 0.0 } } else { Normalised::No };
        Self { chosen, scores, groups: None, normalised, scale: 1.0, weighs_input: false }
    }
}

/// What the router's logits become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExpertScores {
    /// Their softmax.
    Softmax,
    /// Their logistic function, each by itself.
    Sigmoid,
    /// Phi MoE's: the best expert, weighed by a softmax over those that are nearly as good, and then the best of the others,
    /// likewise. A logit `s` is nearly as good as the best one `t` if `(t - s) / max(|s|, t)` is at most `reach`.
    NearBest {
        /// How far from the best.
        reach: f32,
    },
}

/// Groups of experts, neighbours in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// How many groups there are.
    pub count: usize,
    /// How many of them experts are chosen from.
    pub chosen: usize,
    /// Experts whose best scores are added to the score of a group: 2 in DeepSeek 3, 1 in DeepSeek 2.
    pub counted: usize,
}

/// What the scores of the chosen experts are divided by to become weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalised {
    /// Nothing.
    No,
    /// Their sum and a little more.
    Sum {
        /// How much more.
        plus: f32,
    },
    /// Their sum, or a floor that is above it.
    SumAtLeast {
        /// The floor.
        floor: f32,
    },
}
