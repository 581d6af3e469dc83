//! A process that is killed at any moment loses nothing that it was told is durable.
#![expect(clippy::unwrap_used, reason = "a test: failing is a panic")]

#[path = "../../tests/support/random.rs"]
mod random;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use dissent_domain::event::{EventId, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_storage::{SledLog, SledOptions, wait};
use random::Random;

const DIRECTORY: &str = "DISSENT_KILL_TEST_DIRECTORY";
const KILLS: u64 = 40;
/// Appends under way at once in the child.
const IN_FLIGHT: usize = 40;

fn event(n: u32) -> NewEvent {
    let root = EventId::of_experiment(&ExperimentId::new("kill").unwrap());
    // Now and then a body of several parts, and one too large for the copy in the tail file.
    let bytes = match n % 97 {
        0 => 400_000,
        1..=5 => 20_000,
        small => small as usize * 8,
    };
    NewEvent {
        id: root.caused("kill.event", n),
        causation: None,
        actor: "test".to_owned(),
        time_us: u64::from(n),
        event_type: "kill.event".to_owned(),
        schema_version: 1,
        body: vec![n.to_le_bytes()[0]; bytes],
    }
}

/// Runs of ids so short that some kills come while one is written.
fn options() -> SledOptions {
    SledOptions { run_events: 100, ..SledOptions::default() }
}

/// Appends for ever from where the log ends, and prints `position number` of each acknowledged event.
#[test]
fn child_that_will_be_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        println!("skipped: it is the other half of the test beside it");
        return;
    };
    let log = SledLog::open(dir, &options()).unwrap();
    let mut next = u32::try_from(log.head()).unwrap();
    let mut under_way = std::collections::VecDeque::new();
    let mut out = std::io::stdout().lock();
    loop {
        while under_way.len() < IN_FLIGHT {
            let append = Append {
                experiment: ExperimentId::new(format!("kill-{}", next % 3)).unwrap(),
                expected: ExpectedVersion::Any,
                events: vec![event(next)],
            };
            under_way.push_back(log.append(append));
            next += 1;
        }
        let recorded = wait(under_way.pop_front().unwrap()).unwrap().remove(0);
        log.store_cursor("kill", recorded.position.to_le_bytes().to_vec()).unwrap();
        writeln!(out, "acknowledged {} {}", recorded.position, recorded.event.time_us).unwrap();
        out.flush().unwrap();
    }
}

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

/// Lets the child acknowledge `count` events and kills it while it writes on; returns all it acknowledged.
fn run_and_kill(dir: &Path, count: usize) -> Vec<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_will_be_killed", "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The harness prints lines of its own; what was cut by the kill was never acknowledged.
        let mut words = line.split_whitespace().skip_while(|word| *word != "acknowledged").skip(1);
        if let (Some(position), Some(n)) = (words.next(), words.next())
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
        assert!(ids.insert(recorded.event.id), "kill {kill}: event {position} is there twice");
        // The child numbers events in the order in which it hands them over.
        assert_eq!(recorded.event.time_us + 1, position, "kill {kill}: the order is another");
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
