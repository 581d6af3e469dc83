//! The overview of an experiment: its state, its rounds and its counts.

use dissent_domain::event::{ExperimentForked, Recorded, Stage};
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::TrainingProgress;
use dissent_domain::log::EventLog;
use dissent_domain::operator::ExperimentStatus;
use dissent_domain::replay::Replay;
use dissent_domain::round::Round;
use serde::Serialize;

/// The state of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Events are due.
    InProgress,
    /// Judgements of annotators are due.
    WaitsForPeople,
    /// All rounds are closed.
    Finished,
    /// A guard stopped the experiment before its last round.
    Stopped,
    /// The command to start is due.
    Created,
    /// The command to resume is due.
    Paused,
    /// An operator cancelled the experiment.
    Cancelled,
}

impl State {
    pub(crate) fn of(experiment: &Experiment) -> Self {
        match experiment.status() {
            ExperimentStatus::Finished if experiment.stopped().is_some() => Self::Stopped,
            ExperimentStatus::Finished => Self::Finished,
            ExperimentStatus::Created => Self::Created,
            ExperimentStatus::Paused => Self::Paused,
            ExperimentStatus::Cancelled => Self::Cancelled,
            ExperimentStatus::Running if experiment.waits_for_people() => Self::WaitsForPeople,
            ExperimentStatus::Running => Self::InProgress,
        }
    }

    /// Returns the state as text.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::InProgress => "in progress",
            Self::WaitsForPeople => "waits for people",
            Self::Finished => "finished",
            Self::Stopped => "stopped early",
            Self::Created => "created",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The operator and the reason of a pause or a cancellation that is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CommandedBy {
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
}

impl CommandedBy {
    pub(crate) fn of(experiment: &Experiment) -> Option<Self> {
        let cancelled = experiment.cancelled().map(|e| (&e.by, &e.reason));
        let (by, reason) = cancelled.or_else(|| experiment.paused().map(|e| (&e.by, &e.reason)))?;
        Some(Self { by: by.clone(), reason: reason.clone() })
    }

    /// Returns the operator and the reason as text; `None` if neither is recorded.
    pub(crate) fn words(&self) -> Option<String> {
        let by = (!self.by.is_empty()).then(|| format!("by {}", self.by));
        let parts: Vec<String> = by.into_iter().chain(self.reason.clone()).collect();
        (!parts.is_empty()).then(|| crate::text::visible(&parts.join(": ")).to_string())
    }
}

/// The origin of a fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    pub(crate) experiment: ExperimentId,
    /// The last shared position.
    pub(crate) position: u64,
    /// The number of shared events.
    pub(crate) shared: u64,
}

/// The figures of one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RoundRow {
    pub(crate) round: u32,
    /// The position of the event that opened the round.
    pub(crate) opened_at: u64,
    /// The position of the event that measured its last prompt or set it aside. A fork from this position
    /// makes a new selection.
    pub(crate) measured_at: Option<u64>,
    pub(crate) prompts: u32,
    pub(crate) measured: u32,
    pub(crate) set_aside: u32,
    pub(crate) completions: u64,
    pub(crate) tokens: u64,
    pub(crate) selected: u32,
    pub(crate) mean_abs_pacs: Option<f64>,
    pub(crate) kendall_tau: Option<f64>,
    pub(crate) comparisons: u64,
    pub(crate) judgements: u64,
    /// The current step, or `closed`.
    pub(crate) at: &'static str,
}

impl RoundRow {
    fn of(round: &Round, positions: RoundPositions) -> Self {
        let (counts, learning) = (round.counts(), round.learning());
        let evaluation = round.evaluation();
        Self {
            round: round.number(),
            opened_at: positions.opened_at,
            measured_at: positions.measured_at,
            prompts: counts.expected,
            measured: counts.measured,
            set_aside: counts.set_aside,
            completions: counts.completions,
            tokens: counts.tokens,
            selected: counts.selected,
            mean_abs_pacs: evaluation.and_then(|evaluation| evaluation.mean_abs_pacs),
            kendall_tau: evaluation.and_then(|evaluation| evaluation.kendall_tau),
            comparisons: learning.comparisons().len() as u64,
            judgements: learning.judgements(),
            at: current_step(round),
        }
    }
}

/// Returns the name of the current step, or `closed`.
fn current_step(round: &Round) -> &'static str {
    let learning = round.learning();
    let done = |stage| learning.training(stage).map(|training| training.progress == TrainingProgress::Done);
    if round.is_closed() {
        "closed"
    } else if round.evaluation().is_none() {
        "conflict"
    } else if learning.settled().is_none() {
        "feedback"
    } else if done(Stage::Policy) == Some(true) {
        "evaluation"
    } else {
        "training"
    }
}

