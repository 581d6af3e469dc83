//! The task that publishes all messages except the log's events: proposals, retries, parked messages and dead
//! letters. It keeps each message until RabbitMQ has confirmed it, over any number of connections.
//!
//! Messages are confirmed in the order in which they were sent, so an unresponsive queue blocks all others.
//! The server replaces unresponsive queues that are consumed. This task replaces those of retries and of dead
//! letters.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use dissent_domain::error::chain;
use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval, sleep, timeout};

use super::headers::START;
use super::leaderless;
use super::link::{BACKOFF, Link};
use super::link_error::LinkError;
use super::options::RabbitOptions;
use super::signals::Signals;
use super::topology::Topology;
use super::window::{Message, PublishOutcome, Window};
use crate::backoff::Retries;
use crate::error::BrokerError;

/// Delay before a message is sent again that RabbitMQ refused or could not route.
const RESEND_DELAY: Duration = Duration::from_millis(250);
/// Name of this part in reports.
const PART: &str = "publisher";

/// The bookkeeping of a message and the caller that waits for its confirmation.
struct Job {
    /// The delay queue that the message passes through, if any. It is declared before its first use.
    delay_ms: Option<u64>,
    /// Whether the message found no queue before.
    unroutable: bool,
    done: oneshot::Sender<()>,
}

/// The handle that passes messages to the task.
#[derive(Clone)]
pub(super) struct Publisher {
    queue: mpsc::Sender<(Message, Job)>,
    waiting: Arc<AtomicUsize>,
    bytes_max: usize,
    signals: Arc<Signals>,
}

/// The task.
pub(super) struct PublisherTask {
    link: Link,
    topology: Topology,
    incoming: mpsc::Receiver<(Message, Job)>,
    /// Refused messages that return after a delay; at most the size of the window.
    resend: mpsc::UnboundedSender<(Message, Job)>,
    again: mpsc::UnboundedReceiver<(Message, Job)>,
    window: Window<Job>,
    window_max: usize,
    patience: Duration,
    check_interval: Duration,
    /// Whether this process looks after the queue of dead letters.
    declares: bool,
    signals: Arc<Signals>,
    /// When the oldest message became the oldest, on this channel.
    waiting_since: Instant,
    /// Delay queues declared on this connection.
    delays: HashSet<u64>,
}

impl Publisher {
    pub(super) fn new(
        link: &Link,
        topology: &Topology,
        options: &RabbitOptions,
        declares: bool,
        signals: &Arc<Signals>,
    ) -> (Self, PublisherTask) {
        let window_max = options.unconfirmed_max;
        let (queue, incoming) = mpsc::channel(window_max);
        let (resend, again) = mpsc::unbounded_channel();
        let task = PublisherTask {
            link: link.clone(),
            topology: topology.clone(),
            incoming,
            resend,
            again,
            window: Window::new(),
            window_max,
            patience: options.operation_timeout,
            check_interval: options.check_interval,
            declares,
            signals: Arc::clone(signals),
            waiting_since: Instant::now(),
            delays: HashSet::new(),
        };
        let (bytes_max, signals) = (options.message_bytes_max, Arc::clone(signals));
        (Self { queue, waiting: Arc::default(), bytes_max, signals }, task)
    }

    /// Publishes a message and waits until RabbitMQ confirms it, or until the broker is abandoned. After the
    /// future is dropped, the message may or may not be published.
    pub(super) async fn publish(&self, message: Message) -> Result<(), BrokerError> {
        self.publish_through(message, None).await
    }

    /// Publishes as [`publish`](Self::publish), through a delay queue.
    pub(super) async fn publish_delayed(&self, message: Message, delay_ms: u64) -> Result<(), BrokerError> {
        self.publish_through(message, Some(delay_ms)).await
    }

    async fn publish_through(&self, message: Message, delay_ms: Option<u64>) -> Result<(), BrokerError> {
        if message.body.len() > self.bytes_max {
            return Err(BrokerError::TooLarge { bytes: message.body.len(), bytes_max: self.bytes_max });
        }
        let _counted = Counted::new(&self.waiting);
        let (done, confirmed) = oneshot::channel();
        let message = message.with_number(START, self.signals.start());
        let publishing = async {
            self.queue
                .send((message, Job { delay_ms, unroutable: false, done }))
                .await
                .map_err(|_| BrokerError::Closed)?;
            confirmed.await.map_err(|_| BrokerError::Closed)
        };
        tokio::select! {
            biased;
            published = publishing => published,
            () = self.signals.abandoned() => Err(BrokerError::Closed),
        }
    }

    /// Messages that are passed to the task and not yet confirmed.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

/// Counts a message while its caller waits.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl PublisherTask {
    /// Publishes until the broker is abandoned, or until every handle is dropped and all messages are
    /// confirmed.
    pub(super) async fn run(self) {
        let signals = Arc::clone(&self.signals);
        tokio::select! {
            biased;
            () = signals.abandoned() => {}
            () = self.publish_all() => {}
        }
    }

    async fn publish_all(mut self) {
        let mut retries = Retries::new(BACKOFF);
        let mut last_trouble = None;
        loop {
            let Err(error) = self.session(&mut retries, &mut last_trouble).await else { return };
            self.signals.refusals.note(PART, &error);
            let trouble = chain(&error);
            // Log each new error once: an outage may last for hours.
            if last_trouble.as_ref() != Some(&trouble) {
                tracing::info!(error = %trouble, waiting = self.window.len(), "reopening the publisher's channel");
                last_trouble = Some(trouble);
            }
            if matches!(error, LinkError::Late(_))
                && let Some(queue) = self.unwatched_queue()
                && let Err(error) = leaderless::delete_in_turn(&self.link, &self.topology, &queue).await
            {
                tracing::debug!(error = %chain(&error), queue, "failed to check an unresponsive queue");
            }
            retries.wait().await;
        }
    }

