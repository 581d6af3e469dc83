//! The server that serves a prefix: its identity, and the record of it in a queue of one message.

use std::fmt;
use std::time::Duration;

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::{BasicProperties, Channel, Confirmation};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::link::{Link, LinkError};
use super::topology::{Topology, is_absent, short};
use super::window::PERSISTENT;
use crate::error::BrokerError;

/// Version of the names and messages that server and workers share.
pub const PROTOCOL: u32 = 2;
/// Number and interval of looks for the record, which another process may be reading.
const LOOKS_MAX: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The identity of a server process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Id of the installation, kept in its data folder.
    pub installation: String,
    /// Name of the host.
    pub host: String,
    /// Id of the process.
    pub process: u32,
    /// Version of the program.
    pub version: String,
    /// Start of the process, in microseconds since 1970.
    pub since_us: u64,
}

/// The server that serves a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Id of its installation.
    pub installation: String,
    /// Name of its host.
    pub host: String,
    /// Id of its process.
    pub process: u32,
    /// Start of its process, in microseconds since 1970.
    pub since_us: u64,
    /// Number of the start under this prefix: each change of the server adds 1.
    pub start: u64,
    /// Its version of the protocol.
    pub protocol: u32,
    /// Version of its program.
    pub version: String,
}

impl Holder {
    pub(super) fn new(identity: &ServerIdentity, start: u64) -> Self {
        Self {
            installation: identity.installation.clone(),
            host: identity.host.clone(),
            process: identity.process,
            since_us: identity.since_us,
            start,
            protocol: PROTOCOL,
            version: identity.version.clone(),
        }
    }

    /// Returns a server whose record cannot be read.
    pub(super) fn unknown() -> Self {
        let (installation, host, version) = (String::new(), "an unknown host".to_owned(), String::new());
        Self { installation, host, process: 0, since_us: 0, start: 0, protocol: PROTOCOL, version }
    }

    /// Whether the record is of this process.
    pub(super) fn is(&self, identity: &ServerIdentity) -> bool {
        self.installation == identity.installation
            && self.host == identity.host
            && self.process == identity.process
            && self.since_us == identity.since_us
    }

    /// Fails if the server speaks another protocol.
    pub(super) fn check_protocol(&self) -> Result<(), BrokerError> {
        if self.protocol == PROTOCOL {
            return Ok(());
        }
        let (server_version, server_protocol) = (self.version.clone(), self.protocol);
        Err(BrokerError::OtherProtocol { server_version, server_protocol, own: PROTOCOL })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, process {}, since {}", self.host, self.process, Utc(self.since_us / 1_000_000))
    }
}

/// A time in seconds since 1970.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, second) = (self.0 / 86_400, self.0 % 86_400);
        let is_leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut year = 1970;
        while days >= if is_leap(year) { 366 } else { 365 } {
            days -= if is_leap(year) { 366 } else { 365 };
            year += 1;
        }
        let february = if is_leap(year) { 29 } else { 28 };
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
    }
}

/// Reads the record. Returns `None` if there is none, or if it is unreadable.
pub(super) async fn read(link: &Link, topology: &Topology) -> Result<Option<Holder>, LinkError> {
    let (_, channel) = link.channel().await?;
    link.within(read_on(&channel, &topology.holder())).await
}

/// Reads the record on a channel, which may be closed afterwards.
pub(super) async fn read_on(channel: &Channel, queue: &str) -> lapin::Result<Option<Holder>> {
    match get_all(channel, queue).await {
        Ok((tags, holder)) => {
            put_back(channel, &tags).await?;
            Ok(holder)
        }
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes all records; returns their tags and the newest.
async fn get_all(channel: &Channel, queue: &str) -> lapin::Result<(Vec<u64>, Option<Holder>)> {
    let (mut tags, mut newest) = (Vec::new(), None::<Holder>);
    for look in 1..=LOOKS_MAX {
        while let Some(message) = channel.basic_get(short(queue), BasicGetOptions { no_ack: false }).await? {
            tags.push(message.delivery.delivery_tag);
            match serde_json::from_slice::<Holder>(&message.delivery.data) {
                Ok(holder) if newest.as_ref().is_none_or(|newest| newest.start < holder.start) => {
                    newest = Some(holder);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(queue, %error, "skipping an unreadable record of the server"),
            }
        }
        if !tags.is_empty() {
            break;
        }
        if look < LOOKS_MAX {
            sleep(LOOK_INTERVAL).await;
        }
    }
    Ok((tags, newest))
}

async fn put_back(channel: &Channel, tags: &[u64]) -> lapin::Result<()> {
    for &tag in tags {
        channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await?;
    }
    Ok(())
}

/// The record after and before this server took over.
pub(super) struct Taken {
    pub holder: Holder,
    pub previous: Option<Holder>,
}

/// Records this server as the holder. `own` is the record of this process, if it wrote one. `recorded` is the
/// last start that the log knows.
pub(super) async fn take(
    link: &Link,
    topology: &Topology,
    identity: &ServerIdentity,
    own: Option<&Holder>,
    recorded: u64,
) -> Result<Taken, LinkError> {
    let queue = topology.holder();
    let (_, channel) = link.channel().await?;
    link.within(topology.declare_service(&channel, &queue)).await?;
    let (tags, previous) = link.within(get_all(&channel, &queue)).await?;
    if let Some(previous) = &previous {
        if let Err(error) = previous.check_protocol() {
            link.within(put_back(&channel, &tags)).await?;
            return Err(error.into());
        }
        if own == Some(previous) {
            link.within(put_back(&channel, &tags)).await?;
            return Ok(Taken { holder: previous.clone(), previous: Some(previous.clone()) });
        }
    }
    let holder = match (own, &previous) {
        // Somebody deleted the record.
        (Some(own), None) => own.clone(),
        (_, previous) => {
            let last = previous.as_ref().map_or(recorded, |previous| previous.start.max(recorded));
            Holder::new(identity, last + 1)
        }
    };
    link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    write(link, &channel, &queue, &holder).await?;
    for tag in tags {
        link.within(channel.basic_ack(tag, BasicAckOptions { multiple: false })).await?;
    }
    Ok(Taken { holder, previous })
}

/// Publishes the record before the old ones are removed, so that one always exists.
async fn write(link: &Link, channel: &Channel, queue: &str, holder: &Holder) -> Result<(), LinkError> {
    let body =
        serde_json::to_vec(holder).map_err(|error| BrokerError::encode("the server's record", error))?;
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(short("application/json"));
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let publishing =
        async { channel.basic_publish(short(""), short(queue), options, &body, properties).await?.await };
    let is_stored = matches!(link.within(publishing).await?, Confirmation::Ack(None));
    if is_stored { Ok(()) } else { Err(LinkError::Unrouted(queue.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_described_by_host_process_and_time() {
        let holder = Holder { process: 7, since_us: 1_709_210_096_000_000, ..Holder::unknown() };
        assert_eq!(holder.to_string(), "an unknown host, process 7, since 2024-02-29 12:34:56 UTC");
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }

    #[test]
    fn the_record_keeps_its_fields() {
        let json = r#"{"installation":"i","host":"h","process":1,"since_us":2,"start":3,"protocol":2,"version":"v"}"#;
        let holder: Holder = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&holder).unwrap(), json);
        assert!(holder.check_protocol().is_ok());
        let error = Holder { protocol: 3, ..holder }.check_protocol().unwrap_err().to_string();
        assert!(error.contains("protocol 3") && error.contains("protocol 2"), "{error}");
    }
}
