//! Where a model lies.

/// A device that models are run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// Plain loops in 64-bit numbers on the processor: far too slow to train with, and what every other device is compared
    /// with. What runs on it is [`engine::backend::Reference`](crate::backend::Reference).
    Reference,
}
