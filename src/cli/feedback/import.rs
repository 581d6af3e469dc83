//! `dissent feedback import`: records judgements, all of a file or none.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use dissent_domain::event::{Event, FeedbackReceived, NewEvent, decode};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::Judgement;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_storage::{APPEND_EVENTS_MAX, SledLog};
use serde::Serialize;

use super::export::annotator;
use super::judgements::{JudgementFile, JudgementLine, read};
use super::status::Status;
use crate::cli::experiment_arg::{self, ExperimentArg};
use crate::cli::paths::FileOrStream;
use crate::cli::server::{self, LogAccess};
use crate::client::Server;
use crate::error::BadInput;
use crate::feedback::RecordedExperiment;
use crate::jsonl::InputError;
use crate::log_access::open;
use crate::text::count;

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// Export with verdicts, as JSON Lines or CSV; `-` is stdin.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "FILE")]
    file: FileOrStream,
    /// Experiment of the judgements, by name or configuration, which finds the data folder. Judgements of
    /// another experiment are an error.
    #[arg(long, value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: Option<ExperimentArg>,
    /// Annotator of the lines without a name.
    #[arg(long, value_name = "NAME", value_parser = annotator)]
    annotator: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Judgements sent to a server at once.
const SENT_MAX: usize = 1000;

/// Counts of an import.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Imported {
    /// Recorded judgements.
    new: u64,
    /// Judgements that are in the log already, or repeated in the file.
    already_there: u64,
    /// Judgements of rounds whose feedback is settled.
    late: u64,
    /// Lines without a verdict.
    without_verdict: u64,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ImportArgs) -> anyhow::Result<()> {
    let (experiment, data_dir) = experiment_arg::optional(args.experiment.as_ref(), data_dir)?;
    let judged = read(&args.file, args.annotator.as_deref())?;
    if let Some(experiment) = &experiment {
        check_experiment(&judged, experiment)?;
    }
    match server::writable(&data_dir)? {
        LogAccess::Here(log) => {
            import(&log, &judged, args.json, |name, state, events| append(&log, name, state, events))
        }
        LogAccess::Server(server) => {
            let log = open::read_log(&data_dir)?;
            import(&*log, &judged, args.json, |name, _, events| send(&server, name, &events))
        }
    }
}

/// Rejects judgements of another experiment than the named one.
fn check_experiment(judged: &JudgementFile, experiment: &ExperimentId) -> Result<(), InputError> {
    let other = judged.judgements.iter().find(|entry| entry.experiment != *experiment);
    other.map_or(Ok(()), |entry| {
        let reason = format!("is {}, but --experiment names {experiment}", entry.experiment);
        Err(judged.error(entry.line, "experiment", reason))
    })
}

/// Groups the judgements of a file by experiment, each once.
fn by_experiment(
    judged: &JudgementFile,
) -> Result<(BTreeMap<&ExperimentId, Vec<&JudgementLine>>, Imported), InputError> {
    let mut imported = Imported { without_verdict: judged.without_verdict, ..Imported::default() };
    let mut seen: HashMap<(&ExperimentId, u32, u32, &str), &JudgementLine> = HashMap::new();
    let mut by_experiment: BTreeMap<&ExperimentId, Vec<&JudgementLine>> = BTreeMap::new();
    for entry in &judged.judgements {
        let FeedbackReceived { round, comparison, annotator, .. } = &entry.judgement;
        let earlier = seen.insert((&entry.experiment, *round, *comparison, annotator), entry);
        match earlier {
            None => by_experiment.entry(&entry.experiment).or_default().push(entry),
            Some(earlier) if judgement(&earlier.judgement) == judgement(&entry.judgement) => {
                imported.already_there += 1;
            }
            Some(earlier) => {
                let line = earlier.line;
                let reason =
                    format!("contradicts the judgement of {annotator} in line {line}: keep one of the two");
                return Err(judged.error(entry.line, "verdict", reason));
            }
        }
    }
    Ok((by_experiment, imported))
}

fn judgement(e: &FeedbackReceived) -> Judgement {
    Judgement { verdict: e.verdict, is_unsafe: e.is_unsafe }
}

