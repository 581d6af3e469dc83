//! Checks the artifacts that a training names before history relies on them.
//!
//! The rules see figures and names, not the artifact behind a name. An adapter that is missing, damaged or of
//! another model would end the experiment for every process that opens it later. So the journal checks the
//! adapter first: a worker that lies, or whose disk fails, is contradicted, and its lease expires. An adapter
//! that fits but learnt something else cannot be detected. A store that does not answer contradicts no
//! worker.

use std::sync::Arc;

use dissent_domain::event::{Event, EventId, EventType, NewEvent, TrainingEvent, decode};
use dissent_models::ModelError;
use dissent_models::adapter::{LoraAdapter, LoraPair};
use dissent_models::checkpoint::Checkpoint;
use dissent_storage::{ArtifactId, ArtifactStore, InvalidArtifactName, StorageError};

use crate::error::chain;
use crate::live_models::versions::{ADAPTER_BYTES_MAX, Base, fingerprint};

/// The part of an artifact store that a check uses. Both calls may block for as long as the store stalls.
pub(crate) trait ReadArtifacts: Send + Sync {
    fn is_kept(&self, id: &ArtifactId) -> Result<bool, StorageError>;
    fn read(&self, id: &ArtifactId, bytes_max: u64) -> Result<Vec<u8>, StorageError>;
}

impl ReadArtifacts for ArtifactStore {
    fn is_kept(&self, id: &ArtifactId) -> Result<bool, StorageError> {
        Self::is_kept(self, id)
    }

    fn read(&self, id: &ArtifactId, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
        Self::read(self, id, bytes_max)
    }
}

