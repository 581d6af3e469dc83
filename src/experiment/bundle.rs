//! The bundle of an experiment in the shared store: the server's configuration, and the hash of every file
//! that it names. A worker on another host fetches the bundle and checks each file against its hash. It
//! derives the plan like the server, and compares it with the history.
//!
//! Workers link the files into `inputs` of the data folder, under the hash of their content, once for all
//! experiments. The cache never evicts these links, because another worker of the host may read the files. It
//! is safe to delete the folder while no worker runs: the next start fetches the files again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_models::checkpoint::files_of_model;
use dissent_storage::{ArtifactId, ArtifactStore, SharedStore};
use serde::{Deserialize, Serialize};

use crate::config::{self, Config, ConfigError, ConfigSource, WorkerConfig};

/// Largest bundle, in bytes: a configuration, file names and hashes.
const BUNDLE_BYTES_MAX: u64 = 16 << 20;
/// Interval at which a worker looks for an experiment that is not published yet.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Number of polls after which the warning is repeated.
const POLLS_PER_WARNING: u32 = 60;
/// Extensions of the files of a model folder, besides GGUF. Weights in other formats are left out.
const EXTENSIONS: [&str; 5] = ["safetensors", "json", "jinja", "model", "txt"];

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// The configuration of the worker has no shared store.
    #[error("no shared store is configured: set artifacts.url")]
    NoStore,
    /// The bundle is not JSON, or has other fields.
    #[error("{bundle} of the shared store is damaged: publish it again with `dissent serve`")]
    Damaged {
        bundle: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// The configuration in the bundle is invalid.
    #[error("{bundle} of the shared store has an unusable configuration")]
    Config {
        bundle: String,
        /// The cause.
        source: ConfigError,
    },
    /// The bundle has no hash for a path of its configuration.
    #[error("{bundle} of the shared store lacks the content of {}: publish it again with `dissent serve`", path.display())]
    MissingInput { bundle: String, path: PathBuf },
    /// The configuration in the bundle names another experiment.
    #[error(
        "{bundle} of the shared store contains another experiment, {found}: publish it again with `dissent serve`"
    )]
    OtherExperiment { bundle: String, found: ExperimentId },
    /// A file name in the bundle is a path.
    #[error("{name:?} is not a plain file name")]
    FileName { name: String },
}

/// A configuration with the hashes of its files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    /// The text of the configuration.
    config: String,
    /// Values in place of those of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<String>,
    /// Files and folders, by their paths as written in the configuration.
    inputs: BTreeMap<String, Input>,
}

/// A file, the parts of a split file, or a folder of files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The file or folder name, shown to people.
    name: String,
    /// The name and hash of each file: one for a file, one for each part, or all for a folder.
    files: BTreeMap<String, ArtifactId>,
    is_folder: bool,
}

/// The name of the bundle of an experiment. Two installations in one store have their own.
fn name_of(prefix: &str, experiment: &ExperimentId) -> String {
    format!("experiments/{prefix}/{experiment}.json")
}

/// Publishes an experiment of the installation with this prefix to the shared store, if one is configured.
/// Files that the store has are not sent again.
///
/// # Errors
/// If a file cannot be read, or the store fails.
pub(crate) fn publish(source: &ConfigSource, prefix: &str, artifacts: &ArtifactStore) -> anyhow::Result<()> {
    let Some(shared) = artifacts.shared() else { return Ok(()) };
    artifacts.share_all()?;
    let mut config = source.unresolved()?;
    let mut inputs = BTreeMap::new();
    for written in config.inputs_mut() {
        let path = config::resolve(written, &source.folder)?;
        let name = written.to_str().context("a path in the configuration is not UTF-8")?;
        if !inputs.contains_key(name) {
            inputs.insert(name.to_owned(), input(&path, artifacts)?);
        }
    }
    let experiment = config.experiment.name.clone();
    let bundle = Bundle { config: source.text.clone(), overrides: source.overrides.clone(), inputs };
    shared.put(&name_of(prefix, &experiment), serde_json::to_vec_pretty(&bundle)?)?;
    tracing::info!(%experiment, "published the experiment for workers");
    Ok(())
}

