//! The queues of events: declaring, filling and deleting them.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::id::ExperimentId;
use lapin::Channel;
use lapin::options::{ConfirmSelectOptions, QueueDeleteOptions};
use tokio::time::{sleep, timeout};

use super::{Command, PAGE, Relay, poll_confirmed};
use crate::error::BrokerError;
use crate::rabbitmq::event_queue::{EventQueue, FillRecord};
use crate::rabbitmq::link_error::LinkError;
use crate::rabbitmq::topology::{bind, look_at, short, unbind};
use crate::rabbitmq::window::Window;
use crate::rabbitmq::{leaderless, refusal};

/// Time in which RabbitMQ deletes a queue in the background. If the queue is declared meanwhile, it keeps the
/// consumers of the old one.
const DELETION_TIME: Duration = Duration::from_millis(500);

impl Relay {
    pub(super) async fn execute(&mut self, channel: &Channel, command: Command) -> Result<(), LinkError> {
        // Everything that the relay has passed is now confirmed.
        self.settle_window().await?;
        match command {
            Command::Declare { event_queues, done } => {
                let declared = self.declare(channel, event_queues).await;
                let outcome = match &declared {
                    Ok(()) => Ok(()),
                    Err(error) => match refusal::error(&self.shared.options, "declare the queues", error) {
                        Some(refused) => Err(refused),
                        // The caller sends the command again.
                        None => return declared,
                    },
                };
                // The caller may have stopped waiting.
                let _gone = done.map(|done| done.send(outcome));
                declared?;
            }
            Command::Host(experiment) => {
                self.experiments.insert(experiment);
                self.prepare(channel).await?;
            }
            Command::Leave(experiment) => {
                self.experiments.remove(&experiment);
                self.event_queues.retain(|_, queue| queue.experiment.as_ref() != Some(&experiment));
                // Later the log is asked again, which needs what was stored.
                self.flush().await?;
                let kept = &self.event_queues;
                self.filled.retain(|queue, _| kept.contains_key(queue));
            }
            Command::Forget { experiment, done } => {
                self.forget(channel, &experiment).await?;
                let _gone = done.send(Ok(()));
            }
        }
        Ok(())
    }

    async fn declare(&mut self, channel: &Channel, event_queues: Vec<EventQueue>) -> Result<(), LinkError> {
        let names: Vec<String> = event_queues.iter().map(|event_queue| event_queue.queue.clone()).collect();
        for event_queue in event_queues {
            self.event_queues.insert(event_queue.queue.clone(), event_queue);
        }
        for name in names {
            self.ensure(channel, &name).await?;
        }
        Ok(())
    }

