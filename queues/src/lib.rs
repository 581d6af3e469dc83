//! The broker: brings durable events to workers and proposals to the journal.

mod broker;
mod delivery;
mod embedded;
mod error;
mod proposal;

pub use broker::{BoxFuture, Broker, GROUP_BYTES_MAX, PREFETCH_MAX, Subscription};
pub use delivery::{Consumer, Delivery, Parked, ParkedConsumer, ParkedDelivery};
pub use embedded::{EmbeddedBroker, EmbeddedOptions, GroupStatus};
pub use error::BrokerError;
pub use proposal::{Answer, PROPOSAL_EVENTS_MAX, Proposal, ProposalConsumer, ProposalDelivery};
