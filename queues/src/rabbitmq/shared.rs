//! State that all parts of the broker share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use dissent_domain::error::chain;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::link::Link;
use super::link_error::LinkError;
use super::options::RabbitOptions;
use super::publisher::Publisher;
use super::signals::Signals;
use super::topology::Topology;
use crate::error::BrokerError;
use crate::lock::lock;

/// Interval between checks whether the broker is drained.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A consumer that can be closed and drained.
pub(super) trait Drainable: Send + Sync {
    /// Delivers nothing more; deliveries can still be settled.
    fn close(&self);
    /// Whether every delivery is settled and RabbitMQ has been informed.
    fn is_idle(&self) -> bool;
    /// Whether every member consumes and every settlement is sent to RabbitMQ.
    fn is_steady(&self) -> bool;
    /// Consumes again if its queue was replaced by another one of this name.
    fn queue_replaced(&self, queue: &str);
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub redelivered: AtomicU64,
    pub duplicates_dropped: AtomicU64,
    pub dead: AtomicU64,
    pub parked: AtomicU64,
    pub relayed: AtomicU64,
    pub relay_unconfirmed: AtomicU64,
}

/// Holds neither the log nor the runtime: a delivery that outlives the broker must not keep them.
pub(super) struct Shared {
    pub options: RabbitOptions,
    pub topology: Topology,
    pub publishing: Link,
    pub consuming: Link,
    pub publisher: Publisher,
    pub signals: Arc<Signals>,
    pub runtime: Handle,
    pub counters: Counters,
    drainables: Mutex<Vec<Weak<dyn Drainable>>>,
    closing: AtomicBool,
    stopping: AtomicBool,
    failure: Mutex<Option<BrokerError>>,
    /// Queues that did not answer in time.
    suspects: Mutex<BTreeSet<String>>,
    /// Notified when the broker closes.
    changed: Notify,
}

impl Shared {
    pub(super) fn new(
        options: RabbitOptions,
        topology: Topology,
        links: (Link, Link),
        publisher: Publisher,
        signals: Arc<Signals>,
        runtime: Handle,
    ) -> Self {
        Self {
            options,
            topology,
            publishing: links.0,
            consuming: links.1,
            publisher,
            signals,
            runtime,
            counters: Counters::default(),
            drainables: Mutex::default(),
            closing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            failure: Mutex::default(),
            suspects: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Returns the reason of a lasting refusal, of a connection or of an operation.
    pub(super) fn refusal(&self) -> Option<String> {
        let of_link = |link: &Link| link.trouble()?.refusal.map(|(reason, _)| reason);
        of_link(&self.publishing)
            .or_else(|| of_link(&self.consuming))
            .or_else(|| self.signals.refusals.first())
    }

    /// Returns the longest delay between two attempts, in milliseconds.
    pub(super) fn retry_delay_max_ms(&self) -> u64 {
        u64::try_from(self.options.retry_delay_max.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn add_drainable(&self, drainable: Weak<dyn Drainable>) {
        let mut drainables = lock(&self.drainables);
        drainables.retain(|drainable| drainable.strong_count() > 0);
        drainables.push(drainable);
    }

    fn drainables(&self) -> Vec<Arc<dyn Drainable>> {
        lock(&self.drainables).iter().filter_map(Weak::upgrade).collect()
    }

    /// Makes the consumers of a queue consume again, because another queue replaced it. RabbitMQ does not
    /// tell a consumer that starts during the deletion.
    pub(super) fn queue_replaced(&self, queue: &str) {
        self.drainables().iter().for_each(|drainable| drainable.queue_replaced(queue));
    }

    pub(super) fn is_steady(&self) -> bool {
        self.publisher.waiting() == 0 && self.drainables().iter().all(|drainable| drainable.is_steady())
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn check_running(&self) -> Result<(), BrokerError> {
        if self.is_closing() { Err(self.failure().unwrap_or(BrokerError::Closed)) } else { Ok(()) }
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for drainable in self.drainables() {
            drainable.close();
        }
        self.changed.notify_waiters();
    }

    /// Returns once the broker closes.
    pub(super) async fn closed(&self) {
        let mut closed = std::pin::pin!(self.changed.notified());
        // Register before checking, so that a close in between is noticed.
        closed.as_mut().enable();
        if !self.is_closing() {
            closed.await;
        }
    }

    /// Runs an operation of several steps with one time limit. It includes the wait for a connection.
    pub(super) async fn bounded<T>(
        &self,
        operation: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let limit = self.options.operation_timeout;
        match timeout(limit, operation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LinkError::Late(limit)),
        }
    }

    /// Notes queues that did not answer: the server checks whether they ever will.
    pub(super) fn suspect(&self, queues: impl IntoIterator<Item = String>) {
        lock(&self.suspects).extend(queues);
    }

    pub(super) fn take_suspects(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.suspects))
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.close();
    }

    /// Ends all consumers with an error. The first error stands.
    pub(super) fn fail(&self, error: BrokerError) {
        tracing::error!(error = %chain(&error), "stopping the RabbitMQ broker");
        lock(&self.failure).get_or_insert(error);
        self.close();
    }

    pub(super) fn failure(&self) -> Option<BrokerError> {
        lock(&self.failure).clone()
    }

    /// Waits until every delivery is settled, then a bounded time for RabbitMQ to confirm. While RabbitMQ is
    /// unavailable it does not wait: messages settled meanwhile are redelivered. Returns once abandoned.
    pub(super) async fn drained(&self) -> Result<(), BrokerError> {
        tokio::select! {
            biased;
            drained = self.settled_and_confirmed() => drained,
            () = self.signals.abandoned() => Err(BrokerError::Closed),
        }
    }

    async fn settled_and_confirmed(&self) -> Result<(), BrokerError> {
        while !self.drainables().iter().all(|drainable| drainable.is_idle()) {
            if self.is_stopping() {
                return Err(BrokerError::Closed);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let published = async {
            while self.publisher.waiting() > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let limit = self.options.operation_timeout;
        match timeout(limit, published).await {
            Ok(()) => self.failure().map_or(Ok(()), Err),
            Err(_) => Err(self.late("confirm all messages", limit)),
        }
    }

    /// The error when RabbitMQ does not finish an operation in time.
    pub(super) fn late(&self, action: &'static str, limit: Duration) -> BrokerError {
        BrokerError::Late { action, address: self.options.address(), limit, source: None }
    }
}
