//! Signs of reward hacking, and reasons to stop. In reward hacking, the reward rises while the true quality
//! falls.

use crate::event::{PolicyEvaluated, StopReason};
use crate::plan::GuardPlan;

/// Returns the signs of reward hacking between the last two evaluations, for a person to read.
#[must_use]
pub fn reward_hacking_signs(guards: &GuardPlan, evaluations: &[PolicyEvaluated]) -> Vec<String> {
    let [.., before, after] = evaluations else { return Vec::new() };
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
    if guards.kl_max.is_some_and(|kl_max| last.kl > kl_max) {
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
