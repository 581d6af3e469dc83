//! The checks of a service: its broker and its artifact store. Each has a time limit.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::error::chain;
use dissent_queues::{Broker as _, BrokerError, PROTOCOL, RabbitBroker, RabbitOptions, ServerIdentity};
use dissent_storage::{MemoryLog, SharedStore};

use super::finding::Finding;
use crate::config::{ArtifactsConfig, BrokerConfig, RabbitConfig};
use crate::installation::Installation;

/// Longest wait for a connection, and for each answer of RabbitMQ.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest check of RabbitMQ.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest check of the artifact store.
const STORE_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts to delete the scratch queues. RabbitMQ frees their locks soon after the connection ends.
const DELETIONS_MAX: u32 = 20;
const DELETION_PAUSE: Duration = Duration::from_millis(100);
/// Beginning of the names of queues, if no installation has given them one yet.
const ANY_INSTALLATION: &str = "dissent-new";
/// The scratch object.
const OBJECT: &str = "doctor";

/// Checks the broker of a configuration.
pub(super) fn broker(config: &BrokerConfig, data_dir: &Path) -> Vec<Finding> {
    match config {
        BrokerConfig::Embedded(_) => {
            let found = "embedded: one process runs all steps; workers need [broker] kind = \"rabbitmq\"";
            vec![Finding::of("broker", Ok(found.to_owned()))]
        }
        BrokerConfig::Rabbitmq(rabbit) => rabbitmq(rabbit, data_dir),
    }
}

fn rabbitmq(rabbit: &RabbitConfig, data_dir: &Path) -> Vec<Finding> {
    let options = || {
        let installation = match &rabbit.prefix {
            Some(prefix) => Some(prefix.clone()),
            None => Installation::find(data_dir)?.map(Installation::prefix),
        };
        let options = rabbit.options(installation.as_deref().unwrap_or(ANY_INSTALLATION))?;
        let (start_timeout, connect_timeout) = (ANSWER_TIMEOUT, ANSWER_TIMEOUT);
        let operation_timeout = ANSWER_TIMEOUT;
        let options = RabbitOptions { start_timeout, connect_timeout, operation_timeout, ..options };
        anyhow::Ok((options, installation.is_some()))
    };
    let (options, is_named) = match options() {
        Ok(found) => found,
        Err(error) => return vec![Finding::of("broker", Err(error))],
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::of("broker", Err(error.into()))],
    };
    let mut findings = Vec::new();
    let checking = async {
        match check_connection(&options, is_named).await {
            Ok((connection, server)) => {
                findings.push(Finding::of("broker", Ok(connection)));
                findings.push(Finding::of("server", server.map_err(anyhow::Error::from)));
            }
            Err(error) => {
                let way_out =
                    "RabbitMQ cannot be used: start it, or check DISSENT_RABBITMQ_URL or broker.url_file";
                findings.push(Finding::of("broker", Err(anyhow::Error::from(error).context(way_out))));
                return;
            }
        }
        findings.push(Finding::of("permissions", check_permissions(&options).await));
    };
    if runtime.block_on(async { tokio::time::timeout(BROKER_TIMEOUT, checking).await }).is_err() {
        let reason = format!("RabbitMQ has not answered for {} s: see its log", BROKER_TIMEOUT.as_secs());
        findings.push(Finding::of("broker", Err(anyhow::anyhow!(reason))));
    }
    findings
}

/// Connects as an operator. Returns descriptions of the connection, and of the server of the prefix.
async fn check_connection(
    options: &RabbitOptions,
    is_named: bool,
) -> Result<(String, Result<String, BrokerError>), BrokerError> {
    let broker = RabbitBroker::connect_operator(options.clone()).await?;
    let RabbitOptions { host, port, user, vhost, prefix, .. } = options;
    let connection = format!("RabbitMQ at {host}:{port}, as user {user:?}, in virtual host {vhost:?}");
    let server = if is_named {
        server(&broker, prefix).await
    } else {
        Ok("none has run with the data folder: the first start names its queues".to_owned())
    };
    Ok((connection, server))
}

/// Describes the server that serves the prefix, or the last one.
async fn server(broker: &RabbitBroker, prefix: &str) -> Result<String, BrokerError> {
    let holder = broker.holder().await?;
    let lock = format!("{prefix}.{PROTOCOL}.lock.publishing");
    let is_served = match broker.queue_stats(&[&lock]).await {
        Ok(_) => false,
        // The lock belongs to another connection.
        Err(error) if chain(&error).contains("RESOURCE_LOCKED") => true,
        Err(error) => return Err(error),
    };
    Ok(match holder {
        Some(holder) if is_served => {
            format!("prefix {prefix:?} is served by {holder}, version {}", holder.version)
        }
        Some(holder) => format!("prefix {prefix:?} is not served now; the last server was {holder}"),
        None if is_served => format!("prefix {prefix:?} is served by a server without a record"),
        None => format!("prefix {prefix:?} has not been served yet"),
    })
}

