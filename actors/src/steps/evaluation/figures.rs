//! The figures of an evaluation, from the rewards and log-probabilities of each prompt's completions.

use dissent_domain::analysis::mean;
use dissent_domain::conflict::{self, LogprobKind};
use dissent_domain::event::{FiguresByPrompt, PolicyEvaluated};
use dissent_domain::generation::{Completion, FinishReason};
use dissent_domain::id::PromptId;

/// One held-out prompt: its completions and their rewards, in the same order.
pub(crate) struct Measured {
    pub(crate) prompt_id: PromptId,
    pub(crate) completions: Vec<Completion>,
    /// By the proxy that the experiment began with.
    pub(crate) proxy: Vec<f64>,
    /// By the current reward model.
    pub(crate) refined: Vec<f64>,
    pub(crate) gold: Option<Vec<f64>>,
    /// log π_ref(y|x) in nats, by the policy that the experiment began with; `None` if that is the current
    /// policy.
    pub(crate) reference: Option<Vec<f64>>,
}

/// Identifies the evaluation.
pub(crate) struct Subject {
    pub(crate) evaluation: u32,
    pub(crate) policy: String,
    pub(crate) reward_model: String,
    pub(crate) logprob: LogprobKind,
}

/// The figures of an evaluation; `measured` holds at least one prompt.
pub(crate) fn evaluated(subject: Subject, measured: &[Measured]) -> PolicyEvaluated {
    let completions = || measured.iter().flat_map(|prompt| &prompt.completions);
    let gold: Option<Vec<&[f64]>> = measured.iter().map(|prompt| prompt.gold.as_deref()).collect();
    let of = |rewards: fn(&Measured) -> &[f64]| measured.iter().map(rewards).collect::<Vec<_>>();
    let (proxy, refined) = (of(|prompt| &prompt.proxy), of(|prompt| &prompt.refined));
    let conflicts: Vec<_> = measured
        .iter()
        .filter_map(|prompt| {
            let logprobs: Vec<f64> =
                prompt.completions.iter().map(|completion| completion.logprob_as(subject.logprob)).collect();
            conflict::measure(&prompt.refined, &logprobs).ok()
        })
        .filter(|conflict| !conflict.degenerate)
        .collect();
    PolicyEvaluated {
        evaluation: subject.evaluation,
        policy: subject.policy,
        reward_model: subject.reward_model,
        prompts: count(measured.len()),
        completions: count(completions().count()),
        gold_reward: gold.as_deref().map(mean_and_error),
        proxy_reward: mean_and_error(&proxy),
        refined_reward: mean_and_error(&refined),
        proxy_agreement: gold.as_deref().and_then(|gold| agreement(&proxy, gold)),
        refined_agreement: gold.as_deref().and_then(|gold| agreement(&refined, gold)),
        mean_abs_pacs: mean(conflicts.iter().map(|conflict| conflict.mean_abs_pacs)),
        kendall_tau: mean(conflicts.iter().filter_map(|conflict| conflict.kendall_tau)),
        kl: mean(measured.iter().flat_map(divergences)).unwrap_or(0.0),
        response_tokens: mean(completions().map(|completion| completion.token_ids.len() as f64))
            .unwrap_or(0.0),
        stopped: mean(completions().map(has_stopped)).unwrap_or(0.0),
        samples: None,
        by_prompt: None,
    }
}

/// 1 for a completion that ended with a stop token, 0 for another.
fn has_stopped(completion: &Completion) -> f64 {
    if completion.finish_reason == FinishReason::Stop { 1.0 } else { 0.0 }
}

