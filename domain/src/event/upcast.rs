//! Bodies of versions that are no longer written, read as what they say in the newest.
//!
//! A version stays here for ever, with golden bytes in the tests: logs are kept longer than programs.

use serde::Deserialize;

use super::{Event, EventType, ExperimentStarted};
use crate::plan::Plan;

/// `experiment.started` before it said which program began the experiment.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExperimentStartedV1 {
    plan: Plan,
}

/// Reads a body of an older version; none if there never was such a version.
pub(super) fn older(
    kind: EventType,
    version: u16,
    body: &[u8],
) -> Option<Result<Event, rmp_serde::decode::Error>> {
    (kind == EventType::ExperimentStarted && version == 1).then(|| {
        let ExperimentStartedV1 { plan } = rmp_serde::from_slice(body)?;
        Ok(ExperimentStarted { plan, program: None }.into())
    })
}
