//! An experiment for hosts that have nothing: the server's configuration with every file that it names, by
//! content, in the shared store. A worker fetches it, checks each file against its hash, and plans from it as
//! the server does; that the plan is the experiment's it sees in the history.
//!
//! What it laid out in `inputs` of the data folder stays there, whatever there is room for in its cache:
//! another worker of this host may be reading it. It lies there by content, once for all experiments; who
//! removes it while no worker runs loses nothing but time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_storage::{ArtifactId, ArtifactStore, SharedStore};
use serde::{Deserialize, Serialize};

use crate::config::{self, Config, WorkerConfig};
use crate::error::BadInput;

/// Longest bundle that is read: file names and hashes, and a configuration.
const BYTES_MAX: u64 = 16 << 20;
/// How often a worker asks for an experiment that is not there yet, and after how many times it says so
/// again.
const ASKED_EVERY: Duration = Duration::from_secs(1);
const SAID_EVERY: u32 = 60;
/// What model folders hold besides that is of use: weights in other formats are not.
const EXTENSIONS: [&str; 5] = ["safetensors", "json", "jinja", "model", "txt"];

/// A configuration, and what it names.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    /// The text of the configuration.
    config: String,
    /// Files and folders, by the paths as they are written there.
    inputs: BTreeMap<String, Input>,
}

/// A file, or a folder of files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Its name, for people.
    name: String,
    /// The names of a folder's files with their content; of a file only its own.
    files: BTreeMap<String, ArtifactId>,
    is_folder: bool,
}

fn name_of(experiment: &ExperimentId) -> String {
    format!("experiments/{experiment}.json")
}

/// Puts an experiment into the shared store, where there is one; what is there already is not sent again.
///
/// # Errors
/// If a file cannot be read, or the store refuses.
pub(crate) fn publish(config_path: &Path, artifacts: &ArtifactStore) -> anyhow::Result<()> {
    let Some(shared) = artifacts.shared() else { return Ok(()) };
    artifacts.share_all()?;
    let text = fs::read_to_string(config_path)
        .with_context(|| format!("failed to read the configuration {}", config_path.display()))?;
    let folder = config_path.parent().unwrap_or(Path::new("."));
    let mut config = Config::unresolved(&text)?;
    let mut inputs = BTreeMap::new();
    for written in config.inputs_mut() {
        let path = config::resolve(written, folder)?;
        let name = written.to_str().context("a path in the configuration is not UTF-8")?;
        if !inputs.contains_key(name) {
            inputs.insert(name.to_owned(), input(&path, artifacts)?);
        }
    }
    let experiment = config.experiment.name.clone();
    let bundle = Bundle { config: text, inputs };
    shared.put(&name_of(&experiment), serde_json::to_vec_pretty(&bundle)?)?;
    tracing::info!(%experiment, "workers can fetch it");
    Ok(())
}

fn input(path: &Path, artifacts: &ArtifactStore) -> anyhow::Result<Input> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if !path.is_dir() {
        let files = BTreeMap::from([(name.clone(), artifacts.put_file(path)?)]);
        return Ok(Input { name, files, is_folder: false });
    }
    let mut files = BTreeMap::new();
    let unreadable = || format!("failed to read the folder {}", path.display());
    for entry in fs::read_dir(path).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        if let Some(name) = file.file_name().and_then(|name| name.to_str()).filter(|_| is_of_use(&file)) {
            files.insert(name.to_owned(), artifacts.put_file(&file)?);
        }
    }
    Ok(Input { name, files, is_folder: true })
}

fn is_of_use(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    file.is_file()
        && extension.is_some_and(|extension| EXTENSIONS.contains(&extension) || extension == "gguf")
}

/// The server's configuration of a worker's experiment, with everything that it names in the worker's data
/// folder; what is the worker's own there is as its own configuration says.
///
/// # Errors
/// If there is no such experiment in the store, it or a file of it is damaged, or the disk refuses.
pub(crate) fn fetch(
    worker: WorkerConfig,
    data_dir: &Path,
    artifacts: &ArtifactStore,
) -> anyhow::Result<Config> {
    let shared = artifacts.shared().context("a worker fetches from a shared store, and there is none")?;
    let experiment = &worker.experiment.name;
    let bytes = read(shared, experiment)?;
    let damaged = || format!("{} of the shared store", name_of(experiment));
    let bundle: Bundle = serde_json::from_slice(&bytes).with_context(damaged)?;
    let mut config = Config::unresolved(&bundle.config).with_context(damaged)?;
    let folder = data_dir.join("inputs");
    for written in config.inputs_mut() {
        let input = written.to_str().and_then(|written| bundle.inputs.get(written));
        let input =
            input.with_context(|| format!("{} names no content of {}", damaged(), written.display()))?;
        *written = input.lay_out(&folder, artifacts).with_context(damaged)?;
    }
    if config.experiment.name != *experiment {
        return Err(BadInput(format!("{} is another experiment", damaged())).into());
    }
    config.experiment.data_dir = None;
    let WorkerConfig { broker, artifacts, runtime, .. } = worker;
    let config = Config { broker, artifacts, runtime, ..config };
    config.validate().map_err(BadInput)?;
    Ok(config)
}

