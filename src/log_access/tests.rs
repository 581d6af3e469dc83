//! A log and its readers through the local door.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::routing::get;
use dissent_domain::event::{EventId, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion, LogError};
use dissent_storage::{SledLog, SledOptions, wait};

use super::door::{LocalDoor, socket};
use super::open;
use super::remote_log::{NoRemoteLog, RemoteLog};
use super::wire::PAGE_BYTES;

fn name(name: &str) -> ExperimentId {
    ExperimentId::new(name).unwrap()
}

fn log(data_dir: &Path) -> Arc<SledLog> {
    Arc::new(SledLog::open(data_dir.join("log"), &SledOptions::default()).unwrap())
}

/// Appends events with bodies of these sizes to a stream.
fn append(log: &SledLog, experiment: &str, bodies: &[usize]) {
    let begin = log.head();
    let events = (begin..).zip(bodies).map(|(number, bytes)| NewEvent {
        id: EventId::of_experiment(&name(&format!("event-{number}"))),
        causation: number.is_multiple_of(2).then(|| EventId::of_experiment(&name("cause"))),
        actor: "test".to_owned(),
        time_us: number,
        event_type: "test.happened".to_owned(),
        schema_version: 3,
        body: vec![u8::try_from(number % 251).unwrap(); *bytes],
    });
    let events = events.collect();
    wait(log.append(Append { experiment: name(experiment), expected: ExpectedVersion::Any, events }))
        .unwrap();
}

#[test]
fn a_reader_sees_the_events_up_to_the_head_at_its_opening() {
    let data = tempfile::tempdir().unwrap();
    let log = log(data.path());
    append(&log, "a", &[10; 300]);
    append(&log, "b", &[PAGE_BYTES / 3, 0, 3 * PAGE_BYTES, PAGE_BYTES, 1, 2]);
    append(&log, "a", &[PAGE_BYTES / 10; 30]);
    let door = LocalDoor::start(log.clone(), data.path(), Router::new()).unwrap();
    let reader = open::read_log(data.path()).unwrap();
    assert!(reader.is_remote());
    let (head, streams) = (log.head(), log.streams().unwrap());
    let all = log.read(0, usize::MAX).unwrap();
    append(&log, "a", &[7; 5]);
    append(&log, "c", &[7; 5]);

    assert_eq!((reader.head(), reader.streams().unwrap()), (head, streams));
    assert_eq!(reader.read(0, usize::MAX).unwrap(), all);
    for (after, limit) in [(0, 1), (0, 0), (299, 4), (300, 6), (301, 2), (330, 100), (head, 1), (u64::MAX, 9)]
    {
        let expected: Vec<_> =
            all.iter().filter(|event| event.position > after).take(limit).cloned().collect();
        assert_eq!(reader.read(after, limit).unwrap(), expected, "after {after}, at most {limit}");
        for experiment in ["a", "b", "c", "d"].map(name) {
            let mut expected: Vec<_> =
                all.iter().filter(|event| event.experiment == experiment).cloned().collect();
            expected.retain(|event| event.version > after);
            expected.truncate(limit);
            let read = reader.read_stream(&experiment, after, limit).unwrap();
            assert_eq!(read, expected, "{experiment} after {after}, at most {limit}");
        }
    }
    for event in [&all[0], &all[302], &all[335]] {
        assert_eq!(reader.find(event.event.id).unwrap().as_ref(), Some(event));
    }
    let later = log.read(head, 1).unwrap().remove(0);
    assert_eq!(reader.find(later.event.id).unwrap(), None, "the event is above the head");
    assert_eq!(reader.find(EventId::of_experiment(&name("unknown"))).unwrap(), None);
    assert_eq!(reader.stat().unwrap().events, head + 10, "counted where the log is");
    assert!(reader.verify().unwrap().is_sound());

    let refused =
        wait(reader.append(Append { experiment: name("a"), expected: ExpectedVersion::Any, events: vec![] }));
    assert!(matches!(refused, Err(LogError::Invalid(_))), "{refused:?}");
    assert!(reader.store_cursor("group", vec![]).is_err());
    drop(door);
    let ended = reader.read(0, 1);
    assert!(matches!(ended, Err(LogError::Io { .. })), "{ended:?}");
    assert!(matches!(RemoteLog::open(&socket(data.path())), Err(NoRemoteLog::Nobody)));
}

#[test]
fn readers_follow_each_other_and_a_writer_waits_for_them_with_timeout() {
    let data = tempfile::tempdir().unwrap();
    append(&log(data.path()), "a", &[10; 3]);
    let first = open::read_log(data.path()).unwrap();
    let second = open::read_log(data.path()).unwrap();
    assert!(!first.is_remote() && second.is_remote());
    assert_eq!(second.read(0, 9).unwrap(), first.read(0, 9).unwrap());
    let begun = Instant::now();
    assert!(matches!(open::open_for_writing(data.path()), Err(LogError::InUse(_))));
    assert!(begun.elapsed().as_secs() < 60);
    let reading = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(first);
    });
    drop(open::open_for_writing(data.path()).unwrap());
    reading.join().unwrap();
    assert!(!open::read_log(data.path()).unwrap().is_remote(), "the door is closed");
}

#[test]
fn the_door_serves_the_routes_that_the_process_adds() {
    use crate::http_client::{Connection, Endpoint, ExchangeLimits};

    let data = tempfile::tempdir().unwrap();
    let more = |answer: &'static str| Router::new().route("/more", get(move || async move { answer }));
    let _door = LocalDoor::start(log(data.path()), data.path(), more("first")).unwrap();
    let connection = Connection::new(Endpoint::Unix(socket(data.path()))).unwrap();
    let limits = ExchangeLimits { time: std::time::Duration::from_secs(60), body_bytes: 1 << 16 };
    let ask = |path: &str| connection.get(path.to_owned(), limits).unwrap();
    assert_eq!(ask("/more").body, "first");
    assert_eq!(ask("/api/v1/log/head").body, "{\"head\":0}");
    let other = ask("/other");
    assert_eq!(other.status, 404);
    assert!(String::from_utf8_lossy(&other.body).contains("does not serve this path"));
}

#[test]
fn a_log_in_a_folder_without_room_for_a_socket_is_read_by_its_process_alone() {
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(socket(data.path())).unwrap();
    let log = open::read_log(data.path());
    assert!(log.is_err(), "there is no log");
    drop(super::tests::log(data.path()));
    let reader = open::read_log(data.path()).unwrap();
    assert_eq!(reader.head(), 0);
}

#[test]
fn the_process_with_the_log_removes_unfinished_backups_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let unfinished = format!("{}x1", dissent_storage::UNFINISHED_BACKUP);
    for name in [unfinished.as_str(), "2026-01-01", "notes"] {
        std::fs::create_dir_all(data.path().join("backups").join(name).join("log")).unwrap();
    }
    let _door = LocalDoor::start(log(data.path()), data.path(), Router::new()).unwrap();
    let left = std::fs::read_dir(data.path().join("backups")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["2026-01-01", "notes"]);
}
