//! Pairs of completions of one prompt, and scores of them: the higher, the more doubtful the order by the
//! proxy.
//!
//! The scores use rewards and log-probabilities only, never judgements or a gold reward.

use super::{Conflict, z_scores};
use crate::analysis::{midranks, strata};

/// The scores of a prompt's completions, the input of a selection rule.
#[derive(Debug, Clone, Copy)]
pub struct ScoredCompletions<'a> {
    /// Their conflict.
    pub conflict: &'a Conflict,
    /// Their rewards by the proxy, shape `[N]`.
    pub rewards: &'a [f64],
    /// Whether each completion is left out of every selection; empty: none is.
    pub left_out: &'a [bool],
}

impl ScoredCompletions<'_> {
    /// Whether a completion may be selected.
    #[must_use]
    pub fn is_kept(&self, completion: usize) -> bool {
        !self.left_out.get(completion).copied().unwrap_or(false)
    }
}

/// Two completions of one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The prompt, by position.
    pub prompt: usize,
    /// The completion with the lower index.
    pub first: usize,
    /// The other completion.
    pub second: usize,
}

/// Score by which pairs are ranked.
///
/// Δr, Δz_r and Δz_l are differences of the reward, of its z-score and of the z-score of the log-probability.
/// Each is the completion with the higher reward minus the other, so Δr ≥ 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PairScore {
    /// −Δr: the two rewards are close.
    Margin,
    /// |Δz_r − Δz_l|, the difference of the two PACS.
    Gap,
    /// The larger |PACS| of the two.
    LargestPacs,
    /// −Δz_l: the strength of the policy's preference for the other completion.
    Opposition,
    /// −(Δz_r + Δz_l): the strength of the policy's preference for the other completion, minus that of the
    /// proxy's preference against it.
    Doubt,
    /// The sum of the pair's ranks by `Gap` and by `Margin` among all pairs, as a share of its maximum.
    GapAndMargin,
    /// The rank by `Gap` among the pairs of about the same margin, as a share. It is the conflict with the
    /// margin held equal.
    EqualMargin,
}

impl PairScore {
    /// Every score.
    pub const ALL: [Self; 7] = [
        Self::Margin,
        Self::Gap,
        Self::LargestPacs,
        Self::Opposition,
        Self::Doubt,
        Self::GapAndMargin,
        Self::EqualMargin,
    ];
}

/// Number of equal-sized groups into which pairs are divided by margin.
pub const MARGIN_STRATA: u32 = 10;

