//! `dissent replay --recompute`: runs every model of an experiment again, and compares each result with the
//! recorded one.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dissent_actors::{Difference, Recomputed, Tally};
use dissent_actors::{LeaseTimes, ModelCache, Roles, recompute};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::{EmbeddedBroker, EmbeddedOptions};
use dissent_storage::MemoryLog;
use serde::Serialize;

use crate::config::Config;
use crate::error::{BadInput, Differs};
use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::models::Models;
use crate::experiment::plan;
use crate::experiment::plan_check::check_recorded_plan;
use crate::experiment::start::{self, Backends};
use crate::progress::CountingView;

/// Largest number of differences that are printed.
const DIFFERENCES_PRINTED: usize = 20;

#[derive(Serialize)]
struct Outcome {
    experiment: ExperimentId,
    same: bool,
    seconds: f64,
    steps: Vec<Step>,
    differences: Vec<DifferentEvent>,
}

#[derive(Serialize)]
struct Step {
    step: &'static str,
    results: u64,
    same: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct DifferentEvent {
    position: u64,
    event_type: String,
}

/// Recomputes every result of an experiment and prints the differences from the record.
///
/// # Errors
/// If the configuration belongs to another experiment, a model fails, or a result differs.
pub(super) fn run(
    log: Arc<dyn EventLog>,
    data_dir: &Path,
    experiment: &ExperimentId,
    config: &Path,
    as_json: bool,
) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    if config.experiment.name != *experiment {
        let named = &config.experiment.name;
        let reason =
            format!("the configuration belongs to experiment {named}: use the configuration of {experiment}");
        return Err(BadInput(reason).into());
    }
    let artifacts = config.artifacts.open(data_dir)?;
    let kept = KeptSettings::of_experiment(&*log, experiment)?;
    let models = Models::open(&config, kept.reading)?;
    let planned = plan::plan(&config, &models, &artifacts, &kept)?;
    check_recorded_plan(&*log, &planned.plan)?;
    let plan = planned.plan.clone();
    // The steps need a broker, but a recomputation sends no message.
    let broker = Arc::new(EmbeddedBroker::new(Arc::new(MemoryLog::new()), EmbeddedOptions::default()));
    let backends = Backends {
        log: log.clone(),
        broker,
        artifacts,
        snapshots: None,
        waits_for_people: false,
        lease: LeaseTimes::default(),
        shared: false,
        cache: ModelCache::default(),
        loads_models: true,
    };
    let resources = start::open(&config, &models, planned, Roles::all(), backends)?;
    let events = log.streams()?.into_iter().find(|(name, _)| name == experiment).map_or(0, |(_, last)| last);
    let mut bar = CountingView::new(events, "events");
    let begun = Instant::now();
    let done = recompute(&plan, resources, &mut |recorded, _| {
        bar.set(recorded.version);
    });
    bar.finish_and_clear();
    let outcome = outcome(experiment, &done?, begun.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        writeln!(out)?;
    } else {
        print(&mut out, &outcome)?;
    }
    if outcome.same { Ok(()) } else { Err(Differs(difference_text(&outcome)).into()) }
}

fn outcome(experiment: &ExperimentId, done: &Recomputed, seconds: f64) -> Outcome {
    let step = |(step, tally): (&dissent_domain::event::StepName, &Tally)| Step {
        step: step.name(),
        results: tally.results,
        same: tally.same,
        seconds: tally.took.as_secs_f64(),
    };
    let different = |difference: &Difference| DifferentEvent {
        position: difference.position,
        event_type: difference.event_type.clone(),
    };
    Outcome {
        experiment: experiment.clone(),
        same: done.differences.is_empty(),
        seconds,
        steps: done.steps.iter().map(step).collect(),
        differences: done.differences.iter().map(different).collect(),
    }
}

fn print(out: &mut impl std::io::Write, outcome: &Outcome) -> std::io::Result<()> {
    for Step { step, results, same, seconds } in &outcome.steps {
        writeln!(out, "{step:<10} {results:>7} results, {same:>7} the same {seconds:>9.1} s")?;
    }
    for DifferentEvent { position, event_type } in outcome.differences.iter().take(DIFFERENCES_PRINTED) {
        writeln!(out, "  event {position} ({event_type}) differs")?;
    }
    if let Some(more @ 1..) = outcome.differences.len().checked_sub(DIFFERENCES_PRINTED) {
        writeln!(out, "  and {more} more: see --json")?;
    }
    if outcome.same {
        writeln!(
            out,
            "recomputed in {:.1} s: every result equals the recorded one, byte for byte",
            outcome.seconds
        )?;
    }
    Ok(())
}

fn difference_text(outcome: &Outcome) -> String {
    let (all, different) =
        (outcome.steps.iter().map(|step| step.results).sum::<u64>(), outcome.differences.len());
    format!(
        "{different} of {all} results differ: another processor, ONNX Runtime or provider rounds differently, and later results \
         build on earlier ones"
    )
}
