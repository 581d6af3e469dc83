//! The configuration of a study: a TOML file, checked whole before anything starts.

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

/// `dissent study CONFIG.toml`.
#[derive(Debug, Clone)]
pub struct StudyConfig {
    /// `[study]`.
    pub study: StudySection,
    /// `[runtime]`.
    pub runtime: RuntimeConfig,
    /// What is studied.
    pub subject: Subject,
    /// The file's text.
    pub text: String,
}

/// `[study]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudySection {
    /// Its name.
    pub name: ExperimentId,
    /// The seed of every draw that is not an experiment's own.
    #[serde(default)]
    pub seed: u64,
    /// The seeds of the experiments.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Most experiments that run at the same time; fewer where memory is short.
    #[serde(default = "one")]
    pub parallel: usize,
    /// Folder of everything that the study makes.
    pub data_dir: Option<PathBuf>,
}

fn one() -> usize {
    1
}

/// What is studied.
#[derive(Debug, Clone)]
pub enum Subject {
    /// Given answers that people have compared.
    Labelled(Box<LabelledConfig>),
    /// Experiments under several rules.
    Arms(Box<ArmsConfig>),
}

/// Most experiments at the same time.
const PARALLEL_MAX: usize = 64;

impl StudyConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has an unknown key or a value out of range: exit code 2.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadInput(format!("failed to read the study {}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).with_context(|| format!("failed to use {}", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        // The whole file once for its lines, then its sections one by one.
        let mut rest: Table =
            toml::from_str(text).map_err(|error| BadInput(error.to_string().trim_end().to_owned()))?;
        let study: Option<StudySection> = section(&mut rest, "study")?;
        let mut study = study.ok_or_else(|| BadInput("[study] is missing: it needs a name".to_owned()))?;
        if !(1..=PARALLEL_MAX).contains(&study.parallel) {
            return Err(
                BadInput(format!("study.parallel = {}: use 1 to {PARALLEL_MAX}", study.parallel)).into()
            );
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
                    "give [labelled] for a study on given answers, or [[arm]] for one of experiments"
                        .to_owned(),
                )
            })?;
            if study.seeds.is_empty() {
                return Err(BadInput(
                    "study.seeds is missing: give at least three, such as [1, 2, 3]".to_owned(),
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

/// The experiments' configurations lie elsewhere than the study's, so their paths must not depend on where
/// they are read.
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
