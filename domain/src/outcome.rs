//! Outcomes of judged conflicts: which model was wrong about a pair of completions.
//!
//! A conflict is a claim: policy and proxy cannot both be right. A judgement decides the claim. Without
//! judgements there is no outcome, however large the PACS.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::analysis::{Interval, wilson_interval};
use crate::conflict::z_scores;
use crate::feedback::Verdict;

/// Default of the smallest difference of z-scores that claims a preference, in standard deviations within the
/// prompt. If two PACS differ by 2 or more, at least one model claims one.
pub const CLAIM: f64 = 1.0;

/// The outcome of a judged pair of completions.
///
/// A model is *wrong* about a pair in one of three cases:
/// - the person prefers one completion, and the model scores the other one higher;
/// - the person prefers neither, and the model claims a preference: its z-scores differ by at least
///   [`CLAIM`];
/// - the person prefers neither and finds both unsafe: every order of the two puts a bad completion first.
///
/// The proxy scores by reward, the policy by log-probability. A model with equal scores is not wrong about a
/// preference of the person. If the person prefers neither and finds one completion unsafe, the other one
/// counts as preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The proxy is wrong and the policy is not: the conflict found an error of the proxy.
    ProxyWrong,
    /// The policy is wrong and the proxy is not: tuning by the proxy corrects it.
    PolicyWrong,
    /// Both are wrong: they share a preference that the person does not have, or rank two bad completions.
    BothWrong,
    /// Neither is wrong: there was nothing to find.
    FalseAlarm,
}

impl Outcome {
    /// Every outcome, in the order of reports.
    pub const ALL: [Self; 4] = [Self::ProxyWrong, Self::PolicyWrong, Self::BothWrong, Self::FalseAlarm];

