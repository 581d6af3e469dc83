//! The record of the server that serves a prefix: the message of a queue of one message.

use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use tokio::time::sleep;

use super::identity::{Holder, PROTOCOL};
use super::topology::{is_absent, short};
use crate::error::BrokerError;

/// Number and interval of looks for the record, which another process may be reading.
const LOOKS_MAX: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Fails if a server speaks another protocol.
pub(super) fn check_protocol(holder: &Holder) -> Result<(), BrokerError> {
    if holder.protocol == PROTOCOL {
        return Ok(());
    }
    let (server_version, server_protocol) = (holder.version.clone(), holder.protocol);
    Err(BrokerError::OtherProtocol { server_version, server_protocol, own: PROTOCOL })
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
pub(super) async fn get_all(channel: &Channel, queue: &str) -> lapin::Result<(Vec<u64>, Option<Holder>)> {
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

pub(super) async fn put_back(channel: &Channel, tags: &[u64]) -> lapin::Result<()> {
    for &tag in tags {
        channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_keeps_its_fields() {
        let json = r#"{"installation":"i","host":"h","process":1,"since_us":2,"start":3,"protocol":2,"version":"v"}"#;
        let holder: Holder = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&holder).unwrap(), json);
        assert!(check_protocol(&holder).is_ok());
        let error = check_protocol(&Holder { protocol: 3, ..holder }).unwrap_err().to_string();
        assert!(error.contains("protocol 3") && error.contains("protocol 2"), "{error}");
    }
}
