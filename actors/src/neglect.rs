//! Watching for neglect: events that are acknowledged, and yet nothing came of them.
//!
//! A step acknowledges an event once what follows from it is on its way. If the rules then reject that (a reward that is not
//! a number, say), or a worker never proposed it, nobody would ask again and the experiment would stand still for good. Rules
//! know what the experiment waits for; here someone with a clock sees that it waits in vain, and has it delivered again.

use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::Step;
use dissent_domain::experiment::Plan;
use dissent_domain::log::EventLog;
use dissent_queues::{BrokerError, Subscription};
use tokio::time::Instant;

use crate::crew::subscriptions;
use crate::journal::States;
use crate::step::{self, Surroundings};

/// How long nothing may happen before events are delivered again. RabbitMQ takes back what is not settled in this time:
/// nobody can still have them in hand.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Delivers neglected events again until it is aborted.
pub(crate) fn watch(
    states: States,
    log: Arc<dyn EventLog>,
    plan: &Plan,
    patience: Duration,
    around: Surroundings,
) -> impl Future<Output = ()> + use<> {
    let coordinator = step::group(Step::Round, &plan.experiment);
    let steps = subscriptions(plan, 1).into_iter().filter(|step| step.group != coordinator).collect();
    keep_watch(states, log, steps, patience, around)
}

async fn keep_watch(
    states: States,
    log: Arc<dyn EventLog>,
    steps: Vec<Subscription>,
    patience: Duration,
    around: Surroundings,
) {
    let mut ticks = tokio::time::interval(patience / 8);
    let mut seen = (states.version(&around.experiment), Instant::now());
    loop {
        ticks.tick().await;
        let version = states.version(&around.experiment);
        if version != seen.0 {
            seen = (version, Instant::now());
        }
        if seen.1.elapsed() < patience {
            continue;
        }
        seen.1 = Instant::now();
        if let Err(error) = deliver_again(&states, &*log, &steps, &around).await {
            tracing::warn!(%error, "failed to deliver again what was neglected");
        }
    }
}

async fn deliver_again(
    states: &States,
    log: &dyn EventLog,
    steps: &[Subscription],
    around: &Surroundings,
) -> Result<(), BrokerError> {
    for id in states.unanswered(&around.experiment) {
        let Some(event) = log.find(id)? else { continue };
        let is_of = |subscription: &&Subscription| {
            subscription.kinds.iter().any(|kind| kind.name() == event.event.event_type)
        };
        let Some(subscription) = steps.iter().find(is_of) else { continue };
        tracing::warn!(
            event_seq = event.position,
            group = %subscription.group,
            "nothing came of an event: it is delivered again"
        );
        match around.broker.unpark(&subscription.group, event.position).await {
            // It is in somebody's hands after all, or nobody here takes it.
            Ok(()) | Err(BrokerError::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
