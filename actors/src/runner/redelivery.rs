//! Redelivery of unanswered events: events that are acknowledged although their consequences are missing.
//!
//! A step acknowledges an event once its proposal is on its way. The rules may still reject the proposal, for
//! example a reward that is not a number, or a worker may never send it. The experiment would then wait
//! forever. The rules tell which consequences are missing, but have no clock; this watch has one, and
//! redelivers the causes. It redelivers the cause of a rejected proposal at once, but only a few times: a
//! broken worker must not keep the experiment busy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::EventId;
use dissent_domain::log::EventLog;
use dissent_queues::{BrokerError, Subscription};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::context::StepContext;
use crate::error::chain;
use crate::state::States;

/// Causes of rejected proposals, to be redelivered at once.
pub(crate) type Rejections = mpsc::Receiver<EventId>;

/// Maximum number of redeliveries of an event at once after rejected proposals.
const AT_ONCE_MAX: u32 = 3;
/// Maximum number of events whose redeliveries are counted.
const REMEMBERED_MAX: usize = 4096;
/// Time for the proposer to learn of the rejection and to release the event, which cannot be redelivered
/// earlier.
const REDELIVERY_GRACE: Duration = Duration::from_secs(1);

/// Time without any event after which unanswered events are redelivered. RabbitMQ takes back deliveries that
/// are not settled in this time: no step can still hold them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Redelivers unanswered events until it is aborted. `steps` are the subscriptions of the steps whose events
/// it redelivers.
pub(crate) fn watch(
    states: States,
    log: Arc<dyn EventLog>,
    steps: Vec<Subscription>,
    patience: Duration,
    rejections: Rejections,
    context: StepContext,
) -> impl Future<Output = ()> + use<> {
    keep_watch(Redelivery { states, log, steps, context }, patience, rejections)
}

/// Redelivers the unanswered events of an experiment.
struct Redelivery {
    states: States,
    log: Arc<dyn EventLog>,
    steps: Vec<Subscription>,
    context: StepContext,
}

async fn keep_watch(redelivery: Redelivery, patience: Duration, mut rejections: Rejections) {
    let mut ticks = tokio::time::interval(patience / 8);
    let mut seen = (redelivery.version(), Instant::now());
    let mut at_once: HashMap<EventId, u32> = HashMap::new();
    loop {
        let delivered = tokio::select! {
            Some(cause) = rejections.recv() => {
                if !redelivery.waits_for(cause) || at_once.len() >= REMEMBERED_MAX {
                    continue;
                }
                let times = at_once.entry(cause).or_default();
                *times += 1;
                if *times > AT_ONCE_MAX {
                    continue;
                }
                tokio::time::sleep(REDELIVERY_GRACE).await;
                redelivery.redeliver(|id| *id == cause).await
            }
            _ = ticks.tick() => {
                let version = redelivery.version();
                if version != seen.0 {
                    seen = (version, Instant::now());
                }
                if seen.1.elapsed() < patience {
                    continue;
                }
                seen.1 = Instant::now();
                at_once.clear();
                redelivery.redeliver(|_| true).await
            }
        };
        if let Err(error) = delivered {
            tracing::warn!(error = %chain(&error), "failed to redeliver unanswered events");
        }
    }
}

impl Redelivery {
    fn version(&self) -> u64 {
        self.states.version(&self.context.experiment)
    }

    fn waits_for(&self, cause: EventId) -> bool {
        self.states.unanswered(&self.context.experiment).contains(&cause)
    }

    /// Redelivers the unanswered events that `selects` selects.
    async fn redeliver(&self, selects: impl Fn(&EventId) -> bool) -> Result<(), BrokerError> {
        for id in self.states.unanswered(&self.context.experiment).into_iter().filter(selects) {
            let Some(event) = self.log.find(id)? else { continue };
            let is_of = |subscription: &&Subscription| {
                subscription.kinds.iter().any(|kind| kind.name() == event.event.event_type)
            };
            let Some(subscription) = self.steps.iter().find(is_of) else { continue };
            tracing::warn!(
                event_seq = event.position,
                group = %subscription.group,
                "redelivering unanswered event"
            );
            match self.context.broker.unpark(&subscription.group, event.position).await {
                // A step still holds the event, or no step here consumes it.
                Ok(())
                | Err(
                    BrokerError::NotReplayable { .. }
                    | BrokerError::TooLarge { .. }
                    | BrokerError::Encode { .. },
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
