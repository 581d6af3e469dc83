use std::time::Instant;

use dissent_domain::log::ExpectedVersion::{Any, Exact, NoStream};
use dissent_domain::log::LogPart;
use proptest::prelude::*;
use tempfile::TempDir;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::conformance::{append, event, experiment};
use crate::{MemoryLog, wait};

mod damage;

fn fresh() -> (SledLog, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()).unwrap(), dir)
}

/// Short runs of ids, so that a test makes some.
fn options() -> SledOptions {
    SledOptions { run_events: 512, ..SledOptions::default() }
}

fn open(dir: &Path) -> Result<SledLog, LogError> {
    SledLog::open(dir, &options())
}

/// Returns the files as a power failure would leave them now.
fn crash_image(dir: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy_files(dir, image.path());
    image
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else if std::fs::copy(entry.path(), target).is_err() {
            // sled removes a snapshot once it has written the next.
            assert!(!entry.path().exists());
        }
    }
}

fn add(log: &SledLog, range: std::ops::Range<u32>) {
    for n in range {
        append(log, "a", Any, vec![event("a", n, 600)]).unwrap();
    }
}

fn assert_whole(log: &SledLog, events: u32) {
    assert_whole_of(log, events, 600);
}

fn assert_whole_of(log: &SledLog, events: u32, bytes: usize) {
    let all = log.read(0, usize::MAX).unwrap();
    let expected: Vec<_> = (0..events).map(|n| event("a", n, bytes)).collect();
    assert_eq!(all.into_iter().map(|r| r.event).collect::<Vec<_>>(), expected);
    assert_eq!(log.verify().unwrap().findings, []);
}

/// The error of a log that is damaged.
fn corrupt(opened: Result<SledLog, LogError>) -> LogError {
    match opened.map(|log| log.head()) {
        Err(error @ LogError::Corrupt { .. }) => error,
        other => panic!("expected damage, got {other:?}"),
    }
}

crate::event_log_conformance!(fresh());

#[test]
fn a_closed_log_reopens_with_every_event() {
    let (log, dir) = fresh();
    add(&log, 0..20);
    log.store_cursor("g", vec![7]).unwrap();
    log.close().unwrap();
    assert_eq!(append(&log, "a", Any, vec![event("a", 99, 1)]), Err(LogError::Closed));
    assert_eq!(log.flush(), Err(LogError::Closed));
    assert_eq!(log.head(), 20);
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_whole(&log, 20);
    assert_eq!(log.load_cursor("g").unwrap(), Some(vec![7]));
    assert_eq!(log.streams().unwrap(), [(experiment("a"), 20)]);
    append(&log, "a", Exact(20), vec![event("a", 20, 600)]).unwrap();
    assert_whole(&log, 21);
}

#[test]
fn dropping_the_log_writes_pending_appends() {
    let (log, dir) = fresh();
    for n in 0..300 {
        let append = Append { experiment: experiment("a"), expected: Any, events: vec![event("a", n, 600)] };
        drop(log.append(append));
    }
    drop(log);
    assert_whole(&open(dir.path()).unwrap(), 300);
}

