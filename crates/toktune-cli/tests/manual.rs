//! The version, completions and the manual's pages.

mod common;

use common::Work;

#[test]
fn the_version_says_what_is_built() {
    let told = Work::new().call(&["--version"]).ok().out;
    assert!(told.starts_with(concat!("toktune ", env!("CARGO_PKG_VERSION"), " (")), "{told}");
    assert!(told.contains("features: ") && told.contains("instruction sets here: "), "{told}");
}

#[test]
fn shells_complete_commands_and_flags() {
    let work = Work::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = work.call(&["completions", shell]).ok().out;
        assert!(script.contains("toktune") && script.contains("lora-target-modules"), "{shell}");
    }
    work.call(&["completions", "tcsh"]).fails(2, &["tcsh"]);
}

#[test]
fn every_command_has_a_page() {
    let work = Work::new();
    work.call(&["man", "--output", "man"]).ok();
    for name in ["toktune.1", "toktune-train.1", "toktune-distill.1", "toktune-completions.1"] {
        let text = String::from_utf8(work.read(&format!("man/{name}"))).expect("text");
        assert!(text.contains(".TH"), "{name}");
    }
    work.write("file", "");
    work.call(&["man", "--output", "file"]).fails(1, &["file"]);
}
