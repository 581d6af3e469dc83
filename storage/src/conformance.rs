//! The contract of every [`EventLog`]. One suite for all of them: [`event_log_conformance!`] makes a test of
//! each claim.
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test suite: failing is a panic")]

use std::sync::{Arc, Mutex};

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion, LogError};

use crate::wait;

/// Generates one test for each claim. The argument is an expression that creates an empty log and a guard
/// that must live as long as the log.
#[macro_export]
macro_rules! event_log_conformance {
    ($make:expr) => {
        $crate::event_log_conformance!(
            $make;
            positions_and_versions_have_no_gaps,
            a_repeated_append_returns_the_original_events,
            only_the_unknown_events_of_an_append_are_added,
            an_id_twice_in_one_append_is_one_event,
            an_id_with_different_content_keeps_the_first,
            expected_versions_are_checked,
            a_known_append_succeeds_with_any_expected_version,
            a_rejected_append_adds_nothing,
            an_empty_append_returns_no_events,
            reads_respect_their_limits,
            streams_are_listed_by_name,
            bodies_of_all_sizes_are_read_back,
            oversized_appends_are_rejected,
            cursors_are_replaced_and_bounded,
            listeners_see_every_position_rise,
            appends_of_many_threads_keep_each_threads_order,
            a_dropped_future_does_not_take_the_append_back,
        );
    };
    ($make:expr; $($claim:ident),* $(,)?) => {
        $(
            #[test]
            fn $claim() {
                let (log, _alive) = $make;
                $crate::conformance::$claim(log);
            }
        )*
    };
}

/// Returns an experiment id.
#[must_use]
pub fn experiment(name: &str) -> ExperimentId {
    ExperimentId::new(name).unwrap()
}

/// Returns the `n`-th test event, with a body of `bytes` bytes.
#[must_use]
pub fn event(family: &str, n: u32, bytes: usize) -> NewEvent {
    let root = EventId::of_experiment(&experiment(family));
    let [a, b, ..] = n.to_le_bytes();
    NewEvent {
        id: root.caused("conformance.event", n),
        causation: n.checked_sub(1).map(|cause| root.caused("conformance.event", cause)),
        actor: "conformance".to_owned(),
        time_us: 1_700_000_000_000_000 + u64::from(n),
        event_type: "conformance.event".to_owned(),
        schema_version: 1,
        body: (0..bytes).map(|i| if i % 2 == 0 { a } else { b ^ i.to_le_bytes()[0] }).collect(),
    }
}

/// Appends events and waits.
///
/// # Errors
/// As the append.
pub fn append(
    log: &dyn EventLog,
    stream: &str,
    expected: ExpectedVersion,
    events: Vec<NewEvent>,
) -> Result<Vec<Recorded>, LogError> {
    wait(log.append(Append { experiment: experiment(stream), expected, events }))
}

fn events(family: &str, range: std::ops::Range<u32>) -> Vec<NewEvent> {
    range.map(|n| event(family, n, 32)).collect()
}

fn places(recorded: &[Recorded]) -> Vec<(u64, &str, u64)> {
    recorded.iter().map(|r| (r.position, r.experiment.as_str(), r.version)).collect()
}

use ExpectedVersion::{Any, Exact, NoStream};

/// Positions and versions have no gaps.
pub fn positions_and_versions_have_no_gaps(log: impl EventLog) {
    append(&log, "a", Any, events("a", 0..2)).unwrap();
    append(&log, "b", Any, events("b", 0..1)).unwrap();
    let last = append(&log, "a", Any, events("a", 2..4)).unwrap();
    assert_eq!(places(&last), [(4, "a", 3), (5, "a", 4)]);
    let all = log.read(0, 100).unwrap();
    assert_eq!(places(&all), [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "a", 3), (5, "a", 4)]);
    assert_eq!(all[3..], last);
    assert_eq!(log.head(), 5);
}

/// A repeated append returns the original events.
pub fn a_repeated_append_returns_the_original_events(log: impl EventLog) {
    let first = append(&log, "a", Any, events("a", 0..3)).unwrap();
    append(&log, "a", Any, events("a", 3..4)).unwrap();
    assert_eq!(append(&log, "a", Any, events("a", 0..3)).unwrap(), first);
    assert_eq!(log.head(), 4);
}

/// Only the unknown events of an append are added.
pub fn only_the_unknown_events_of_an_append_are_added(log: impl EventLog) {
    append(&log, "a", Any, events("a", 1..3)).unwrap();
    let mixed = append(&log, "a", Any, events("a", 0..4)).unwrap();
    assert_eq!(places(&mixed), [(3, "a", 3), (1, "a", 1), (2, "a", 2), (4, "a", 4)]);
}

