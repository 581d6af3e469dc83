//! State that the handles, the consumers and the I/O thread share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Waker;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError, LogPart};
use tokio::sync::{oneshot, watch};

use super::group::{Group, Rules};
use super::leave_request::LeaveRequest;
use super::options::EmbeddedOptions;
use super::record::Record;
use super::status::GroupStatus;
use super::wakeup::Wakeup;
use crate::broker::Subscription;
use crate::delivery::Parked;
use crate::error::BrokerError;
use crate::lock::lock;

/// A group behind its lock. The lock is never held during I/O.
pub(super) struct GroupCell {
    pub name: String,
    pub experiment: Option<ExperimentId>,
    state: Mutex<Group>,
}

/// A request to redeliver an event to a group.
pub(super) struct UnparkRequest {
    pub group: String,
    pub position: u64,
    pub done: oneshot::Sender<Result<(), BrokerError>>,
}

impl UnparkRequest {
    pub(super) fn new(group: &str, position: u64) -> (Self, oneshot::Receiver<Result<(), BrokerError>>) {
        let (done, outcome) = oneshot::channel();
        (Self { group: group.to_owned(), position, done }, outcome)
    }
}

/// Set once: everything is settled and durable, or the error that prevents it.
type Drained = Option<Result<(), BrokerError>>;

/// Holds no handle of the log: a delivery that outlives the broker must not keep the log open.
pub(super) struct Shared {
    pub options: EmbeddedOptions,
    pub(super) groups: Mutex<Vec<Arc<GroupCell>>>,
    pub(super) leave_requests: Mutex<Vec<LeaveRequest>>,
    /// Flags of the consumers of parked messages, by experiment.
    pub(super) leave_watches: Mutex<Vec<(ExperimentId, Weak<AtomicBool>)>>,
    unpark_requests: Mutex<Vec<UnparkRequest>>,
    parked_wakers: Mutex<Vec<Waker>>,
    closing: AtomicBool,
    stopping: AtomicBool,
    /// Shared with the log's listener, which must not hold the log.
    pub wakeup: Arc<Wakeup>,
    drained: watch::Sender<Drained>,
}

impl Shared {
    pub(super) fn new(options: EmbeddedOptions) -> Self {
        Self {
            options,
            groups: Mutex::default(),
            leave_requests: Mutex::default(),
            leave_watches: Mutex::default(),
            unpark_requests: Mutex::default(),
            parked_wakers: Mutex::default(),
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            wakeup: Arc::default(),
            drained: watch::Sender::new(None),
        }
    }

    // ---- groups

    pub(super) fn groups(&self) -> Vec<Arc<GroupCell>> {
        lock(&self.groups).clone()
    }

    /// Changes a group, releases its lock, then performs the effects of the change.
    pub(super) fn with<T>(&self, cell: &GroupCell, change: impl FnOnce(&mut Group) -> T) -> T {
        let mut group = lock(&cell.state);
        let outcome = change(&mut group);
        let effects = group.effects();
        drop(group);
        effects.wakers.into_iter().for_each(Waker::wake);
        if effects.io_thread {
            self.wake_io_thread();
        }
        if effects.parked {
            self.wake_parked();
        }
        outcome
    }

    /// Joins the subscription's group; reads its record from the log if the group is new.
    pub(super) fn join(
        &self,
        log: &dyn EventLog,
        subscription: &Subscription,
    ) -> Result<(Arc<GroupCell>, u64), BrokerError> {
        let rules = Rules::of(subscription, self.options.retry_delay_max);
        // The lock is held during the read, so that two first consumers do not both create the group.
        let mut groups = lock(&self.groups);
        if self.is_closing() {
            return Err(BrokerError::Closed);
        }
        if let Some(experiment) = &subscription.experiment {
            self.check_staying(experiment)?;
        }
        let found = groups.iter().find(|cell| cell.name == subscription.group).cloned();
        let cell = match found {
            Some(cell) => cell,
            None => {
                let record = stored_record(log, &subscription.group)?;
                let name = subscription.group.clone();
                let group = Group::new(name.clone(), rules.clone(), record, self.options.page_events);
                let experiment = subscription.experiment.clone();
                let cell = Arc::new(GroupCell { name, experiment, state: Mutex::new(group) });
                groups.push(Arc::clone(&cell));
                cell
            }
        };
        drop(groups);
        let member = self.with(&cell, |group| group.join(&rules, subscription.prefetch))?;
        Ok((cell, member))
    }

