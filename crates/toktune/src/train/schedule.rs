//! Learning-rate schedules, as transformers' `get_scheduler` defines them.

/// The kind of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrScheduler {
    /// The rate stays.
    Constant,
    /// The rate falls linearly to 0 at the last step.
    Linear,
    /// The rate falls along half a cosine to 0 at the last step.
    Cosine,
}

impl LrScheduler {
    /// Every kind, by the name that options use.
    pub const NAMES: [(&'static str, LrScheduler); 3] = [
        ("constant", LrScheduler::Constant),
        ("linear", LrScheduler::Linear),
        ("cosine", LrScheduler::Cosine),
    ];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub learning_rate: f64,
    /// The kind.
    pub kind: LrScheduler,
    /// Steps over which the rate rises linearly from 0.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of step `step`, the first being 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / rest).min(1.0);
        self.learning_rate
            * match self.kind {
                LrScheduler::Constant => 1.0,
                LrScheduler::Linear => 1.0 - progress,
                LrScheduler::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_follow_transformers() {
        let at =
            |kind, step| Schedule { learning_rate: 2.0, kind, warmup_steps: 4, total_steps: 12 }.at(step);
        for kind in [LrScheduler::Constant, LrScheduler::Linear, LrScheduler::Cosine] {
            assert_eq!([0, 1, 4].map(|s| at(kind, s)), [0.0, 0.5, 2.0], "{kind:?}");
        }
        assert_eq!(at(LrScheduler::Constant, 100), 2.0);
        assert_eq!([8, 12, 13].map(|s| at(LrScheduler::Linear, s)), [1.0, 0.0, 0.0]);
        assert!(
            (at(LrScheduler::Cosine, 8) - 1.0).abs() < 1e-12 && at(LrScheduler::Cosine, 12).abs() < 1e-12
        );
    }

    #[test]
    fn a_run_shorter_than_its_warmup_does_not_divide_by_zero() {
        let schedule =
            Schedule { learning_rate: 1.0, kind: LrScheduler::Linear, warmup_steps: 5, total_steps: 3 };
        assert!((0..8).all(|s| schedule.at(s).is_finite()));
    }
}
