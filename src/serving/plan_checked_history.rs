//! The history that a worker follows, withheld until it matches the plan that the worker works on.

use std::collections::VecDeque;
use std::time::Duration;

use dissent_domain::event::{Event, ExperimentEvent, Recorded};
use dissent_domain::plan::Plan;
use dissent_queues::{BoxFuture, HistoryConsumer};

use crate::experiment::plan_check::check_same_plan;

/// Longest silence of a history that still has recorded events to deliver.
const PAST_MAX: Duration = Duration::from_secs(10);

/// Withholds a history until its plan is the worker's. The history of a fork begins with the plan of its
/// origin; the worker does not work on the events before the fork.
pub(super) struct PlanCheckedHistory {
    history: HistoryConsumer,
    plan: Plan,
    /// The last plan in the history.
    recorded_plan: Option<Plan>,
    /// Events read before the plans matched.
    buffered: VecDeque<Recorded>,
}

impl PlanCheckedHistory {
    pub(super) fn new(history: HistoryConsumer, plan: Plan) -> Self {
        Self { history, plan, recorded_plan: None, buffered: VecDeque::new() }
    }

    async fn read(&mut self) -> anyhow::Result<Option<Recorded>> {
        let Some(recorded) = self.history.next().await? else { return Ok(None) };
        if let Some(plan) = plan_of(&recorded)? {
            self.recorded_plan = Some(plan);
        }
        Ok(Some(recorded))
    }

    fn agrees(&self) -> bool {
        self.recorded_plan.as_ref() == Some(&self.plan)
    }

    /// Reads until the history agrees with the plan.
    async fn agree(&mut self) -> anyhow::Result<()> {
        while !self.agrees() {
            let next = match self.recorded_plan.clone() {
                // Without a recorded plan there is none to disagree with.
                None => self.read().await?,
                Some(other) => match tokio::time::timeout(PAST_MAX, self.read()).await {
                    Ok(next) => next?,
                    Err(_) => return check_same_plan(&other, &self.plan),
                },
            };
            let Some(recorded) = next else { return Ok(()) };
            self.buffered.push_back(recorded);
        }
        Ok(())
    }
}

/// The plan that an event puts in force, if it does.
fn plan_of(recorded: &Recorded) -> anyhow::Result<Option<Plan>> {
    Ok(match recorded.decode()? {
        Event::Experiment(ExperimentEvent::Started(started)) => Some(started.plan),
        Event::Experiment(ExperimentEvent::Forked(forked)) => Some(forked.plan),
        Event::Experiment(ExperimentEvent::Finished(_))
        | Event::Operator(_)
        | Event::Round(_)
        | Event::Prompt(_)
        | Event::Feedback(_)
        | Event::Training(_)
        | Event::Evaluation(_) => None,
    })
}

impl dissent_actors::History for PlanCheckedHistory {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Recorded>, String>> {
        Box::pin(async {
            if let Some(buffered) = self.buffered.pop_front() {
                return Ok(Some(buffered));
            }
            if !self.agrees() {
                self.agree().await.map_err(|error| format!("{error:#}"))?;
                return Ok(self.buffered.pop_front());
            }
            let next = self.read().await.map_err(|error| format!("{error:#}"))?;
            if self.agrees() {
                return Ok(next);
            }
            Err("the plan of the experiment has changed: restart the worker".to_owned())
        })
    }
}
