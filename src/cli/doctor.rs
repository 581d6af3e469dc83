//! `dissent doctor`: checks the requirements of a run, and those of a server or worker.

mod finding;
mod service;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_models::cache;
use dissent_models::processor::check_cuda;
use dissent_models::runtime::OnnxRuntime;
use serde::Serialize;

use finding::Finding;

use crate::cli::paths;
use crate::config::{Config, GoldConfig, ServerConfig, resolve};
use crate::experiment::models::Model;
use crate::files;
use crate::memory::{Forecast, experiment, note_on_provider};

/// Check the requirements of a run: ONNX Runtime, folders, models, memory, disk, broker and artifact store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent doctor
  dissent doctor experiment.toml
  dissent doctor server.toml
  dissent doctor --json

With the configuration of an experiment, its models are read, and the peak memory of each step on the CPU is predicted. No model is
loaded. Completions and examples are taken as long as the configuration allows.

With any configuration, its broker and its artifact store are checked. In RabbitMQ, the command declares queues under a scratch name,
and deletes them. In the store, it writes and reads the object `doctor`. Both need at most a minute.")]
pub(crate) struct DoctorArgs {
    /// Configuration of an experiment, a server or a worker, whose requirements are checked.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// ONNX Runtime library [default: $ORT_DYLIB_PATH, or an installed one]
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Least free space of the data folder. A full disk ends a server, because nothing can be recorded.
const FREE_BYTES_MIN: u64 = 1 << 30;
const GIB: f64 = (1_u64 << 30) as f64;

/// A configuration to check: the settings of the process and, unless it is that of a server, the experiment.
struct Checked {
    server: ServerConfig,
    experiment: Option<Config>,
}

impl Checked {
    fn load(path: &Path) -> anyhow::Result<Self> {
        // The loader reports a file that cannot be read or is no TOML.
        let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
        if table.is_some_and(|table| !table.contains_key("experiment")) {
            return Ok(Self { server: ServerConfig::load(path)?, experiment: None });
        }
        let config = Config::load(path)?;
        Ok(Self { server: ServerConfig::of_experiment(&config), experiment: Some(config) })
    }
}

pub(crate) fn run(data_dir: &Path, args: &DoctorArgs) -> anyhow::Result<()> {
    let checked = args.config.as_deref().map(Checked::load).transpose()?;
    let server = checked.as_ref().map(|checked| &checked.server);
    let configured = server.and_then(|server| server.data_dir.as_deref());
    // The folder of the command line takes precedence.
    let is_default = data_dir == paths::data_dir(None);
    let data_dir = configured.filter(|_| is_default).unwrap_or(data_dir);
    let library = server.and_then(|server| server.runtime.onnxruntime.as_deref());
    let mut findings = onnx_runtime(args.onnxruntime.as_deref().or(library));
    findings.push(folder("cache folder", cache::cache_dir()));
    findings.push(folder("data folder", Some(data_dir.to_owned())));
    findings.push(example_model());
    let mut forecast = None;
    if let Some(config) = checked.as_ref().and_then(|checked| checked.experiment.as_ref()) {
        let models = models(config);
        let can_predict = models.iter().all(|finding| finding.ok);
        findings.extend(models);
        if can_predict {
            let predicted = experiment::forecast(config);
            findings.push(memory(&predicted));
            forecast = predicted.ok().map(|predicted| (config, predicted));
        }
    }
    if let Some(server) = server {
        findings.push(Finding::of("disk", free_enough(data_dir)));
        findings.extend(service::broker(&server.broker, data_dir));
        findings.push(service::store(&server.artifacts));
        let archive = server.archive.as_ref().map(|archive| archive.folder.clone());
        findings.extend(archive.map(|path| folder("archive folder", Some(path))));
    }
    show(&findings, forecast.as_ref(), args.json)?;
    let is_ready = findings.iter().all(|finding| finding.ok || finding.what == EXAMPLE);
    if is_ready { Ok(()) } else { anyhow::bail!("a requirement of a run is missing: see the findings above") }
}

fn show(findings: &[Finding], forecast: Option<&(&Config, Forecast)>, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        match forecast {
            None => serde_json::to_writer_pretty(&mut out, findings)?,
            Some((_, memory)) => serde_json::to_writer_pretty(&mut out, &Report { findings, memory })?,
        }
        return Ok(writeln!(out)?);
    }
    for Finding { what, ok, found } in findings {
        writeln!(out, "{} {what:<16} {found}", if *ok { "ok     " } else { "MISSING" })?;
    }
    if let Some((config, forecast)) = forecast {
        write!(out, "{}", forecast.text())?;
        if let Some(note) = note_on_provider(config.runtime.provider) {
            writeln!(out, "note    {note}")?;
        }
    }
    Ok(())
}

/// The findings and the prediction, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    findings: &'a [Finding],
    memory: &'a Forecast,
}

