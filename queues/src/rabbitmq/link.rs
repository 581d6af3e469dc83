//! A supervised connection: it reconnects while the broker is open, with growing, jittered delays.
//!
//! It does not use lapin's own recovery: a new connection has new channels. So a delivery of an old channel
//! cannot be acknowledged on a new one by mistake.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_core::Stream;
use lapin::protocol::AMQPErrorKind;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::holder_record;
use super::identity::{Holder, ServerIdentity};
use super::link_error::LinkError;
use super::options::RabbitOptions;
use super::refusal;
use super::topology::{Topology, code_of, declare_lock, is_locked};
use crate::backoff::{Backoff, Retries};
use crate::error::BrokerError;

/// Delays between two attempts to connect or to use a connection, and the first of them.
pub(super) const BACKOFF: Backoff = Backoff::new(BACKOFF_MIN, Duration::from_secs(5));
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Interval between checks of the connection's status: an event could be missed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// An established connection and its number.
#[derive(Clone)]
struct Up {
    generation: u64,
    connection: Arc<Connection>,
}

/// A supervised connection. Clones share it.
#[derive(Clone)]
pub(super) struct Link {
    state: Arc<LinkState>,
}

/// The lock that a connection of the server needs.
pub(super) struct LinkLock {
    pub identity: ServerIdentity,
    pub topology: Topology,
    /// The link whose lock is taken first. Without that lock, this link does not connect.
    pub after: Option<Link>,
}

/// The reason why there is no connection.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub error: String,
    /// The reason and code of RabbitMQ, if waiting does not help.
    pub refusal: Option<(String, Option<u16>)>,
}

struct LinkState {
    name: &'static str,
    options: RabbitOptions,
    lock: Option<LinkLock>,
    up: watch::Sender<Option<Up>>,
    /// The other server, while it has the lock.
    taken_over_by: watch::Sender<Option<Holder>>,
    blocked: AtomicBool,
    /// Generation of the last connection without a channel left. It must be replaced.
    used_up: AtomicU64,
    /// Number of lost connections.
    losses: AtomicU64,
    /// The error of the last attempt to connect.
    trouble: watch::Sender<Option<Trouble>>,
}

impl Link {
    pub(super) fn new(name: &'static str, options: &RabbitOptions, lock: Option<LinkLock>) -> Self {
        Self {
            state: Arc::new(LinkState {
                name,
                options: options.clone(),
                lock,
                taken_over_by: watch::Sender::new(None),
                up: watch::Sender::new(None),
                blocked: AtomicBool::new(false),
                used_up: AtomicU64::new(0),
                losses: AtomicU64::new(0),
                trouble: watch::Sender::new(None),
            }),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.up.borrow().is_some()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.state.blocked.load(Ordering::Acquire)
    }

    pub(super) fn losses(&self) -> u64 {
        self.state.losses.load(Ordering::Acquire)
    }

    /// Returns the error of the last attempt to connect, if it failed.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.state.trouble.borrow().clone()
    }

    /// Returns the other server that has the lock of this connection.
    pub(super) fn taken_over_by(&self) -> Option<Holder> {
        self.state.taken_over_by.borrow().clone()
    }

    /// Waits for a connection and opens a channel on it. Also returns the connection's generation, for
    /// [`lost`](Self::lost).
    pub(super) async fn channel(&self) -> Result<(u64, Channel), LinkError> {
        let mut ups = self.state.up.subscribe();
        loop {
            let up = match ups.wait_for(Option::is_some).await {
                Ok(up) => up.clone().ok_or(LinkError::Lost)?,
                Err(_) => return Err(LinkError::Lost),
            };
            match self.within(open_channel(&up.connection)).await {
                Err(LinkError::Amqp(error)) if matches!(error.kind(), ErrorKind::ChannelsLimitReached) => {
                    self.state.used_up.store(up.generation, Ordering::Release);
                    drop(up.connection);
                    self.lost(up.generation).await;
                }
                outcome => return Ok((up.generation, outcome?)),
            }
        }
    }

    /// Drops the connection, as the last action of the broker.
    pub(super) fn drop_connection(&self) {
        self.state.up.send_replace(None);
    }

    /// Returns once the connection of this generation is lost.
    pub(super) async fn lost(&self, generation: u64) {
        let mut ups = self.state.up.subscribe();
        let is_gone = |up: &Option<Up>| up.as_ref().is_none_or(|up| up.generation != generation);
        // An error means that the link itself was dropped.
        let _gone = ups.wait_for(is_gone).await;
    }

