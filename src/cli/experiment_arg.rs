//! The experiment that a command is about: its name, or its configuration.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dissent_domain::id::ExperimentId;

use super::paths;
use crate::config::{ExperimentConfig, resolve};
use crate::error::BadInput;

/// An experiment on the command line. A configuration also names the data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExperimentArg {
    /// The name.
    Name(ExperimentId),
    /// The path of the configuration.
    Config(PathBuf),
}

/// An experiment, and the data folder whose log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) experiment: ExperimentId,
    pub(crate) data_dir: PathBuf,
}

impl FromStr for ExperimentArg {
    type Err = String;

    /// Reads a path as a configuration: a text with `/`, `cache:` or the name of a TOML file that exists. Any
    /// other
    /// text is a name.
    fn from_str(text: &str) -> Result<Self, String> {
        let resolved = match text.starts_with("cache:") || text.starts_with("~/") {
            true => resolve(Path::new(text), Path::new("")).map_err(|error| error.to_string())?,
            false => PathBuf::from(text),
        };
        let path = resolved.as_path();
        let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        if path.as_os_str() != text || text.contains('/') || (is_toml && path.is_file()) {
            return Ok(Self::Config(path.to_owned()));
        }
        match ExperimentId::new(text) {
            Ok(name) => Ok(Self::Name(name)),
            // Reading it says that it does not exist.
            Err(_) if is_toml => Ok(Self::Config(path.to_owned())),
            Err(error) => Err(format!("{error}, or the path of a configuration, such as ./experiment.toml")),
        }
    }
}

impl fmt::Display for ExperimentArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Config(path) => write!(f, "{}", path.display()),
        }
    }
}

impl ExperimentArg {
    /// Returns the experiment and its data folder: the given one, that of the configuration, or the default.
    ///
    /// # Errors
    /// If the configuration cannot be read or has no valid `[experiment]`.
    pub(crate) fn target(&self, data_dir: Option<&Path>) -> anyhow::Result<Target> {
        match self {
            Self::Name(name) => Ok(Target { experiment: name.clone(), data_dir: paths::data_dir(data_dir) }),
            Self::Config(path) => {
                let ExperimentConfig { name, data_dir: configured, .. } = ExperimentConfig::load(path)?;
                Ok(Target { experiment: name, data_dir: paths::data_dir(data_dir.or(configured.as_deref())) })
            }
        }
    }
}

/// An experiment, written as `NAME`, `DATA-FOLDER:NAME` or the path of its configuration.
#[derive(Debug, Clone)]
pub(crate) struct ExperimentRef {
    data_dir: Option<PathBuf>,
    experiment: ExperimentArg,
}

impl FromStr for ExperimentRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (data_dir, name) = match text.rsplit_once(':') {
            Some((folder, name)) if !Path::new(text).is_file() => (Some(PathBuf::from(folder)), name),
            Some(_) | None => (None, text),
        };
        Ok(Self { data_dir, experiment: name.parse()? })
    }
}

impl ExperimentRef {
    /// Returns the experiment and its data folder.
    ///
    /// # Errors
    /// As [`ExperimentArg::target`].
    pub(crate) fn target(&self, data_dir: Option<&Path>) -> anyhow::Result<Target> {
        self.experiment.target(self.data_dir.as_deref().or(data_dir))
    }
}

/// Returns an optional experiment and the data folder of a command.
///
/// # Errors
/// As [`ExperimentArg::target`].
pub(crate) fn optional(
    experiment: Option<&ExperimentArg>,
    data_dir: Option<&Path>,
) -> anyhow::Result<(Option<ExperimentId>, PathBuf)> {
    let Some(experiment) = experiment else { return Ok((None, paths::data_dir(data_dir))) };
    let Target { experiment, data_dir } = experiment.target(data_dir)?;
    Ok((Some(experiment), data_dir))
}

/// Returns several experiments, which share a data folder.
///
/// # Errors
/// As [`ExperimentArg::target`], or if the configurations name different data folders.
pub(crate) fn in_one_folder(
    experiments: &[ExperimentArg],
    data_dir: Option<&Path>,
) -> anyhow::Result<(Vec<ExperimentId>, PathBuf)> {
    let configured = experiments.iter().filter(|experiment| matches!(experiment, ExperimentArg::Config(_)));
    let folders: Vec<(&ExperimentArg, PathBuf)> = configured
        .map(|experiment| Ok((experiment, experiment.target(data_dir)?.data_dir)))
        .collect::<anyhow::Result<_>>()?;
    let folder = folders.first().map_or_else(|| paths::data_dir(data_dir), |(_, folder)| folder.clone());
    if let Some((other, theirs)) = folders.iter().find(|(_, theirs)| *theirs != folder) {
        let reason = format!(
            "{other} has the data folder {}, and the first configuration {}: run the command once for each folder",
            theirs.display(),
            folder.display()
        );
        return Err(BadInput(reason).into());
    }
    let names = experiments.iter().map(|experiment| Ok(experiment.target(Some(&folder))?.experiment));
    Ok((names.collect::<anyhow::Result<_>>()?, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_toml_file_is_a_configuration_and_other_texts_are_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lab.toml");
        std::fs::write(
            &file,
            "[experiment]\nname = \"lab\"\ndata_dir = \"runs\"\nseed = 3\n[other]\nx = 1\n",
        )
        .unwrap();
        let given: ExperimentArg = file.to_str().unwrap().parse().unwrap();
        let target = given.target(None).unwrap();
        assert_eq!(target.experiment.as_str(), "lab");
        assert_eq!(target.data_dir, folder.path().join("runs"));
        assert_eq!(given.target(Some(Path::new("here"))).unwrap().data_dir, Path::new("here"));
        let name: ExperimentArg = "lab.toml".parse().unwrap();
        assert!(matches!(name, ExperimentArg::Name(_)), "no such file here, and the name is valid");
        assert!("not a name".parse::<ExperimentArg>().unwrap_err().contains("experiment name"));
    }

    #[test]
    fn experiments_of_different_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = |name: &str| {
            let file = folder.path().join(format!("{name}.toml"));
            std::fs::write(&file, format!("[experiment]\nname = \"{name}\"\ndata_dir = \"{name}\"\n"))
                .unwrap();
            ExperimentArg::Config(file)
        };
        let both = [config("one"), config("two")];
        assert!(in_one_folder(&both, None).unwrap_err().is::<BadInput>());
        let (names, folder) = in_one_folder(&both, Some(Path::new("here"))).unwrap();
        assert_eq!((names.len(), folder.as_path()), (2, Path::new("here")));
        let mixed = [config("one"), ExperimentArg::Name("other".parse().unwrap())];
        let (_, folder) = in_one_folder(&mixed, None).unwrap();
        assert!(folder.ends_with("one"), "a name lies in the folder of the configuration");
    }
}
