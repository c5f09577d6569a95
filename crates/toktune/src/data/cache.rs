//! Encoded rows kept from one run to the next: which folder they are in, and which file is whose.
//!
//! A file's name is a hash of everything that its examples depend on: the rows themselves, the tokenizer with its
//! templates, the options, and the code that encodes. Whatever of these changes gives another name; nothing is ever
//! updated. Files that no run has used for a month are removed when another is written.

use crate::weights::WeightsError;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::DataFile;
use super::{Collator, DataOptions};
use crate::data::error::Result;
use crate::text::AutoTokenizer;

/// Of the code that makes examples of rows: another build of it, or of the tokenizers, has files of its own.
const CODE: &str = env!("TOKTUNE_ENCODING");
const ENDING: &str = "rows";
/// How long a file is kept that no run uses.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const DAY: u64 = 24 * 3600;

/// Where encoded rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataCache {
    /// The folder; it is made when there is something to keep.
    pub folder: PathBuf,
    /// Sources of fewer bytes than this are encoded in every run, which takes a moment.
    pub least_bytes: u64,
}

impl DataCache {
    /// The file for the rows of `files`.
    pub(super) fn path(
        &self,
        files: &[DataFile],
        tokenizer: Option<&AutoTokenizer>,
        options: &DataOptions,
    ) -> Result<PathBuf> {
        let mut key = Key(blake3::Hasher::new());
        key.text(CODE);
        key.text(crate::text::ENCODING);
        key.text(&options.encoding());
        match tokenizer {
            None => key.text(""),
            Some(tokenizer) => tokenizer.fingerprint(&mut |part| key.text(part))?,
        }
        // a template that tells the date makes other rows every day
        let tells_time = |template: &String| template.contains("strftime_now");
        if tokenizer.is_some_and(|tokenizer| tokenizer.chat_templates().values().any(tells_time)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            key.text(&(now / DAY).to_string());
        }
        let mut buffer = vec![0; 1 << 20];
        for file in files {
            key.text(&format!("{:?} {:?}", file.format, file.compression));
            let mut opened = File::open(&file.path).map_err(WeightsError::io(&*file.shown))?;
            let mut length = 0u64;
            loop {
                let count = opened.read(&mut buffer).map_err(WeightsError::io(&*file.shown))?;
                if count == 0 {
                    break;
                }
                length += count as u64;
                key.0.update(&buffer[..count]);
            }
            key.text(&length.to_string());
        }
        Ok(self.folder.join(format!("{}.{ENDING}", key.0.finalize().to_hex())))
    }

    /// Says that a file is in use, and removes those that have not been for long.
    pub(super) fn used(&self, path: &Path) {
        // a folder that cannot be written keeps what it has
        if let Ok(file) = File::options().append(true).open(path) {
            let _ = file.set_modified(SystemTime::now());
        }
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let age =
                entry.metadata().and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
            if path.extension().is_some_and(|ending| ending == ENDING) && age.is_some_and(|age| age > KEPT) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// A hash of parts, none of which can pass for the end of another.
struct Key(blake3::Hasher);

impl Key {
    fn text(&mut self, part: &str) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part.as_bytes());
    }
}

impl DataOptions {
    /// Everything of the options that examples depend on.
    fn encoding(&self) -> String {
        let DataOptions {
            loss_on,
            max_length,
            max_positions,
            usual_positions,
            vocab_size,
            collator,
            keys,
            sample_by,
            cache: _,
        } = self;
        let collator = match collator {
            // the order of a set is another in every run; probability and seed matter later, for batches
            Collator::MaskedLm(masking) => {
                let sorted = |ids: &std::collections::HashSet<u32>| {
                    let mut ids: Vec<u32> = ids.iter().copied().collect();
                    ids.sort_unstable();
                    ids
                };
                let (special, always) = (sorted(&masking.special), sorted(&masking.always));
                format!("masked {:?} {special:?} {always:?}", masking.mask_token)
            }
            other => format!("{other:?}"),
        };
        format!(
            "{loss_on:?} {max_length:?} {max_positions:?} {usual_positions:?} {vocab_size} {collator} {keys:?} {sample_by:?}"
        )
    }
}
