//! The fault campaign: three experiments on RabbitMQ, with one server, three workers and injected faults.
//! Each experiment must end with the events and the state of a run alone and without faults.
//!
//! `DISSENT_FAULTS_ROUNDS` sets the number of rounds, `DISSENT_FAULTS_SEED` the first seed. A round depends
//! on its seed alone, except for the moments of its faults.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and prints its progress"
)]

mod amqp;
mod broker_faults;
mod clients;
mod disk;
mod disk_faults;
mod experiments;
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
mod service_faults;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use disk::Disk;
use kind::Fault;
use node::Node;
use round::Campaign;
use support::required::required;
use support::{Lab, Learning, Setup};

/// Learning parts that last, together, about as long as the faults of a round.
const LEARNING: Learning = Learning { rounds: 3, steps: 600 };
/// The library for clock jumps, below the library folder of an architecture.
const CLOCKS: &str = "faketime/libfaketimeMT.so.1";

/// Numbers of injected faults of each kind.
#[derive(Default)]
struct Counts {
    survived: BTreeMap<Fault, u32>,
    /// By kind and reason.
    skipped: BTreeMap<(Fault, &'static str), u32>,
}

impl Counts {
    /// Prints the counts; returns all survived, and all skipped.
    fn report(&self) -> (u32, u32) {
        for fault in kind::all() {
            eprintln!("{fault:?}: {} survived", self.survived.get(&fault).copied().unwrap_or_default());
        }
        for ((fault, reason), skipped) in &self.skipped {
            eprintln!("{fault:?}: {skipped} skipped: {reason}");
        }
        (self.survived.values().sum(), self.skipped.values().sum())
    }
}

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
    Disk::mount(&lab.data_dir("mountable")).is_some()
}

#[test]
fn experiments_with_injected_faults_end_like_those_without() {
    let setup = Setup { prompts: 16, batch_prompts: 2, learns: Some(LEARNING), ..Setup::default() };
    let Some(lab) = Lab::new(&setup) else { return };
    let begun = Instant::now();
    let (references, time) = experiments::references(&lab);
    eprintln!("the runs without faults take {time:?}");
    let Some(mut node) = required(Node::new()) else { return };
    let (clocks, disks) = (clocks(), can_mount(&lab));
    let has_clocks = clocks.is_some();
    let mut campaign = Campaign { lab: &lab, node: &mut node, clocks, disks };
    let (first, rounds) = (number("DISSENT_FAULTS_SEED", 0), number("DISSENT_FAULTS_ROUNDS", kind::ROUNDS));
    let (mut counts, mut failed) = (Counts::default(), Vec::new());
    for seed in first..first + rounds {
        let begun = Instant::now();
        eprintln!("round of seed {seed}: {:?}", kind::of_round(seed));
        let outcome = catch_unwind(AssertUnwindSafe(|| round::run(&mut campaign, seed, &references)));
        let Ok(tally) = outcome else {
            eprintln!("round failed; repeat it with: cargo xtask faults --rounds 1 --seed {seed}");
            failed.push(seed);
            campaign.repair();
            continue;
        };
        eprintln!("  equal outcomes after {} faults and {:?}", tally.survived.len(), begun.elapsed());
        tally.survived.into_iter().for_each(|fault| *counts.survived.entry(fault).or_default() += 1);
        tally.skipped.into_iter().for_each(|skipped| *counts.skipped.entry(skipped).or_default() += 1);
    }
    let (survived, skipped) = counts.report();
    eprintln!("{survived} faults survived in {rounds} rounds and {:?}", begun.elapsed());
    assert!(failed.is_empty(), "rounds of the seeds {failed:?} failed");
    let all = rounds * kind::PER_ROUND as u64;
    assert_eq!(u64::from(survived + skipped), all, "every fault is survived or skipped");
    let of_this_machine =
        |fault: Fault| (fault != Fault::ClockJump || has_clocks) && (!fault.needs_disks() || disks);
    let refused = counts.skipped.keys().find(|(fault, _)| of_this_machine(*fault));
    assert_eq!(refused, None, "a fault that this machine supports was skipped");
    if first.is_multiple_of(kind::ROUNDS) && rounds >= kind::ROUNDS {
        let supported = kind::all().into_iter().filter(|fault| of_this_machine(*fault));
        let missing: Vec<Fault> = supported.filter(|fault| !counts.survived.contains_key(fault)).collect();
        assert!(missing.is_empty(), "{missing:?} did not occur");
    }
}
