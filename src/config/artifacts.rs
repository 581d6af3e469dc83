//! `[artifacts]`: the store by which hosts exchange adapters, checkpoints and data.

use std::path::Path;

use dissent_storage::{ArtifactStore, SharedStore};
use serde::Deserialize;

use super::{ConfigError, KeyErrorKind};

/// `[artifacts]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsConfig {
    /// The store that server and workers share, `file:///folder` or `s3://bucket/prefix`. Without it,
    /// artifacts are in the data folder only.
    #[serde(default)]
    pub url: Option<String>,
    /// Limit of the cached part of the store in the data folder, in GiB. Without a limit, no artifact is
    /// evicted.
    #[serde(default)]
    pub cache_gib: Option<f64>,
}

const GIB: f64 = (1_u64 << 30) as f64;

impl ArtifactsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        const KEY: &str = "artifacts.cache_gib";
        match self.cache_gib {
            Some(gib) if !(gib.is_finite() && gib > 0.0 && gib <= 1e6) => {
                Err(ConfigError::out_of_range(KEY, gib, "use more than 0 and at most 1000000"))
            }
            Some(_) if self.url.is_none() => {
                let reason = "artifacts.cache_gib has no effect without artifacts.url: set artifacts.url, or leave cache_gib out";
                Err(ConfigError::key(KEY, KeyErrorKind::NoEffect, reason))
            }
            _ => Ok(()),
        }
    }

    /// Opens the artifacts of a data folder, as a cache of the shared store if one is configured.
    ///
    /// # Errors
    /// If the folder cannot be created, or the URL names no usable store.
    pub(crate) fn open(&self, data_dir: &Path) -> anyhow::Result<ArtifactStore> {
        let store = ArtifactStore::open(data_dir.join("artifacts"))?;
        let Some(url) = &self.url else { return Ok(store) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
        let cache_bytes = self.cache_gib.map(|gib| (gib * GIB) as u64);
        Ok(store.with_shared_store(SharedStore::open(url)?, cache_bytes))
    }
}
