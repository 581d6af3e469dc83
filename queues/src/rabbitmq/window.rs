//! The window of sent and unconfirmed messages. It keeps each message until RabbitMQ confirms it, to send it
//! again if necessary.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

use super::topology::{long, short};

/// RabbitMQ writes the message to disk before it confirms.
pub(super) const PERSISTENT: u8 = 2;

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    /// Empty: direct to the queue that `key` names.
    pub exchange: String,
    pub key: String,
    /// Whether it is returned if no queue takes it.
    pub mandatory: bool,
    /// The id by which consumers recognise duplicates.
    pub id: String,
    pub headers: BTreeMap<String, AMQPValue>,
    pub body: Vec<u8>,
}

impl Message {
    /// Returns a message direct to a queue.
    pub(super) fn to_queue(queue: &str, id: String, body: Vec<u8>) -> Self {
        let (exchange, key) = (String::new(), queue.to_owned());
        Self { exchange, key, mandatory: true, id, headers: BTreeMap::new(), body }
    }

    pub(super) fn with_text(mut self, header: &str, text: &str) -> Self {
        self.headers.insert(header.to_owned(), long(text));
        self
    }

    pub(super) fn with_number(mut self, header: &str, number: u64) -> Self {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.headers.insert(header.to_owned(), AMQPValue::LongLongInt(number));
        self
    }

    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in &self.headers {
            headers.insert(short(name), value.clone());
        }
        BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(short("application/vnd.dissent+msgpack"))
            .with_message_id(short(&self.id))
            .with_headers(headers)
    }
}

/// The outcome of a publication.
#[derive(Debug)]
pub(super) enum PublishOutcome {
    /// The message is durable in every queue that it was routed to.
    Confirmed,
    /// No queue is bound to the routing key of the message.
    Unroutable,
    /// RabbitMQ cannot store the message: a queue is full or has no majority.
    Refused,
    /// The channel failed; the message may or may not have arrived.
    Lost(lapin::Error),
}

type Sending = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

struct InFlight<T> {
    /// Shared with the sending future: bodies may be large.
    message: Arc<Message>,
    tag: T,
    sending: Option<Sending>,
    outcome: Option<PublishOutcome>,
}

/// Messages in the order of sending, each with its sender's tag.
pub(super) struct Window<T> {
    in_flight: VecDeque<InFlight<T>>,
}

impl<T> Window<T> {
    pub(super) fn new() -> Self {
        Self { in_flight: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Returns the oldest message; all others wait behind it.
    pub(super) fn oldest(&self) -> Option<(&Message, &T)> {
        self.in_flight.front().map(|oldest| (&*oldest.message, &oldest.tag))
    }

    /// Sends a message after the earlier ones.
    pub(super) fn push(&mut self, channel: &Channel, message: Message, tag: T) {
        let message = Arc::new(message);
        let sending = Some(send(channel, &message));
        self.in_flight.push_back(InFlight { message, tag, sending, outcome: None });
    }

    /// Takes out all messages, in order, to be sent again.
    pub(super) fn take_all(&mut self) -> Vec<(Message, T)> {
        let taken = |InFlight { message, tag, sending, .. }| {
            drop(sending);
            (Arc::unwrap_or_clone(message), tag)
        };
        self.in_flight.drain(..).map(taken).collect()
    }

    /// Puts back messages that were taken out, unsent.
    pub(super) fn restore(&mut self, messages: Vec<(Message, T)>) {
        let unsent =
            |(message, tag)| InFlight { message: Arc::new(message), tag, sending: None, outcome: None };
        self.in_flight.extend(messages.into_iter().map(unsent));
    }

    /// Returns the oldest message with its outcome. Pending while the window is empty or the outcome is open.
    pub(super) fn poll_oldest(&mut self, context: &mut Context<'_>) -> Poll<(Message, T, PublishOutcome)> {
        self.poll_all(context);
        if self.in_flight.front().is_some_and(|oldest| oldest.outcome.is_some())
            && let Some(InFlight { message, tag, outcome: Some(outcome), .. }) = self.in_flight.pop_front()
        {
            return Poll::Ready((Arc::unwrap_or_clone(message), tag, outcome));
        }
        Poll::Pending
    }

    /// Polls all messages before any is removed. lapin returns an unroutable message with the next
    /// confirmation, which may belong to another message. So each returned message is matched by its id.
    fn poll_all(&mut self, context: &mut Context<'_>) {
        let mut returned = Vec::new();
        for sent in &mut self.in_flight {
            let Some(sending) = &mut sent.sending else { continue };
            let Poll::Ready(outcome) = sending.as_mut().poll(context) else { continue };
            sent.sending = None;
            let (outcome, back) = match outcome {
                Ok(Confirmation::Ack(back)) => (PublishOutcome::Confirmed, back),
                Ok(Confirmation::Nack(back)) => (PublishOutcome::Refused, back),
                Ok(Confirmation::NotRequested) => (PublishOutcome::Refused, None),
                Err(error) => (PublishOutcome::Lost(error), None),
            };
            sent.outcome = Some(outcome);
            returned.extend(back.and_then(|message| message.delivery.properties.message_id().clone()));
        }
        for id in returned {
            let of = self
                .in_flight
                .iter_mut()
                .find(|sent| sent.message.mandatory && sent.message.id == id.as_str());
            if let Some(sent) = of {
                sent.outcome = Some(PublishOutcome::Unroutable);
                sent.sending = None;
            }
        }
    }
}

/// Returns the sending of a message. The message's frames are sent when the future is first polled, in the
/// order of these calls.
fn send(channel: &Channel, message: &Arc<Message>) -> Sending {
    let channel = channel.clone();
    let message = Arc::clone(message);
    Box::pin(async move {
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let (exchange, key) = (short(&message.exchange), short(&message.key));
        channel.basic_publish(exchange, key, options, &message.body, message.properties()).await?.await
    })
}
