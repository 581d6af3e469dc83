//! The intake of one queue: one channel for all of this process's consumers of it, opened again whenever it is lost.

mod ledger;
mod recent;
mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use self::ledger::Ledger;
use self::state::{Arrival, Order, State, Tag};
pub(super) use self::state::{Item, Settled, Turn};
use super::core::{Core, Gate};
use super::dead::DeadLetter;
use super::link::{Backoff, LinkError, next};
use super::topology::{is_absent, short};
use crate::lock::lock;

/// Acknowledgements are sent together, at the latest at this number and after this time.
const ACKS_MAX: usize = 32;
const ACKS_WAIT: Duration = Duration::from_millis(5);
/// How often it is looked whether anybody still holds the intake.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait between two looks for a queue that the server has yet to declare.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(1);

/// What comes out of a queue.
pub(super) trait Kind: Send + Sync + 'static {
    type Message: Clone + Send + 'static;
    /// What dead letters call it.
    const NAME: &'static str;
    /// Takes a delivery for what it is, or says why it cannot be.
    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String>;
    /// What its duplicates are known by.
    fn key(&self, delivery: &Delivery) -> Option<String> {
        delivery.properties.message_id().as_ref().map(ShortString::to_string)
    }
}

/// A queue's intake. Its task ends when nobody holds it any more, or with the broker.
pub(super) struct Intake<K: Kind> {
    core: Arc<Core>,
    queue: String,
    kind: K,
    state: Mutex<State<K::Message>>,
    changed: Notify,
    /// Acknowledgements are under way.
    telling: AtomicBool,
    /// Every member's consumer is there.
    consuming: AtomicBool,
}

impl<K: Kind> Intake<K> {
    pub(super) fn start(core: &Arc<Core>, queue: String, kind: K) -> Arc<Self> {
        let intake = Arc::new(Self {
            core: Arc::clone(core),
            queue,
            kind,
            state: Mutex::new(State::new()),
            changed: Notify::new(),
            telling: AtomicBool::new(false),
            consuming: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&intake);
        core.add_gate(weak.clone() as Weak<dyn Gate>);
        core.runtime.spawn(run(weak));
        intake
    }

    fn with<T>(&self, change: impl FnOnce(&mut State<K::Message>) -> T) -> T {
        let mut state = lock(&self.state);
        let outcome = change(&mut state);
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(std::task::Waker::wake);
        outcome
    }

    pub(super) fn join(self: &Arc<Self>, prefetch: u16) -> Member<K> {
        let number = self.with(|state| state.join(prefetch));
        self.consuming.store(false, Ordering::Release);
        self.changed.notify_one();
        Member { intake: Arc::clone(self), number }
    }

    pub(super) fn settle(&self, key: &str, how: Settled) {
        self.with(|state| state.settle(key, how));
        self.changed.notify_one();
    }

    pub(super) fn holds(&self, wanted: impl FnMut(&K::Message) -> bool) -> bool {
        lock(&self.state).holds(wanted)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn kind(&self) -> &K {
        &self.kind
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }
}

impl<K: Kind> Gate for Intake<K> {
    fn close(&self) {
        self.with(State::close);
        self.changed.notify_one();
    }

    fn is_idle(&self) -> bool {
        lock(&self.state).is_idle() && !self.telling.load(Ordering::Acquire)
    }

    fn is_steady(&self) -> bool {
        let told = !self.telling.load(Ordering::Acquire) && !lock(&self.state).has_orders();
        told && self.consuming.load(Ordering::Acquire)
    }
}

/// A consumer's place. Dropping it leaves.
pub(super) struct Member<K: Kind> {
    intake: Arc<Intake<K>>,
    number: u64,
}

impl<K: Kind> Member<K> {
    pub(super) fn intake(&self) -> &Arc<Intake<K>> {
        &self.intake
    }

    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Item<K::Message>>> {
        match self.intake.with(|state| state.take(self.number, Some(context.waker()))) {
            Turn::Deliver(item) => Poll::Ready(Some(item)),
            Turn::Ended => Poll::Ready(None),
            Turn::Wait => Poll::Pending,
        }
    }

    pub(super) fn try_next(&self) -> Option<Item<K::Message>> {
        match self.intake.with(|state| state.take(self.number, None)) {
            Turn::Deliver(item) => Some(item),
            Turn::Wait | Turn::Ended => None,
        }
    }
}

impl<K: Kind> Drop for Member<K> {
    fn drop(&mut self) {
        self.intake.with(|state| state.leave(self.number));
        self.intake.changed.notify_one();
    }
}

/// A message in hand, given back when dropped unsettled.
pub(super) struct Lease<K: Kind> {
    intake: Arc<Intake<K>>,
    key: Option<String>,
}

impl<K: Kind> Lease<K> {
    pub(super) fn new(intake: &Arc<Intake<K>>, key: String) -> Self {
        Self { intake: Arc::clone(intake), key: Some(key) }
    }

    pub(super) fn settle(mut self, how: Settled) {
        if let Some(key) = self.key.take() {
            self.intake.settle(&key, how);
        }
    }

    pub(super) fn intake(&self) -> &Arc<Intake<K>> {
        &self.intake
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.intake.core
    }
}

impl<K: Kind> Drop for Lease<K> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.intake.settle(&key, Settled::Released);
        }
    }
}

