//! The part of a round after the conflict step: feedback on the selection, refinement of the reward model,
//! tuning of the policy, and evaluation on held-out prompts.
//!
//! [`Learning`] is the state of that part. It checks events and returns the next ones. It does not know the
//! time: the training step has the clock and proposes the expiry of a lease.

mod guard;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use guard::{reward_hacking_signs, stop_reason};

use crate::decision::{Due, Rejection};
use crate::event::{
    EvaluationRequested, Event, EventId, FeedbackReceived, FeedbackRequested, FeedbackSettled, PolicyTuned,
    RewardModelRefined, Stage, TrainingEvent, TrainingLeaseExpired, TrainingProgressed, TrainingRequested,
    TrainingStarted,
};
use crate::event_ids as ids;
use crate::feedback::{Agreement, Judgement, Judgements, Verdict};
use crate::plan::{FeedbackPlan, LearningPlan};

/// A version of a model in the course of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Fingerprint of the model, its adapter included.
    pub fingerprint: String,
    /// BLAKE3 of the adapter artifact; `None`: the model of the plan.
    pub adapter: Option<String>,
}

/// Longest name of an annotator, in bytes.
pub const ANNOTATOR_BYTES_MAX: usize = 256;
/// Longest comment on a judgement, in bytes.
pub const COMMENT_BYTES_MAX: usize = 16 << 10;
/// Longest lease on a training, in milliseconds (a day). It bounds the delay that a dead worker can cause.
pub const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// A requested comparison and its judgements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestedComparison {
    /// The request.
    pub request: FeedbackRequested,
    /// The rewards of the first and of the second completion, by the reward model of the round.
    pub rewards: [f64; 2],
    /// The judgements so far.
    pub judgements: Judgements,
}

/// The state of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The trained model.
    pub stage: Stage,
    /// The attempt, from 0.
    pub attempt: u32,
    /// The id of its request.
    pub requested: EventId,
    /// The progress.
    pub progress: TrainingProgress,
    /// The last checkpoint of all attempts.
    pub checkpoint: Option<String>,
}

/// Progress of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TrainingProgress {
    /// No worker has started it.
    Requested,
    /// A worker runs it.
    Running {
        /// The lease, in milliseconds.
        lease_ms: u64,
        /// Steps done.
        step: u64,
        /// Steps in all; 0 before the first heartbeat.
        steps: u64,
    },
    /// Its lease expired without a heartbeat.
    Expired,
    /// Its result is recorded.
    Done,
}

/// The state of a round after its conflict step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Learning {
    asked: Vec<RequestedComparison>,
    judgements: u64,
    settled: Option<FeedbackSettled>,
    reward: Option<Training>,
    policy: Option<Training>,
}

impl Learning {
    /// The requested comparisons, with their judgements.
    #[must_use]
    pub fn comparisons(&self) -> &[RequestedComparison] {
        &self.asked
    }

    /// Number of judgements so far.
    #[must_use]
    pub fn judgements(&self) -> u64 {
        self.judgements
    }

    /// The summary of the feedback; `None` before it is settled.
    #[must_use]
    pub fn settled(&self) -> Option<&FeedbackSettled> {
        self.settled.as_ref()
    }

    /// A training of this round.
    #[must_use]
    pub fn training(&self, stage: Stage) -> Option<&Training> {
        match stage {
            Stage::Reward => self.reward.as_ref(),
            Stage::Policy => self.policy.as_ref(),
        }
    }

    /// Whether comparisons wait for judgements.
    #[must_use]
    pub fn waits_for_feedback(&self, plan: &FeedbackPlan) -> bool {
        !self.asked.is_empty() && self.settled.is_none() && !self.has_enough(plan)
    }

    fn has_enough(&self, plan: &FeedbackPlan) -> bool {
        plan.budget.is_some_and(|budget| self.judgements >= budget)
            || self.asked.iter().all(|asked| asked.judgements.len() >= plan.overlap as usize)
    }

    fn training_mut(&mut self, stage: Stage) -> Option<&mut Training> {
        match stage {
            Stage::Reward => self.reward.as_mut(),
            Stage::Policy => self.policy.as_mut(),
        }
    }

