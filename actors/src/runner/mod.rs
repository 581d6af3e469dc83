//! The frame of every step. It takes a batch of deliveries, computes on the thread of the step, and proposes
//! the consequences. It acknowledges the deliveries once the consequences are durable.
//!
//! The frame does not depend on the purpose of a step. A step has no access to brokers, threads or
//! acknowledgements.

mod actor;
mod compute;
pub(crate) mod context;
pub(crate) mod failure;
mod feeder;
pub(crate) mod gate;
pub(crate) mod known;
pub(crate) mod propose;
pub(crate) mod redelivery;
pub(crate) mod set_aside;
pub(crate) mod skip_recorded;
pub(crate) mod spec;
pub(crate) mod step;
pub(crate) mod stop;
pub(crate) mod trace;
pub(crate) mod turns;

use actix::Actor as _;

use crate::error::PipelineError;
use actor::StepActor;
use compute::ComputeThread;
use context::{StepContext, subscription};
use feeder::Feeder;
use step::AnyStep;

pub(crate) use compute::panic_message;

/// A running step.
pub(crate) struct StepHandle {
    feeder: tokio::task::JoinHandle<()>,
}

impl StepHandle {
    /// Waits until the step has finished its batch. Call it after the experiment is stopped.
    pub(crate) async fn drained(self) {
        if let Err(error) = self.feeder.await {
            tracing::error!(%error, "failed to join the feeder");
        }
    }
}

/// Starts a step on the current arbiter.
pub(crate) fn start<S: AnyStep>(step: S, context: &StepContext) -> Result<StepHandle, PipelineError> {
    let (name, batch) = (step.name(), step.batch().max(1));
    let spec = context.spec(name).ok_or(PipelineError::NoStep(name))?;
    let subscription = subscription(name, spec.consumes, &context.experiment, batch);
    let consumer = context.broker.subscribe(subscription.clone())?;
    let compute =
        ComputeThread::start(step).map_err(|source| PipelineError::Thread { step: name, source })?;
    let actor = StepActor { spec, compute, context: context.clone() }.start();
    let feeder = Feeder { subscription, actor, batch, context: context.clone() };
    Ok(StepHandle { feeder: actix::spawn(feeder.run(consumer)) })
}
