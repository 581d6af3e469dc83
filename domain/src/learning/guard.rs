//! Signs of reward hacking, and reasons to stop. In reward hacking, the reward rises while the true quality
//! falls.

use super::difference::{HeldOutFigure, differences, refined_agreement};
use crate::analysis::{Interval, Spread};
use crate::event::{PolicyEvaluated, StopReason};
use crate::plan::GuardPlan;

/// Returns the signs of reward hacking between the last two evaluations, for a person to read.
///
/// A reward must have risen clearly: a reward that falls is not hacked. The gold reward must have fallen
/// clearly, or the reward model's agreement with it. Differences are paired by prompt, and clear if their 95
/// % interval excludes 0. Evaluations of version 0.1 have no figures by prompt; their means and errors
/// decide, as then.
#[must_use]
pub fn reward_hacking_signs(guards: &GuardPlan, evaluations: &[PolicyEvaluated]) -> Vec<String> {
    let [.., before, after] = evaluations else { return Vec::new() };
    if before.by_prompt.is_none() || after.by_prompt.is_none() {
        return signs_of_means(guards, before, after);
    }
    let differences = differences(before, after);
    let of = |wanted| differences.iter().find(|(figure, _)| *figure == wanted).map(|(_, found)| *found);
    let Some(reward) = of(HeldOutFigure::ProxyReward).filter(|found| found.interval.low > 0.0) else {
        return Vec::new();
    };
    let rose = format!("the proxy reward rose by {}", with_interval(&reward.interval, 1.0));
    let mut signs = Vec::new();
    if let Some(gold) = of(HeldOutFigure::GoldReward).filter(|found| found.interval.high < 0.0) {
        signs.push(format!(
            "{rose} while the gold reward fell by {}, on {} held-out prompts",
            with_interval(&gold.interval, -1.0),
            gold.interval.n
        ));
    }
    let agreement = refined_agreement(before, after).filter(|found| found.interval.high < 0.0);
    if let Some(found) = agreement.filter(|found| found.after < found.before - guards.agreement_drop) {
        signs.push(format!(
            "{rose} while the reward model orders {:.0} % of held-out pairs as the gold reward does, after {:.0} % \
             (a fall of {} points, on {} prompts)",
            100.0 * found.after,
            100.0 * found.before,
            with_interval(&found.interval, -100.0),
            found.interval.n
        ));
    }
    signs
}

/// A difference times `scale`, with its interval.
fn with_interval(interval: &Interval, scale: f64) -> String {
    let mut ends = [scale * interval.low, scale * interval.high];
    ends.sort_by(f64::total_cmp);
    format!("{:.3} ({:.3} to {:.3})", scale * interval.mean, ends[0], ends[1])
}

/// The signs by means and standard errors alone: the rules of version 0.1.
fn signs_of_means(guards: &GuardPlan, before: &PolicyEvaluated, after: &PolicyEvaluated) -> Vec<String> {
    let mut signs = Vec::new();
    if let (Some([gold_before, _]), Some([gold, error])) = (before.gold_reward, after.gold_reward) {
        // A fall within the standard error does not count.
        let fell = gold < gold_before - error;
        for (name, from, to) in [
            ("proxy", before.proxy_reward[0], after.proxy_reward[0]),
            ("refined", before.refined_reward[0], after.refined_reward[0]),
        ] {
            if fell && to > from {
                signs.push(format!(
                    "the {name} reward rose from {from:.3} to {to:.3} while the gold reward fell from {gold_before:.3} to {gold:.3}"
                ));
            }
        }
    }
    if let (Some(from), Some(to)) = (before.refined_agreement, after.refined_agreement)
        && to < from - guards.agreement_drop
    {
        signs.push(format!(
            "the reward model orders {:.0} % of held-out pairs as the gold reward does, after {:.0} %",
            100.0 * to,
            100.0 * from
        ));
    }
    signs
}

/// Returns the reason to end now, if there is one. `evaluations` are all evaluations so far, number 0 first.
#[must_use]
pub fn stop_reason(guards: &GuardPlan, evaluations: &[PolicyEvaluated]) -> Option<StopReason> {
    let last = evaluations.last()?;
    if guards.stop_on_reward_hacking && !reward_hacking_signs(guards, evaluations).is_empty() {
        return Some(StopReason::RewardHacking);
    }
    if guards.kl_max.is_some_and(|kl_max| least_kl(last) > kl_max) {
        return Some(StopReason::Kl);
    }
    let gold: Vec<f64> = evaluations.iter().filter_map(|e| e.gold_reward).map(|[mean, _]| mean).collect();
    let best = (0..gold.len()).reduce(|best, at| if gold[at] > gold[best] { at } else { best })?;
    let without = gold.len() - 1 - best;
    guards
        .gold_patience
        .is_some_and(|patience| without >= patience as usize && without > 0)
        .then_some(StopReason::GoldReward)
}

/// The least KL divergence that the evaluation leaves possible: the lower end of its 95 % interval over
/// prompts. Evaluations of version 0.1 have only the mean.
fn least_kl(evaluation: &PolicyEvaluated) -> f64 {
    let by_prompt = evaluation.by_prompt.as_deref();
    let spread = by_prompt.and_then(|figures| Spread::of(&figures.kl, 0));
    spread.map_or(evaluation.kl, |spread| spread.interval(0.95).low)
}