fn input(path: &Path, artifacts: &ArtifactStore) -> anyhow::Result<Input> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if !path.is_dir() {
        let mut files = BTreeMap::new();
        for file in files_of_model(path) {
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
            files.insert(name, artifacts.put_file(&file)?);
        }
        return Ok(Input { name, files, is_folder: false });
    }
    let mut files = BTreeMap::new();
    let unreadable = || format!("failed to read the folder {}", path.display());
    for entry in fs::read_dir(path).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        if let Some(name) = file.file_name().and_then(|name| name.to_str()).filter(|_| is_model_file(&file)) {
            files.insert(name.to_owned(), artifacts.put_file(&file)?);
        }
    }
    Ok(Input { name, files, is_folder: true })
}

fn is_model_file(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    file.is_file()
        && extension.is_some_and(|extension| EXTENSIONS.contains(&extension) || extension == "gguf")
}

/// Fetches the server's configuration of an experiment, and its files into the worker's data folder. Broker,
/// artifacts and runtime settings are those of the worker.
///
/// # Errors
/// If the bundle or a file is damaged, or the store or the disk fails.
pub(crate) fn fetch(
    worker: &WorkerConfig,
    prefix: &str,
    experiment: &ExperimentId,
    data_dir: &Path,
    artifacts: &ArtifactStore,
) -> anyhow::Result<Config> {
    let shared = artifacts.shared().ok_or(BundleError::NoStore)?;
    let name = || name_of(prefix, experiment);
    let bytes = read(shared, &name(), experiment)?;
    let bundle: Bundle =
        serde_json::from_slice(&bytes).map_err(|source| BundleError::Damaged { bundle: name(), source })?;
    let source =
        ConfigSource { text: bundle.config, folder: data_dir.to_owned(), overrides: bundle.overrides };
    let mut config = source.unresolved().map_err(|source| BundleError::Config { bundle: name(), source })?;
    let folder = data_dir.join("inputs");
    for written in config.inputs_mut() {
        let input = written.to_str().and_then(|written| bundle.inputs.get(written));
        let input =
            input.ok_or_else(|| BundleError::MissingInput { bundle: name(), path: written.clone() })?;
        *written =
            input.link_into(&folder, artifacts).with_context(|| format!("{} of the shared store", name()))?;
    }
    let found = &config.experiment.name;
    if found != experiment {
        return Err(BundleError::OtherExperiment { bundle: name(), found: found.clone() }.into());
    }
    config.experiment.data_dir = None;
    let WorkerConfig { broker, artifacts, runtime, .. } = worker.clone();
    let config = Config { broker, artifacts, runtime, ..config };
    config.validate()?;
    Ok(config)
}

/// Reads the bundle. Waits until the server publishes it, because workers may start first.
fn read(shared: &SharedStore, bundle: &str, experiment: &ExperimentId) -> anyhow::Result<Vec<u8>> {
    let mut polls = 0_u32;
    loop {
        if let Some(bytes) = shared.get(bundle, BUNDLE_BYTES_MAX)? {
            return Ok(bytes);
        }
        if polls.is_multiple_of(POLLS_PER_WARNING) {
            tracing::warn!(
                %experiment,
                "waiting for the experiment: start `dissent serve` with the same artifacts.url"
            );
        }
        polls = polls.wrapping_add(1);
        std::thread::sleep(POLL_INTERVAL);
    }
}

impl Input {
    /// Links the files below `folder` under their names. Returns the path of the file or folder.
    fn link_into(&self, folder: &Path, artifacts: &ArtifactStore) -> anyhow::Result<PathBuf> {
        // The hash separates models with the same name, and many experiments share one model.
        let content = serde_json::to_vec(&(self.is_folder, &self.files))?;
        let unique = folder.join(ArtifactId::of(&content).to_string());
        let path = unique.join(plain_name(&self.name)?);
        let parent = if self.is_folder { &path } else { &unique };
        fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
        for (name, id) in &self.files {
            artifacts.link(id, &parent.join(plain_name(name)?))?;
        }
        Ok(path)
    }
}

