//! The configuration of a worker that fetches its experiment from a shared store: which one, and how it runs
//! here. The server's own file will do.

use std::path::Path;

use anyhow::Context as _;
use serde::de::value::Error as NothingToRead;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

use super::{ArtifactsConfig, BrokerConfig, Config, ExperimentConfig, RuntimeConfig, resolve};
use crate::error::BadInput;

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
        let (of_all, own) = (fields::<Config>(), fields::<Self>());
        // What is the server's alone; what nobody knows is refused below.
        sections.retain(|name, _| own.contains(&name) || !of_all.contains(&name));
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

/// The names of a structure's fields, as they stand in a file.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &[&str] = &[];
    let _nothing = T::deserialize(Fields(&mut fields));
    fields
}

/// Keeps the names that a structure asks for, and has nothing to give it.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = NothingToRead;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(NothingToRead::custom("there is nothing to read"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(NothingToRead::custom("there is nothing to read"))
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

    fn parsed(more: &str) -> anyhow::Result<WorkerConfig> {
        WorkerConfig::parse(&format!("{SMALLEST}{more}"), Path::new("folder"))
    }

    #[test]
    fn a_servers_file_will_do_whatever_sections_it_has() {
        let sections = fields::<Config>();
        assert!(sections.contains(&"experiment") && sections.contains(&"guards"), "{sections:?}");
        for own in fields::<WorkerConfig>() {
            assert!(sections.contains(own), "{own} is no section of the server's");
        }
        let others = sections.iter().filter(|section| !SMALLEST.contains(*section));
        // A broker is empty by no default.
        let others = others.filter(|section| **section != "broker");
        let more: String = others.map(|section| format!("[{section}]\n")).collect();
        parsed(&more).unwrap();
    }

    #[test]
    fn a_misspelt_section_is_named() {
        let message = format!("{:#}", parsed("[artefacts]\n").unwrap_err());
        assert!(message.contains("artefacts"), "{message}");
    }
}
