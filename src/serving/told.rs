//! The history that a worker is told, which must be that of the plan it works on.

use std::collections::VecDeque;
use std::time::Duration;

use dissent_domain::event::{Event, Recorded};
use dissent_domain::experiment::Plan;
use dissent_queues::{BoxFuture, HistoryConsumer};

use crate::experiment::plan_check::refuse_difference;

/// A history that says nothing for so long has no more past to tell.
const PAST_MAX: Duration = Duration::from_secs(10);

/// A history, held back until it agrees with a plan. That of a fork begins with the plan of its origin: what is in it before the fork
/// is nothing to work on.
pub(super) struct Told {
    history: HistoryConsumer,
    plan: Plan,
    /// The plan that it had last.
    has: Option<Plan>,
    /// What was read before it agreed.
    held: VecDeque<Recorded>,
}

impl Told {
    pub(super) fn new(history: HistoryConsumer, plan: Plan) -> Self {
        Self { history, plan, has: None, held: VecDeque::new() }
    }

    async fn read(&mut self) -> anyhow::Result<Option<Recorded>> {
        let Some(recorded) = self.history.next().await? else { return Ok(None) };
        if let Some(plan) = plan_of(&recorded)? {
            self.has = Some(plan);
        }
        Ok(Some(recorded))
    }

    fn agrees(&self) -> bool {
        self.has.as_ref() == Some(&self.plan)
    }

    /// Reads on until the history agrees with the plan.
    async fn agree(&mut self) -> anyhow::Result<()> {
        while !self.agrees() {
            let told = match self.has.clone() {
                // Before the first event there is nothing to disagree with.
                None => self.read().await?,
                Some(other) => match tokio::time::timeout(PAST_MAX, self.read()).await {
                    Ok(told) => told?,
                    Err(_) => return refuse_difference(&other, &self.plan),
                },
            };
            let Some(recorded) = told else { return Ok(()) };
            self.held.push_back(recorded);
        }
        Ok(())
    }
}

/// The plan that holds from an event on, if it changes with it.
fn plan_of(recorded: &Recorded) -> anyhow::Result<Option<Plan>> {
    let event = recorded.decode()?;
    if let Event::ExperimentStarted(started) = event {
        return Ok(Some(started.plan));
    }
    Ok(if let Event::ExperimentForked(forked) = event { Some(forked.plan) } else { None })
}

impl dissent_actors::History for Told {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Recorded>, String>> {
        Box::pin(async {
            if let Some(held) = self.held.pop_front() {
                return Ok(Some(held));
            }
            if !self.agrees() {
                self.agree().await.map_err(|error| format!("{error:#}"))?;
                return Ok(self.held.pop_front());
            }
            let told = self.read().await.map_err(|error| format!("{error:#}"))?;
            if self.agrees() {
                return Ok(told);
            }
            Err("the experiment goes on with another plan: start the worker again".to_owned())
        })
    }
}