/// Opens the files of each model of an experiment.
fn models(config: &Config) -> Vec<Finding> {
    let (policy, reward) = (&config.policy, &config.reward);
    let described = |model: Model| model.name;
    let of_policy = Model::outline_policy(&policy.path, None, policy.adapter.as_deref());
    let of_reward = Model::outline(&reward.path, reward.layers, reward.adapter.as_deref())
        .map_err(anyhow::Error::from)
        .and_then(|model| model.choose_output(reward.output()));
    let mut findings = vec![
        Finding::of("policy", of_policy.map(described).context("[policy]")),
        Finding::of("reward model", of_reward.map(described).context("[reward]")),
    ];
    if let Some(GoldConfig::Model(gold)) = &config.gold {
        let of_gold = Model::outline(&gold.path, gold.layers, gold.adapter.as_deref())
            .map_err(anyhow::Error::from)
            .and_then(|model| model.choose_output(gold.output()));
        findings.push(Finding::of("gold model", of_gold.map(described).context("[gold]")));
    }
    findings
}

fn memory(forecast: &anyhow::Result<Forecast>) -> Finding {
    let forecast = match forecast {
        Ok(forecast) => forecast,
        Err(error) => {
            return Finding { what: "memory", ok: false, found: format!("no prediction: {error:#}") };
        }
    };
    let found = forecast.warning().unwrap_or_else(|| {
        let peak = forecast.process.private_bytes as f64 / GIB;
        format!("the experiment needs at most {peak:.2} GiB of private memory")
    });
    Finding { what: "memory", ok: forecast.fits, found }
}

/// Describes the free space of the disk of a folder, which must have a gibibyte.
fn free_enough(path: &Path) -> anyhow::Result<String> {
    let bytes = files::available_space(existing(path)).context("failed to read the free space")?;
    let found = format!("{:.1} GiB free for the data folder", bytes as f64 / GIB);
    anyhow::ensure!(
        bytes >= FREE_BYTES_MIN,
        "{found}: free at least 1 GiB, or name another folder with --data-dir"
    );
    Ok(found)
}

/// The one check that may fail: a run can use other models.
const EXAMPLE: &str = "example model";

fn onnx_runtime(explicit: Option<&Path>) -> Vec<Finding> {
    match OnnxRuntime::load(explicit) {
        Ok(runtime) => {
            let library = format!("{} at {}", runtime.version, runtime.path.display());
            let mut providers = runtime.providers().join(", ");
            if providers.contains("cuda") {
                let state =
                    check_cuda(runtime, 0).map_or_else(|error| error.to_string(), |()| "works".to_owned());
                providers = format!("{providers}; GPU 0: {state}");
            }
            let providers = Finding { what: "providers", ok: true, found: providers };
            vec![Finding { what: "ONNX Runtime", ok: true, found: library }, providers]
        }
        Err(error) => {
            let found = format!("{:#}", anyhow::Error::from(error));
            vec![Finding { what: "ONNX Runtime", ok: false, found }]
        }
    }
}

fn folder(what: &'static str, path: Option<PathBuf>) -> Finding {
    let Some(path) = path else {
        return Finding { what, ok: false, found: "no folder: set DISSENT_CACHE".to_owned() };
    };
    let shown = path.display().to_string();
    match check_writable(&path) {
        Ok(()) => Finding { what, ok: true, found: format!("{shown}, {}", free_space(&path)) },
        Err(error) => Finding { what, ok: false, found: format!("{shown} is not writable: {error}") },
    }
}

/// Creates and deletes a file in the folder, or in its nearest existing parent.
fn check_writable(path: &Path) -> std::io::Result<()> {
    tempfile::NamedTempFile::new_in(existing(path)).map(drop)
}

/// Returns a folder, or its nearest existing parent.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|parent| parent.is_dir()).unwrap_or(Path::new("."))
}

fn free_space(path: &Path) -> String {
    match files::available_space(existing(path)) {
        Ok(bytes) => format!("{:.1} GiB free", bytes as f64 / GIB),
        Err(error) => format!("free space unknown: {error}"),
    }
}

fn example_model() -> Finding {
    let name = Path::new("cache:models/SmolLM2-135M-Instruct.Q4_1.gguf");
    match resolve(name, Path::new(".")) {
        Ok(path) if path.is_file() => Finding { what: EXAMPLE, ok: true, found: path.display().to_string() },
        Ok(path) => {
            let found = format!("{} is missing: fetch it with `cargo xtask fetch`", path.display());
            Finding { what: EXAMPLE, ok: false, found }
        }
        Err(error) => Finding { what: EXAMPLE, ok: false, found: format!("{error:#}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doctor_reads_the_configuration_of_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.toml");
        std::fs::write(&path, "data_dir = \"d\"\n[models]\nidle_minutes = 5\n").unwrap();
        let checked = Checked::load(&path).unwrap();
        assert!(checked.experiment.is_none());
        assert_eq!(checked.server.data_dir, Some(folder.path().join("d")));
        std::fs::write(&path, "data_dir = ").unwrap();
        assert!(Checked::load(&path).is_err());
    }

    #[test]
    fn doctor_names_the_free_space_of_a_data_folder_that_does_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let found = Finding::of("disk", free_enough(&folder.path().join("a/b")));
        assert!(found.found.contains("GiB free"), "{}", found.found);
    }
}