    /// Runs an operation with a time limit.
    pub(super) async fn within<T>(
        &self,
        operation: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, LinkError> {
        let limit = self.state.options.operation_timeout;
        match timeout(limit, operation).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(LinkError::Late(limit)),
        }
    }

    /// Keeps the link connected. It ends only with its task.
    pub(super) async fn supervise(self) {
        let mut retries = Retries::new(BACKOFF);
        let (place, connection) = (self.state.options.address(), self.state.name);
        let mut last_error = None;
        for generation in 1u64.. {
            if let Some(first) = self.state.lock.as_ref().and_then(|lock| lock.after.as_ref()) {
                first.until_up().await;
            }
            match self.connect_and_lock().await {
                Ok(up) => {
                    tracing::info!(%place, connection, "connected to RabbitMQ");
                    last_error = None;
                    retries.reset();
                    self.state.trouble.send_replace(None);
                    let why = self.hold(Up { generation, connection: Arc::new(up) }).await;
                    self.state.losses.fetch_add(1, Ordering::AcqRel);
                    tracing::warn!(%place, connection, error = %why, "lost the connection to RabbitMQ; reconnecting");
                }
                Err(error) => {
                    let code = if let LinkError::Amqp(error) = &error { code_of(error) } else { None };
                    let refusal = refusal::reason(&error).map(|reason| (reason, code));
                    let error = with_causes(&error);
                    // Log each new error once: RabbitMQ may be down for hours.
                    if last_error.as_ref() != Some(&error) {
                        tracing::warn!(%place, connection, %error, "failed to connect to RabbitMQ; retrying");
                        last_error = Some(error.clone());
                    }
                    self.state.trouble.send_replace(Some(Trouble { error, refusal }));
                }
            }
            retries.wait().await;
        }
    }

    /// Waits until there is a connection.
    async fn until_up(&self) {
        // An error means that the link itself was dropped.
        let mut ups = self.state.up.subscribe();
        let _gone = ups.wait_for(Option::is_some).await;
    }

