//! Damage, inside records and to whole files: it is named or harmless, never silent.

use super::*;
use crate::random::Random;

const EVENTS: u32 = 1500;

/// Returns a log whose records and indices were tampered with, below its own checks.
fn tampered(tamper: impl FnOnce(&sled::Tree)) -> (SledLog, TempDir) {
    let (log, dir) = fresh();
    add(&log, 0..10);
    append(&log, "a", Any, vec![event("a", 10, 30_000)]).unwrap();
    tamper(&log.shared.reader.tree);
    (log, dir)
}

fn only_finding(log: &SledLog) -> (Option<u64>, String) {
    let report = log.verify().unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    (report.findings[0].position, report.findings[0].what.clone())
}

fn flip(tree: &sled::Tree, key: &[u8], byte: usize) {
    let mut value = tree.get(key).unwrap().unwrap().to_vec();
    value[byte] ^= 0x10;
    tree.insert(key, value).unwrap();
}

#[test]
fn a_flipped_byte_in_a_record_is_found_at_its_position() {
    for byte in [0, 1, 5, 9, 13, 40, 100, 600] {
        let (log, dir) = tampered(|tree| flip(tree, &keys::event(4, 0), byte));
        assert_eq!(only_finding(&log).0, Some(4));
        assert_eq!(log.verify().unwrap().sound_events, 10);
        assert_eq!(log.read(0, 3).unwrap().len(), 3);
        let error = log.read(0, 10).unwrap_err();
        assert!(matches!(&error, LogError::Corrupt { part: LogPart::Event(4), .. }), "{error:?}");
        log.read_stream(&experiment("a"), 0, 10).unwrap_err();
        log.find(event("a", 3, 0).id).unwrap_err();
        drop(log);
        assert_eq!(corrupt_part(open(dir.path())), LogPart::Event(4));
    }
}

#[test]
fn a_flipped_byte_in_a_later_part_of_a_record_is_found() {
    let (log, _dir) = tampered(|tree| flip(tree, &keys::event(11, 2), 5000));
    let (position, what) = only_finding(&log);
    assert!(position == Some(11) && what.contains("part 2"), "{what}");
}

#[test]
fn a_record_under_the_wrong_key_is_found() {
    let (log, _dir) = tampered(|tree| {
        let value = tree.get(keys::event(5, 0)).unwrap().unwrap();
        tree.insert(keys::event(6, 0), value).unwrap();
    });
    assert_eq!(only_finding(&log).0, Some(6));
}

#[test]
fn a_missing_record_is_found() {
    let (log, dir) = tampered(|tree| drop(tree.remove(keys::event(6, 0)).unwrap()));
    assert_eq!(only_finding(&log).0, Some(6));
    drop(log);
    assert_eq!(corrupt_part(open(dir.path())), LogPart::Event(6));
}

/// Changes the payload of a framed value.
fn rewrite(tree: &sled::Tree, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
    let value = tree.get(key).unwrap().unwrap();
    let mut payload = record::unframe(key, &value).unwrap().to_vec();
    change(&mut payload);
    tree.insert(key, record::frame(key, &payload)).unwrap();
}

/// The only chunk of the only run of ids.
const IDS: [u8; keys::NUMBERED_BYTES] = *b"x\0\0\0\0\0\0\x02\0\0\0";

/// As [`tampered`], with enough events for a run of ids.
fn long_tampered(tamper: impl FnOnce(&sled::Tree)) -> (SledLog, TempDir) {
    let (log, dir) = fresh();
    append(&log, "a", Any, (0..512).map(|n| event("a", n, 9)).collect()).unwrap();
    add(&log, 512..600);
    tamper(&log.shared.reader.tree);
    (log, dir)
}

#[test]
fn missing_surplus_and_wrong_entries_of_ids_are_found() {
    let (log, dir) = long_tampered(|tree| rewrite(tree, &IDS, |entries| drop(entries.drain(4 * 8..5 * 8))));
    let findings = log.verify().unwrap().findings;
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].position.is_some() && findings[1].what.contains("599 entries for 600 events"));
    drop(log);
    assert_eq!(corrupt_part(open(dir.path())), LogPart::IdIndex);

    let (log, dir) = long_tampered(|tree| rewrite(tree, &IDS, |entries| entries.extend([0xff; 8])));
    assert!(log.verify().unwrap().is_sound(), "an entry beyond the events is harmless");
    drop(log);
    assert_eq!(corrupt_part(open(dir.path())), LogPart::IdIndex);

    let (log, dir) = long_tampered(|tree| rewrite(tree, &IDS, |entries| entries[0] ^= 1));
    assert_eq!(log.verify().unwrap().findings.len(), 1);
    drop(log);
    assert!(corrupt_text(open(dir.path())).contains("missing from the id index"));
}

