//! What a rule selects of pure noise: of as many prompts whose rewards and log-probabilities are unrelated.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use super::null_band::normals;
use super::pairs::ScoredCompletions;
use super::selection::{SelectionSettings, select};
use super::{Conflict, measure};

/// Completions to simulate, over all draws.
const WORK: usize = 200_000;
/// Most draws of the whole set of prompts.
const DRAWS_MAX: usize = 50;

/// Mean numbers over simulated sets of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NoiseSelection {
    /// Selected completions.
    pub completions: f64,
    /// Prompts with a selected completion.
    pub prompts: f64,
}

/// Returns what a rule selects on average of noise, from prompts with these numbers of completions. Prompts
/// with fewer than two have no conflict. The same `seed` gives the same numbers. `None` without prompts.
#[must_use]
pub fn noise_selection(settings: &SelectionSettings, sizes: &[usize], seed: u64) -> Option<NoiseSelection> {
    let completions: usize = sizes.iter().sum();
    if completions == 0 {
        return None;
    }
    let draws = (WORK / completions).clamp(1, DRAWS_MAX);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut found = NoiseSelection { completions: 0.0, prompts: 0.0 };
    for draw in 0..draws {
        let scored: Vec<(Vec<f64>, Conflict)> = sizes
            .iter()
            .filter_map(|&size| {
                let (mut rewards, mut logprobs) = (Vec::new(), Vec::new());
                normals(&mut rng, size, &mut rewards);
                normals(&mut rng, size, &mut logprobs);
                let conflict = measure(&rewards, &logprobs).ok()?;
                Some((rewards, conflict))
            })
            .collect();
        let prompts: Vec<ScoredCompletions<'_>> = scored
            .iter()
            .map(|(rewards, conflict)| ScoredCompletions { conflict, rewards, left_out: &[] })
            .collect();
        let selection = select(settings, &prompts, seed.wrapping_add(draw as u64));
        found.completions += selection.completions.iter().map(Vec::len).sum::<usize>() as f64;
        found.prompts += selection.completions.iter().filter(|chosen| !chosen.is_empty()).count() as f64;
    }
    let mean = |sum: f64| sum / draws as f64;
    Some(NoiseSelection { completions: mean(found.completions), prompts: mean(found.prompts) })
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    #[test]
    fn a_budget_is_filled_by_noise_and_a_threshold_is_not() {
        let of = |rule| {
            let settings = SelectionSettings { rule, budget: Some(30), ..SelectionSettings::default() };
            noise_selection(&settings, &[4; 100], 1).unwrap()
        };
        assert!((of(Rule::Budget).completions - 30.0).abs() < 1e-9);
        let settings = SelectionSettings { rule: Rule::Mean, ..SelectionSettings::default() };
        let mean = noise_selection(&settings, &[4; 100], 1).unwrap();
        // mean|PACS| of noise exceeds 1 in about 64 % of prompts with four completions, by the null band.
        let band = super::super::null_band(4, 0).unwrap();
        assert!((mean.prompts / 100.0 - band.mean_abs_pacs_above(1.0)).abs() < 0.03, "{mean:?}");
        assert!((mean.completions - 4.0 * mean.prompts).abs() < 1e-9);
        assert_eq!(noise_selection(&settings, &[], 1), None);
    }
}
