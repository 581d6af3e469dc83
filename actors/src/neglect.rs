//! Watching for neglect: events that are acknowledged, and yet nothing came of them.
//!
//! A step acknowledges an event once what follows from it is on its way. If the rules then reject that (a reward that is not
//! a number, say), or a worker never proposed it, nobody would ask again and the experiment would stand still for good. Rules
//! know what the experiment waits for; here someone with a clock sees that it waits in vain, and has it delivered again. Where a
//! proposal was rejected it is known at once, and there is no need to be patient: a few times, lest a worker that is broken for
//! good be kept busy by it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::{EventId, StepName};
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_queues::{BrokerError, Subscription};
use tokio::time::Instant;

use crate::crew::subscriptions;
use crate::journal::{Rejections, States};
use crate::step::{self, Surroundings};

/// How often an event is delivered again at once because what was made of it was rejected.
const AT_ONCE_MAX: u32 = 3;
/// Events of which it is remembered how often that was.
const REMEMBERED_MAX: usize = 4096;
/// What whoever proposed has to hear of the rejection and let go of the event, which is not delivered while it is in hand.
const LETTING_GO: Duration = Duration::from_secs(1);

/// How long nothing may happen before events are delivered again. RabbitMQ takes back what is not settled in this time:
/// nobody can still have them in hand.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Delivers neglected events again until it is aborted.
pub(crate) fn watch(
    states: States,
    log: Arc<dyn EventLog>,
    plan: &Plan,
    patience: Duration,
    rejections: Rejections,
    around: Surroundings,
) -> impl Future<Output = ()> + use<> {
    let coordinator = step::group(StepName::Round, &plan.experiment);
    let steps = subscriptions(plan, 1).into_iter().filter(|step| step.group != coordinator).collect();
    keep_watch(Neglect { states, log, steps, around }, patience, rejections)
}

/// What it takes to see that an event was neglected, and to have it delivered again.
struct Neglect {
    states: States,
    log: Arc<dyn EventLog>,
    steps: Vec<Subscription>,
    around: Surroundings,
}

async fn keep_watch(neglect: Neglect, patience: Duration, mut rejections: Rejections) {
    let mut ticks = tokio::time::interval(patience / 8);
    let mut seen = (neglect.version(), Instant::now());
    let mut at_once: HashMap<EventId, u32> = HashMap::new();
    loop {
        let delivered = tokio::select! {
            Some(cause) = rejections.recv() => {
                if !neglect.waits_for(cause) || at_once.len() >= REMEMBERED_MAX {
                    continue;
                }
                let times = at_once.entry(cause).or_default();
                *times += 1;
                if *times > AT_ONCE_MAX {
                    continue;
                }
                tokio::time::sleep(LETTING_GO).await;
                neglect.deliver_again(|id| *id == cause).await
            }
            _ = ticks.tick() => {
                let version = neglect.version();
                if version != seen.0 {
                    seen = (version, Instant::now());
                }
                if seen.1.elapsed() < patience {
                    continue;
                }
                seen.1 = Instant::now();
                at_once.clear();
                neglect.deliver_again(|_| true).await
            }
        };
        if let Err(error) = delivered {
            tracing::warn!(%error, "failed to deliver again what was neglected");
        }
    }
}

impl Neglect {
    fn version(&self) -> u64 {
        self.states.version(&self.around.experiment)
    }

    fn waits_for(&self, cause: EventId) -> bool {
        self.states.unanswered(&self.around.experiment).contains(&cause)
    }

    /// Has those of the unanswered events delivered again.
    async fn deliver_again(&self, those: impl Fn(&EventId) -> bool) -> Result<(), BrokerError> {
        for id in self.states.unanswered(&self.around.experiment).into_iter().filter(those) {
            let Some(event) = self.log.find(id)? else { continue };
            let is_of = |subscription: &&Subscription| {
                subscription.kinds.iter().any(|kind| kind.name() == event.event.event_type)
            };
            let Some(subscription) = self.steps.iter().find(is_of) else { continue };
            tracing::warn!(
                event_seq = event.position,
                group = %subscription.group,
                "nothing came of an event: it is delivered again"
            );
            match self.around.broker.unpark(&subscription.group, event.position).await {
                // It is in somebody's hands after all, or nobody here takes it.
                Ok(())
                | Err(
                    BrokerError::NotReplayable { .. }
                    | BrokerError::TooLarge { .. }
                    | BrokerError::Invalid(_),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
