//! Runs artifact checks beside the thread of the journal.
//!
//! A store may take minutes to answer, or never answer. So each check has a thread of its own, and the number
//! of checks at once is bounded. A shutdown waits for running checks only for a bounded time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dissent_domain::event::Event;
use dissent_domain::id::ExperimentId;
use tokio::sync::{Semaphore, oneshot, watch};

use super::artifact_check::{ArtifactCheck, Contradiction, artifact};
use crate::runner::panic_message;

/// Artifact checks at once, of all experiments. Each takes a thread and an adapter in memory. An experiment
/// has one at a time.
pub(super) const CHECKS_MAX: usize = 8;
/// Time that a shutdown leaves to running checks. A store that does not answer until then contradicts no
/// worker.
pub(super) const CHECK_GRACE: Duration = Duration::from_secs(5);
/// Time after which a running check is logged.
const CHECK_SLOW: Duration = Duration::from_secs(30);

/// The artifact checks of a journal.
#[derive(Clone)]
pub(super) struct Checks {
    slots: Arc<Semaphore>,
    running: Running,
    /// Raised when checks that still run must not be waited for.
    abandon: Arc<watch::Sender<bool>>,
}

/// The artifacts whose checks run or wait for a thread, by experiment.
type Running = Arc<Mutex<BTreeMap<ExperimentId, Vec<String>>>>;

/// A check in [`Checks::running`]; a drop removes it.
struct Registered {
    running: Running,
    experiment: ExperimentId,
}

impl Registered {
    fn new(running: &Running, experiment: ExperimentId, artifacts: Vec<String>) -> Self {
        running.lock().unwrap_or_else(PoisonError::into_inner).insert(experiment.clone(), artifacts);
        Self { running: running.clone(), experiment }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.experiment);
    }
}

impl Checks {
    pub(super) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(CHECKS_MAX)),
            running: Arc::default(),
            abandon: Arc::new(watch::channel(false).0),
        }
    }

    /// The handle with which a shutdown bounds its wait for these checks.
    pub(super) fn limit(&self) -> CheckLimit {
        CheckLimit(self.clone())
    }

    /// Checks the artifacts of events on a thread of its own. Returns the reason to contradict them, if there
    /// is one.
    pub(super) fn run(
        &self,
        experiment: ExperimentId,
        check: Arc<ArtifactCheck>,
        events: Vec<Event>,
    ) -> impl Future<Output = Option<Contradiction>> + use<> {
        let artifacts: Vec<String> = events.iter().filter_map(artifact).map(str::to_owned).collect();
        let registered = Registered::new(&self.running, experiment.clone(), artifacts.clone());
        let (slots, mut abandon) = (self.slots.clone(), self.abandon.subscribe());
        async move {
            let _registered = registered;
            let checking = on_thread(slots, check, events);
            tokio::pin!(checking);
            loop {
                tokio::select! {
                    // First, so that no further check starts after a shutdown has stopped waiting.
                    biased;
                    Ok(_) = abandon.wait_for(|abandon| *abandon) => {
                        tracing::warn!(
                            experiment_id = %experiment,
                            ?artifacts,
                            "abandoning an artifact check: the store did not respond before the shutdown"
                        );
                        return None;
                    }
                    verdict = &mut checking => return verdict,
                    () = tokio::time::sleep(CHECK_SLOW) => {
                        tracing::warn!(experiment_id = %experiment, ?artifacts, "waiting for the artifact store");
                    }
                }
            }
        }
    }
}

async fn on_thread(
    slots: Arc<Semaphore>,
    check: Arc<ArtifactCheck>,
    events: Vec<Event>,
) -> Option<Contradiction> {
    let slot = slots.acquire_owned().await.ok();
    let (reply, verdict) = oneshot::channel();
    // Not a thread of the runtime's pool: a store that never answers would hold up the end of the process.
    let thread = std::thread::Builder::new().name("artifact-check".to_owned()).spawn(move || {
        let verdict = catch_unwind(AssertUnwindSafe(|| check.contradicts(&events)));
        drop(slot);
        // Without a receiver the check was abandoned.
        let _ =
            reply.send(verdict.unwrap_or_else(|panic| Some(Contradiction::Panicked(panic_message(&*panic)))));
    });
    match thread {
        Ok(_) => verdict.await.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "failed to start the thread of an artifact check");
            None
        }
    }
}

/// Bounds the wait of a shutdown for artifact checks.
pub(crate) struct CheckLimit(Checks);

impl CheckLimit {
    /// Logs the checks that a shutdown waits for. Abandons running and later checks after a grace period,
    /// unless it is dropped before.
    pub(crate) async fn expire(&self) {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (experiment, artifacts) in running {
            tracing::warn!(
                experiment_id = %experiment,
                ?artifacts,
                grace_s = CHECK_GRACE.as_secs(),
                "waiting for the artifact store before the shutdown"
            );
        }
        tokio::time::sleep(CHECK_GRACE).await;
        self.0.abandon.send_replace(true);
    }
}
