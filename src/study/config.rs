//! The configuration of a study: a TOML file, checked completely before the study starts.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use serde::Deserialize;
use toml::{Table, Value};

use super::arms::{ArmConfig, ArmsConfig};
use super::labelled::LabelledConfig;
use super::path_keys::PATHS;
use super::preparation::{CategoriesConfig, PREPARED};
use crate::config::{RuntimeConfig, resolve};
use crate::error::BadInput;

/// The configuration of `dissent study`.
#[derive(Debug, Clone)]
pub struct StudyConfig {
    /// `[study]`.
    pub study: StudySection,
    /// `[runtime]`.
    pub runtime: RuntimeConfig,
    /// The sections of the kind of study.
    pub subject: Subject,
    /// The text of the file.
    pub text: String,
}

/// `[study]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudySection {
    /// The name of the study.
    pub name: ExperimentId,
    /// The seed of the draws outside experiments.
    #[serde(default)]
    pub seed: u64,
    /// The seeds of the experiments.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Limit of experiments at the same time; fewer run if memory is short.
    #[serde(default = "one")]
    pub parallel: usize,
    /// The data folder of the study.
    pub data_dir: Option<PathBuf>,
}

fn one() -> usize {
    1
}

/// The kind of a study, with its sections.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A study on labelled completions.
    Labelled(Box<LabelledConfig>),
    /// A study of experiments under several rules.
    Arms(Box<ArmsConfig>),
}

/// Limit of experiments at the same time.
const PARALLEL_MAX: usize = 64;

impl StudyConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has an unknown key or a value out of range: exit code 2.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadInput(format!("failed to read the study {}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).with_context(|| format!("failed to use {}", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        // Parsing the whole file first gives errors with line numbers.
        let mut rest: Table =
            toml::from_str(text).map_err(|error| BadInput(error.to_string().trim_end().to_owned()))?;
        let study: Option<StudySection> = section(&mut rest, "study")?;
        let mut study = study.ok_or_else(|| BadInput("[study] is missing: add it with a name".to_owned()))?;
        if !(1..=PARALLEL_MAX).contains(&study.parallel) {
            return Err(BadInput(format!(
                "study.parallel = {} is out of range: use 1 to {PARALLEL_MAX}",
                study.parallel
            ))
            .into());
        }
        if let Some(data_dir) = &mut study.data_dir {
            *data_dir = resolve(data_dir, folder)?;
        }
        let is_labelled = rest.contains_key("labelled");
        let runtime = if is_labelled { rest.remove("runtime") } else { rest.get("runtime").cloned() };
        let runtime = runtime.map(Value::try_into).transpose().map_err(|error| named("runtime", &error))?;
        let subject = if is_labelled {
            let mut labelled: LabelledConfig = Value::Table(rest)
                .try_into()
                .map_err(|error: toml::de::Error| BadInput(error.to_string().trim_end().to_owned()))?;
            labelled.resolve(folder)?;
            Subject::Labelled(Box::new(labelled))
        } else {
            let arms: Option<Vec<ArmConfig>> = section(&mut rest, "arm")?;
            let arms = arms.ok_or_else(|| {
                BadInput(
                    "[labelled] or [[arm]] is missing: add [labelled] for a study on labelled completions, or [[arm]] for \
                     a study of experiments"
                        .to_owned(),
                )
            })?;
            if study.seeds.is_empty() {
                return Err(BadInput(
                    "study.seeds is missing: use at least three seeds, such as [1, 2, 3]".to_owned(),
                )
                .into());
            }
            let categories: Option<CategoriesConfig> = section(&mut rest, "categories")?;
            if let Some(categories) = &categories {
                categories.validate()?;
            }
            absolute_paths(&mut rest, folder)?;
            Subject::Arms(Box::new(ArmsConfig { arms, seeds: study.seeds.clone(), base: rest, categories }))
        };
        Ok(Self { study, runtime: runtime.unwrap_or_default(), subject, text: text.to_owned() })
    }
}

fn named(section: &str, error: &toml::de::Error) -> BadInput {
    BadInput(format!("[{section}]: {}", error.to_string().trim_end()))
}

fn section<T: for<'de> Deserialize<'de>>(table: &mut Table, name: &str) -> anyhow::Result<Option<T>> {
    let value = table.remove(name).map(Value::try_into).transpose();
    Ok(value.map_err(|error| named(name, &error))?)
}

/// Makes paths absolute, because the configurations of the experiments are in other folders than the study's.
fn absolute_paths(base: &mut Table, folder: &Path) -> anyhow::Result<()> {
    for (section, key) in PATHS {
        let Some(Value::String(path)) = base.get_mut(section).and_then(|section| section.get_mut(key)) else {
            continue;
        };
        if path.starts_with(PREPARED) {
            continue;
        }
        let resolved = resolve(Path::new(path.as_str()), folder)?;
        *path = std::path::absolute(resolved)?.to_string_lossy().into_owned();
    }
    Ok(())
}
