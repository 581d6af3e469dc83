//! Values of the command line that replace those of a configuration file.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;

use super::error::{ConfigError, KeyErrorKind};
use super::schema;
use crate::text::similar;

/// `key=value` with a dotted key, as if it stood in the file. `key=` leaves the key out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Override {
    key: String,
    /// The value as given.
    text: String,
    value: Option<toml::Value>,
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.text)
    }
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            format!("setting `{text}` lacks `=`: write KEY=VALUE, such as conflict.budget=40, or KEY= to leave KEY out")
        })?;
        let (key, text) = (key.trim().to_owned(), value.trim().to_owned());
        let value = if text.is_empty() { None } else { Some(parsed(&key, &text)?) };
        let known = schema::keys();
        if !known.contains(&key) {
            let way_out = match similar(&key, known.iter().map(String::as_str)).as_slice() {
                [] => "see the keys in `dissent run --help`".to_owned(),
                found => format!("did you mean {}?", found.join(" or ")),
            };
            return Err(format!("unknown key {key}: {way_out}"));
        }
        Ok(Self { key, text, value })
    }
}

/// Parses a value as TOML. A bare word, such as `gap` or a path, is a string.
fn parsed(key: &str, text: &str) -> Result<toml::Value, String> {
    let table: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    let value = match table {
        Ok(mut table) if table.len() == 1 => table.remove("value"),
        Ok(_) | Err(_) => None,
    };
    match value {
        Some(value) => Ok(value),
        // A template may begin with a brace, but no bare word begins like these.
        None if text.starts_with(['"', '\'', '[']) => {
            Err(format!("{key} = {text}: invalid TOML: close its quotes and brackets"))
        }
        None => Ok(toml::Value::String(text.to_owned())),
    }
}

impl Override {
    /// Creates the override of the seed of every random choice.
    pub(crate) fn of_seed(seed: i64) -> Self {
        let value = Some(toml::Value::Integer(seed));
        Self { key: "experiment.seed".to_owned(), text: seed.to_string(), value }
    }

    /// Sets the value in the tables of a file.
    fn apply(&self, file: &mut toml::Table) -> Result<(), ConfigError> {
        let (sections, name) = self.key.rsplit_once('.').unwrap_or(("", &self.key));
        let mut table = file;
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            if self.value.is_none() && !table.contains_key(section) {
                return Ok(());
            }
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = inner.as_table_mut().ok_or_else(|| {
                let reason = format!("--set {self}: {section} is no section in the file");
                ConfigError::key(&self.key, KeyErrorKind::NoEffect, reason)
            })?;
        }
        match &self.value {
            Some(value) => drop(table.insert(name.to_owned(), value.clone())),
            None => drop(table.remove(name)),
        }
        Ok(())
    }
}

/// Parses a file with values of the command line in place of its own.
///
/// # Errors
/// If the text is not TOML, or a key of the file or of the command line is unknown or has a wrong type.
pub(super) fn parse<T: DeserializeOwned>(text: &str, overrides: &[Override]) -> Result<T, ConfigError> {
    if overrides.is_empty() {
        return Ok(toml::from_str(text)?);
    }
    let mut file: toml::Table = toml::from_str(text)?;
    overrides.iter().try_for_each(|replaced| replaced.apply(&mut file))?;
    let parsed = serde_path_to_error::deserialize(toml::Value::Table(file));
    parsed.map_err(|error| {
        let path = error.path().to_string();
        let of_command_line = overrides.iter().rev().find(|replaced| path.starts_with(&replaced.key));
        match of_command_line {
            Some(replaced) => {
                let reason = format!("--set {replaced}: {}", error.inner().message());
                ConfigError::key(&replaced.key, KeyErrorKind::OutOfRange, reason)
            }
            // The text names the line of its own mistake.
            None => toml::from_str::<T>(text).err().map_or_else(
                || {
                    ConfigError::key(
                        &path,
                        KeyErrorKind::OutOfRange,
                        format!("{path}: {}", error.inner().message()),
                    )
                },
                ConfigError::from,
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn given(text: &str) -> Override {
        text.parse().unwrap()
    }

    #[test]
    fn values_have_the_types_of_toml_and_bare_words_are_strings() {
        for (text, value) in [
            ("conflict.budget=40", toml::Value::Integer(40)),
            ("generation.temperature=0.5", toml::Value::Float(0.5)),
            ("conflict.rule=gap", "gap".into()),
            ("conflict.rule=\"gap\"", "gap".into()),
            ("tuning.full=true", true.into()),
            ("policy.template={prompt} and {completion}", "{prompt} and {completion}".into()),
            ("prompts.path=a folder/p.jsonl", "a folder/p.jsonl".into()),
            ("generation.stop=[\"a\", \"b\"]", vec!["a", "b"].into()),
        ] {
            assert_eq!(given(text).value, Some(value), "{text}");
        }
        assert_eq!(given("conflict.budget=").value, None);
        assert!("generation.stop=[\"a".parse::<Override>().unwrap_err().contains("generation.stop"));
    }

    #[test]
    fn an_unknown_key_is_named_with_similar_ones() {
        let error = "conflict.buget=4".parse::<Override>().unwrap_err();
        assert!(error.contains("conflict.buget") && error.contains("conflict.budget"), "{error}");
        assert!("conflict.budget".parse::<Override>().unwrap_err().contains("KEY=VALUE"));
    }

    #[test]
    fn a_value_of_a_wrong_type_names_its_setting() {
        let text = "[experiment]\nname = \"e\"\n[prompts]\npath = \"p\"\n[policy]\npath = \"m\"\n[reward]\npath = \"m\"\n";
        let config =
            parse::<Config>(text, &[given("conflict.budget=4"), given("experiment.rounds=")]).unwrap();
        assert_eq!(config.conflict.budget, Some(4));
        let error = parse::<Config>(text, &[given("conflict.budget=many")]).unwrap_err();
        assert_eq!(error.invalid_key().map(|(key, _)| key), Some("conflict.budget"), "{error}");
        assert!(error.to_string().contains("--set conflict.budget=many"), "{error}");
        let of_file =
            parse::<Config>(&format!("{text}\n[runtime]\nthreads = \"x\""), &[given("conflict.budget=4")]);
        assert!(of_file.unwrap_err().to_string().contains("line 11"), "the line of the file");
    }
}
