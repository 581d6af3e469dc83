//! A process that is killed at any moment loses no acknowledged event.
#![expect(clippy::unwrap_used, reason = "a test: failing is a panic")]

mod events;
#[path = "../../../tests/support/random.rs"]
mod random;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use dissent_domain::log::EventLog;
use dissent_storage::SledLog;
use events::{event, options};
use random::Random;

const KILLS: u64 = 40;

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(u64, u64)> = Vec::new();
    let mut random = Random::new(0x5eed);
    for kill in 0..KILLS {
        acknowledged.extend(run_and_kill(dir.path(), random.below(128)));
        let log = SledLog::open(dir.path(), &options())
            .unwrap_or_else(|error| panic!("after kill {kill}: {error}"));
        assert!(log.head() >= acknowledged.last().map_or(0, |last| last.0), "kill {kill}");
        if kill % 10 == 9 {
            check(&log, &acknowledged, kill);
        }
    }
    println!("{} events acknowledged over {KILLS} kills, none lost", acknowledged.len());
}

/// Runs the child until it has acknowledged `count` events, and kills it while it continues to write. Returns
/// all events that it acknowledged.
fn run_and_kill(dir: &Path, count: usize) -> Vec<(u64, u64)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_append_until_killed"))
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // A line that the kill truncated was never acknowledged.
        let mut words = line.split(' ');
        if let (Some(position), Some(n), Some(".")) = (words.next(), words.next(), words.next())
            && let (Ok(position), Ok(n)) = (position.parse(), n.parse())
        {
            seen.push((position, n));
        }
        if seen.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    seen
}

fn check(log: &SledLog, acknowledged: &[(u64, u64)], kill: u64) {
    let all = log.read(0, usize::MAX).unwrap();
    let mut ids = HashSet::new();
    for (position, recorded) in (1..).zip(&all) {
        assert_eq!(recorded.position, position, "kill {kill}");
        assert!(ids.insert(recorded.event.id), "kill {kill}: event {position} exists twice");
        // The child numbers events in append order.
        assert_eq!(recorded.event.time_us + 1, position, "kill {kill}: the order differs");
        assert_eq!(recorded.event, event(u32::try_from(position - 1).unwrap()), "kill {kill}");
    }
    for (position, n) in acknowledged {
        let index = usize::try_from(position - 1).unwrap();
        assert_eq!(all.get(index).map(|r| r.event.time_us), Some(*n), "kill {kill}: lost or moved");
    }
    let cursor = log.load_cursor("kill").unwrap();
    let cursor = cursor.map_or(0, |record| u64::from_le_bytes(record.try_into().unwrap()));
    assert!(cursor <= log.head(), "kill {kill}: a cursor ran ahead of the log");
    assert_eq!(log.verify().unwrap().findings, [], "kill {kill}");
}
