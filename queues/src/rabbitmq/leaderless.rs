//! Queues that lost their leader and never answer again.
//!
//! RabbitMQ 3.10, killed within about a second of the declaration of a quorum queue, may restart with a queue
//! that never finds a leader. It can be inspected, but it accepts and delivers no message. It can be deleted
//! and declared again. The server does that for queues that are consumed; a blocked publisher does it for
//! queues of retries and of dead letters.
//!
//! A queue of events holds nothing that the log lacks, and is filled again. Proposals, retries and dead
//! letters that were confirmed in that second may be lost. The server redelivers unanswered events after a
//! time; a dead letter is lost with its reason.

use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicGetOptions, QueueDeleteOptions};
use tokio::time::{sleep, timeout};

use super::link::Link;
use super::link_error::LinkError;
use super::topology::{Topology, declare_lock, look_at, short};

/// Number and interval of prompt answers of the node during which the queue does not answer.
const ANSWERS: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Deletes a queue, with its unreachable messages, if it exists and does not answer while its node does.
/// Returns whether it was deleted.
pub(super) async fn delete(link: &Link, queue: &str) -> Result<bool, LinkError> {
    // A query for a missing queue closes the channel.
    let (_, asking) = link.channel().await?;
    if link.within(look_at(&asking, queue)).await?.is_none() {
        return Ok(false);
    }
    let (_, looking) = link.channel().await?;
    tokio::select! {
        answer = asking.basic_get(short(queue), BasicGetOptions { no_ack: false }) => {
            answer?;
            // A message that was taken is requeued when the channel closes.
            link.within(asking.close(200, short("looked"))).await?;
            return Ok(false);
        }
        answers = answers(&looking, queue) => answers?,
    }
    tracing::warn!(queue, "deleting an unresponsive RabbitMQ queue before its redeclaration");
    link.within(looking.queue_delete(short(queue), QueueDeleteOptions::default())).await?;
    Ok(true)
}

/// Deletes an unresponsive queue that no server watches. All blocked publishers notice it at once, so they
/// check one after the other. Otherwise one could delete the queue that another has declared again and
/// published to. Fails while another is checking.
pub(super) async fn delete_in_turn(link: &Link, topology: &Topology, queue: &str) -> Result<bool, LinkError> {
    let (_, turn) = link.channel().await?;
    link.within(declare_lock(&turn, &topology.repair())).await?;
    let outcome = delete(link, queue).await;
    link.within(turn.queue_delete(short(&topology.repair()), QueueDeleteOptions::default())).await?;
    outcome
}

/// Returns once the node has answered promptly for a while. A stopped or busy node answers late.
async fn answers(channel: &Channel, queue: &str) -> Result<(), LinkError> {
    for _ in 0..ANSWERS {
        sleep(LOOK_INTERVAL).await;
        let looked = timeout(LOOK_INTERVAL, look_at(channel, queue)).await;
        looked.map_err(|_| LinkError::Late(LOOK_INTERVAL))??;
    }
    Ok(())
}