    /// Connects, and takes the lock before the connection is used. Without the lock, nothing is published or
    /// consumed. The lock ends with the connection: RabbitMQ frees it exactly when it accepts nothing more
    /// from this connection.
    async fn connect_and_lock(&self) -> Result<Connection, LinkError> {
        let connection = self.connect().await?;
        let Some(lock) = &self.state.lock else { return Ok(connection) };
        let channel = self.within(open_channel(&connection)).await?;
        match self.within(declare_lock(&channel, &lock.topology.lock(self.state.name))).await {
            Ok(()) => {
                self.state.taken_over_by.send_replace(None);
                Ok(connection)
            }
            Err(LinkError::Amqp(error)) if is_locked(&error) => {
                let holder = self.other_holder(&connection, lock).await;
                let error =
                    LinkError::Locked(holder.as_ref().map_or_else(
                        || "an earlier connection of this process".to_owned(),
                        Holder::to_string,
                    ));
                self.state.taken_over_by.send_replace(holder);
                let _closed = self.within(connection.close(200, "locked".into())).await;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the server that has the lock, unless it is this one: RabbitMQ may not have noticed yet that an
    /// earlier connection is lost.
    async fn other_holder(&self, connection: &Connection, lock: &LinkLock) -> Option<Holder> {
        let reading = async {
            let channel = open_channel(connection).await?;
            holder_record::read_on(&channel, &lock.topology.holder()).await
        };
        let holder = self.within(reading).await.ok().flatten().unwrap_or_else(Holder::unknown);
        (!holder.is(&lock.identity)).then_some(holder)
    }

    /// Announces the connection until it is lost; returns the reason.
    async fn hold(&self, up: Up) -> String {
        let (generation, connection) = (up.generation, Arc::clone(&up.connection));
        let mut checked = Instant::now();
        let mut events = pin!(connection.events_listener());
        self.state.up.send_replace(Some(up));
        let why = loop {
            if self.state.used_up.load(Ordering::Acquire) == generation {
                break "its channels are used up".to_owned();
            }
            match timeout(LOOK_INTERVAL, next(&mut events)).await {
                Ok(Some(Event::ConnectionBlocked(reason))) => {
                    self.state.blocked.store(true, Ordering::Release);
                    tracing::warn!(connection = self.state.name, %reason, "RabbitMQ blocks publishing");
                }
                Ok(Some(Event::ConnectionUnblocked)) => {
                    self.state.blocked.store(false, Ordering::Release);
                    tracing::info!(connection = self.state.name, "RabbitMQ resumes publishing");
                }
                Ok(Some(Event::Error(error))) => {
                    // Errors of channels arrive here, too. Only a closed connection ends the loop.
                    if !connection.status().connected() {
                        break error.to_string();
                    }
                }
                Ok(Some(_)) => {}
                _ if self.is_first_taken_over() => break "another server serves this prefix".to_owned(),
                Ok(None) => break "the connection's event stream ended".to_owned(),
                Err(_) if !connection.status().connected() => break "the connection is closed".to_owned(),
                Err(_) if checked.elapsed() >= self.state.options.check_interval => {
                    checked = Instant::now();
                    if let Some(lost) = self.lost_lock(&connection).await {
                        break lost;
                    }
                }
                Err(_) => {}
            }
        };
        self.state.up.send_replace(None);
        self.state.blocked.store(false, Ordering::Release);
        if connection.status().connected() {
            // Without the lock, nothing may be sent any more.
            let _closed = self.within(connection.close(200, why.as_str().into())).await;
        }
        why
    }

    /// Whether another server has the lock that this link needs first.
    fn is_first_taken_over(&self) -> bool {
        let first = self.state.lock.as_ref().and_then(|lock| lock.after.as_ref());
        first.is_some_and(|first| first.taken_over_by().is_some())
    }

    /// Declares the lock again, as somebody may have deleted it; returns the reason if another server has it.
    async fn lost_lock(&self, connection: &Connection) -> Option<String> {
        let lock = self.state.lock.as_ref()?;
        if self.is_blocked() {
            return None;
        }
        let declaring = async {
            let channel = open_channel(connection).await?;
            declare_lock(&channel, &lock.topology.lock(self.state.name)).await
        };
        match self.within(declaring).await {
            Err(LinkError::Amqp(error)) if is_locked(&error) => Some(with_causes(&error)),
            // Any other refusal changes nothing: the lock belongs to the connection.
            _ => None,
        }
    }

    async fn connect(&self) -> Result<Connection, LinkError> {
        let options = &self.state.options;
        let limit = options.connect_timeout;
        let name = format!("dissent {} {}", options.prefix, self.state.name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = tls_config(options)?;
        let connecting = Connection::connect_uri_with_config(
            uri(options),
            properties,
            tls,
            lapin::runtime::default_runtime()?,
        );
        match timeout(limit, connecting).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(LinkError::Late(limit)),
        }
    }
}

/// Opens a channel.
///
/// lapin 4.12 remembers the error by which RabbitMQ closed a channel. When the number of that channel comes
/// round again, it returns the old error and keeps the number for ever. So an error that opening a channel
/// cannot cause is an old one, and the next number is tried. A connection without a number left is replaced.
async fn open_channel(connection: &Connection) -> lapin::Result<Channel> {
    loop {
        match connection.create_channel().await {
            Err(error) if is_old(&error) && connection.status().connected() => {
                tracing::debug!(%error, "skipping the number of a channel that RabbitMQ closed");
            }
            outcome => return outcome,
        }
    }
}

/// Whether an error belongs to an earlier channel.
fn is_old(error: &lapin::Error) -> bool {
    if let ErrorKind::ProtocolError(error) = error.kind() {
        return matches!(error.kind(), AMQPErrorKind::Soft(_));
    }
    matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

fn uri(options: &RabbitOptions) -> AMQPUri {
    let heartbeat = u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX);
    let wait_ms = u64::try_from(options.connect_timeout.as_millis()).unwrap_or(u64::MAX);
    AMQPUri {
        scheme: if options.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: options.user.clone(),
                password: options.password.reveal().to_owned(),
            },
            host: options.host.clone(),
            port: options.port,
        },
        vhost: options.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(heartbeat),
            connection_timeout: Some(wait_ms),
            ..AMQPQueryString::default()
        },
    }
}

/// Reads the files again for each connection, so that renewed certificates take effect.
fn tls_config(options: &RabbitOptions) -> Result<OwnedTLSConfig, BrokerError> {
    let mut config = OwnedTLSConfig::default();
    let Some(tls) = &options.tls else { return Ok(config) };
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|error| BrokerError::read_file(path, error))
    };
    config.cert_chain = tls.ca_file.as_deref().map(read).transpose()?;
    if let Some(client) = &tls.client {
        config.identity = Some(lapin::tcp::OwnedIdentity::PKCS8 {
            pem: read(&client.certificate_file)?.into_bytes(),
            key: read(&client.key_file)?.into_bytes(),
        });
    }
    Ok(config)
}

/// Returns an error with its causes in one line. A cause that the text of the error contains already is not
/// repeated.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Returns the next item of a stream.
pub(super) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}
