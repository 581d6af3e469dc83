//! The fault campaign: experiments on RabbitMQ, by a server and three workers, with injected faults. Each
//! must end with the events and the state of an undisturbed run.
//!
//! `DISSENT_FAULTS_ROUNDS` sets the number of rounds, `DISSENT_FAULTS_SEED` the first seed. A round depends
//! on its seed alone, except for the moments of its faults.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says why"
)]

mod disk;
#[path = "../distributed/fleet.rs"]
#[allow(dead_code, reason = "some of it is for the tests without faults")]
mod fleet;
mod kind;
mod meddler;
#[path = "../../queues/tests/broker/node.rs"]
mod node;
mod round;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "some of it is for the tests of one process")]
mod support;
#[path = "../distributed/verdict.rs"]
mod verdict;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use disk::Disk;
use kind::Fault;
use node::Node;
use round::Campaign;
use support::required::required;
use support::{Lab, Learning, Setup};
use verdict::Outcome;

/// Default number of rounds: a whole pack of faults.
const ROUNDS: u64 = 3;
/// Takes about as long as the faults of a round.
const LEARNING: Learning = Learning { rounds: 6, steps: 800 };
/// The library for clock jumps, below the library folder of an architecture.
const CLOCKS: &str = "faketime/libfaketimeMT.so.1";

fn number(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?} is no number")),
        Err(_) => usual,
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
    lab.run("calm");
    let calm = Outcome::of(&lab, "calm");
    eprintln!("a calm run takes {:?}", begun.elapsed());
    let Some(mut node) = required(Node::new()) else { return };
    let (clocks, disks) = (clocks(), can_mount(&lab));
    if clocks.is_none() {
        eprintln!("no clock jumps: they need libfaketime (Debian: apt-get install faketime)");
    }
    if !disks {
        eprintln!("no full disks: they need the right to mount a file system");
    }
    let has_clocks = clocks.is_some();
    let mut campaign = Campaign { lab: &lab, node: &mut node, clocks, disks };
    let (first, rounds) = (number("DISSENT_FAULTS_SEED", 0), number("DISSENT_FAULTS_ROUNDS", ROUNDS));
    let mut counts: BTreeMap<Fault, [u32; 2]> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in first..first + rounds {
        let begun = Instant::now();
        eprintln!("round of seed {seed}: {:?}", kind::of_round(seed));
        let outcome = catch_unwind(AssertUnwindSafe(|| round::run(&mut campaign, seed, &calm)));
        let Ok(tally) = outcome else {
            eprintln!("it fails; again: cargo xtask faults --rounds 1 --seed {seed}");
            failed.push(seed);
            // The next round starts with a node in a known state.
            campaign.node.kill();
            campaign.node.start();
            campaign.node.set_memory_alarm(false);
            continue;
        };
        eprintln!("  the end of a calm run after {} faults and {:?}", tally.survived.len(), begun.elapsed());
        for (column, faults) in [tally.survived, tally.impossible].into_iter().enumerate() {
            faults.into_iter().for_each(|fault| counts.entry(fault).or_default()[column] += 1);
        }
    }
    let survived: u32 = counts.values().map(|[survived, _]| survived).sum();
    for (fault, [survived, impossible]) in &counts {
        eprintln!("{fault:?}: {survived} survived, {impossible} not possible here");
    }
    eprintln!("{survived} faults survived in {rounds} rounds and {:?}", begun.elapsed());
    assert!(failed.is_empty(), "rounds of the seeds {failed:?} failed");
    let impossible: u32 = counts.values().map(|[_, impossible]| impossible).sum();
    assert_eq!(u64::from(survived + impossible), rounds * kind::PER_ROUND as u64, "no fault is left out");
    let of_this_machine =
        |fault: &Fault| (*fault != Fault::ClockJump || has_clocks) && (*fault != Fault::FullDisk || disks);
    let skipped = counts.iter().find(|(fault, counts)| of_this_machine(fault) && counts[1] > 0);
    assert_eq!(skipped, None, "what can happen here happens");
}
