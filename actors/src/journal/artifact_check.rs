//! Checks the artifacts that a training names before history relies on them.
//!
//! Rules see figures and names, not the artifact behind a name. An adapter that is missing, damaged or of
//! another model would end the experiment for everyone who opens it next. So the journal has it opened first:
//! a worker that lies, or whose disk fails, is contradicted, and its lease expires. An adapter that fits but
//! learnt something else cannot be detected. A store that does not answer contradicts no worker.

use std::sync::Arc;

use dissent_domain::event::{Event, EventId, EventType, NewEvent, decode};
use dissent_models::adapter::{LoraAdapter, LoraPair};
use dissent_models::checkpoint::Checkpoint;
use dissent_storage::{ArtifactId, ArtifactStore, InvalidArtifactName, StorageError};

use crate::live_models::versions::{ADAPTER_BYTES_MAX, Base, fingerprint};

/// Checks the artifacts of one experiment.
pub(crate) struct ArtifactCheck {
    artifacts: ArtifactStore,
    policy: Initial,
    reward: Initial,
}

/// The model that the experiment began with.
struct Initial {
    checkpoint: Arc<Checkpoint>,
    adapter: Option<Arc<LoraAdapter>>,
}

impl Initial {
    fn of(base: &Base) -> Self {
        Self { checkpoint: base.checkpoint.clone(), adapter: base.adapter.clone() }
    }
}

/// The events among these that name artifacts, as far as they may happen. Undecodable ones are left to the
/// rules.
pub(super) fn named_artifacts(
    proposed: &[NewEvent],
    may_happen: impl Fn(EventId, &Event) -> bool,
) -> Vec<Event> {
    let decoded = proposed.iter().filter(|new| names_artifacts(new)).filter_map(|new| {
        let event = decode(&new.event_type, new.schema_version, &new.body).ok()?;
        may_happen(new.id, &event).then_some(event)
    });
    decoded.collect()
}

impl ArtifactCheck {
    /// A check against the models that the experiment began with.
    pub(crate) fn new(artifacts: ArtifactStore, policy: &Base, reward: &Base) -> Self {
        Self { artifacts, policy: Initial::of(policy), reward: Initial::of(reward) }
    }

    /// The first reason to contradict one of these events; none: nothing speaks against them. It reads
    /// artifacts, and blocks.
    pub(super) fn contradicts(&self, events: &[Event]) -> Option<String> {
        events.iter().find_map(|event| self.check(event).err())
    }

    fn check(&self, event: &Event) -> Result<(), String> {
        if let Event::TrainingProgressed(e) = event {
            e.checkpoint.as_ref().map_or(Ok(()), |checkpoint| self.is_kept(checkpoint))
        } else if let Event::RewardModelRefined(e) = event {
            let adapter = self.makes(&self.reward, &e.adapter, &e.fingerprint)?;
            adapter.map_or(Ok(()), |adapter| scores(&self.reward, &adapter))
        } else if let Event::PolicyTuned(e) = event {
            self.makes(&self.policy, &e.adapter, &e.fingerprint).map(drop)
        } else {
            Ok(())
        }
    }

    /// A checkpoint is in the store. Its content is checked by the training that resumes from it, which
    /// starts anew otherwise.
    fn is_kept(&self, checkpoint: &str) -> Result<(), String> {
        let id: ArtifactId = checkpoint.parse().map_err(|error| format!("its checkpoint: {error}"))?;
        match self.artifacts.is_kept(&id) {
            Ok(false) => Err(format!("its checkpoint {id} is in no store")),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// An adapter exists, fits the model, and makes the model with this fingerprint. None if the store cannot
    /// be read now.
    fn makes(&self, base: &Initial, adapter: &str, claimed: &str) -> Result<Option<LoraAdapter>, String> {
        let wrong = |reason: String| format!("its adapter: {reason}");
        let id: ArtifactId =
            adapter.parse().map_err(|error: InvalidArtifactName| wrong(error.to_string()))?;
        let bytes = match self.artifacts.read(&id, ADAPTER_BYTES_MAX) {
            Err(error @ (StorageError::ArtifactMissing(_) | StorageError::ArtifactDamaged { .. })) => {
                return Err(wrong(error.to_string()));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to check an adapter");
                return Ok(None);
            }
            Ok(bytes) => bytes,
        };
        let adapter = LoraAdapter::from_artifact(&bytes).map_err(|error| wrong(error.to_string()))?;
        adapter.check_numbers().map_err(wrong)?;
        adapter.check(&base.checkpoint.config).map_err(|error| wrong(error.to_string()))?;
        if base.adapter.as_deref().is_some_and(|first| !has_shape_of(&adapter, first)) {
            return Err(wrong("its shape differs from the adapter that the model began with".to_owned()));
        }
        let made = fingerprint(&base.checkpoint, Some(&adapter));
        if made == claimed {
            Ok(Some(adapter))
        } else {
            Err(wrong(format!("it makes the model {made}, not {claimed}")))
        }
    }
}

fn names_artifacts(new: &NewEvent) -> bool {
    let kinds = [EventType::TrainingProgressed, EventType::RewardModelRefined, EventType::PolicyTuned];
    EventType::from_name(&new.event_type).is_some_and(|kind| kinds.contains(&kind))
}

/// A reward model has one output.
fn scores(base: &Initial, adapter: &LoraAdapter) -> Result<(), String> {
    let labels = adapter.score.as_ref().map(|score| score.labels).or(base.checkpoint.config.num_labels);
    if labels == Some(1) { Ok(()) } else { Err("its adapter has no score head of one output".to_owned()) }
}

/// Whether an adapter changes the same projections, by matrices of the same rank and scaling, as the one it
/// was trained from.
fn has_shape_of(adapter: &LoraAdapter, first: &LoraAdapter) -> bool {
    let same = |a: &LoraPair, b: &LoraPair| a.rank == b.rank && a.scaling.to_bits() == b.scaling.to_bits();
    let is_like = |other: &LoraAdapter| {
        adapter.layers.iter().all(|(target, pair)| other.layers.get(target).is_some_and(|it| same(pair, it)))
    };
    adapter.layers.len() == first.layers.len() && is_like(first)
}