/// Checks the judgements of a file against a log, and passes the new ones of each experiment to `record`.
fn import(
    log: &dyn EventLog,
    judged: &JudgementFile,
    as_json: bool,
    record: impl Fn(&ExperimentId, &mut RecordedExperiment, Vec<NewEvent>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (by_experiment, mut imported) = by_experiment(judged)?;
    let mut decided = Vec::new();
    for (name, judgements) in by_experiment {
        let first = judgements.first().map_or(1, |entry| entry.line);
        let mut state =
            RecordedExperiment::read(log, name).map_err(|error| match error.downcast::<BadInput>() {
                Ok(reason) => judged.error(first, "experiment", reason.to_string()).into(),
                Err(error) => error,
            })?;
        let events = decide(judged, &judgements, &mut state.experiment, &mut imported)?;
        decided.push((name, state, events));
    }
    // All lines are valid: an error before this point changes nothing.
    for (name, state, events) in &mut decided {
        record(name, state, std::mem::take(events))?;
    }
    let statuses: Vec<Status> =
        decided.iter().map(|(_, state, _)| Status::of(state)).collect::<anyhow::Result<_>>()?;
    print(&imported, &statuses, as_json)
}

/// Returns the events of new judgements, accepted by the rules of the journal.
fn decide(
    judged: &JudgementFile,
    judgements: &[&JudgementLine],
    experiment: &mut Experiment,
    imported: &mut Imported,
) -> anyhow::Result<Vec<NewEvent>> {
    let mut events = Vec::new();
    for JudgementLine { line, judgement: received, .. } in judgements {
        let error = |field, reason: String| judged.error(*line, field, reason);
        let rounds = experiment.rounds().len();
        let round = experiment.rounds().get(received.round as usize).ok_or_else(|| {
            let rounds = count(rounds as u64, "round");
            error(
                "round",
                format!("unknown round {}: the experiment has {rounds}, counted from 0", received.round),
            )
        })?;
        let requested = round.learning().comparisons();
        let comparison = requested.get(received.comparison as usize).ok_or_else(|| {
            let comparisons = count(requested.len() as u64, "comparison");
            let FeedbackReceived { round, comparison, .. } = received;
            let reason =
                format!("unknown comparison {comparison}: round {round} has {comparisons}, counted from 0");
            error("comparison", reason)
        })?;
        match comparison.judgements.of(&received.annotator) {
            Some(recorded) if *recorded == judgement(received) => {
                imported.already_there += 1;
                continue;
            }
            Some(recorded) => {
                let verdict = format!("{:?}", recorded.verdict).to_lowercase();
                let annotator = &received.annotator;
                let reason =
                    format!("contradicts the recorded verdict {verdict} of {annotator}: remove the line");
                return Err(error("verdict", reason).into());
            }
            None => {}
        }
        if round.learning().settled().is_some() || round.is_closed() {
            imported.late += 1;
            continue;
        }
        let event = Event::from(received.clone());
        experiment.decide(&event).map_err(|rejection| error("comparison", rejection.to_string()))?;
        let plan = experiment.plan().context("the experiment has no plan")?;
        let requested = feedback_requested_id(plan, received.round, received.comparison);
        let id = requested.judged_by(&received.annotator);
        let now_us = dissent_actors::now_us();
        events.push(NewEvent::new(id, Some(requested), "feedback", now_us, &event)?);
        experiment.evolve(&event);
        imported.new += 1;
    }
    Ok(events)
}

fn append(
    log: &SledLog,
    name: &ExperimentId,
    state: &mut RecordedExperiment,
    mut events: Vec<NewEvent>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    while !events.is_empty() {
        let rest = events.split_off(events.len().min(APPEND_EVENTS_MAX));
        let expected = ExpectedVersion::Exact(state.version);
        state.version += events.len() as u64;
        let appending = log.append(Append { experiment: name.clone(), expected, events });
        runtime.block_on(appending)?;
        events = rest;
    }
    Ok(())
}

/// Sends judgements to the process that has the log open. They are durable on return.
fn send(server: &Server, name: &ExperimentId, events: &[NewEvent]) -> anyhow::Result<()> {
    let judgement = |event: &NewEvent| {
        let event = decode(&event.event_type, event.schema_version, &event.body)?;
        Ok(FeedbackReceived::try_from(event).ok())
    };
    let judgements: Vec<FeedbackReceived> =
        events.iter().filter_map(|event| judgement(event).transpose()).collect::<anyhow::Result<_>>()?;
    for part in judgements.chunks(SENT_MAX) {
        server.judge(name, part)?;
    }
    Ok(())
}

fn print(imported: &Imported, statuses: &[Status], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let value = serde_json::json!({ "imported": imported, "experiments": statuses });
        return Ok(writeln!(out, "{value}")?);
    }
    let mut parts = Vec::new();
    parts.push(format!("{} recorded", count(imported.new, "judgement")));
    for (number, outcome) in [
        (imported.already_there, "recorded already"),
        (imported.late, "too late: the feedback of the round is settled"),
        (imported.without_verdict, "without a verdict"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {outcome}"));
        }
    }
    writeln!(out, "{}", parts.join("; "))?;
    for status in statuses {
        write!(out, "{status}")?;
    }
    Ok(())
}
