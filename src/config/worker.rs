//! The configuration of a worker that fetches its experiment from a shared store: which one, and how it runs here. The server's own
//! file will do.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use super::{ArtifactsConfig, BrokerConfig, ExperimentConfig, RuntimeConfig, resolve};
use crate::cli::BadInput;

/// The sections that are the server's alone.
const OF_THE_SERVER: [&str; 11] = [
    "prompts",
    "policy",
    "reward",
    "generation",
    "conflict",
    "feedback",
    "gold",
    "refinement",
    "tuning",
    "evaluation",
    "guards",
];

/// What a worker has to be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkerConfig {
    /// Which experiment; its settings are the server's.
    pub(crate) experiment: ExperimentConfig,
    /// What carries messages.
    #[serde(default)]
    pub(crate) broker: BrokerConfig,
    /// Where the experiment is fetched from.
    #[serde(default)]
    pub(crate) artifacts: ArtifactsConfig,
    /// On what it runs.
    #[serde(default)]
    pub(crate) runtime: RuntimeConfig,
}

impl WorkerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has an unknown key or a value out of range: exit code 2.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            BadInput(format!("failed to read the configuration {}: {error}", path.display()))
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).with_context(|| format!("failed to use {}", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let bad = |error: toml::de::Error| BadInput(error.to_string().trim_end().to_owned());
        let mut sections: toml::Table = text.parse().map_err(bad)?;
        for section in OF_THE_SERVER {
            sections.remove(section);
        }
        let mut worker: Self = sections.try_into().map_err(bad)?;
        worker.broker.validate().map_err(BadInput)?;
        worker.artifacts.validate().map_err(BadInput)?;
        let places = [&mut worker.experiment.data_dir, &mut worker.runtime.onnxruntime];
        for path in places.into_iter().flatten().chain(worker.broker.url_file_mut()) {
            *path = resolve(path, folder)?;
        }
        Ok(worker)
    }
}
