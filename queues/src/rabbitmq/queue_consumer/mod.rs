//! The consumer of one queue. All members in this process share its channel, which is reopened whenever it is
//! lost.

mod ack_tracker;
mod recent_keys;
mod state;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use dissent_domain::error::chain;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use self::ack_tracker::AckTracker;
use self::state::{AckCommand, Arrival, State, Tag};
pub(super) use self::state::{Item, NextDelivery, Settled};
use super::dead_letter::DeadLetter;
use super::link::{BACKOFF_MIN, next};
use super::link_error::LinkError;
use super::shared::{Drainable, Shared};
use super::topology::{is_absent, look_at, short};
use crate::backoff::{Backoff, Retries};
use crate::lock::lock;

/// Acknowledgements are sent together, after at most this many and at most this delay.
const ACKS_MAX: usize = 32;
const ACKS_WAIT: Duration = Duration::from_millis(5);
/// Interval between checks whether the consumer is still in use.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest delay between two attempts to consume a queue that does not exist.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Decodes the messages of a queue.
pub(super) trait Decoder: Send + Sync + 'static {
    type Message: Clone + Send + 'static;
    /// The kind of message, as dead letters name it.
    const NAME: &'static str;
    /// Decodes a delivery, or returns the reason why it is unreadable.
    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String>;
    /// Returns the key by which duplicates are recognised.
    fn key(&self, delivery: &Delivery) -> Option<String> {
        delivery.properties.message_id().as_ref().map(ShortString::to_string)
    }
}

/// The consumer of a queue. Its task ends when no handle is left, or with the broker.
pub(super) struct QueueConsumer<K: Decoder> {
    shared: Arc<Shared>,
    queue: String,
    decoder: K,
    state: Mutex<State<K::Message>>,
    changed: Notify,
    /// Whether acknowledgements are being sent.
    acks_pending: AtomicBool,
    /// Whether every member has its AMQP consumer.
    consuming: AtomicBool,
    /// Whether another queue replaced the consumed one.
    replaced: AtomicBool,
}

impl<K: Decoder> QueueConsumer<K> {
    pub(super) fn start(shared: &Arc<Shared>, queue: String, decoder: K) -> Arc<Self> {
        let consumer = Arc::new(Self {
            shared: Arc::clone(shared),
            queue,
            decoder,
            state: Mutex::new(State::new()),
            changed: Notify::new(),
            acks_pending: AtomicBool::new(false),
            consuming: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&consumer);
        shared.add_drainable(weak.clone() as Weak<dyn Drainable>);
        shared.runtime.spawn(run(weak));
        consumer
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
        Member { consumer: Arc::clone(self), number }
    }

    pub(super) fn settle(&self, key: &str, how: Settled) {
        self.with(|state| state.settle(key, how));
        self.changed.notify_one();
    }

    pub(super) fn holds(&self, wanted: impl FnMut(&K::Message) -> bool) -> bool {
        lock(&self.state).holds(wanted)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn decoder(&self) -> &K {
        &self.decoder
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }
}

impl<K: Decoder> Drainable for QueueConsumer<K> {
    fn close(&self) {
        self.with(State::close);
        self.changed.notify_one();
    }

    fn is_idle(&self) -> bool {
        lock(&self.state).is_idle() && !self.acks_pending.load(Ordering::Acquire)
    }

    fn is_steady(&self) -> bool {
        let sent = !self.acks_pending.load(Ordering::Acquire) && !lock(&self.state).has_commands();
        sent && self.consuming.load(Ordering::Acquire)
    }

    fn queue_replaced(&self, queue: &str) {
        if queue == self.queue {
            self.replaced.store(true, Ordering::Release);
            self.changed.notify_one();
        }
    }
}

/// A member of a queue consumer. Dropping it leaves.
pub(super) struct Member<K: Decoder> {
    consumer: Arc<QueueConsumer<K>>,
    number: u64,
}

impl<K: Decoder> Member<K> {
    pub(super) fn consumer(&self) -> &Arc<QueueConsumer<K>> {
        &self.consumer
    }

    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Item<K::Message>>> {
        match self.consumer.with(|state| state.take(self.number, Some(context.waker()))) {
            NextDelivery::Deliver(item) => Poll::Ready(Some(item)),
            NextDelivery::Ended => Poll::Ready(None),
            NextDelivery::Wait => Poll::Pending,
        }
    }

    pub(super) fn try_next(&self) -> Option<Item<K::Message>> {
        match self.consumer.with(|state| state.take(self.number, None)) {
            NextDelivery::Deliver(item) => Some(item),
            NextDelivery::Wait | NextDelivery::Ended => None,
        }
    }
}

impl<K: Decoder> Drop for Member<K> {
    fn drop(&mut self) {
        self.consumer.with(|state| state.leave(self.number));
        self.consumer.changed.notify_one();
    }
}

/// The obligation to settle one message; a drop releases it.
pub(super) struct Lease<K: Decoder> {
    consumer: Arc<QueueConsumer<K>>,
    key: Option<String>,
}

impl<K: Decoder> Lease<K> {
    pub(super) fn new(consumer: &Arc<QueueConsumer<K>>, key: String) -> Self {
        Self { consumer: Arc::clone(consumer), key: Some(key) }
    }

    pub(super) fn settle(mut self, how: Settled) {
        if let Some(key) = self.key.take() {
            self.consumer.settle(&key, how);
        }
    }

    pub(super) fn consumer(&self) -> &Arc<QueueConsumer<K>> {
        &self.consumer
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.consumer.shared
    }
}

impl<K: Decoder> Drop for Lease<K> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.consumer.settle(&key, Settled::Released);
        }
    }
}

