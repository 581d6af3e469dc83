//! The broker: delivers durable events to workers, and workers' proposals to the journal.
//!
//! Actors see only the [`Broker`] trait. [`EmbeddedBroker`] implements it inside one process, over any
//! [`EventLog`](dissent_domain::log::EventLog). Its messages *are* the log's events, and a queue is a group's
//! position in the log. [`RabbitBroker`] implements it between processes and hosts, over RabbitMQ. The log
//! stays authoritative, and lost messages are refilled from it.
//!
//! # Guarantees for consumers
//!
//! - **At least once.** Every event of the subscribed types is delivered to each group until a consumer
//!   acknowledges it or it is parked. After a crash or a release it is redelivered. Nothing is delivered
//!   exactly once. Be idempotent by event id, and acknowledge only when all consequences of the event are
//!   durable.
//! - **Only durable events.** An event is delivered only after it is on disk.
//! - **One consumer at a time.** Within a group an event is with at most one consumer of a process. There is
//!   no time limit on a delivery; dropping a [`Delivery`] releases it.
//! - **Order.** Within a group, first attempts are delivered in log order. With one consumer and a prefetch
//!   of 1 they are also processed in that order. Retried and released messages have no order among themselves
//!   or with others.
//! - **Failures are limited, kills are not.** Only [`Delivery::retry`] counts; [`Delivery::release`] and the
//!   end of the process do not. The delay doubles with each failure. After `delivery_limit` failures the
//!   message is parked: it is delivered to [`Broker::parked`], and the other messages continue.
//!   [`Broker::unpark`] replays it.
//! - **Groups are independent.** The consumers of one group share its messages.
//!
//! A group begins at the start of the log. Its event types may change from one start to the next. New types
//! apply from the group's position; earlier events of these types are not delivered.
//!
//! [`RabbitBroker`] documents where RabbitMQ differs slightly.
//!
//! # Durability of the embedded broker's progress
//!
//! Each group has one record of at most 8 KiB: its position, the unfinished messages up to there with their
//! failures, and the parked messages. A changed record is handed to the log within
//! [`record_interval`](EmbeddedOptions::record_interval). The log makes it durable with its next batch,
//! within a bounded time. So an acknowledgement returns before it is durable. A crash in between causes
//! redelivery, never loss, and may drop the latest failures. The record is certainly durable only after
//! [`close`](Broker::close) and [`drained`](Broker::drained).
//!
//! A start resumes from the record, whether or not the last process stopped cleanly. Unfinished messages are
//! redelivered at once, with their recorded failures. So kills alone never park a message. A message that
//! kills the process is redelivered each time, too, and the process's supervisor sees a crash loop.
//!
//! # Limits of the embedded broker
//!
//! | limited | maximum | beyond it |
//! |---|---|---|
//! | consumers of a group | 256 | `subscribe` fails |
//! | unsettled deliveries of a consumer | its prefetch (≤ [`PREFETCH_MAX`]) | `next` waits |
//! | unfinished messages of a group (unsettled, delayed, released) | 256 | no new ones are delivered |
//! | parked messages of a group, unacknowledged | 32 | further ones stay unfinished |
//! | events read ahead for a group | 1.5 pages | reading waits |
//! | undecided proposals | [`EmbeddedOptions::proposals_max`] | `propose` waits |
//!
//! However long one message takes, the others continue: the record names the unfinished messages, not the
//! acknowledged ones.
//!
//! # Stopping
//!
//! [`Broker::close`] ends all consumers. Workers settle their deliveries and may still propose; then
//! [`Broker::drained`] returns. Dropping the last handle without that loses nothing: unsettled messages are
//! redelivered, as after a crash.

mod backoff;
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
mod random;

pub use broker::{Broker, GROUP_BYTES_MAX, PREFETCH_MAX, Subscription};
pub use delivery::{Consumer, Delivery, MessageContext, Parked, ParkedConsumer, ParkedDelivery};
pub use embedded::{EmbeddedBroker, EmbeddedOptions, GroupStatus};
pub use error::{BrokerError, HistoryFault};
pub use future::BoxFuture;
pub use proposal::{PROPOSAL_EVENTS_MAX, Proposal, ProposalConsumer, ProposalDelivery, ProposalReply};
pub use rabbitmq::{
    BrokerStatus, ClientCertificate, DeadContent, DeadMessage, HistoryConsumer, Holder, Leftover, PROTOCOL,
    QueueStats, RabbitBroker, RabbitOptions, Secret, ServerIdentity, TlsOptions,
};