/// The figures of each prompt, without those on the completions of evaluation 0.
pub(crate) fn by_prompt(measured: &[Measured]) -> FiguresByPrompt {
    let means = |figures: &dyn Fn(&Measured) -> Vec<f64>| -> Vec<f64> {
        measured.iter().map(|prompt| mean(figures(prompt).into_iter()).unwrap_or(0.0)).collect()
    };
    let of_completions = |figure: fn(&Completion) -> f64| {
        means(&move |prompt: &Measured| prompt.completions.iter().map(figure).collect())
    };
    let counts = |rewards: fn(&Measured) -> &[f64]| -> Vec<PairCounts> {
        let of_prompt = |prompt: &Measured| Some(pair_counts(rewards(prompt), prompt.gold.as_deref()?));
        measured.iter().filter_map(of_prompt).collect()
    };
    let (proxy, refined) = (counts(|prompt| &prompt.proxy), counts(|prompt| &prompt.refined));
    FiguresByPrompt {
        prompts: measured.iter().map(|prompt| prompt.prompt_id.clone()).collect(),
        gold_reward: measured
            .iter()
            .filter_map(|prompt| mean(prompt.gold.iter().flatten().copied()))
            .collect(),
        proxy_reward: means(&|prompt| prompt.proxy.clone()),
        refined_reward: means(&|prompt| prompt.refined.clone()),
        kl: means(&|prompt| divergences(prompt)),
        response_tokens: of_completions(|completion| completion.token_ids.len() as f64),
        stopped: of_completions(has_stopped),
        ordered: proxy.iter().map(|counts| counts.ordered).collect(),
        proxy_agreed: proxy.iter().map(|counts| counts.agreed).collect(),
        refined_agreed: refined.iter().map(|counts| counts.agreed).collect(),
        first_refined_agreed: Vec::new(),
    }
}

/// log π − log π_ref of each completion (k1); exactly 0 where both are the same policy.
fn divergences(prompt: &Measured) -> Vec<f64> {
    match &prompt.reference {
        None => vec![0.0; prompt.completions.len()],
        Some(reference) => {
            prompt.completions.iter().zip(reference).map(|(c, reference)| c.logprob - reference).collect()
        }
    }
}

/// The mean over completions, and the standard error of the prompts' means; 0 with a single prompt.
fn mean_and_error(rewards: &[&[f64]]) -> [f64; 2] {
    let all = mean(rewards.iter().flat_map(|of_prompt| of_prompt.iter().copied())).unwrap_or(0.0);
    let means: Vec<f64> = rewards.iter().filter_map(|of_prompt| mean(of_prompt.iter().copied())).collect();
    let (prompts, centre) = (means.len() as f64, mean(means.iter().copied()).unwrap_or(0.0));
    if means.len() < 2 {
        return [all, 0.0];
    }
    let variance = means.iter().map(|mean| (mean - centre).powi(2)).sum::<f64>() / (prompts - 1.0);
    [all, (variance / prompts).sqrt()]
}

/// The share of the pairs of a prompt's completions that `rewards` orders as `gold` does; `None` if gold
/// finds all pairs equal. A pair that only `rewards` finds equal counts as not agreed.
fn agreement(rewards: &[&[f64]], gold: &[&[f64]]) -> Option<f64> {
    let (mut ordered, mut agreed) = (0_u64, 0_u64);
    for (rewards, gold) in rewards.iter().zip(gold) {
        let counts = pair_counts(rewards, gold);
        ordered += u64::from(counts.ordered);
        agreed += u64::from(counts.agreed);
    }
    (ordered > 0).then(|| agreed as f64 / ordered as f64)
}

/// Counts of the pairs of a prompt's completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PairCounts {
    /// Pairs with different gold rewards.
    pub(crate) ordered: u32,
    /// Those of them that the rewards order as the gold rewards do.
    pub(crate) agreed: u32,
}

