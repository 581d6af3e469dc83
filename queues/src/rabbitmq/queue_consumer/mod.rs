//! The consumer of one queue: one channel for all of this process's consumers of it, opened again whenever it is lost.

mod ack_tracker;
mod recent_keys;
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

use self::ack_tracker::AckTracker;
use self::state::{AckCommand, Arrival, State, Tag};
pub(super) use self::state::{Item, NextDelivery, Settled};
use super::dead_letter::DeadLetter;
use super::link::{Backoff, LinkError, next};
use super::shared::{Drainable, Shared};
use super::topology::{is_absent, short};
use crate::lock::lock;

/// Acknowledgements are sent together, at the latest at this number and after this time.
const ACKS_MAX: usize = 32;
const ACKS_WAIT: Duration = Duration::from_millis(5);
/// How often it is looked whether anybody still holds the consumer.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait between two looks for a queue that the server has yet to declare.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(1);

/// What comes out of a queue.
pub(super) trait Decoder: Send + Sync + 'static {
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

/// A queue's consumer. Its task ends when nobody holds it any more, or with the broker.
pub(super) struct QueueConsumer<K: Decoder> {
    shared: Arc<Shared>,
    queue: String,
    decoder: K,
    state: Mutex<State<K::Message>>,
    changed: Notify,
    /// Acknowledgements are under way.
    sends_acks: AtomicBool,
    /// Every member's consumer is there.
    consuming: AtomicBool,
}

