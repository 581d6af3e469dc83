//! A snapshot: the state of an experiment after one of its events. It saves the replay of a long history.
//!
//! A snapshot is disposable, and the log has priority. A snapshot is used only if the same rules made it
//! ([`SCHEMA`]), and if the log has the event after which it was made.

use serde::{Deserialize, Serialize};

use crate::event::{EventId, Recorded};
use crate::experiment::Experiment;
use crate::id::ExperimentId;

/// Hash of the source of the rules. Every change of the rules invalidates older snapshots.
pub const SCHEMA: &str = env!("DISSENT_STATE_SCHEMA");

/// A state, with the identity of its last event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    schema: String,
    /// The experiment.
    pub experiment: ExperimentId,
    /// The version of the last event.
    pub version: u64,
    /// The id of that event.
    pub last: EventId,
    /// The time of that event. Ids do not depend on the content. After the restore of an older log, a
    /// repeated history has the same ids and other times.
    pub time_us: u64,
    state: Experiment,
}

impl Snapshot {
    /// The state after the event `last`.
    #[must_use]
    pub fn after(last: &Recorded, state: Experiment) -> Self {
        let Recorded { experiment, version, event, .. } = last;
        Self {
            schema: SCHEMA.to_owned(),
            experiment: experiment.clone(),
            version: *version,
            last: event.id,
            time_us: event.time_us,
            state,
        }
    }

    /// Whether this is the state after this event.
    #[must_use]
    pub fn is_after(&self, recorded: &Recorded) -> bool {
        let of_last = (&self.experiment, self.version, self.last, self.time_us);
        of_last == (&recorded.experiment, recorded.version, recorded.event.id, recorded.event.time_us)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &Experiment {
        &self.state
    }

    /// Returns the state.
    #[must_use]
    pub fn into_state(self) -> Experiment {
        self.state
    }

    /// The snapshot as bytes. Fields have names, because a plan leaves out fields at their default.
    ///
    /// # Errors
    /// If a value cannot be represented.
    pub fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(self)
    }

    /// Decodes a snapshot; `None` if the bytes are not a snapshot of the current rules.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut snapshot: Self = rmp_serde::from_slice(bytes).ok()?;
        snapshot.state.index();
        (snapshot.schema == SCHEMA).then_some(snapshot)
    }
}
