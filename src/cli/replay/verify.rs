//! `dissent replay --verify` for a whole log: checks every experiment, and reports the first fault of each.

use std::io::Write as _;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_domain::replay::{Difference, Replay, ReplayError};
use dissent_storage::Snapshots;
use serde::Serialize;

use crate::history;

#[derive(Serialize)]
struct Verified {
    experiment: ExperimentId,
    sound: bool,
    /// Events before the first fault.
    events: u64,
    finished: bool,
    cancelled: bool,
    /// Hash of the state after those events.
    state_hash: String,
    /// The first fault; none if the experiment is sound.
    fault: Option<Fault>,
}

#[derive(Serialize)]
struct Fault {
    /// Position of the faulty event; none if the log itself is damaged there.
    position: Option<u64>,
    what: String,
}

#[derive(Serialize)]
struct Outcome {
    sound: bool,
    experiments: Vec<Verified>,
}

/// Verifies experiments and prints the first fault of each.
///
/// # Errors
/// The first fault of the log, or a log that cannot be read.
pub(super) fn run(
    log: &dyn EventLog,
    snapshots: &Snapshots,
    last: Option<u64>,
    as_json: bool,
) -> anyhow::Result<()> {
    let mut experiments = Vec::new();
    let mut first: Option<anyhow::Error> = None;
    for (experiment, _) in log.streams()? {
        let (verified, error) = verify(log, snapshots, experiment, last)?;
        first = first.or(error);
        experiments.push(verified);
    }
    let outcome = Outcome { sound: first.is_none(), experiments };
    let mut out = std::io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        writeln!(out)?;
    } else {
        print(&mut out, &outcome)?;
    }
    first.map_or(Ok(()), Err)
}

/// Applies every event of a stream, and compares its snapshot with the replayed state.
///
/// # Errors
/// The first event that breaks the rules, or a snapshot that differs from the replayed state.
pub(super) fn each(
    log: &dyn EventLog,
    snapshots: &Snapshots,
    experiment: &ExperimentId,
    last: Option<u64>,
    replay: &mut Replay,
) -> anyhow::Result<()> {
    let snapshot = snapshots.load(log, experiment)?;
    history::each(log, experiment, last, &mut |recorded| {
        replay.apply(recorded)?;
        let here = snapshot.as_ref().filter(|snapshot| snapshot.version == recorded.version);
        if here.is_some_and(|snapshot| snapshot.state() != replay.experiment()) {
            snapshots.discard(experiment)?;
            let (position, event_type) = (recorded.position, recorded.event.event_type.clone());
            return Err(
                ReplayError::Differs { position, event_type, difference: Difference::Snapshot }.into()
            );
        }
        Ok(())
    })?;
    Ok(())
}

fn verify(
    log: &dyn EventLog,
    snapshots: &Snapshots,
    experiment: ExperimentId,
    last: Option<u64>,
) -> anyhow::Result<(Verified, Option<anyhow::Error>)> {
    let mut replay = Replay::verifying();
    let outcome = each(log, snapshots, &experiment, last, &mut replay);
    let (fault, error) = match outcome {
        Ok(()) => (None, None),
        Err(error) => {
            let position = error.downcast_ref::<ReplayError>().map(ReplayError::position);
            let damaged = matches!(error.downcast_ref(), Some(LogError::Corrupt { .. }));
            if position.is_none() && !damaged {
                return Err(error);
            }
            let fault = Fault { position, what: format!("{error:#}") };
            (Some(fault), Some(error.context(format!("experiment {experiment}"))))
        }
    };
    let verified = Verified {
        experiment,
        sound: fault.is_none(),
        events: replay.version(),
        finished: replay.experiment().is_finished(),
        cancelled: replay.experiment().cancelled().is_some(),
        state_hash: replay.experiment().state_hash(),
        fault,
    };
    Ok((verified, error))
}

fn print(out: &mut impl std::io::Write, outcome: &Outcome) -> std::io::Result<()> {
    for Verified { experiment, events, finished, cancelled, state_hash, fault, .. } in &outcome.experiments {
        match fault {
            None => {
                let state = match (finished, cancelled) {
                    (true, _) => "finished",
                    (false, true) => "cancelled",
                    (false, false) => "in progress",
                };
                writeln!(out, "{experiment}: sound, {events} events, {state}, state {state_hash}")?;
            }
            Some(fault) => writeln!(out, "{experiment}: fault after {events} sound events: {}", fault.what)?,
        }
    }
    let faulty = outcome.experiments.iter().filter(|verified| !verified.sound).count();
    let all = crate::text::count(outcome.experiments.len() as u64, "experiment");
    if faulty == 0 { writeln!(out, "verified: {all}") } else { writeln!(out, "faults in {faulty} of {all}") }
}