/// Consumes for as long as the intake is held.
async fn run<K: Kind>(weak: Weak<Intake<K>>) {
    let mut backoff = Backoff::up_to(QUEUE_WAIT_MAX);
    let mut known_trouble = None;
    while let Some(intake) = weak.upgrade() {
        if intake.core.is_stopping() {
            return;
        }
        let mut session = Session::new(&intake);
        let error = session.run(&weak).await;
        intake.consuming.store(false, Ordering::Release);
        intake.telling.store(false, Ordering::Release);
        intake.with(State::begin_epoch);
        let Some(error) = error else { return };
        let consumed = session.consumed;
        drop(session);
        if consumed {
            backoff.reset();
            known_trouble = None;
        }
        if matches!(error, LinkError::Late(_)) {
            intake.core.suspect([intake.queue.clone()]);
        }
        let trouble = error.to_string();
        // Once for each kind of trouble: it may last for hours.
        if known_trouble.as_ref() != Some(&trouble) {
            tracing::info!(queue = %intake.queue, error = %trouble, "consuming again soon");
            known_trouble = Some(trouble);
        }
        drop(intake);
        backoff.wait().await;
    }
}

/// One channel's time.
struct Session<'a, K: Kind> {
    intake: &'a Arc<Intake<K>>,
    epoch: u64,
    ledger: Ledger,
    /// Since when there is something to acknowledge.
    oldest_ack: Option<Instant>,
    consumers: BTreeMap<u64, ShortString>,
    prefetch_total: usize,
    incoming: mpsc::UnboundedReceiver<(u64, Option<Delivery>)>,
    outgoing: mpsc::UnboundedSender<(u64, Option<Delivery>)>,
    /// Dead letters under way, by tag, that are acknowledged once they are safe.
    buried: (mpsc::UnboundedSender<u64>, mpsc::UnboundedReceiver<u64>),
    consumed: bool,
}

impl<'a, K: Kind> Session<'a, K> {
    fn new(intake: &'a Arc<Intake<K>>) -> Self {
        // Unbounded, but RabbitMQ sends no more than the prefetch.
        let (outgoing, incoming) = mpsc::unbounded_channel();
        Self {
            intake,
            epoch: 0,
            ledger: Ledger::default(),
            oldest_ack: None,
            consumers: BTreeMap::new(),
            prefetch_total: 0,
            incoming,
            outgoing,
            buried: mpsc::unbounded_channel(),
            consumed: false,
        }
    }

