//! The parameters of a rotary embedding, from the section of `config.json` that describes it.

#[cfg(test)]
mod tests;

use super::config::ModelConfig;
use crate::error::Result;
use crate::spec::{RopeSpec, RopeVariant};

/// The types that are read, for messages.
const KINDS: &str = "default, linear, dynamic, yarn, longrope, llama3";

impl RopeSpec {
    /// Reads one rotary embedding of heads of `head_dim` from the `section` of `config` that describes it
    /// (`rope_parameters` since transformers 5, `rope_scaling` before), with `theta` where the section has none.
    ///
    /// `partial_rotary_factor`, in the section or beside it, says which part of a head is rotated, and all of it is
    /// where there is none: a family with another default sets [`RopeSpec::dim`] itself.
    ///
    /// # Errors
    /// The type is not one of `default`, `linear`, `dynamic`, `yarn`, `longrope` (also `su`) and `llama3`, a
    /// parameter is missing or no positive number, or a list has another length than there are pairs.
    pub fn read(
        config: &ModelConfig,
        section: Option<&ModelConfig>,
        theta: Option<f64>,
        head_dim: usize,
    ) -> Result<Self> {
        let empty = ModelConfig::from_object(config.path(), Default::default());
        let section = section.unwrap_or(&empty);
        let reader = Reader { config, section };
        let theta = reader.positive("rope_theta")?.or(theta).unwrap_or(10_000.0);
        let part = match reader.positive("partial_rotary_factor")? {
            Some(part) => Some((section, part)),
            None => config.optional_number("partial_rotary_factor")?.map(|part| (config, part)),
        };
        let dim = match part {
            Some((_, part)) if part > 0.0 && part <= 1.0 => (head_dim as f64 * part) as usize,
            Some((found_in, part)) => {
                let problem = format!("expected more than 0 and at most 1, found {part}");
                return Err(found_in.error("partial_rotary_factor", problem));
            }
            None => head_dim,
        };
        let kind = match section.optional_text("rope_type")? {
            Some(kind) => kind,
            None => section.optional_text("type")?.unwrap_or_else(|| "default".into()),
        };
        let variant = match kind.as_str() {
            // of text alone all axes of Qwen's have the same positions
            "default" | "mrope" => RopeVariant::Default,
            "linear" => RopeVariant::Linear { factor: reader.required("factor")? },
            "dynamic" => reader.dynamic(dim)?,
            "llama3" => RopeVariant::Llama3 {
                factor: reader.required("factor")?,
                low_freq_factor: reader.required("low_freq_factor")?,
                high_freq_factor: reader.required("high_freq_factor")?,
                original: reader.original()?,
            },
            "yarn" => reader.yarn(theta)?,
            "longrope" | "su" => reader.longrope(dim / 2)?,
            other => {
                let problem = format!("'{other}' is not supported; supported: {KINDS}");
                return Err(section.error("rope_type", problem));
            }
        };
        Ok(Self { theta, dim, variant, reversed: false })
    }
}

/// A section and the configuration it is part of.
struct Reader<'a> {
    config: &'a ModelConfig,
    section: &'a ModelConfig,
}

