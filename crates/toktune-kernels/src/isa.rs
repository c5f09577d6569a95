//! The instruction set that the kernels run with: a value, made where a run begins and passed down to every kernel.
//!
//! A kernel body is written once as plain Rust that the compiler can vectorise, and compiled once per instruction
//! set by the `multiversion!` macro; the copy to run is picked by the [`Isa`] that the caller hands in. What holds one
//! has a machine that can run it, since no other way of making one exists than asking the machine. Nothing here is kept
//! for the process: two values may be used side by side, on as many threads.

use std::fmt;

#[cfg(target_arch = "x86_64")]
mod amx;

/// The variable that [`Isa::from_environment`] reads.
const VARIABLE: &str = "TOKTUNE_ISA";

/// An instruction set with its own compiled kernels, which this machine has. Sets are ordered, the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

/// Which set it is. Not public: a level alone says nothing about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// What the compilation target guarantees (SSE2 on x86-64, NEON on aarch64), with the plain Rust matrix product.
    Portable,
    /// AVX2 with fused multiply-add and half-precision conversion (x86-64-v3).
    Avx2,
    /// AVX-512 (F, BW, DQ, VL: x86-64-v4); products in bf16 use AVX512-BF16 where the machine has that too.
    Avx512,
    /// [`Level::Avx512`], with AMX for the products in bf16.
    Amx,
}

impl Level {
    const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Whether this machine can run it.
    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512.is_available() && amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

impl Isa {
    /// The names of every instruction set that has kernels of its own, weakest first, whether this machine has it or not.
    pub const NAMES: [&'static str; 4] =
        [Level::ALL[0].name(), Level::ALL[1].name(), Level::ALL[2].name(), Level::ALL[3].name()];

    /// What every machine has.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The best set that this machine has.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::PORTABLE)
    }

    /// The sets that this machine has, weakest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Level::ALL.into_iter().filter(|level| level.is_available()).map(Self)
    }

    /// The set with this name (`portable`, `avx2`, `avx512`, `amx`).
    ///
    /// # Errors
    /// No set has this name, or the machine lacks it.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let level = Level::ALL.into_iter().find(|level| level.name() == name);
        let level = level.ok_or_else(|| IsaError::Unknown(name.to_owned()))?;
        if level.is_available() { Ok(Self(level)) } else { Err(IsaError::Unavailable(level.name())) }
    }

    /// The set that `TOKTUNE_ISA` names at this moment; the best one where it is unset or empty. For tests and for
    /// comparing: it can narrow the choice, never enable what the machine lacks.
    ///
    /// # Errors
    /// As [`Isa::named`].
    pub fn from_environment() -> Result<Self, IsaError> {
        match std::env::var_os(VARIABLE) {
            Some(name) if !name.is_empty() => Self::named(&name.to_string_lossy()),
            _ => Ok(Self::best()),
        }
    }

    /// The name that [`Isa::named`] takes, and that reports give.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Whether it has instructions that multiply bf16.
    pub fn has_bf16(self) -> bool {
        match self.0 {
            Level::Amx => true,
            Level::Avx512 => self.has_avx512_bf16(),
            Level::Portable | Level::Avx2 => false,
        }
    }

    /// Whether it multiplies bf16 faster than `f32`: not every processor that can does. AMX is, and AVX512-BF16 on AMD's (Zen 4:
    /// 234 beside 117 GFLOP/s a core), and not on Intel's, which run one such instruction in two cycles and two
    /// multiply-adds of `f32` in one (Emerald Rapids: 86 beside 176).
    pub fn has_fast_bf16(self) -> bool {
        match self.0 {
            Level::Amx => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => self.has_avx512_bf16() && !is_intel(),
            _ => false,
        }
    }

    /// Whether it may use AVX512-BF16, which the machine has.
    pub(crate) fn has_avx512_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 >= Level::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether it may use AVX512-VNNI, which the machine has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx512_vnni(self) -> bool {
        self.0 >= Level::Avx512 && is_x86_feature_detected!("avx512vnni")
    }

    /// Which copy of a kernel runs.
    #[inline(always)]
    pub(crate) fn level(self) -> Level {
        self.0
    }
}

/// Whether the processor says that it is Intel's. Asked once: where a machine is virtual, each asking is a call to its host.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    static INTEL: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *INTEL.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid(0);
        [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    })
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An instruction set was named that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown(String),
    /// The machine lacks the one with this name.
    Unavailable(&'static str),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IsaError::Unknown(name) => {
                write!(f, "{VARIABLE} is '{name}'; expected one of {}", Isa::NAMES.join(", "))
            }
            IsaError::Unavailable(name) => {
                write!(f, "{VARIABLE} is '{name}', which this machine does not have")
            }
        }
    }
}

impl std::error::Error for IsaError {}

/// Compiles a function once per instruction set; its first parameter says which copy runs.
///
/// The body must not call `mul_add`: on the portable copy that would be a call into the maths library per element.
/// `up to avx2:` leaves the AVX-512 copy out, for loops over packed bit fields: with those registers the compiler reads
/// them by gathers, a field at a time.
macro_rules! multiversion {
    (up to avx2: $(#[$meta:meta])* $vis:vis fn $name:ident(isa: Isa, $($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::isa::multiversion! { @copies [avx2] $(#[$meta])* $vis fn $name($($arg: $ty),*) $(-> $ret)? $body }
    };
    (@copies [$wide:ident] $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
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

            match isa.level() {
                // SAFETY: an `Isa` exists only on a machine where its features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx512 | $crate::isa::Level::Amx => unsafe { $wide($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident(isa: Isa, $($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::isa::multiversion! { @copies [avx512] $(#[$meta])* $vis fn $name($($arg: $ty),*) $(-> $ret)? $body }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_what_the_machine_has() {
        let mut available = Isa::available();
        assert_eq!(available.next(), Some(Isa::PORTABLE));
        assert_eq!(Isa::available().last(), Some(Isa::best()));
        for name in Isa::NAMES {
            match Isa::available().find(|isa| isa.name() == name) {
                Some(isa) => assert_eq!(Isa::named(name), Ok(isa)),
                None => assert_eq!(Isa::named(name), Err(IsaError::Unavailable(name))),
            }
        }
    }

    #[test]
    fn other_names_are_refused_with_those_there_are() {
        let error = Isa::named("avx1024").expect_err("no such set");
        assert_eq!(
            error.to_string(),
            "TOKTUNE_ISA is 'avx1024'; expected one of portable, avx2, avx512, amx"
        );
        let message = IsaError::Unavailable("amx").to_string();
        assert_eq!(message, "TOKTUNE_ISA is 'amx', which this machine does not have");
    }
}
