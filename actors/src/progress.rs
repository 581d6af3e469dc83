//! How far an experiment has come: what a person is shown while it runs.

use dissent_domain::event::Stage;
use dissent_domain::experiment::Experiment;
use dissent_domain::learning::{Learning, Training, TrainingProgress};
use dissent_domain::operator::ExperimentStatus;
use dissent_domain::round::{Round, RoundCounts};

/// What a round is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Answers are sampled and scored, conflict is measured.
    #[default]
    Sampling,
    /// Comparisons wait for judgements.
    Feedback,
    /// The reward model learns from the feedback.
    Refining,
    /// The policy learns from the reward model.
    Tuning,
    /// The tuned policy is evaluated.
    Evaluating,
}

/// How far an experiment has come, as far as it is durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Rounds planned.
    pub rounds: u32,
    /// The open or last round, from 0; none before the first.
    pub round: Option<u32>,
    /// Counts of that round.
    pub counts: RoundCounts,
    /// What that round is at.
    pub phase: Phase,
    /// Comparisons that were put up in that round.
    pub comparisons: u32,
    /// Judgements of them so far.
    pub judgements: u64,
    /// Judgements that are enough: each comparison's overlap, or the budget.
    pub judgements_wanted: u64,
    /// The training under way, if any: steps done, of how many (0 before its first sign of life).
    pub training: Option<(u64, u64)>,
    /// Evaluations done, that of the first policy included.
    pub evaluations: u32,
    /// Whether it can only go on once people have judged comparisons.
    pub waits_for_people: bool,
    /// Whether everything planned is done.
    pub finished: bool,
    /// Whether it may go on, as far as operators are concerned.
    pub standing: ExperimentStatus,
    /// Events so far.
    pub events: u64,
}

impl Progress {
    /// Whether nothing can happen any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.standing, ExperimentStatus::Finished | ExperimentStatus::Cancelled)
    }

    pub(crate) fn of(experiment: &Experiment, events: u64) -> Self {
        let evaluations = u32::try_from(experiment.evaluations().len()).unwrap_or(u32::MAX);
        let mut progress = Self {
            rounds: experiment.plan().map_or(0, |plan| plan.rounds),
            evaluations,
            waits_for_people: experiment.waits_for_people(),
            finished: experiment.is_finished(),
            standing: experiment.status(),
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
        let asked = learning.comparisons().len();
        self.comparisons = u32::try_from(asked).unwrap_or(u32::MAX);
        self.judgements = learning.judgements();
        let overlap = asked as u64 * u64::from(plan.feedback.overlap);
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