/// Waits for the server, which may be started after its workers.
fn read(shared: &SharedStore, experiment: &ExperimentId) -> anyhow::Result<Vec<u8>> {
    let mut asked = 0_u32;
    loop {
        if let Some(bytes) = shared.get(&name_of(experiment), BYTES_MAX)? {
            return Ok(bytes);
        }
        if asked.is_multiple_of(SAID_EVERY) {
            tracing::warn!(
                %experiment,
                "waiting for the experiment: `dissent serve` with the same artifacts.url puts it into the shared store"
            );
        }
        asked = asked.wrapping_add(1);
        std::thread::sleep(ASKED_EVERY);
    }
}

impl Input {
    /// Puts the files under their names below `folder`, and says where the whole is.
    fn lay_out(&self, folder: &Path, artifacts: &ArtifactStore) -> anyhow::Result<PathBuf> {
        // By content: two models may have the same name, and one may be in many experiments.
        let content = serde_json::to_vec(&(self.is_folder, &self.files))?;
        let place = folder.join(ArtifactId::of(&content).to_string());
        let whole = place.join(plain(&self.name)?);
        let within = if self.is_folder { &whole } else { &place };
        fs::create_dir_all(within).with_context(|| format!("failed to create {}", within.display()))?;
        for (name, id) in &self.files {
            artifacts.link(id, &within.join(plain(name)?))?;
        }
        Ok(whole)
    }
}

/// A name that leads nowhere else.
fn plain(name: &str) -> anyhow::Result<&str> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(name),
        _ => Err(BadInput(format!("{name:?} is not the name of a file")).into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_bundle_names_its_files_they_stay_in_their_folder(name in "(\\PC|[./\\\\\0]){0,12}") {
            let folder = Path::new("folder");
            if let Ok(plain) = plain(&name) {
                let within = folder.join(plain);
                prop_assert_eq!(within.parent(), Some(folder));
            }
        }
    }

    struct Bench {
        folder: tempfile::TempDir,
    }

    impl Bench {
        /// A server's configuration, with a model folder, prompts and a store.
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
            publish(&self.path("server.toml"), &artifacts).unwrap();
            SharedStore::open(config.artifacts.url.as_ref().unwrap()).unwrap()
        }

        fn fetched(&self) -> anyhow::Result<Config> {
            let worker = WorkerConfig::load(&self.path("worker.toml"))?;
            let artifacts = worker.artifacts.open(&self.path("worker"))?;
            fetch(worker, &self.path("worker"), &artifacts)
        }

        /// Fetches what was published after a change to it.
        fn refused(&self, change: impl Fn(String) -> String) -> String {
            let store = self.published();
            let text =
                String::from_utf8(store.get("experiments/e.json", BYTES_MAX).unwrap().unwrap()).unwrap();
            let changed = change(text.clone());
            assert_ne!(text, changed);
            store.put("experiments/e.json", changed.into()).unwrap();
            format!("{:#}", self.fetched().unwrap_err())
        }
    }

    #[test]
    fn a_worker_has_the_servers_experiment_and_its_own_machine() {
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
        assert_eq!(bench.fetched().unwrap().policy.path, config.policy.path, "a second time it is there");
    }

    #[test]
    fn what_two_experiments_have_in_common_is_laid_out_once() {
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
            "a worker may read it"
        );
    }

    #[test]
    fn the_servers_own_file_is_a_workers_configuration_too() {
        let bench = Bench::new();
        let worker = WorkerConfig::load(&bench.path("server.toml")).unwrap();
        assert_eq!(worker.runtime.threads, 3);
        bench.write("[experiment]\nname = \"e\"\n[brokre]\nkind = \"embedded\"\n");
        let said = format!("{:#}", WorkerConfig::load(&bench.path("server.toml")).unwrap_err());
        assert!(said.contains("brokre"), "{said}");
    }

    #[test]
    fn a_bundle_that_was_tampered_with_is_refused_in_words() {
        let bench = Bench::new();
        let said =
            bench.refused(|text| text.replace("\"model.safetensors\":", "\"../../model.safetensors\":"));
        assert!(said.contains("\"../../model.safetensors\" is not the name of a file"), "{said}");
        let said = bench.refused(|text| text.replace("\"name\": \"model\"", "\"name\": \"/etc\""));
        assert!(said.contains("\"/etc\" is not the name of a file"), "{said}");
        let said = bench.refused(|text| text.replace("name = \\\"e\\\"", "name = \\\"f\\\""));
        assert!(said.contains("is another experiment"), "{said}");
        let said = bench.refused(|text| text.replace("\"prompts.jsonl\":", "\"else.jsonl\":"));
        assert!(said.contains("names no content of prompts.jsonl"), "{said}");
        let other = ArtifactId::of(b"never put").to_string();
        let weights = ArtifactId::of(b"weights").to_string();
        let said = bench.refused(|text| text.replace(&weights, &other));
        assert!(said.contains(&format!("artifact {other} does not exist")), "{said}");
    }
}
