//! Snapshots are disposable, and the log takes precedence over them.

use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::log::EventLog;
use dissent_domain::replay::Replay;
use dissent_domain::snapshot::{SCHEMA, Snapshot};
use dissent_storage::{MemoryLog, Snapshots, wait};

use super::histories::{DataFolders, in_order, learning_plan, learnt, measured, plan};
use crate::rules::History;

/// Returns a snapshot of a history after `events` events.
fn after(history: &History, events: usize) -> Snapshot {
    let mut replay = Replay::new();
    history.recorded[..events].iter().for_each(|recorded| replay.apply(recorded).unwrap());
    Snapshot::after(&history.recorded[events - 1], replay.into_experiment())
}

fn memory(history: &History) -> MemoryLog {
    let log = MemoryLog::new();
    for recorded in &history.recorded {
        let (experiment, events) = (recorded.experiment.clone(), vec![recorded.event.clone()]);
        let expected = dissent_domain::log::ExpectedVersion::Any;
        wait(log.append(dissent_domain::log::Append { experiment, expected, events })).unwrap();
    }
    log
}

#[test]
fn replay_from_a_snapshot_after_any_event_reaches_the_same_state() {
    let history = learnt(learning_plan("loop"));
    let name = "loop".parse().unwrap();
    let (log, folder) = (memory(&history), tempfile::tempdir().unwrap());
    let snapshots = Snapshots::new(folder.path());
    for events in 1..=history.recorded.len() {
        let snapshot = after(&history, events);
        snapshots.save(&snapshot).unwrap();
        assert_eq!(snapshots.load(&log, &name).unwrap(), Some(snapshot));
        let resumed = snapshots.resume(&log, &name, u64::MAX).unwrap();
        assert_eq!(resumed.experiment(), &history.experiment, "after {events} events");
    }
}

#[test]
fn a_damaged_or_foreign_snapshot_is_ignored() {
    let history = measured(plan("history"), &in_order(), 0.0);
    let name = "history".parse().unwrap();
    let (log, folder) = (memory(&history), tempfile::tempdir().unwrap());
    let snapshots = Snapshots::new(folder.path());
    assert_eq!(snapshots.resume(&log, &name, 5).unwrap().experiment(), &history.experiment);
    let file = folder.path().join("history.snapshot");
    let whole = std::fs::read(&file).unwrap();
    assert!(snapshots.load(&log, &name).unwrap().is_some(), "a resumed replay saves a snapshot");
    for place in (0..whole.len()).step_by(7) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        assert_eq!(snapshots.load(&log, &name).unwrap(), None, "byte {place}");
        std::fs::write(&file, &whole[..place]).unwrap();
        assert_eq!(snapshots.load(&log, &name).unwrap(), None, "cut at {place}");
    }
    std::fs::write(&file, &whole).unwrap();
    let other = memory(&measured(plan("history"), &[5, 4, 3, 2, 1, 0], 0.5));
    let resumed = snapshots.resume(&other, &name, u64::MAX).unwrap();
    assert_eq!(resumed.version(), other.head());
    let again = |recorded: &Recorded| {
        let event = NewEvent { time_us: recorded.event.time_us + 1, ..recorded.event.clone() };
        Recorded { event, ..recorded.clone() }
    };
    let recorded = history.recorded.iter().map(again).collect();
    let done_again = memory(&History { recorded, ..History::default() });
    assert_eq!(snapshots.load(&done_again, &name).unwrap(), None, "the same ids at other times");
    let shorter = memory(&History { recorded: history.recorded[..3].to_vec(), ..History::default() });
    assert_eq!(snapshots.load(&shorter, &name).unwrap(), None);
}

#[test]
fn a_snapshot_of_another_schema_is_ignored() {
    let history = measured(plan("history"), &in_order(), 0.0);
    let name = "history".parse().unwrap();
    let (log, folder) = (memory(&history), tempfile::tempdir().unwrap());
    let snapshots = Snapshots::new(folder.path());
    snapshots.save(&after(&history, 9)).unwrap();
    let file = folder.path().join("history.snapshot");
    let whole = std::fs::read(&file).unwrap();
    let body = &whole[blake3::OUT_LEN..];
    let at = body.windows(SCHEMA.len()).position(|window| window == SCHEMA.as_bytes()).unwrap();
    let mut other = body.to_vec();
    other[at] = if other[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(&file, [blake3::hash(&other).as_bytes(), &other[..]].concat()).unwrap();
    assert_eq!(snapshots.load(&log, &name).unwrap(), None);
    let resumed = snapshots.resume(&log, &name, u64::MAX).unwrap();
    assert_eq!(resumed.experiment(), &history.experiment);
}

#[test]
fn verify_reports_and_deletes_a_snapshot_that_contradicts_the_log() {
    let folders = DataFolders::new();
    let history = measured(plan("history"), &in_order(), 0.0);
    folders.append("data", &history.recorded);
    let snapshots = Snapshots::new(folders.path("data").join("snapshots"));
    let right = after(&history, 9);
    snapshots.save(&right).unwrap();
    assert_eq!(folders.json("data", &["replay", "--verify"], 0)["sound"], true);
    // A snapshot of this history that claims a later event than its state includes.
    let wrong = Snapshot::after(&history.recorded[8], after(&history, 8).into_state());
    snapshots.save(&wrong).unwrap();
    assert_ne!(
        folders.json("data", &["replay", "history"], 0)["state_hash"],
        history.experiment.state_hash(),
        "a replay resumes from the snapshot"
    );
    let found = folders.json("data", &["replay", "--verify"], 3);
    let fault = &found["experiments"][0]["fault"];
    assert_eq!(fault["position"], 9);
    assert!(fault["what"].as_str().unwrap().contains("snapshot"), "{fault}");
    folders.output("data", &["replay", "history", "--verify"], 0);
    let replayed = folders.json("data", &["replay", "history"], 0);
    assert_eq!(replayed["state_hash"], history.experiment.state_hash());
}