/// An id twice in one append is one event.
pub fn an_id_twice_in_one_append_is_one_event(log: impl EventLog) {
    let twice = vec![event("a", 0, 8), event("a", 1, 8), event("a", 0, 8)];
    let answer = append(&log, "a", NoStream, twice).unwrap();
    assert_eq!(places(&answer), [(1, "a", 1), (2, "a", 2), (1, "a", 1)]);
    assert_eq!(log.head(), 2);
}

/// An id with different content keeps the first.
pub fn an_id_with_different_content_keeps_the_first(log: impl EventLog) {
    let first = append(&log, "a", Any, vec![event("a", 0, 8)]).unwrap();
    let other = NewEvent { body: vec![1, 2, 3], ..event("a", 0, 8) };
    assert_eq!(append(&log, "a", Any, vec![other.clone()]).unwrap(), first);
    assert_eq!(append(&log, "b", NoStream, vec![other]).unwrap(), first);
    assert_eq!(log.streams().unwrap(), [(experiment("a"), 1)]);
}

/// Expected versions are checked.
pub fn expected_versions_are_checked(log: impl EventLog) {
    let wrong =
        |expected, actual| Err(LogError::WrongVersion { experiment: experiment("a"), expected, actual });
    assert_eq!(append(&log, "a", Exact(1), events("a", 0..1)), wrong(Exact(1), 0));
    append(&log, "a", NoStream, events("a", 0..2)).unwrap();
    assert_eq!(append(&log, "a", NoStream, events("a", 2..3)), wrong(NoStream, 2));
    assert_eq!(append(&log, "a", Exact(1), events("a", 2..3)), wrong(Exact(1), 2));
    append(&log, "a", Exact(2), events("a", 2..3)).unwrap();
    append(&log, "b", Exact(0), events("b", 0..1)).unwrap();
    assert_eq!(log.head(), 4);
}

/// A known append succeeds with any expected version.
pub fn a_known_append_succeeds_with_any_expected_version(log: impl EventLog) {
    let first = append(&log, "a", NoStream, events("a", 0..2)).unwrap();
    assert_eq!(append(&log, "a", NoStream, events("a", 0..2)).unwrap(), first);
    assert_eq!(append(&log, "a", Exact(77), events("a", 0..2)).unwrap(), first);
}

/// A rejected append adds nothing.
pub fn a_rejected_append_adds_nothing(log: impl EventLog) {
    append(&log, "a", Any, events("a", 0..1)).unwrap();
    append(&log, "a", NoStream, events("a", 1..5)).unwrap_err();
    assert_eq!(log.head(), 1);
    assert_eq!(log.find(event("a", 1, 0).id).unwrap(), None);
    let next = append(&log, "a", Exact(1), events("a", 1..2)).unwrap();
    assert_eq!(places(&next), [(2, "a", 2)]);
}

/// An empty append returns no events.
pub fn an_empty_append_returns_no_events(log: impl EventLog) {
    assert_eq!(append(&log, "a", Exact(9), vec![]).unwrap(), []);
    assert_eq!((log.head(), log.streams().unwrap()), (0, vec![]));
}

/// Reads respect their limits.
pub fn reads_respect_their_limits(log: impl EventLog) {
    for n in 0..10 {
        append(&log, if n % 2 == 0 { "even" } else { "odd" }, Any, events("x", n..n + 1)).unwrap();
    }
    let positions =
        |after, limit| -> Vec<u64> { log.read(after, limit).unwrap().iter().map(|r| r.position).collect() };
    assert_eq!(positions(0, 3), [1, 2, 3]);
    assert_eq!(positions(8, 5), [9, 10]);
    assert_eq!(positions(0, usize::MAX).len(), 10);
    for (after, limit) in [(0, 0), (10, 1), (11, 1), (u64::MAX, usize::MAX)] {
        assert!(positions(after, limit).is_empty());
    }
    let odd = |after, limit| log.read_stream(&experiment("odd"), after, limit).unwrap();
    assert_eq!(places(&odd(1, 2)), [(4, "odd", 2), (6, "odd", 3)]);
    assert_eq!(odd(0, usize::MAX).len(), 5);
    for (after, limit) in [(0, 0), (5, 1), (u64::MAX, usize::MAX)] {
        assert!(odd(after, limit).is_empty());
    }
    assert_eq!(log.read_stream(&experiment("od"), 0, 9).unwrap(), []);
    assert_eq!(log.find(event("x", 3, 0).id).unwrap(), Some(odd(1, 1)[0].clone()));
}