/// Consumes while the consumer has handles.
async fn run<K: Decoder>(weak: Weak<QueueConsumer<K>>) {
    let mut retries = Retries::new(Backoff::new(BACKOFF_MIN, QUEUE_WAIT_MAX));
    let mut last_trouble = None;
    while let Some(consumer) = weak.upgrade() {
        if consumer.shared.is_stopping() {
            return;
        }
        let mut session = Session::new(&consumer);
        let error = session.run(&weak).await;
        consumer.consuming.store(false, Ordering::Release);
        consumer.acks_pending.store(false, Ordering::Release);
        consumer.with(State::begin_epoch);
        let Some(error) = error else { return };
        let consumed = session.consumed;
        drop(session);
        if consumed {
            consumer.shared.signals.refusals.clear(&consumer.queue);
            retries.reset();
            last_trouble = None;
        }
        if matches!(error, LinkError::Late(_)) {
            consumer.shared.suspect([consumer.queue.clone()]);
        }
        if matches!(error, LinkError::NoQueue(_) | LinkError::Cancelled) {
            consumer.shared.signals.check.notify_one();
        }
        consumer.shared.signals.refusals.note(&consumer.queue, &error);
        let trouble = chain(&error);
        // Log each new error once: an outage may last for hours.
        if last_trouble.as_ref() != Some(&trouble) {
            tracing::info!(queue = %consumer.queue, error = %trouble, "restarting the consumer of a queue");
            last_trouble = Some(trouble);
        }
        drop(consumer);
        retries.wait().await;
    }
}

/// The state of one channel.
struct Session<'a, K: Decoder> {
    consumer: &'a Arc<QueueConsumer<K>>,
    epoch: u64,
    tracker: AckTracker,
    /// Time since the oldest unsent acknowledgement.
    oldest_ack: Option<Instant>,
    consumers: BTreeMap<u64, ShortString>,
    prefetch_total: usize,
    incoming: mpsc::UnboundedReceiver<(u64, Option<Delivery>)>,
    outgoing: mpsc::UnboundedSender<(u64, Option<Delivery>)>,
    /// Tags of messages that are being published as dead letters. They are acknowledged once those are
    /// durable.
    dead_letters: (mpsc::UnboundedSender<u64>, mpsc::UnboundedReceiver<u64>),
    consumed: bool,
}

