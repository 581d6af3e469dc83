//! `dissent doctor`: checks the requirements of a run.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_models::cache;
use dissent_models::processor::check_cuda;
use dissent_models::runtime::OnnxRuntime;
use serde::Serialize;

use crate::config::{Config, resolve};
use crate::files;
use crate::memory::{Forecast, experiment, note_on_provider};

/// Check the requirements of a run: ONNX Runtime, folders, an example model, and memory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent doctor
  dissent doctor experiment.toml
  dissent doctor --json

With a configuration, the peak memory of each step on the CPU is predicted. No model is loaded. Completions and examples are
taken as long as the configuration allows.")]
pub(crate) struct DoctorArgs {
    /// Configuration of an experiment whose memory is predicted.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// ONNX Runtime library [default: $ORT_DYLIB_PATH, or an installed one]
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Result of one check.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    found: String,
}

pub(crate) fn run(data_dir: &Path, args: &DoctorArgs) -> anyhow::Result<()> {
    let mut findings = onnx_runtime(args.onnxruntime.as_deref());
    findings.push(folder("cache folder", cache::cache_dir()));
    findings.push(folder("data folder", Some(data_dir.to_owned())));
    findings.push(example_model());
    let forecast = args.config.as_deref().map(forecast_of).transpose()?;
    if let Some((_, forecast)) = &forecast {
        findings.push(memory(forecast));
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        match &forecast {
            None => serde_json::to_writer_pretty(&mut out, &findings)?,
            Some((_, memory)) => {
                serde_json::to_writer_pretty(&mut out, &Report { findings: &findings, memory })?;
            }
        }
        writeln!(out)?;
    } else {
        for Finding { what, ok, found } in &findings {
            writeln!(out, "{} {what:<16} {found}", if *ok { "ok     " } else { "MISSING" })?;
        }
        if let Some((config, forecast)) = &forecast {
            write!(out, "{}", forecast.text())?;
            if let Some(note) = note_on_provider(config.runtime.provider) {
                writeln!(out, "note    {note}")?;
            }
        }
    }
    let is_ready = findings.iter().all(|finding| finding.ok || finding.what == EXAMPLE);
    if is_ready { Ok(()) } else { anyhow::bail!("a requirement of a run is missing: see the findings above") }
}

/// The findings and the prediction, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    findings: &'a [Finding],
    memory: &'a Forecast,
}

fn forecast_of(path: &Path) -> anyhow::Result<(Config, Forecast)> {
    let config = Config::load(path)?;
    let forecast = experiment::forecast(&config)?;
    Ok((config, forecast))
}

fn memory(forecast: &Forecast) -> Finding {
    let found = forecast.warning().unwrap_or_else(|| {
        let peak = forecast.process.private_bytes as f64 / f64::from(1 << 30);
        format!("the experiment needs at most {peak:.2} GiB of private memory")
    });
    Finding { what: "memory", ok: forecast.fits, found }
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
    let existing = path.ancestors().find(|parent| parent.is_dir()).unwrap_or(Path::new("."));
    tempfile::NamedTempFile::new_in(existing).map(drop)
}

fn free_space(path: &Path) -> String {
    let existing = path.ancestors().find(|parent| parent.is_dir()).unwrap_or(Path::new("."));
    match files::available_space(existing) {
        Ok(bytes) => format!("{:.1} GiB free", bytes as f64 / f64::from(1 << 30)),
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
