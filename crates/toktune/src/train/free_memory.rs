//! Memory that nobody uses, as the system tells it.
//!
//! On Linux it is the least of what the machine has (`MemAvailable`) and what each control group around the process leaves, of
//! either version. Pages of files, mapped weights among them, count as free: the system takes them back when it needs them.

use std::path::{Component, Path, PathBuf};

/// Bytes that are free for this process; `None` where the system does not tell.
pub(super) fn free_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return free_below(Path::new("/"));
    #[cfg(target_os = "macos")]
    return free_of_macos();
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    None
}

/// The files of a version of control groups.
struct Version {
    /// The controller in the second column of `/proc/self/cgroup`; the groups of version 2 name none.
    controller: &'static str,
    /// Where its groups are mounted.
    mounts: &'static [&'static str],
    /// The files with limits; what is no number is no limit.
    limits: &'static [&'static str],
    usage: &'static str,
    /// Keys of `memory.stat`: pages of files, which are counted in the usage.
    of_files: [&'static str; 2],
}

const VERSIONS: [Version; 2] = [
    Version {
        controller: "",
        mounts: &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
        limits: &["memory.max", "memory.high"],
        usage: "memory.current",
        of_files: ["inactive_file", "active_file"],
    },
    Version {
        controller: "memory",
        mounts: &["sys/fs/cgroup/memory"],
        limits: &["memory.limit_in_bytes"],
        usage: "memory.usage_in_bytes",
        of_files: ["total_inactive_file", "total_active_file"],
    },
];

/// What is free by the files of Linux below `root`.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn free_below(root: &Path) -> Option<u64> {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| available(&text));
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let of_groups = VERSIONS.iter().filter_map(|version| version.free(root, &groups));
    machine.into_iter().chain(of_groups).min()
}

impl Version {
    /// The least that the group of the process and those around it leave; `None` where none has a limit.
    fn free(&self, root: &Path, groups: &str) -> Option<u64> {
        let path = groups.lines().find_map(|line| self.path(line))?;
        let of_mount = |mount: &&str| {
            let mount = root.join(mount);
            // in a container the path may be that outside it: what of it is not there has no limit
            path.ancestors().filter_map(|group| self.left_in(&mount.join(group))).min()
        };
        self.mounts.iter().filter_map(of_mount).min()
    }

    /// The path of a line of `/proc/self/cgroup`, if it is of this version.
    fn path(&self, line: &str) -> Option<PathBuf> {
        let mut columns = line.splitn(3, ':').skip(1);
        let (controllers, path) = (columns.next()?, columns.next()?);
        let is_own = controllers.split(',').any(|name| name == self.controller);
        let inside = |part: &Component<'_>| matches!(part, Component::Normal(_));
        is_own.then(|| Path::new(path).components().filter(inside).collect())
    }