impl<'a, K: Decoder> Session<'a, K> {
    fn new(consumer: &'a Arc<QueueConsumer<K>>) -> Self {
        // Unbounded, but RabbitMQ sends at most the prefetch.
        let (outgoing, incoming) = mpsc::unbounded_channel();
        Self {
            consumer,
            epoch: 0,
            tracker: AckTracker::default(),
            oldest_ack: None,
            consumers: BTreeMap::new(),
            prefetch_total: 0,
            incoming,
            outgoing,
            dead_letters: mpsc::unbounded_channel(),
            consumed: false,
        }
    }

    /// Runs until the channel is lost (returns the error) or no other handle is left (returns `None`).
    async fn run(&mut self, weak: &Weak<QueueConsumer<K>>) -> Option<LinkError> {
        let link = self.consumer.shared.consuming.clone();
        let (generation, channel) = match link.channel().await {
            Ok(opened) => opened,
            Err(error) => return Some(error),
        };
        let error = self.run_on(&channel, generation, weak).await;
        if matches!(error, Some(LinkError::Cancelled)) {
            // Its other consumers would keep it open, with their messages.
            let link = self.consumer.shared.consuming.clone();
            tokio::spawn(async move { link.within(channel.close(200, short("restarted"))).await });
        }
        error
    }