/// Returns a name that is one file name, without a path to another folder.
fn plain_name(name: &str) -> Result<&str, BundleError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(name),
        _ => Err(BundleError::FileName { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::FailureKind;

    proptest! {
        #[test]
        fn files_of_a_bundle_with_any_names_stay_in_their_folder(name in "(\\PC|[./\\\\\0]){0,12}") {
            let folder = Path::new("folder");
            if let Ok(plain) = plain_name(&name) {
                let path = folder.join(plain);
                prop_assert_eq!(path.parent(), Some(folder));
            }
        }
    }

    const PREFIX: &str = "p";

    fn name() -> ExperimentId {
        ExperimentId::new("e").unwrap()
    }

    struct Bench {
        folder: tempfile::TempDir,
    }

    impl Bench {
        /// Creates a server's configuration with a model folder, prompts and a store.
        fn new() -> Self {
            let bench = Self { folder: tempfile::tempdir().unwrap() };
            fs::create_dir(bench.path("model")).unwrap();
            for (name, text) in
                [("config.json", "{}"), ("model.safetensors", "weights"), ("optimizer.pt", "no")]
            {
                fs::write(bench.path("model").join(name), text).unwrap();
            }
            fs::write(bench.path("prompts.jsonl"), "{\"prompt\": \"why?\"}\n").unwrap();
            bench.write("[experiment]\nname = \"e\"\nseed = 5\n[prompts]\npath = \"prompts.jsonl\"\n[policy]\npath = \"model\"\n[reward]\npath = \"model\"\n[runtime]\nthreads = 3\n");
            bench
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, text: &str) {
            let store = format!("[artifacts]\nurl = \"file://{}\"\n", self.path("store").display());
            fs::write(self.path("server.toml"), text.to_owned() + &store).unwrap();
            fs::write(self.path("worker.toml"), "[experiment]\nname = \"e\"\n".to_owned() + &store).unwrap();
        }

        fn published(&self) -> SharedStore {
            let config = Config::load(&self.path("server.toml")).unwrap();
            let artifacts = config.artifacts.open(&self.path("server")).unwrap();
            let source = ConfigSource::read(&self.path("server.toml"), &[]).unwrap();
            publish(&source, PREFIX, &artifacts).unwrap();
            SharedStore::open(config.artifacts.url.as_ref().unwrap()).unwrap()
        }

        fn fetched(&self) -> anyhow::Result<Config> {
            let worker = WorkerConfig::load(&self.path("worker.toml"))?;
            let artifacts = worker.artifacts.open(&self.path("worker"))?;
            fetch(&worker, PREFIX, &name(), &self.path("worker"), &artifacts)
        }

        /// Publishes, changes the bundle, and returns the error of fetching it.
        fn rejected(&self, change: impl Fn(String) -> String) -> anyhow::Error {
            let store = self.published();
            let text =
                String::from_utf8(store.get("experiments/p/e.json", BUNDLE_BYTES_MAX).unwrap().unwrap())
                    .unwrap();
            let changed = change(text.clone());
            assert_ne!(text, changed);
            store.put("experiments/p/e.json", changed.into()).unwrap();
            self.fetched().unwrap_err()
        }
    }

    #[test]
    fn a_worker_fetches_the_experiment_and_keeps_its_runtime_settings() {
        let bench = Bench::new();
        bench.published();
        let config = bench.fetched().unwrap();
        assert_eq!((config.experiment.seed, config.runtime.threads), (5, 0));
        assert!(
            config.policy.path.starts_with(bench.path("worker")) && config.policy.path.ends_with("model")
        );
        assert_eq!(config.policy.path, config.reward.path);
        assert_eq!(fs::read(config.policy.path.join("model.safetensors")).unwrap(), b"weights");
        assert!(!config.policy.path.join("optimizer.pt").exists());
        assert_eq!(fs::read(config.prompts.path).unwrap(), b"{\"prompt\": \"why?\"}\n");
        assert_eq!(
            bench.fetched().unwrap().policy.path,
            config.policy.path,
            "a second fetch gives the same path"
        );
    }

    #[test]
    fn a_split_model_is_fetched_with_all_its_parts() {
        let bench = Bench::new();
        for part in 1..=3 {
            fs::write(bench.path(&format!("m-0000{part}-of-00003.gguf")), format!("part {part}")).unwrap();
        }
        let text = fs::read_to_string(bench.path("server.toml")).unwrap();
        let changed = text.replacen("path = \"model\"", "path = \"m-00001-of-00003.gguf\"", 1);
        fs::write(bench.path("server.toml"), changed).unwrap();
        bench.published();
        let policy = bench.fetched().unwrap().policy.path;
        assert!(policy.ends_with("m-00001-of-00003.gguf"));
        for part in 1..=3 {
            let file = policy.with_file_name(format!("m-0000{part}-of-00003.gguf"));
            assert_eq!(fs::read(file).unwrap(), format!("part {part}").as_bytes());
        }
    }

    #[test]
    fn experiments_share_the_links_of_equal_files() {
        let bench = Bench::new();
        bench.published();
        let before = bench.fetched().unwrap();
        let text = fs::read_to_string(bench.path("server.toml")).unwrap();
        fs::write(bench.path("server.toml"), text.replace("seed = 5", "seed = 6")).unwrap();
        fs::write(bench.path("prompts.jsonl"), "{\"prompt\": \"how?\"}\n").unwrap();
        bench.published();
        let after = bench.fetched().unwrap();
        assert_eq!((after.experiment.seed, &after.policy.path), (6, &before.policy.path));
        assert_ne!(after.prompts.path, before.prompts.path);
        assert_eq!(
            fs::read(before.prompts.path).unwrap(),
            b"{\"prompt\": \"why?\"}\n",
            "the old prompts stay, a worker may read them"
        );
    }

    #[test]
    fn a_worker_accepts_the_configuration_of_the_server() {
        let bench = Bench::new();
        let worker = WorkerConfig::load(&bench.path("server.toml")).unwrap();
        assert_eq!(worker.runtime.threads, 3);
        bench.write("[experiment]\nname = \"e\"\n[brokre]\nkind = \"embedded\"\n");
        let error = WorkerConfig::load(&bench.path("server.toml")).unwrap_err();
        let Some(ConfigError::Toml(cause)) = error.downcast_ref() else { panic!("{error:#}") };
        assert!(cause.to_string().contains("brokre"), "{cause}");
    }

    #[test]
    fn a_modified_bundle_is_rejected_with_the_reason() {
        let bench = Bench::new();
        let file_name = |error: anyhow::Error| match error.downcast_ref() {
            Some(BundleError::FileName { name }) => name.clone(),
            _ => panic!("{error:#}"),
        };
        let error =
            bench.rejected(|text| text.replace("\"model.safetensors\":", "\"../../model.safetensors\":"));
        assert_eq!(FailureKind::of(&error), FailureKind::BadInput);
        assert_eq!(file_name(error), "../../model.safetensors");
        let error = bench.rejected(|text| text.replace("\"name\": \"model\"", "\"name\": \"/etc\""));
        assert_eq!(
            format!("{error:#}"),
            "experiments/p/e.json of the shared store: \"/etc\" is not a plain file name"
        );
        assert_eq!(file_name(error), "/etc");
        let error = bench.rejected(|text| text.replace("name = \\\"e\\\"", "name = \\\"f\\\""));
        assert_eq!(FailureKind::of(&error), FailureKind::BadInput);
        assert!(
            matches!(error.downcast_ref(), Some(BundleError::OtherExperiment { found, .. }) if found.as_str() == "f"),
            "{error:#}"
        );
        let error = bench.rejected(|text| text.replace("\"prompts.jsonl\":", "\"else.jsonl\":"));
        let Some(BundleError::MissingInput { path, .. }) = error.downcast_ref() else { panic!("{error:#}") };
        assert_eq!(path, Path::new("prompts.jsonl"));
        let error = bench.rejected(|text| text.replace("seed = 5", "seed = -5"));
        assert_eq!(FailureKind::of(&error), FailureKind::BadInput);
        let Some(BundleError::Config { source: ConfigError::Toml(_), .. }) = error.downcast_ref() else {
            panic!("{error:#}")
        };
        let error = bench.rejected(|text| text.replace("\"inputs\"", "\"input\""));
        assert!(matches!(error.downcast_ref(), Some(BundleError::Damaged { .. })), "{error:#}");
        let other = ArtifactId::of(b"never put").to_string();
        let weights = ArtifactId::of(b"weights").to_string();
        let error = bench.rejected(|text| text.replace(&weights, &other));
        assert!(format!("{error:#}").contains(&format!("artifact {other} does not exist")), "{error:#}");
    }
}
