//! The selection of a round: pairs with a high conflict, the comparisons that judge them, and the figures of
//! the round. The selection follows from the measured prompts, the plan and the round's number.

use super::focus::focused;
use super::pairing::{comparisons_of, scored};
use super::prompts::{MeasuredPrompt, Prompts};
use std::collections::BTreeSet;

use crate::analysis::mean;
use crate::conflict::{self, AuditDraws, Pair, Selection};
use crate::event::{FeedbackRequested, PairSelected, RoundEvaluated};
use crate::feedback::{self, Opponent};
use crate::flags::Flag;
use crate::plan::{DegenerateCompletions, Plan};

/// Added to the seed of a round for its audit, whose draws are independent of the rule's.
const AUDIT_SEED: u64 = 0x0a0d_17d2_a305_5a4e;

/// A comparison that judges a selected pair, or one of the audit.
#[derive(Debug, Clone, Copy)]
struct RequestedPair {
    comparison: feedback::Comparison,
    /// The propensity, if the audit drew it.
    propensity: Option<f64>,
}

/// The selection from the prompts measured so far.
pub(crate) struct RoundSelection<'a> {
    round: u32,
    /// The seed of this round's random choices, from the seed of the experiment.
    seed: u64,
    measured: Vec<MeasuredPrompt<'a>>,
    selection: Selection,
    /// The comparisons of each prompt.
    requested: Vec<Vec<RequestedPair>>,
    /// The comparisons of the focus, each with the place of its prompt.
    focused: Vec<(usize, feedback::Comparison)>,
}

impl<'a> RoundSelection<'a> {
    /// Selects by the rule of the plan, draws its audit, and adds its focus. Without learning there is no
    /// audit, and opponents are chosen as by default.
    pub(crate) fn of(plan: &Plan, round: u32, prompts: &'a Prompts) -> Self {
        let feedback = plan.learning.as_ref().map(|learning| &learning.feedback);
        let opponent = feedback.map(|feedback| feedback.opponent).unwrap_or_default();
        let share = plan.audit_share();
        let seed = plan.seed.wrapping_add(u64::from(round));
        let measured: Vec<MeasuredPrompt<'a>> = prompts.measured().collect();
        let left_out = left_out(plan, &measured);
        let scored = scored(&measured, &left_out);
        let selection = conflict::select(&plan.rule_selection(), &scored, seed);
        let mut this = Self { round, seed, measured, selection, requested: Vec::new(), focused: Vec::new() };
        this.requested = this.of_rule(opponent, &left_out);
        if share > 0.0 {
            let selected = this.asked();
            let beside = || conflict::audit_beside(selected.len() as u64, share);
            let draws = plan.audit_budget().unwrap_or_else(beside);
            this.audit(&conflict::audit_draws(&scored, &selected, draws, seed.wrapping_add(AUDIT_SEED)));
        }
        if let Some(focus) =
            feedback.and_then(|feedback| feedback.focus.as_ref()).filter(|f| f.round == round)
        {
            this.focused = focused(plan, focus, opponent, &this.measured, &left_out, &this.asked(), seed);
        }
        this
    }

    /// The comparisons that judge the rule's selection.
    fn of_rule(&self, opponent: Opponent, left_out: &[Vec<bool>]) -> Vec<Vec<RequestedPair>> {
        let of_rule = |comparison| RequestedPair { comparison, propensity: None };
        let of_prompt = |(place, prompt): (usize, &MeasuredPrompt<'_>)| {
            let seed = self.prompt_seed(prompt.index);
            let found = comparisons_of(&self.selection, opponent, place, prompt, &left_out[place], seed);
            found.into_iter().map(of_rule).collect()
        };
        self.measured.iter().enumerate().map(of_prompt).collect()
    }

    /// The pairs of the comparisons so far.
    fn asked(&self) -> BTreeSet<Pair> {
        let of_prompt = |(prompt, requested): (usize, &Vec<RequestedPair>)| -> Vec<Pair> {
            requested.iter().map(|requested| requested.comparison.pair(prompt)).collect()
        };
        self.requested.iter().enumerate().flat_map(of_prompt).collect()
    }

    /// Adds the pairs of the audit, each at a random place of its prompt: the order tells nobody which they
    /// are.
    fn audit(&mut self, draws: &AuditDraws) {
        for Pair { prompt, first, second } in &draws.pairs {
            let seed = self
                .prompt_seed(self.measured[*prompt].index)
                .wrapping_add(AUDIT_SEED ^ (*first as u64) << 32 ^ *second as u64);
            let requested = &mut self.requested[*prompt];
            for comparison in feedback::in_display_order(&[[*first, *second]], seed) {
                let place = feedback::random_place(requested.len() + 1, seed);
                requested.insert(place, RequestedPair { comparison, propensity: Some(draws.propensity) });
            }
        }
    }

