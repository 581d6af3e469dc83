//! `dissent doctor`: is everything here that a run needs?

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_models::cache;
use dissent_models::runtime::OnnxRuntime;
use serde::Serialize;

use crate::config::resolve;
use crate::files;

/// Check that everything a run needs is here
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  dissent doctor\n  dissent doctor --json")]
pub(crate) struct DoctorArgs {
    /// The ONNX Runtime library; found by itself where it is installed.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
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
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        for Finding { what, ok, found } in &findings {
            writeln!(out, "{} {what:<16} {found}", if *ok { "ok     " } else { "MISSING" })?;
        }
    }
    let needed_is_there = findings.iter().all(|finding| finding.ok || finding.what == EXAMPLE);
    if needed_is_there { Ok(()) } else { anyhow::bail!("something that a run needs is missing: see above") }
}

const EXAMPLE: &str = "example model";

fn onnx_runtime(explicit: Option<&Path>) -> Vec<Finding> {
    match OnnxRuntime::load(explicit) {
        Ok(runtime) => {
            let library = format!("{} at {}", runtime.version, runtime.path.display());
            let providers = Finding { what: "providers", ok: true, found: runtime.providers().join(", ") };
            vec![Finding { what: "ONNX Runtime", ok: true, found: library }, providers]
        }
        Err(error) => vec![Finding { what: "ONNX Runtime", ok: false, found: error.to_string() }],
    }
}

fn folder(what: &'static str, path: Option<PathBuf>) -> Finding {
    let Some(path) = path else {
        return Finding { what, ok: false, found: "none: set DISSENT_CACHE".to_owned() };
    };
    let shown = path.display().to_string();
    match writable(&path) {
        Ok(()) => Finding { what, ok: true, found: format!("{shown}, {}", free_space(&path)) },
        Err(error) => Finding { what, ok: false, found: format!("{shown} cannot be written: {error}") },
    }
}

/// Whether a file can be made in the folder, or in the nearest parent that exists.
fn writable(path: &Path) -> std::io::Result<()> {
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
            let found = format!("{} is not there: `cargo xtask fetch` fetches it", path.display());
            Finding { what: EXAMPLE, ok: false, found }
        }
        Err(error) => Finding { what: EXAMPLE, ok: false, found: error.to_string() },
    }
}
