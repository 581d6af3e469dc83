//! The status of a running process and of its experiments, for health checks, metrics and lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dissent_actors::{ModelCache, ProcessHealth, Progress};
use dissent_domain::id::ExperimentId;
use dissent_domain::operator::ExperimentStatus;
use serde::Serialize;
use utoipa::ToSchema;

use super::broker_handle::BrokerHandle;
use crate::experiment::kept_config::Halt;

/// Ended experiments whose last progress is kept for metrics and lists.
const ENDED_MAX: usize = 100;

/// What a process does with an experiment.
#[derive(Clone)]
pub(super) enum Hosting {
    /// Its models and its state are being opened.
    Loading,
    /// Its steps run here.
    Running(ProcessHealth),
    /// It has ended: its last progress.
    Ended(Progress),
    /// A step failed for good. It goes on after a retry.
    Halted(Halt),
    /// Its configuration is not kept here.
    NoConfiguration,
}

/// As [`Hosting`], for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HostingState {
    Loading,
    Running,
    Ended,
    Halted,
    NoConfiguration,
}

impl Hosting {
    pub(super) fn state(&self) -> HostingState {
        match self {
            Self::Loading => HostingState::Loading,
            Self::Running(_) => HostingState::Running,
            Self::Ended(_) => HostingState::Ended,
            Self::Halted(_) => HostingState::Halted,
            Self::NoConfiguration => HostingState::NoConfiguration,
        }
    }
}

/// How far a process has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// It waits for this before it can work.
    Starting(String),
    Working,
    Draining,
}

/// The status of a running process.
pub(crate) struct ServiceStatus {
    pub(super) cache: ModelCache,
    stage: Mutex<Stage>,
    broker: Mutex<Option<BrokerHandle>>,
    experiments: Mutex<BTreeMap<ExperimentId, Hosting>>,
}

impl ServiceStatus {
    pub(crate) fn new(cache: ModelCache) -> Self {
        let stage = Mutex::new(Stage::Starting("starting".to_owned()));
        Self { cache, stage, broker: Mutex::default(), experiments: Mutex::default() }
    }

    /// Says what the start waits for.
    pub(super) fn wait_for(&self, what: impl Into<String>) {
        *lock(&self.stage) = Stage::Starting(what.into());
    }

    /// The process is connected to this broker, and opens its experiments.
    pub(super) fn use_broker(&self, broker: BrokerHandle) {
        *lock(&self.broker) = Some(broker);
        self.wait_for("opening the experiments");
    }

    /// The process works from now on.
    pub(super) fn start_working(&self) {
        *lock(&self.stage) = Stage::Working;
    }

    /// Marks the process as stopping, which makes it not ready.
    pub(super) fn start_draining(&self) {
        *lock(&self.stage) = Stage::Draining;
    }

    /// Returns the broker; `None` before the process is connected.
    pub(super) fn broker(&self) -> Option<BrokerHandle> {
        lock(&self.broker).clone()
    }

    /// Returns the reason why the process is not ready; `None` if it is ready.
    pub(super) fn not_ready_reason(&self) -> Option<String> {
        match &*lock(&self.stage) {
            Stage::Starting(what) => return Some(what.clone()),
            Stage::Draining => return Some("stopping".to_owned()),
            Stage::Working => {}
        }
        self.broker()?.not_ready_reason()
    }

    /// Notes what the process does with an experiment.
    pub(super) fn note(&self, experiment: &ExperimentId, hosting: Hosting) {
        let mut experiments = lock(&self.experiments);
        experiments.insert(experiment.clone(), hosting);
        let is_ended = |(name, hosting): (&ExperimentId, &Hosting)| {
            matches!(hosting, Hosting::Ended(_)).then(|| name.clone())
        };
        let ended: Vec<ExperimentId> = experiments.iter().filter_map(is_ended).collect();
        // One at a time: the oldest cannot be told from the others, and the log knows all of them.
        if let Some(surplus) = ended.iter().find(|name| *name != experiment)
            && ended.len() > ENDED_MAX
        {
            experiments.remove(surplus);
        }
    }

    /// Forgets an experiment.
    pub(super) fn forget(&self, experiment: &ExperimentId) {
        lock(&self.experiments).remove(experiment);
    }

    /// Returns what the process does with an experiment, if it knows the experiment.
    pub(super) fn hosting(&self, experiment: &ExperimentId) -> Option<Hosting> {
        lock(&self.experiments).get(experiment).cloned()
    }

    /// Returns the status of an experiment whose steps run here.
    pub(super) fn status(&self, experiment: &ExperimentId) -> Option<ExperimentStatus> {
        match self.hosting(experiment)? {
            Hosting::Running(health) => Some(health.progress.borrow().status),
            Hosting::Ended(progress) => Some(progress.status),
            Hosting::Loading | Hosting::Halted(_) | Hosting::NoConfiguration => None,
        }
    }

    /// Returns the experiments whose steps run or wait for workers.
    pub(super) fn running(&self) -> BTreeSet<ExperimentId> {
        let experiments = lock(&self.experiments);
        let running = experiments.iter().filter(|(_, hosting)| matches!(hosting, Hosting::Running(_)));
        running.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the experiments that the process knows, in the order of their names.
    pub(super) fn experiments(&self) -> Vec<(ExperimentId, Hosting)> {
        lock(&self.experiments).iter().map(|(name, hosting)| (name.clone(), hosting.clone())).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_only_while_it_works() {
        let status = ServiceStatus::new(ModelCache::default());
        assert_eq!(status.not_ready_reason().as_deref(), Some("starting"));
        status.wait_for("waiting for RabbitMQ");
        assert_eq!(status.not_ready_reason().as_deref(), Some("waiting for RabbitMQ"));
        status.start_draining();
        assert_eq!(status.not_ready_reason().as_deref(), Some("stopping"));
    }

    #[test]
    fn the_number_of_remembered_ended_experiments_is_bounded() {
        let status = ServiceStatus::new(ModelCache::default());
        for number in 0..ENDED_MAX + 20 {
            let name = ExperimentId::new(format!("e{number}")).unwrap();
            status.note(&name, Hosting::Ended(Progress::default()));
            assert!(status.hosting(&name).is_some(), "the latest is remembered");
        }
        assert_eq!(status.experiments().len(), ENDED_MAX);
    }
}
