//! How any step runs: take a batch of deliveries, compute on the thread of the step, propose the
//! consequences, and acknowledge once they are durable.
//!
//! Nothing here knows the purpose of a step; nothing in a step knows of brokers, threads or acknowledgements.

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
pub(crate) mod trace;

use std::sync::Arc;

use actix::Actor as _;
use dissent_queues::BrokerError;
use tokio::sync::Notify;

use actor::StepActor;
use compute::ComputeThread;
use context::{StepContext, subscription};
use feeder::Feeder;
use step::AnyStep;

pub(crate) use compute::panic_message;

/// A running step.
pub(crate) struct StepHandle {
    feeder: tokio::task::JoinHandle<()>,
    stop: Arc<Notify>,
}

impl StepHandle {
    /// Waits until the step has finished its batch, after the broker was closed.
    pub(crate) async fn drained(self) {
        self.stop.notify_one();
        if let Err(error) = self.feeder.await {
            tracing::error!(%error, "failed to join the feeder");
        }
    }
}

/// Starts a step on the current arbiter.
pub(crate) fn start<S: AnyStep>(step: S, context: &StepContext) -> Result<StepHandle, BrokerError> {
    let (name, batch) = (step.name(), step.batch().max(1));
    let spec = context.spec(name).ok_or_else(|| {
        BrokerError::Invalid(format!("the table of the pipeline has no {} step", name.name()))
    })?;
    let subscription = subscription(name, spec.consumes, &context.experiment, batch);
    let consumer = context.broker.subscribe(subscription.clone())?;
    let compute = ComputeThread::start(step).map_err(|error| {
        BrokerError::Invalid(format!("failed to start the {} thread: {error}", name.name()))
    })?;
    let actor = StepActor { spec, compute, context: context.clone() }.start();
    let stop = Arc::new(Notify::new());
    let feeder = Feeder { subscription, actor, batch, context: context.clone(), stop: stop.clone() };
    Ok(StepHandle { feeder: actix::spawn(feeder.run(consumer)), stop })
}
