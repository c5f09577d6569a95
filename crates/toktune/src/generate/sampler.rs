//! Choosing a token from logits: transformers' processors, in transformers' order.

use super::config::GenerationConfig;
use crate::error::Result;
use crate::random::Random;
use std::collections::BTreeSet;
use toktune_engine::EngineError;

/// Chooses tokens as a [`GenerationConfig`] says: the repetition penalty, then, when drawing, temperature,
/// `top_k` and `top_p`.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: GenerationConfig,
    random: Random,
    seen: BTreeSet<u32>,
}

/// A token that may be drawn, and its logit.
type Candidate = (u32, f32);

impl Sampler {
    /// A sampler whose text begins with `prompt`.
    ///
    /// # Errors
    /// A value of `config` is out of range.
    pub fn new(config: &GenerationConfig, prompt: &[u32]) -> Result<Self> {
        config.check()?;
        let random = Random::new(config.seed);
        Ok(Self { config: config.clone(), random, seen: prompt.iter().copied().collect() })
    }

    /// The next token; it is taken to be part of the text from now on.
    ///
    /// # Errors
    /// There are no logits, or one is a NaN or positively infinite.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        // a negative infinity is a token that a model rules out
        let is_bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
        if logits.iter().fold(false, |any, x| any | is_bad(x))
            && let Some(at) = logits.iter().position(is_bad)
        {
            return Err(EngineError::NotFinite {
                what: format!("the logit of token {at} is {}", logits[at]),
            }
            .into());
        }
        let chosen = if !self.config.do_sample && self.config.repetition_penalty == 1.0 {
            likeliest(logits)
        } else {
            let mut candidates: Vec<Candidate> =
                logits.iter().enumerate().map(|(id, &x)| (id as u32, x)).collect();
            self.penalise(&mut candidates);
            match self.config.do_sample {
                true => self.draw(candidates),
                false => likeliest(&candidates.into_iter().map(|(_, x)| x).collect::<Vec<_>>()),
            }
        };
        let chosen =
            chosen.ok_or_else(|| EngineError::NotFinite { what: "no token has a finite logit".into() })?;
        self.seen.insert(chosen);
        Ok(chosen)
    }

    fn penalise(&self, candidates: &mut [Candidate]) {
        let penalty = self.config.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for &id in &self.seen {
            if let Some((_, x)) = candidates.get_mut(id as usize) {
                *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
            }
        }
    }

    fn draw(&mut self, mut candidates: Vec<Candidate>) -> Option<u32> {
        candidates.iter_mut().for_each(|(_, x)| *x /= self.config.temperature);
        keep_top_k(&mut candidates, self.config.top_k);
        keep_top_p(&mut candidates, self.config.top_p);
        let weights = weights(&candidates);
        let mut left = self.random.uniform() * weights.iter().sum::<f64>();
        let mut last = None;
        for ((id, _), weight) in candidates.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0) {
            last = Some(*id);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        // rounding may leave a crumb past the last token
        last
    }
}

/// The first of the largest; none where all are ruled out.
fn likeliest(logits: &[f32]) -> Option<u32> {
    // two passes without a branch an entry, which can be vectorised
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (lanes, rest) = logits.as_chunks::<16>();
    let largest = lanes
        .iter()
        .fold([f32::NEG_INFINITY; 16], |largest, lane| std::array::from_fn(|i| larger(largest[i], lane[i])));
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, x| larger(largest, *x));
    let first = logits.iter().position(|x| *x == largest)?;
    (largest > f32::NEG_INFINITY).then_some(first as u32)
}

/// Larger logits first, smaller ids first among equals: an order that does not depend on the sort.
fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the `k` largest, and all that equal the smallest of them, as transformers does; 0 keeps all.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= candidates.len() {
        return;
    }
    let (_, &mut (_, smallest), _) = candidates.select_nth_unstable_by(k - 1, likelier);
    candidates.retain(|(_, x)| *x >= smallest);
    // the selection shuffles, and what is drawn must not depend on how
    candidates.sort_unstable_by(likelier);
}

/// Keeps the likeliest tokens up to and including the one with which they reach the probability `p`.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    candidates.sort_unstable_by(likelier);
    let weights = weights(candidates);
    let enough = p as f64 * weights.iter().sum::<f64>();
    let mut before = 0.0;
    let kept = weights.iter().take_while(|weight| {
        let keep = before < enough;
        before += **weight;
        keep
    });
    let kept = kept.count();
    candidates.truncate(kept.max(1));
}

