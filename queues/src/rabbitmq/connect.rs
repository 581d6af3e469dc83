//! Connecting to RabbitMQ: as the server, as a worker, or for an operator's commands.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dissent_domain::error::{Cause, chain};
use dissent_domain::log::EventLog;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::broker::{RabbitBroker, Server};
use super::holder;
use super::holder_record::check_protocol;
use super::identity::{Holder, PROTOCOL, ServerIdentity};
use super::link::{Link, LinkLock, Trouble};
use super::link_error::LinkError;
use super::options::RabbitOptions;
use super::publisher::Publisher;
use super::relay::Relay;
use super::shared::Shared;
use super::signals::Signals;
use super::threads::Threads;
use super::topology::Topology;
use super::{old_names, refusal};
use crate::context::Contexts;
use crate::error::BrokerError;
use crate::proposal::proposal_channel;

/// Interval between checks for the first connection.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The role of a process.
enum Role {
    Server(ServerIdentity),
    Worker,
    Operator,
}

impl RabbitBroker {
    /// Connects as the server: relays `log`, receives proposals and parked messages.
    ///
    /// # Errors
    /// - As [`RabbitOptions::check`] if the options are out of range.
    /// - [`BrokerError::Log`] if a record of the relay cannot be read.
    /// - [`BrokerError::Served`] if another server still serves the prefix after
    ///   [`lock_timeout`](RabbitOptions::lock_timeout).
    /// - [`BrokerError::OtherProtocol`] if a server of a newer version served the prefix.
    /// - [`BrokerError::RefusedByBroker`] at once if waiting cannot help.
    /// - [`BrokerError::Late`] if there is no connection within
    ///   [`start_timeout`](RabbitOptions::start_timeout).
    pub async fn connect_server(
        options: RabbitOptions,
        log: Arc<dyn EventLog>,
        identity: ServerIdentity,
    ) -> Result<Arc<Self>, BrokerError> {
        let (shared, threads) = begin(options, &Role::Server(identity.clone()))?;
        let (commands, incoming) = mpsc::unbounded_channel();
        let contexts = Arc::new(Contexts::default());
        let mut relay = Relay::new(&shared, Arc::clone(&log), incoming, Arc::clone(&contexts), identity)?;
        connected(&shared).await?;
        let preparing = async {
            let (_, channel) = shared.publishing.channel().await?;
            relay.prepare(&channel).await
        };
        checked(&shared, "declare the queues", bounded(&shared, preparing).await)?;
        let (proposals, consumer) = proposal_channel(shared.options.proposals_max);
        let proposal_consumer = Mutex::new(Some(consumer));
        let server = Server { log, commands, proposals, proposal_consumer, contexts };
        shared.runtime.spawn(relay.run());
        Ok(Arc::new(Self::of(shared, threads, Some(server))))
    }

    /// Connects as a worker: subscribes and proposes. The server may start later.
    ///
    /// # Errors
    /// As [`connect_server`](Self::connect_server), without those of the log and of another server.
    /// [`BrokerError::OtherProtocol`] also if only queues of version 0.1 exist.
    pub async fn connect_worker(options: RabbitOptions) -> Result<Arc<Self>, BrokerError> {
        let (shared, threads) = begin(options, &Role::Worker)?;
        connected(&shared).await?;
        checked(&shared, "read the record of the server", bounded(&shared, check_server(&shared)).await)?;
        Ok(Arc::new(Self::of(shared, threads, None)))
    }

    /// Connects for the commands of an operator: it declares nothing, and speaks to servers of any version.
    ///
    /// # Errors
    /// As [`connect_worker`](Self::connect_worker), without [`BrokerError::OtherProtocol`].
    pub async fn connect_operator(options: RabbitOptions) -> Result<Arc<Self>, BrokerError> {
        let (shared, threads) = begin(options, &Role::Operator)?;
        connected(&shared).await?;
        Ok(Arc::new(Self::of(shared, threads, None)))
    }

    /// Returns the server that serves the prefix, or the one that did so last; `None` if there was none.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if RabbitMQ is unavailable or does not respond in time.
    pub async fn holder(&self) -> Result<Option<Holder>, BrokerError> {
        let reading = self.shared.bounded(holder::read(&self.shared.consuming, &self.shared.topology));
        let action = "read the record of the server";
        reading.await.map_err(|error| super::broker::unavailable(&self.shared, action, error))
    }
}

