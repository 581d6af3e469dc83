//! The focus of a fork: further pairs from a few prompts, beside those of the rule and of the audit.
//!
//! The plan's rule chooses them, without its thresholds. They come after all other comparisons, so these keep
//! their numbers. The estimates of lift leave them out: people chose the prompts, not chance.

use std::collections::BTreeSet;

use super::pairing::{comparisons_of, scored};
use super::prompts::MeasuredPrompt;
use crate::conflict::{self, Pair, Rule, ScoredCompletions, SelectionSettings};
use crate::feedback::{Comparison, Opponent};
use crate::plan::{FocusPlan, Plan};

/// Added to the seed of a round for its focus, whose draws are independent of the others.
const FOCUS_SEED: u64 = 0xf0c5_0000_5eed_0001;

/// Returns the further comparisons of a round, each with the place of its prompt among `measured`. They are
/// in prompt order, and none is in `asked`. `left_out` has the completions that nobody is asked about. There
/// are fewer than the focus wants where its prompts have no more pairs.
pub(super) fn focused(
    plan: &Plan,
    focus: &FocusPlan,
    opponent: Opponent,
    measured: &[MeasuredPrompt<'_>],
    left_out: &[Vec<bool>],
    asked: &BTreeSet<Pair>,
    seed: u64,
) -> Vec<(usize, Comparison)> {
    let masked: Vec<Vec<bool>> = measured
        .iter()
        .zip(left_out)
        .map(|(prompt, left_out)| {
            let is_in_focus = focus.prompts.contains(prompt.prompt_id);
            if is_in_focus { left_out.clone() } else { vec![true; prompt.rewards.len()] }
        })
        .collect();
    let scored = scored(measured, &masked);
    let seed = seed.wrapping_add(FOCUS_SEED);
    let chosen = |rule: Rule, budget: u64, asked: &BTreeSet<Pair>| -> Vec<(usize, Comparison)> {
        let settings =
            SelectionSettings { rule, delta: Some(0.0), tau: Some(0.0), budget: Some(budget), quantile: 0.0 };
        let selection = conflict::select(&settings, &scored, seed);
        let of_prompt = |place: usize| {
            let prompt = &measured[place];
            let seed = seed.wrapping_add(u64::from(prompt.index));
            let found = comparisons_of(&selection, opponent, place, prompt, &masked[place], seed);
            found.into_iter().map(move |comparison| (place, comparison))
        };
        let is_new = |(place, comparison): &(usize, Comparison)| !asked.contains(&comparison.pair(*place));
        (0..measured.len()).flat_map(of_prompt).filter(is_new).collect()
    };
    let most = scored.iter().map(|prompt| pairs_and_completions(prompt)).sum();
    let wanted = usize::try_from(focus.pairs).unwrap_or(usize::MAX);
    let (mut found, mut asked) = (Vec::new(), asked.clone());
    // A completion has one opponent. Where those are spent, the other pairs follow.
    for rule in [rule(plan.conflict.selection.rule), Rule::Gap] {
        let left = wanted - found.len();
        let budget = smallest(most, |budget| chosen(rule, budget, &asked).len() >= left);
        let new: Vec<_> = chosen(rule, budget, &asked).into_iter().take(left).collect();
        asked.extend(new.iter().map(|(place, comparison)| comparison.pair(*place)));
        found.extend(new);
    }
    found.sort_by_key(|(place, _)| *place);
    found
}

/// The rule of the focus: the plan's, or the nearest one that ranks by conflict and takes a budget.
fn rule(planned: Rule) -> Rule {
    match planned {
        Rule::Paper | Rule::Mean | Rule::Budget | Rule::Quantile | Rule::None => Rule::Budget,
        Rule::Gap | Rule::Discordant | Rule::All => Rule::Gap,
        Rule::Random | Rule::Margin | Rule::EqualMargin | Rule::GapAndMargin | Rule::Doubt | Rule::Rso => {
            planned
        }
    }
}

/// An upper bound of the budget that selects everything of a prompt.
fn pairs_and_completions(prompt: &ScoredCompletions<'_>) -> u64 {
    let left_out = prompt.left_out.iter().filter(|left_out| **left_out).count();
    let kept = (prompt.rewards.len() - left_out) as u64;
    kept + kept * kept.saturating_sub(1) / 2
}

/// Returns the smallest number up to `most` with the property, which larger numbers have, too; `most` if none
/// has it.
fn smallest(most: u64, mut has: impl FnMut(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low) / 2;
        if has(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conflict::{Conflict, measure};
    use crate::id::PromptId;

    fn plan(rule: Rule) -> Plan {
        serde_json::from_value(serde_json::json!({
            "experiment": "e", "seed": 0, "rounds": 1, "prompts": {"artifact": "h", "count": 1},
            "policy": {"name": "p", "fingerprint": "f", "template": "chat"},
            "reward": {"name": "r", "fingerprint": "g", "template": "chat", "kind": "reward"},
            "sampling": {},
            "conflict": {"logprob": "sum", "selection": {"rule": rule, "budget": 2}},
        }))
        .unwrap()
    }

    /// Rewards and log-probabilities of some prompts with four completions each.
    fn scores() -> impl Strategy<Value = Vec<([f64; 4], [f64; 4])>> {
        let four = || prop::array::uniform4(-9.0..9.0_f64);
        prop::collection::vec((four(), four()), 2..8)
    }

    proptest! {
        #[test]
        fn a_focus_adds_as_many_new_pairs_of_its_prompts_as_there_are(
            scores in scores(),
            pairs in 1..12_u64,
            rule in prop::sample::select(Rule::ALL.to_vec()),
            asked in prop::collection::btree_set((0..8_usize, 0..3_usize), 0..6),
        ) {
            let ids: Vec<PromptId> =
                (0..scores.len()).map(|n| PromptId::new(format!("p{n}")).unwrap()).collect();
            let conflicts: Vec<Conflict> = scores.iter().map(|(r, l)| measure(r, l).unwrap()).collect();
            let measured: Vec<MeasuredPrompt<'_>> = (0..scores.len())
                .zip(0..)
                .map(|(n, index)| MeasuredPrompt {
                    index,
                    prompt_id: &ids[n],
                    conflict: &conflicts[n],
                    rewards: &scores[n].0,
                    flags: &[],
                })
                .collect();
            let asked: BTreeSet<Pair> =
                asked.into_iter().map(|(prompt, first)| Pair { prompt, first, second: first + 1 }).collect();
            // The focus is on every second prompt.
            let prompts: BTreeSet<PromptId> = ids.iter().step_by(2).cloned().collect();
            let focus = FocusPlan { round: 0, topic: "t".to_owned(), prompts, pairs };
            let left_out = vec![vec![]; scores.len()];
            let find = || focused(&plan(rule), &focus, Opponent::Conflict, &measured, &left_out, &asked, 7);
            let found = find();
            prop_assert_eq!(&found, &find());
            let distinct: BTreeSet<Pair> = found.iter().map(|(place, pair)| pair.pair(*place)).collect();
            prop_assert_eq!(distinct.len(), found.len());
            prop_assert!(distinct.is_disjoint(&asked));
            prop_assert!(distinct.iter().all(|pair| pair.prompt % 2 == 0));
            let free = asked.iter().filter(|pair| pair.prompt % 2 == 0 && pair.prompt < scores.len()).count();
            let available = 6 * scores.len().div_ceil(2) - free;
            let wanted = usize::try_from(pairs).unwrap().min(available);
            prop_assert_eq!(found.len(), wanted);
        }
    }
}