/// Declares the queues of a server under a scratch prefix, which needs all permissions, and deletes them.
async fn check_permissions(options: &RabbitOptions) -> anyhow::Result<String> {
    let RabbitOptions { prefix, user, .. } = options;
    let scratch = format!("{prefix}.{PROTOCOL}.doctor-{}", std::process::id());
    let of_scratch = RabbitOptions { prefix: scratch.clone(), ..options.clone() };
    let identity = ServerIdentity {
        installation: "doctor".to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        process: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since_us: dissent_actors::now_us(),
    };
    let serving = RabbitBroker::connect_server(of_scratch.clone(), Arc::new(MemoryLog::new()), identity);
    let served = serving.await.map(|broker| broker.close());
    let deleted = delete(of_scratch).await;
    // The reason and the way out name the scratch queues.
    let named = |error: &BrokerError| anyhow::anyhow!(chain(error).replace(&scratch, prefix));
    served.map_err(|error| named(&error))?;
    deleted.map_err(|error| named(&error)).context("failed to delete the scratch queues")?;
    Ok(format!("user {user:?} may configure, write and read names that begin with {prefix}.{PROTOCOL}."))
}

async fn delete(options: RabbitOptions) -> Result<(), BrokerError> {
    let broker = RabbitBroker::connect_operator(options).await?;
    for _ in 1..DELETIONS_MAX {
        match broker.delete_all(&[], &[]).await {
            Err(BrokerError::Served { .. }) => tokio::time::sleep(DELETION_PAUSE).await,
            deleted => return deleted.map(drop),
        }
    }
    broker.delete_all(&[], &[]).await.map(drop)
}

/// Checks the artifact store of a configuration: writes, reads and deletes an object.
pub(super) fn store(config: &ArtifactsConfig) -> Finding {
    const WHAT: &str = "artifact store";
    let Some(url) = config.url.clone() else {
        let found = "none: artifacts are in the data folder, which server and workers must share";
        return Finding::of(WHAT, Ok(found.to_owned()));
    };
    let (sender, outcome) = mpsc::channel();
    // A store that does not answer keeps its thread, which ends with the process.
    std::thread::spawn(move || {
        let _late = sender.send(exchange(&url).context("the store cannot be used: check artifacts.url"));
    });
    let late = || {
        let reason =
            format!("the store has not answered for {} s: check artifacts.url", STORE_TIMEOUT.as_secs());
        Err(anyhow::anyhow!(reason))
    };
    Finding::of(WHAT, outcome.recv_timeout(STORE_TIMEOUT).unwrap_or_else(|_| late()))
}

fn exchange(url: &str) -> anyhow::Result<String> {
    let store = SharedStore::open(url)?;
    let written = format!("{} {}\n", std::process::id(), dissent_actors::now_us()).into_bytes();
    store.put(OBJECT, written.clone())?;
    let read = store.get(OBJECT, written.len() as u64)?;
    anyhow::ensure!(
        read.as_ref() == Some(&written),
        "the store at {url} does not return what was written: use a store with consistent reads"
    );
    match url.strip_prefix("file://") {
        Some(folder) => {
            let path = Path::new(folder).join(OBJECT);
            std::fs::remove_file(&path).with_context(|| format!("failed to delete {}", path.display()))?;
            Ok(format!("{url} can be written, read and deleted"))
        }
        // Dissent deletes nothing in a bucket, so its user needs no permission for that.
        None => Ok(format!("{url} can be written and read; the object {OBJECT:?} stays there")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn options_of(url: &Path) -> RabbitConfig {
        let text = format!("kind = \"rabbitmq\"\nurl_file = {:?}", url.display().to_string());
        let BrokerConfig::Rabbitmq(rabbit) = toml::from_str(&text).unwrap() else {
            panic!("the kind is rabbitmq");
        };
        rabbit
    }

    #[test]
    fn doctor_finds_the_embedded_broker_without_a_connection() {
        let found = broker(&BrokerConfig::default(), Path::new("nowhere"));
        assert!(found.len() == 1 && found[0].ok && found[0].found.contains("embedded"));
    }

    #[test]
    fn doctor_names_an_unreachable_broker_within_its_time_limit() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("url");
        // Nobody listens at the port any more.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(&url, format!("amqp://ann:secret@127.0.0.1:{port}/lab")).unwrap();
        let begun = Instant::now();
        let found = rabbitmq(&options_of(&url), folder.path());
        assert!(begun.elapsed() < BROKER_TIMEOUT);
        assert!(found.len() == 1 && !found[0].ok && found[0].what == "broker");
        assert!(found[0].found.contains(&port.to_string()), "{}", found[0].found);
        assert!(!found[0].found.contains("secret"), "{}", found[0].found);
    }

    #[test]
    fn doctor_writes_reads_and_deletes_an_object_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let url = Some(format!("file://{}", folder.path().display()));
        let found = store(&ArtifactsConfig { url, cache_gib: None });
        assert!(found.ok, "{}", found.found);
        assert!(!folder.path().join(OBJECT).exists());
        let found = store(&ArtifactsConfig { url: Some("ftp://x".to_owned()), cache_gib: None });
        assert!(!found.ok && found.found.contains("ftp"), "{}", found.found);
        assert!(store(&ArtifactsConfig::default()).ok);
    }
}