/// Probabilities but for their sum, which is not 1.
fn weights(candidates: &[Candidate]) -> Vec<f64> {
    let largest = candidates.iter().fold(f32::NEG_INFINITY, |m, (_, x)| m.max(*x));
    let weight = |x: f32| if x == f32::NEG_INFINITY { 0.0 } else { (x as f64 - largest as f64).exp() };
    candidates.iter().map(|(_, x)| weight(*x)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> GenerationConfig {
        GenerationConfig { do_sample: true, top_k: 0, ..GenerationConfig::default() }
    }

    /// How often each token is drawn of 20000.
    fn counts(config: &GenerationConfig, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(config, &[]).expect("a sampler");
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.choose(logits).expect("a token") as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn assert_drawn(config: &GenerationConfig, logits: &[f32], expected: &[f64]) {
        let total: f64 = expected.iter().sum();
        for (id, (found, expected)) in counts(config, logits).iter().zip(expected).enumerate() {
            let expected = expected / total;
            // four standard deviations of the largest binomial
            assert!((found - expected).abs() < 4.0 * 0.5 / 20_000f64.sqrt(), "{id}: {found}, not {expected}");
            assert!(expected > 0.0 || *found == 0.0, "token {id} is ruled out, drawn {found}");
        }
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits = [1f32, 3.0, 2.0, 0.5, 2.0].map(f32::ln);
        assert_drawn(&sampling(), &logits, &[1.0, 3.0, 2.0, 0.5, 2.0]);
        let hot = GenerationConfig { temperature: 0.5, ..sampling() };
        assert_drawn(&hot, &logits, &[1.0, 9.0, 4.0, 0.25, 4.0]);
        let ruled_out = [0.0, f32::NEG_INFINITY, 0.0];
        assert_drawn(&sampling(), &ruled_out, &[1.0, 0.0, 1.0]);
    }

    #[test]
    fn top_k_keeps_ties_and_top_p_the_token_that_reaches_it() {
        let logits = [1f32, 3.0, 2.0, 0.5, 2.0].map(f32::ln);
        let top = |k| GenerationConfig { top_k: k, ..sampling() };
        assert_drawn(&top(1), &logits, &[0.0, 3.0, 0.0, 0.0, 0.0]);
        assert_drawn(&top(2), &logits, &[0.0, 3.0, 2.0, 0.0, 2.0]);
        assert_drawn(&top(5), &logits, &[1.0, 3.0, 2.0, 0.5, 2.0]);
        let nucleus = |p| GenerationConfig { top_p: p, ..sampling() };
        // 3, 2, 2, 1, 0.5 of 8.5
        assert_drawn(&nucleus(0.01), &logits, &[0.0, 3.0, 0.0, 0.0, 0.0]);
        assert_drawn(&nucleus(0.5), &logits, &[0.0, 3.0, 2.0, 0.0, 0.0]);
        assert_drawn(&nucleus(0.9), &logits, &[1.0, 3.0, 2.0, 0.0, 2.0]);
        // top_p is of what top_k has left: 3, 2, 2 of 7
        let both = GenerationConfig { top_k: 2, top_p: 0.4, ..sampling() };
        assert_drawn(&both, &logits, &[0.0, 3.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn repeated_tokens_are_penalised_once_and_first() {
        let config = GenerationConfig { repetition_penalty: 2.0, ..GenerationConfig::default() };
        let mut sampler = Sampler::new(&config, &[1, 1, 99]).expect("a sampler");
        // 5 / 2 < 3, and a negative logit becomes more so; id 99 has no logit here
        assert_eq!(sampler.choose(&[3.0, 5.0, -1.0]).expect("a token"), 0);
        assert_eq!(sampler.choose(&[-1.0, -1.0, -1.5]).expect("a token"), 2);
        // the penalty comes before top_k
        let config = GenerationConfig { repetition_penalty: 2.0, top_k: 1, ..sampling() };
        let mut sampler = Sampler::new(&config, &[0]).expect("a sampler");
        assert_eq!(sampler.choose(&[3.0, 2.0]).expect("a token"), 1);
    }

    #[test]
    fn without_sampling_the_first_of_the_likeliest_is_taken() {
        let mut sampler = Sampler::new(&GenerationConfig::default(), &[]).expect("a sampler");
        assert_eq!(sampler.choose(&[0.0, 2.0, 2.0, -1.0]).expect("a token"), 1);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_for_ever() {
        let draw = |seed| {
            let config = GenerationConfig { seed, top_k: 7, top_p: 0.95, ..sampling() };
            let mut sampler = Sampler::new(&config, &[]).expect("a sampler");
            let logits: Vec<f32> = (0..10).map(|i| (i * 7 % 10) as f32 * 0.3).collect();
            (0..12).map(|_| sampler.choose(&logits).expect("a token")).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(7), FOR_EVER);
    }

    /// A change of these is a change of every sampled text.
    const FOR_EVER: [u32; 12] = [4, 7, 5, 1, 4, 7, 4, 4, 7, 4, 7, 2];

    #[test]
    fn logits_that_say_nothing_are_refused() {
        for config in [sampling(), GenerationConfig::default()] {
            let mut sampler = Sampler::new(&config, &[]).expect("a sampler");
            for (logits, expected) in [
                (&[0.0, f32::NAN][..], "token 1 is NaN"),
                (&[f32::INFINITY, 0.0], "token 0 is inf"),
                (&[f32::NEG_INFINITY; 2], "no token"),
                (&[], "no token"),
            ] {
                let error = sampler.choose(logits).expect_err("nothing to choose");
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }
}
