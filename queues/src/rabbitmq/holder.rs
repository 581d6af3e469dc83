//! Reads and replaces the record of the server that serves a prefix.

use lapin::options::{BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

use super::holder_record::{check_protocol, get_all, put_back, read_on};
use super::identity::{Holder, ServerIdentity};
use super::link::Link;
use super::link_error::LinkError;
use super::topology::{Topology, short};
use super::window::PERSISTENT;
use crate::error::BrokerError;

/// Reads the record. Returns `None` if there is none, or if it is unreadable.
pub(super) async fn read(link: &Link, topology: &Topology) -> Result<Option<Holder>, LinkError> {
    let (_, channel) = link.channel().await?;
    link.within(read_on(&channel, &topology.holder())).await
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
        if let Err(error) = check_protocol(previous) {
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