/// Returns all pairs of completions of non-degenerate prompts, in prompt order, without those left out.
/// Completions with the same reward and the same PACS make no pair: they are the same text, sampled twice.
#[must_use]
pub fn pairs(prompts: &[ScoredCompletions<'_>]) -> Vec<Pair> {
    let kept = prompts.iter().enumerate().filter(|(_, scored)| !scored.conflict.degenerate);
    kept.flat_map(|(prompt, scored)| {
        let completions = scored.conflict.completions();
        (0..completions)
            .flat_map(move |first| (first + 1..completions).map(move |second| Pair { prompt, first, second }))
            .filter(|pair| scored.is_kept(pair.first) && scored.is_kept(pair.second))
            .filter(|pair| tells_apart(&scored.conflict.pacs, scored.rewards, pair.first, pair.second))
    })
    .collect()
}

/// Whether two completions differ in reward or in PACS.
#[must_use]
pub fn tells_apart(pacs: &[f64], rewards: &[f64], first: usize, second: usize) -> bool {
    let differ = |scores: &[f64]| scores[first].total_cmp(&scores[second]).is_ne();
    differ(rewards) || differ(pacs)
}

/// Returns the score of each pair: the higher, the more doubtful its order. Scores are comparable within one
/// call only. The pairs must be of these prompts.
#[must_use]
pub fn pair_scores(score: PairScore, prompts: &[ScoredCompletions<'_>], pairs: &[Pair]) -> Vec<f64> {
    match score {
        PairScore::GapAndMargin => {
            let ranks = [PairScore::Gap, PairScore::Margin]
                .map(|score| midranks(&pair_scores(score, prompts, pairs)));
            let most = 2.0 * pairs.len() as f64;
            ranks[0].iter().zip(&ranks[1]).map(|(gap, margin)| (gap + margin) / most).collect()
        }
        PairScore::EqualMargin => {
            let stratum = margin_strata(prompts, pairs);
            shares_within(&pair_scores(PairScore::Gap, prompts, pairs), &stratum)
        }
        PairScore::Margin
        | PairScore::Gap
        | PairScore::LargestPacs
        | PairScore::Opposition
        | PairScore::Doubt => {
            let z: Vec<Vec<f64>> =
                prompts.iter().map(|scored| z_scores(scored.rewards).unwrap_or_default()).collect();
            pairs.iter().map(|pair| of_pair(score, &prompts[pair.prompt], &z[pair.prompt], *pair)).collect()
        }
    }
}

/// Returns the group of each pair by its margin |Δr|: one of [`MARGIN_STRATA`], from 0 for the smallest
/// margins.
#[must_use]
pub fn margin_strata(prompts: &[ScoredCompletions<'_>], pairs: &[Pair]) -> Vec<u32> {
    let margins: Vec<f64> =
        pair_scores(PairScore::Margin, prompts, pairs).into_iter().map(|score| -score).collect();
    strata(&margins, MARGIN_STRATA)
}

/// Whether policy and proxy order the two completions oppositely.
#[must_use]
pub(super) fn is_discordant(scored: &ScoredCompletions<'_>, z_rewards: &[f64], pair: Pair) -> bool {
    of_pair(PairScore::Opposition, scored, z_rewards, pair) > 0.0
        && scored.rewards[pair.first].total_cmp(&scored.rewards[pair.second]).is_ne()
}

fn of_pair(score: PairScore, scored: &ScoredCompletions<'_>, z_rewards: &[f64], pair: Pair) -> f64 {
    let Pair { first, second, .. } = pair;
    let pacs = &scored.conflict.pacs;
    let gap = pacs[first] - pacs[second];
    let z_reward = z_rewards.get(first).zip(z_rewards.get(second)).map_or(0.0, |(a, b)| a - b);
    // PACS is z(reward) − z(log-probability).
    let z_logprob = z_reward - gap;
    let towards_the_higher = |difference: f64| match z_reward.total_cmp(&0.0) {
        std::cmp::Ordering::Greater => difference,
        std::cmp::Ordering::Less => -difference,
        // The proxy prefers neither completion, so every preference of the policy is a conflict.
        std::cmp::Ordering::Equal => -difference.abs(),
    };
    match score {
        PairScore::Margin => -(scored.rewards[first] - scored.rewards[second]).abs(),
        PairScore::LargestPacs => pacs[first].abs().max(pacs[second].abs()),
        PairScore::Opposition => -towards_the_higher(z_logprob),
        PairScore::Doubt => -towards_the_higher(z_reward + z_logprob),
        PairScore::Gap | PairScore::GapAndMargin | PairScore::EqualMargin => gap.abs(),
    }
}

/// Returns the rank of each score within its group, as a share in (0, 1].
fn shares_within(scores: &[f64], groups: &[u32]) -> Vec<f64> {
    let mut shares = vec![0.0; scores.len()];
    for group in 0..MARGIN_STRATA {
        let members: Vec<usize> = (0..scores.len()).filter(|&index| groups[index] == group).collect();
        let ranks = midranks(&members.iter().map(|&index| scores[index]).collect::<Vec<f64>>());
        for (&index, rank) in members.iter().zip(&ranks) {
            shares[index] = rank / members.len() as f64;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::measure;
    use super::*;

    /// The third worked example of the method, and a prompt with constant rewards.
    fn scored(score: PairScore, rewards: &[f64], logprobs: &[f64]) -> Vec<f64> {
        let conflict = measure(rewards, logprobs).unwrap();
        let prompts = [ScoredCompletions { conflict: &conflict, rewards, left_out: &[] }];
        pair_scores(score, &prompts, &pairs(&prompts))
    }

    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        }
    }

    #[test]
    fn scores_have_the_worked_numbers() {
        let (rewards, logprobs) = ([1.0, 1.0, 2.0, 3.0], [-1.0, -2.0, -2.0, -4.0]);
        // PACS −2.051613, −1.13395, .072096, 3.113467; z(reward) −.904534, −.904534, .301511, 1.507557.
        near(&scored(PairScore::Margin, &rewards, &logprobs), &[0.0, -1.0, -2.0, -1.0, -2.0, -1.0]);
        near(
            &scored(PairScore::Gap, &rewards, &logprobs),
            &[0.917663, 2.123709, 5.16508, 1.206046, 4.247417, 3.041371],
        );
        near(
            &scored(PairScore::LargestPacs, &rewards, &logprobs),
            &[2.051613, 2.051613, 3.113467, 1.13395, 3.113467, 3.113467],
        );
        // The policy ranks completion 0 first, 1 and 2 equal, 3 last; the proxy ranks them in reverse.
        near(
            &scored(PairScore::Opposition, &rewards, &logprobs),
            &[0.917663, 0.917663, 2.752989, 0.0, 1.835326, 1.835326],
        );
        near(
            &scored(PairScore::Doubt, &rewards, &logprobs),
            &[0.917663, -0.288383, 0.340898, -1.206045, -0.576765, 0.62928],
        );
    }

    #[test]
    fn ranks_are_added_over_all_pairs() {
        // Gaps 1, 2, 3 in the order of the pairs 0–1, 1–2, 0–2 of a prompt in which only the conflict varies
        // with the margin.
        let found = scored(PairScore::GapAndMargin, &[0.0, 1.0, 3.0], &[0.0, -1.0, -3.0]);
        // Gap ranks 1, 3, 2; margin ranks 3, 1, 2: every pair has 4 of 6.
        near(&found, &[4.0 / 6.0; 3]);
    }

    #[test]
    fn degenerate_prompts_have_no_pairs() {
        assert!(scored(PairScore::Gap, &[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]).is_empty());
        assert!(scored(PairScore::Gap, &[1.0], &[1.0]).is_empty());
    }

    #[test]
    fn at_equal_margin_every_group_has_its_own_largest_conflict() {
        let rewards: Vec<f64> = (0..21).map(|completion| f64::from(completion * completion)).collect();
        let logprobs: Vec<f64> = (0..21).map(|completion| f64::from((completion * 7) % 21)).collect();
        let conflict = measure(&rewards, &logprobs).unwrap();
        let prompts = [ScoredCompletions { conflict: &conflict, rewards: &rewards, left_out: &[] }];
        let pairs = pairs(&prompts);
        let shares = pair_scores(PairScore::EqualMargin, &prompts, &pairs);
        let stratum = margin_strata(&prompts, &pairs);
        for group in 0..MARGIN_STRATA {
            let best = shares.iter().zip(&stratum).filter(|(_, of)| **of == group).map(|(share, _)| *share);
            assert!((best.fold(0.0, f64::max) - 1.0).abs() < 1e-12, "group {group}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_completions_does_not_change_scores(
            scores in prop::collection::vec((-3.0..3.0_f64, -50.0..0.0_f64), 2..7),
        ) {
            let reversed: Vec<(f64, f64)> = scores.iter().rev().copied().collect();
            for score in PairScore::ALL {
                let of = |scores: &[(f64, f64)]| {
                    let (rewards, logprobs): (Vec<f64>, Vec<f64>) = scores.iter().copied().unzip();
                    let mut found = scored(score, &rewards, &logprobs);
                    found.sort_by(f64::total_cmp);
                    found
                };
                for (a, b) in of(&scores).iter().zip(&of(&reversed)) {
                    prop_assert!((a - b).abs() < 1e-9, "{:?}: {} and {}", score, a, b);
                }
            }
        }

        #[test]
        fn the_gap_is_the_margin_and_the_opposition_together(
            scores in prop::collection::vec((-3.0..3.0_f64, -50.0..0.0_f64), 2..7),
        ) {
            let (rewards, logprobs): (Vec<f64>, Vec<f64>) = scores.into_iter().unzip();
            let conflict = measure(&rewards, &logprobs).unwrap();
            prop_assume!(!conflict.degenerate);
            let prompts = [ScoredCompletions { conflict: &conflict, rewards: &rewards, left_out: &[] }];
            let z = z_scores(&rewards).unwrap();
            for pair in pairs(&prompts) {
                let of = |score| of_pair(score, &prompts[0], &z, pair);
                let margin = (z[pair.first] - z[pair.second]).abs();
                let (opposition, doubt) = (of(PairScore::Opposition), of(PairScore::Doubt));
                prop_assert!((of(PairScore::Gap) - (margin + opposition).abs()).abs() < 1e-9);
                prop_assert!((doubt - (opposition - margin)).abs() < 1e-9);
            }
        }
    }
}
