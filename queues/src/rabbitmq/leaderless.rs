//! Queues that never answer again.
//!
//! RabbitMQ 3.10, killed within about a second of making a quorum queue, may come back with one that never finds a leader: it can be
//! looked at, but nothing can be put into it or taken out, for ever. It can be deleted and made anew: by the server, if it is one
//! that somebody consumes, and by whoever cannot publish into it, if it is one of retries or of dead letters.
//!
//! A queue of events holds nothing that the log does not, and is filled again. What may be lost are proposals, retries and dead
//! letters that were confirmed in that second. What nothing came of is delivered again once the server has waited for it for long
//! enough; a dead letter is gone, with what it told.

use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicGetOptions, QueueDeleteOptions};
use tokio::time::{sleep, timeout};

use super::link::{Link, LinkError};
use super::topology::{Topology, look_at, short};

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

/// The same for a queue that no server looks after. All who find it silent find it out at once: they look one after the other, so
/// that none deletes what another has made anew and published into. An error where another is at it.
pub(super) async fn delete_in_turn(link: &Link, topology: &Topology, queue: &str) -> Result<bool, LinkError> {
    let (_, turn) = link.channel().await?;
    link.within(topology.declare_repair(&turn)).await?;
    let outcome = delete(link, queue).await;
    link.within(turn.queue_delete(short(&topology.repair()), QueueDeleteOptions::default())).await?;
    outcome
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
