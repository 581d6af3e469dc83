//! The state of an experiment at one of its events, kept so that a long history need not be folded from its beginning.
//!
//! A snapshot is disposable, and never trusted over the log: it is used only if it was made by the very rules that would use it
//! ([`SCHEMA`]), and if the log has the event that it says it follows.

use serde::{Deserialize, Serialize};

use crate::event::{EventId, Recorded};
use crate::experiment::Experiment;
use crate::id::ExperimentId;

/// Names the source of the rules by which states are made: any change of it makes older snapshots useless.
pub const SCHEMA: &str = env!("DISSENT_STATE_SCHEMA");

/// A state, and what it is the state of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    schema: String,
    /// The experiment.
    pub experiment: ExperimentId,
    /// The version of the last event in it.
    pub version: u64,
    /// The id of that event.
    pub last: EventId,
    /// When it was recorded. Ids say what an event is about, not what it says: where an older log was restored and the work done
    /// again, it is another history with the same ids.
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

    /// Whether it is the state after this event.
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

    /// The state, taken out.
    #[must_use]
    pub fn into_state(self) -> Experiment {
        self.state
    }

    /// The snapshot as bytes.
    ///
    /// # Errors
    /// If a value cannot be represented.
    pub fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec(self)
    }

    /// Reads bytes; none if they are not a snapshot, or one by other rules.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut snapshot: Self = rmp_serde::from_slice(bytes).ok()?;
        snapshot.state.index();
        (snapshot.schema == SCHEMA).then_some(snapshot)
    }
}
