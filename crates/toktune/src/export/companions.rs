//! What belongs to a model beside its weights and its configuration, and is copied into the merged folder.

use crate::models::sentence::module_folders;
use crate::peft::error::{PeftError, Result};
use crate::weights::WeightsError;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Endings of files that belong to a model beside its weights: configurations, tokenizers, templates, code,
/// cards.
const COPIED_ENDINGS: [&str; 13] =
    ["json", "txt", "model", "jinja", "tiktoken", "vocab", "py", "md", "spm", "bpe", "codes", "yaml", "yml"];

/// Files without such an ending that a model must not lose.
const COPIED_NAMES: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];

/// Files with such an ending that would be wrong beside a merged model.
const LEFT_OUT: [&str; 4] = ["config.json", "adapter_config.json", "trainer_state.json", "all_results.json"];

/// Endings of files with weights. A folder that holds one holds another model, or this one in another form.
const WEIGHTS: [&str; 15] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "gguf",
    "npz",
    "tflite",
    "xml",
    "ot",
    "mlpackage",
];

/// Folders within folders that are followed, and entries of a folder that are looked at: more is no model's.
const MOST_DEPTH: usize = 6;
const MOST_ENTRIES: usize = 4096;

/// Copies what belongs to the model in `source`: files by their endings, the folders that `modules.json` names with all
/// that is in them, and other folders of such files (`additional_chat_templates`, packages of code) that hold no weights.
/// Hidden files, and links that lead out of the folder from within such a folder, are left.
pub(super) fn copy_companions(source: &Path, output: &Path) -> Result<()> {
    let modules = module_folders(source)?;
    for entry in entries(source)? {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else { continue };
        if entry.is_file() {
            if is_companion(name) {
                copy(&entry, &output.join(name))?;
            }
        } else if entry.is_dir() && !name.starts_with('.') && !is_link(&entry) {
            let is_module = modules.iter().any(|module| module.starts_with(&entry));
            let mut files = Vec::new();
            let complete = files_in(source, &entry, MOST_DEPTH, &mut files)?;
            if is_module {
                if !complete {
                    return Err(PeftError::FolderTooLarge { path: entry.clone() });
                }
                files.retain(|file| modules.iter().any(|module| file.starts_with(module)));
            } else if !complete || files.iter().any(|file| has_ending(file, &WEIGHTS)) {
                continue;
            } else {
                files.retain(|file| has_ending(file, &COPIED_ENDINGS));
            }
            for file in files {
                let Ok(inside) = file.strip_prefix(source) else { continue };
                let target = output.join(inside);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(WeightsError::io(parent))?;
                }
                copy(&file, &target)?;
            }
        }
    }
    // a module that has no files (`2_Normalize`) must be a folder all the same
    for module in modules.iter().filter(|module| module.is_dir()) {
        if let Ok(inside) = module.strip_prefix(source) {
            let target = output.join(inside);
            fs::create_dir_all(&target).map_err(WeightsError::io(&target))?;
        }
    }
    Ok(())
}

/// Adds the files beneath `folder` that are not hidden; whether that were all of them.
fn files_in(root: &Path, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<bool> {
    for entry in entries(folder)? {
        let hidden =
            entry.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
        if hidden {
            continue;
        }
        if entry.is_dir() {
            if is_link(&entry) {
                continue;
            }
            if depth == 0 || !files_in(root, &entry, depth - 1, files)? {
                return Ok(false);
            }
        } else if entry.is_file() && (!is_link(&entry) || leads_inside(root, &entry)) {
            if files.len() == MOST_ENTRIES {
                return Ok(false);
            }
            files.push(entry);
        }
    }
    Ok(true)
}

/// Whether a link ends in the folder, or where the Hub's cache keeps the files of its snapshots.
fn leads_inside(root: &Path, link: &Path) -> bool {
    let (Ok(root), Ok(target)) = (root.canonicalize(), link.canonicalize()) else { return false };
    let cache = root.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    target.starts_with(&root) || cache.is_some_and(|cache| target.starts_with(cache.join("blobs")))
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|of| of.file_type().is_symlink())
}

