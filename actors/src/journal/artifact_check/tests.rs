use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use dissent_domain::event::{PolicyTuned, RewardModelRefined, RoundClosed, Stage, TrainingProgressed};
use dissent_models::InvalidKind;
use dissent_models::adapter::{AdapterTask, ScoreHead};
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{OpenOptions, ReadingRules};
use tempfile::TempDir;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden").join(name)
}

/// An adapter with the fingerprint that it has as an artifact.
fn adapter(name: &str) -> LoraAdapter {
    rebuilt(LoraAdapter::open(&golden(name)).unwrap())
}

/// A model of the tests: the small llama, with one of its adapters or without one.
pub(in crate::journal) fn initial(adapter_name: Option<&str>) -> Initial {
    let options =
        OpenOptions { layers: None, cache_dir: cache_dir().unwrap(), reading: ReadingRules::default() };
    let checkpoint = Arc::new(Checkpoint::open(&golden("llama"), &options).unwrap());
    Initial { checkpoint, adapter: adapter_name.map(|name| Arc::new(adapter(name))) }
}

/// A store with a check of an experiment that began without an adapter for the policy.
struct Bench {
    store: ArtifactStore,
    policy: Initial,
    reward: Initial,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(folder.path()).unwrap();
        Self { store, policy: initial(None), reward: initial(Some("llama-reward")), _folder: folder }
    }

    fn check(&self, event: impl Into<Event>) -> Result<(), Contradiction> {
        let store = Arc::new(self.store.clone());
        ArtifactCheck::of(store, self.policy.clone(), self.reward.clone()).check(&event.into())
    }

    fn keep(&self, bytes: &[u8]) -> String {
        self.store.put_bytes(bytes).unwrap().to_string()
    }

    /// The event of a policy with this adapter, which the store keeps.
    fn tuned(&self, adapter: &LoraAdapter) -> PolicyTuned {
        let name = self.keep(&adapter.to_artifact().unwrap());
        tuned(&name, &fingerprint(&self.policy.checkpoint, Some(adapter)))
    }

    /// The event of a reward model with this adapter, which the store keeps.
    fn refined(&self, adapter: &LoraAdapter) -> RewardModelRefined {
        let name = self.keep(&adapter.to_artifact().unwrap());
        refined(&name, &fingerprint(&self.reward.checkpoint, Some(adapter)))
    }
}

fn tuned(adapter: &str, fingerprint: &str) -> PolicyTuned {
    let (adapter, fingerprint) = (adapter.to_owned(), fingerprint.to_owned());
    PolicyTuned { round: 0, attempt: 0, adapter, fingerprint, metrics: BTreeMap::new() }
}

fn refined(adapter: &str, fingerprint: &str) -> RewardModelRefined {
    let (adapter, fingerprint, metrics) = (adapter.to_owned(), fingerprint.to_owned(), BTreeMap::new());
    let (preferences, rehearsed) = (1, 0);
    RewardModelRefined { round: 0, attempt: 0, adapter, fingerprint, preferences, rehearsed, metrics }
}

fn progressed(checkpoint: Option<&str>) -> TrainingProgressed {
    TrainingProgressed {
        round: 0,
        stage: Stage::Policy,
        attempt: 0,
        sequence: 0,
        step: 1,
        steps: 2,
        checkpoint: checkpoint.map(str::to_owned),
        metrics: BTreeMap::new(),
    }
}

/// The adapter with other numbers, as a training makes it.
fn trained(mut adapter: LoraAdapter) -> LoraAdapter {
    adapter.layers.values_mut().next().unwrap().a[0] += 0.5;
    rebuilt(adapter)
}

/// The adapter with the fingerprint of its present content.
fn rebuilt(adapter: LoraAdapter) -> LoraAdapter {
    let LoraAdapter { r, alpha, layers, score, task, .. } = adapter;
    LoraAdapter::new(r, alpha, layers, score, task, None).unwrap()
}

