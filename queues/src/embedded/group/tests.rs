use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::{EventId, EventType, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use tokio::time::Instant;

use super::{Group, NextDelivery, Rules};
use crate::backoff::Backoff;
use crate::delivery::Outcome;
use crate::embedded::page::Page;
use crate::embedded::record::{OPEN_MAX, OpenNote, Record};

const PAGE: usize = 256;

fn rules(delivery_limit: u32) -> Rules {
    Rules {
        experiment: None,
        kinds: &[EventType::RoundOpened],
        delivery_limit,
        retry_delay: Backoff::new(Duration::from_secs(1), Duration::from_secs(10)),
    }
}

fn event(position: u64) -> Arc<Recorded> {
    let experiment = ExperimentId::new("x").unwrap();
    let event = NewEvent {
        id: EventId::of_experiment(&experiment).caused("x", u32::try_from(position).unwrap()),
        causation: None,
        actor: "test".to_owned(),
        time_us: 0,
        event_type: EventType::RoundOpened.name().to_owned(),
        schema_version: 1,
        body: Vec::new(),
    };
    Arc::new(Recorded { position, experiment, version: position, event })
}

fn page(positions: std::ops::RangeInclusive<u64>) -> Page {
    let (after, to) = (positions.start() - 1, *positions.end());
    Page { experiment: None, after, to, events: positions.map(event).collect() }
}

/// Returns a running group with `events` read, and its only member.
fn running(delivery_limit: u32, prefetch: usize, events: u64) -> (Group, u64) {
    let mut group = Group::new("g".to_owned(), rules(delivery_limit), None, PAGE);
    let member = group.join(&rules(delivery_limit), prefetch).unwrap();
    group.resume(Record::default(), &BTreeMap::new());
    group.feed(&page(1..=events));
    (group, member)
}

fn taken(group: &mut Group, member: u64, now: Instant) -> Option<(u64, u32)> {
    match group.take(member, now, None) {
        NextDelivery::Deliver { event, attempt, .. } => Some((event.position, attempt)),
        NextDelivery::Wait { .. } | NextDelivery::Ended => None,
    }
}

#[test]
fn overlapping_pages_are_read_once_and_pages_after_a_gap_are_ignored() {
    let (mut group, member) = running(3, 128, 10);
    group.feed(&page(12..=20));
    group.feed(&page(5..=11));
    let now = Instant::now();
    let positions: Vec<u64> = std::iter::from_fn(|| taken(&mut group, member, now)).map(|(p, _)| p).collect();
    assert_eq!(positions, (1..=11).collect::<Vec<_>>());
}

#[test]
fn unfinished_messages_are_limited_to_what_a_record_holds() {
    let (mut group, member) = running(3, 1, PAGE as u64);
    let now = Instant::now();
    group.join(&rules(3), 1).unwrap();
    for begun in 1..=OPEN_MAX as u64 {
        if begun == PAGE as u64 / 2 + 2 {
            group.feed(&page(PAGE as u64 + 1..=2 * PAGE as u64));
        }
        assert_eq!(taken(&mut group, member, now), Some((begun, 1)));
        group.settle(begun, member, Outcome::Failed { reason: "no".to_owned() }, now).unwrap();
    }
    assert_eq!(taken(&mut group, member, now), None, "there are fresh messages, but no room");
    let later = now + Duration::from_secs(1);
    assert_eq!(taken(&mut group, member, later), Some((1, 2)), "unfinished messages are retried");
    group.settle(1, member, Outcome::Done, later).unwrap();
    for again in 2..=OPEN_MAX as u64 {
        assert_eq!(taken(&mut group, member, later), Some((again, 2)));
        group.settle(again, member, Outcome::Failed { reason: "no".to_owned() }, later).unwrap();
    }
    assert_eq!(taken(&mut group, member, later), Some((OPEN_MAX as u64 + 1, 1)), "one place is free");
}

#[test]
fn the_record_names_unfinished_messages_only() {
    let (mut group, member) = running(3, 8, 6);
    let now = Instant::now();
    for _ in 0..5 {
        taken(&mut group, member, now);
    }
    group.settle(1, member, Outcome::Done, now).unwrap();
    group.settle(3, member, Outcome::Done, now).unwrap();
    group.settle(4, member, Outcome::Released, now).unwrap();
    group.settle(5, member, Outcome::Failed { reason: "no".to_owned() }, now).unwrap();
    let record = group.changed_record().unwrap();
    assert_eq!(record.done_to, 5);
    let open = [(2, 0), (4, 0), (5, 1)].map(|(position, failures)| OpenNote { position, failures });
    assert_eq!(record.open, open, "only the one that failed has a failure");
    assert!(group.changed_record().is_none(), "nothing changed since");
    assert_eq!(group.status().checkpoint, 1);
}

/// Returns a group that a new process resumes from `record`, and its only member.
fn resumed(delivery_limit: u32, record: Record) -> (Group, u64) {
    let known = (1..=record.done_to).map(|position| (position, event(position))).collect();
    let mut group = Group::new("g".to_owned(), rules(delivery_limit), Some(record.clone()), PAGE);
    let member = group.join(&rules(delivery_limit), 8).unwrap();
    group.resume(record, &known);
    (group, member)
}

#[test]
fn crashes_never_count_as_failures() {
    let mut record = Record::default();
    for life in 0..100 {
        let (mut group, member) = resumed(1, record.clone());
        group.feed(&page(1..=2));
        for position in 1..=2 {
            let NextDelivery::Deliver { event, attempt, redelivered } =
                group.take(member, Instant::now(), None)
            else {
                panic!("event {position} is not delivered in life {life}");
            };
            assert_eq!((event.position, attempt, redelivered), (position, 1, life > 0));
        }
        record = group.changed_record().unwrap_or(record);
    }
    assert!(record.parked.is_empty());
}

#[test]
fn failures_count_across_crashes_up_to_exactly_the_limit() {
    let mut record = Record::default();
    let now = Instant::now();
    for failures in 1..=3 {
        let (mut group, member) = resumed(3, record);
        group.feed(&page(1..=2));
        assert_eq!(taken(&mut group, member, now), Some((1, failures)));
        assert_eq!(
            taken(&mut group, member, now),
            Some((2, 1)),
            "it never failed, and was unsettled at every crash"
        );
        group.settle(1, member, Outcome::Failed { reason: format!("failure {failures}") }, now).unwrap();
        record = group.changed_record().unwrap();
    }
    let (mut group, member) = resumed(3, record);
    assert_eq!(taken(&mut group, member, now), Some((2, 1)));
    assert_eq!(taken(&mut group, member, now), None, "the other is not delivered a fourth time");
    let parked = group.take_parked(&ExperimentId::new("x").unwrap()).unwrap();
    assert_eq!((parked.event.position, parked.attempts, parked.reason.as_str()), (1, 3, "failure 3"));
}

#[test]
fn a_lowered_limit_parks_at_the_next_start() {
    let open = vec![OpenNote { position: 1, failures: 2 }];
    let (mut group, member) = resumed(2, Record { done_to: 1, open, parked: Vec::new() });
    assert_eq!(taken(&mut group, member, Instant::now()), None);
    assert_eq!(group.take_parked(&ExperimentId::new("x").unwrap()).unwrap().attempts, 2);
}

#[test]
fn closing_before_resuming_leaves_the_record_unchanged() {
    let record = Record { done_to: 7, ..Record::default() };
    let mut group = Group::new("g".to_owned(), rules(3), Some(record), PAGE);
    group.close();
    assert!(group.changed_record().is_none());
}

#[test]
fn a_closed_group_wakes_the_io_thread_when_its_last_delivery_is_settled() {
    let (mut group, member) = running(3, 1, 1);
    let now = Instant::now();
    taken(&mut group, member, now);
    group.close();
    group.effects();
    assert!(group.is_dirty(), "a store is already due");
    group.settle(1, member, Outcome::Released, now).unwrap();
    assert!(group.effects().io_thread);
}