/// The figures of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Overview {
    pub(crate) experiment: ExperimentId,
    pub(crate) state: State,
    /// The operator command in effect, if the experiment is paused or cancelled.
    pub(crate) ordered: Option<CommandedBy>,
    pub(crate) origin: Option<Origin>,
    pub(crate) rounds_planned: u32,
    pub(crate) rounds_closed: u32,
    pub(crate) selected: u64,
    pub(crate) judgements: u64,
    pub(crate) evaluations: u64,
    pub(crate) events: u64,
    /// The time of the first event, in microseconds since 1970 UTC.
    pub(crate) started_us: u64,
    /// The time of the last event, in microseconds since 1970 UTC.
    pub(crate) last_us: u64,
    pub(crate) rounds: Vec<RoundRow>,
    pub(crate) state_hash: String,
}

/// Positions of a round in the log.
#[derive(Debug, Clone, Copy, Default)]
struct RoundPositions {
    opened_at: u64,
    measured_at: Option<u64>,
}

/// The replayed history of an experiment, with positions and times from the envelopes.
pub(crate) struct ExperimentHistory {
    pub(crate) replay: Replay,
    origin: Option<Origin>,
    positions: Vec<RoundPositions>,
    started_us: u64,
    last_us: u64,
}

impl ExperimentHistory {
    /// Reads a stream up to the position `last` of the log.
    ///
    /// # Errors
    /// If the log cannot be read, or an event cannot be applied.
    pub(crate) fn read(
        log: &dyn EventLog,
        experiment: &ExperimentId,
        last: Option<u64>,
    ) -> anyhow::Result<Self> {
        let (replay, positions) = (Replay::new(), Vec::new());
        let mut history = Self { replay, origin: None, positions, started_us: 0, last_us: 0 };
        super::each(log, experiment, last, &mut |recorded| history.apply(recorded))?;
        Ok(history)
    }

    fn apply(&mut self, recorded: &Recorded) -> anyhow::Result<()> {
        if recorded.version == 1 {
            self.started_us = recorded.event.time_us;
        }
        self.last_us = self.last_us.max(recorded.event.time_us);
        if recorded.event.event_type == FORKED
            && let Ok(e) = ExperimentForked::try_from(recorded.decode()?)
        {
            self.origin = Some(Origin { experiment: e.origin, position: e.position, shared: e.shared });
        }
        self.replay.apply(recorded)?;
        self.note_positions(recorded);
        Ok(())
    }

    fn note_positions(&mut self, recorded: &Recorded) {
        let rounds = self.replay.experiment().rounds();
        if rounds.len() > self.positions.len() {
            self.positions.push(RoundPositions { opened_at: recorded.position, measured_at: None });
        }
        if let (Some(round), Some(positions)) = (rounds.last(), self.positions.last_mut())
            && positions.measured_at.is_none()
            && round.is_complete()
        {
            positions.measured_at = Some(recorded.position);
        }
    }

    pub(crate) fn experiment(&self) -> &Experiment {
        self.replay.experiment()
    }

    /// Returns the figures of the experiment, under this name.
    pub(crate) fn overview(&self, name: &ExperimentId) -> Overview {
        let experiment = self.experiment();
        let rounds: Vec<RoundRow> = experiment
            .rounds()
            .iter()
            .zip(&self.positions)
            .map(|(round, positions)| RoundRow::of(round, *positions))
            .collect();
        let closed = experiment.rounds().iter().filter(|round| round.is_closed()).count();
        Overview {
            experiment: name.clone(),
            state: State::of(experiment),
            ordered: CommandedBy::of(experiment),
            origin: self.origin.clone(),
            rounds_planned: experiment.plan().map_or(0, |plan| plan.rounds),
            rounds_closed: u32::try_from(closed).unwrap_or(u32::MAX),
            selected: rounds.iter().map(|round| u64::from(round.selected)).sum(),
            judgements: rounds.iter().map(|round| round.judgements).sum(),
            evaluations: experiment.evaluations().len() as u64,
            events: self.replay.version(),
            started_us: self.started_us,
            last_us: self.last_us,
            state_hash: experiment.state_hash(),
            rounds,
        }
    }
}

const FORKED: &str = dissent_domain::event::EventType::ExperimentForked.name();