    pub(crate) fn decide_received(&self, e: &FeedbackReceived) -> Result<(), Rejection> {
        let reject = |reason| Err(Rejection::Comparison { round: e.round, comparison: e.comparison, reason });
        let Some(asked) = self.asked.get(e.comparison as usize) else { return reject("it is unknown") };
        if self.settled.is_some() {
            return reject("the feedback of the round is settled");
        }
        if e.annotator.trim().is_empty() || e.annotator.len() > ANNOTATOR_BYTES_MAX {
            return reject("the annotator's name must have 1 to 256 bytes");
        }
        if e.comment.as_ref().is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX) {
            return reject("the comment is longer than 16 KiB");
        }
        if asked.judgements.of(&e.annotator).is_some() {
            return reject("the annotator has already judged it");
        }
        Ok(())
    }

    pub(crate) fn decide_started(&self, e: &TrainingStarted) -> Result<(), Rejection> {
        let training = self.current(e.round, e.stage, e.attempt)?;
        if e.lease_ms > LEASE_MS_MAX {
            return Err(rejected(e.round, e.stage, "the lease is longer than a day"));
        }
        let waits = training.progress == TrainingProgress::Requested;
        if waits { Ok(()) } else { Err(rejected(e.round, e.stage, "no worker is needed")) }
    }

    pub(crate) fn decide_progressed(&self, e: &TrainingProgressed) -> Result<(), Rejection> {
        let training = self.current(e.round, e.stage, e.attempt)?;
        let reject = |reason| Err(rejected(e.round, e.stage, reason));
        match training.progress {
            TrainingProgress::Running { step, .. } if e.step < step => {
                reject("it is already at a later step")
            }
            TrainingProgress::Running { .. } if e.step > e.steps => {
                reject("the step is beyond the number of steps")
            }
            TrainingProgress::Running { .. } => finite(e.round, e.stage, &e.metrics),
            TrainingProgress::Requested | TrainingProgress::Expired | TrainingProgress::Done => {
                reject("it is not running")
            }
        }
    }

    pub(crate) fn decide_expired(&self, e: &TrainingLeaseExpired) -> Result<(), Rejection> {
        let training = self.current(e.round, e.stage, e.attempt)?;
        let running = matches!(training.progress, TrainingProgress::Running { .. });
        if running { Ok(()) } else { Err(rejected(e.round, e.stage, "no worker has a lease on it")) }
    }

    pub(crate) fn decide_refined(&self, e: &RewardModelRefined) -> Result<(), Rejection> {
        self.decide_trained(e.round, Stage::Reward, e.attempt, &e.metrics)
    }

    pub(crate) fn decide_tuned(&self, e: &PolicyTuned) -> Result<(), Rejection> {
        self.decide_trained(e.round, Stage::Policy, e.attempt, &e.metrics)
    }

    fn decide_trained(
        &self,
        round: u32,
        stage: Stage,
        attempt: u32,
        metrics: &BTreeMap<String, f64>,
    ) -> Result<(), Rejection> {
        let training = self.current(round, stage, attempt)?;
        if !matches!(training.progress, TrainingProgress::Running { .. }) {
            return Err(rejected(round, stage, "it is not running"));
        }
        finite(round, stage, metrics)
    }

    fn current(&self, round: u32, stage: Stage, attempt: u32) -> Result<&Training, Rejection> {
        let training = self.training(stage).ok_or_else(|| rejected(round, stage, "it was not requested"))?;
        let current = training.attempt == attempt;
        if current { Ok(training) } else { Err(rejected(round, stage, "another attempt replaced this one")) }
    }

    /// Records a comparison; `rewards` are those of its first and second completion.
    pub(crate) fn request_comparison(&mut self, e: &FeedbackRequested, rewards: [f64; 2]) {
        self.asked.push(RequestedComparison {
            request: e.clone(),
            rewards,
            judgements: Judgements::default(),
        });
    }

    /// Applies an event of a training; `opened` is the id of the event that opened the round.
    pub(crate) fn evolve_training(&mut self, opened: EventId, event: &TrainingEvent) {
        match event {
            TrainingEvent::Requested(e) => self.request(opened, e),
            TrainingEvent::Started(e) => {
                self.advance(e.stage, TrainingProgress::Running { lease_ms: e.lease_ms, step: 0, steps: 0 });
            }
            TrainingEvent::Progressed(e) => self.progress(e),
            TrainingEvent::LeaseExpired(e) => self.advance(e.stage, TrainingProgress::Expired),
            TrainingEvent::RewardModelRefined(_) => self.advance(Stage::Reward, TrainingProgress::Done),
            TrainingEvent::PolicyTuned(_) => self.advance(Stage::Policy, TrainingProgress::Done),
        }
    }

    pub(crate) fn receive(&mut self, e: &FeedbackReceived) {
        if let Some(asked) = self.asked.get_mut(e.comparison as usize) {
            asked.judgements.insert(&e.annotator, Judgement { verdict: e.verdict, is_unsafe: e.is_unsafe });
            self.judgements += 1;
        }
    }

    pub(crate) fn settle_as(&mut self, e: &FeedbackSettled) {
        self.settled = Some(e.clone());
    }

    fn request(&mut self, opened: EventId, e: &TrainingRequested) {
        let cause = match e.stage {
            Stage::Reward => ids::feedback_settled_id(opened),
            Stage::Policy => self.tuning_cause(opened),
        };
        let training = Training {
            stage: e.stage,
            attempt: e.attempt,
            requested: ids::training_requested_id(cause, e.attempt),
            progress: TrainingProgress::Requested,
            checkpoint: e.resume_from.clone(),
        };
        match e.stage {
            Stage::Reward => self.reward = Some(training),
            Stage::Policy => self.policy = Some(training),
        }
    }

    fn advance(&mut self, stage: Stage, progress: TrainingProgress) {
        if let Some(training) = self.training_mut(stage) {
            training.progress = progress;
        }
    }

    fn progress(&mut self, e: &TrainingProgressed) {
        let Some(training) = self.training_mut(e.stage) else { return };
        if let TrainingProgress::Running { step, steps, .. } = &mut training.progress {
            (*step, *steps) = (e.step, e.steps);
        }
        if e.checkpoint.is_some() {
            training.checkpoint.clone_from(&e.checkpoint);
        }
    }

    /// The cause of the policy's tuning: the refined reward model or, without preferences, the settled
    /// feedback.
    fn tuning_cause(&self, opened: EventId) -> EventId {
        match &self.reward {
            Some(reward) => ids::trained_id(reward.requested, Stage::Reward),
            None => ids::feedback_settled_id(opened),
        }
    }

    /// Returns the events that are due between feedback and evaluation; `None` while a result is pending.
    pub(crate) fn due(&self, learning: &LearningPlan, round: u32, opened: EventId) -> Option<Due> {
        let one = |cause, event: Event| Some(Due { cause, events: vec![event] });
        let Some(settled) = &self.settled else {
            let enough = self.has_enough(&learning.feedback);
            let cause = ids::round_evaluated_id(opened);
            return if enough { one(cause, self.settle(round).into()) } else { None };
        };
        let first = |stage| TrainingRequested { round, stage, attempt: 0, resume_from: None }.into();
        for training in [&self.reward, &self.policy].into_iter().flatten() {
            if training.progress == TrainingProgress::Expired {
                let again = TrainingRequested {
                    round,
                    stage: training.stage,
                    attempt: training.attempt + 1,
                    resume_from: training.checkpoint.clone(),
                };
                return one(ids::lease_expired_id(training.requested), again.into());
            }
        }
        match (&self.reward, &self.policy) {
            (None, None) if settled.preferences > 0 => {
                one(ids::feedback_settled_id(opened), first(Stage::Reward))
            }
            (Some(reward), None) if reward.progress != TrainingProgress::Done => None,
            (_, None) => one(self.tuning_cause(opened), first(Stage::Policy)),
            (_, Some(policy)) if policy.progress == TrainingProgress::Done => {
                let cause = ids::trained_id(policy.requested, Stage::Policy);
                one(cause, EvaluationRequested { evaluation: round + 1 }.into())
            }
            (_, Some(_)) => None,
        }
    }

    fn settle(&self, round: u32) -> FeedbackSettled {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let verdicts = || self.asked.iter().filter_map(|asked| Some((asked, asked.judgements.majority()?)));
        let labels = |asked: &RequestedComparison| {
            asked.judgements.iter().map(|(_, judgement)| judgement.verdict).collect()
        };
        let labels: Vec<Vec<Verdict>> = self.asked.iter().map(labels).collect();
        FeedbackSettled {
            round,
            comparisons: count(self.asked.len()),
            judgements: self.judgements,
            preferences: count(verdicts().filter(|(_, verdict)| *verdict != Verdict::Tie).count()),
            ties: count(verdicts().filter(|(_, verdict)| *verdict == Verdict::Tie).count()),
            contradicted: count(
                verdicts().filter(|(asked, verdict)| contradicts(asked.rewards, *verdict)).count(),
            ),
            agreement: Agreement::of(&labels),
        }
    }
}

/// Whether the rewards rate the completion that was not preferred at least as high.
fn contradicts([first, second]: [f64; 2], verdict: Verdict) -> bool {
    match verdict {
        Verdict::First => second >= first,
        Verdict::Second => first >= second,
        Verdict::Tie => false,
    }
}

fn finite(round: u32, stage: Stage, metrics: &BTreeMap<String, f64>) -> Result<(), Rejection> {
    let all = metrics.values().all(|figure| figure.is_finite());
    if all { Ok(()) } else { Err(rejected(round, stage, "a metric is not finite")) }
}

fn rejected(round: u32, stage: Stage, reason: &'static str) -> Rejection {
    Rejection::Training { round, stage, reason }
}
