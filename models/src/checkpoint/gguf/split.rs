//! Models that llama.cpp's `gguf-split` has spread over several files: the first has the metadata, and all
//! have tensors.

use std::path::{Path, PathBuf};

use super::header::{self, Header};
use crate::error::ModelError;

/// The way out of a split model that cannot be read.
const WAY_OUT: &str = "bring all parts into one folder under the names that llama.cpp gave them, or join them with \
                       `llama-gguf-split --merge`";

/// Reads the headers of all files of the model at `path`, its only file or its first.
pub(super) fn read(path: &Path) -> Result<Header, ModelError> {
    let mut whole = header::read(path)?;
    let count = whole.integer("split.count").unwrap_or(1);
    let tensors = whole.integer("split.tensors.count");
    // Joined files keep the metadata of their first part.
    if count <= 1 || tensors.is_some_and(|tensors| i64::try_from(whole.tensors.len()) == Ok(tensors)) {
        return Ok(whole);
    }
    let wrong = |reason: String| ModelError::file(path, format!("{reason}: {WAY_OUT}"));
    let Some(name) = PartName::of(path).filter(|name| i64::from(name.count) == count) else {
        return Err(wrong(format!(
            "one of {count} parts of a split model, but its name does not end in -00001-of-{count:05}.gguf"
        )));
    };
    if name.number != 1 {
        return Err(ModelError::file(
            path,
            format!("part {} of a split model: use its first part, {}", name.number, name.part(1).display()),
        ));
    }
    for number in 2..=name.count {
        let part = name.part(number);
        if !part.exists() {
            return Err(wrong(format!(
                "the first of {count} parts of a split model, but {} is missing",
                part.display()
            )));
        }
        let header = header::read(&part)?;
        if (header.integer("split.no"), header.integer("split.count"))
            != (Some(i64::from(number) - 1), Some(count))
        {
            return Err(ModelError::file(
                &part,
                format!("not part {number} of {}: {WAY_OUT}", path.display()),
            ));
        }
        whole.add_part(part, header).map_err(wrong)?;
    }
    match tensors {
        Some(tensors) if i64::try_from(whole.tensors.len()) != Ok(tensors) => {
            Err(wrong(format!("the parts have {} tensors instead of {tensors}", whole.tensors.len())))
        }
        Some(_) | None => Ok(whole),
    }
}

/// Returns the first part, if the files are all the parts of one split model.
pub(crate) fn first_part(files: &[PathBuf]) -> Option<&PathBuf> {
    let names: Vec<_> = files.iter().map(|file| PartName::of(file)).collect::<Option<_>>()?;
    let first = names.first()?;
    let of_one = names.iter().all(|name| (name.prefix, name.count) == (first.prefix, first.count));
    let whole = usize::from(first.count) == files.len() && files.len() > 1;
    let index = names.iter().position(|name| name.number == 1).filter(|_| of_one && whole)?;
    files.get(index)
}

/// Returns the files of the model at `path`: the path, and if it is the first part of a split model, the
/// other parts that exist.
#[must_use]
pub fn files_of_model(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    if let Some(name) = PartName::of(path).filter(|name| name.number == 1) {
        files.extend((2..=name.count).map(|number| name.part(number)).filter(|part| part.exists()));
    }
    files
}

/// The name of a part: `PREFIX-00001-of-00003.gguf`.
struct PartName<'a> {
    path: &'a Path,
    prefix: &'a str,
    number: u16,
    count: u16,
}

impl<'a> PartName<'a> {
    fn of(path: &'a Path) -> Option<Self> {
        let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
        let (rest, count) = path.file_name()?.to_str()?.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        Some(Self { path, prefix, number: digits(number)?, count: digits(count)? })
    }

    /// Returns the path of another part.
    fn part(&self, number: u16) -> PathBuf {
        self.path.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count))
    }
}
