//! The trainings of a round: first of the reward model, if there are preferences, then of the policy.
//!
//! A training is leased to a worker. After the lease expires, the training is requested again from its last
//! checkpoint. These rules have no clock: the training step has one, and proposes the expiry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::due::Due;
use crate::event::{
    EventId, EventType, Stage, TrainingEvent, TrainingProgressed, TrainingRequested, TrainingStarted,
};

/// Longest lease on a training, in milliseconds (a day). It bounds the delay that a dead worker can cause.
pub const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

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
        /// Total number of steps; 0 before the first heartbeat.
        steps: u64,
    },
    /// Its lease expired without a heartbeat.
    Expired,
    /// Its result is recorded.
    Done,
}

/// Reason why an event of a training may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrainingRejection {
    /// The round has no training of this model.
    #[error("the training was not requested")]
    NotRequested,
    /// The event is of an attempt whose lease expired.
    #[error("another attempt replaced this one")]
    OtherAttempt,
    /// The lease is longer than [`LEASE_MS_MAX`].
    #[error("the lease is longer than a day")]
    LeaseTooLong,
    /// A worker runs the training, or it is done.
    #[error("no worker is needed")]
    NoWorkerNeeded,
    /// No worker runs the training.
    #[error("the training is not running")]
    NotRunning,
    /// A heartbeat reports an earlier step than the one before it.
    #[error("the training has already reached a later step")]
    EarlierStep,
    /// A heartbeat reports more steps than there are.
    #[error("the step is beyond the number of steps")]
    StepOutOfRange,
    /// No worker has a lease that could expire.
    #[error("no worker has a lease on it")]
    NoLease,
    /// A metric is NaN or infinite.
    #[error("a metric is not finite")]
    MetricNotFinite,
}

/// The trainings of a round.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Trainings {
    reward: Option<Training>,
    policy: Option<Training>,
}

impl Trainings {
    pub(crate) fn of(&self, stage: Stage) -> Option<&Training> {
        match stage {
            Stage::Reward => self.reward.as_ref(),
            Stage::Policy => self.policy.as_ref(),
        }
    }

    fn of_mut(&mut self, stage: Stage) -> Option<&mut Training> {
        match stage {
            Stage::Reward => self.reward.as_mut(),
            Stage::Policy => self.policy.as_mut(),
        }
    }

    /// The id of the tuned policy's event; `None` before it is recorded.
    pub(crate) fn tuned(&self) -> Option<EventId> {
        let done = self.policy.as_ref().filter(|policy| policy.progress == TrainingProgress::Done);
        done.map(|policy| trained_id(policy.requested, Stage::Policy))
    }

    /// Checks whether an event may happen. A request may happen exactly when it is due.
    pub(crate) fn decide(&self, event: &TrainingEvent) -> Result<(), TrainingRejection> {
        match event {
            TrainingEvent::Requested(_) => Ok(()),
            TrainingEvent::Started(e) => self.decide_started(e),
            TrainingEvent::Progressed(e) => self.decide_progressed(e),
            TrainingEvent::LeaseExpired(e) => {
                let training = self.current(e.stage, e.attempt)?;
                if training.is_running() { Ok(()) } else { Err(TrainingRejection::NoLease) }
            }
            TrainingEvent::RewardModelRefined(e) => self.decide_trained(Stage::Reward, e.attempt, &e.metrics),
            TrainingEvent::PolicyTuned(e) => self.decide_trained(Stage::Policy, e.attempt, &e.metrics),
        }
    }

    fn decide_started(&self, e: &TrainingStarted) -> Result<(), TrainingRejection> {
        let training = self.current(e.stage, e.attempt)?;
        if e.lease_ms > LEASE_MS_MAX {
            return Err(TrainingRejection::LeaseTooLong);
        }
        let waits = training.progress == TrainingProgress::Requested;
        if waits { Ok(()) } else { Err(TrainingRejection::NoWorkerNeeded) }
    }

    fn decide_progressed(&self, e: &TrainingProgressed) -> Result<(), TrainingRejection> {
        match self.current(e.stage, e.attempt)?.progress {
            TrainingProgress::Running { step, .. } if e.step < step => Err(TrainingRejection::EarlierStep),
            TrainingProgress::Running { .. } if e.step > e.steps => Err(TrainingRejection::StepOutOfRange),
            TrainingProgress::Running { .. } => finite(&e.metrics),
            TrainingProgress::Requested | TrainingProgress::Expired | TrainingProgress::Done => {
                Err(TrainingRejection::NotRunning)
            }
        }
    }

    fn decide_trained(
        &self,
        stage: Stage,
        attempt: u32,
        metrics: &BTreeMap<String, f64>,
    ) -> Result<(), TrainingRejection> {
        if !self.current(stage, attempt)?.is_running() {
            return Err(TrainingRejection::NotRunning);
        }
        finite(metrics)
    }

    fn current(&self, stage: Stage, attempt: u32) -> Result<&Training, TrainingRejection> {
        let training = self.of(stage).ok_or(TrainingRejection::NotRequested)?;
        if training.attempt == attempt { Ok(training) } else { Err(TrainingRejection::OtherAttempt) }
    }

