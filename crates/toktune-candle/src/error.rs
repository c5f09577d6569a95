//! What can go wrong with adapters on a candle module.

use toktune::peft::PeftError;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of candle failed: shapes that do not fit, or a device that refuses.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The adapter is at fault.
    #[error(transparent)]
    Adapter(Box<PeftError>),
}

impl From<PeftError> for Error {
    fn from(error: PeftError) -> Self {
        Self::Adapter(Box::new(error))
    }
}
