//! The relay: publishes the log's events to RabbitMQ, in order, and declares their queues.
//!
//! The log is authoritative. A cursor in it holds the position that RabbitMQ has confirmed. After an
//! interruption the relay resumes there, so an event may come twice but none is missing. One task does
//! everything in sequence. A new queue is first filled with the events that the relay has passed; then the
//! next event is relayed. So every queue gets every event.

mod queues;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use dissent_domain::error::chain;
use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError, LogPart};
use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::dead_letter::DeadLetter;
use super::event_queue::{EventQueue, FillRecord};
use super::events::event_message;
use super::headers::START;
use super::identity::{PROTOCOL, ServerIdentity};
use super::link::BACKOFF;
use super::link_error::LinkError;
use super::old_names;
use super::serving::Serving;
use super::shared::Shared;
use super::window::{Message, PublishOutcome, Window};
use crate::backoff::Retries;
use crate::context::Contexts;
use crate::delivery::MessageContext;
use crate::error::BrokerError;

/// Events read from the log at a time.
const PAGE: usize = 256;
/// The cursor's record: a format byte and the position.
const CURSOR_FORMAT: u8 = 1;
/// Delay of a check after a message found no queue: several such messages cause one check, and RabbitMQ may
/// still be deleting the queue.
const CHECK_DELAY: Duration = Duration::from_millis(500);
/// Interval between looks for queues of version 0.1, besides one at each connection.
const OLD_CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// Name of this part in reports.
const PART: &str = "relay";

/// A command that is executed between two events.
pub(super) enum Command {
    /// Declare these queues and fill them.
    Declare { event_queues: Vec<EventQueue>, done: Option<oneshot::Sender<Result<(), BrokerError>>> },
    /// Declare the queues of proposals and parked messages of an experiment.
    Host(ExperimentId),
    /// Stop looking after the queues of an experiment. They stay, and so do their bindings.
    Leave(ExperimentId),
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
    /// The newest records of these queues.
    filled: BTreeMap<String, FillRecord>,
    /// Experiments whose queues of proposals and parked messages exist while the server runs.
    experiments: BTreeSet<ExperimentId>,
    /// The identity of the server, and the record that it wrote.
    serving: Serving,
    /// Whether queues of version 0.1 were reported.
    old_reported: bool,
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
        identity: ServerIdentity,
    ) -> Result<Self, BrokerError> {
        let serving = Serving::new(identity, &*log, &shared.options.prefix)?;
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
            filled: BTreeMap::new(),
            experiments: BTreeSet::new(),
            serving,
            old_reported: false,
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
            if self.shared.is_stopping() {
                return;
            }
            if let LinkError::Broker(error @ (BrokerError::Log(_) | BrokerError::Closed)) = error {
                return self.shared.fail(error);
            }
            self.shared.signals.refusals.note(PART, &error);
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
        self.prepare(&channel).await?;
        link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        self.ensure_all(&channel).await?;
        self.report_old_queues().await?;
        self.shared.signals.refusals.clear(PART);
        let shared = Arc::clone(&self.shared);
        let mut checks = interval(shared.options.check_interval);
        checks.reset();
        let (mut check_at, mut old_checked) = (None, Instant::now());
        let patience = shared.options.operation_timeout;
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
                () = shared.signals.check.notified(), if check_at.is_none() => {
                    check_at = Some(Instant::now() + CHECK_DELAY);
                }
                () = sleep_until(check_at.unwrap_or_else(Instant::now)), if check_at.is_some() => {
                    check_at = None;
                    self.check(&channel).await?;
                }
                _ = checks.tick() => {
                    self.check(&channel).await?;
                    if old_checked.elapsed() >= OLD_CHECK_INTERVAL {
                        old_checked = Instant::now();
                        self.report_old_queues().await?;
                    }
                }
                () = link.lost(generation) => return Err(LinkError::Lost),
            }
        }
    }

    /// Declares all queues that are missing, and fills those of events.
    async fn check(&mut self, channel: &Channel) -> Result<(), LinkError> {
        if self.shared.publishing.is_blocked() {
            return Ok(());
        }
        self.settle_window().await?;
        self.prepare(channel).await?;
        self.ensure_all(channel).await
    }

    /// Records this server as the holder, and declares everything but the queues of events.
    pub(super) async fn prepare(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let shared = Arc::clone(&self.shared);
        let (link, topology) = (&shared.publishing, &shared.topology);
        if self.serving.take(&shared, &*self.log).await? {
            self.flush().await?;
        }
        self.delete_leaderless().await?;
        link.within(topology.declare_exchange(channel)).await?;
        link.within(topology.declare_service(channel, &topology.dead())).await?;
        for experiment in &self.experiments {
            link.within(topology.declare_service(channel, &topology.proposals(experiment))).await?;
            link.within(topology.declare_service(channel, &topology.parked(experiment))).await?;
        }
        Ok(())
    }

    /// Reports queues of version 0.1 once: no process uses them any more.
    async fn report_old_queues(&mut self) -> Result<(), LinkError> {
        let prefix = &self.shared.options.prefix;
        if !self.old_reported && old_names::exist(&self.shared.publishing, prefix).await? {
            self.old_reported = true;
            tracing::warn!(
                prefix,
                "queues of version 0.1 remain under this prefix; delete them with `dissent queue forget --old`"
            );
        }
        Ok(())
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
                if let Some(mut message) = self.message(&event, exchange).await? {
                    // If a queue wants it and none gets it, the bindings were deleted.
                    message.mandatory = self.event_queues.values().any(|queue| queue.wants(&event));
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
            Ok(message) if message.body.len() <= most => {
                return Ok(Some(message.with_number(START, self.shared.signals.start())));
            }
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
            PublishOutcome::Unroutable if message.mandatory => {
                return Poll::Ready(Err(LinkError::Unrouted(message.key)));
            }
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
    format!("relay{PROTOCOL}.{}", shared.options.prefix)
}

fn stored_cursor(log: &dyn EventLog, name: &str) -> Result<u64, BrokerError> {
    let corrupt = |why: String| {
        let reason = format!("invalid record {name:?}: {why}");
        BrokerError::Log(LogError::corrupt(LogPart::Subscription, reason))
    };
    // Nothing was relayed under this name: new queues are filled from the log, up to here.
    let Some(record) = log.load_cursor(name)? else { return Ok(log.head()) };
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