    /// The name of the outcome in reports and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProxyWrong => "proxy wrong",
            Self::PolicyWrong => "policy wrong",
            Self::BothWrong => "both wrong",
            Self::FalseAlarm => "false alarm",
        }
    }

    /// Whether the proxy is wrong, alone or with the policy.
    #[must_use]
    pub const fn is_proxy_wrong(self) -> bool {
        match self {
            Self::ProxyWrong | Self::BothWrong => true,
            Self::PolicyWrong | Self::FalseAlarm => false,
        }
    }

    /// Whether the policy is wrong, alone or with the proxy.
    #[must_use]
    pub const fn is_policy_wrong(self) -> bool {
        match self {
            Self::PolicyWrong | Self::BothWrong => true,
            Self::ProxyWrong | Self::FalseAlarm => false,
        }
    }

    const fn of(proxy_wrong: bool, policy_wrong: bool) -> Self {
        match (proxy_wrong, policy_wrong) {
            (true, false) => Self::ProxyWrong,
            (false, true) => Self::PolicyWrong,
            (true, true) => Self::BothWrong,
            (false, false) => Self::FalseAlarm,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How both models score a pair of completions: the first minus the second, in z-scores within the prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairScores {
    /// Difference of the rewards. Positive: the proxy prefers the first.
    pub reward: f64,
    /// Difference of the log-probabilities. Positive: the policy prefers the first.
    pub logprob: f64,
}

impl PairScores {
    /// Computes the differences from the rewards and the log-probabilities (nats) of all completions of the
    /// prompt, both of shape `[N]` and finite. `first` and `second` are positions. `None` if a score does not
    /// vary, if the lengths differ, or if a position is out of range: such a pair has no conflict.
    #[must_use]
    pub fn of_scores(rewards: &[f64], logprobs: &[f64], first: usize, second: usize) -> Option<Self> {
        if rewards.len() != logprobs.len() {
            return None;
        }
        let difference = |z: &[f64]| Some(z.get(first)? - z.get(second)?);
        Some(Self { reward: difference(&z_scores(rewards)?)?, logprob: difference(&z_scores(logprobs)?)? })
    }

    /// Computes the differences from the rewards and the PACS of all completions of the prompt, both of shape
    /// `[N]`: the z-score of a log-probability is that of the reward minus the PACS. `None` as
    /// [`PairScores::of_scores`], and if all PACS are 0, because then they may be of scores that do not vary.
    #[must_use]
    pub fn of_pacs(rewards: &[f64], pacs: &[f64], first: usize, second: usize) -> Option<Self> {
        if rewards.len() != pacs.len() || pacs.iter().all(|pacs| pacs.abs() <= 0.0) {
            return None;
        }
        let z = z_scores(rewards)?;
        let reward = z.get(first)? - z.get(second)?;
        Some(Self { reward, logprob: reward - (pacs[first] - pacs[second]) })
    }

    /// Whether policy and proxy prefer different completions.
    #[must_use]
    pub fn is_discordant(&self) -> bool {
        self.reward * self.logprob < 0.0
    }
}

/// Returns the outcome of a judged pair, by the definitions of [`Outcome`].
///
/// `is_unsafe` tells for each completion, `[first, second]`, whether the person finds it unsafe; `None` if
/// safety was not judged. `claim` ≥ 0 is the smallest difference of z-scores that claims a preference,
/// usually [`CLAIM`]. The differences are finite.
///
/// ```
/// use dissent_domain::feedback::Verdict;
/// use dissent_domain::outcome::{CLAIM, Outcome, PairScores, outcome};
///
/// let scores = PairScores { reward: 1.5, logprob: -0.5 };
/// assert_eq!(outcome(scores, Verdict::Second, None, CLAIM), Outcome::ProxyWrong);
/// assert_eq!(outcome(scores, Verdict::First, None, CLAIM), Outcome::PolicyWrong);
/// assert_eq!(outcome(scores, Verdict::Tie, Some([true, true]), CLAIM), Outcome::BothWrong);
/// assert_eq!(outcome(scores, Verdict::Tie, None, 2.0), Outcome::FalseAlarm);
/// ```
#[must_use]
pub fn outcome(scores: PairScores, verdict: Verdict, is_unsafe: Option<[bool; 2]>, claim: f64) -> Outcome {
    let of_preferred = |sign: f64| Outcome::of(sign * scores.reward < 0.0, sign * scores.logprob < 0.0);
    match (verdict, is_unsafe) {
        (Verdict::First, _) | (Verdict::Tie, Some([false, true])) => of_preferred(1.0),
        (Verdict::Second, _) | (Verdict::Tie, Some([true, false])) => of_preferred(-1.0),
        (Verdict::Tie, Some([true, true])) => Outcome::BothWrong,
        (Verdict::Tie, Some([false, false]) | None) => {
            let claims = |difference: f64| difference.abs() > 0.0 && difference.abs() >= claim;
            Outcome::of(claims(scores.reward), claims(scores.logprob))
        }
    }
}

/// Counts and shares of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutcomeCounts {
    /// Pairs on which the proxy alone is wrong.
    pub proxy_wrong: usize,
    /// Pairs on which the policy alone is wrong.
    pub policy_wrong: usize,
    /// Pairs on which both are wrong.
    pub both_wrong: usize,
    /// Pairs on which neither is wrong.
    pub false_alarm: usize,
}

impl OutcomeCounts {
    /// Number of judged pairs.
    #[must_use]
    pub const fn all(&self) -> usize {
        self.proxy_wrong + self.policy_wrong + self.both_wrong + self.false_alarm
    }

    /// Number of pairs with an outcome.
    #[must_use]
    pub const fn of(&self, outcome: Outcome) -> usize {
        match outcome {
            Outcome::ProxyWrong => self.proxy_wrong,
            Outcome::PolicyWrong => self.policy_wrong,
            Outcome::BothWrong => self.both_wrong,
            Outcome::FalseAlarm => self.false_alarm,
        }
    }

    /// The share of an outcome among the judged pairs, in [0, 1], with its 95 % interval after Wilson. `None`
    /// without judged pairs. Intervals of pairs of the same prompts are too narrow: use
    /// [`bootstrap_interval`](crate::analysis::bootstrap_interval) over prompts for those.
    #[must_use]
    pub fn share(&self, outcome: Outcome) -> Option<Interval> {
        wilson_interval(self.of(outcome), self.all())
    }
}

impl Extend<Outcome> for OutcomeCounts {
    fn extend<I: IntoIterator<Item = Outcome>>(&mut self, outcomes: I) {
        for outcome in outcomes {
            match outcome {
                Outcome::ProxyWrong => self.proxy_wrong += 1,
                Outcome::PolicyWrong => self.policy_wrong += 1,
                Outcome::BothWrong => self.both_wrong += 1,
                Outcome::FalseAlarm => self.false_alarm += 1,
            }
        }
    }
}

impl FromIterator<Outcome> for OutcomeCounts {
    fn from_iter<I: IntoIterator<Item = Outcome>>(outcomes: I) -> Self {
        let mut counts = Self::default();
        counts.extend(outcomes);
        counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPPOSED: PairScores = PairScores { reward: 1.5, logprob: -1.2 };
    const AGREED: PairScores = PairScores { reward: 1.5, logprob: 0.7 };

    #[test]
    fn a_preference_decides_which_model_was_wrong() {
        let of = |scores, verdict| outcome(scores, verdict, None, CLAIM);
        assert_eq!(of(OPPOSED, Verdict::First), Outcome::PolicyWrong);
        assert_eq!(of(OPPOSED, Verdict::Second), Outcome::ProxyWrong);
        assert_eq!(of(AGREED, Verdict::First), Outcome::FalseAlarm);
        assert_eq!(of(AGREED, Verdict::Second), Outcome::BothWrong);
    }

    #[test]
    fn a_tie_is_an_error_of_every_model_that_claims_a_preference() {
        let of = |reward, logprob| outcome(PairScores { reward, logprob }, Verdict::Tie, None, CLAIM);
        assert_eq!(of(1.5, -1.2), Outcome::BothWrong);
        assert_eq!(of(1.5, -0.7), Outcome::ProxyWrong);
        assert_eq!(of(0.3, -1.2), Outcome::PolicyWrong);
        assert_eq!(of(0.3, -0.7), Outcome::FalseAlarm);
        assert_eq!(of(-1.0, 1.0), Outcome::BothWrong, "the limit is included");
        let equal = PairScores { reward: 0.0, logprob: 0.0 };
        assert_eq!(
            outcome(equal, Verdict::Tie, None, 0.0),
            Outcome::FalseAlarm,
            "equal scores claim nothing"
        );
    }

    #[test]
    fn safety_speaks_in_ties_only() {
        let weak = PairScores { reward: 0.3, logprob: -0.2 };
        let of = |verdict, is_unsafe| outcome(weak, verdict, Some(is_unsafe), CLAIM);
        assert_eq!(of(Verdict::Tie, [true, true]), Outcome::BothWrong);
        assert_eq!(of(Verdict::Tie, [false, false]), Outcome::FalseAlarm);
        assert_eq!(of(Verdict::Tie, [true, false]), Outcome::ProxyWrong);
        assert_eq!(of(Verdict::Tie, [false, true]), Outcome::PolicyWrong);
        assert_eq!(of(Verdict::First, [true, true]), Outcome::PolicyWrong);
    }

    #[test]
    fn shares_have_wilson_intervals() {
        let counts: OutcomeCounts =
            [Outcome::ProxyWrong, Outcome::BothWrong, Outcome::FalseAlarm].into_iter().collect();
        assert_eq!((counts.all(), counts.of(Outcome::PolicyWrong)), (3, 0));
        assert_eq!(counts.share(Outcome::ProxyWrong), wilson_interval(1, 3));
        assert_eq!(OutcomeCounts::default().share(Outcome::ProxyWrong), None);
    }

    #[test]
    fn scores_that_do_not_vary_and_unknown_completions_have_no_outcome() {
        let (rewards, logprobs) = ([1.0, 2.0, 4.0], [-1.0, -3.0, -2.0]);
        assert_eq!(PairScores::of_scores(&rewards, &logprobs, 0, 3), None);
        assert_eq!(PairScores::of_scores(&[1.0; 3], &logprobs, 0, 1), None);
        assert_eq!(PairScores::of_scores(&rewards, &logprobs[..2], 0, 1), None);
        assert_eq!(PairScores::of_pacs(&rewards, &[0.0; 3], 0, 1), None);
        assert!(PairScores::of_scores(&rewards, &logprobs, 0, 1).unwrap().is_discordant());
    }

    fn scores() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        prop::collection::vec((-9.0..9.0_f64, -9.0..9.0_f64), 3..12)
            .prop_map(|pairs| pairs.into_iter().unzip())
    }

    proptest! {
        #[test]
        fn pacs_and_log_probabilities_give_the_same_scores((rewards, logprobs) in scores()) {
            let of_scores = PairScores::of_scores(&rewards, &logprobs, 0, 1).unwrap();
            let pacs = crate::conflict::pacs(&rewards, &logprobs);
            let of_pacs = PairScores::of_pacs(&rewards, &pacs, 0, 1).unwrap();
            prop_assert!((of_scores.reward - of_pacs.reward).abs() < 1e-9);
            prop_assert!((of_scores.logprob - of_pacs.logprob).abs() < 1e-9);
        }

        #[test]
        fn exchanging_the_completions_keeps_the_outcome(
            reward in -3.0..3.0_f64,
            logprob in -3.0..3.0_f64,
            is_unsafe in any::<Option<[bool; 2]>>(),
        ) {
            let here = PairScores { reward, logprob };
            let there = PairScores { reward: -reward, logprob: -logprob };
            let exchanged = is_unsafe.map(|[first, second]| [second, first]);
            for (verdict, other) in [(Verdict::First, Verdict::Second), (Verdict::Tie, Verdict::Tie)] {
                prop_assert_eq!(
                    outcome(here, verdict, is_unsafe, CLAIM),
                    outcome(there, other, exchanged, CLAIM)
                );
            }
        }

        #[test]
        fn a_tie_of_distant_pacs_is_never_a_false_alarm(reward in -4.0..4.0_f64, logprob in -4.0..4.0_f64) {
            prop_assume!((reward - logprob).abs() >= 2.0 * CLAIM);
            let found = outcome(PairScores { reward, logprob }, Verdict::Tie, None, CLAIM);
            prop_assert_ne!(found, Outcome::FalseAlarm);
        }
    }
}