#[test]
fn missing_and_wrong_entries_of_streams_are_found() {
    let (stream, chunk) = (experiment("a"), keys::stream(&experiment("a"), 0));
    let (log, _dir) = tampered(|tree| rewrite(tree, &chunk, |positions| positions[2 * 8] = 9));
    assert_eq!(only_finding(&log).0, Some(3));
    log.read_stream(&stream, 0, 9).unwrap_err();

    let (log, dir) = tampered(|tree| rewrite(tree, &chunk, |positions| positions.truncate(10 * 8)));
    assert_eq!(log.verify().unwrap().findings[0].position, Some(11));
    drop(log);
    assert_eq!(corrupt_part(open(dir.path())), LogPart::Event(11));
}

#[test]
fn a_flipped_byte_in_an_index_is_found() {
    for key in [IDS.to_vec(), keys::stream(&experiment("a"), 0)] {
        let (log, dir) = long_tampered(|tree| flip(tree, &key, 20));
        assert!(!log.verify().unwrap().is_sound());
        drop(log);
        assert!(corrupt_text(open(dir.path())).contains("the checksum does not match"));
    }
}

#[test]
fn damage_to_a_block_is_found_at_exactly_its_events() {
    let (log, dir) = fresh();
    append(&log, "a", Any, (0..40).map(|n| event("a", n, 600)).collect()).unwrap();
    let starts: Vec<u64> = log
        .shared
        .reader
        .tree
        .scan_prefix(keys::EVENTS)
        .keys()
        .map(|key| keys::parse_event(&key.unwrap()).unwrap().0)
        .collect();
    assert!((4..=5).contains(&starts.len()), "{starts:?}");
    for removed in [false, true] {
        let image = crash_image(dir.path());
        let log = open(image.path()).unwrap();
        let (tree, block) = (&log.shared.reader.tree, keys::event(starts[1], 0));
        if removed {
            tree.remove(block).unwrap();
        } else {
            flip(tree, &block, 3000);
        }
        let lost: Vec<u64> =
            log.verify().unwrap().findings.iter().filter_map(|finding| finding.position).collect();
        assert_eq!(lost, (starts[1]..starts[2]).collect::<Vec<_>>());
        assert_eq!(log.read(0, usize::try_from(starts[1]).unwrap() - 1).unwrap().len() as u64, starts[1] - 1);
        assert_eq!(log.read(starts[2] - 1, 99).unwrap().len() as u64, 41 - starts[2]);
        log.read(starts[1], 1).unwrap_err();
        drop(log);
        assert_eq!(corrupt_part(open(image.path())), LogPart::Event(starts[1]));
    }
}

#[test]
fn damage_older_than_the_newest_events_is_found_by_a_full_check() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    let all: Vec<_> = (0..9000).map(|n| event("a", n, 10)).collect();
    append(&log, "a", Any, all).unwrap();
    flip(&log.shared.reader.tree, &keys::event(1, 0), 2000);
    drop(log);
    drop(open(dir.path()).unwrap());
    let options = SledOptions { check_all: true, ..options() };
    assert_eq!(corrupt_part(SledLog::open(dir.path(), &options)), LogPart::Event(1));
}

/// Opens damaged files. Returns whether the log opened; panics unless it has every event or the error names
/// damage.
fn survives(image: &Path, what: &str) -> bool {
    match open(image) {
        Err(LogError::Corrupt { .. }) => return false,
        Err(error) => panic!("{what}: {error}"),
        Ok(log) => match log.read(0, usize::MAX) {
            Err(LogError::Corrupt { .. }) => return false,
            Err(error) => panic!("{what}: {error}"),
            Ok(events) => {
                assert_eq!(events.len(), EVENTS as usize, "{what}: events are missing without an error");
                let report = log.verify().unwrap();
                if !report.is_sound() {
                    return false;
                }
                for (n, recorded) in (0..).zip(&events) {
                    assert_eq!(recorded.event, event("a", n, 600), "{what}");
                }
            }
        },
    }
    true
}

