//! Simulates a whole experiment of two rounds with learning, with the real rules and the real decision of the
//! journal. It has no threads, sockets or clock.
//!
//! The log loses events that are not synced. The broker delivers at least once and in any order. Workers
//! crash, hang and propose invalid events, and an operator pauses and resumes. Every run must end like a run
//! without faults.
//!
//! `DISSENT_SIMULATION_SEEDS` (500) sets the number of seeds, `DISSENT_SIMULATION_FIRST` (0) the first one.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot continue fails; other events are left unchanged"
)]

mod broker;
mod invalid_proposals;
mod models;
mod random;
mod server;
mod worker;
mod world;

use std::panic::catch_unwind;

use dissent_domain::rejection::Rejection;
use random::Random;
use world::World;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn faulty_actions(seed: u64) -> usize {
    200 + Random::new(seed ^ 0x5eed).below(3000)
}

#[test]
fn a_run_with_faults_ends_like_a_run_without() {
    let (seeds, first) = (number("DISSENT_SIMULATION_SEEDS", 500), number("DISSENT_SIMULATION_FIRST", 0));
    let undisturbed = World::new(0).run(0);
    assert!(undisturbed.summary.contains("true"), "{}", undisturbed.summary);
    let (mut faults, mut rejected) = (0, std::collections::BTreeSet::new());
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        match catch_unwind(|| World::new(seed).run(faulty_actions(seed))) {
            Ok(outcome) if outcome.summary == undisturbed.summary => {
                faults += outcome.faults;
                rejected.extend(outcome.rejected);
            }
            Ok(outcome) => {
                println!(
                    "seed {seed} ends differently:\n{}\nwithout faults:\n{}",
                    outcome.summary, undisturbed.summary
                );
                failed.push(seed);
            }
            Err(_) => failed.push(seed),
        }
        if failed.len() >= 10 {
            break;
        }
    }
    println!("{seeds} seeds, {faults} faults, {} reasons of rejection", rejected.len());
    let command = failed.first().map(|seed| {
        format!(
            "DISSENT_SIMULATION_SEEDS=1 DISSENT_SIMULATION_FIRST={seed} cargo test -p dissent-domain --test simulation"
        )
    });
    assert!(failed.is_empty(), "seeds {failed:?} failed; repeat one with: {}", command.unwrap_or_default());
}

#[test]
fn no_event_follows_a_cancellation() {
    let (seeds, first) =
        (number("DISSENT_SIMULATION_SEEDS", 500) / 10 + 1, number("DISSENT_SIMULATION_FIRST", 0));
    let mut rejected = std::collections::BTreeSet::new();
    for seed in first..first + seeds {
        let cancelled = catch_unwind(|| World::new(seed).run_until_cancelled(faulty_actions(seed)));
        match cancelled {
            Ok(outcome) => rejected.extend(outcome.rejected),
            Err(_) => panic!("seed {seed} failed"),
        }
    }
    let is_rejected = rejected.contains(&Rejection::Cancelled.to_string());
    assert!(is_rejected, "no late proposal was rejected because of the cancellation: {rejected:?}");
}
