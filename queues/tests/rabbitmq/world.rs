//! A server on a node, over a log in memory.

use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::{Broker, RabbitBroker, RabbitOptions, ServerIdentity};

use crate::contract::{Harness, contract};
use crate::memory_log::{Durability, MemoryLog};
use crate::node::Node;

/// Number of unchanged observations after which nothing is in flight any more.
const STILL: usize = 10;

/// A server and its environment.
pub(crate) struct World {
    pub(crate) options: RabbitOptions,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) server: Arc<RabbitBroker>,
}

/// Returns the identity of a server process.
pub(crate) fn identity(process: u32) -> ServerIdentity {
    ServerIdentity {
        installation: "an-installation".to_owned(),
        host: "a-host".to_owned(),
        process,
        version: "0.2.0".to_owned(),
        since_us: 1_709_210_096_000_000,
    }
}

/// Waits for a condition, at most as long as a claim may take.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl World {
    pub(crate) async fn new(node: &Node, prefix: &str) -> Self {
        let mut options = RabbitOptions::from_url(&node.url()).unwrap();
        options.prefix = prefix.to_owned();
        options.operation_timeout = Duration::from_secs(10);
        Self::with(options).await
    }

    pub(crate) async fn with(options: RabbitOptions) -> Self {
        let log = MemoryLog::new(Durability::Immediate);
        let server = Self::start(&options, &log).await;
        Self { options, log, server }
    }

    pub(crate) async fn start(options: &RabbitOptions, log: &Arc<MemoryLog>) -> Arc<RabbitBroker> {
        let log = Arc::clone(log) as Arc<dyn EventLog>;
        let server = RabbitBroker::connect_server(options.clone(), log, identity(1)).await.unwrap();
        server.host(&contract()).unwrap();
        server
    }

    /// Returns a worker beside the server.
    pub(crate) async fn worker(&self) -> Arc<RabbitBroker> {
        RabbitBroker::connect_worker(self.options.clone()).await.unwrap()
    }

    /// Stops the server and starts another over the same log.
    pub(crate) async fn restart(self) -> Self {
        let Self { options, log, server } = self;
        server.close();
        server.drained().await.unwrap();
        drop(server);
        let log = log.crash();
        let server = Self::start(&options, &log).await;
        Self { options, log, server }
    }

    /// Returns a separate connection, for interfering.
    pub(crate) async fn meddler(&self) -> (lapin::Connection, lapin::Channel) {
        let address = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.options.port);
        let connection = lapin::Connection::connect(&address, lapin::ConnectionProperties::default());
        let connection = connection.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Waits until everything is relayed and settled, and stays so for some time: deliveries in flight
    /// arrive.
    pub(crate) async fn settled(&self) {
        let mut still = 0;
        while still < STILL {
            let status = self.server.status();
            let done = status.relayed_to == self.log.head() && status.unconfirmed == 0 && status.steady;
            still = if done { still + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Harness for World {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.server) as Arc<dyn Broker>
    }

    fn publish_for(&self, experiment: &ExperimentId, kind: EventType, count: usize) -> Vec<u64> {
        self.log.put_for(experiment, kind, count)
    }

    async fn quiesce(&self) {
        self.settled().await;
    }

    async fn crash(&mut self) {
        self.log = self.log.crash();
        // The system closes the connections of a killed process.
        self.server = RabbitBroker::connect_operator(self.options.clone()).await.unwrap();
        self.server = Self::start(&self.options, &self.log).await;
    }
}
