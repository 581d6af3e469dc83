//! The settings of a model, as the keys of its `config.json`.
//!
//! Other formats are translated into these keys first, so every family is read in one way.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::ModelError;

/// Other names of keys: the usual name, and the one that a family uses.
pub(crate) type Aliases = &'static [(&'static str, &'static str)];

/// The sizes of keys that a file may omit.
pub(crate) type SizeDefaults = &'static [(&'static str, usize)];

/// The keys of a `config.json`, or of a group inside it. A key whose value is null is absent.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    path: PathBuf,
    /// The name of the group with a dot, empty for the whole file.
    group: String,
    keys: Map<String, Value>,
    aliases: Aliases,
    defaults: SizeDefaults,
}

impl Settings {
    pub(crate) fn new(path: &Path, keys: Map<String, Value>) -> Self {
        Self { path: path.to_owned(), group: String::new(), keys, aliases: &[], defaults: &[] }
    }

    /// Returns the settings, with the other names and the default sizes of a family.
    pub(crate) fn of_family(self, aliases: Aliases, defaults: SizeDefaults) -> Self {
        Self { aliases, defaults, ..self }
    }

    /// Sets a key.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.keys.insert(key.to_owned(), value);
    }

    /// Returns all keys with their values.
    pub(crate) fn keys(&self) -> &Map<String, Value> {
        &self.keys
    }

    /// Returns all keys with their values.
    pub(crate) fn into_keys(self) -> Map<String, Value> {
        self.keys
    }

    /// Returns an error that names the file.
    pub(crate) fn error(&self, reason: impl std::fmt::Display) -> ModelError {
        ModelError::file(&self.path, reason)
    }

    /// Returns the value of a key; `None` if it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        let other = self.aliases.iter().find(|(usual, _)| *usual == key).map(|(_, other)| *other);
        [Some(key), other]
            .into_iter()
            .flatten()
            .find_map(|key| self.keys.get(key).filter(|value| !value.is_null()))
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = parse(value);
        // Python writes infinite numbers, which are read as objects of this key.
        let found =
            if value.get("__float__").is_some() { "NaN or Infinity".to_owned() } else { value.to_string() };
        parsed.map(Some).ok_or_else(|| self.error(format!("{}{key} is not {kind}: {found}", self.group)))
    }

    /// Returns a whole number that is not negative.
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let stated = self.read(key, "a size", |value| usize::try_from(value.as_u64()?).ok())?;
        let default = || self.defaults.iter().find(|(name, _)| *name == key).map(|(_, size)| *size);
        Ok(stated.or_else(default))
    }

    /// Returns a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.read(key, "a number", Value::as_f64)
    }

    /// Returns a number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.read(key, "a positive number", |value| value.as_f64().filter(|number| *number > 0.0))
    }

    /// Returns true or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Returns a text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.read(key, "a text", Value::as_str)
    }

    /// Returns a list of texts.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.read(key, "a list of texts", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// Returns a list of numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.read(key, "a list of numbers", |value| value.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// Returns the settings inside a key.
    pub(crate) fn group(&self, key: &str) -> Result<Option<Self>, ModelError> {
        let keys = self.read(key, "an object", Value::as_object)?;
        let group = format!("{}{key}.", self.group);
        Ok(keys.map(|keys| Self {
            path: self.path.clone(),
            group,
            keys: keys.clone(),
            aliases: &[],
            defaults: &[],
        }))
    }

    /// Returns a value that must exist.
    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| self.error(format!("{}{key} is missing", self.group)))
    }
}
