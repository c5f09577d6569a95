//! A model that is spread over several GGUF files: which they are, and that they belong together.
//!
//! llama.cpp numbers the parts from 1 in their names (`model-00001-of-00003.gguf`) and from 0 in their metadata
//! (`split.no`, `split.count`); the first has all other metadata.

use super::{Gguf, Metadata};
use crate::{Result, WeightsError};
use std::path::{Path, PathBuf};

/// What a part says of itself.
#[derive(Clone, Copy)]
pub(super) struct Split {
    number: u64,
    count: u64,
    tensors: Option<u64>,
}

impl Split {
    /// `None` for a file that is the whole model.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(count) = metadata.get::<u64>("split.count")?.filter(|count| *count > 1) else {
            return Ok(None);
        };
        let (number, tensors) = (metadata.require("split.no")?, metadata.get("split.tensors.count")?);
        Ok(Some(Self { number, count, tensors }))
    }

    /// Opens the other parts of the model of which `opened` is one, and puts the tensors of all into the first.
    pub fn join(self, path: &Path, opened: Gguf) -> Result<Gguf> {
        let Some(name) = PartName::of(path).filter(|name| name.count == self.count) else {
            let (path, parts) = (path.to_path_buf(), self.count);
            return Err(WeightsError::GgufSplit { path, parts });
        };
        let mut opened = Some(opened);
        let mut all: Option<Gguf> = None;
        for number in 0..self.count {
            let part_path = name.part(number);
            let part = match opened.take_if(|_| number + 1 == name.number) {
                Some(opened) => opened,
                None if !part_path.is_file() => {
                    let (path, part) = (path.to_path_buf(), part_path);
                    return Err(WeightsError::GgufMissingPart { path, part });
                }
                None => Gguf::map(&part_path)?,
            };
            let split = Split::of(&part.metadata)?;
            check(&part_path, "split.count", split.map_or(1, |split| split.count), self.count)?;
            check(&part_path, "split.no", split.map_or(0, |split| split.number), number)?;
            match &mut all {
                None => all = Some(part),
                Some(all) => part.table.into_tensors().into_iter().try_for_each(|t| all.table.insert(t))?,
            }
        }
        let all = all.ok_or_else(|| WeightsError::GgufSplit { path: path.into(), parts: 0 })?;
        if let Some(tensors) = self.tensors {
            check(path, "split.tensors.count", all.table.tensors().len() as u64, tensors)?;
        }
        Ok(all)
    }
}

fn check(path: &Path, key: &'static str, found: u64, expected: u64) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(WeightsError::GgufPart { path: path.to_path_buf(), key, found, expected }),
    }
}

/// The name of a part, taken apart.
struct PartName {
    folder: PathBuf,
    /// What all parts' names begin with.
    model: String,
    /// From 1.
    number: u64,
    count: u64,
    extension: String,
}

impl PartName {
    /// `None` when the file is not named as a part is.
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_owned();
        let (rest, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
        let (model, number) = rest.rsplit_once('-')?;
        let parsed = |digits: &str| {
            (digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| digits.parse().ok())
                .flatten()
        };
        let (folder, model) = (path.parent()?.to_path_buf(), model.to_owned());
        Some(Self { folder, model, number: parsed(number)?, count: parsed(count)?, extension })
    }

    /// The path of a part, counted from 0.
    fn part(&self, number: u64) -> PathBuf {
        let Self { model, count, extension, .. } = self;
        self.folder.join(format!("{model}-{:05}-of-{count:05}.{extension}", number + 1))
    }
}

/// The first of these files, when they are all named as parts of one model.
pub(crate) fn one_model<'a>(files: &[&'a PathBuf]) -> Option<&'a Path> {
    let first = PartName::of(files.first()?)?;
    let of_it = |path: &&&PathBuf| {
        PartName::of(path).is_some_and(|name| (&name.model, name.count) == (&first.model, first.count))
    };
    files.iter().all(|path| of_it(&path)).then_some(files[0].as_path())
}