    pub(super) fn status(&self) -> Vec<GroupStatus> {
        self.groups().iter().map(|cell| lock(&cell.state).status()).collect()
    }

    // ---- parked messages

    pub(super) fn take_parked(&self, experiment: &ExperimentId) -> Option<(Arc<GroupCell>, Parked)> {
        let may_have = |cell: &Arc<GroupCell>| cell.experiment.as_ref().is_none_or(|of| of == experiment);
        self.groups().into_iter().filter(may_have).find_map(|cell| {
            let parked = self.with(&cell, |group| group.take_parked(experiment))?;
            Some((cell, parked))
        })
    }

    /// Registers `waker` for the next change of the parked messages.
    pub(super) fn await_parked(&self, waker: &Waker) {
        let mut wakers = lock(&self.parked_wakers);
        if !wakers.iter().any(|registered| registered.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    pub(super) fn wake_parked(&self) {
        let wakers = std::mem::take(&mut *lock(&self.parked_wakers));
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn request_unpark(&self, request: UnparkRequest) {
        lock(&self.unpark_requests).push(request);
        if self.is_stopping() {
            // The I/O thread may not poll again. The caller of a dropped request receives `Closed`.
            self.take_unpark_requests();
        }
        self.wake_io_thread();
    }

    pub(super) fn take_unpark_requests(&self) -> Vec<UnparkRequest> {
        std::mem::take(&mut *lock(&self.unpark_requests))
    }

    // ---- the end

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        let groups = lock(&self.groups);
        self.closing.store(true, Ordering::Release);
        let cells = groups.clone();
        drop(groups);
        for cell in cells {
            self.with(&cell, Group::close);
        }
        self.wake_parked();
        self.wake_io_thread();
    }

    pub(super) fn stop(&self) {
        self.close();
        self.stopping.store(true, Ordering::Release);
        self.wake_io_thread();
    }

    /// Ends every group with an error; the last action of an I/O thread that failed.
    pub(super) fn fail(&self, error: &BrokerError) {
        self.closing.store(true, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
        for cell in self.groups() {
            self.with(&cell, |group| group.fail(error.clone()));
        }
        self.wake_parked();
        self.take_unpark_requests();
        self.take_leave_requests();
    }

    pub(super) fn failure(&self) -> Option<BrokerError> {
        self.groups().iter().find_map(|cell| lock(&cell.state).failure())
    }

    /// The first outcome stands.
    pub(super) fn set_drained(&self, outcome: Result<(), BrokerError>) {
        self.drained.send_if_modified(|drained| {
            let first = drained.is_none();
            drained.get_or_insert(outcome);
            first
        });
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.borrow().is_some()
    }

    pub(super) async fn drained(&self) -> Result<(), BrokerError> {
        let mut drained = self.drained.subscribe();
        let outcome = drained.wait_for(Option::is_some).await.map_err(|_| BrokerError::Closed)?;
        outcome.clone().unwrap_or(Err(BrokerError::Closed))
    }

    // ---- the I/O thread

    pub(super) fn wake_io_thread(&self) {
        self.wakeup.notify();
    }
}

fn stored_record(log: &dyn EventLog, group: &str) -> Result<Option<Record>, BrokerError> {
    let corrupt = |why: String| {
        let reason = format!("invalid record of subscription {group:?}: {why}");
        BrokerError::Log(LogError::corrupt(LogPart::Subscription, reason))
    };
    let Some(bytes) = log.load_cursor(group)? else {
        return Ok(None);
    };
    let record = Record::decode(&bytes).map_err(corrupt)?;
    let head = log.head();
    if record.done_to > head {
        let reason = format!("the position {} is after the log's last event {head}", record.done_to);
        return Err(corrupt(reason));
    }
    Ok(Some(record))
}

impl GroupCell {
    pub(super) fn lock(&self) -> MutexGuard<'_, Group> {
        lock(&self.state)
    }
}
