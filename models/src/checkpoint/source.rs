//! The kind of checkpoint at a path: a Hugging Face folder or a GGUF file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::gguf::first_part;
use crate::error::ModelError;

/// The kind of checkpoint at a path.
pub(super) enum Source {
    Folder,
    Gguf(PathBuf),
}

pub(super) fn locate(path: &Path) -> Result<Source, ModelError> {
    let is_gguf =
        |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(path)),
        metadata => metadata.map_err(|error| ModelError::file(path, error))?,
    };
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
    if let Some(first) = first_part(&found) {
        return Ok(Source::Gguf(first.clone()));
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

/// The addresses of the Hugging Face Hub, whose models are often named by them.
const HUB: [&str; 3] = ["https://huggingface.co/", "https://hf.co/", "hf://"];

/// Returns the error of a model or adapter that does not exist. If the path looks like a name on the Hugging
/// Face Hub, the error has the command that downloads it.
pub(crate) fn missing(path: &Path) -> ModelError {
    ModelError::file(
        path,
        match hub_name(path) {
            Some(name) => format!(
                "no such file or folder. Models are not downloaded: fetch it with `hf download {name} --local-dir DIR`, and \
                 use DIR"
            ),
            None => "no such file or folder: use a Hugging Face folder or a .gguf file".to_owned(),
        },
    )
}

/// Returns the name on the Hugging Face Hub that a path is likely to mean: the last two parts of an address,
/// or of a path of which not even the folder exists.
fn hub_name(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let name = match HUB.iter().find_map(|hub| Some(text.split_once(hub)?.1)) {
        Some(name) => name.split('/').take(2).collect::<Vec<_>>().join("/"),
        None if path.parent()?.exists() => return None,
        None => format!("{}/{}", path.parent()?.file_name()?.to_str()?, path.file_name()?.to_str()?),
    };
    // A tag such as `:Q4_K_M` selects one file of a repository.
    let name = name.split_once(':').map_or(name.as_str(), |(name, _)| name);
    let (owner, model) = name.split_once('/')?;
    let valid = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (valid(owner) && valid(model)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_hub_are_told_from_paths() {
        let folder = tempfile::tempdir().expect("folder");
        let inside = |rest: &str| folder.path().join(rest).to_string_lossy().into_owned();
        let name = "HuggingFaceTB/SmolLM2-135M";
        for path in [
            name.to_owned(),
            inside(name),
            format!("https://huggingface.co/{name}"),
            format!("https://huggingface.co/{name}/tree/main"),
            inside(&format!("https://huggingface.co/{name}")),
            format!("hf://{name}"),
            format!("{name}:Q4_K_M"),
        ] {
            assert_eq!(hub_name(Path::new(&path)).as_deref(), Some(name), "{path}");
        }
        for path in
            [inside("model"), "model.gguf".to_owned(), "../nowhere/..".to_owned(), "no where/a b".to_owned()]
        {
            assert_eq!(hub_name(Path::new(&path)), None, "{path}");
        }
    }
}