impl Reader<'_> {
    /// A number of the section that is more than 0.
    fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.section.optional_number(key)? {
            Some(value) if value <= 0.0 => {
                Err(self.section.error(key, format!("expected more than 0, found {value}")))
            }
            value => Ok(value),
        }
    }

    fn required(&self, key: &str) -> Result<f64> {
        self.positive(key)?.ok_or_else(|| self.section.error(key, "missing"))
    }

    /// A number of the section where 0 is as good as none.
    fn nonzero(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.section.optional_number(key)?.filter(|value| *value != 0.0))
    }

    /// Positions the model was made for.
    fn max_positions(&self) -> Result<f64> {
        Ok(self.config.size("max_position_embeddings")? as f64)
    }

    /// Positions of the pretraining. Beside the section they come first, as Phi 3 has them.
    fn original(&self) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        match (self.config.optional_size(KEY)?, self.positive(KEY)?) {
            (Some(original), _) => Ok(original as f64),
            (None, Some(original)) => Ok(original),
            (None, None) => self.max_positions(),
        }
    }

    /// How many times longer a context may be than the pretraining's.
    fn factor(&self, original: f64) -> Result<f64> {
        match self.positive("factor")? {
            Some(factor) => Ok(factor),
            None => Ok(self.max_positions()? / original),
        }
    }

    fn dynamic(&self, dim: usize) -> Result<RopeVariant> {
        if dim <= 2 {
            let problem = format!("dynamic scaling needs more than 2 rotated entries of a head, found {dim}");
            return Err(self.section.error("rope_type", problem));
        }
        let factor = self.required("factor")?;
        if factor < 1.0 {
            return Err(self.section.error("factor", format!("expected at least 1, found {factor}")));
        }
        Ok(RopeVariant::Dynamic { factor, max_positions: self.max_positions()? })
    }

    fn yarn(&self, theta: f64) -> Result<RopeVariant> {
        if theta <= 1.0 {
            return Err(self.section.error("rope_theta", format!("yarn needs more than 1, found {theta}")));
        }
        let original = self.original()?;
        let factor = self.factor(original)?;
        let temperature = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention_factor = match self.section.optional_number("attention_factor")? {
            Some(given) => given,
            None => match (self.nonzero("mscale")?, self.nonzero("mscale_all_dim")?) {
                (Some(scale), Some(all)) => temperature(scale) / temperature(all),
                _ => temperature(1.0),
            },
        };
        Ok(RopeVariant::Yarn {
            factor,
            beta_fast: self.turns("beta_fast", 32.0)?,
            beta_slow: self.turns("beta_slow", 1.0)?,
            original,
            truncate: self.section.flag("truncate", true)?,
            attention_factor: self.finite(attention_factor)?,
        })
    }

    fn turns(&self, key: &str, default: f64) -> Result<f64> {
        match self.nonzero(key)? {
            None => Ok(default),
            Some(_) => self.required(key),
        }
    }

    fn longrope(&self, pairs: usize) -> Result<RopeVariant> {
        let original = self.original()?;
        let attention_factor = match self.section.optional_number("attention_factor")? {
            Some(given) => given,
            None => match self.factor(original)? {
                factor if factor <= 1.0 => 1.0,
                factor => (1.0 + factor.ln() / original.ln()).sqrt(),
            },
        };
        Ok(RopeVariant::Longrope {
            short_factor: self.divisors("short_factor", pairs)?,
            long_factor: self.divisors("long_factor", pairs)?,
            original,
            attention_factor: self.finite(attention_factor)?,
        })
    }

    fn finite(&self, attention_factor: f64) -> Result<f64> {
        if attention_factor.is_finite() {
            return Ok(attention_factor);
        }
        let problem = format!("expected a finite number, found {attention_factor} from the other parameters");
        Err(self.section.error("attention_factor", problem))
    }

    /// A positive number for each pair.
    fn divisors(&self, key: &str, pairs: usize) -> Result<Vec<f32>> {
        let expected = format!("expected a list of {pairs} positive numbers, one a pair of rotated entries");
        let Some(value) = self.section.get(key) else {
            return Err(self.section.error(key, format!("missing; {expected}")));
        };
        let list =
            value.as_array().ok_or_else(|| self.section.error(key, format!("{expected}, found {value}")))?;
        if list.len() != pairs {
            return Err(self.section.error(key, format!("{expected}, found {}", list.len())));
        }
        let positive = |value: &serde_json::Value| match value.as_f64() {
            Some(divisor) if divisor > 0.0 && divisor.is_finite() => Ok(divisor as f32),
            _ => Err(self.section.error(key, format!("{expected}, found {value} in it"))),
        };
        list.iter().map(positive).collect()
    }
}