    async fn run_on(
        &mut self,
        channel: &Channel,
        generation: u64,
        weak: &Weak<QueueConsumer<K>>,
    ) -> Option<LinkError> {
        let link = self.consumer.shared.consuming.clone();
        self.epoch = self.consumer.with(State::begin_epoch);
        self.consumer.replaced.store(false, Ordering::Release);
        let mut checked = Instant::now();
        loop {
            if self.consumer.replaced.load(Ordering::Acquire) {
                return Some(LinkError::Cancelled);
            }
            if checked.elapsed() >= self.consumer.shared.options.check_interval {
                checked = Instant::now();
                if let Err(error) = self.check().await {
                    return Some(error);
                }
            }
            if let Err(error) = self.send_commands(channel).await {
                return Some(error);
            }
            if weak.strong_count() == 1 && self.consumers.is_empty() {
                return None;
            }
            let flush_at = self.oldest_ack.map(|since| since + ACKS_WAIT);
            tokio::select! {
                biased;
                delivery = self.incoming.recv() => match delivery {
                    Some((_, Some(delivery))) => self.receive(&delivery),
                    // A consumer that this process cancelled is no longer in the map.
                    Some((member, None)) if self.consumers.contains_key(&member) => return Some(LinkError::Cancelled),
                    _ => {}
                },
                () = self.consumer.changed.notified() => {}
                Some(tag) = self.dead_letters.1.recv() => {
                    self.tracker.settle(tag);
                    self.oldest_ack.get_or_insert_with(Instant::now);
                }
                () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {}
                () = link.lost(generation) => return Some(LinkError::Lost),
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Fails if the queue does not have the consumers of this process: it was replaced while they started.
    async fn check(&self) -> Result<(), LinkError> {
        let (link, queue) = (&self.consumer.shared.consuming, &self.consumer.queue);
        // A query for a missing queue closes the channel.
        let (_, channel) = link.channel().await?;
        let Some((_, consumers)) = link.within(look_at(&channel, queue)).await? else {
            return Err(LinkError::Cancelled);
        };
        link.within(channel.close(200, short("looked"))).await?;
        let is_whole = usize::try_from(consumers).is_ok_and(|consumers| consumers >= self.consumers.len());
        if is_whole { Ok(()) } else { Err(LinkError::Cancelled) }
    }

    /// Sends all changes to RabbitMQ: members, requeued messages, and acknowledgements when they are due.
    async fn send_commands(&mut self, channel: &Channel) -> Result<(), LinkError> {
        self.sync_members(channel).await?;
        self.consumer.acks_pending.store(true, Ordering::Release);
        let link = &self.consumer.shared.consuming;
        for command in self.consumer.with(State::take_commands) {
            match command {
                AckCommand::Acknowledge(tag) if tag.epoch == self.epoch => {
                    self.tracker.settle(tag.number);
                    self.oldest_ack.get_or_insert_with(Instant::now);
                }
                AckCommand::Requeue(tag) if tag.epoch == self.epoch && self.tracker.requeue(tag.number) => {
                    let requeue = BasicNackOptions { requeue: true, multiple: false };
                    link.within(channel.basic_nack(tag.number, requeue)).await?;
                }
                // The tag is of an old channel.
                AckCommand::Acknowledge(_) | AckCommand::Requeue(_) => {}
            }
        }
        let enough = (self.prefetch_total / 2).clamp(1, ACKS_MAX);
        let due = self.oldest_ack.is_some_and(|since| since.elapsed() >= ACKS_WAIT);
        if due || self.tracker.settled() >= enough {
            self.acknowledge(channel).await?;
        }
        if self.tracker.settled() == 0 {
            self.consumer.acks_pending.store(false, Ordering::Release);
        }
        Ok(())
    }

    async fn acknowledge(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let link = &self.consumer.shared.consuming;
        let acks = self.tracker.take();
        self.oldest_ack = None;
        if let Some(tag) = acks.up_to {
            link.within(channel.basic_ack(tag, BasicAckOptions { multiple: true })).await?;
        }
        for tag in acks.single {
            link.within(channel.basic_ack(tag, BasicAckOptions { multiple: false })).await?;
        }
        Ok(())
    }

    /// Starts consumers for new members and cancels those of members that left.
    async fn sync_members(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let link = &self.consumer.shared.consuming;
        let wanted: BTreeMap<u64, u16> = lock(&self.consumer.state).wanted().into_iter().collect();
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
            // On this channel the prefetch applies to each consumer that starts from now on.
            link.within(channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
            let consuming = channel.basic_consume(
                short(&self.consumer.queue),
                short(""),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = match link.within(consuming).await {
                Err(LinkError::Amqp(error)) if is_absent(&error) => {
                    return Err(LinkError::NoQueue(self.consumer.queue.clone()));
                }
                outcome => outcome?,
            };
            self.consumers.insert(member, consumer.tag());
            tokio::spawn(forward(consumer, member, self.outgoing.clone()));
            self.consumed = true;
        }
        self.prefetch_total = wanted.values().map(|&prefetch| usize::from(prefetch)).sum();
        self.consumer.consuming.store(true, Ordering::Release);
        Ok(())
    }

    fn receive(&mut self, delivery: &Delivery) {
        let counters = &self.consumer.shared.counters;
        self.tracker.seen(delivery.delivery_tag);
        if delivery.redelivered {
            counters.redelivered.fetch_add(1, Ordering::AcqRel);
        }
        let key = self.consumer.decoder.key(delivery).ok_or_else(|| "the message has no id".to_owned());
        match key.and_then(|key| Ok((key, self.consumer.decoder.decode(delivery)?))) {
            Ok((key, message)) => {
                let tag = Tag { epoch: self.epoch, number: delivery.delivery_tag };
                let redelivered = delivery.redelivered;
                let arrival = self.consumer.with(|state| state.arrive(tag, key, message, redelivered));
                if arrival == Arrival::Duplicate {
                    counters.duplicates_dropped.fetch_add(1, Ordering::AcqRel);
                }
            }
            Err(reason) => self.publish_dead_letter(delivery, reason),
        }
    }

    /// Publishes an unreadable message as a dead letter with the reason; then acknowledges it.
    fn publish_dead_letter(&self, delivery: &Delivery, reason: String) {
        tracing::warn!(queue = %self.consumer.queue, error = %reason, "moving an unreadable message to the dead letters");
        let letter = DeadLetter::unreadable(K::NAME, &self.consumer.queue, delivery, &reason);
        let (shared, tag) = (Arc::clone(&self.consumer.shared), delivery.delivery_tag);
        let dead_letters = self.dead_letters.0.clone();
        tokio::spawn(async move {
            match letter.publish(&shared).await {
                Ok(()) => {
                    // If the channel is lost, the message is redelivered and published again.
                    let _gone = dead_letters.send(tag);
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "failed to publish a dead letter; the message stays in its queue")
                }
            }
        });
    }
}

/// Forwards a consumer's deliveries until it ends.
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
    // The session ended.
    let _gone = outgoing.send((member, None));
}
