//! The instruction set that the kernels run with, chosen once at run time.
//!
//! A kernel body is written once as plain Rust that the compiler can vectorise, and compiled once per instruction
//! set by the `multiversion!` macro; the copy to run is picked by [`isa`]. `TOKTUNE_ISA` narrows the choice, for
//! tests and for comparing; it can never enable what the machine lacks.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set with its own compiled kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// What the compilation target guarantees (SSE2 on x86-64, NEON on aarch64), with the plain Rust matrix product.
    Portable = 1,
    /// AVX2 with fused multiply-add and half-precision conversion (x86-64-v3).
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL: x86-64-v4); products in bf16 use AVX512-BF16 where the machine has that too.
    Avx512 = 3,
    /// [`Isa::Avx512`], with AMX for the products in bf16.
    Amx = 4,
}

impl Isa {
    /// Every instruction set this build has kernels for, weakest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The name used by `TOKTUNE_ISA` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// The instruction set with this name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_available() && crate::bf16::amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `TOKTUNE_ISA` named something that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown(String),
    /// The machine lacks it.
    Unavailable(Isa),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Isa::ALL.map(Isa::name).join(", ");
        match self {
            IsaError::Unknown(name) => write!(f, "TOKTUNE_ISA is '{name}'; expected one of {names}"),
            IsaError::Unavailable(isa) => {
                write!(f, "TOKTUNE_ISA is '{isa}', which this machine does not have")
            }
        }
    }
}

impl std::error::Error for IsaError {}

/// Set by [`force`]; 0 means not forced.
static FORCED: AtomicU8 = AtomicU8::new(0);

/// The instruction set in use: the one forced, else `TOKTUNE_ISA`, else the best the machine has.
///
/// A `TOKTUNE_ISA` that cannot be used falls back to the best; call [`check`] at start-up to report it.
pub fn isa() -> Isa {
    match FORCED.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        4 => Isa::Amx,
        _ => default_isa().clone().unwrap_or_else(|_| best()),
    }
}

/// Whether `TOKTUNE_ISA`, if set, can be honoured.
///
/// # Errors
/// The name is unknown or the machine lacks the instructions.
pub fn check() -> Result<Isa, IsaError> {
    default_isa().clone().map(|_| isa())
}

/// Use `isa` from now on in the whole process (`None`: back to the default). For tests that compare the sets.
///
/// # Errors
/// The machine lacks the instructions; nothing is changed.
pub fn force(isa: Option<Isa>) -> Result<(), IsaError> {
    if let Some(isa) = isa.filter(|isa| !isa.is_available()) {
        return Err(IsaError::Unavailable(isa));
    }
    FORCED.store(isa.map_or(0, |isa| isa as u8), Ordering::Relaxed);
    Ok(())
}

fn best() -> Isa {
    Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
}

fn default_isa() -> &'static Result<Isa, IsaError> {
    static DEFAULT: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
    DEFAULT.get_or_init(|| match std::env::var("TOKTUNE_ISA") {
        Ok(name) if !name.is_empty() => {
            let isa = Isa::from_name(&name).ok_or(IsaError::Unknown(name))?;
            if isa.is_available() { Ok(isa) } else { Err(IsaError::Unavailable(isa)) }
        }
        _ => Ok(best()),
    })
}

/// Compiles a function once per instruction set and picks the copy at run time.
///
/// The body must not call `mul_add`: on the portable copy that would be a call into the maths library per element.
/// `up to avx2:` leaves the AVX-512 copy out, for loops over packed bit fields: with those registers the compiler reads
/// them by gathers, a field at a time.
macro_rules! multiversion {
    (up to avx2: $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::isa::multiversion! { @copies [avx2] $(#[$meta])* $vis fn $name($($arg: $ty),*) $(-> $ret)? $body }
    };
    (@copies [$wide:ident] $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments, dead_code)]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }

            match $crate::isa::isa() {
                // SAFETY: `isa()` returns a set only on a machine where its features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Amx => unsafe { $wide($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::isa::multiversion! { @copies [avx512] $(#[$meta])* $vis fn $name($($arg: $ty),*) $(-> $ret)? $body }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("avx1024"), None);
        let message = IsaError::Unknown("avx1024".into()).to_string();
        assert!(message.contains("avx1024") && message.contains("portable"), "{message}");
    }

    #[test]
    fn what_is_in_use_is_available() {
        assert!(isa().is_available());
    }
}
