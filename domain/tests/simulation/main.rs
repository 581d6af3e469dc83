//! A whole experiment of two rounds that learn, by the real rules and the real journal's decision, over a log
//! that forgets what is not synced, a broker that delivers at least once and in any order, workers that die,
//! hang and lie, and an operator who pauses and resumes: no threads, no sockets, no clock. However it went,
//! it ends as the calm run does.
//!
//! `DISSENT_SIMULATION_SEEDS` (500) says how many seeds are run, `DISSENT_SIMULATION_FIRST` (0) where they
//! begin.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on fails; what a lie is not about stays as it is"
)]

mod broker;
mod lies;
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

fn troubled_actions(seed: u64) -> usize {
    200 + Random::new(seed ^ 0x5eed).below(3000)
}

#[test]
fn a_run_with_faults_ends_as_a_run_without() {
    let (seeds, first) = (number("DISSENT_SIMULATION_SEEDS", 500), number("DISSENT_SIMULATION_FIRST", 0));
    let calm = World::new(0).run(0);
    assert!(calm.summary.contains("true"), "{}", calm.summary);
    let (mut faults, mut rejected) = (0, std::collections::BTreeSet::new());
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        match catch_unwind(|| World::new(seed).run(troubled_actions(seed))) {
            Ok(outcome) if outcome.summary == calm.summary => {
                faults += outcome.faults;
                rejected.extend(outcome.rejected);
            }
            Ok(outcome) => {
                println!("seed {seed} ends otherwise:\n{}\ncalm:\n{}", outcome.summary, calm.summary);
                failed.push(seed);
            }
            Err(_) => failed.push(seed),
        }
        if failed.len() >= 10 {
            break;
        }
    }
    println!("{seeds} seeds, {faults} faults, {} reasons to reject", rejected.len());
    let again = failed.first().map(|seed| {
        format!(
            "DISSENT_SIMULATION_SEEDS=1 DISSENT_SIMULATION_FIRST={seed} cargo test -p dissent-domain --test simulation"
        )
    });
    assert!(failed.is_empty(), "seeds {failed:?} failed; again: {}", again.unwrap_or_default());
}

#[test]
fn no_event_follows_a_cancellation() {
    let (seeds, first) =
        (number("DISSENT_SIMULATION_SEEDS", 500) / 10 + 1, number("DISSENT_SIMULATION_FIRST", 0));
    let mut rejected = std::collections::BTreeSet::new();
    for seed in first..first + seeds {
        let cancelled = catch_unwind(|| World::new(seed).run_until_cancelled(troubled_actions(seed)));
        match cancelled {
            Ok(outcome) => rejected.extend(outcome.rejected),
            Err(_) => panic!("seed {seed} failed"),
        }
    }
    let refused = rejected.contains(&Rejection::Cancelled.to_string());
    assert!(refused, "what workers still say is refused, with the reason: {rejected:?}");
}