/// Creates the shared parts and the threads, and starts the links and the publisher.
fn begin(options: RabbitOptions, role: &Role) -> Result<(Arc<Shared>, Threads), BrokerError> {
    options.check()?;
    let threads = Threads::start()?;
    let Some(runtime) = threads.handle() else {
        return Err(BrokerError::Closed);
    };
    let topology = Topology::new(&options.prefix);
    let lock = |after| match role {
        Role::Server(identity) => {
            Some(LinkLock { identity: identity.clone(), topology: topology.clone(), after })
        }
        Role::Worker | Role::Operator => None,
    };
    let publishing = Link::new("publishing", &options, lock(None));
    // One lock decides: a process without the first never asks for the second.
    let consuming = Link::new("consuming", &options, lock(Some(publishing.clone())));
    let signals = Arc::new(Signals::default());
    let declares = !matches!(role, Role::Operator);
    let (publisher, publisher_task) = Publisher::new(&publishing, &topology, &options, declares, &signals);
    runtime.spawn(publishing.clone().supervise());
    runtime.spawn(consuming.clone().supervise());
    runtime.spawn(publisher_task.run());
    let shared = Shared::new(options, topology, (publishing, consuming), publisher, signals, runtime);
    Ok((Arc::new(shared), threads))
}

/// Waits for both connections; a lasting refusal or another server ends the wait early.
async fn connected(shared: &Shared) -> Result<(), BrokerError> {
    let (begun, options) = (Instant::now(), &shared.options);
    let links = [&shared.publishing, &shared.consuming];
    let mut is_reported = false;
    while !links.iter().all(|link| link.is_up()) {
        let trouble = links.iter().find_map(|link| link.trouble());
        if let Some(Trouble { refusal: Some((reason, code)), .. }) = trouble {
            return Err(refusal::refused(options, "accept the connection", reason, code));
        }
        if let Some(holder) = links.iter().find_map(|link| link.taken_over_by()) {
            if begun.elapsed() >= options.lock_timeout {
                let (prefix, holder) = (options.prefix.clone(), Box::new(holder));
                return Err(BrokerError::Served { prefix, holder });
            }
            if !is_reported {
                tracing::info!(prefix = options.prefix, %holder, "waiting for another server of this prefix to stop");
                is_reported = true;
            }
        } else if begun.elapsed() >= options.start_timeout {
            let (action, address) = ("accept the connection", options.address());
            let source = trouble.map(|trouble| Cause::new(trouble.error));
            return Err(BrokerError::Late { action, address, limit: options.start_timeout, source });
        }
        sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Runs the first operation with the time limit of the start.
async fn bounded(
    shared: &Shared,
    operation: impl Future<Output = Result<(), LinkError>>,
) -> Result<(), LinkError> {
    let limit = shared.options.start_timeout;
    timeout(limit, operation).await.unwrap_or(Err(LinkError::Late(limit)))
}

/// Passes on lasting errors. The tasks of the broker repeat what failed for a while.
fn checked(shared: &Shared, action: &'static str, outcome: Result<(), LinkError>) -> Result<(), BrokerError> {
    let Err(error) = outcome else { return Ok(()) };
    if let Some(refused) = refusal::error(&shared.options, action, &error) {
        return Err(refused);
    }
    if let LinkError::Broker(error) = error {
        return Err(error);
    }
    tracing::warn!(error = %chain(&error), action, "deferring an operation until RabbitMQ allows it");
    Ok(())
}

/// Fails if the server speaks another protocol.
async fn check_server(shared: &Shared) -> Result<(), LinkError> {
    let link = &shared.consuming;
    match holder::read(link, &shared.topology).await? {
        Some(holder) => {
            check_protocol(&holder)?;
            shared.signals.set_start(holder.start);
            Ok(())
        }
        None if old_names::exist(link, &shared.options.prefix).await? => {
            let (server_version, server_protocol) = ("0.1".to_owned(), 1);
            Err(BrokerError::OtherProtocol { server_version, server_protocol, own: PROTOCOL }.into())
        }
        None => {
            tracing::info!(prefix = shared.options.prefix, "waiting for the first server of this prefix");
            Ok(())
        }
    }
}