    /// What is left in one group.
    fn left_in(&self, group: &Path) -> Option<u64> {
        let number = |name: &&str| read(&group.join(name))?.trim().parse::<u64>().ok();
        let limit = self.limits.iter().filter_map(number).min()?;
        let usage = number(&self.usage).unwrap_or(0);
        let stat = read(&group.join("memory.stat")).unwrap_or_default();
        let of_files = self.of_files.iter().filter_map(|key| stat_of(&stat, key));
        let taken = of_files.fold(usage, u64::saturating_sub);
        Some(limit.saturating_sub(taken))
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The number behind `key` in `memory.stat`.
fn stat_of(stat: &str, key: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The share of macOS's memory that is free, which it tells in percent.
#[cfg(target_os = "macos")]
fn free_of_macos() -> Option<u64> {
    let total = number_of_macos(c"hw.memsize", &mut [0; 8]).map(u64::from_ne_bytes)?;
    let percent = number_of_macos(c"kern.memorystatus_level", &mut [0; 4]).map(u32::from_ne_bytes)?;
    Some(total / 100 * u64::from(percent.min(100)))
}

/// A number of macOS by its name; `None` where it has not as many bytes.
#[cfg(target_os = "macos")]
fn number_of_macos<const N: usize>(name: &std::ffi::CStr, value: &mut [u8; N]) -> Option<[u8; N]> {
    let mut len = N;
    // SAFETY: `name` ends with a zero, and `value` is valid for writes of the `len` bytes that are told; nothing is set.
    let failed = unsafe {
        libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &mut len, std::ptr::null_mut(), 0)
    };
    (failed == 0 && len == N).then_some(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684096 kB\nMemFree:  1000 kB\nMemAvailable:    8000 kB\n";

    /// What is free where these files are.
    fn free(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("inside")).expect("folders");
            std::fs::write(path, text).expect("written");
        }
        free_below(root.path())
    }

    #[test]
    fn the_machine_alone() {
        assert_eq!(free(&[("proc/meminfo", MEMINFO)]), Some(8000 << 10));
        assert_eq!(free(&[]), None);
        for garbage in [
            "",
            "MemAvailable:",
            "MemAvailable: many kB",
            "MemAvailable: 12",
            "MemAvailable: -5 kB",
            "MemAvailable: 18446744073709551615 kB",
            "MemTotal: 8000 kB",
        ] {
            assert_eq!(free(&[("proc/meminfo", garbage)]), None, "{garbage}");
        }
    }

    #[test]
    fn groups_of_version_2_from_the_process_to_the_root() {
        let all = |own: &str, above: &str| {
            free(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "1:name=systemd:/x\n0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", own),
                ("sys/fs/cgroup/a/b/memory.current", "700000\n"),
                (
                    "sys/fs/cgroup/a/b/memory.stat",
                    "anon 5\nfile 600000\ninactive_file 250000\nactive_file 50000\n",
                ),
                ("sys/fs/cgroup/a/memory.max", above),
                ("sys/fs/cgroup/a/memory.current", "800000"),
                ("sys/fs/cgroup/a/memory.stat", "inactive_file x\n"),
                ("sys/fs/cgroup/b/memory.max", "1"),
            ])
        };
        assert_eq!(all("1000000\n", "max\n"), Some(600_000), "pages of files are free");
        assert_eq!(all("max\n", "900000"), Some(100_000), "the group above is the tightest");
        assert_eq!(all("max", "max"), Some(8000 << 10), "no limit but the machine's");
        assert_eq!(all("", "\u{0}1e9"), Some(8000 << 10));
        assert_eq!(all("1", "max"), Some(0), "more is taken than there may be");
        assert_eq!(all("99999999999999999999", "-1"), Some(8000 << 10));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let root = [
            ("proc/self/cgroup", "0::/../outside/of/it\n"),
            ("sys/fs/cgroup/memory.max", "5000"),
            ("sys/fs/cgroup/memory.current", "1000"),
        ];
        assert_eq!(free(&root), Some(4000));
        let throttled = [&root[..], &[("sys/fs/cgroup/memory.high", "3000")]].concat();
        assert_eq!(free(&throttled), Some(2000));
        let unknown_usage = [&root[..2], &[("sys/fs/cgroup/memory.current", "?")]].concat();
        assert_eq!(free(&unknown_usage), Some(5000));
    }

    #[test]
    fn groups_of_version_1() {
        let all = |groups: &str| {
            free(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", groups),
                ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "300000\n"),
                ("sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "200000\n"),
                (
                    "sys/fs/cgroup/memory/docker/x/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 30000\ntotal_active_file 20000\n",
                ),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1384394752\n"),
            ])
        };
        assert_eq!(all("5:cpu:/\n4:memory:/docker/x\n0::/\n"), Some(150_000));
        assert_eq!(all("4:hugetlb,memory:/docker/x\n"), Some(150_000), "mounted with another controller");
        for without in ["", "4:memory", "4:memory:/docker/y", "::::", "4:cpu:/docker/x", "\u{fffd}\n:\n"] {
            assert_eq!(all(without), Some(8000 << 10), "{without}");
        }
    }

    #[test]
    fn this_machine_tells_or_says_nothing() {
        let free = free_bytes();
        let tells = cfg!(any(target_os = "linux", target_os = "macos"));
        assert_eq!(free.is_some(), tells, "{free:?}");
    }
}