    /// Applies an event; `settled` is the id of the event that settled the feedback.
    pub(crate) fn evolve(&mut self, settled: EventId, event: &TrainingEvent) {
        match event {
            TrainingEvent::Requested(e) => self.request(settled, e),
            TrainingEvent::Started(e) => {
                self.advance(e.stage, TrainingProgress::Running { lease_ms: e.lease_ms, step: 0, steps: 0 });
            }
            TrainingEvent::Progressed(e) => self.report(e),
            TrainingEvent::LeaseExpired(e) => self.advance(e.stage, TrainingProgress::Expired),
            TrainingEvent::RewardModelRefined(_) => self.advance(Stage::Reward, TrainingProgress::Done),
            TrainingEvent::PolicyTuned(_) => self.advance(Stage::Policy, TrainingProgress::Done),
        }
    }

    fn request(&mut self, settled: EventId, e: &TrainingRequested) {
        let cause = match e.stage {
            Stage::Reward => settled,
            Stage::Policy => self.tuning_cause(settled),
        };
        let training = Training {
            stage: e.stage,
            attempt: e.attempt,
            requested: requested_id(cause, e.attempt),
            progress: TrainingProgress::Requested,
            checkpoint: e.resume_from.clone(),
        };
        match e.stage {
            Stage::Reward => self.reward = Some(training),
            Stage::Policy => self.policy = Some(training),
        }
    }

    fn advance(&mut self, stage: Stage, progress: TrainingProgress) {
        if let Some(training) = self.of_mut(stage) {
            training.progress = progress;
        }
    }

    fn report(&mut self, e: &TrainingProgressed) {
        let Some(training) = self.of_mut(e.stage) else { return };
        if let TrainingProgress::Running { step, steps, .. } = &mut training.progress {
            (*step, *steps) = (e.step, e.steps);
        }
        if e.checkpoint.is_some() {
            training.checkpoint.clone_from(&e.checkpoint);
        }
    }

    /// The cause of the policy's tuning: the refined reward model or, without preferences, the settled
    /// feedback.
    fn tuning_cause(&self, settled: EventId) -> EventId {
        match &self.reward {
            Some(reward) => trained_id(reward.requested, Stage::Reward),
            None => settled,
        }
    }

    /// Returns the request that is due after the feedback, which the event `settled` settled. `None` while a
    /// result is pending, and after the last one.
    pub(crate) fn due(&self, round: u32, settled: EventId, has_preferences: bool) -> Option<Due> {
        let trainings = [&self.reward, &self.policy].into_iter().flatten();
        if let Some(expired) =
            trainings.clone().find(|training| training.progress == TrainingProgress::Expired)
        {
            return Some(Due::one(lease_expired_id(expired.requested), expired.again(round)));
        }
        let first = |stage| TrainingRequested { round, stage, attempt: 0, resume_from: None };
        match (&self.reward, &self.policy) {
            (None, None) if has_preferences => Some(Due::one(settled, first(Stage::Reward))),
            (Some(reward), None) if reward.progress != TrainingProgress::Done => None,
            (_, None) => Some(Due::one(self.tuning_cause(settled), first(Stage::Policy))),
            (_, Some(_)) => None,
        }
    }

    /// The cause of an event of a training: its request.
    pub(crate) fn cause(&self, event: &TrainingEvent) -> Option<EventId> {
        match event {
            // A conclusion: its cause is that of the due events.
            TrainingEvent::Requested(_) => None,
            TrainingEvent::Started(_)
            | TrainingEvent::Progressed(_)
            | TrainingEvent::LeaseExpired(_)
            | TrainingEvent::RewardModelRefined(_)
            | TrainingEvent::PolicyTuned(_) => self.of(event.stage()).map(|training| training.requested),
        }
    }

    /// Returns the requests that wait for a worker.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = EventId> {
        let trainings = [&self.reward, &self.policy].into_iter().flatten();
        trainings
            .filter(|training| training.progress == TrainingProgress::Requested)
            .map(|training| training.requested)
    }
}

impl Training {
    fn is_running(&self) -> bool {
        matches!(self.progress, TrainingProgress::Running { .. })
    }

    /// The request for the next attempt, from the last checkpoint.
    fn again(&self, round: u32) -> TrainingRequested {
        let (stage, attempt) = (self.stage, self.attempt + 1);
        TrainingRequested { round, stage, attempt, resume_from: self.checkpoint.clone() }
    }
}

fn finite(metrics: &BTreeMap<String, f64>) -> Result<(), TrainingRejection> {
    let all = metrics.values().all(|metric| metric.is_finite());
    if all { Ok(()) } else { Err(TrainingRejection::MetricNotFinite) }
}

/// The id of a training's request. `cause` is the cause of its first attempt.
fn requested_id(cause: EventId, attempt: u32) -> EventId {
    let requested = |cause: EventId| cause.caused(EventType::TrainingRequested.name(), 0);
    (0..attempt).fold(requested(cause), |id, _| requested(lease_expired_id(id)))
}

fn lease_expired_id(requested: EventId) -> EventId {
    requested.caused(EventType::TrainingLeaseExpired.name(), 0)
}

/// The id of a training's result.
fn trained_id(requested: EventId, stage: Stage) -> EventId {
    let kind = match stage {
        Stage::Reward => EventType::RewardModelRefined,
        Stage::Policy => EventType::PolicyTuned,
    };
    requested.caused(kind.name(), 0)
}
