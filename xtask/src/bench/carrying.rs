//! Measurements of the broker and the event log.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::figure::{Figure, Target};
use super::measurements::{alternate, demo_copy, example, json_of, number};
use crate::cache::target_dir;
use crate::demo::DATA_VARIABLE;
use crate::process::output_of;

/// The name of the demo's experiment.
const DEMO: &str = "tone-demo";

/// Measures events per second through RabbitMQ, from the log to the journal's reply. The reference is the
/// same client without the broker's rules.
pub(super) fn rabbitmq() -> Result<Vec<Figure>> {
    crate::packages::ensure_rabbitmq();
    let report = json_of(&mut Command::new(example("dissent-queues", "rabbit_bench")?))?;
    let of = |key: &str| number(&report, key);
    Ok(vec![
        Figure::plain("events through RabbitMQ, end to end", of("end_to_end_per_second")?, "events/s")
            .beside(
                "bare, two publishes and two consumes",
                of("bound_per_second")?,
                of("end_to_end_to_two_of_each")?,
            ),
    ])
}

/// Measures the demo's experiment, in seconds. The reference is its model runs without journal, broker and
/// writes.
pub(super) fn overhead(pairs: u32) -> Result<Vec<Figure>> {
    crate::fetch::fetch_all()?;
    let dissent = crate::demo::build_dissent()?;
    let config = demo_copy()?;
    let data = target_dir().join("bench/overhead");
    let run = || -> Result<f64> {
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("failed to remove {}", data.display()))?;
        }
        seconds(dissent_on(&dissent, &data).arg("run").arg(&config))
    };
    let recompute =
        || seconds(dissent_on(&dissent, &data).args(["replay", DEMO, "--recompute"]).arg(&config));
    // A recomputation needs a finished run, and either side may be first.
    run()?;
    let compared = alternate(pairs, &mut || run(), &mut || recompute())?;
    Ok(vec![
        Figure::plain("the demo's experiment", compared.ours, "s")
            .beside("model runs alone", compared.reference, compared.ratio)
            .with_target(Target::RatioAtMost(1.05)),
    ])
}

fn dissent_on(dissent: &Path, data: &Path) -> Command {
    let mut command = Command::new(dissent);
    command.arg("--data-dir").arg(data).env_remove(DATA_VARIABLE);
    command
}

fn seconds(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    output_of(command)?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Runs experiments one after another for twenty minutes, and measures events per second and memory growth.
pub(super) fn soak() -> Result<Vec<Figure>> {
    crate::packages::ensure_rabbitmq();
    let report = json_of(Command::new(example("dissent", "soak")?).arg("20"))?;
    let of = |key: &str| number(&report, key);
    Ok(vec![
        Figure::plain("events of whole experiments, for 20 minutes", of("events_per_second")?, "events/s"),
        Figure::plain("resident memory at the end", of("resident_mib")?, "MiB"),
        Figure::plain("memory growth over the second half", of("slope_mib_per_hour")?, "MiB/h"),
    ])
}
