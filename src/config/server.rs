//! The configuration of a server, apart from those of its experiments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::CacheLimits;
use serde::Deserialize;
use url::Url;

use super::range::check_range;
use super::{ArtifactsConfig, BrokerConfig, Config, ConfigError, KeyErrorKind, RuntimeConfig, resolve};
use crate::memory::MachineMemory;

/// Share of the memory of the machine that loaded models may take.
const MEMORY_SHARE: f64 = 0.6;
const GIB: f64 = (1_u64 << 30) as f64;

/// The configuration of a server. Every section is optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerConfig {
    /// The data folder.
    pub(crate) data_dir: Option<PathBuf>,
    /// The message broker.
    pub(crate) broker: BrokerConfig,
    /// The store that server and workers share.
    pub(crate) artifacts: ArtifactsConfig,
    /// Device, threads and library of ONNX Runtime.
    pub(crate) runtime: RuntimeConfig,
    /// Limits of loaded models.
    pub(crate) models: ModelsConfig,
    /// The archive of finished experiments.
    pub(crate) archive: Option<ArchiveConfig>,
    /// How people are known, and the address at which they reach the server.
    pub(crate) accounts: AccountsConfig,
    /// Models and data that configurations over HTTP may name, as `server:NAME`.
    pub(crate) names: BTreeMap<String, PathBuf>,
    /// Filter of the log lines, in place of that of the command line. SIGHUP reads it again.
    pub(crate) log_filter: Option<String>,
}

/// `[accounts]`: how people are known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccountsConfig {
    /// Whether people sign in.
    pub(crate) auth: Auth,
    /// The address at which browsers reach the server, such as `https://lab.example`.
    url: Option<String>,
    /// Whether webhooks may go to this host and the networks behind it.
    pub(crate) private_webhooks: bool,
}

/// How the server knows who sends a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Auth {
    /// A caller on a loopback address or with the control token may do everything.
    #[default]
    Local,
    /// People sign in, and programs send API tokens.
    Accounts,
}

impl AccountsConfig {
    /// The address at which browsers reach the server.
    pub(crate) fn url(&self) -> Option<Url> {
        self.url.as_deref().and_then(|url| Url::parse(url).ok())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let is_origin = |url: &Url| {
            let has_path = url.path() != "/" || url.query().is_some() || !url.username().is_empty();
            matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && !has_path
        };
        if self.url.is_none() || self.url().is_some_and(|url| is_origin(&url)) {
            return Ok(());
        }
        let reason =
            "accounts.url: use the address of the server without a path, such as https://lab.example";
        Err(ConfigError::key("accounts.url", KeyErrorKind::OutOfRange, reason.to_owned()))
    }
}

/// `[models]`: the limits of loaded models.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelsConfig {
    /// Largest sum of the weights of loaded models, in GiB. Default: 60 % of the memory of the machine.
    pub(crate) memory_gib: Option<f64>,
    /// Minutes without a use after which a model is let go, 1 to 10,080.
    pub(crate) idle_minutes: u64,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self { memory_gib: None, idle_minutes: 30 }
    }
}

/// `[archive]`: where finished experiments are copied to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArchiveConfig {
    /// The data folder of the archive.
    pub(crate) folder: PathBuf,
    /// Days from the end of an experiment to its copy, 0 to 36,500.
    pub(crate) after_days: u64,
}

impl ModelsConfig {
    /// Returns the limits of the loaded models.
    pub(crate) fn limits(&self) -> CacheLimits {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
        let bytes = match self.memory_gib {
            Some(gib) => (gib * GIB) as u64,
            None => (MachineMemory::read().usable_bytes() as f64 * MEMORY_SHARE) as u64,
        };
        CacheLimits { bytes, idle: Duration::from_secs(self.idle_minutes * 60) }
    }
}

impl ServerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has an unknown key or a value out of range.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::read(path, source))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).with_context(|| format!("failed to use {}", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let mut server: Self = toml::from_str(text)?;
        server.broker.validate()?;
        server.artifacts.validate()?;
        server.models.validate()?;
        server.accounts.validate()?;
        check_range("runtime.threads", server.runtime.threads, 0..=super::THREADS_MAX)?;
        let archive = server.archive.as_mut();
        if let Some(archive) = &archive {
            check_range("archive.after_days", archive.after_days, 0..=36_500)?;
        }
        let local = [server.data_dir.as_mut(), server.runtime.onnxruntime.as_mut()];
        let local = local.into_iter().flatten().chain(server.broker.url_file_mut());
        let local = local.chain(archive.map(|archive| &mut archive.folder));
        for path in local.chain(server.names.values_mut()) {
            *path = resolve(path, folder)?;
        }
        Ok(server)
    }

    /// Returns the settings of a server that the configuration of an experiment has.
    pub(crate) fn of_experiment(config: &Config) -> Self {
        Self {
            data_dir: config.experiment.data_dir.clone(),
            broker: config.broker.clone(),
            artifacts: config.artifacts.clone(),
            runtime: config.runtime.clone(),
            ..Self::default()
        }
    }

    /// Replaces the settings of a process in the configuration of an experiment by those of the server.
    pub(crate) fn apply(&self, config: &mut Config) {
        config.broker = self.broker.clone();
        config.artifacts = self.artifacts.clone();
        config.runtime = self.runtime.clone();
    }
}

impl ModelsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_range("models.idle_minutes", self.idle_minutes, 1..=10_080)?;
        match self.memory_gib {
            Some(gib) if !(gib.is_finite() && gib > 0.0 && gib <= 1e6) => Err(ConfigError::out_of_range(
                "models.memory_gib",
                gib,
                "use more than 0 and at most 1000000",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_needs_no_setting_and_resolves_its_paths() {
        let server = ServerConfig::parse("", Path::new("folder")).unwrap();
        assert!(server.data_dir.is_none() && server.archive.is_none());
        assert!(server.models.limits().bytes > 0);
        let text = "data_dir = \"d\"\n[models]\nmemory_gib = 2\nidle_minutes = 5\n[archive]\nfolder = \"a\"\nafter_days = 90\n";
        let server = ServerConfig::parse(text, Path::new("folder")).unwrap();
        assert_eq!(server.data_dir.as_deref(), Some(Path::new("folder/d")));
        assert_eq!(server.archive.unwrap().folder, Path::new("folder/a"));
        let limits = server.models.limits();
        assert_eq!((limits.bytes, limits.idle), (2 << 30, Duration::from_secs(300)));
    }

    #[test]
    fn an_invalid_setting_is_named() {
        for (text, key) in [
            ("[models]\nmemory_gib = 0.0", "models.memory_gib"),
            ("[models]\nidle_minutes = 0", "models.idle_minutes"),
            ("[archive]\nfolder = \"a\"\nafter_days = 40000", "archive.after_days"),
            ("[experiment]\nname = \"e\"", "experiment"),
            ("[accounts]\nauth = \"none\"", "auth"),
            ("[accounts]\nurl = \"lab.example\"", "accounts.url"),
            ("[accounts]\nurl = \"https://lab.example/path\"", "accounts.url"),
            ("[accounts]\nurl = \"ftp://lab.example\"", "accounts.url"),
        ] {
            let error = ServerConfig::parse(text, Path::new("folder")).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