    /// Deletes unresponsive queues. They are declared and filled again.
    pub(super) async fn delete_leaderless(&mut self) -> Result<(), LinkError> {
        let mut suspects = self.shared.take_suspects();
        while let Some(queue) = suspects.first() {
            match leaderless::delete(&self.shared.publishing, queue).await {
                Ok(true) => sleep(DELETION_TIME).await,
                Ok(false) => {}
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
        Ok(())
    }

    pub(super) async fn ensure_all(&mut self, channel: &Channel) -> Result<(), LinkError> {
        let names: Vec<String> = self.event_queues.keys().cloned().collect();
        for name in names {
            self.ensure(channel, &name).await?;
        }
        Ok(())
    }

    /// Ensures that a queue exists and has every event that the relay has passed. An existing queue is
    /// declared and filled anew in three cases: its filling is not recorded (a crash interrupted it), another
    /// server may have published to it, or its limit has changed.
    async fn ensure(&mut self, channel: &Channel, name: &str) -> Result<(), LinkError> {
        let Some(event_queue) = self.event_queues.get(name).cloned() else { return Ok(()) };
        let link = self.shared.publishing.clone();
        // A query for a missing queue closes the channel.
        let (_, probe) = link.channel().await?;
        let exists = link.within(look_at(&probe, name)).await?.is_some();
        let filled = self.fill_record(&event_queue)?;
        let now = FillRecord {
            complete: true,
            limit: if event_queue.stream { 0 } else { self.shared.options.redeliveries_max },
            epoch: self.serving.epoch(),
            bindings: event_queue.bindings.clone(),
        };
        let is_good = exists && filled.complete && filled.limit == now.limit && filled.epoch == now.epoch;
        if !is_good {
            let reason = match exists {
                false => "it does not exist",
                true if !filled.complete => "its filling was interrupted",
                true if filled.epoch != now.epoch => "another server may have used it",
                true => "redeliveries_max has changed",
            };
            tracing::info!(queue = name, to = self.confirmed_to, reason, "filling a queue from the log");
            self.refill(channel, &event_queue, exists).await?;
        }
        let exchange = self.shared.topology.events();
        // Binding is idempotent, and the bindings may have been deleted.
        for key in &event_queue.bindings {
            link.within(bind(channel, name, &exchange, key)).await?;
        }
        for key in filled.bindings.iter().filter(|key| !event_queue.bindings.contains(key)) {
            link.within(unbind(channel, name, &exchange, key)).await?;
        }
        if now != filled || !is_good {
            self.note_filled(&event_queue, now)?;
        }
        Ok(())
    }

    /// Returns the record of a queue. The log may return an older one than was just stored.
    fn fill_record(&self, event_queue: &EventQueue) -> Result<FillRecord, BrokerError> {
        if let Some(filled) = self.filled.get(&event_queue.queue) {
            return Ok(filled.clone());
        }
        Ok(FillRecord::read(self.log.load_cursor(&event_queue.record)?.as_deref()))
    }

    fn note_filled(&mut self, event_queue: &EventQueue, filled: FillRecord) -> Result<(), BrokerError> {
        self.log.store_cursor(&event_queue.record, filled.encoded())?;
        self.filled.insert(event_queue.queue.clone(), filled);
        Ok(())
    }

    /// Declares a queue anew and fills it.
    async fn refill(
        &mut self,
        channel: &Channel,
        event_queue: &EventQueue,
        exists: bool,
    ) -> Result<(), LinkError> {
        let (shared, name) = (Arc::clone(&self.shared), event_queue.queue.as_str());
        let (link, topology) = (&shared.publishing, &shared.topology);
        // Make the record durable before the queue exists: a partly filled queue must be recorded as
        // incomplete.
        self.note_filled(event_queue, FillRecord::incomplete())?;
        self.flush().await?;
        if exists {
            link.within(channel.queue_delete(short(name), QueueDeleteOptions::default())).await?;
            sleep(DELETION_TIME).await;
        }
        let of = event_queue.experiment.as_ref();
        if event_queue.stream {
            link.within(topology.declare_history(channel, name)).await?;
        } else {
            if let Some(experiment) = of {
                link.within(topology.declare_service(channel, &topology.parked(experiment))).await?;
            }
            let limit = shared.options.redeliveries_max;
            link.within(topology.declare_group(channel, name, of, limit)).await?;
        }
        // Use a new channel: one that published to an earlier queue of this name may still refer to that
        // queue.
        let (_, filling) = link.channel().await?;
        link.within(filling.confirm_select(ConfirmSelectOptions::default())).await?;
        self.fill(&filling, event_queue).await?;
        if exists {
            shared.queue_replaced(name);
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
                    message.mandatory = true;
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
            self.note_filled(&event_queue, FillRecord::incomplete())?;
            self.filled.remove(&event_queue.queue);
            let delete = channel.queue_delete(short(&event_queue.queue), QueueDeleteOptions::default());
            self.shared.publishing.within(delete).await?;
        }
        self.experiments.remove(experiment);
        let topology = &self.shared.topology;
        for queue in [topology.proposals(experiment), topology.parked(experiment)] {
            let delete = channel.queue_delete(short(&queue), QueueDeleteOptions::default());
            self.shared.publishing.within(delete).await?;
        }
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        let log = Arc::clone(&self.log);
        let flushed = tokio::task::spawn_blocking(move || log.flush());
        Ok(flushed.await.map_err(|_| BrokerError::Closed)?.map_err(BrokerError::from)?)
    }
}