    /// Until the channel is lost (why), or the intake is held by nobody but us (none).
    async fn run(&mut self, weak: &Weak<Intake<K>>) -> Option<LinkError> {
        let link = self.intake.core.consuming.clone();
        let (generation, channel) = match link.channel().await {
            Ok(opened) => opened,
            Err(error) => return Some(error),
        };
        self.epoch = self.intake.with(State::begin_epoch);
        loop {
            if let Err(error) = self.tell(&channel).await {
                return Some(error);
            }
            if weak.strong_count() == 1 && self.consumers.is_empty() {
                return None;
            }
            let flush_at = self.oldest_ack.map(|since| since + ACKS_WAIT);
            tokio::select! {
                biased;
                delivery = self.incoming.recv() => match delivery {
                    Some((_, Some(delivery))) => self.take_in(&delivery),
                    // A consumer that was cancelled by us is no longer among them.
                    Some((member, None)) if self.consumers.contains_key(&member) => return Some(LinkError::Cancelled),
                    _ => {}
                },
                () = self.intake.changed.notified() => {}
                Some(tag) = self.buried.1.recv() => {
                    self.ledger.settle(tag);
                    self.oldest_ack.get_or_insert_with(Instant::now);
                }
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {}
                () = link.lost(generation) => return Some(LinkError::Lost),
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Tells RabbitMQ what has changed: members, messages given back, acknowledgements when they are due.
    async fn tell(&mut self, channel: &Channel) -> Result<(), LinkError> {
        self.sync_members(channel).await?;
        self.intake.telling.store(true, Ordering::Release);
        let link = &self.intake.core.consuming;
        for order in self.intake.with(State::take_orders) {
            match order {
                Order::Acknowledge(tag) if tag.epoch == self.epoch => {
                    self.ledger.settle(tag.number);
                    self.oldest_ack.get_or_insert_with(Instant::now);
                }
                Order::GiveBack(tag) if tag.epoch == self.epoch && self.ledger.give_back(tag.number) => {
                    let requeue = BasicNackOptions { requeue: true, multiple: false };
                    link.within(channel.basic_nack(tag.number, requeue)).await?;
                }
                // Of a channel that is gone.
                Order::Acknowledge(_) | Order::GiveBack(_) => {}
            }
        }
        let enough = (self.prefetch_total / 2).clamp(1, ACKS_MAX);
        let due = self.oldest_ack.is_some_and(|since| since.elapsed() >= ACKS_WAIT);
        if due || self.ledger.settled() >= enough {
            self.acknowledge(channel).await?;
        }
        if self.ledger.settled() == 0 {
            self.intake.telling.store(false, Ordering::Release);
        }
        Ok(())
    }

    async fn acknowledge(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let link = &self.intake.core.consuming;
        let acks = self.ledger.take();
        self.oldest_ack = None;
        if let Some(tag) = acks.up_to {
            link.within(channel.basic_ack(tag, BasicAckOptions { multiple: true })).await?;
        }
        for tag in acks.single {
            link.within(channel.basic_ack(tag, BasicAckOptions { multiple: false })).await?;
        }
        Ok(())
    }

    /// Starts consumers for members that joined and cancels those of members that left.
    async fn sync_members(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let link = &self.intake.core.consuming;
        let wanted: BTreeMap<u64, u16> = lock(&self.intake.state).wanted().into_iter().collect();
        let left: Vec<u64> =
            self.consumers.keys().copied().filter(|member| !wanted.contains_key(member)).collect();
        for member in left {
            if let Some(tag) = self.consumers.remove(&member) {
                link.within(channel.basic_cancel(tag, BasicCancelOptions::default())).await?;
            }
        }
        for (&member, &prefetch) in &wanted {
            if self.consumers.contains_key(&member) {
                continue;
            }
            // On this channel it is for the consumers that begin from now on, each on its own.
            link.within(channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
            let consuming = channel.basic_consume(
                short(&self.intake.queue),
                short(""),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = match link.within(consuming).await {
                Err(LinkError::Amqp(error)) if is_absent(&error) => {
                    return Err(LinkError::NoQueue(self.intake.queue.clone()));
                }
                outcome => outcome?,
            };
            self.consumers.insert(member, consumer.tag());
            tokio::spawn(forward(consumer, member, self.outgoing.clone()));
            self.consumed = true;
        }
        self.prefetch_total = wanted.values().map(|&prefetch| usize::from(prefetch)).sum();
        self.intake.consuming.store(true, Ordering::Release);
        Ok(())
    }

    fn take_in(&mut self, delivery: &Delivery) {
        let counters = &self.intake.core.counters;
        self.ledger.seen(delivery.delivery_tag);
        if delivery.redelivered {
            counters.redelivered.fetch_add(1, Ordering::AcqRel);
        }
        let key = self.intake.kind.key(delivery).ok_or_else(|| "it has no message id".to_owned());
        match key.and_then(|key| Ok((key, self.intake.kind.decode(delivery)?))) {
            Ok((key, message)) => {
                let tag = Tag { epoch: self.epoch, number: delivery.delivery_tag };
                let redelivered = delivery.redelivered;
                let arrival = self.intake.with(|state| state.arrive(tag, key, message, redelivered));
                if arrival == Arrival::Duplicate {
                    counters.duplicates_dropped.fetch_add(1, Ordering::AcqRel);
                }
            }
            Err(reason) => self.bury(delivery, reason),
        }
    }

    /// What cannot be read goes to the dead letters, with the reason; only then is it acknowledged.
    fn bury(&self, delivery: &Delivery, reason: String) {
        tracing::warn!(queue = %self.intake.queue, error = %reason, "a message cannot be read");
        let letter = DeadLetter::unreadable(K::NAME, &self.intake.queue, delivery, &reason);
        let (core, tag) = (Arc::clone(&self.intake.core), delivery.delivery_tag);
        let buried = self.buried.0.clone();
        tokio::spawn(async move {
            match letter.bury(&core).await {
                Ok(()) => {
                    // The channel may be gone: then it comes again, and is buried again.
                    let _gone = buried.send(tag);
                }
                Err(error) => tracing::error!(%error, "failed to bury a message; it stays in its queue"),
            }
        });
    }
}

/// Passes a consumer's deliveries on until it ends.
async fn forward(
    mut consumer: lapin::Consumer,
    member: u64,
    outgoing: mpsc::UnboundedSender<(u64, Option<Delivery>)>,
) {
    while let Some(Ok(delivery)) = next(&mut consumer).await {
        if outgoing.send((member, Some(delivery))).is_err() {
            return;
        }
    }
    // The session is gone.
    let _gone = outgoing.send((member, None));
}