/// Returns the files of a log of [`EVENTS`] events, after a crash or after closing.
fn image(closed: bool) -> TempDir {
    let (mut log, dir) = fresh();
    for n in (0..EVENTS).step_by(50) {
        if n == EVENTS / 2 {
            // From its second start, sled keeps a snapshot beside its log.
            drop(log);
            log = open(dir.path()).unwrap();
        }
        append(&log, "a", Any, (n..n + 50).map(|n| event("a", n, 600)).collect()).unwrap();
    }
    if closed {
        drop(log);
    }
    crash_image(dir.path())
}

fn damaged_often(name: &str, closed: bool, damage: impl Fn(&mut Vec<u8>, &mut Random)) {
    let image = image(closed);
    let whole = std::fs::read(image.path().join("db")).unwrap();
    let mut random = Random::new(42);
    let mut whole_again = 0;
    for round in 0..12 {
        let case = tempfile::tempdir().unwrap();
        copy_files(image.path(), case.path());
        let mut bytes = whole.clone();
        damage(&mut bytes, &mut random);
        std::fs::write(case.path().join("db"), &bytes).unwrap();
        whole_again += u32::from(survives(case.path(), &format!("{name}, seed 42, round {round}")));
    }
    println!("{name}: {whole_again} of 12 were harmless");
}

fn truncate(bytes: &mut Vec<u8>, random: &mut Random) {
    let cut = 1 + random.below(bytes.len() - 1);
    bytes.truncate(bytes.len() - cut);
}

fn zero_page(bytes: &mut [u8], random: &mut Random) {
    let page = random.below(bytes.len() / 4096) * 4096;
    bytes[page..page + 4096].fill(0);
}

fn flip_byte(bytes: &mut [u8], random: &mut Random) {
    let at = random.below(bytes.len());
    bytes[at] ^= 1 << random.below(8);
}

fn zero_tail(bytes: &mut [u8], random: &mut Random) {
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    let from = used.saturating_sub(random.below(100_000));
    bytes[from..].fill(0);
}

#[test]
fn a_truncated_database_is_never_silent() {
    damaged_often("truncated after a crash", false, truncate);
    damaged_often("truncated after closing", true, truncate);
}

#[test]
fn a_zeroed_page_is_never_silent() {
    damaged_often("zeroed page after a crash", false, |bytes, random| zero_page(bytes, random));
    damaged_often("zeroed page after closing", true, |bytes, random| zero_page(bytes, random));
}

#[test]
fn a_zeroed_end_is_never_silent() {
    damaged_often("zeroed end after a crash", false, |bytes, random| zero_tail(bytes, random));
    damaged_often("zeroed end after closing", true, |bytes, random| zero_tail(bytes, random));
}

#[test]
fn a_flipped_bit_is_never_silent() {
    damaged_often("flipped bit after a crash", false, |bytes, random| flip_byte(bytes, random));
    damaged_often("flipped bit after closing", true, |bytes, random| flip_byte(bytes, random));
}

#[test]
fn damage_to_the_small_files_is_never_silent() {
    for closed in [false, true] {
        let image = image(closed);
        for entry in std::fs::read_dir(image.path()).unwrap() {
            let name = entry.unwrap().file_name();
            if name == "db" || image.path().join(&name).is_dir() {
                continue;
            }
            let whole = std::fs::read(image.path().join(&name)).unwrap();
            let flip = |at: usize| {
                let mut bytes = whole.clone();
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 4);
                Some(bytes)
            };
            let half = Some(whole[..whole.len() / 2].to_vec());
            let damages = [None, Some(vec![]), half, flip(0), flip(20), flip(whole.len() / 2)];
            for (round, damaged) in damages.into_iter().enumerate() {
                let case = tempfile::tempdir().unwrap();
                copy_files(image.path(), case.path());
                match damaged {
                    None => std::fs::remove_file(case.path().join(&name)).unwrap(),
                    Some(bytes) => std::fs::write(case.path().join(&name), bytes).unwrap(),
                }
                let harmless = survives(case.path(), &format!("{name:?}, round {round}"));
                println!("{name:?}, round {round}: {}", if harmless { "no harm" } else { "named" });
            }
        }
    }
}

#[test]
fn a_visitors_panic_is_not_reported_as_damage() {
    let (log, _dir) = fresh();
    add(&log, 0..3);
    let panic = catch_unwind(AssertUnwindSafe(|| log.scan_views(0, &mut |_| panic!("the visitor's own"))));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"the visitor's own"));
    assert_whole(&log, 3);
}