/// Streams are listed by name.
pub fn streams_are_listed_by_name(log: impl EventLog) {
    for name in ["b", "a", "a-1", "ab", "a.x", "A", "a"] {
        let n = u32::try_from(log.head()).unwrap();
        append(&log, name, Any, events("x", n..n + 1)).unwrap();
    }
    let streams = log.streams().unwrap();
    let listed: Vec<_> = streams.iter().map(|(name, version)| (name.as_str(), *version)).collect();
    assert_eq!(listed, [("A", 1), ("a", 2), ("a-1", 1), ("a.x", 1), ("ab", 1), ("b", 1)]);
}

/// Bodies of all sizes are read back.
pub fn bodies_of_all_sizes_are_read_back(log: impl EventLog) {
    let sizes = [0, 1, 600, 7300, 7400, 7491, 7500, 14_982, 40_000, 300_000, 3 << 20];
    let sent: Vec<_> = (0..).zip(sizes).map(|(n, bytes)| event("a", n, bytes)).collect();
    let recorded = append(&log, "a", Any, sent.clone()).unwrap();
    let back = log.read(0, 100).unwrap();
    assert_eq!(back, recorded);
    assert_eq!(back.into_iter().map(|r| r.event).collect::<Vec<_>>(), sent);
    for event in sent {
        assert_eq!(log.find(event.id).unwrap().unwrap().event, event);
    }
}

/// Oversized appends are rejected.
pub fn oversized_appends_are_rejected(log: impl EventLog) {
    let invalid = |events| {
        let error = append(&log, "a", Any, events).unwrap_err();
        assert!(matches!(error, LogError::OutOfRange { .. }), "{error}");
    };
    invalid(vec![event("a", 0, crate::BODY_BYTES_MAX + 1)]);
    invalid(vec![NewEvent { actor: "x".repeat(70_000), ..event("a", 0, 1) }]);
    invalid(vec![event("a", 0, 0); crate::APPEND_EVENTS_MAX + 1]);
    assert_eq!(log.head(), 0);
}

/// Cursors are replaced and bounded.
pub fn cursors_are_replaced_and_bounded(log: impl EventLog) {
    assert_eq!(log.load_cursor("group").unwrap(), None);
    log.store_cursor("group", vec![1]).unwrap();
    log.store_cursor("group", vec![2; crate::CURSOR_BYTES_MAX]).unwrap();
    log.store_cursor("other", vec![]).unwrap();
    log.flush().unwrap();
    assert_eq!(log.load_cursor("group").unwrap(), Some(vec![2; crate::CURSOR_BYTES_MAX]));
    assert_eq!(log.load_cursor("other").unwrap(), Some(vec![]));
    log.store_cursor("group", vec![2; crate::CURSOR_BYTES_MAX + 1]).unwrap_err();
    log.store_cursor("", vec![]).unwrap_err();
    assert_eq!(log.load_cursor("group").unwrap(), Some(vec![2; crate::CURSOR_BYTES_MAX]));
}

/// Listeners see every position rise.
pub fn listeners_see_every_position_rise(log: impl EventLog) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    log.on_advance(Box::new(move |head| sink.lock().unwrap().push(head)));
    append(&log, "a", Any, events("a", 0..3)).unwrap();
    append(&log, "a", Any, events("a", 0..3)).unwrap();
    append(&log, "a", Any, events("a", 3..4)).unwrap();
    log.flush().unwrap();
    assert_eq!(*seen.lock().unwrap(), [3, 4]);
}

/// Appends of many threads keep each thread's order.
pub fn appends_of_many_threads_keep_each_threads_order(log: impl EventLog) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                let name = format!("t{thread}");
                let sent: Vec<_> = (0..40)
                    .map(|n| {
                        let append = Append {
                            experiment: experiment(&name),
                            expected: Exact(u64::from(n)),
                            events: vec![event(&name, n, 16)],
                        };
                        log.append(append)
                    })
                    .collect();
                for (version, answer) in (1..).zip(sent) {
                    assert_eq!(wait(answer).unwrap()[0].version, version);
                }
            });
        }
    });
    let all = log.read(0, 1000).unwrap();
    assert!(all.iter().map(|r| r.position).eq(1..=320));
    for thread in 0..8 {
        let stream = log.read_stream(&experiment(&format!("t{thread}")), 0, 1000).unwrap();
        assert!(stream.iter().map(|r| r.version).eq(1..=40));
        assert!(stream.is_sorted_by_key(|r| r.position));
    }
}

/// A dropped future does not take the append back.
pub fn a_dropped_future_does_not_take_the_append_back(log: impl EventLog) {
    drop(log.append(Append { experiment: experiment("a"), expected: Any, events: events("a", 0..2) }));
    log.flush().unwrap();
    assert_eq!(log.head(), 2);
}