#[test]
fn events_whose_artifacts_are_right_are_believed() {
    let bench = Bench::new();
    bench.check(bench.tuned(&trained(adapter("llama-lora")))).unwrap();
    bench.check(bench.refined(&trained(adapter("llama-reward")))).unwrap();
    bench.check(progressed(Some(&bench.keep(b"a checkpoint")))).unwrap();
    bench.check(progressed(None)).unwrap();
    bench.check(RoundClosed { round: 0 }).unwrap();
}

#[test]
fn a_checkpoint_with_an_invalid_name_is_a_contradiction() {
    let found = Bench::new().check(progressed(Some("../secret"))).unwrap_err();
    assert!(matches!(found, Contradiction::CheckpointName(_)), "{found:?}");
}

#[test]
fn a_checkpoint_that_no_store_has_is_a_contradiction() {
    let missing = ArtifactId::of(b"never stored");
    let found = Bench::new().check(progressed(Some(&missing.to_string()))).unwrap_err();
    assert!(matches!(found, Contradiction::CheckpointMissing(id) if id == missing), "{found:?}");
}

#[test]
fn an_adapter_with_an_invalid_name_is_a_contradiction() {
    let found = Bench::new().check(tuned("adapter", "p")).unwrap_err();
    assert!(matches!(found, Contradiction::AdapterName(_)), "{found:?}");
}

#[test]
fn an_adapter_that_no_store_has_is_a_contradiction() {
    let missing = ArtifactId::of(b"never stored");
    let found = Bench::new().check(tuned(&missing.to_string(), "p")).unwrap_err();
    let Contradiction::AdapterUnreadable(StorageError::ArtifactMissing(id)) = found else {
        panic!("{found:?}")
    };
    assert_eq!(id, missing);
}

#[test]
fn a_damaged_adapter_is_a_contradiction() {
    let bench = Bench::new();
    let event = bench.tuned(&adapter("llama-lora"));
    std::fs::write(bench.store.path(&event.adapter.parse().unwrap()), "other bytes").unwrap();
    let found = bench.check(event).unwrap_err();
    let is_damaged = matches!(found, Contradiction::AdapterUnreadable(StorageError::ArtifactDamaged { .. }));
    assert!(is_damaged, "{found:?}");
}

#[test]
fn an_artifact_that_holds_no_adapter_is_a_contradiction_that_keeps_its_causes() {
    let bench = Bench::new();
    let found = bench.check(tuned(&bench.keep(b"no adapter"), "p")).unwrap_err();
    let Contradiction::NotAnAdapter(error) = &found else { panic!("{found:?}") };
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Adapter));
    let cause = error.source().expect("the decoder's error is kept");
    let (text, parts) = (chain(&found), [error.to_string(), cause.to_string()]);
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn an_adapter_of_an_unknown_module_is_a_contradiction() {
    let (bench, folder) = (Bench::new(), tempfile::tempdir().unwrap());
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let mut bytes = std::fs::read(golden("llama-lora").join(file)).unwrap();
        for at in 0..bytes.len() - 6 {
            if &bytes[at..at + 6] == b"q_proj" {
                bytes[at] = b'x';
            }
        }
        std::fs::write(folder.path().join(file), bytes).unwrap();
    }
    let artifact = bench.keep(&LoraAdapter::artifact_of_folder(folder.path()).unwrap());
    let found = bench.check(tuned(&artifact, "p")).unwrap_err();
    assert!(matches!(found, Contradiction::AdapterInvalid(_)), "{found:?}");
}

#[test]
fn an_adapter_of_another_architecture_is_a_contradiction() {
    let bench = Bench::new();
    let found = bench.check(bench.tuned(&adapter("neox-lora"))).unwrap_err();
    let Contradiction::OtherModel(error) = &found else { panic!("{found:?}") };
    assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch));
}