    /// The selected pairs of prompt and completion, in the order of the prompt file.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = PairSelected> + '_ {
        self.measured.iter().zip(&self.selection.completions).flat_map(|(prompt, chosen)| {
            chosen.iter().map(|&completion| PairSelected {
                round: self.round,
                prompt_id: prompt.prompt_id.clone(),
                completion: u32::try_from(completion).unwrap_or(u32::MAX),
                pacs: prompt.conflict.pacs[completion],
            })
        })
    }

    /// The comparisons of the selected completions with their opponents and those of the audit, then those of
    /// the focus, numbered from 0.
    pub(crate) fn comparisons(&self) -> impl Iterator<Item = FeedbackRequested> + '_ {
        let completion = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let by_prompt = self.measured.iter().zip(&self.requested);
        let by_prompt = by_prompt.flat_map(|(prompt, requested)| {
            requested.iter().map(move |pair| (prompt, pair.comparison, pair.propensity, false))
        });
        let focused =
            self.focused.iter().map(|(place, comparison)| (&self.measured[*place], *comparison, None, true));
        let all = by_prompt.chain(focused);
        (0_u32..).zip(all).map(move |(number, (prompt, comparison, propensity, is_focus))| {
            FeedbackRequested {
                round: self.round,
                comparison: number,
                prompt_id: prompt.prompt_id.clone(),
                prompt_index: prompt.index,
                first: completion(comparison.first),
                second: completion(comparison.second),
                propensity,
                is_focus,
            }
        })
    }

    /// Each prompt has its own seed: its comparisons do not depend on other prompts.
    fn prompt_seed(&self, index: u32) -> u64 {
        self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(index))
    }

    /// The figures of the round, after its selection.
    pub(crate) fn evaluation(&self, prompts: &Prompts) -> RoundEvaluated {
        let defined = || self.measured.iter().map(|prompt| prompt.conflict).filter(|c| !c.degenerate);
        let degenerate = self.measured.len() - defined().count();
        let counts = prompts.counts();
        RoundEvaluated {
            round: self.round,
            measured: counts.measured,
            degenerate: u32::try_from(degenerate).unwrap_or(u32::MAX),
            set_aside: counts.set_aside,
            selected: u32::try_from(self.selection.completions.iter().map(Vec::len).sum::<usize>())
                .unwrap_or(u32::MAX),
            mean_abs_pacs: mean(defined().map(|c| c.mean_abs_pacs)),
            kendall_tau: mean(defined().filter_map(|c| c.kendall_tau)),
        }
    }
}

/// Returns whether each completion of each prompt is left out, because it is degenerate and the plan skips
/// those. Being cut off does not count where more than half of the round's completions are cut off.
pub(crate) fn left_out(plan: &Plan, measured: &[MeasuredPrompt<'_>]) -> Vec<Vec<bool>> {
    let feedback = plan.learning.as_ref().map(|learning| &learning.feedback);
    if feedback.is_none_or(|feedback| feedback.degenerate == DegenerateCompletions::Ask) {
        return vec![Vec::new(); measured.len()];
    }
    let all = || measured.iter().flat_map(|prompt| prompt.flags);
    let cut = all().filter(|flags| flags.contains(&Flag::Cut)).count();
    let cut_counts = 2 * cut <= all().count();
    let is_degenerate = |flags: &Vec<Flag>| {
        flags.iter().any(|flag| flag.is_degenerate() && (cut_counts || *flag != Flag::Cut))
    };
    measured.iter().map(|prompt| prompt.flags.iter().map(is_degenerate).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflict::measure;
    use crate::id::PromptId;

    /// A plan that asks about the `budget` completions of largest |PACS|.
    fn plan(degenerate: &str) -> Plan {
        let hyperparameters = serde_json::json!({});
        let prompts = serde_json::json!({"artifact": "h", "count": 1});
        serde_json::from_value(serde_json::json!({
            "experiment": "e", "seed": 0, "rounds": 1, "prompts": prompts,
            "policy": {"name": "p", "fingerprint": "f", "template": "chat"},
            "reward": {"name": "r", "fingerprint": "g", "template": "chat", "kind": "reward"},
            "sampling": {},
            "conflict": {"logprob": "sum", "selection": {"rule": "budget", "budget": 4}},
            "learning": {
                "feedback": {"source": "people", "opponent": "conflict", "overlap": 1, "budget": null, "degenerate": degenerate},
                "refinement": {"original": null, "hyperparameters": hyperparameters},
                "tuning": {"objective": {}, "hyperparameters": hyperparameters},
                "evaluation": {"prompts": prompts, "samples": 2, "gold": null},
                "guards": {},
            },
        }))
        .unwrap()
    }

    /// The completions that a plan leaves out of a prompt with these flags.
    fn found(degenerate: &str, flags: &[Vec<Flag>]) -> Vec<bool> {
        let rewards: Vec<f64> = (0..flags.len()).map(|index| index as f64).collect();
        let logprobs: Vec<f64> = rewards.iter().map(|reward| -reward * reward).collect();
        let conflict = measure(&rewards, &logprobs).unwrap();
        let prompt_id = PromptId::new("p").unwrap();
        let measured = [MeasuredPrompt {
            index: 0,
            prompt_id: &prompt_id,
            conflict: &conflict,
            rewards: &rewards,
            flags,
        }];
        left_out(&plan(degenerate), &measured).remove(0)
    }

    #[test]
    fn degenerate_completions_are_left_out_if_the_plan_skips_them() {
        let flags = [vec![], vec![Flag::Repetition], vec![Flag::Refusal], vec![Flag::Cut], vec![Flag::Empty]];
        assert_eq!(found("skip", &flags), [false, true, false, true, true]);
        assert!(found("ask", &flags).is_empty());
    }

    #[test]
    fn where_most_completions_are_cut_off_that_does_not_count() {
        let flags = [vec![Flag::Cut], vec![Flag::Cut], vec![Flag::Cut, Flag::Repetition], vec![], vec![]];
        assert_eq!(found("skip", &flags), [false, false, true, false, false]);
        let half = [vec![Flag::Cut], vec![Flag::Cut], vec![], vec![]];
        assert_eq!(found("skip", &half), [true, true, false, false]);
    }
}
