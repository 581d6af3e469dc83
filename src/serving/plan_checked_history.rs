//! The history that a worker follows, withheld until it matches the worker's plan.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::event::{Event, ExperimentEvent, Recorded};
use dissent_domain::plan::Plan;
use dissent_queues::{BoxFuture, HistoryConsumer};

use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::plan_check::check_same_plan;

/// Longest wait for the next recorded event. After it, the recorded plan counts as the last one.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Withholds a history until its plan is the worker's. The history of a fork begins with the plan of its
/// origin, and the worker processes no event before the fork.
pub(super) struct PlanCheckedHistory {
    history: HistoryConsumer,
    /// The worker's plan, once it is known.
    plan: Option<Plan>,
    /// The last plan in the history.
    recorded_plan: Option<Plan>,
    /// Events read before the plans matched.
    buffered: VecDeque<Recorded>,
}

impl PlanCheckedHistory {
    pub(super) fn new(history: HistoryConsumer) -> Self {
        Self { history, plan: None, recorded_plan: None, buffered: VecDeque::new() }
    }

    /// Sets the worker's plan.
    pub(super) fn expect(&mut self, plan: Plan) {
        self.plan = Some(plan);
    }

    /// Returns the settings that the experiment keeps. An experiment that does not begin in time is new, and
    /// has the defaults.
    ///
    /// # Errors
    /// If the history cannot be read, or its reading rules are those of a newer version of the program.
    pub(super) async fn kept_settings(&mut self) -> anyhow::Result<KeptSettings> {
        while self.recorded_plan.is_none() {
            let Ok(next) = tokio::time::timeout(READ_TIMEOUT, self.read()).await else { break };
            let Some(recorded) = next? else { break };
            self.buffered.push_back(recorded);
        }
        Ok(KeptSettings::of_plan(self.recorded_plan.as_ref())?)
    }

    async fn read(&mut self) -> anyhow::Result<Option<Recorded>> {
        let Some(recorded) = self.history.next().await? else { return Ok(None) };
        if let Some(plan) = plan_of(&recorded)? {
            self.recorded_plan = Some(plan);
        }
        Ok(Some(recorded))
    }

    fn plans_match(&self) -> bool {
        self.recorded_plan.is_some() && self.recorded_plan == self.plan
    }

    /// Reads and buffers events until the recorded plan matches.
    ///
    /// # Errors
    /// If the history ends with another plan, or cannot be read.
    async fn read_to_matching_plan(&mut self) -> anyhow::Result<()> {
        while !self.plans_match() {
            let next = match self.recorded_plan.clone() {
                // A history without a plan may still receive one.
                None => self.read().await?,
                Some(other) => match tokio::time::timeout(READ_TIMEOUT, self.read()).await {
                    Ok(next) => next?,
                    Err(_) => {
                        let plan = self.plan.as_ref().context("the worker has no plan")?;
                        return Ok(check_same_plan(&other, plan)?);
                    }
                },
            };
            let Some(recorded) = next else { return Ok(()) };
            self.buffered.push_back(recorded);
        }
        Ok(())
    }
}

/// Returns the plan that an event sets, if any.
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
            if !self.plans_match() {
                self.read_to_matching_plan().await.map_err(|error| format!("{error:#}"))?;
                return Ok(self.buffered.pop_front());
            }
            if let Some(buffered) = self.buffered.pop_front() {
                return Ok(Some(buffered));
            }
            let next = self.read().await.map_err(|error| format!("{error:#}"))?;
            if self.plans_match() {
                return Ok(next);
            }
            Err("the plan of the experiment has changed: restart the worker".to_owned())
        })
    }
}
