//! `dissent feedback import`: judgements into the log, all of a file or none.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use dissent_domain::event::{Event, FeedbackReceived, NewEvent};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::Judgement;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion, LogError};
use dissent_storage::{APPEND_EVENTS_MAX, SledLog};
use serde::Serialize;

use super::export::annotator;
use super::judgements::{JudgementFile, JudgementLine, read};
use super::recorded::RecordedExperiment;
use super::status::Status;
use crate::cli::paths::FileOrStream;
use crate::error::BadInput;
use crate::jsonl::InputError;
use crate::log_access::inbox;
use crate::log_access::open;
use crate::text::count;

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// What `feedback export` wrote, with verdicts, as JSON lines or a table; `-` is stdin.
    #[arg(value_name = "FILE")]
    file: FileOrStream,
    /// Who judged the lines that name nobody.
    #[arg(long, value_name = "NAME", value_parser = annotator)]
    annotator: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What became of a file.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Imported {
    /// Taken in.
    new: u64,
    /// In the log already, or twice in the file.
    already_there: u64,
    /// Too late: the feedback of their round was settled without them.
    late: u64,
    /// Lines without a verdict.
    without_verdict: u64,
    /// Left for the run that has the log open, not yet checked against it.
    handed_over: u64,
}

pub(super) fn run(data_dir: &Path, args: &ImportArgs) -> anyhow::Result<()> {
    let judged = read(&args.file, args.annotator.as_deref())?;
    match open::open_log(data_dir) {
        Ok(log) => import(&log, &judged, args.json),
        Err(error) if matches!(error.downcast_ref(), Some(LogError::InUse(_))) => {
            hand_over(data_dir, &judged, args.json)
        }
        Err(error) => Err(error),
    }
}

/// The judgements of a file by experiment, each once.
fn by_experiment(
    judged: &JudgementFile,
) -> Result<(BTreeMap<&ExperimentId, Vec<&JudgementLine>>, Imported), InputError> {
    let mut imported = Imported { without_verdict: judged.without_verdict, ..Imported::default() };
    let mut seen: HashMap<(&ExperimentId, u32, u32, &str), &JudgementLine> = HashMap::new();
    let mut by_experiment: BTreeMap<&ExperimentId, Vec<&JudgementLine>> = BTreeMap::new();
    for sourced in &judged.judgements {
        let FeedbackReceived { round, comparison, annotator, .. } = &sourced.judgement;
        let earlier = seen.insert((&sourced.experiment, *round, *comparison, annotator), sourced);
        match earlier {
            None => by_experiment.entry(&sourced.experiment).or_default().push(sourced),
            Some(earlier) if judgement(&earlier.judgement) == judgement(&sourced.judgement) => {
                imported.already_there += 1;
            }
            Some(earlier) => {
                let line = earlier.line;
                let reason = format!("{annotator} judged this comparison otherwise in line {line}");
                return Err(judged.error(sourced.line, "verdict", reason));
            }
        }
    }
    Ok((by_experiment, imported))
}

fn judgement(e: &FeedbackReceived) -> Judgement {
    Judgement { verdict: e.verdict, is_unsafe: e.is_unsafe }
}

fn import(log: &SledLog, judged: &JudgementFile, as_json: bool) -> anyhow::Result<()> {
    let (by_experiment, mut imported) = by_experiment(judged)?;
    let mut known = Vec::new();
    for (name, judgements) in by_experiment {
        let first = judgements.first().map_or(1, |sourced| sourced.line);
        let mut state =
            RecordedExperiment::read(log, name).map_err(|error| match error.downcast::<BadInput>() {
                Ok(reason) => judged.error(first, "experiment", reason.to_string()).into(),
                Err(error) => error,
            })?;
        let events = decided(judged, &judgements, &mut state.experiment, &mut imported)?;
        known.push((name, state, events));
    }
    // Nothing was written until here: a bad line anywhere leaves everything as it was.
    for (name, state, events) in &mut known {
        append(log, name, state, std::mem::take(events))?;
    }
    let statuses: Vec<Status> =
        known.iter().map(|(_, state, _)| Status::of(state)).collect::<anyhow::Result<_>>()?;
    say(&imported, &statuses, as_json)
}

/// The events of the judgements that are new, decided by the rules of the journal.
fn decided(
    judged: &JudgementFile,
    judgements: &[&JudgementLine],
    experiment: &mut Experiment,
    imported: &mut Imported,
) -> anyhow::Result<Vec<NewEvent>> {
    let mut events = Vec::new();
    for JudgementLine { line, judgement: received, .. } in judgements {
        let refuse = |field, reason: String| judged.error(*line, field, reason);
        let rounds = experiment.rounds().len();
        let round = experiment.rounds().get(received.round as usize).ok_or_else(|| {
            refuse("round", format!("there is no round {} yet: {rounds} began", received.round))
        })?;
        let asked = round.learning().comparisons();
        let comparison = asked.get(received.comparison as usize).ok_or_else(|| {
            let put_up = count(asked.len() as u64, "comparison");
            refuse("comparison", format!("round {} has {put_up}, counted from 0", received.round))
        })?;
        match comparison.judgements.of(&received.annotator) {
            Some(recorded) if *recorded == judgement(received) => {
                imported.already_there += 1;
                continue;
            }
            Some(recorded) => {
                let word = format!("{:?}", recorded.verdict).to_lowercase();
                let who = &received.annotator;
                let reason =
                    format!("{who} has judged this comparison already, as {word}, or with other signs");
                return Err(refuse("verdict", reason).into());
            }
            None => {}
        }
        if round.learning().settled().is_some() || round.is_closed() {
            imported.late += 1;
            continue;
        }
        let event = Event::from(received.clone());
        experiment.decide(&event).map_err(|rejection| refuse("comparison", rejection.to_string()))?;
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

/// The run that has the log open will check the judgements against it.
fn hand_over(data_dir: &Path, judged: &JudgementFile, as_json: bool) -> anyhow::Result<()> {
    let (by_experiment, mut imported) = by_experiment(judged)?;
    for (name, judgements) in by_experiment {
        let received: Vec<FeedbackReceived> =
            judgements.iter().map(|sourced| sourced.judgement.clone()).collect();
        inbox::put(data_dir, name, &received)
            .with_context(|| format!("failed to leave the judgements in {}", data_dir.display()))?;
        imported.handed_over += received.len() as u64;
    }
    say(&imported, &[], as_json)
}

fn say(imported: &Imported, statuses: &[Status], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let value = serde_json::json!({ "imported": imported, "experiments": statuses });
        return Ok(writeln!(out, "{value}")?);
    }
    let mut parts = Vec::new();
    if imported.handed_over > 0 {
        parts.push(format!(
            "{} handed to the run that has the event log open: it takes them in, or says why not",
            count(imported.handed_over, "judgement")
        ));
    } else {
        parts.push(format!("{} taken in", count(imported.new, "judgement")));
    }
    for (number, what) in [
        (imported.already_there, "already there"),
        (imported.late, "too late: the feedback of that round was settled without them"),
        (imported.without_verdict, "without a verdict"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    writeln!(out, "{}", parts.join("; "))?;
    for status in statuses {
        write!(out, "{status}")?;
    }
    Ok(())
}
