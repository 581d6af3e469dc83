//! Messages on their way to RabbitMQ: sent, not yet confirmed. Kept until they are, so that they can be sent again.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

use super::topology::{long, short};

/// RabbitMQ writes it to disk before it confirms.
const PERSISTENT: u8 = 2;

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    /// The empty name: straight into the queue that `key` names.
    pub exchange: String,
    pub key: String,
    /// Told back if there is no queue for it.
    pub mandatory: bool,
    /// What consumers know it by when it comes twice.
    pub id: String,
    pub headers: BTreeMap<String, AMQPValue>,
    pub body: Vec<u8>,
}

impl Message {
    /// One straight into a queue.
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

/// What became of a message.
#[derive(Debug)]
pub(super) enum PublishOutcome {
    /// It is safe in every queue it was routed to.
    Confirmed,
    /// There is no queue for it.
    Unroutable,
    /// RabbitMQ could not keep it: a queue is full or has no majority.
    Refused,
    /// The channel is of no use any more; it may have arrived or not.
    Lost(lapin::Error),
}

type Sending = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

struct InFlight<T> {
    /// Shared with what sends it: bodies may be large.
    message: Arc<Message>,
    tag: T,
    sending: Option<Sending>,
    fate: Option<PublishOutcome>,
}

/// Messages in the order in which they were sent, each with what its sender knows it by.
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

    /// What all others wait behind.
    pub(super) fn oldest(&self) -> Option<(&Message, &T)> {
        self.in_flight.front().map(|oldest| (&*oldest.message, &oldest.tag))
    }

    /// Sends a message behind those that were sent before.
    pub(super) fn push(&mut self, channel: &Channel, message: Message, tag: T) {
        let message = Arc::new(message);
        let sending = Some(send(channel, &message));
        self.in_flight.push_back(InFlight { message, tag, sending, fate: None });
    }

    /// Takes out all, to be sent again, in order.
    pub(super) fn take_all(&mut self) -> Vec<(Message, T)> {
        let taken = |InFlight { message, tag, sending, .. }| {
            drop(sending);
            (Arc::unwrap_or_clone(message), tag)
        };
        self.in_flight.drain(..).map(taken).collect()
    }

    /// Puts back messages that were taken out, unsent.
    pub(super) fn restore(&mut self, messages: Vec<(Message, T)>) {
        let unsent = |(message, tag)| InFlight { message: Arc::new(message), tag, sending: None, fate: None };
        self.in_flight.extend(messages.into_iter().map(unsent));
    }

    /// The oldest message, once its fate is known; pending too while there is none.
    pub(super) fn poll_oldest(&mut self, context: &mut Context<'_>) -> Poll<(Message, T, PublishOutcome)> {
        self.poll_all(context);
        if self.in_flight.front().is_some_and(|oldest| oldest.fate.is_some())
            && let Some(InFlight { message, tag, fate: Some(fate), .. }) = self.in_flight.pop_front()
        {
            return Poll::Ready((Arc::unwrap_or_clone(message), tag, fate));
        }
        Poll::Pending
    }

    /// Looks at all before any is let go: lapin hands a returned message to whichever confirmation comes first after
    /// it, which may be another message's, so each is looked up by its id.
    fn poll_all(&mut self, context: &mut Context<'_>) {
        let mut returned = Vec::new();
        for sent in &mut self.in_flight {
            let Some(sending) = &mut sent.sending else { continue };
            let Poll::Ready(outcome) = sending.as_mut().poll(context) else { continue };
            sent.sending = None;
            let (fate, back) = match outcome {
                Ok(Confirmation::Ack(back)) => (PublishOutcome::Confirmed, back),
                Ok(Confirmation::Nack(back)) => (PublishOutcome::Refused, back),
                Ok(Confirmation::NotRequested) => (PublishOutcome::Refused, None),
                Err(error) => (PublishOutcome::Lost(error), None),
            };
            sent.fate = Some(fate);
            returned.extend(back.and_then(|message| message.delivery.properties.message_id().clone()));
        }
        for id in returned {
            let of = self
                .in_flight
                .iter_mut()
                .find(|sent| sent.message.mandatory && sent.message.id == id.as_str());
            if let Some(sent) = of {
                sent.fate = Some(PublishOutcome::Unroutable);
                sent.sending = None;
            }
        }
    }
}

/// Its frames go out, in the order of these calls, when the future is first polled.
fn send(channel: &Channel, message: &Arc<Message>) -> Sending {
    let channel = channel.clone();
    let message = Arc::clone(message);
    Box::pin(async move {
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let (exchange, key) = (short(&message.exchange), short(&message.key));
        channel.basic_publish(exchange, key, options, &message.body, message.properties()).await?.await
    })
}
