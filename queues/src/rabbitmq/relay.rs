//! The relay: publishes the log's events to RabbitMQ, in order, and declares their queues.
//!
//! The log is authoritative. A cursor in it holds the position that RabbitMQ has confirmed. After an
//! interruption the relay resumes there, so an event may come twice but none is missing. One task does
//! everything in sequence. A new queue is first filled with the events that the relay has passed; then the
//! next event is relayed. So every queue gets every event.

use dissent_domain::error::chain;
use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError, LogPart};
use lapin::Channel;
use lapin::options::{ConfirmSelectOptions, QueueDeleteOptions, QueuePurgeOptions};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{interval, timeout};

use super::dead_letter::DeadLetter;
use super::event_queue::{EventQueue, FillRecord};
use super::events::event_message;
use super::leaderless;
use super::link::{BACKOFF, LinkError};
use super::shared::Shared;
use super::topology::{bind, look_at, short, unbind};
use super::window::{Message, PublishOutcome, Window};
use crate::backoff::Retries;
use crate::context::Contexts;
use crate::delivery::MessageContext;
use crate::error::BrokerError;

/// Events read from the log at a time.
const PAGE: usize = 256;
/// The cursor's record: a format byte and the position.
const CURSOR_FORMAT: u8 = 1;

/// A command that is executed between two events.
pub(super) enum Command {
    /// Declare these queues and fill them.
    Declare { event_queues: Vec<EventQueue>, done: Option<oneshot::Sender<Result<(), BrokerError>>> },
    /// Delete all queues of an experiment.
    Forget { experiment: ExperimentId, done: oneshot::Sender<Result<(), BrokerError>> },
}

/// The relay's task.
pub(super) struct Relay {
    shared: Arc<Shared>,
    log: Arc<dyn EventLog>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Notified when the log grows.
    advanced: Arc<Notify>,
    contexts: Arc<Contexts>,
    event_queues: BTreeMap<String, EventQueue>,
    /// RabbitMQ has confirmed every event up to this position.
    confirmed_to: u64,
    sent_to: u64,
    window: Window<u64>,
}

impl Relay {
    /// Reads the cursor.
    pub(super) fn new(
        shared: &Arc<Shared>,
        log: Arc<dyn EventLog>,
        commands: mpsc::UnboundedReceiver<Command>,
        contexts: Arc<Contexts>,
    ) -> Result<Self, BrokerError> {
        let advanced = Arc::new(Notify::new());
        let listener = Arc::clone(&advanced);
        // The listener holds only the notification: the log's own writer must not drop the last handle to the
        // log.
        log.on_advance(Box::new(move |_head| listener.notify_one()));
        let confirmed_to = stored_cursor(&*log, &cursor_name(shared))?;
        shared.counters.relayed.store(confirmed_to, Ordering::Release);
        Ok(Self {
            shared: Arc::clone(shared),
            log,
            commands,
            advanced,
            contexts,
            event_queues: BTreeMap::new(),
            confirmed_to,
            sent_to: confirmed_to,
            window: Window::new(),
        })
    }

    /// Relays until the broker is dropped or the log fails.
    pub(super) async fn run(mut self) {
        let mut retries = Retries::new(BACKOFF);
        let mut was_reported = false;
        loop {
            let begun_at = self.confirmed_to;
            let Err(error) = self.session().await else { return };
            if let LinkError::Broker(error @ (BrokerError::Log(_) | BrokerError::Closed)) = error {
                return self.shared.fail(error);
            }
            if matches!(error, LinkError::Late(_)) {
                // A stream has no leader to lose, and a query for a message would close the connection.
                let queues = self.event_queues.values().filter(|event_queue| !event_queue.stream);
                self.shared.suspect(queues.map(|event_queue| event_queue.queue.clone()));
            }
            if !was_reported {
                // Log once for each interruption: it may last for hours.
                tracing::warn!(error = %chain(&error), position = self.confirmed_to, "retrying an interrupted relay");
            }
            was_reported = self.confirmed_to == begun_at;
            if !was_reported {
                retries.reset();
            }
            retries.wait().await;
        }
    }

