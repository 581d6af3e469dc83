//! Configurations that come over HTTP. Their sender has no files on the server, and must reach none: every
//! input is a file that was uploaded before, by its hash, or a name that the server's settings define.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use dissent_storage::{ArtifactId, ArtifactStore};
use serde_json::Value;

use crate::config::{Config, ConfigSource};
use crate::error::BadInput;

/// How an input begins that the server's settings name.
const NAMED: &str = "server:";
/// Sections that belong to the server.
const OF_SERVER: [&str; 3] = ["artifacts", "broker", "runtime"];
/// Most files of a configuration.
const FILES_MAX: usize = 4096;

/// A configuration with the uploaded files that it names.
pub(crate) struct UploadedConfig<'a> {
    /// TOML as a text, or the same as an object.
    pub(crate) configuration: &'a Value,
    /// Values in place of those of the text, `KEY=VALUE`.
    pub(crate) overrides: &'a [String],
    /// The hash of each uploaded file, by the relative path at which the configuration names it.
    pub(crate) files: &'a BTreeMap<String, String>,
}

impl UploadedConfig<'_> {
    /// Checks that the configuration reaches nothing of the server, and puts its files into a folder below
    /// `folder`.
    ///
    /// # Errors
    /// If the configuration is invalid, names a path, or has a setting of the server; if a file was not
    /// uploaded or a name is unknown; if the folder cannot be written.
    pub(crate) fn place(
        &self,
        folder: &Path,
        artifacts: &ArtifactStore,
        names: &BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<ConfigSource> {
        let text = self.text()?;
        check_sections(&text)?;
        let source = ConfigSource { text, folder: PathBuf::new(), overrides: self.overrides.to_vec() };
        let mut config = source.unresolved()?;
        check_settings_of_server(&config)?;
        let inputs: BTreeSet<PathBuf> = config.inputs_mut().into_iter().map(|path| path.clone()).collect();
        let files = self.parsed_files()?;
        let mut named = BTreeMap::new();
        for input in &inputs {
            match input.to_str().and_then(|input| input.strip_prefix(NAMED)) {
                Some(name) => {
                    let target = names.get(name).with_context(|| unknown_name(name, names))?;
                    named.insert(input.clone(), target.clone());
                }
                None => check_is_uploaded(input, &files)?,
            }
        }
        let folder = folder.join(manifest(&files, &named));
        for (path, id) in &files {
            let to = folder.join(path);
            std::fs::create_dir_all(to.parent().unwrap_or(&folder))
                .with_context(|| format!("failed to create the folder of {}", to.display()))?;
            artifacts.link(id, &to).map_err(|error| {
                let reason = format!("{} is not uploaded as {id}: upload it first", path.display());
                anyhow::Error::from(error).context(BadInput(reason))
            })?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        for (name, target) in &named {
            let link = folder.join(name);
            if link.read_link().ok().as_ref() != Some(target) {
                std::os::unix::fs::symlink(target, &link)
                    .with_context(|| format!("failed to link {}", link.display()))?;
            }
        }
        Ok(ConfigSource { folder, ..source })
    }

    fn text(&self) -> anyhow::Result<String> {
        match self.configuration {
            Value::String(text) => Ok(text.clone()),
            Value::Object(_) => toml::to_string(self.configuration)
                .map_err(|error| BadInput(format!("configuration: {error}")).into()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Err(BadInput("configuration: send TOML as a text, or an object".to_owned()).into())
            }
        }
    }

    fn parsed_files(&self) -> anyhow::Result<BTreeMap<PathBuf, ArtifactId>> {
        anyhow::ensure!(
            self.files.len() <= FILES_MAX,
            BadInput(format!("files: at most {FILES_MAX} are allowed"))
        );
        let parse = |(path, hash): (&String, &String)| {
            let bad = |reason: &str| BadInput(format!("files: {path:?}: {reason}"));
            let name = Path::new(path);
            if !is_plain(name) {
                return Err(bad("use a relative path without `..`").into());
            }
            let id = hash.parse().map_err(|_| bad("give the BLAKE3 hash of the file, 64 hex digits"))?;
            anyhow::Ok((name.to_owned(), id))
        };
        self.files.iter().map(parse).collect()
    }
}

/// Whether a path stays below the folder at which it starts, and is no name of the server's settings.
fn is_plain(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    let is_normal = |component: Component<'_>| matches!(component, Component::Normal(_));
    let is_special = text.is_empty() || text.starts_with('~') || text.contains(':') || text.contains('\0');
    !is_special && text.len() <= 512 && path.components().all(is_normal)
}

fn check_is_uploaded(input: &Path, files: &BTreeMap<PathBuf, ArtifactId>) -> Result<(), BadInput> {
    if is_plain(input) && files.keys().any(|file| file.starts_with(input)) {
        return Ok(());
    }
    Err(BadInput(format!(
        "{input:?} is a path of the server, or was not uploaded: name it in `files` with its hash, or use a name of the \
         server's settings, `{NAMED}NAME`"
    )))
}

fn unknown_name(name: &str, names: &BTreeMap<String, PathBuf>) -> BadInput {
    let known: Vec<&str> = names.keys().map(String::as_str).collect();
    BadInput(format!("{NAMED}{name} is no name of the server's settings; it has: {}", known.join(", ")))
}

/// Refuses sections that belong to the server, also empty ones.
fn check_sections(text: &str) -> anyhow::Result<()> {
    let table: toml::Table =
        toml::from_str(text).map_err(|error| BadInput(format!("configuration: {error}")))?;
    match OF_SERVER.into_iter().find(|section| table.contains_key(*section)) {
        Some(section) => Err(of_server(&format!("[{section}]")).into()),
        None => Ok(()),
    }
}

/// Refuses settings of the server that overrides have set.
fn check_settings_of_server(config: &Config) -> Result<(), BadInput> {
    if config.experiment.data_dir.is_some() {
        return Err(of_server("experiment.data_dir"));
    }
    let default = |section: &str, is_default: bool| if is_default { Ok(()) } else { Err(of_server(section)) };
    default("[broker]", config.broker == crate::config::BrokerConfig::default())?;
    default("[artifacts]", config.artifacts == crate::config::ArtifactsConfig::default())?;
    default("[runtime]", config.runtime == crate::config::RuntimeConfig::default())
}

fn of_server(key: &str) -> BadInput {
    BadInput(format!("{key} belongs to the server's settings: leave it out"))
}

/// Names the folder of these files, so that equal ones share it and no other changes it.
fn manifest(files: &BTreeMap<PathBuf, ArtifactId>, named: &BTreeMap<PathBuf, PathBuf>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (path, id) in files {
        field(path.as_os_str().as_encoded_bytes());
        field(id.to_string().as_bytes());
    }
    for (name, target) in named {
        field(name.as_os_str().as_encoded_bytes());
        field(target.as_os_str().as_encoded_bytes());
    }
    hasher.finalize().to_hex().as_str().get(..32).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "[experiment]\nname = \"e\"\n[prompts]\npath = \"prompts.jsonl\"\n[policy]\npath = \"server:policy\"\n\
                        [reward]\npath = \"reward\"\n";

    struct Place {
        folder: tempfile::TempDir,
        artifacts: ArtifactStore,
        files: BTreeMap<String, String>,
        names: BTreeMap<String, PathBuf>,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let artifacts = ArtifactStore::open(folder.path().join("artifacts")).unwrap();
            let uploaded = |text: &str| artifacts.put_bytes(text.as_bytes()).unwrap().to_string();
            let files = [("prompts.jsonl", "{}"), ("reward/config.json", "{}"), ("reward/a/b", "weights")];
            let files = files.into_iter().map(|(path, text)| (path.to_owned(), uploaded(text))).collect();
            let names = BTreeMap::from([("policy".to_owned(), PathBuf::from("/models/policy"))]);
            Self { folder, artifacts, files, names }
        }

        fn place(&self, configuration: &Value, overrides: &[&str]) -> anyhow::Result<ConfigSource> {
            let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
            let uploaded = UploadedConfig { configuration, overrides: &overrides, files: &self.files };
            uploaded.place(&self.folder.path().join("inputs"), &self.artifacts, &self.names)
        }

        fn refused(&self, configuration: &Value, overrides: &[&str]) -> String {
            let error = self.place(configuration, overrides).unwrap_err();
            assert!(!self.folder.path().join("inputs").exists(), "a refused configuration leaves nothing");
            format!("{error:#}")
        }
    }

    #[test]
    fn uploaded_files_and_names_of_the_server_become_inputs() {
        let place = Place::new();
        let source = place.place(&json!(TEXT), &["experiment.seed=7"]).unwrap();
        let config = source.load().unwrap();
        assert_eq!(std::fs::read_to_string(config.prompts.path).unwrap(), "{}");
        assert_eq!(std::fs::read_to_string(config.reward.path.join("a/b")).unwrap(), "weights");
        assert_eq!(config.policy.path.read_link().unwrap(), Path::new("/models/policy"));
        assert_eq!(config.experiment.seed, 7);
        assert_eq!(place.place(&json!(TEXT), &["experiment.seed=7"]).unwrap(), source);
        let object: Value = serde_json::to_value(toml::from_str::<toml::Table>(TEXT).unwrap()).unwrap();
        assert!(place.place(&object, &[]).is_ok());
    }

    #[test]
    fn paths_keys_and_endpoints_of_the_server_are_refused() {
        let place = Place::new();
        for path in [
            "/etc/passwd",
            "../prompts.jsonl",
            "a/../../b",
            "~/x",
            "cache:models/x",
            "server:other",
            "other.jsonl",
            "",
            "file:///etc/passwd",
            "http://169.254.169.254/",
            "reward/../prompts.jsonl",
        ] {
            for key in ["prompts.path", "policy.path", "reward.path", "policy.adapter"] {
                place.refused(&json!(TEXT), &[&format!("{key}={path:?}")]);
            }
            place.refused(&json!(TEXT.replace("prompts.jsonl", path)), &[]);
        }
        for section in [
            "[broker]\nkind = \"rabbitmq\"\nurl_file = \"/etc/key\"",
            "[artifacts]\nurl = \"s3://bucket\"",
            "[artifacts]\nurl = \"file:///etc\"",
            "[runtime]\nonnxruntime = \"/tmp/evil.so\"",
            "[broker]",
        ] {
            let reason = place.refused(&json!(format!("{TEXT}{section}")), &[]);
            assert!(reason.contains("belongs to the server"), "{reason}");
        }
        for set in
            ["runtime.onnxruntime=/tmp/evil.so", "experiment.data_dir=/tmp", "artifacts.url=file:///etc"]
        {
            let reason = place.refused(&json!(TEXT), &[set]);
            assert!(reason.contains("belongs to the server"), "{reason}");
        }
    }

    #[test]
    fn a_file_that_leaves_its_folder_or_was_not_uploaded_is_refused() {
        let mut place = Place::new();
        let hash = place.files["prompts.jsonl"].clone();
        for path in ["/tmp/x", "../x", "a/../../x", "server:policy", "~/x", ""] {
            place.files.insert(path.to_owned(), hash.clone());
            place.refused(&json!(TEXT), &[]);
            place.files.remove(path);
        }
        place.files.insert("prompts.jsonl".to_owned(), "0".repeat(64));
        let error = place.place(&json!(TEXT), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("upload it first"), "{error:#}");
    }
}