/// Why an event about a training is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Contradiction {
    /// The name of the checkpoint is malformed.
    #[error("the name of the checkpoint is invalid")]
    CheckpointName(#[source] InvalidArtifactName),
    /// The checkpoint is in neither store.
    #[error("the store has no checkpoint {0}")]
    CheckpointMissing(ArtifactId),
    /// The name of the adapter is malformed.
    #[error("the name of the adapter is invalid")]
    AdapterName(#[source] InvalidArtifactName),
    /// The adapter is missing or damaged.
    #[error("the adapter cannot be read")]
    AdapterUnreadable(#[source] StorageError),
    /// The artifact holds no adapter.
    #[error("the artifact holds no adapter")]
    NotAnAdapter(#[source] ModelError),
    /// The adapter changes an unknown module, or its numbers are not usable.
    #[error("the adapter is invalid: {0}")]
    AdapterInvalid(String),
    /// The adapter belongs to another model.
    #[error("the adapter belongs to another model")]
    OtherModel(#[source] ModelError),
    /// The adapter does not continue the adapter that the model began with.
    #[error("the adapter has another shape than the adapter that the model began with")]
    OtherShape,
    /// The fingerprint in the event is wrong.
    #[error("the model with the adapter has fingerprint {made}, not {claimed}")]
    OtherFingerprint {
        /// The fingerprint of the model with the adapter.
        made: String,
        /// The fingerprint in the event.
        claimed: String,
    },
    /// The adapter of a reward model does not score.
    #[error("the adapter has no score head with one output")]
    NoScoreHead,
    /// The check panicked.
    #[error("the check of the artifact panicked: {0}")]
    Panicked(String),
}

/// Checks the artifacts of one experiment.
pub(crate) struct ArtifactCheck {
    artifacts: Arc<dyn ReadArtifacts>,
    policy: Initial,
    reward: Initial,
}

/// The model that the experiment began with.
#[derive(Clone)]
pub(super) struct Initial {
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) adapter: Option<Arc<LoraAdapter>>,
}

impl Initial {
    fn of(base: &Base) -> Self {
        Self { checkpoint: base.checkpoint.clone(), adapter: base.adapter.clone() }
    }
}

/// Returns the proposed events that name artifacts and that the rules allow, decoded. The rules reject
/// undecodable events.
pub(super) fn named_artifacts(
    proposed: &[NewEvent],
    may_happen: impl Fn(EventId, &Event) -> bool,
) -> Vec<Event> {
    let decoded = proposed.iter().filter(|new| names_artifacts(new)).filter_map(|new| {
        let event = decode(&new.event_type, new.schema_version, &new.body).ok()?;
        (artifact(&event).is_some() && may_happen(new.id, &event)).then_some(event)
    });
    decoded.collect()
}

fn names_artifacts(new: &NewEvent) -> bool {
    let kinds = [EventType::TrainingProgressed, EventType::RewardModelRefined, EventType::PolicyTuned];
    EventType::from_name(&new.event_type).is_some_and(|kind| kinds.contains(&kind))
}

/// Returns the name of the artifact on which an event relies.
pub(super) fn artifact(event: &Event) -> Option<&str> {
    let Event::Training(event) = event else { return None };
    match event {
        TrainingEvent::Progressed(e) => e.checkpoint.as_deref(),
        TrainingEvent::RewardModelRefined(e) => Some(&e.adapter),
        TrainingEvent::PolicyTuned(e) => Some(&e.adapter),
        TrainingEvent::Requested(_) | TrainingEvent::Started(_) | TrainingEvent::LeaseExpired(_) => None,
    }
}

impl ArtifactCheck {
    /// Creates a check against the initial models of the experiment.
    pub(crate) fn new(artifacts: Arc<dyn ReadArtifacts>, policy: &Base, reward: &Base) -> Self {
        Self::of(artifacts, Initial::of(policy), Initial::of(reward))
    }

    pub(super) fn of(artifacts: Arc<dyn ReadArtifacts>, policy: Initial, reward: Initial) -> Self {
        Self { artifacts, policy, reward }
    }

    /// Returns the first reason to contradict one of these events, if there is one. Reads artifacts, and
    /// blocks.
    pub(super) fn contradicts(&self, events: &[Event]) -> Option<Contradiction> {
        events.iter().find_map(|event| self.check(event).err())
    }

    fn check(&self, event: &Event) -> Result<(), Contradiction> {
        let Event::Training(event) = event else { return Ok(()) };
        match event {
            TrainingEvent::Progressed(e) => {
                e.checkpoint.as_ref().map_or(Ok(()), |checkpoint| self.is_kept(checkpoint))
            }
            TrainingEvent::RewardModelRefined(e) => {
                let adapter = self.makes(&self.reward, &e.adapter, &e.fingerprint)?;
                adapter.map_or(Ok(()), |adapter| scores(&self.reward, &adapter))
            }
            TrainingEvent::PolicyTuned(e) => self.makes(&self.policy, &e.adapter, &e.fingerprint).map(drop),
            TrainingEvent::Requested(_) | TrainingEvent::Started(_) | TrainingEvent::LeaseExpired(_) => {
                Ok(())
            }
        }
    }

    /// Checks that a checkpoint is in the store. The training that resumes from the checkpoint checks its
    /// content, and starts from its first step if the content is invalid.
    fn is_kept(&self, checkpoint: &str) -> Result<(), Contradiction> {
        let id: ArtifactId = checkpoint.parse().map_err(Contradiction::CheckpointName)?;
        match self.artifacts.is_kept(&id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Contradiction::CheckpointMissing(id)),
            Err(error) => {
                tracing::warn!(error = %chain(&error), artifact = %id, "failed to look up a checkpoint");
                Ok(())
            }
        }
    }

    /// Checks that an adapter exists, fits the model, and makes the model with this fingerprint. Returns the
    /// adapter, or `None` if the store cannot be read now.
    fn makes(
        &self,
        base: &Initial,
        adapter: &str,
        claimed: &str,
    ) -> Result<Option<LoraAdapter>, Contradiction> {
        let id: ArtifactId = adapter.parse().map_err(Contradiction::AdapterName)?;
        let bytes = match self.artifacts.read(&id, ADAPTER_BYTES_MAX) {
            Err(error @ (StorageError::ArtifactMissing(_) | StorageError::ArtifactDamaged { .. })) => {
                return Err(Contradiction::AdapterUnreadable(error));
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), artifact = %id, "failed to read an adapter");
                return Ok(None);
            }
            Ok(bytes) => bytes,
        };
        let adapter = LoraAdapter::from_artifact(&bytes).map_err(Contradiction::NotAnAdapter)?;
        adapter.check_numbers().map_err(Contradiction::AdapterInvalid)?;
        adapter.check(&base.checkpoint.config).map_err(Contradiction::OtherModel)?;
        if base.adapter.as_deref().is_some_and(|first| !has_shape_of(&adapter, first)) {
            return Err(Contradiction::OtherShape);
        }
        let made = fingerprint(&base.checkpoint, Some(&adapter));
        if made == claimed {
            Ok(Some(adapter))
        } else {
            Err(Contradiction::OtherFingerprint { made, claimed: claimed.to_owned() })
        }
    }
}

/// Checks that the reward model has one output.
fn scores(base: &Initial, adapter: &LoraAdapter) -> Result<(), Contradiction> {
    let labels = adapter.score.as_ref().map(|score| score.labels).or(base.checkpoint.config.num_labels);
    if labels == Some(1) { Ok(()) } else { Err(Contradiction::NoScoreHead) }
}

/// Returns whether an adapter changes the same projections as `first`, the adapter that its training began
/// with, by matrices of the same rank and scaling.
fn has_shape_of(adapter: &LoraAdapter, first: &LoraAdapter) -> bool {
    let same = |a: &LoraPair, b: &LoraPair| a.rank == b.rank && a.scaling.to_bits() == b.scaling.to_bits();
    let is_like = |other: &LoraAdapter| {
        adapter.layers.iter().all(|(target, pair)| other.layers.get(target).is_some_and(|it| same(pair, it)))
    };
    adapter.layers.len() == first.layers.len() && is_like(first)
}

#[cfg(test)]
pub(super) mod tests;
