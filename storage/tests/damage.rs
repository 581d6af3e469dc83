//! Damage anywhere in a log's files: it is found and named, or the log reads exactly as before. An export
//! salvages the sound events, and an import restores them.
//!
//! `DISSENT_DAMAGE_TRIALS` (100) is the number of trials, `DISSENT_DAMAGE_SEED` (1) the first seed.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../../tests/support/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use dissent_domain::event::{EventId, NewEvent, PromptAdmitted, Recorded};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::{Append, EventLog, ExpectedVersion, LogError};
use dissent_domain::prompt::Prompt;
use dissent_storage::{Salvage, SledLog, SledOptions, transfer, wait};
use random::Random;
use tempfile::TempDir;

const EVENTS: u32 = 700;
/// Limit of a trial; a longer one hangs.
const TRIAL_MAX: Duration = Duration::from_secs(120);

/// Returns a length up to `limit`, roughly log-uniform.
fn length_below(limit: usize, random: &mut Random) -> usize {
    let bits = random.below(20);
    1 + random.below((1 << bits).min(limit.max(1)))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn open(dir: &Path) -> Result<SledLog, LogError> {
    // Some ids are in the tree, some in memory only.
    SledLog::open(dir, &SledOptions { run_events: 150, ..SledOptions::default() })
}

fn experiment(n: u32) -> ExperimentId {
    ExperimentId::new(if n.is_multiple_of(3) { "b" } else { "a" }).unwrap()
}

fn append(log: &SledLog, n: u32) {
    let experiment = experiment(n);
    let bytes = if n.is_multiple_of(97) { 30_000 } else { 40 + n as usize % 900 };
    let mut random = Random::new(n.into());
    let text = (0..bytes).map(|_| char::from(b'a' + u8::try_from(random.below(26)).unwrap())).collect();
    let prompt = Prompt {
        prompt_id: PromptId::new(format!("p{n}")).unwrap(),
        text,
        category: None,
        messages: Vec::new(),
    };
    let admitted = PromptAdmitted { round: 0, index: n, prompt };
    let cause = EventId::of_experiment(&experiment);
    let id = cause.caused("prompt.admitted", n);
    let event =
        NewEvent::new(id, Some(cause), "test", 1_700_000_000_000_000 + u64::from(n), &admitted.into());
    let append = Append { experiment, expected: ExpectedVersion::Any, events: vec![event.unwrap()] };
    let appended = log.append(append);
    // Most share a commit with others; the test waits for the end of each hundred.
    if n % 100 >= 95 {
        wait(appended).unwrap();
    }
}

/// The files of a log at one time of its life, and its content then.
struct Image {
    name: &'static str,
    dir: TempDir,
    events: Vec<Recorded>,
    cursors: BTreeMap<&'static str, Vec<u8>>,
}

fn image(name: &'static str, log: &SledLog, cursors: &BTreeMap<&'static str, Vec<u8>>) -> Image {
    let dir = tempfile::tempdir().unwrap();
    copy_files(log.dir(), dir.path());
    Image { name, dir, events: log.read(0, usize::MAX).unwrap(), cursors: cursors.clone() }
}

/// Returns three images of a log: killed before its first close, closed, and killed after it was opened
/// again. In the last one sled has a snapshot.
fn images() -> Vec<Image> {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let cursors: BTreeMap<_, _> = [("g", vec![7; 40]), ("h", vec![1; 300])].into();
    let mut images = Vec::new();
    for n in 0..EVENTS {
        append(&log, n);
        if n == 300 {
            for (name, record) in &cursors {
                log.store_cursor(name, record.clone()).unwrap();
            }
        }
        if n == EVENTS / 2 {
            log.flush().unwrap();
            images.push(image("killed in its first life", &log, &cursors));
            log.close().unwrap();
            images.push(image("closed", &log, &cursors));
            drop(log);
            log = open(dir.path()).unwrap();
        }
    }
    log.flush().unwrap();
    images.push(image("killed in its second life", &log, &cursors));
    images
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Any file: large and small ones are equally likely.
fn any_file(dir: &Path, random: &mut Random) -> PathBuf {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file() && !path.ends_with("lock")).collect();
    files.sort();
    let db = dir.join("db");
    if random.below(2) == 0 { db } else { files.swap_remove(random.below(files.len())) }
}

/// Damages one file; returns a description.
fn damage(dir: &Path, random: &mut Random) -> String {
    let path = any_file(dir, random);
    let file = path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len();
    let what = if length == 0 { 0 } else { random.below(12) };
    // Mostly where data lies: files are allocated before they are filled.
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
    let at = random.below(used.max(1));
    let count = length_below(length - at.min(length), random).min(length - at.min(length));
    let how = match what {
        0 => {
            fs::remove_file(&path).unwrap();
            return format!("{file} removed");
        }
        1..=4 => {
            bytes[at] ^= 1 << random.below(8);
            format!("a bit of byte {at} flipped")
        }
        5 => {
            bytes[at..at + count].iter_mut().for_each(|byte| *byte ^= 0xa5);
            format!("{count} bytes from {at} flipped")
        }
        6 | 7 => {
            bytes[at..at + count].fill(0);
            format!("{count} bytes from {at} zeroed")
        }
        8 => {
            bytes[at..].fill(0);
            format!("zeroed from {at}")
        }
        9 => {
            bytes.truncate(at);
            format!("truncated to {at}")
        }
        10 => {
            bytes.drain(at..at + count);
            format!("{count} bytes from {at} cut out")
        }
        _ => {
            let from = random.below(used);
            let count = count.min(length - from);
            bytes.copy_within(from..from + count, at);
            format!("{count} bytes from {from} written to {at}")
        }
    };
    fs::write(&path, &bytes).unwrap();
    format!("{file} of {length} bytes: {how}")
}

/// The effect of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    FoundAtOpen,
    FoundByVerify,
}

