//! Rotary frequencies and their scaling, as `transformers/modeling_rope_utils.py` (5.23) defines them.

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the geometric series of frequencies.
    pub theta: f64,
    /// Rotated entries of a head.
    pub dim: usize,
    /// How the frequencies are scaled.
    pub variant: RopeVariant,
    /// Pairs turn the other way round (NanoChat).
    pub reversed: bool,
}

/// How frequencies are scaled for contexts longer than the pretraining's.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeVariant {
    /// As they are.
    Default,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Sequences longer than the model was made for have a larger base (NTK-aware scaling).
    Dynamic {
        /// How fast the base grows with the length.
        factor: f64,
        /// Positions the model was made for.
        max_positions: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths over `original / low` are low.
        low_freq_factor: f64,
        /// Wavelengths under `original / high` are high.
        high_freq_factor: f64,
        /// Positions of the pretraining.
        original: f64,
    },
    /// Yarn: pairs that turn often in the pretraining's context are kept, those that turn seldom divided, and
    /// between them there is a ramp over the pairs.
    Yarn {
        /// Divisor of pairs that turn seldom.
        factor: f64,
        /// Turns from which on a pair is kept.
        beta_fast: f64,
        /// Turns up to which a pair is divided.
        beta_slow: f64,
        /// Positions of the pretraining.
        original: f64,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
    /// LongRoPE: each pair has a divisor of its own, another one in sequences longer than the pretraining's.
    Longrope {
        /// Divisors in sequences of up to `original` positions.
        short_factor: Vec<f32>,
        /// Divisors in longer sequences.
        long_factor: Vec<f32>,
        /// Positions of the pretraining.
        original: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

/// The angles of one rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// The angle per position of each pair, `[dim / 2]`.
    pub values: Vec<f32>,
    /// Factor on cosines and sines.
    pub scale: f32,
}

impl RopeSpec {
    /// Whether [`Self::frequencies`] are others for another length.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.variant, RopeVariant::Dynamic { .. } | RopeVariant::Longrope { .. })
    }

    /// Sequences of one class have the same angles.
    pub fn class(&self, length: usize) -> u64 {
        match &self.variant {
            RopeVariant::Dynamic { max_positions, .. } => (length as f64).max(*max_positions) as u64,
            RopeVariant::Longrope { original, .. } => u64::from(length as f64 > *original),
            _ => 0,
        }
    }

    /// The angles in a sequence of `length` positions, rounded to `f32` at the steps where transformers rounds.
    ///
    /// transformers takes the length of the longest sequence of a batch, and `dynamic` keeps the largest base it
    /// ever needed until a sequence is short again; here a sequence's angles are those that it has alone.
    pub fn frequencies(&self, length: usize) -> Frequencies {
        let pairs = 0..self.dim / 2;
        // base ^ (2j / dim)
        let powers = |theta: f64| {
            pairs.clone().map(move |j| theta.powf(((2 * j) as f32 / self.dim as f32) as f64) as f32)
        };
        let plain = || powers(self.theta).map(|power| 1.0 / power);
        let (values, scale) = match &self.variant {
            RopeVariant::Default => (plain().collect(), 1.0),
            RopeVariant::Linear { factor } => (plain().map(|f| f / *factor as f32).collect(), 1.0),
            RopeVariant::Dynamic { factor, max_positions } => {
                let (length, dim) = ((length as f64).max(*max_positions), self.dim as f64);
                let growth = (factor * length / max_positions - (factor - 1.0)).powf(dim / (dim - 2.0));
                (powers(self.theta * growth).map(|power| 1.0 / power).collect(), 1.0)
            }
            RopeVariant::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let scaled = |f| llama3(f, *factor, *low_freq_factor, *high_freq_factor, *original);
                (plain().map(scaled).collect(), 1.0)
            }
            RopeVariant::Yarn { factor, attention_factor, .. } => {
                let (low, high) = self.ramp();
                let kept = |j: usize| 1.0 - ((j as f32 - low) / (high - low)).clamp(0.0, 1.0);
                let values = powers(self.theta).enumerate().map(|(j, power)| {
                    let (divided, kept) = (1.0 / (*factor as f32 * power), kept(j));
                    divided * (1.0 - kept) + 1.0 / power * kept
                });
                (values.collect(), *attention_factor)
            }
            RopeVariant::Longrope { short_factor, long_factor, original, attention_factor } => {
                let divisors = if length as f64 > *original { long_factor } else { short_factor };
                let values = powers(self.theta).zip(divisors).map(|(power, divisor)| 1.0 / (divisor * power));
                (values.collect(), *attention_factor)
            }
        };
        let values: Vec<f32> = values;
        let values = if self.reversed { values.into_iter().map(|f| -f).collect() } else { values };
        Frequencies { values, scale: scale as f32 }
    }

    /// Between which pairs Yarn's ramp lies; both are 0 for other variants.
    fn ramp(&self) -> (f32, f32) {
        let RopeVariant::Yarn { beta_fast, beta_slow, original, truncate, .. } = self.variant else {
            return (0.0, 0.0);
        };
        let dim = self.dim as f64;
        // the pair that turns so often in the pretraining's context
        let pair =
            |turns: f64| dim * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln());
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        (low as f32, if low == high { high + 0.001 } else { high } as f32)
    }
}

/// One frequency as Llama 3.1 scales it.
fn llama3(frequency: f32, factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: f64) -> f32 {
    let wavelength = std::f64::consts::TAU as f32 / frequency;
    if wavelength < (original / high_freq_factor) as f32 {
        frequency
    } else if wavelength > (original / low_freq_factor) as f32 {
        frequency / factor as f32
    } else {
        let smooth = (original as f32 / wavelength - low_freq_factor as f32)
            / (high_freq_factor - low_freq_factor) as f32;
        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
    }
}
