//! Pages of events: a part of the log, or a part of one experiment's stream.

use std::sync::Arc;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError, LogPart};

use crate::error::BrokerError;

/// Events between two positions, without gaps.
pub(super) struct Page {
    /// The experiment whose events the page holds; `None` for all experiments.
    pub experiment: Option<ExperimentId>,
    /// The page holds every event after this position.
    pub after: u64,
    /// The page holds every event up to this position.
    pub to: u64,
    pub events: Vec<Arc<Recorded>>,
}

/// Reads a page of the log after a position and up to `head`, which is after it.
pub(super) fn of_log(log: &dyn EventLog, after: u64, head: u64, limit: usize) -> Result<Page, BrokerError> {
    let events = up_to(head, log.read(after, limit)?);
    let gapless = events.iter().zip(after + 1..).all(|(event, position)| event.position == position);
    match events.last() {
        Some(last) if gapless => Ok(Page { experiment: None, after, to: last.position, events }),
        _ => {
            let reason = format!("events {} to {head} have gaps", after + 1);
            Err(LogError::corrupt(LogPart::Events, reason).into())
        }
    }
}

/// Reads a page of an experiment's stream after a position, and up to `head` at the end of the stream.
/// `version` is the number of the experiment's events up to `after`, if known.
pub(super) fn of_stream(
    log: &dyn EventLog,
    experiment: ExperimentId,
    version: Option<u64>,
    after: u64,
    head: u64,
    limit: usize,
) -> Result<Page, BrokerError> {
    let version = match version {
        Some(version) => version,
        None => version_at(log, &experiment, after)?,
    };
    let events = log.read_stream(&experiment, version, limit)?;
    let was_full = events.len() >= limit;
    let events = up_to(head, events);
    let gapless = events.iter().zip(version + 1..).all(|(event, version)| event.version == version);
    if !gapless || events.first().is_some_and(|first| first.position <= after) {
        let reason = format!("the stream of {experiment} has gaps after version {version}");
        return Err(LogError::corrupt(LogPart::StreamIndex, reason).into());
    }
    let to = match events.last() {
        Some(last) if was_full => last.position,
        _ => head,
    };
    Ok(Page { experiment: Some(experiment), after, to, events })
}

/// Events above the durable head are dropped.
fn up_to(head: u64, events: Vec<Recorded>) -> Vec<Arc<Recorded>> {
    events.into_iter().take_while(|event| event.position <= head).map(Arc::new).collect()
}

/// Returns the position from which a new group reads: the one before the experiment's first event.
pub(super) fn beginning(log: &dyn EventLog, experiment: &ExperimentId) -> Result<u64, BrokerError> {
    // Events that are recorded after this read of the head are above it.
    let head = log.head();
    let first = log.read_stream(experiment, 0, 1)?.pop();
    Ok(first.map_or(head, |first| (first.position - 1).min(head)))
}

/// Returns the number of the experiment's events up to a position. Reads about twice the logarithm of that
/// number of events.
fn version_at(log: &dyn EventLog, experiment: &ExperimentId, position: u64) -> Result<u64, BrokerError> {
    let is_passed = |version: u64| -> Result<bool, BrokerError> {
        let event = log.read_stream(experiment, version - 1, 1)?.pop();
        Ok(event.is_some_and(|event| event.position <= position))
    };
    // Doubled until it is not passed. Then the answer is from `low` to `high - 1`.
    let (mut low, mut high) = (0, 1);
    while is_passed(high)? {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_passed(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
