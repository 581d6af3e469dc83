//! Seeded random permutations.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// Returns a permutation of 0..count, drawn from the seed. Sorts by random 64-bit keys, so the permutation
/// depends only on the stable stream of the generator.
#[must_use]
pub(super) fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut keyed: Vec<(u64, usize)> = (0..count).map(|item| (rng.next_u64(), item)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, item)| item).collect()
}
