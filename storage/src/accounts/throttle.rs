//! Throttles wrong passwords before they are hashed: a refused attempt costs a look into a table.
//!
//! | too many wrong passwords | who waits |
//! |---|---|
//! | of one name from one address | that name at that address |
//! | from one address | names that never signed in from there |
//! | of one name | that name at addresses where it never signed in |
//!
//! So an attacker locks out neither others nor, at their usual address, the owner of the name. An attempt
//! counts from its begin, so attempts at the same time count, too. A refused attempt does not count.

use std::collections::HashMap;

use super::AccountsError;
use super::address::network;
use super::names::key;

/// Wrong passwords that cost no wait, and the longest wait in seconds.
const OF_PAIR: Limit = Limit { free: 5, longest: 300 };
const OF_ADDRESS: Limit = Limit { free: 20, longest: 60 };
const OF_NAME: Limit = Limit { free: 50, longest: 60 };
/// Seconds after the last wrong password until it is forgotten.
const FORGET: u64 = 900;
/// Maximum number of tallies. Above it, those with the fewest failures are dropped.
const TALLIES_MAX: usize = 20_000;

#[derive(Clone, Copy)]
struct Limit {
    free: u32,
    longest: u64,
}

/// Names a tally: a hash, so that a long name takes no more memory.
type Key = [u8; 16];

#[derive(Debug, Clone, Copy)]
struct Tally {
    failures: u32,
    last: u64,
}

/// The wrong passwords of late.
#[derive(Debug, Default)]
pub(super) struct Throttle(HashMap<Key, Tally>);

/// An attempt to sign in that may be checked.
#[derive(Debug)]
pub(super) struct Attempt {
    pair: Key,
    address: Key,
    name: Key,
}

impl Throttle {
    /// Begins an attempt. `is_usual`: the person signed in from this address before. It counts as failed
    /// until [`succeeded`](Self::succeeded) or [`cancelled`](Self::cancelled).
    ///
    /// # Errors
    /// If there were too many failures.
    pub(super) fn begin(
        &mut self,
        name: &str,
        address: &str,
        is_usual: bool,
        now: u64,
    ) -> Result<Attempt, AccountsError> {
        let attempt = Attempt::of(name, address);
        let mut wait = self.wait(&attempt.pair, OF_PAIR, now);
        if !is_usual {
            wait = wait.max(self.wait(&attempt.address, OF_ADDRESS, now));
            wait = wait.max(self.wait(&attempt.name, OF_NAME, now));
        }
        if wait > 0 {
            return Err(AccountsError::Throttled { retry_after_seconds: wait });
        }
        self.evict(now);
        for key in [attempt.pair, attempt.address, attempt.name] {
            let tally = self.0.entry(key).or_insert(Tally { failures: 0, last: now });
            if now.saturating_sub(tally.last) > FORGET {
                tally.failures = 0;
            }
            *tally = Tally { failures: tally.failures.saturating_add(1), last: now };
        }
        Ok(attempt)
    }

    /// Forgets the failures of a name at an address, and takes this attempt out of the other tallies.
    pub(super) fn succeeded(&mut self, attempt: &Attempt) {
        self.0.remove(&attempt.pair);
        for key in [attempt.address, attempt.name] {
            if let Some(tally) = self.0.get_mut(&key) {
                tally.failures = tally.failures.saturating_sub(1);
            }
        }
    }

    /// Takes back an attempt that was not checked.
    pub(super) fn cancelled(&mut self, attempt: &Attempt) {
        for key in [attempt.pair, attempt.address, attempt.name] {
            if let Some(tally) = self.0.get_mut(&key) {
                tally.failures = tally.failures.saturating_sub(1);
            }
        }
    }

    /// Returns the number of tallies.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the seconds until a further attempt is allowed.
    fn wait(&self, key: &Key, Limit { free, longest }: Limit, now: u64) -> u64 {
        let Some(tally) = self.0.get(key) else { return 0 };
        if tally.failures < free || now.saturating_sub(tally.last) > FORGET {
            return 0;
        }
        let pause = 1_u64.checked_shl(tally.failures - free).unwrap_or(u64::MAX).clamp(1, longest);
        // A clock that was set back must not lock anybody out for longer.
        tally.last.saturating_add(pause).saturating_sub(now).min(longest)
    }

    /// Drops forgotten tallies if there are too many, and then the quarter with the fewest failures.
    fn evict(&mut self, now: u64) {
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
    fn of(name: &str, address: &str) -> Self {
        let (name, address) = (key(name), network(address));
        Self {
            pair: hash("pair", &[&name, &address]),
            address: hash("address", &[&address]),
            name: hash("name", &[&name]),
        }
    }
}

fn hash(kind: &str, parts: &[&str]) -> Key {
    let mut hasher = blake3::Hasher::new();
    for part in [kind].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let mut key = Key::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Makes a wrong attempt; returns whether it was checked.
    fn fail(throttle: &mut Throttle, name: &str, address: &str, now: u64) -> bool {
        throttle.begin(name, address, false, now).is_ok()
    }

    #[test]
    fn waits_double_and_are_bounded() {
        let mut throttle = Throttle::default();
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..16 {
            while let Err(AccountsError::Throttled { retry_after_seconds }) =
                throttle.begin("ann", "a", false, now)
            {
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
        let checked = (0..10_000).filter(|_| fail(&mut throttle, "ann", "evil", 1_000)).count();
        assert_eq!(checked, 5);
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
    fn addresses_within_one_ipv6_network_count_together() {
        let mut throttle = Throttle::default();
        let checked = (0..1_000).filter(|n| fail(&mut throttle, "ann", &format!("2001:db8::{n:x}"), 1_000));
        assert_eq!(checked.count(), 5);
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

    #[test]
    fn a_success_does_not_forget_the_failures_of_the_address_with_other_names() {
        let mut throttle = Throttle::default();
        for n in 0..19 {
            assert!(fail(&mut throttle, &format!("n{n}"), "a", 1_000));
            let own = throttle.begin("own", "a", false, 1_000).unwrap();
            throttle.succeeded(&own);
        }
        assert!(fail(&mut throttle, "x", "a", 1_000) && !fail(&mut throttle, "y", "a", 1_000));
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let mut throttle = Throttle::default();
        while fail(&mut throttle, "ann", "a", 1_000_000) {}
        let Err(AccountsError::Throttled { retry_after_seconds }) = throttle.begin("ann", "a", false, 10)
        else {
            panic!("it waits")
        };
        assert!(retry_after_seconds <= OF_PAIR.longest);
    }

    #[test]
    fn an_attempt_that_was_not_checked_does_not_count() {
        let mut throttle = Throttle::default();
        for _ in 0..100 {
            let attempt = throttle.begin("ann", "a", false, 1_000).unwrap();
            throttle.cancelled(&attempt);
        }
        assert!(fail(&mut throttle, "ann", "a", 1_000));
    }

    proptest! {
        /// The returned wait suffices, and is never longer than the limit.
        #[test]
        fn who_waits_as_told_is_checked(steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_u64..100), 1..200)) {
            let mut throttle = Throttle::default();
            let mut now = 1_000;
            for (name, address, later) in steps {
                now += later;
                let (name, address) = (format!("n{name}"), format!("h{address}"));
                if let Err(AccountsError::Throttled { retry_after_seconds }) =
                    throttle.begin(&name, &address, false, now)
                {
                    prop_assert!((1..=OF_PAIR.longest).contains(&retry_after_seconds));
                    now += retry_after_seconds;
                    prop_assert!(throttle.begin(&name, &address, false, now).is_ok());
                }
            }
        }
    }
}
