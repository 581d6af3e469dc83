//! Throttles wrong passwords before they are hashed: a refused attempt costs a look into a table.
//!
//! | too many wrong passwords | who waits |
//! |---|---|
//! | of one name from one address | that name at that address |
//! | from one address | names that never signed in from there |
//! | of one name | that name at addresses where it never signed in |
//!
//! So an attacker locks out neither others nor, at their usual address, the owner of the name.

use std::collections::HashMap;

use super::AccountsError;
use super::people::key;

/// Wrong passwords that cost no wait, and the longest wait in seconds.
const OF_PAIR: (u32, u64) = (5, 300);
const OF_ADDRESS: (u32, u64) = (20, 60);
const OF_NAME: (u32, u64) = (50, 60);
/// Seconds after the last wrong password until it is forgotten.
const FORGET: u64 = 900;
/// Tallies that are kept. An attacker who makes more loses the oldest.
const TALLIES_MAX: usize = 20_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Of {
    Pair(String, String),
    Address(String),
    Name(String),
}

#[derive(Debug, Clone, Copy)]
struct Tally {
    failures: u32,
    last: u64,
}

/// The wrong passwords of late.
#[derive(Debug, Default)]
pub(super) struct Throttle(HashMap<Of, Tally>);

/// An attempt to sign in that may be looked at.
#[derive(Debug)]
pub(super) struct Attempt {
    name: String,
    address: String,
}

impl Throttle {
    /// Begins an attempt. `is_usual`: the person signed in from this address before. It counts as failed until
    /// [`succeeded`](Self::succeeded), so that attempts at the same time count, too.
    pub(super) fn begin(
        &mut self,
        name: &str,
        address: &str,
        is_usual: bool,
        now: u64,
    ) -> Result<Attempt, AccountsError> {
        let attempt = Attempt { name: key(name), address: address.to_owned() };
        let mut wait = self.wait(&attempt.pair(), OF_PAIR, now);
        if !is_usual {
            wait = wait.max(self.wait(&Of::Address(attempt.address.clone()), OF_ADDRESS, now));
            wait = wait.max(self.wait(&Of::Name(attempt.name.clone()), OF_NAME, now));
        }
        match wait {
            0 => Ok(attempt),
            retry_after_seconds => Err(AccountsError::Throttled { retry_after_seconds }),
        }
    }

    /// Counts a wrong password.
    pub(super) fn failed(&mut self, attempt: Attempt, now: u64) {
        self.make_room(now);
        let pair = attempt.pair();
        for of in [pair, Of::Address(attempt.address), Of::Name(attempt.name)] {
            let tally = self.0.entry(of).or_insert(Tally { failures: 0, last: now });
            if now.saturating_sub(tally.last) > FORGET {
                tally.failures = 0;
            }
            *tally = Tally { failures: tally.failures.saturating_add(1), last: now };
        }
    }

    /// Forgets the wrong passwords of a name at an address.
    pub(super) fn succeeded(&mut self, attempt: &Attempt) {
        self.0.remove(&attempt.pair());
    }

    /// The number of tallies.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }

    fn wait(&self, of: &Of, (free, longest): (u32, u64), now: u64) -> u64 {
        let Some(tally) = self.0.get(of) else { return 0 };
        if tally.failures < free || now.saturating_sub(tally.last) > FORGET {
            return 0;
        }
        let pause = 1_u64.checked_shl(tally.failures - free).unwrap_or(u64::MAX).clamp(1, longest);
        (tally.last + pause).saturating_sub(now)
    }

    fn make_room(&mut self, now: u64) {
        if self.0.len() < TALLIES_MAX {
            return;
        }
        self.0.retain(|_, tally| now.saturating_sub(tally.last) <= FORGET);
        if self.0.len() >= TALLIES_MAX {
            // The tallies of most failures stay: those of an attack on one name or from one address.
            let mut weights: Vec<(u32, u64)> = self.0.values().map(|t| (t.failures, t.last)).collect();
            weights.sort_unstable();
            let limit = weights.get(weights.len() / 4).copied().unwrap_or_default();
            self.0.retain(|_, tally| (tally.failures, tally.last) > limit);
        }
    }
}

impl Attempt {
    fn pair(&self) -> Of {
        Of::Pair(self.name.clone(), self.address.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(throttle: &mut Throttle, name: &str, address: &str, now: u64) -> bool {
        match throttle.begin(name, address, false, now) {
            Ok(attempt) => {
                throttle.failed(attempt, now);
                true
            }
            Err(_) => false,
        }
    }

    #[test]
    fn waits_double_and_are_bounded() {
        let mut throttle = Throttle::default();
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..16 {
            while !fail(&mut throttle, "ann", "a", now) {
                let Err(AccountsError::Throttled { retry_after_seconds }) =
                    throttle.begin("ann", "a", false, now)
                else {
                    unreachable!("it was refused")
                };
                waits.push(retry_after_seconds);
                now += retry_after_seconds;
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(fail(&mut throttle, "ann", "a", now + FORGET + 1), "old ones are forgotten");
    }

    #[test]
    fn an_attack_locks_out_only_the_attacker() {
        let mut throttle = Throttle::default();
        let looked_at = (0..10_000).filter(|_| fail(&mut throttle, "ann", "evil", 1_000)).count();
        assert_eq!(looked_at, 5);
        assert!(throttle.begin("ann", "home", true, 1_000).is_ok(), "the owner at the usual address");
        assert!(throttle.begin("ben", "home", false, 1_000).is_ok(), "another person");
        let names = (0..10_000).filter(|n| fail(&mut throttle, &format!("n{n}"), "evil2", 1_000)).count();
        assert_eq!(names, 20, "one address tries many names");
        assert!(throttle.begin("ben", "evil2", true, 1_000).is_ok(), "a person who signed in from there");
        let hosts = (0..10_000).filter(|n| fail(&mut throttle, "cy", &format!("h{n}"), 1_000)).count();
        assert_eq!(hosts, 50, "many addresses try one name");
        assert!(throttle.begin("cy", "home", true, 1_000).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_an_attack_on_one_name_stays_known() {
        let mut throttle = Throttle::default();
        while fail(&mut throttle, "ann", "evil", 1_000) {}
        for n in 0..100_000 {
            fail(&mut throttle, &format!("n{n}"), &format!("h{n}"), 1_000);
        }
        assert!(throttle.len() <= TALLIES_MAX + 3);
        assert!(throttle.begin("ann", "evil", false, 1_000).is_err());
    }

    #[test]
    fn a_success_forgets_the_failures_before() {
        let mut throttle = Throttle::default();
        for _ in 0..4 {
            fail(&mut throttle, "Ann", "a", 1_000);
        }
        let attempt = throttle.begin(" ANN", "a", false, 1_000).unwrap();
        throttle.succeeded(&attempt);
        for _ in 0..5 {
            assert!(fail(&mut throttle, "ann", "a", 1_000));
        }
        assert!(!fail(&mut throttle, "ann", "a", 1_000));
    }
}
