//! Opens and runs every graph of the tiny models of all families on the CUDA provider:
//! `cuda_plan [--verbose] [FAMILY...]`. Exits with 1 if a node is not on CUDA, or a decode step copies too
//! much.
//!
//! `cargo xtask cuda-plan` starts it on a null GPU: libraries whose kernels do nothing.

mod counters;
mod family;
mod inference;
mod placement;
mod planted;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;
mod training;

use std::process::{Command, ExitCode};

use dissent_models::runtime::{OnnxRuntime, Provider, SessionOptions};

use counters::Counts;
use placement::PlacementLog;
use support::families::Family;

/// The argument with which this program starts itself for the check of the checks.
const PLANTED: &str = "--planted";

/// The reason of a failed check.
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Failure> {
    let mut families: Vec<String> = std::env::args().skip(1).collect();
    if families.iter().any(|argument| argument == PLANTED) {
        planted::run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let verbose = families.iter().any(|argument| argument == "--verbose");
    families.retain(|argument| argument != "--verbose");
    let known = Family::names();
    if let Some(unknown) = families.iter().find(|family| !known.contains(family)) {
        return Err(format!("unknown family {unknown}: use one of {}", known.join(", ")).into());
    }
    if families.is_empty() {
        families = known;
    }
    // A process loads ONNX Runtime once, and Dissent's own is not open to planted graphs.
    if !Command::new(std::env::current_exe()?).arg(PLANTED).status()?.success() {
        return Err("the check of a planted node on the CPU failed".into());
    }
    let log = PlacementLog::default();
    tracing::subscriber::set_global_default(log.clone())?;
    let runtime = OnnxRuntime::load(None)?;
    let mut outcomes = Vec::new();
    for family in &families {
        outcomes.extend(family::check(runtime, family, &log)?);
    }
    let passed = report::print(&outcomes, verbose);
    let unknown = Counts::now()?.unknown_calls;
    if unknown > 0 {
        return Err(
            format!("{unknown} calls of functions that the null GPU does not have: add them to it").into()
        );
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the options of all sessions, for the CUDA provider.
fn session_options() -> SessionOptions {
    SessionOptions { provider: Provider::Cuda, ..SessionOptions::default() }
}