impl<K: Decoder> QueueConsumer<K> {
    pub(super) fn start(shared: &Arc<Shared>, queue: String, decoder: K) -> Arc<Self> {
        let consumer = Arc::new(Self {
            shared: Arc::clone(shared),
            queue,
            decoder,
            state: Mutex::new(State::new()),
            changed: Notify::new(),
            sends_acks: AtomicBool::new(false),
            consuming: AtomicBool::new(false),
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
        lock(&self.state).is_idle() && !self.sends_acks.load(Ordering::Acquire)
    }

    fn is_steady(&self) -> bool {
        let sent = !self.sends_acks.load(Ordering::Acquire) && !lock(&self.state).has_commands();
        sent && self.consuming.load(Ordering::Acquire)
    }
}

/// A consumer's place. Dropping it leaves.
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

/// A message in hand, given back when dropped unsettled.
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

/// Consumes for as long as the consumer is held.
async fn run<K: Decoder>(weak: Weak<QueueConsumer<K>>) {
    let mut backoff = Backoff::up_to(QUEUE_WAIT_MAX);
    let mut known_trouble = None;
    while let Some(consumer) = weak.upgrade() {
        if consumer.shared.is_stopping() {
            return;
        }
        let mut session = Session::new(&consumer);
        let error = session.run(&weak).await;
        consumer.consuming.store(false, Ordering::Release);
        consumer.sends_acks.store(false, Ordering::Release);
        consumer.with(State::begin_epoch);
        let Some(error) = error else { return };
        let consumed = session.consumed;
        drop(session);
        if consumed {
            backoff.reset();
            known_trouble = None;
        }
        if matches!(error, LinkError::Late(_)) {
            consumer.shared.suspect([consumer.queue.clone()]);
        }
        let trouble = error.to_string();
        // Once for each decoder of trouble: it may last for hours.
        if known_trouble.as_ref() != Some(&trouble) {
            tracing::info!(queue = %consumer.queue, error = %trouble, "consuming again soon");
            known_trouble = Some(trouble);
        }
        drop(consumer);
        backoff.wait().await;
    }
}

/// One channel's time.
struct Session<'a, K: Decoder> {
    consumer: &'a Arc<QueueConsumer<K>>,
    epoch: u64,
    tracker: AckTracker,
    /// Since when there is something to acknowledge.
    oldest_ack: Option<Instant>,
    consumers: BTreeMap<u64, ShortString>,
    prefetch_total: usize,
    incoming: mpsc::UnboundedReceiver<(u64, Option<Delivery>)>,
    outgoing: mpsc::UnboundedSender<(u64, Option<Delivery>)>,
    /// Dead letters under way, by tag, that are acknowledged once they are safe.
    dead_letters: (mpsc::UnboundedSender<u64>, mpsc::UnboundedReceiver<u64>),
    consumed: bool,
}

impl<'a, K: Decoder> Session<'a, K> {
    fn new(consumer: &'a Arc<QueueConsumer<K>>) -> Self {
        // Unbounded, but RabbitMQ sends no more than the prefetch.
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

    /// Until the channel is lost (why), or the consumer is held by nobody but us (none).
    async fn run(&mut self, weak: &Weak<QueueConsumer<K>>) -> Option<LinkError> {
        let link = self.consumer.shared.consuming.clone();
        let (generation, channel) = match link.channel().await {
            Ok(opened) => opened,
            Err(error) => return Some(error),
        };
        self.epoch = self.consumer.with(State::begin_epoch);
        loop {
            if let Err(error) = self.send_commands(&channel).await {
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

    /// Tells RabbitMQ what has changed: members, messages given back, acknowledgements when they are due.
    async fn send_commands(&mut self, channel: &Channel) -> Result<(), LinkError> {
        self.sync_members(channel).await?;
        self.consumer.sends_acks.store(true, Ordering::Release);
        let link = &self.consumer.shared.consuming;
        for command in self.consumer.with(State::take_commands) {
            match command {
                AckCommand::Acknowledge(tag) if tag.epoch == self.epoch => {
                    self.tracker.settle(tag.number);
                    self.oldest_ack.get_or_insert_with(Instant::now);
                }
                AckCommand::Requeue(tag) if tag.epoch == self.epoch && self.tracker.give_back(tag.number) => {
                    let requeue = BasicNackOptions { requeue: true, multiple: false };
                    link.within(channel.basic_nack(tag.number, requeue)).await?;
                }
                // Of a channel that is gone.
                AckCommand::Acknowledge(_) | AckCommand::Requeue(_) => {}
            }
        }
        let enough = (self.prefetch_total / 2).clamp(1, ACKS_MAX);
        let due = self.oldest_ack.is_some_and(|since| since.elapsed() >= ACKS_WAIT);
        if due || self.tracker.settled() >= enough {
            self.acknowledge(channel).await?;
        }
        if self.tracker.settled() == 0 {
            self.consumer.sends_acks.store(false, Ordering::Release);
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

    /// Starts consumers for members that joined and cancels those of members that left.
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
            // On this channel it is for the consumers that begin from now on, each on its own.
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

    fn take_in(&mut self, delivery: &Delivery) {
        let counters = &self.consumer.shared.counters;
        self.tracker.seen(delivery.delivery_tag);
        if delivery.redelivered {
            counters.redelivered.fetch_add(1, Ordering::AcqRel);
        }
        let key = self.consumer.decoder.key(delivery).ok_or_else(|| "it has no message id".to_owned());
        match key.and_then(|key| Ok((key, self.consumer.decoder.decode(delivery)?))) {
            Ok((key, message)) => {
                let tag = Tag { epoch: self.epoch, number: delivery.delivery_tag };
                let redelivered = delivery.redelivered;
                let arrival = self.consumer.with(|state| state.arrive(tag, key, message, redelivered));
                if arrival == Arrival::Duplicate {
                    counters.duplicates_dropped.fetch_add(1, Ordering::AcqRel);
                }
            }
            Err(reason) => self.publish(delivery, reason),
        }
    }

    /// What cannot be read goes to the dead letters, with the reason; only then is it acknowledged.
    fn publish(&self, delivery: &Delivery, reason: String) {
        tracing::warn!(queue = %self.consumer.queue, error = %reason, "a message cannot be read");
        let letter = DeadLetter::unreadable(K::NAME, &self.consumer.queue, delivery, &reason);
        let (shared, tag) = (Arc::clone(&self.consumer.shared), delivery.delivery_tag);
        let dead_letters = self.dead_letters.0.clone();
        tokio::spawn(async move {
            match letter.publish(&shared).await {
                Ok(()) => {
                    // The channel may be gone: then it comes again, and is dead_letters again.
                    let _gone = dead_letters.send(tag);
                }
                Err(error) => tracing::error!(%error, "failed to publish a message; it stays in its queue"),
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
