//! Random orders, from a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// 0..count in an order drawn from the seed: by one random 64-bit key each, which only needs the generator's
/// stream to be stable.
#[must_use]
pub(super) fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut keyed: Vec<(u64, usize)> = (0..count).map(|item| (rng.next_u64(), item)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, item)| item).collect()
}