    /// Runs one channel. Returns `Ok` once no sender of commands is left.
    async fn session(&mut self) -> Result<(), LinkError> {
        // Unconfirmed events are read from the log again.
        self.window = Window::new();
        self.sent_to = self.confirmed_to;
        let link = self.shared.publishing.clone();
        let (generation, channel) = link.channel().await?;
        link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        self.delete_leaderless().await?;
        link.within(self.shared.topology.declare_base(&channel)).await?;
        self.ensure_all(&channel).await?;
        let mut checks = interval(self.shared.options.check_interval);
        checks.reset();
        let patience = self.shared.options.operation_timeout;
        loop {
            self.send(&channel).await?;
            let (window, confirmed_to) = (&mut self.window, &mut self.confirmed_to);
            tokio::select! {
                confirmed = timeout(patience, poll_fn(|context| poll_confirmed(window, confirmed_to, context))) => {
                    match confirmed {
                        Ok(confirmed) => {
                            confirmed?;
                            self.store_cursor()?;
                        }
                        Err(_) if self.window.is_empty() || link.is_blocked() => {}
                        Err(_) => return Err(LinkError::Late(patience)),
                    }
                }
                () = self.advanced.notified() => {}
                command = self.commands.recv() => match command {
                    Some(command) => self.execute(&channel, command).await?,
                    None => return Ok(()),
                },
                _ = checks.tick() => {
                    self.settle_window().await?;
                    if self.delete_leaderless().await? {
                        link.within(self.shared.topology.declare_base(&channel)).await?;
                    }
                    self.ensure_all(&channel).await?;
                }
                () = link.lost(generation) => return Err(LinkError::Lost),
            }
        }
    }

    // ---- events

    /// Sends as many events as the window has room for.
    async fn send(&mut self, channel: &Channel) -> Result<(), LinkError> {
        while self.sent_to < self.log.head() && self.window.len() < self.shared.options.unconfirmed_max {
            let room = (self.shared.options.unconfirmed_max - self.window.len()).min(PAGE);
            let page = self.read(None, self.sent_to, room).await?;
            if page.is_empty() {
                break;
            }
            for event in page {
                self.sent_to = event.position;
                let exchange = self.shared.topology.events();
                if let Some(message) = self.message(&event, exchange).await? {
                    self.window.push(channel, message, event.position);
                }
            }
            self.note_unconfirmed();
        }
        Ok(())
    }

    /// Returns the message of an event; `None` if it is too large, which becomes a dead letter.
    async fn message(&mut self, event: &Recorded, exchange: String) -> Result<Option<Message>, LinkError> {
        let context = self.context(event);
        let most = self.shared.options.message_bytes_max;
        let reason = match event_message(event, exchange, &context) {
            Ok(message) if message.body.len() <= most => return Ok(Some(message)),
            Ok(message) => format!(
                "event {} has {} bytes as a message: raise message_bytes_max above {most}",
                event.position,
                message.body.len()
            ),
            Err(error) => chain(&error),
        };
        tracing::error!(position = event.position, error = %reason, "moving event to dead letters");
        DeadLetter::not_relayed(event, &reason).publish(&self.shared).await?;
        Ok(None)
    }

    fn context(&self, event: &Recorded) -> MessageContext {
        self.contexts.of(event.event.id)
    }

    /// Waits until everything sent is confirmed.
    async fn settle_window(&mut self) -> Result<(), LinkError> {
        let patience = self.shared.options.operation_timeout;
        while !self.window.is_empty() {
            let (window, confirmed_to) = (&mut self.window, &mut self.confirmed_to);
            match timeout(patience, poll_fn(|context| poll_confirmed(window, confirmed_to, context))).await {
                Ok(confirmed) => confirmed?,
                Err(_) if self.shared.publishing.is_blocked() => {}
                Err(_) => return Err(LinkError::Late(patience)),
            }
        }
        // The last events may have been too large to send.
        self.confirmed_to = self.sent_to;
        self.store_cursor()?;
        Ok(())
    }

    fn store_cursor(&mut self) -> Result<(), BrokerError> {
        if self.window.is_empty() {
            self.confirmed_to = self.sent_to;
        }
        let mut record = vec![CURSOR_FORMAT];
        record.extend_from_slice(&self.confirmed_to.to_le_bytes());
        self.log.store_cursor(&cursor_name(&self.shared), record)?;
        self.shared.counters.relayed.store(self.confirmed_to, Ordering::Release);
        self.note_unconfirmed();
        Ok(())
    }

    fn note_unconfirmed(&self) {
        let unconfirmed = u64::try_from(self.window.len()).unwrap_or(u64::MAX);
        self.shared.counters.relay_unconfirmed.store(unconfirmed, Ordering::Release);
    }

