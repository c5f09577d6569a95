//! Takes note of the commit that is built, for `toktune --version`.

use std::path::Path;
use std::process::Command;

/// What git says, where this is a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // in a package, or somebody else's repository around it, there is no commit of this one
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
        return;
    }
    if let Some(logs) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists())
    {
        println!("cargo::rerun-if-changed={logs}");
    }
    println!("cargo::rustc-env=TOKTUNE_COMMIT={commit}");
}
