//! A client of RabbitMQ that obeys no rules of the service.

use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

/// Longest time for the work of a fault.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Runs a task to its end.
pub(crate) fn run<T>(task: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(TIME_LIMIT, task).await });
    runtime.shutdown_background();
    done.expect("RabbitMQ serves this client within a minute")
}

/// Connects, and opens a channel.
pub(crate) async fn connect(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Publishes a message, without waiting for a confirmation.
pub(crate) async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) {
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
}

/// The properties of a message that RabbitMQ keeps on disk.
pub(crate) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}
