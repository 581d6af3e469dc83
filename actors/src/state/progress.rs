//! The progress of an experiment, for people to read while it runs.

use dissent_domain::event::Stage;
use dissent_domain::experiment::Experiment;
use dissent_domain::learning::{Learning, Training, TrainingProgress};
use dissent_domain::operator::ExperimentStatus;
use dissent_domain::round::{Round, RoundCounts};

/// The phase of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Completions are sampled and scored, conflict is measured.
    #[default]
    Sampling,
    /// Comparisons wait for judgements.
    Feedback,
    /// The reward model is trained on the feedback.
    Refining,
    /// The policy is trained against the reward model.
    Tuning,
    /// The tuned policy is evaluated.
    Evaluating,
}

/// The progress of an experiment, by its durable events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Rounds planned.
    pub rounds: u32,
    /// The open or last round, from 0; `None` before the first.
    pub round: Option<u32>,
    /// Counts of that round.
    pub counts: RoundCounts,
    /// Phase of that round.
    pub phase: Phase,
    /// Comparisons requested in that round.
    pub comparisons: u32,
    /// Judgements received in that round.
    pub judgements: u64,
    /// Judgements that the round waits for: the overlap of each comparison, at most the budget.
    pub judgements_wanted: u64,
    /// The running training, if any: steps done, and all steps (0 before the first heartbeat).
    pub training: Option<(u64, u64)>,
    /// Evaluations done, including the one of the first policy.
    pub evaluations: u32,
    /// Whether the experiment waits for judgements of people.
    pub waits_for_people: bool,
    /// Whether all rounds are done.
    pub finished: bool,
    /// The status of the experiment.
    pub status: ExperimentStatus,
    /// Events recorded.
    pub events: u64,
}

impl Progress {
    /// Whether the experiment is finished or cancelled.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status, ExperimentStatus::Finished | ExperimentStatus::Cancelled)
    }

    pub(crate) fn of(experiment: &Experiment, events: u64) -> Self {
        let evaluations = u32::try_from(experiment.evaluations().len()).unwrap_or(u32::MAX);
        let mut progress = Self {
            rounds: experiment.plan().map_or(0, |plan| plan.rounds),
            evaluations,
            waits_for_people: experiment.waits_for_people(),
            finished: experiment.is_finished(),
            status: experiment.status(),
            events,
            ..Self::default()
        };
        if let Some(round) = experiment.rounds().last() {
            progress.round = Some(round.number());
            progress.counts = round.counts();
            progress.take_learning(experiment, round);
        }
        progress
    }

    fn take_learning(&mut self, experiment: &Experiment, round: &Round) {
        let plan = experiment.plan().and_then(|plan| plan.learning.as_ref());
        let (Some(plan), learning) = (plan, round.learning()) else { return };
        let comparisons = learning.comparisons().len();
        self.comparisons = u32::try_from(comparisons).unwrap_or(u32::MAX);
        self.judgements = learning.judgements();
        let overlap = comparisons as u64 * u64::from(plan.feedback.overlap);
        self.judgements_wanted = plan.feedback.budget.map_or(overlap, |budget| overlap.min(budget));
        self.phase = phase(round, learning);
        let running = [Stage::Reward, Stage::Policy]
            .into_iter()
            .find_map(|stage| learning.training(stage).and_then(steps));
        self.training = running;
    }
}

fn phase(round: &Round, learning: &Learning) -> Phase {
    let is_done = |training: &Training| training.progress == TrainingProgress::Done;
    match (round.evaluation(), learning.settled()) {
        (None, _) => Phase::Sampling,
        (Some(_), None) => Phase::Feedback,
        (Some(_), Some(_)) => match (learning.training(Stage::Reward), learning.training(Stage::Policy)) {
            (_, Some(policy)) if is_done(policy) => Phase::Evaluating,
            (_, Some(_)) => Phase::Tuning,
            (Some(reward), None) if !is_done(reward) => Phase::Refining,
            (_, None) => Phase::Tuning,
        },
    }
}

fn steps(training: &Training) -> Option<(u64, u64)> {
    match training.progress {
        TrainingProgress::Running { step, steps, .. } => Some((step, steps)),
        TrainingProgress::Requested | TrainingProgress::Expired | TrainingProgress::Done => None,
    }
}
