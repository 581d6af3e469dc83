//! The kind of checkpoint at a path: a Hugging Face folder or a GGUF file.

use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// The kind of checkpoint at a path.
pub(super) enum Source {
    Folder,
    Gguf(PathBuf),
}

pub(super) fn locate(path: &Path) -> Result<Source, ModelError> {
    let is_gguf =
        |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let metadata = std::fs::metadata(path).map_err(|error| ModelError::file(path, error))?;
    if metadata.is_file() {
        return if is_gguf(path) {
            Ok(Source::Gguf(path.to_owned()))
        } else {
            Err(ModelError::file(path, "neither a folder nor a .gguf file"))
        };
    }
    if path.join("config.json").exists() {
        return Ok(Source::Folder);
    }
    let entries = std::fs::read_dir(path).map_err(|error| ModelError::file(path, error))?;
    let mut found = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| ModelError::file(path, error))?.path();
        if is_gguf(&file) {
            found.push(file);
        }
    }
    match (found.len(), found.pop()) {
        (1, Some(file)) => Ok(Source::Gguf(file)),
        (0, _) if path.join("adapter_config.json").exists() => Err(ModelError::file(
            path,
            "an adapter, not a model: use the base model as the model and this path as the adapter",
        )),
        (0, _) => Err(ModelError::file(path, "the folder has neither config.json nor a .gguf file")),
        (count, _) => Err(ModelError::file(
            path,
            format!("the folder has {count} .gguf files: use the path of one of them"),
        )),
    }
}