    /// Reads a page on a thread that may block.
    async fn read(
        &mut self,
        experiment: Option<ExperimentId>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, LinkError> {
        let log = Arc::clone(&self.log);
        let read = tokio::task::spawn_blocking(move || match experiment {
            Some(experiment) => log.read_stream(&experiment, after, limit),
            None => log.read(after, limit),
        });
        Ok(read.await.map_err(|_| BrokerError::Closed)?.map_err(BrokerError::from)?)
    }

    // ---- queues

    async fn execute(&mut self, channel: &Channel, command: Command) -> Result<(), LinkError> {
        // Everything that the relay has passed is now confirmed.
        self.settle_window().await?;
        match command {
            Command::Declare { event_queues, done } => {
                let names: Vec<String> =
                    event_queues.iter().map(|event_queue| event_queue.queue.clone()).collect();
                for event_queue in event_queues {
                    self.event_queues.insert(event_queue.queue.clone(), event_queue);
                }
                for name in names {
                    self.ensure(channel, &name).await?;
                }
                // The caller may have stopped waiting.
                let _gone = done.map(|done| done.send(Ok(())));
            }
            Command::Forget { experiment, done } => {
                self.forget(channel, &experiment).await?;
                let _gone = done.send(Ok(()));
            }
        }
        Ok(())
    }

    /// Deletes unresponsive queues; returns whether there were any. They are declared and filled again.
    async fn delete_leaderless(&mut self) -> Result<bool, LinkError> {
        let (mut suspects, mut deleted) = (self.shared.take_suspects(), false);
        while let Some(queue) = suspects.first() {
            match leaderless::delete(&self.shared.publishing, queue).await {
                Ok(is_deleted) => deleted |= is_deleted,
                Err(error) => {
                    // Unchecked queues stay suspected. So does this one if its answer was late. If it was
                    // refused, a retry would be refused again and block the others.
                    if !matches!(error, LinkError::Late(_)) {
                        suspects.pop_first();
                    }
                    self.shared.suspect(suspects);
                    return Err(error);
                }
            }
            suspects.pop_first();
        }
        Ok(deleted)
    }

    async fn ensure_all(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let names: Vec<String> = self.event_queues.keys().cloned().collect();
        for name in names {
            self.ensure(channel, &name).await?;
        }
        Ok(())
    }

    /// Ensures that a queue exists and has every event that the relay has passed. An existing queue whose
    /// filling is not recorded was interrupted by a crash: it is filled again.
    async fn ensure(&mut self, channel: &Channel, name: &str) -> Result<(), LinkError> {
        let Some(event_queue) = self.event_queues.get(name).cloned() else { return Ok(()) };
        let link = self.shared.publishing.clone();
        // A query for a missing queue closes the channel.
        let (_, probe) = link.channel().await?;
        let exists = link.within(look_at(&probe, name)).await?.is_some();
        let record = self.log.load_cursor(&event_queue.record).map_err(BrokerError::from)?;
        let filled = FillRecord::read(record.as_deref());
        if !exists || !filled.complete {
            tracing::info!(queue = name, to = self.confirmed_to, "filling a queue from the log");
            // Make the record durable before the queue exists: a partly filled queue must be recorded as
            // incomplete.
            self.log
                .store_cursor(&event_queue.record, FillRecord::incomplete().encoded())
                .map_err(BrokerError::from)?;
            self.flush().await?;
            if exists {
                // Partly filled after a crash, or filled from another log: it starts empty.
                self.empty(channel, &event_queue).await?;
            }
            let declared = async {
                if event_queue.stream {
                    self.shared.topology.declare_history(channel, name).await
                } else {
                    let limit = self.shared.options.redeliveries_max;
                    self.shared.topology.declare_group(channel, name, limit).await
                }
            };
            link.within(declared).await?;
            // Use a new channel: one that published to an earlier queue of this name may still refer to that
            // queue.
            let (_, filling) = link.channel().await?;
            link.within(filling.confirm_select(ConfirmSelectOptions::default())).await?;
            self.fill(&filling, &event_queue).await?;
        }
        let exchange = self.shared.topology.events();
        // Binding is idempotent, and the bindings may have been deleted.
        for key in &event_queue.bindings {
            link.within(bind(channel, name, &exchange, key)).await?;
        }
        for key in filled.bindings.iter().filter(|key| !event_queue.bindings.contains(key)) {
            link.within(unbind(channel, name, &exchange, key)).await?;
        }
        let now = FillRecord::complete(event_queue.bindings.clone());
        if now != filled || !exists {
            self.log.store_cursor(&event_queue.record, now.encoded()).map_err(BrokerError::from)?;
        }
        Ok(())
    }

    /// Empties a queue. Delivered messages stay with their consumers.
    async fn empty(&mut self, channel: &Channel, event_queue: &EventQueue) -> Result<(), LinkError> {
        let link = &self.shared.publishing;
        let queue = short(&event_queue.queue);
        if event_queue.stream {
            // A stream cannot be purged.
            link.within(channel.queue_delete(queue, QueueDeleteOptions::default())).await?;
        } else {
            link.within(channel.queue_purge(queue, QueuePurgeOptions::default())).await?;
        }
        Ok(())
    }

    /// Sends a queue all events that the relay has passed.
    async fn fill(&mut self, channel: &Channel, event_queue: &EventQueue) -> Result<(), LinkError> {
        let mut window: Window<u64> = Window::new();
        let (mut after, mut done_to) = (0, 0);
        loop {
            let page = self.read(event_queue.experiment.clone(), after, PAGE).await?;
            let Some(last) = page.last() else { break };
            // A stream is read by version, the whole log by position.
            after = if event_queue.experiment.is_some() { last.version } else { last.position };
            let passed = last.position >= self.confirmed_to;
            let passed_to = self.confirmed_to;
            for event in page.iter().filter(|event| event.position <= passed_to && event_queue.wants(event)) {
                if let Some(mut message) = self.message(event, String::new()).await? {
                    message.key = event_queue.queue.clone();
                    window.push(channel, message, event.position);
                }
            }
            self.drain(&mut window, &mut done_to).await?;
            if passed {
                break;
            }
        }
        Ok(())
    }

    async fn drain(&mut self, window: &mut Window<u64>, done_to: &mut u64) -> Result<(), LinkError> {
        let patience = self.shared.options.operation_timeout;
        while !window.is_empty() {
            match timeout(patience, poll_fn(|context| poll_confirmed(window, done_to, context))).await {
                Ok(confirmed) => confirmed?,
                Err(_) if self.shared.publishing.is_blocked() => {}
                Err(_) => return Err(LinkError::Late(patience)),
            }
        }
        Ok(())
    }

    async fn forget(&mut self, channel: &Channel, experiment: &ExperimentId) -> Result<(), LinkError> {
        let forgotten: Vec<EventQueue> = self
            .event_queues
            .values()
            .filter(|event_queue| event_queue.experiment.as_ref() == Some(experiment))
            .cloned()
            .collect();
        for event_queue in forgotten {
            self.event_queues.remove(&event_queue.queue);
            self.log
                .store_cursor(&event_queue.record, FillRecord::incomplete().encoded())
                .map_err(BrokerError::from)?;
            let delete = channel.queue_delete(short(&event_queue.queue), QueueDeleteOptions::default());
            self.shared.publishing.within(delete).await?;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        let log = Arc::clone(&self.log);
        let flushed = tokio::task::spawn_blocking(move || log.flush());
        Ok(flushed.await.map_err(|_| BrokerError::Closed)?.map_err(BrokerError::from)?)
    }
}

/// Takes all confirmed messages out of the window, in order. Ready once there is at least one.
fn poll_confirmed(
    window: &mut Window<u64>,
    confirmed_to: &mut u64,
    context: &mut Context<'_>,
) -> Poll<Result<(), LinkError>> {
    let mut some = false;
    while !window.is_empty()
        && let Poll::Ready((message, position, outcome)) = window.poll_oldest(context)
    {
        match outcome {
            // No queue is bound for it: the log keeps it for later subscriptions.
            PublishOutcome::Confirmed | PublishOutcome::Unroutable => *confirmed_to = position,
            PublishOutcome::Lost(error) => return Poll::Ready(Err(error.into())),
            PublishOutcome::Refused => {
                return Poll::Ready(Err(BrokerError::Refused { position, key: message.key }.into()));
            }
        }
        some = true;
    }
    if some { Poll::Ready(Ok(())) } else { Poll::Pending }
}

fn cursor_name(shared: &Shared) -> String {
    format!("relay.{}", shared.options.prefix)
}

fn stored_cursor(log: &dyn EventLog, name: &str) -> Result<u64, BrokerError> {
    let corrupt = |why: String| {
        let reason = format!("invalid record {name:?}: {why}");
        BrokerError::Log(LogError::corrupt(LogPart::Subscription, reason))
    };
    let Some(record) = log.load_cursor(name)? else { return Ok(0) };
    let position = match record.split_first() {
        Some((&CURSOR_FORMAT, position)) => position.try_into().map(u64::from_le_bytes),
        Some((format, _)) => {
            return Err(corrupt(format!(
                "unknown format {format}: use the version of dissent that wrote it"
            )));
        }
        None => return Err(corrupt("the record is empty".to_owned())),
    };
    let position = position.map_err(|_| corrupt("the position is damaged".to_owned()))?;
    let head = log.head();
    if position > head {
        return Err(corrupt(format!("the position {position} is after the log's last event {head}")));
    }
    Ok(position)
}
