//! What pages show of the experiments.

use dissent_domain::id::ExperimentId;
use dissent_domain::operator::ExperimentStatus;
use serde_json::{Value, json};

use super::experiments::{Row, page_of_experiments};
use super::service::{Api, reading};
use crate::history::overview::{ExperimentHistory, Overview, State};
use crate::serving::gate::Caller;
use crate::serving::problem::Problem;
use crate::serving::status::{Hosting, HostingState};

/// An experiment as its page shows it.
pub(crate) struct Shown {
    pub(crate) overview: Overview,
    /// The state in words.
    pub(crate) words: &'static str,
    /// Why the server halted it.
    pub(crate) halted: Option<String>,
}

/// Returns the rows of the list of experiments, each with its state in words, and the cursor of the next
/// page.
pub(crate) async fn experiments(
    api: &Api,
    caller: &Caller,
    limit: usize,
    after: Option<&str>,
) -> Result<(Vec<Value>, Option<String>), Problem> {
    let (rows, next) = page_of_experiments(api, caller, limit, after).await?;
    let row = |row: Row| {
        let words = row.words();
        let mut value = json!(row);
        value["words"] = words.into();
        value
    };
    Ok((rows.into_iter().map(row).collect(), next))
}

/// Returns an experiment as its page shows it.
pub(crate) async fn experiment(api: &Api, experiment: &ExperimentId) -> Result<Shown, Problem> {
    let service = api.service()?;
    let (log, name) = (service.log.clone(), experiment.clone());
    let overview = reading(move || {
        let history = ExperimentHistory::read(&*log, &name, None)?;
        Ok((history.replay.version() > 0).then(|| history.overview(&name)))
    });
    let overview = overview.await?.ok_or_else(|| super::experiments::unknown(experiment))?;
    let halted = match service.status.hosting(experiment) {
        Some(Hosting::Halted(halt)) => Some(halt.reason),
        _ => None,
    };
    let words = if halted.is_some() { "halted" } else { overview.state.words() };
    Ok(Shown { overview, words, halted })
}

impl Row {
    /// The state in words, as far as the server knows it without reading the history.
    fn words(&self) -> &'static str {
        match (&self.hosting, self.status) {
            (Some(HostingState::Halted), _) => "halted",
            (Some(HostingState::Loading), _) => "loading",
            (Some(HostingState::NoConfiguration), _) => "without a configuration",
            (_, Some(ExperimentStatus::Running)) if self.waits_for_people => State::WaitsForPeople.words(),
            (_, Some(ExperimentStatus::Running)) => State::InProgress.words(),
            (_, Some(ExperimentStatus::Created)) => State::Created.words(),
            (_, Some(ExperimentStatus::Paused)) => State::Paused.words(),
            (_, Some(ExperimentStatus::Cancelled)) => State::Cancelled.words(),
            (_, Some(ExperimentStatus::Finished)) => State::Finished.words(),
            (_, None) => "ended",
        }
    }
}
