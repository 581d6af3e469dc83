//! The training step: `TrainingRequested` → `TrainingStarted` → … → `RewardModelRefined` or `PolicyTuned`.
//!
//! A training takes minutes or hours, so the step does not hold its request meanwhile. The step starts a
//! training under a lease and acknowledges the request. Once the process reads its own `TrainingStarted` in
//! the durable history, the [`thread`] trains, and its `TrainingProgressed` events are heartbeats. The next
//! attempt resumes from the last checkpoint. The rules reject the events of an attempt that lost its lease.

pub(crate) mod assignment;
pub(crate) mod data;
pub(crate) mod lease;
pub(crate) mod onnx_trainer;
pub(crate) mod report;
pub(crate) mod thread;
pub(crate) mod trainer;

use std::sync::Arc;

use dissent_domain::event::{StepName, TrainingRequested, TrainingStarted};
use dissent_domain::learning::TrainingProgress;

use crate::error::StepError;
use crate::runner::step::{Consequence, Received, Step};
use assignment::{TrainingIntake, state};

/// Starts requested trainings.
pub(crate) struct TrainingStep {
    intake: Arc<TrainingIntake>,
    lease_ms: u64,
}

impl TrainingStep {
    pub(crate) fn new(intake: Arc<TrainingIntake>, lease_ms: u64) -> Self {
        Self { intake, lease_ms }
    }
}

impl Step for TrainingStep {
    const NAME: StepName = StepName::Training;
    type Input = TrainingRequested;

    fn handle(&mut self, received: &Received<TrainingRequested>) -> Result<Consequence, StepError> {
        let TrainingRequested { round, stage, attempt, .. } = received.event;
        let state = state(&self.intake.versions, round, stage, attempt);
        if state.is_none_or(|state| state.progress != TrainingProgress::Requested) {
            return Ok(received.leads_to([]));
        }
        let (worker, lease_ms) = (self.intake.worker.clone(), self.lease_ms);
        Ok(received.leads_to([TrainingStarted { round, stage, attempt, worker, lease_ms }.into()]))
    }
}
