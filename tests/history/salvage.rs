//! `dissent log export --salvage` on a damaged log.

use std::collections::BTreeMap;

use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::log::EventLog;

use crate::support::random::Random;

use super::histories::{DataFolders, in_order, learning_plan, learnt, measured, plan, utf8};

const SEEDS: u64 = 8;

/// Returns the events of each stream, in order.
fn streams(events: &[Recorded]) -> BTreeMap<&str, Vec<&NewEvent>> {
    let mut streams: BTreeMap<&str, Vec<&NewEvent>> = BTreeMap::new();
    for recorded in events {
        streams.entry(recorded.experiment.as_str()).or_default().push(&recorded.event);
    }
    streams
}

#[test]
fn salvage_exports_the_sound_events_of_a_log_with_a_flipped_bit() {
    let folders = DataFolders::new();
    let measured = measured(plan("measured"), &in_order(), 0.0);
    let learnt = learnt(learning_plan("learnt"));
    folders.append("whole", &measured.recorded);
    folders.append("whole", &learnt.recorded);
    let all = folders.log("whole").read(0, usize::MAX).unwrap();
    let database = std::fs::read(folders.path("whole").join("log/db")).unwrap();
    let mut lost_some = 0;
    for seed in 0..SEEDS {
        let (data, mut random) = (format!("damaged {seed}"), Random::new(seed));
        let mut copy = std::process::Command::new("cp");
        copy.arg("-r").arg(folders.path("whole")).arg(folders.path(&data));
        assert!(copy.status().unwrap().success());
        let mut damaged = database.clone();
        // Within the events, not in the preallocated space after them.
        let used = damaged.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let at = random.below(used);
        damaged[at] ^= 1 << random.below(8);
        std::fs::write(folders.path(&data).join("log/db"), &damaged).unwrap();

        let saved = folders.path(&format!("{seed}.jsonl"));
        folders.output(&data, &["log", "export", "--salvage", "--output", utf8(&saved)], 0);
        let again = format!("again {seed}");
        folders.output(&again, &["log", "import", utf8(&saved)], 0);
        let kept = folders.log(&again).read(0, usize::MAX).unwrap();
        let (before, after) = (streams(&all), streams(&kept));
        for (experiment, events) in &after {
            assert!(before[experiment].starts_with(events), "seed {seed}: {experiment} changed");
        }
        lost_some += u32::from(kept.len() < all.len());
        assert!(!kept.is_empty(), "seed {seed}: no event was salvaged");
    }
    assert!(lost_some > 0, "no flip damaged an event");
}
