//! Upcasts bodies of old versions to the newest version.
//!
//! Old versions stay readable, because logs outlive programs. Each has golden bytes in the tests.

use serde::Deserialize;

use super::{Event, EventType, ExperimentStarted};
use crate::plan::Plan;

/// `experiment.started` before it had the program's version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExperimentStartedV1 {
    plan: Plan,
}

/// Decodes a body of an older version; `None` if this version never existed.
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
