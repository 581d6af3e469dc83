//! What a training says that it made is looked at before history counts on it.
//!
//! Rules see figures and names. Whether there is anything behind a name they cannot see, and an adapter that is missing, broken or of
//! another model would end the experiment for everybody who opens it next. So the journal opens it first: a worker that lies, or
//! whose disk does, is contradicted, and its lease runs out. What cannot be seen is an adapter that fits and learnt something else.
//! A store that does not answer contradicts nobody.

use dissent_domain::event::{Event, EventType, NewEvent, decode};
use dissent_models::adapter::{LoraAdapter, LoraPair};
use dissent_storage::{ArtifactId, ArtifactStore, InvalidArtifactName, StorageError};

use crate::crew::{LearningResources, Resources};
use crate::model::{ADAPTER_BYTES_MAX, Base, fingerprint};

/// What is needed to look.
pub(crate) struct Evidence {
    artifacts: ArtifactStore,
    policy: Base,
    reward: Base,
}

impl Evidence {
    /// Of an experiment that learns; none of another.
    pub(crate) fn of(resources: &Resources) -> Option<Self> {
        let LearningResources { policy, reward, .. } = resources.learning.as_ref()?;
        let artifacts = resources.artifacts.clone();
        Some(Self { artifacts, policy: policy.clone(), reward: reward.clone() })
    }

    /// Why one of these events is not to be believed; none: nothing speaks against them. Only what `may_happen` is looked at.
    pub(crate) fn against(
        &self,
        proposed: &[NewEvent],
        may_happen: impl Fn(&NewEvent, &Event) -> bool,
    ) -> Option<String> {
        proposed.iter().filter(|new| names_artifacts(new)).find_map(|new| {
            // What cannot be read is rejected by the rules.
            let event = decode(&new.event_type, new.schema_version, &new.body).ok()?;
            if may_happen(new, &event) { self.check(&event).err() } else { None }
        })
    }

    fn check(&self, event: &Event) -> Result<(), String> {
        if let Event::TrainingProgressed(e) = event {
            e.checkpoint.as_ref().map_or(Ok(()), |checkpoint| self.is_there(checkpoint))
        } else if let Event::RewardModelRefined(e) = event {
            let adapter = self.makes(&self.reward, &e.adapter, &e.fingerprint)?;
            adapter.map_or(Ok(()), |adapter| scores(&self.reward, &adapter))
        } else if let Event::PolicyTuned(e) = event {
            self.makes(&self.policy, &e.adapter, &e.fingerprint).map(drop)
        } else {
            Ok(())
        }
    }

    /// A checkpoint is somewhere. What is in it is looked at by who goes on from it, and begins again if it is nonsense.
    fn is_there(&self, checkpoint: &str) -> Result<(), String> {
        let id: ArtifactId = checkpoint.parse().map_err(|error| format!("its checkpoint: {error}"))?;
        match self.artifacts.is_kept(&id) {
            Ok(false) => Err(format!("its checkpoint {id} is nowhere")),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// An adapter is there, fits the model, and makes the model that it is said to make. None where that cannot be seen now.
    fn makes(&self, base: &Base, adapter: &str, said: &str) -> Result<Option<LoraAdapter>, String> {
        let wrong = |reason: String| format!("its adapter: {reason}");
        let id: ArtifactId =
            adapter.parse().map_err(|error: InvalidArtifactName| wrong(error.to_string()))?;
        let bytes = match self.artifacts.read(&id, ADAPTER_BYTES_MAX) {
            Err(error @ (StorageError::ArtifactMissing(_) | StorageError::ArtifactDamaged { .. })) => {
                return Err(wrong(error.to_string()));
            }
            Err(error) => {
                tracing::warn!(%error, "an adapter cannot be looked at");
                return Ok(None);
            }
            Ok(bytes) => bytes,
        };
        let adapter = LoraAdapter::from_artifact(&bytes).map_err(|error| wrong(error.to_string()))?;
        adapter.check_numbers().map_err(wrong)?;
        adapter.check(&base.checkpoint.config).map_err(|error| wrong(error.to_string()))?;
        if base.adapter.as_deref().is_some_and(|first| !has_shape_of(&adapter, first)) {
            return Err(wrong("it has not the shape of the one that the model began with".to_owned()));
        }
        let made = fingerprint(&base.checkpoint, Some(&adapter));
        if made == said {
            Ok(Some(adapter))
        } else {
            Err(wrong(format!("it makes the model {made}, not {said}")))
        }
    }
}

fn names_artifacts(new: &NewEvent) -> bool {
    let kinds = [EventType::TrainingProgressed, EventType::RewardModelRefined, EventType::PolicyTuned];
    EventType::from_name(&new.event_type).is_some_and(|kind| kinds.contains(&kind))
}

/// A reward model has one output.
fn scores(base: &Base, adapter: &LoraAdapter) -> Result<(), String> {
    let labels = adapter.score.as_ref().map(|score| score.labels).or(base.checkpoint.config.num_labels);
    if labels == Some(1) { Ok(()) } else { Err("its adapter has no score head of one output".to_owned()) }
}

/// Whether an adapter changes the same projections by matrices of the same rank and scaling: it is trained on from there.
fn has_shape_of(adapter: &LoraAdapter, first: &LoraAdapter) -> bool {
    let same = |a: &LoraPair, b: &LoraPair| a.rank == b.rank && a.scaling.to_bits() == b.scaling.to_bits();
    let is_like = |other: &LoraAdapter| {
        adapter.layers.iter().all(|(target, pair)| other.layers.get(target).is_some_and(|it| same(pair, it)))
    };
    adapter.layers.len() == first.layers.len() && is_like(first)
}
