//! The names that version 0.1 used. No process of this version uses them.

use std::time::Duration;

use dissent_domain::id::ExperimentId;

use super::link::Link;
use super::link_error::LinkError;
use super::topology::{experiment_key, look_at};

/// First delays of version 0.1's retries in milliseconds: of steps and of proposals.
const FIRST_DELAYS_MS: [u64; 2] = [200, 1000];

/// Returns the exchanges of version 0.1, as far as they are known.
pub(super) fn exchanges(prefix: &str, retry_delay_max: Duration) -> Vec<String> {
    let mut names = retries(prefix, retry_delay_max);
    names.push(format!("{prefix}.events"));
    names
}

/// Returns the queues of version 0.1, as far as they are known.
pub(super) fn queues(
    prefix: &str,
    experiments: &[ExperimentId],
    groups: &[String],
    retry_delay_max: Duration,
) -> Vec<String> {
    let mut names: Vec<String> =
        ["proposals", "parked", "dead"].iter().map(|name| format!("{prefix}.{name}")).collect();
    names.extend(retries(prefix, retry_delay_max));
    names.extend(groups.iter().map(|group| format!("{prefix}.{group}")));
    let history = |experiment| format!("{prefix}.history.{}", experiment_key(experiment));
    names.extend(experiments.iter().map(history));
    names
}

/// Returns the names of the retry queues: delays doubled up to a maximum.
fn retries(prefix: &str, retry_delay_max: Duration) -> Vec<String> {
    let most_ms = u64::try_from(retry_delay_max.as_millis()).unwrap_or(u64::MAX);
    let mut delays: Vec<u64> = vec![most_ms];
    for first in FIRST_DELAYS_MS {
        let doubled = std::iter::successors(Some(first), |delay| delay.checked_mul(2));
        delays.extend(doubled.take_while(|&delay| delay < most_ms));
    }
    delays.sort_unstable();
    delays.dedup();
    delays.iter().map(|delay| format!("{prefix}.retry.{delay}")).collect()
}

/// Whether version 0.1 left queues under a prefix.
pub(super) async fn exist(link: &Link, prefix: &str) -> Result<bool, LinkError> {
    // A query for a missing queue closes the channel.
    let (_, channel) = link.channel().await?;
    Ok(link.within(look_at(&channel, &format!("{prefix}.proposals"))).await?.is_some())
}
