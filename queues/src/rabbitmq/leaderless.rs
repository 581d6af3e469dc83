//! Queues that never answer again.
//!
//! RabbitMQ 3.10, killed within about a second of making a quorum queue, may come back with one that never finds a leader: it can be
//! looked at, but nothing can be put into it or taken out, for ever. It can be deleted; and since it holds nothing that the log
//! does not, the server deletes it and makes it anew. (What may be lost are proposals of that second, and a dead letter: whoever
//! made those is asked again.)

use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicGetOptions, QueueDeleteOptions};
use tokio::time::{sleep, timeout};

use super::link::{Link, LinkError};
use super::topology::{look_at, short};

/// So many prompt answers of the node, so far apart, in which the queue gives none.
const LOOKS: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Deletes a queue, with all that nobody can have of it, if it is there and does not answer while its node does; gives whether
/// it did.
pub(super) async fn delete(link: &Link, queue: &str) -> Result<bool, LinkError> {
    // Asking for what is not there costs the channel.
    let (_, asking) = link.channel().await?;
    if link.within(look_at(&asking, queue)).await?.is_none() {
        return Ok(false);
    }
    let (_, looking) = link.channel().await?;
    tokio::select! {
        answer = asking.basic_get(short(queue), BasicGetOptions { no_ack: false }) => {
            answer?;
            // What was got goes back with the channel.
            link.within(asking.close(200, short("looked"))).await?;
            return Ok(false);
        }
        answers = answers(&looking, queue) => answers?,
    }
    tracing::warn!(queue, "a queue of RabbitMQ does not answer: it is deleted and made anew");
    link.within(looking.queue_delete(short(queue), QueueDeleteOptions::default())).await?;
    Ok(true)
}

/// Ready once the node has answered promptly for a while: one that is stopped, or busy, is late.
async fn answers(channel: &Channel, queue: &str) -> Result<(), LinkError> {
    for _ in 0..LOOKS {
        sleep(LOOK_INTERVAL).await;
        let looked = timeout(LOOK_INTERVAL, look_at(channel, queue)).await;
        looked.map_err(|_| LinkError::Late(LOOK_INTERVAL))??;
    }
    Ok(())
}