#[test]
fn an_adapter_that_changes_other_projections_than_the_first_one_is_a_contradiction() {
    let mut bench = Bench::new();
    bench.policy = initial(Some("llama-reward"));
    let found = bench.check(bench.tuned(&adapter("llama-lora"))).unwrap_err();
    assert!(matches!(found, Contradiction::OtherShape), "{found:?}");
}

#[test]
fn an_adapter_with_another_scaling_than_the_first_one_is_a_contradiction() {
    let bench = Bench::new();
    let mut scaled = adapter("llama-reward");
    scaled.alpha *= 2.0;
    scaled.layers.values_mut().for_each(|pair| pair.scaling *= 2.0);
    let found = bench.check(bench.refined(&rebuilt(scaled))).unwrap_err();
    assert!(matches!(found, Contradiction::OtherShape), "{found:?}");
}

#[test]
fn a_wrong_fingerprint_is_a_contradiction_that_names_both() {
    let bench = Bench::new();
    let right = bench.tuned(&adapter("llama-lora"));
    let made_right = right.fingerprint.clone();
    let found = bench.check(tuned(&right.adapter, "another model")).unwrap_err();
    let Contradiction::OtherFingerprint { made, claimed } = found else { panic!("{found:?}") };
    assert_eq!((made, claimed.as_str()), (made_right, "another model"));
}

#[test]
fn a_reward_model_without_one_score_is_a_contradiction() {
    let mut bench = Bench::new();
    bench.reward.adapter = None;
    let found = bench.check(bench.refined(&adapter("llama-lora"))).unwrap_err();
    assert!(matches!(found, Contradiction::NoScoreHead), "no head: {found:?}");
    let mut two = adapter("llama-reward");
    let hidden = bench.reward.checkpoint.config.hidden_size;
    two.score = Some(ScoreHead { weight: vec![0.0; 2 * hidden], labels: 2, hidden });
    assert_eq!(two.task, AdapterTask::SeqCls);
    let found = bench.check(bench.refined(&rebuilt(two))).unwrap_err();
    assert!(matches!(found, Contradiction::NoScoreHead), "two outputs: {found:?}");
}

/// A store whose disk fails.
struct Unreadable;

impl ReadArtifacts for Unreadable {
    fn is_kept(&self, id: &ArtifactId) -> Result<bool, StorageError> {
        self.read(id, 0).map(|_| true)
    }

    fn read(&self, id: &ArtifactId, _: u64) -> Result<Vec<u8>, StorageError> {
        let source = io::Error::from_raw_os_error(5);
        Err(StorageError::Io { action: "read", path: id.to_string().into(), source })
    }
}

#[test]
fn an_unreadable_store_contradicts_no_event() {
    let check = ArtifactCheck::of(Arc::new(Unreadable), initial(None), initial(Some("llama-reward")));
    let name = ArtifactId::of(b"unreadable").to_string();
    for event in [progressed(Some(&name)).into(), tuned(&name, "p").into(), refined(&name, "r").into()] {
        assert!(check.check(&event).is_ok(), "{event:?}");
    }
}

#[test]
fn only_events_that_the_rules_allow_and_that_name_an_artifact_are_checked() {
    let start = EventId::of_experiment(&dissent_domain::id::ExperimentId::new("e").unwrap());
    let name = ArtifactId::of(b"x").to_string();
    let events: [Event; 4] = [
        progressed(None).into(),
        progressed(Some(&name)).into(),
        tuned(&name, "p").into(),
        RoundClosed { round: 0 }.into(),
    ];
    let proposed: Vec<NewEvent> =
        events.iter().map(|event| NewEvent::new(start, None, "test", 0, event).unwrap()).collect();
    assert_eq!(named_artifacts(&proposed, |_, _| true), events[1..3]);
    let only_tuned = |_, event: &Event| event.event_type() == EventType::PolicyTuned;
    assert_eq!(named_artifacts(&proposed, only_tuned), events[2..3]);
    assert!(named_artifacts(&proposed, |_, _| false).is_empty());
}
