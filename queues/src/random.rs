//! Randomness for ids of messages and for jitter. The hasher's keys are the standard library's own
//! randomness.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Random bits.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns a random number from 0 to 1.
pub(crate) fn random_fraction() -> f64 {
    let bits = u32::try_from(random() >> 32).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}
