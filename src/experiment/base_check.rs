//! The base model that an adapter names, compared with the model that it is used with.

use std::path::{Path, PathBuf};

use dissent_models::checkpoint::{Checkpoint, OpenOptions};
use dissent_models::inspect::{ModelSummary, inspect};

/// The beginning of a model's folder in the cache of the Hugging Face Hub: `models--OWNER--NAME`.
const HUB_FOLDER: &str = "models--";

/// Warns if an adapter names another base model than `checkpoint`.
///
/// Names of models that are not on this machine are not judged: folders are renamed and moved.
pub(super) fn warn_of_other_base(
    adapter: &Path,
    named: &str,
    checkpoint: &Checkpoint,
    options: &OpenOptions,
) {
    if let Some(trained_on) = other_base(adapter, named, checkpoint, options) {
        tracing::warn!(
            adapter = %adapter.display(),
            trained_on = %trained_on.display(),
            used_with = %checkpoint.source.display(),
            "using an adapter with another base model than its own"
        );
    }
}

/// Returns the base model that the adapter names, if it is another one than `checkpoint`.
fn other_base(
    adapter: &Path,
    named: &str,
    checkpoint: &Checkpoint,
    options: &OpenOptions,
) -> Option<PathBuf> {
    // PEFT writes the path as it was given, often relative to a folder beside the adapter.
    let there = [PathBuf::from(named), adapter.join(named)].into_iter().find(|path| path.exists());
    let Some(path) = there else {
        let used = hub_name(&checkpoint.source)?;
        return (is_hub_name(named) && !used.eq_ignore_ascii_case(named)).then(|| named.into());
    };
    let real = |path: &Path| path.canonicalize().ok();
    if real(&path) == real(&checkpoint.source) {
        return None;
    }
    match inspect(&path, options) {
        Ok(ModelSummary::Model(base)) if base.fingerprint == checkpoint.fingerprint => None,
        Ok(_) | Err(_) => Some(path),
    }
}

/// Returns the name on the Hugging Face Hub of a model in its cache.
fn hub_name(path: &Path) -> Option<String> {
    let folder = path.iter().find_map(|part| part.to_str()?.strip_prefix(HUB_FOLDER))?;
    Some(folder.replacen("--", "/", 1))
}

fn is_hub_name(name: &str) -> bool {
    name.split_once('/').is_some_and(|(owner, model)| {
        !owner.is_empty() && !owner.starts_with('.') && !model.is_empty() && !model.contains('/')
    })
}