#[test]
fn a_log_in_use_is_not_opened_twice() {
    let (_log, dir) = fresh();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(&error, LogError::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn an_acknowledged_event_is_durable_and_readable() {
    let (log, dir) = fresh();
    for n in 0..10 {
        let recorded = append(&log, "a", Any, vec![event("a", n, 600)]).unwrap();
        assert_eq!(log.head(), recorded[0].position);
        assert_eq!(log.find(recorded[0].event.id).unwrap(), Some(recorded[0].clone()));
        let image = crash_image(dir.path());
        assert_whole(&open(image.path()).unwrap(), n + 1);
    }
}

#[test]
fn concurrent_appends_share_commits() {
    let (log, _dir) = fresh();
    let commits = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&commits);
    log.on_advance(Box::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let sent: Vec<_> = (0..512)
        .map(|n| {
            log.append(Append {
                experiment: experiment("a"),
                expected: Any,
                events: vec![event("a", n, 600)],
            })
        })
        .collect();
    for (position, answer) in (1..).zip(sent) {
        assert_eq!(wait(answer).unwrap()[0].position, position);
    }
    log.flush().unwrap();
    let commits = commits.load(Ordering::SeqCst);
    assert!((2..100).contains(&commits), "{commits} commits for 512 events of at most 256 each");
}

#[test]
fn a_failed_sync_is_not_acknowledged_and_stops_the_log() {
    let breaks: [fn(&mut commit::Committer); 2] =
        [commit::Committer::break_database_sync, commit::Committer::break_tail];
    for break_it in breaks {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        add(&log, 0..5);
        drop(log);
        let log = SledLog::open_with(dir.path(), &options(), break_it).unwrap();
        let error = append(&log, "a", Any, vec![event("a", 5, 600)]).unwrap_err();
        assert!(matches!(error, LogError::Io { source: Some(_), .. }), "{error}");
        assert_eq!((log.head(), log.find(event("a", 5, 0).id).unwrap()), (5, None));
        assert_eq!(append(&log, "a", Any, vec![event("a", 6, 600)]), Err(error.clone()));
        assert_eq!(log.store_cursor("g", vec![]), Err(error.clone()));
        assert_eq!(log.close(), Err(error));
        drop(log);
        let log = open(dir.path()).unwrap();
        assert!((5..=6).contains(&log.head()), "{}", log.head());
        assert_whole(&log, u32::try_from(log.head()).unwrap());
    }
}

/// Crash images before and after one more commit of `bytes` bytes.
fn images_around_a_commit(bytes: usize) -> (TempDir, TempDir) {
    let (log, dir) = fresh();
    add(&log, 0..8);
    let before = crash_image(dir.path());
    append(&log, "a", Any, vec![event("a", 8, bytes)]).unwrap();
    (before, crash_image(dir.path()))
}

#[test]
fn a_crash_between_the_two_syncs_loses_nothing() {
    // The database reached the disk, the tail file did not.
    let (before, after) = images_around_a_commit(600);
    std::fs::copy(before.path().join("tail"), after.path().join("tail")).unwrap();
    assert_whole(&open(after.path()).unwrap(), 9);
    // The tail file reached the disk, the database did not.
    let (before, after) = images_around_a_commit(600);
    std::fs::copy(after.path().join("tail"), before.path().join("tail")).unwrap();
    let log = open(before.path()).unwrap();
    assert_whole(&log, 9);
    add(&log, 9..12);
    drop(log);
    assert_whole(&open(before.path()).unwrap(), 12);
}

#[test]
fn a_commit_too_large_for_its_copy_is_marked_after_the_database() {
    let (before, after) = images_around_a_commit(1 << 20);
    std::fs::copy(before.path().join("tail"), after.path().join("tail")).unwrap();
    assert_eq!(open(after.path()).unwrap().head(), 9);
    // This cannot come from a crash, so it is damage.
    let (before, after) = images_around_a_commit(1 << 20);
    std::fs::copy(after.path().join("tail"), before.path().join("tail")).unwrap();
    let what = corrupt_text(open(before.path()));
    assert!(what.contains("1 acknowledged events are missing, from position 9 to 9"), "{what}");
}

#[test]
fn lost_acknowledged_events_are_counted_and_can_be_accepted() {
    let (log, dir) = fresh();
    add(&log, 0..8);
    let old = crash_image(dir.path());
    add(&log, 8..20);
    std::fs::copy(dir.path().join("tail"), old.path().join("tail")).unwrap();
    let what = corrupt_text(open(old.path()));
    assert!(what.contains("12 acknowledged events are missing, from position 9 to 20"), "{what}");
    let options = SledOptions { accept_loss: true, ..options() };
    drop(SledLog::open(old.path(), &options).unwrap());
    assert_whole(&open(old.path()).unwrap(), 8);
}

#[test]
fn indices_of_a_log_opened_with_loss_omit_lost_events() {
    let (log, dir) = fresh();
    append(&log, "a", Any, (0..700).map(|n| event("a", n, 600)).collect()).unwrap();
    assert!(log.shared.reader.tree.scan_prefix(keys::IDS).count() > 0, "ids have been written");
    for key in log.shared.reader.tree.range(keys::event(400, 0)..keys::event(u64::MAX, 0)).keys() {
        log.shared.reader.tree.remove(key.unwrap()).unwrap();
    }
    drop(log);
    corrupt(open(dir.path()));
    let log = SledLog::open(dir.path(), &SledOptions { accept_loss: true, ..options() }).unwrap();
    let head = u32::try_from(log.head()).unwrap();
    assert!((399..=412).contains(&head), "{head}: the rest ends with the block of event 399");
    assert_eq!(log.find(event("a", head, 0).id).unwrap(), None);
    append(&log, "a", Any, (head..1500).map(|n| event("a", n, 600)).collect()).unwrap();
    assert_whole(&log, 1500);
    drop(log);
    assert_whole(&open(dir.path()).unwrap(), 1500);
}

fn corrupt_part(opened: Result<SledLog, LogError>) -> LogPart {
    let LogError::Corrupt { part, .. } = corrupt(opened) else { panic!("the log is damaged") };
    part
}

fn corrupt_text(opened: Result<SledLog, LogError>) -> String {
    chain(&corrupt(opened))
}

#[test]
fn a_missing_damaged_or_foreign_tail_file_is_an_error() {
    let (log, dir) = fresh();
    add(&log, 0..3);
    drop(log);
    let tail = dir.path().join("tail");
    let (other, other_dir) = fresh();
    add(&other, 0..3);
    std::fs::copy(other_dir.path().join("tail"), &tail).unwrap();
    assert!(corrupt_text(open(dir.path())).contains("belongs to another log"));
    std::fs::write(&tail, [0; 100]).unwrap();
    assert!(corrupt_text(open(dir.path())).contains("tail file cannot be read"));
    std::fs::remove_file(&tail).unwrap();
    assert!(corrupt_text(open(dir.path())).contains("tail file is missing"));
}

#[test]
fn a_lost_database_is_an_error_and_not_an_empty_log() {
    let (log, dir) = fresh();
    add(&log, 0..3);
    drop(log);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap() != "tail" {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert!(corrupt_text(open(dir.path())).contains("3 acknowledged events"));
}

#[test]
fn a_log_of_a_newer_version_is_an_error_that_names_it() {
    let (log, dir) = fresh();
    let tree = log.shared.reader.tree.clone();
    let mut meta = (meta::FORMAT + 1).to_le_bytes().to_vec();
    meta.extend_from_slice(&[0; 20]);
    tree.insert(keys::META, record::frame(keys::META, &meta)).unwrap();
    drop((log, tree));
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(&error, LogError::NewerFormat { log, .. } if !log.is_empty()), "{error}");
}

/// Rewrites the log's tree in the first format: a value for each event, and an entry for each id and version.
fn bring_to_first_format(log: &SledLog) {
    let tree = &log.shared.reader.tree;
    let all = log.read(0, usize::MAX).unwrap();
    for prefix in [keys::EVENTS, keys::IDS, keys::STREAMS] {
        for key in tree.scan_prefix(prefix).keys() {
            tree.remove(key.unwrap()).unwrap();
        }
    }
    for recorded in all {
        let position = recorded.position.to_be_bytes();
        for (key, value) in record::encode(std::slice::from_ref(&recorded)).unwrap() {
            tree.insert(key, value).unwrap();
        }
        tree.insert([b"i", &recorded.event.id.0.as_bytes()[..]].concat(), &position).unwrap();
        let stream =
            [b"s", recorded.experiment.as_str().as_bytes(), b"\0", &recorded.version.to_be_bytes()].concat();
        tree.insert(stream, &position).unwrap();
    }
    set_format(tree, 1);
}

fn set_format(tree: &sled::Tree, format: u16) {
    let meta = tree.get(keys::META).unwrap().unwrap();
    let mut meta = record::unframe(keys::META, &meta).unwrap().to_vec();
    meta[..2].copy_from_slice(&format.to_le_bytes());
    tree.insert(keys::META, record::frame(keys::META, &meta)).unwrap();
    tree.flush().unwrap();
}

#[test]
fn a_log_of_the_second_format_is_upgraded() {
    let (log, dir) = fresh();
    append(&log, "a", Any, (0..1500).map(|n| event("a", n, 600)).collect()).unwrap();
    let tree = &log.shared.reader.tree;
    for key in tree.scan_prefix(keys::IDS).keys() {
        tree.remove(key.unwrap()).unwrap();
    }
    // The second format kept ids in numbered buckets.
    for bucket in 0..90_u32 {
        tree.insert([b"x", &bucket.to_be_bytes()[..]].concat(), vec![7; 200]).unwrap();
    }
    set_format(tree, 2);
    drop(log);
    for _ in 0..2 {
        let log = open(dir.path()).unwrap();
        assert_whole(&log, 1500);
        assert_eq!(log.find(event("a", 1234, 0).id).unwrap().unwrap().position, 1235);
    }
}

#[test]
fn a_log_of_the_first_format_is_upgraded() {
    let (log, dir) = fresh();
    add(&log, 0..200);
    append(&log, "a", Any, (200..2500).map(|n| event("a", n, 600)).collect()).unwrap();
    bring_to_first_format(&log);
    // The state after an interrupted upgrade: new entries exist, and half of the old ones are removed.
    let tree = &log.shared.reader.tree;
    tree.insert(keys::id_chunk(512, 0), record::frame(b"x", &[1; 24])).unwrap();
    tree.insert(keys::stream(&experiment("a"), 2), record::frame(b"t", &[])).unwrap();
    for key in tree.scan_prefix(b"i").keys().take(900) {
        tree.remove(key.unwrap()).unwrap();
    }
    drop(log);
    for _ in 0..2 {
        let log = open(dir.path()).unwrap();
        assert_whole(&log, 2500);
        assert_eq!(log.find(event("a", 1234, 0).id).unwrap().unwrap().position, 1235);
        assert_eq!(log.read_stream(&experiment("a"), 700, 2).unwrap()[0].position, 701);
        for prefix in keys::FIRST_FORMAT_INDICES {
            assert_eq!(log.shared.reader.tree.scan_prefix(prefix).count(), 0);
        }
    }
    let log = open(dir.path()).unwrap();
    add(&log, 2500..2510);
    assert_whole(&log, 2510);
}

#[test]
fn a_log_of_the_first_format_recovers_its_newest_commit() {
    let (before, after) = images_around_a_commit(600);
    let log = open(before.path()).unwrap();
    bring_to_first_format(&log);
    drop(log);
    std::fs::copy(after.path().join("tail"), before.path().join("tail")).unwrap();
    assert_whole(&open(before.path()).unwrap(), 9);
}

#[test]
fn a_log_has_far_fewer_keys_than_events() {
    let (log, _dir) = fresh();
    for n in (0..20_000).step_by(200) {
        append(&log, "a", Any, (n..n + 200).map(|n| event("a", n, 300)).collect()).unwrap();
    }
    let keys = log.shared.reader.tree.len();
    assert!(keys < 20_000 / 8, "{keys} keys");
    assert_whole_of(&log, 20_000, 300);
}

#[test]
fn cursors_become_durable_with_events_by_flush_by_close_and_by_time() {
    let stored = |dir: &Path| {
        let image = crash_image(dir);
        open(image.path()).unwrap().load_cursor("g").unwrap()
    };
    let (log, dir) = fresh();
    log.store_cursor("g", vec![1]).unwrap();
    add(&log, 0..1);
    assert_eq!(stored(dir.path()), Some(vec![1]));
    log.store_cursor("g", vec![2]).unwrap();
    log.flush().unwrap();
    assert_eq!(stored(dir.path()), Some(vec![2]));
    log.store_cursor("g", vec![3]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while stored(dir.path()) != Some(vec![3]) {
        assert!(Instant::now() < deadline, "no cursor was written");
    }
    log.store_cursor("g", vec![4]).unwrap();
    log.close().unwrap();
    assert_eq!(stored(dir.path()), Some(vec![4]));
}

#[test]
fn a_backup_of_a_log_in_use_is_complete() {
    let (log, dir) = fresh();
    add(&log, 0..300);
    log.store_cursor("g", vec![9]).unwrap();
    let to = dir.path().join("copies").join("monday");
    let copied = std::thread::scope(|scope| {
        scope.spawn(|| add(&log, 300..600));
        log.backup(&to).unwrap()
    });
    assert!((300..=600).contains(&copied));
    let copy = open(&to).unwrap();
    assert_whole(&copy, u32::try_from(copied).unwrap());
    assert_eq!(copy.load_cursor("g").unwrap(), Some(vec![9]));
    assert!(matches!(log.backup(&to), Err(LogError::Exists(_))));
    let left: Vec<_> = std::fs::read_dir(dir.path().join("copies")).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn a_log_is_counted() {
    let (log, _dir) = fresh();
    append(&log, "a", Any, (0..3).map(|n| event("a", n, 10)).collect()).unwrap();
    append(&log, "b", Any, vec![event("b", 7, 5)]).unwrap();
    let stat = log.stat().unwrap();
    assert_eq!((stat.events, stat.streams, stat.body_bytes), (4, 2, 35));
    assert_eq!(stat.events_by_type.into_iter().collect::<Vec<_>>(), [("conformance.event".to_owned(), 4)]);
    assert_eq!(stat.first_time_us, Some(1_700_000_000_000_000));
    assert_eq!(stat.last_time_us, Some(1_700_000_000_000_007));
    assert!(stat.bytes_on_disk > 512 << 10);
}

/// sled releases its files on a thread of its own, some time after its drop.
#[test]
fn opening_waits_until_sled_releases_the_log() {
    let (log, dir) = fresh();
    drop(log);
    let held = loop {
        if let Ok(held) = sled::Config::new().path(dir.path()).open() {
            break held;
        }
    };
    let holder = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(100));
        drop(held);
    });
    drop(open(dir.path()).unwrap());
    holder.join().unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Append { stream: u8, expected: ExpectedVersionOf, ids: Vec<u32> },
    Reopen,
    Cursor { group: u8, value: u8 },
}

#[derive(Debug, Clone, Copy)]
enum ExpectedVersionOf {
    Any,
    NoStream,
    Actual,
    Exact(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        4 => Just(ExpectedVersionOf::Any),
        1 => Just(ExpectedVersionOf::NoStream),
        4 => Just(ExpectedVersionOf::Actual),
        1 => (0..9_u64).prop_map(ExpectedVersionOf::Exact),
    ];
    prop_oneof![
        12 => (0..3_u8, expected, prop::collection::vec(0..60_u32, 0..6))
            .prop_map(|(stream, expected, ids)| Step::Append { stream, expected, ids }),
        1 => Just(Step::Reopen),
        2 => (0..2_u8, any::<u8>()).prop_map(|(group, value)| Step::Cursor { group, value }),
    ]
}

fn version_of(log: &MemoryLog, stream: &ExperimentId) -> u64 {
    log.streams().unwrap().iter().find(|(name, _)| name == stream).map_or(0, |(_, version)| *version)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_durable_log_behaves_like_the_log_in_memory(steps in prop::collection::vec(step(), 1..60)) {
        let (mut log, dir) = fresh();
        let model = MemoryLog::new();
        // Replies are compared late, so that some appends share a commit.
        let mut open_answers = Vec::new();
        for step in steps {
            match step {
                Step::Append { stream, expected, ids } => {
                    let experiment = experiment(&format!("s{stream}"));
                    let expected = match expected {
                        ExpectedVersionOf::Any => Any,
                        ExpectedVersionOf::NoStream => NoStream,
                        ExpectedVersionOf::Actual => Exact(version_of(&model, &experiment)),
                        ExpectedVersionOf::Exact(version) => Exact(version),
                    };
                    let events = ids.into_iter().map(|n| event("model", n, n as usize * 200)).collect();
                    let append = Append { experiment, expected, events };
                    open_answers.push((log.append(append.clone()), wait(model.append(append))));
                }
                Step::Cursor { group, value } => {
                    log.store_cursor(&format!("g{group}"), vec![value]).unwrap();
                    model.store_cursor(&format!("g{group}"), vec![value]).unwrap();
                }
                Step::Reopen => {
                    drop(log);
                    log = open(dir.path()).unwrap();
                }
            }
        }
        for (ours, modelled) in open_answers {
            prop_assert_eq!(wait(ours), modelled);
        }
        prop_assert_eq!(log.read(0, usize::MAX).unwrap(), model.read(0, usize::MAX).unwrap());
        prop_assert_eq!(log.streams().unwrap(), model.streams().unwrap());
        for (stream, _) in model.streams().unwrap() {
            prop_assert_eq!(
                log.read_stream(&stream, 1, 7).unwrap(),
                model.read_stream(&stream, 1, 7).unwrap()
            );
        }
        for group in ["g0", "g1"] {
            prop_assert_eq!(log.load_cursor(group).unwrap(), model.load_cursor(group).unwrap());
        }
        prop_assert_eq!(log.verify().unwrap().findings, vec![]);
    }
}

/// sled rewrites a whole page when it has changed often or when its segment is cleared. It moves a page
/// larger than a quarter of a segment to a file of its own, which it never syncs.
#[test]
fn a_page_of_the_largest_values_stays_in_the_file_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let db = open::open_sled(dir.path(), &options()).unwrap();
    // Fills a page until sled has rewritten it; then writes one more value.
    for (change, part) in (0..).zip((0..16).chain([15; 12]).chain(16..40)) {
        db.insert(keys::event(1, part), vec![change; record::VALUE_BYTES_MAX]).unwrap();
    }
    db.flush().unwrap();
    let blobs = std::fs::read_dir(dir.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}