/// What is in a folder, in the order of names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(WeightsError::io(folder))? {
        found.push(entry.map_err(WeightsError::io(folder))?.path());
    }
    found.sort();
    Ok(found)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

fn is_companion(name: &str) -> bool {
    let left_out = name.starts_with('.') || LEFT_OUT.contains(&name) || name.ends_with(".index.json");
    let copied = has_ending(Path::new(name), &COPIED_ENDINGS)
        || COPIED_NAMES.iter().any(|known| name.to_ascii_uppercase().starts_with(known));
    copied && !left_out
}

/// Copies a file, through links, and makes sure that it outlasts a loss of power.
pub(super) fn copy(source: &Path, target: &Path) -> Result<()> {
    let mut from = File::open(source).map_err(WeightsError::io(source))?;
    // not `fs::copy`: the copy of a read-only file need not be read-only
    let mut to = File::create_new(target).map_err(WeightsError::io(target))?;
    std::io::copy(&mut from, &mut to).map_err(WeightsError::io(target))?;
    Ok(to.sync_all().map_err(WeightsError::io(target))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_model_are_copied_and_others_are_not() {
        for name in [
            "generation_config.json",
            "tokenizer.json",
            "tokenizer.model",
            "vocab.txt",
            "chat_template.jinja",
            "modeling_x.py",
            "README.md",
            "LICENSE",
            "Notice.pdf",
            "source.spm",
            "preprocessor_config.json",
        ] {
            assert!(is_companion(name), "{name}");
        }
        for name in [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "pytorch_model.bin",
            "model.gguf",
            "adapter_config.json",
            "adapter_model.safetensors",
            ".gitattributes",
            ".hidden.json",
            "optimizer.pt",
            "data.jsonl",
            "trainer_state.json",
        ] {
            assert!(!is_companion(name), "{name}");
        }
    }

    #[test]
    fn folders_of_the_model_are_copied_and_others_are_not() {
        let (source, output) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let outside = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = source.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        let modules = r#"[{"path": "", "type": "m.Transformer"}, {"path": "1_Pooling", "type": "m.Pooling"},
            {"path": "2_Dense", "type": "m.Dense"}, {"path": "3_Normalize", "type": "m.Normalize"}]"#;
        write("modules.json", modules);
        for name in [
            "1_Pooling/config.json",
            "1_Pooling/.hidden.json",
            "2_Dense/model.safetensors",
            "additional_chat_templates/tools.jinja",
            "code/inner/layers.py",
            "code/data.csv",
            "onnx/config.json",
            "onnx/model.onnx",
            ".cache/x.json",
            "checkpoint-5/config.json",
            "checkpoint-5/optimizer.pt",
        ] {
            write(name, "{}");
        }
        fs::create_dir(source.path().join("3_Normalize")).expect("made");
        fs::write(outside.path().join("secret.json"), "{}").expect("written");
        #[cfg(unix)]
        {
            let link = |from: &Path, to: &str| {
                std::os::unix::fs::symlink(from, source.path().join(to)).expect("linked")
            };
            link(&outside.path().join("secret.json"), "1_Pooling/secret.json");
            link(outside.path(), "linked");
            link(&source.path().join("1_Pooling/config.json"), "1_Pooling/again.json");
        }
        copy_companions(source.path(), output.path()).expect("copied");
        let mut files = Vec::new();
        assert!(files_in(output.path(), output.path(), MOST_DEPTH, &mut files).expect("listed"));
        let names =
            files.iter().map(|file| file.strip_prefix(output.path()).expect("inside").display().to_string());
        let mut expected = vec![
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "additional_chat_templates/tools.jinja",
            "code/inner/layers.py",
            "modules.json",
        ];
        if cfg!(unix) {
            expected.insert(0, "1_Pooling/again.json");
        }
        assert_eq!(names.collect::<Vec<_>>(), expected);
        assert!(output.path().join("3_Normalize").is_dir());
    }
}
