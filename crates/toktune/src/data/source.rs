//! Where rows come from: a file or a folder, with the share of an epoch that it has.
//!
//! What of a folder is read, and how a file is read, is not told here (see `files` and `records`).

use std::path::{Path, PathBuf};

use super::DataError;

/// The most that a weight may be: beyond it, a slip of the keyboard is likelier than a wish.
const MOST_WEIGHT: f64 = 1000.0;

/// A file of rows, or a folder of such files.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSource {
    /// The file or folder.
    pub path: PathBuf,
    /// What messages call it; the path where absent.
    pub name: Option<String>,
    /// Which split is read of a folder that has some; `train` where absent.
    pub split: Option<String>,
    /// How often each row is seen in an epoch. Of a fraction, another share of the rows is drawn in every epoch.
    pub weight: f64,
}

impl DataSource {
    /// Every row of a file or folder, once an epoch.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DataSource { path: path.into(), name: None, split: None, weight: 1.0 }
    }

    /// Reads `PATH[:SPLIT][:WEIGHT]`. A path that exists as it is written wins over any other reading.
    ///
    /// # Errors
    /// A weight that is not more than 0, or above 1000.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let mut source = DataSource::new(text);
        if source.path.exists() {
            return Ok(source);
        }
        let Some((rest, suffix)) = text.rsplit_once(':').filter(|(rest, _)| !rest.is_empty()) else {
            return Ok(source);
        };
        let mut rest = rest;
        match suffix.parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight <= MOST_WEIGHT => source.weight = weight,
            Ok(_) => {
                return Err(DataError::Weight { source_text: text.to_owned(), found: suffix.to_owned() });
            }
            Err(_) if is_split(suffix) => source.split = Some(suffix.to_owned()),
            Err(_) => return Ok(source),
        }
        if source.split.is_none()
            && !Path::new(rest).exists()
            && let Some((before, split)) = rest.rsplit_once(':').filter(|(_, split)| is_split(split))
        {
            source.split = Some(split.to_owned());
            rest = before;
        }
        source.path = PathBuf::from(rest);
        Ok(source)
    }

    /// What messages call it.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.path.display().to_string())
    }
}

/// Whether a text can be the name of a split.
fn is_split(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

impl<P: AsRef<Path> + ?Sized> From<&P> for DataSource {
    fn from(path: &P) -> Self {
        DataSource::new(path.as_ref())
    }
}

impl From<&DataSource> for DataSource {
    fn from(source: &DataSource) -> Self {
        source.clone()
    }
}

impl From<PathBuf> for DataSource {
    fn from(path: PathBuf) -> Self {
        DataSource::new(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_splits_stand_behind_the_path_and_an_existing_path_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        let odd = folder.path().join("a.jsonl:2");
        std::fs::write(&odd, "").expect("written");
        let shown = |path: &Path| path.display().to_string();
        let parse = |text: &str| DataSource::parse(text).expect("sound");
        assert_eq!(parse(&shown(&odd)), DataSource::new(&odd));
        let plain = folder.path().join("a.jsonl");
        assert_eq!(parse(&format!("{}:2", plain.display())), DataSource::new(&odd), "the existing one");
        let weighted = parse(&format!("{}:0.5", plain.display()));
        assert_eq!((weighted.path.as_path(), weighted.weight, weighted.split), (plain.as_path(), 0.5, None));
        let split = parse("rows:test");
        assert_eq!((split.path, split.split.as_deref(), split.weight), ("rows".into(), Some("test"), 1.0));
        let both = parse("rows:train_sft:3");
        assert_eq!((both.path, both.split.as_deref(), both.weight), ("rows".into(), Some("train_sft"), 3.0));
        let drive = parse(r"C:\rows.jsonl");
        assert_eq!((drive.path, drive.split), (r"C:\rows.jsonl".into(), None));
        for wrong in ["a.jsonl:0", "a.jsonl:-1", "a.jsonl:inf", "a.jsonl:nan", "a.jsonl:1e9"] {
            let message = DataSource::parse(wrong).expect_err("no weight").to_string();
            assert!(message.contains("expected more than 0 and at most 1000"), "{message}");
        }
    }
}
