//! `[artifacts]`: where adapters, checkpoints and data are, that processes on several hosts pass each other.

use std::path::Path;

use dissent_storage::{ArtifactStore, SharedStore};
use serde::Deserialize;

/// `[artifacts]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsConfig {
    /// A store that server and workers share: `file:///folder` or `s3://bucket/prefix`; none: the data folder
    /// alone.
    #[serde(default)]
    pub url: Option<String>,
    /// Most that the data folder keeps of it, in GiB; none: all that was ever needed.
    #[serde(default)]
    pub cache_gib: Option<f64>,
}

const GIB: f64 = (1_u64 << 30) as f64;

impl ArtifactsConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        match self.cache_gib {
            Some(gib) if !(gib.is_finite() && gib > 0.0 && gib <= 1e6) => {
                Err(format!("artifacts.cache_gib = {gib}: use more than 0 and at most 1000000"))
            }
            Some(_) if self.url.is_none() => Err(
                "artifacts.cache_gib: without artifacts.url the data folder is no cache, but all there is"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// The artifacts of a data folder, before the shared store if there is one.
    ///
    /// # Errors
    /// If the folder cannot be made, or there can be no such store.
    pub(crate) fn open(&self, data_dir: &Path) -> anyhow::Result<ArtifactStore> {
        let store = ArtifactStore::open(data_dir.join("artifacts"))?;
        let Some(url) = &self.url else { return Ok(store) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
        let cache_bytes = self.cache_gib.map(|gib| (gib * GIB) as u64);
        Ok(store.with_shared_store(SharedStore::open(url)?, cache_bytes))
    }
}
