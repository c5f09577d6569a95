//! Rotary frequencies and their scaling, as `transformers/modeling_rope_utils.py` defines them.

use super::config::ModelConfig;
use crate::error::Result;

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// The base of the geometric series of frequencies.
    pub theta: f64,
    /// Rotated entries of a head.
    pub dim: usize,
    /// How the frequencies are scaled.
    pub variant: RopeVariant,
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
}

impl RopeSpec {
    /// Reads one rotary embedding from the section that describes it (`rope_parameters` since transformers 5,
    /// `rope_scaling` before), with `theta` where the section has none.
    ///
    /// # Errors
    /// The type is not one of `default`, `linear`, `llama3`, or a parameter is missing or no positive number.
    pub fn read(section: Option<&ModelConfig>, theta: Option<f64>, dim: usize) -> Result<Self> {
        let Some(section) = section else {
            return Ok(Self { theta: theta.unwrap_or(10_000.0), dim, variant: RopeVariant::Default });
        };
        let kind = match section.optional_text("rope_type")? {
            Some(kind) => kind,
            None => section.optional_text("type")?.unwrap_or_else(|| "default".into()),
        };
        let positive = |key: &str| {
            let value = section.number(key)?;
            if value > 0.0 {
                Ok(value)
            } else {
                Err(section.error(key, format!("expected more than 0, found {value}")))
            }
        };
        let variant = match kind.as_str() {
            "default" => RopeVariant::Default,
            "linear" => RopeVariant::Linear { factor: positive("factor")? },
            "llama3" => RopeVariant::Llama3 {
                factor: positive("factor")?,
                low_freq_factor: positive("low_freq_factor")?,
                high_freq_factor: positive("high_freq_factor")?,
                original: positive("original_max_position_embeddings")?,
            },
            other => {
                let problem = format!("'{other}' is not supported; supported: default, linear, llama3");
                return Err(section.error("rope_type", problem));
            }
        };
        let theta = section.optional_number("rope_theta")?.or(theta).unwrap_or(10_000.0);
        Ok(Self { theta, dim, variant })
    }

    /// The angle per position of each pair `[dim / 2]`, rounded to `f32` at the steps where transformers rounds.
    pub fn frequencies(&self) -> Vec<f32> {
        (0..self.dim / 2)
            .map(|j| {
                let exponent = (2 * j) as f32 / self.dim as f32;
                let frequency = 1.0 / (self.theta.powf(exponent as f64) as f32);
                self.scaled(frequency)
            })
            .collect()
    }

    fn scaled(&self, frequency: f32) -> f32 {
        match self.variant {
            RopeVariant::Default => frequency,
            RopeVariant::Linear { factor } => frequency / factor as f32,
            RopeVariant::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<RopeSpec> {
        let Value::Object(object) = value else { panic!("an object") };
        RopeSpec::read(Some(&ModelConfig::from_object("config.json", object)), Some(500.0), 16)
    }

    #[test]
    fn llama3_keeps_high_divides_low_and_blends_between() {
        let plain = RopeSpec { theta: 500.0, dim: 16, variant: RopeVariant::Default }.frequencies();
        let scaled = read(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}))
        .expect("a known type")
        .frequencies();
        let ratio: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        assert_eq!(ratio[0], 1.0);
        assert_eq!(ratio[7], 8.0);
        assert!(ratio.iter().any(|r| *r > 1.0 && *r < 8.0), "{ratio:?}");
        assert!(ratio.is_sorted());
    }

    #[test]
    fn both_spellings_and_the_given_theta_are_read() {
        assert_eq!(
            read(json!({"type": "linear", "factor": 2})).expect("old spelling").variant,
            RopeVariant::Linear { factor: 2.0 }
        );
        assert_eq!(read(json!({"rope_type": "default"})).expect("plain").theta, 500.0);
        assert_eq!(read(json!({"rope_theta": 7.0})).expect("plain").theta, 7.0);
    }

    #[test]
    fn an_unknown_type_and_a_missing_factor_are_refused() {
        let message = read(json!({"rope_type": "yarn"})).expect_err("not supported").to_string();
        assert!(message.contains("yarn") && message.contains("llama3"), "{message}");
        let message = read(json!({"rope_type": "linear"})).expect_err("no factor").to_string();
        assert!(message.contains("factor") && message.contains("missing"), "{message}");
        assert!(read(json!({"rope_type": "linear", "factor": 0})).is_err());
    }
}
