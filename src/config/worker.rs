//! The configuration of a worker: the settings of this host and, for a worker of one experiment, its name.
//! The server's file and that of an experiment work, too.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::de::value::Error as NoValue;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use super::server::{ModelsConfig, ServerConfig};
use super::{ArtifactsConfig, BrokerConfig, Config, ConfigError, ExperimentConfig, RuntimeConfig, resolve};

/// The sections that a worker reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkerConfig {
    /// The name of the experiment and the data folder; the server has the other settings. Without it, the
    /// worker takes work of every experiment of its server.
    pub(crate) experiment: Option<ExperimentConfig>,
    /// The data folder of a worker of every experiment.
    pub(crate) data_dir: Option<PathBuf>,
    /// The message broker.
    #[serde(default)]
    pub(crate) broker: BrokerConfig,
    /// The store of the experiment.
    #[serde(default)]
    pub(crate) artifacts: ArtifactsConfig,
    /// Device, threads and library of ONNX Runtime.
    #[serde(default)]
    pub(crate) runtime: RuntimeConfig,
    /// Limits of loaded models.
    #[serde(default)]
    pub(crate) models: ModelsConfig,
}

impl WorkerConfig {
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
        let mut sections: toml::Table = text.parse()?;
        let own = fields::<Self>();
        let of_others = [fields::<Config>(), fields::<ServerConfig>()];
        // Sections for the server only; unknown sections are rejected below.
        let is_of_others = |name: &str| of_others.iter().any(|others| others.contains(&name));
        sections.retain(|name, _| own.contains(&name) || !is_of_others(name));
        let mut worker: Self = sections.try_into()?;
        worker.broker.validate()?;
        worker.artifacts.validate()?;
        worker.models.validate()?;
        let of_experiment = worker.experiment.as_mut().and_then(|experiment| experiment.data_dir.as_mut());
        let local = [of_experiment, worker.data_dir.as_mut(), worker.runtime.onnxruntime.as_mut()];
        for path in local.into_iter().flatten().chain(worker.broker.url_file_mut()) {
            *path = resolve(path, folder)?;
        }
        Ok(worker)
    }
}

/// Returns the names of a structure's fields, as in a file.
pub(super) fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &[&str] = &[];
    let _nothing = T::deserialize(Fields(&mut fields));
    fields
}

/// A deserialiser without values that records the field names of a structure.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = NoValue;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(NoValue::custom("no value"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(NoValue::custom("no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "[experiment]\nname = \"e\"\n";

    fn parsed(more: &str) -> Result<WorkerConfig, ConfigError> {
        WorkerConfig::parse(&format!("{SMALLEST}{more}"), Path::new("folder"))
    }

    #[test]
    fn a_worker_reads_a_file_with_all_sections_of_a_server() {
        let sections = fields::<Config>();
        assert!(sections.contains(&"experiment") && sections.contains(&"guards"), "{sections:?}");
        for own in fields::<WorkerConfig>() {
            let of_server = fields::<ServerConfig>().contains(own);
            assert!(sections.contains(own) || of_server, "a server does not read [{own}]");
        }
        let others = sections.iter().filter(|section| !SMALLEST.contains(*section));
        // `[broker]` needs a kind.
        let others = others.filter(|section| **section != "broker");
        let more: String = others.map(|section| format!("[{section}]\n")).collect();
        parsed(&more).unwrap();
    }

    #[test]
    fn an_unknown_section_is_named() {
        let error = parsed("[artefacts]\n").unwrap_err();
        assert!(matches!(error, ConfigError::Toml(_)) && error.to_string().contains("artefacts"), "{error}");
    }
}
