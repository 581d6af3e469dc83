//! Differences between two evaluations, paired by prompt: both sampled the same prompts with the same seeds.

use std::collections::HashMap;

use serde::Serialize;

use crate::analysis::{Interval, Spread, corrected_level, ratio_contributions, sign_flip_p};
use crate::event::{FiguresByPrompt, PolicyEvaluated};
use crate::id::PromptId;

/// The seed of every bootstrap here: the same evaluations have the same intervals.
const SEED: u64 = 0;

/// A figure of an evaluation that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOutFigure {
    /// The gold reward.
    GoldReward,
    /// The reward by the initial proxy.
    ProxyReward,
    /// The KL divergence from the initial policy, in nats per completion.
    Kl,
    /// The length of a completion, in tokens.
    ResponseTokens,
    /// The share of completions that ended with a stop token.
    Stopped,
}

impl HeldOutFigure {
    /// Every figure, in the order of tables.
    pub const ALL: [Self; 5] =
        [Self::GoldReward, Self::ProxyReward, Self::Kl, Self::ResponseTokens, Self::Stopped];

    fn of(self, figures: &FiguresByPrompt) -> &[f64] {
        match self {
            Self::GoldReward => &figures.gold_reward,
            Self::ProxyReward => &figures.proxy_reward,
            Self::Kl => &figures.kl,
            Self::ResponseTokens => &figures.response_tokens,
            Self::Stopped => &figures.stopped,
        }
    }
}

/// A difference between two means over the same prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The mean before.
    pub before: f64,
    /// The mean after.
    pub after: f64,
    /// After − before, with its 95 % interval over prompts.
    pub interval: Interval,
    /// The standard error of after − before.
    pub error: f64,
    /// Whether the interval, corrected for the number of differences in the table, excludes 0,
    /// and the paired permutation test agrees.
    pub is_clear: bool,
}

impl Difference {
    /// `before` and `after` have one value for each group; `tests` differences share a table. `None` for
    /// fewer than two groups.
    fn of(before: &[f64], after: &[f64], tests: usize) -> Option<Self> {
        let groups = before.len().min(after.len());
        let mean = |values: &[f64]| values[..groups].iter().sum::<f64>() / groups as f64;
        let values: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let spread = Spread::of(&values, SEED)?;
        let corrected = spread.interval(corrected_level(tests));
        let excludes_0 = corrected.low > 0.0 || corrected.high < 0.0;
        // Intervals are approximate, above all for shares of a few completions. The test is exact.
        let is_clear = excludes_0 && sign_flip_p(&values, SEED) <= 1.0 - corrected_level(tests);
        Some(Self {
            before: mean(before),
            after: mean(after),
            interval: spread.interval(0.95),
            error: spread.error(),
            is_clear,
        })
    }
}

/// Returns the differences between two evaluations, on the prompts that both have. A figure that one of them
/// lacks has no entry. Empty for evaluations of version 0.1, which have no figures by prompt.
///
/// The interval of each difference is at 95 %. A difference is clear only if its interval at 1 − 5 % /
/// (number of differences) excludes 0, and if the paired permutation test agrees. So a tuning that changes
/// nothing shows a clear difference in at most 5 % of tables.
#[must_use]
pub fn differences(before: &PolicyEvaluated, after: &PolicyEvaluated) -> Vec<(HeldOutFigure, Difference)> {
    let Some((before, after)) = before.by_prompt.as_deref().zip(after.by_prompt.as_deref()) else {
        return Vec::new();
    };
    let shared = shared(before, after);
    let of = |figure: HeldOutFigure| -> Option<[Vec<f64>; 2]> {
        let (before, after) = (figure.of(before), figure.of(after));
        if before.is_empty() || after.is_empty() {
            return None;
        }
        Some([
            shared.iter().map(|[at, _]| before[*at]).collect(),
            shared.iter().map(|[_, at]| after[*at]).collect(),
        ])
    };
    let known: Vec<(HeldOutFigure, [Vec<f64>; 2])> =
        HeldOutFigure::ALL.into_iter().filter_map(|figure| Some((figure, of(figure)?))).collect();
    let tests = known.len();
    known
        .into_iter()
        .filter_map(|(figure, [before, after])| Some((figure, Difference::of(&before, &after, tests)?)))
        .collect()
}

/// The places of the prompts that both evaluations have, in each of them.
fn shared(before: &FiguresByPrompt, after: &FiguresByPrompt) -> Vec<[usize; 2]> {
    let places: HashMap<&PromptId, usize> = after.prompts.iter().zip(0..).collect();
    before.prompts.iter().zip(0..).filter_map(|(prompt, at)| Some([at, *places.get(prompt)?])).collect()
}

/// How often reward models order pairs of completions as the gold reward does: two reward models on two sets
/// of completions. Only a row of this table compares two reward models, because the other set of completions
/// is easier or harder for both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AgreementTable {
    /// On the completions of the initial policy: the initial proxy before, the current reward model after.
    /// `None` if the evaluation did not order them again.
    pub on_first: Option<Difference>,
    /// The same on the completions of the current policy.
    pub on_current: Option<Difference>,
}

/// Returns how often the initial proxy and the current reward model agree with the gold reward: on the
/// completions of the initial policy, and on those of the current one. `first` is evaluation 0. `None`
/// without gold rewards or figures by prompt.
#[must_use]
pub fn agreement_table(first: &PolicyEvaluated, current: &PolicyEvaluated) -> Option<AgreementTable> {
    let (first, current) = (first.by_prompt.as_deref()?, current.by_prompt.as_deref()?);
    let row = |ordered: &[u32], proxy: &[u32], refined: &[u32]| -> Option<Difference> {
        if refined.is_empty() || refined.len() != ordered.len() {
            return None;
        }
        let numbers = |counts: &[u32]| counts.iter().map(|&count| f64::from(count)).collect::<Vec<f64>>();
        let wholes = numbers(ordered);
        let shares = |agreed| ratio_contributions(&numbers(agreed), &wholes);
        Difference::of(&shares(proxy)?, &shares(refined)?, 2)
    };
    let table = AgreementTable {
        on_first: row(&first.ordered, &first.proxy_agreed, &current.first_refined_agreed),
        on_current: row(&current.ordered, &current.proxy_agreed, &current.refined_agreed),
    };
    (table.on_first.is_some() || table.on_current.is_some()).then_some(table)
}

/// Returns the difference of a reward model's agreement with the gold reward between two evaluations, each on
/// its own completions, paired by prompt. `None` where it is unknown.
pub(super) fn refined_agreement(before: &PolicyEvaluated, after: &PolicyEvaluated) -> Option<Difference> {
    let (before, after) = (before.by_prompt.as_deref()?, after.by_prompt.as_deref()?);
    let shared = shared(before, after);
    let of = |figures: &FiguresByPrompt, side: usize| -> Option<Vec<f64>> {
        let numbers = |counts: &[u32]| -> Vec<f64> {
            shared
                .iter()
                .filter_map(|places| counts.get(places[side]).map(|&count| f64::from(count)))
                .collect()
        };
        ratio_contributions(&numbers(&figures.refined_agreed), &numbers(&figures.ordered))
    };
    Difference::of(&of(before, 0)?, &of(after, 1)?, 1)
}
