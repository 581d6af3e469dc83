//! `dissent log export --salvage` on a damaged log.

use std::collections::BTreeMap;

use dissent_domain::event::{NewEvent, Recorded};
use dissent_domain::log::EventLog;

use crate::support::random::Random;

use super::made::{Shelf, in_order, learning_plan, learnt, measured, plan, utf8};

const SEEDS: u64 = 8;

/// The events of each stream, in order.
fn streams(events: &[Recorded]) -> BTreeMap<&str, Vec<&NewEvent>> {
    let mut streams: BTreeMap<&str, Vec<&NewEvent>> = BTreeMap::new();
    for recorded in events {
        streams.entry(recorded.experiment.as_str()).or_default().push(&recorded.event);
    }
    streams
}

#[test]
fn salvage_exports_the_sound_events_of_a_log_with_a_flipped_bit() {
    let shelf = Shelf::new();
    let measured = measured(plan("measured"), &in_order(), 0.0);
    let learnt = learnt(learning_plan("learnt"));
    shelf.keep("whole", &measured.recorded);
    shelf.keep("whole", &learnt.recorded);
    let all = shelf.log("whole").read(0, usize::MAX).unwrap();
    let database = std::fs::read(shelf.path("whole").join("log/db")).unwrap();
    let mut lost_some = 0;
    for seed in 0..SEEDS {
        let (data, mut random) = (format!("damaged {seed}"), Random::new(seed));
        let mut copy = std::process::Command::new("cp");
        copy.arg("-r").arg(shelf.path("whole")).arg(shelf.path(&data));
        assert!(copy.status().unwrap().success());
        let mut damaged = database.clone();
        // Within the events, not in the preallocated space after them.
        let used = damaged.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let at = random.below(used);
        damaged[at] ^= 1 << random.below(8);
        std::fs::write(shelf.path(&data).join("log/db"), &damaged).unwrap();

        let saved = shelf.path(&format!("{seed}.jsonl"));
        shelf.says(&data, &["log", "export", "--salvage", "--output", utf8(&saved)], 0);
        let again = format!("again {seed}");
        shelf.says(&again, &["log", "import", utf8(&saved)], 0);
        let kept = shelf.log(&again).read(0, usize::MAX).unwrap();
        let (before, after) = (streams(&all), streams(&kept));
        for (experiment, events) in &after {
            assert!(before[experiment].starts_with(events), "seed {seed}: {experiment} is not as it was");
        }
        lost_some += u32::from(kept.len() < all.len());
        assert!(!kept.is_empty(), "seed {seed}: nothing was saved");
    }
    assert!(lost_some > 0, "no flip did any damage");
}
