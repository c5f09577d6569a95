//! Whether AMX can be used: the processor has it, the system saves its registers, and this process may have them.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Whether the machine has AMX with bf16 and the system lets this process use it. Asked once, as the standard library asks
/// for what it detects: the answer is the machine's and cannot change.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const TILE: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        if __cpuid_count(0, 0).eax < 7 || __cpuid_count(1, 0).ecx & (1 << 27) == 0 {
            return false; // no leaf for it, or XGETBV not enabled by the system
        }
        let features = __cpuid_count(7, 0).edx;
        features & (TILE | BF16) == TILE | BF16 && system_saves_tiles() && permission()
    })
}

/// Whether the system saves the tile registers when it switches threads (bits 17 and 18 of XCR0).
fn system_saves_tiles() -> bool {
    let (low, _high): (u32, u32);
    // SAFETY: XGETBV with 0 is allowed where CPUID says OSXSAVE, which the caller has checked.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _high, options(nomem, nostack, preserves_flags));
    }
    low & (0b11 << 17) == 0b11 << 17
}

/// Asks the system for the tile data, once for the whole process: Linux gives it only to those who ask.
#[cfg(target_os = "linux")]
fn permission() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let status: i64;
    // SAFETY: the call takes two integers and touches no memory of ours; `rcx` and `r11` are the kernel's to change.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}

/// Elsewhere nobody has shown how to ask.
#[cfg(not(target_os = "linux"))]
fn permission() -> bool {
    false
}