pub(crate) fn pair_counts(rewards: &[f64], gold: &[f64]) -> PairCounts {
    let mut counts = PairCounts::default();
    for second in 0..gold.len() {
        for first in 0..second {
            let (truth, scored) = (gold[first] - gold[second], rewards[first] - rewards[second]);
            counts.ordered += u32::from(truth != 0.0);
            counts.agreed += u32::from(truth * scored > 0.0);
        }
    }
    counts
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(logprob: f64, tokens: usize, finish_reason: FinishReason) -> Completion {
        Completion { token_ids: vec![7; tokens], text: String::new(), logprob, finish_reason }
    }

    fn subject() -> Subject {
        Subject { evaluation: 1, policy: "p".into(), reward_model: "r".into(), logprob: LogprobKind::Sum }
    }

    /// Two prompts with two completions each; the expected figures are calculated by hand.
    fn measured() -> Vec<Measured> {
        vec![
            Measured {
                prompt_id: PromptId::new("a").unwrap(),
                completions: vec![
                    completion(-1.0, 2, FinishReason::Stop),
                    completion(-3.0, 4, FinishReason::Length),
                ],
                proxy: vec![1.0, 2.0],
                refined: vec![5.0, 3.0],
                gold: Some(vec![0.5, 0.0]),
                reference: Some(vec![-1.5, -3.5]),
            },
            Measured {
                prompt_id: PromptId::new("b").unwrap(),
                completions: vec![
                    completion(-2.0, 3, FinishReason::Stop),
                    completion(-4.0, 3, FinishReason::Stop),
                ],
                proxy: vec![3.0, 6.0],
                refined: vec![1.0, 1.0],
                gold: Some(vec![0.0, 1.0]),
                reference: Some(vec![-2.0, -3.0]),
            },
        ]
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn figures_equal_a_calculation_by_hand() {
        let e = evaluated(subject(), &measured());
        assert_eq!((e.prompts, e.completions), (2, 4));
        // Means of prompts: 1.5 and 4.5; ddof 1: sd 2.1213…, divided by √2: 1.5.
        close(e.proxy_reward[0], 3.0);
        close(e.proxy_reward[1], 1.5);
        close(e.refined_reward[0], 2.5);
        close(e.refined_reward[1], 1.5);
        close(e.gold_reward.unwrap()[0], 0.375);
        close(e.gold_reward.unwrap()[1], 0.125);
        // Proxy: wrong on the first prompt, right on the second. Refined: right on the first prompt, a tie on
        // the second.
        close(e.proxy_agreement.unwrap(), 0.5);
        close(e.refined_agreement.unwrap(), 0.5);
        // 0.5, 0.5, 0, −1.
        close(e.kl, 0.0);
        close(e.response_tokens, 3.0);
        close(e.stopped, 0.75);
        // The second prompt's rewards are equal: only the first defines conflict, and rewards and
        // log-probabilities agree.
        close(e.mean_abs_pacs.unwrap(), 0.0);
        close(e.kendall_tau.unwrap(), 1.0);
        let by_prompt = by_prompt(&measured());
        assert_eq!(by_prompt.gold_reward, [0.25, 0.5]);
        assert_eq!((by_prompt.proxy_reward, by_prompt.refined_reward), (vec![1.5, 4.5], vec![4.0, 1.0]));
        assert_eq!((by_prompt.kl, by_prompt.response_tokens), (vec![0.5, -0.5], vec![3.0, 3.0]));
        assert_eq!((by_prompt.stopped, by_prompt.ordered), (vec![0.5, 1.0], vec![1, 1]));
        assert_eq!((by_prompt.proxy_agreed, by_prompt.refined_agreed), (vec![0, 1], vec![1, 0]));
    }

    #[test]
    fn the_first_policy_has_zero_divergence() {
        let mut measured = measured();
        measured.iter_mut().for_each(|prompt| prompt.reference = None);
        assert_eq!(evaluated(subject(), &measured).kl.to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn without_a_gold_reward_its_figures_are_missing() {
        let mut measured = measured();
        measured[1].gold = None;
        let e = evaluated(subject(), &measured);
        assert_eq!((e.gold_reward, e.proxy_agreement, e.refined_agreement), (None, None, None));
    }

    #[test]
    fn pairs_that_gold_finds_equal_do_not_count() {
        assert_eq!(agreement(&[&[1.0, 2.0, 3.0]], &[&[0.0, 0.0, 1.0]]), Some(1.0));
        assert_eq!(agreement(&[&[1.0, 2.0]], &[&[0.0, 0.0]]), None);
    }

    #[test]
    fn a_single_prompt_has_no_standard_error() {
        let [mean, error] = mean_and_error(&[&[1.0, 3.0]]);
        close(mean, 2.0);
        close(error, 0.0);
    }
}