    /// Returns the queue that the oldest message waits for, if only publishers can notice that it does not
    /// answer. Once it is deleted, the next session declares it again.
    fn unwatched_queue(&self) -> Option<String> {
        let (message, job) = self.window.oldest()?;
        let dead = self.topology.dead();
        match job.delay_ms {
            Some(delay_ms) => Some(self.topology.retry(delay_ms)),
            None => (message.exchange.is_empty() && message.key == dead).then_some(dead),
        }
    }

    async fn session(
        &mut self,
        retries: &mut Retries,
        last_trouble: &mut Option<String>,
    ) -> Result<(), LinkError> {
        let (generation, channel) = self.link.channel().await?;
        self.link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        self.declare_dead(&channel).await?;
        self.delays.clear();
        let mut checks = interval(self.check_interval);
        checks.reset();
        let mut unconfirmed = self.window.take_all().into_iter();
        while let Some((message, job)) = unconfirmed.next() {
            if let Err(error) = self.send(&channel, message, job).await {
                self.window.restore(unconfirmed.collect());
                return Err(error);
            }
        }
        self.waiting_since = Instant::now();
        loop {
            let room = self.window.len() < self.window_max;
            // Measured from the oldest message, so that new messages do not postpone the timeout.
            let patience = self.patience.saturating_sub(self.waiting_since.elapsed());
            let (window, link) = (&mut self.window, &self.link);
            tokio::select! {
                settled = timeout(patience, poll_fn(|context| {
                    if window.is_empty() { Poll::Pending } else { window.poll_oldest(context) }
                })) => match settled {
                    Ok((message, job, outcome)) => {
                        self.waiting_since = Instant::now();
                        if matches!(outcome, PublishOutcome::Confirmed) {
                            retries.reset();
                            *last_trouble = None;
                            self.signals.refusals.clear(PART);
                        }
                        self.settled(&channel, message, job, outcome).await?;
                    }
                    Err(_) if self.window.is_empty() || self.link.is_blocked() => self.waiting_since = Instant::now(),
                    Err(_) => return Err(LinkError::Late(self.patience)),
                },
                again = self.again.recv(), if room => {
                    if let Some((message, job)) = again {
                        self.send(&channel, message, job).await?;
                    }
                }
                job = self.incoming.recv(), if room => match job {
                    Some((message, job)) => self.send(&channel, message, job).await?,
                    None => return Ok(()),
                },
                _ = checks.tick() => self.declare_dead(&channel).await?,
                () = link.lost(generation) => return Err(LinkError::Lost),
            }
        }
    }

    /// Declares the queue of dead letters, unless an operator only looks. A blocked connection would not
    /// answer.
    async fn declare_dead(&mut self, channel: &Channel) -> Result<(), LinkError> {
        if self.declares && !self.link.is_blocked() {
            self.link.within(self.topology.declare_service(channel, &self.topology.dead())).await?;
        }
        Ok(())
    }

    /// Declares the queue of a message that found none twice. Only the server declares queues of events.
    ///
    /// The first time the queue may be just being deleted. RabbitMQ 3.10 does that in the background. A queue
    /// that is declared meanwhile keeps the consumers of the old one, and its messages are stuck with them.
    async fn declare_missing(
        &mut self,
        channel: &Channel,
        message: &Message,
        job: &Job,
    ) -> Result<(), LinkError> {
        if let Some(delay_ms) = job.delay_ms {
            // It is declared when the message is sent again.
            self.delays.remove(&delay_ms);
            return Ok(());
        }
        tracing::info!(queue = %message.key, "declaring a missing queue again");
        if !self.link.within(self.topology.declare_service(channel, &message.key)).await? {
            self.signals.check.notify_one();
        }
        Ok(())
    }

    async fn send(&mut self, channel: &Channel, message: Message, job: Job) -> Result<(), LinkError> {
        let declared = match job.delay_ms {
            Some(delay_ms) if !self.delays.contains(&delay_ms) => {
                let declared = self.link.within(self.topology.declare_retry(channel, delay_ms)).await;
                self.delays.insert(delay_ms);
                declared
            }
            _ => Ok(()),
        };
        if self.window.is_empty() {
            self.waiting_since = Instant::now();
        }
        // Push it first, so that it is sent again if the declaration failed.
        self.window.push(channel, message, job);
        declared
    }

    async fn settled(
        &mut self,
        channel: &Channel,
        message: Message,
        mut job: Job,
        outcome: PublishOutcome,
    ) -> Result<(), LinkError> {
        match outcome {
            PublishOutcome::Confirmed => {
                // The caller may have stopped waiting.
                let _gone = job.done.send(());
                Ok(())
            }
            // The caller has stopped waiting.
            PublishOutcome::Unroutable if job.done.is_closed() => Ok(()),
            PublishOutcome::Unroutable | PublishOutcome::Refused => {
                let is_unroutable = matches!(outcome, PublishOutcome::Unroutable);
                let declared = if is_unroutable && job.unroutable {
                    self.declare_missing(channel, &message, &job).await
                } else {
                    Ok(())
                };
                job.unroutable = is_unroutable;
                let again = self.resend.clone();
                tokio::spawn(async move {
                    sleep(RESEND_DELAY).await;
                    // The task ends with the broker.
                    let _gone = again.send((message, job));
                });
                declared
            }
            PublishOutcome::Lost(error) => {
                // Back to the front: it is sent again before the others.
                let mut rest = self.window.take_all();
                rest.insert(0, (message, job));
                self.window.restore(rest);
                Err(error.into())
            }
        }
    }
}
