//! The fault campaign: experiments on RabbitMQ, with a server, three workers and injected faults. Each must
//! end with the events and the state of a run without faults.
//!
//! `DISSENT_FAULTS_ROUNDS` sets the number of rounds, `DISSENT_FAULTS_SEED` the first seed. A round depends
//! on its seed alone, except for the moments of its faults.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and prints its progress"
)]

mod disk;
#[path = "../distributed/fleet.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod fleet;
mod kind;
mod message_faults;
#[path = "../../queues/tests/broker/node.rs"]
mod node;
#[path = "../distributed/outcome.rs"]
mod outcome;
mod round;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use disk::Disk;
use kind::Fault;
use node::Node;
use outcome::Outcome;
use round::Campaign;
use support::required::required;
use support::{Lab, Learning, Setup};

/// Default number of rounds: a whole pack of faults.
const ROUNDS: u64 = 3;
/// A learning part that lasts about as long as the faults of a round.
const LEARNING: Learning = Learning { rounds: 6, steps: 800 };
/// The library for clock jumps, below the library folder of an architecture.
const CLOCKS: &str = "faketime/libfaketimeMT.so.1";

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?} is not a number")),
        Err(_) => default,
    }
}

/// Finds the library for clock jumps.
fn clocks() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join(CLOCKS)).find(|library| library.is_file())
}

fn can_mount(lab: &Lab) -> bool {
    let folder: &Path = &lab.data_dir("mountable");
    Disk::mount(folder).is_some()
}

#[test]
fn an_experiment_with_injected_faults_ends_like_one_without() {
    let setup = Setup { prompts: 24, batch_prompts: 2, learns: Some(LEARNING), ..Setup::default() };
    let Some(lab) = Lab::new(&setup) else { return };
    let begun = Instant::now();
    lab.run("reference");
    let reference = Outcome::of(&lab, "reference");
    eprintln!("a run without faults takes {:?}", begun.elapsed());
    let Some(mut node) = required(Node::new()) else { return };
    let (clocks, disks) = (clocks(), can_mount(&lab));
    if clocks.is_none() {
        eprintln!("skipping clock jumps, which need libfaketime (Debian: apt-get install faketime)");
    }
    if !disks {
        eprintln!("skipping full disks, which need the permission to mount a file system");
    }
    let has_clocks = clocks.is_some();
    let mut campaign = Campaign { lab: &lab, node: &mut node, clocks, disks };
    let (first, rounds) = (number("DISSENT_FAULTS_SEED", 0), number("DISSENT_FAULTS_ROUNDS", ROUNDS));
    let mut counts: BTreeMap<Fault, [u32; 2]> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in first..first + rounds {
        let begun = Instant::now();
        eprintln!("round of seed {seed}: {:?}", kind::of_round(seed));
        let outcome = catch_unwind(AssertUnwindSafe(|| round::run(&mut campaign, seed, &reference)));
        let Ok(tally) = outcome else {
            eprintln!("round failed; repeat it with: cargo xtask faults --rounds 1 --seed {seed}");
            failed.push(seed);
            // The next round needs a node without the faults of this one.
            campaign.node.kill();
            campaign.node.start();
            campaign.node.set_memory_alarm(false);
            continue;
        };
        eprintln!("  equal outcome after {} faults and {:?}", tally.survived.len(), begun.elapsed());
        for (column, faults) in [tally.survived, tally.impossible].into_iter().enumerate() {
            faults.into_iter().for_each(|fault| counts.entry(fault).or_default()[column] += 1);
        }
    }
    let survived: u32 = counts.values().map(|[survived, _]| survived).sum();
    for (fault, [survived, impossible]) in &counts {
        eprintln!("{fault:?}: {survived} survived, {impossible} skipped");
    }
    eprintln!("{survived} faults survived in {rounds} rounds and {:?}", begun.elapsed());
    assert!(failed.is_empty(), "rounds of the seeds {failed:?} failed");
    let impossible: u32 = counts.values().map(|[_, impossible]| impossible).sum();
    assert_eq!(
        u64::from(survived + impossible),
        rounds * kind::PER_ROUND as u64,
        "every fault is survived or skipped"
    );
    let of_this_machine =
        |fault: &Fault| (*fault != Fault::ClockJump || has_clocks) && (*fault != Fault::FullDisk || disks);
    let skipped = counts.iter().find(|(fault, counts)| of_this_machine(fault) && counts[1] > 0);
    assert_eq!(skipped, None, "a fault that this machine supports was skipped");
}