/// Opens and checks a damaged log. It panics if damage is silent.
fn outcome(image: &Image, dir: &Path) -> Outcome {
    let log = match open(dir) {
        Err(LogError::Corrupt { reason: what, .. }) => {
            assert!(what.contains(dir.to_str().unwrap()), "no folder in the error: {what}");
            return Outcome::FoundAtOpen;
        }
        Err(error) => panic!("no damage in the error: {error}"),
        Ok(log) => log,
    };
    let report = match log.verify() {
        Err(LogError::Corrupt { .. }) => return Outcome::FoundByVerify,
        verified => verified.unwrap(),
    };
    if !report.is_sound() {
        return Outcome::FoundByVerify;
    }
    assert!(log.read(0, usize::MAX).unwrap() == image.events, "the events differ from before");
    for (stream, versions) in log.streams().unwrap() {
        let of_stream: Vec<_> = image.events.iter().filter(|e| e.experiment == stream).cloned().collect();
        assert_eq!(versions, of_stream.len() as u64);
        assert!(log.read_stream(&stream, 0, usize::MAX).unwrap() == of_stream, "{stream} reads otherwise");
    }
    for recorded in &image.events {
        assert!(
            log.find(recorded.event.id).unwrap().as_ref() == Some(recorded),
            "an id leads to another event"
        );
    }
    for (name, record) in &image.cursors {
        // A lost cursor restarts its subscription, which is harmless. A wrong one would skip events.
        let cursor = log.load_cursor(name).unwrap();
        assert!(cursor.as_ref().is_none_or(|cursor| cursor == record), "the cursor {name} is {cursor:?}");
    }
    Outcome::Harmless
}

/// Salvages the sound events and restores them into a new log; returns their number.
fn rescued(image: &Image, dir: &Path) -> usize {
    let salvage = match Salvage::of(dir) {
        Err(LogError::Corrupt { .. }) => return 0,
        salvage => salvage.unwrap(),
    };
    let work = tempfile::tempdir().unwrap();
    let export = work.path().join("saved.jsonl");
    let saved = transfer::export_salvage_to(&salvage, &export).unwrap();
    let whole = saved == image.events.len() as u64;
    assert!(whole || !salvage.lost().is_empty(), "{saved} events saved, and no finding for the others");
    drop(salvage);
    let restored = open(&work.path().join("log")).unwrap();
    assert_eq!(transfer::import(&restored, &export).unwrap().added, saved);
    assert!(restored.verify().unwrap().is_sound());
    let mut total = 0;
    for (stream, versions) in restored.streams().unwrap() {
        let events = restored.read_stream(&stream, 0, usize::MAX).unwrap();
        assert_eq!(events.len() as u64, versions);
        let before = image.events.iter().filter(|e| e.experiment == stream);
        for (restored, before) in events.iter().zip(before) {
            assert_eq!((restored.version, &restored.event), (before.version, &before.event));
        }
        total += events.len();
    }
    assert_eq!(total as u64, saved);
    total
}

struct Trial {
    how: String,
    outcome: Outcome,
    /// Share of the events that were salvaged, where damage was found.
    saved: Option<f64>,
}

fn trial(image: &Image, seed: u64) -> Trial {
    let mut random = Random::new(seed);
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("log");
    fs::create_dir(&dir).unwrap();
    copy_files(image.dir.path(), &dir);
    let how = format!("{}, {}", image.name, damage(&dir, &mut random));
    println!("seed {seed}: {how}");
    let outcome = outcome(image, &dir);
    let found = outcome != Outcome::Harmless;
    let saved = found.then(|| rescued(image, &dir) as f64 / image.events.len() as f64);
    Trial { how, outcome, saved }
}

#[test]
fn damage_is_reported_or_harmless_and_intact_events_are_salvaged() {
    let (trials, first) = (number("DISSENT_DAMAGE_TRIALS", 100), number("DISSENT_DAMAGE_SEED", 1));
    let images = images();
    let (sender, results) = channel();
    // On a thread of its own, so that a hang is a named failure.
    let worker = std::thread::spawn(move || {
        for seed in first..first + trials {
            let image = &images[usize::try_from(seed % images.len() as u64).unwrap()];
            sender.send(trial(image, seed)).unwrap();
        }
    });
    let mut counts: BTreeMap<Outcome, u32> = BTreeMap::new();
    let (mut saved, mut nothing) = (Vec::new(), 0);
    for seed in first..first + trials {
        let again = format!("again: DISSENT_DAMAGE_TRIALS=1 DISSENT_DAMAGE_SEED={seed}");
        match results.recv_timeout(TRIAL_MAX) {
            Ok(trial) => {
                *counts.entry(trial.outcome).or_default() += 1;
                if let Some(share) = trial.saved {
                    saved.push(share);
                    if share == 0.0 {
                        nothing += 1;
                        println!("seed {seed}: no event saved: {}", trial.how);
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => panic!("seed {seed} hangs; {again}"),
            Err(RecvTimeoutError::Disconnected) => {
                worker.join().unwrap_or_else(|_| panic!("seed {seed} failed, see above; {again}"));
                unreachable!("the worker ends after its last trial");
            }
        }
    }
    let mean = saved.iter().sum::<f64>() / saved.len().max(1) as f64;
    println!(
        "{trials} trials: {counts:?}; where damage was found, {mean:.3} of the events salvaged, none {nothing} times"
    );
}
