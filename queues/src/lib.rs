//! The broker: brings durable events to workers, and workers' proposals to the journal.
//!
//! Actors see only the [`Broker`] trait. [`EmbeddedBroker`] implements it inside one process, over any
//! [`EventLog`](dissent_domain::log::EventLog): the messages *are* the log's events, and a queue is a group's
//! place in the log. [`RabbitBroker`] implements it between processes and hosts, over RabbitMQ; the log stays the truth,
//! and what was lost there is filled in from it.
//!
//! # What a consumer can count on
//!
//! - **At least once.** Every event of the subscribed kinds is delivered to each group until one of its
//!   consumers acknowledges it or it is parked. After a crash, or when a worker gives it back, it comes
//!   again. Nothing is delivered exactly once: be idempotent by event id, and acknowledge only when what
//!   follows from the event is durable.
//! - **Only durable events.** What is not yet on disk is not delivered.
//! - **One worker at a time.** Within a group an event is in at most one pair of hands of a process. There is
//!   no time limit on holding it; dropping a [`Delivery`] gives it back.
//! - **Order.** Within a group, first attempts are handed out in the order of the log. With one consumer and
//!   a prefetch of 1 they are also processed in that order. Retried and returned messages come when they
//!   can: no order holds between them and the others.
//! - **Failures are limited, kills are not.** Only [`Delivery::retry`] counts; [`Delivery::release`] does not,
//!   nor does the end of the process. The delay doubles from failure to failure. After `delivery_limit`
//!   failures the message is parked: it is handed to [`Broker::parked`] and the others go on.
//!   [`Broker::unpark`] replays it.
//! - **Groups are independent**; the consumers of one group share its messages.
//!
//! A group begins at the start of the log. Its kinds may change from one start to the next: the new ones
//! apply from where it stands, and what it has passed is not delivered again.
//!
//! What RabbitMQ promises a little differently is said at [`RabbitBroker`].
//!
//! # What the embedded broker remembers, and when
//!
//! Each group has one record of at most 8 KiB: how far it has come, which messages up to there are unfinished
//! after how many failures, and which are parked. The record is handed to the log within
//! [`record_interval`](EmbeddedOptions::record_interval) of a change, and the log makes it durable with its
//! next batch, within a bounded time. An acknowledgement therefore returns before it is durable; a crash in
//! between causes redelivery, never loss, and may forget the failures of those last moments. The record is
//! durable for certain only after [`close`](Broker::close) and [`drained`](Broker::drained).
//!
//! A start takes up the record as it finds it, whether or not the last process stopped cleanly: what is
//! unfinished comes again at once, with the failures recorded for it. A process that is killed however often
//! thus parks nothing. A message that kills the process comes again each time as well, which whoever
//! supervises the process sees as a crash loop.
//!
//! # Limits of the embedded broker
//!
//! | what | most | then |
//! |---|---|---|
//! | consumers of a group | 256 | `subscribe` refuses |
//! | unsettled deliveries of a consumer | its prefetch (≤ [`PREFETCH_MAX`]) | `next` waits |
//! | unfinished messages of a group: in hand, waiting for a retry, given back | 256 | no new ones are begun |
//! | parked messages of a group that nobody took note of | 32 | further ones wait, counted as unfinished |
//! | events read ahead for a group | 1.5 pages | reading waits |
//! | undecided proposals | [`proposals_max`](EmbeddedOptions::proposals_max) | `propose` waits |
//!
//! However long one message takes, the others go on: the record names the unfinished messages, not those that
//! were acknowledged around them.
//!
//! # Stopping
//!
//! [`Broker::close`] ends all consumers; workers settle what they hold and may still propose; then
//! [`Broker::drained`] is ready. Dropping the last handle without that loses nothing either: unsettled
//! messages come again, as after a crash.

mod broker;
mod context;
mod delivery;
mod embedded;
mod error;
mod future;
mod lock;
#[cfg(test)]
#[path = "../../domain/tests/mutation/mod.rs"]
mod mutation;
mod proposal;
mod rabbitmq;

pub use broker::{Broker, GROUP_BYTES_MAX, PREFETCH_MAX, Subscription};
pub use delivery::{Consumer, Delivery, MessageContext, Parked, ParkedConsumer, ParkedDelivery};
pub use embedded::{EmbeddedBroker, EmbeddedOptions, GroupStatus};
pub use error::BrokerError;
pub use future::BoxFuture;
pub use proposal::{PROPOSAL_EVENTS_MAX, Proposal, ProposalConsumer, ProposalDelivery, ProposalReply};
pub use rabbitmq::{
    BrokerStatus, ClientCertificate, DeadContent, DeadMessage, HistoryConsumer, QueueStats, RabbitBroker,
    RabbitOptions, Secret, TlsOptions,
};
