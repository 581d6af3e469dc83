//! Training metrics, under TRL's names.

use dissent_domain::analysis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The report of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The step's number, from 1.
    pub step: u64,
    /// Passes over the data so far, with a fraction.
    pub epoch: f64,
    /// The loss of the step's examples before the step.
    pub loss: f64,
    /// The norm of the gradient, before it was clipped.
    pub grad_norm: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Tokens trained on so far, prompts included.
    pub num_tokens: u64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// The metrics that depend on the objective.
    pub details: Details,
}

/// The metrics of an objective besides its loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Details {
    /// Demonstrations, token by token.
    Imitation(ImitationMetrics),
    /// Scores of pairs.
    Scores(ScoreMetrics),
    /// Preferences of a policy.
    Preferences(PreferenceMetrics),
}

/// Next-token prediction on demonstrations: means over tokens of completions. (TRL reports the mean of the
/// micro-batches' means, and includes prompt tokens in the entropy.)
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ImitationMetrics {
    /// The share of tokens that are the most likely token at their position.
    pub mean_token_accuracy: f64,
    /// The mean entropy of the next-token distributions, in nats.
    pub entropy: f64,
}

/// Scores of pairs of completions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreMetrics {
    /// The share of pairs whose chosen completion has the higher reward (or the lower cost).
    pub accuracy: f64,
    /// Mean reward of the chosen minus the rejected completions (for costs: rejected minus chosen).
    pub margin: f64,
    /// The lowest score. (TRL reports the mean over micro-batches of their lowest score, and likewise below.)
    pub min_reward: f64,
    /// The mean score.
    pub mean_reward: f64,
    /// The highest score.
    pub max_reward: f64,
    /// Costs only: the share of completions whose cost has the right sign, above 0 for unsafe ones.
    pub sign_accuracy: Option<f64>,
}

/// Implicit rewards β · (log π − log π_ref) and log-probabilities of whole completions, chosen and rejected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// Mean implicit reward of the chosen completions.
    pub rewards_chosen: f64,
    /// Mean implicit reward of the rejected completions.
    pub rewards_rejected: f64,
    /// The share of pairs whose chosen completion has the higher implicit reward.
    pub rewards_accuracies: f64,
    /// Mean difference of the two.
    pub rewards_margins: f64,
    /// Mean log-probability of the chosen completions, in nats.
    pub logps_chosen: f64,
    /// Mean log-probability of the rejected completions, in nats.
    pub logps_rejected: f64,
}

impl StepMetrics {
    /// Returns the metrics as one JSON object, under TRL's names (`loss`, `grad_norm`, `rewards/chosen`, …).
    #[must_use]
    pub fn log_line(&self) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("step".to_owned(), self.step.into());
        line.insert("epoch".to_owned(), self.epoch.into());
        line.insert("loss".to_owned(), self.loss.into());
        line.insert("grad_norm".to_owned(), self.grad_norm.into());
        line.insert("learning_rate".to_owned(), self.learning_rate.into());
        line.insert("num_tokens".to_owned(), self.num_tokens.into());
        line.insert("tokens_per_second".to_owned(), self.tokens_per_second.into());
        line.extend(self.details.named().map(|(name, value)| (name.to_owned(), value.into())));
        line
    }
}

impl Details {
    /// Each number with its name in TRL.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let named = match self {
            Self::Imitation(imitation) => {
                vec![("mean_token_accuracy", imitation.mean_token_accuracy), ("entropy", imitation.entropy)]
            }
            Self::Scores(scores) => {
                let mut named = vec![
                    ("accuracy", scores.accuracy),
                    ("margin", scores.margin),
                    ("min_reward", scores.min_reward),
                    ("mean_reward", scores.mean_reward),
                    ("max_reward", scores.max_reward),
                ];
                named.extend(scores.sign_accuracy.map(|accuracy| ("sign_accuracy", accuracy)));
                named
            }
            Self::Preferences(preferences) => vec![
                ("rewards/chosen", preferences.rewards_chosen),
                ("rewards/rejected", preferences.rewards_rejected),
                ("rewards/accuracies", preferences.rewards_accuracies),
                ("rewards/margins", preferences.rewards_margins),
                ("logps/chosen", preferences.logps_chosen),
                ("logps/rejected", preferences.logps_rejected),
            ],
        };
        named.into_iter()
    }
}

impl ImitationMetrics {
    /// From the completions' tokens: whether each is the most likely (1 or 0), and the entropy at its
    /// position.
    pub(super) fn of_tokens(hits: &[f32], entropy: &[f32]) -> Self {
        let of = |numbers: &[f32]| mean(numbers.iter().map(|&number| f64::from(number)));
        Self { mean_token_accuracy: of(hits), entropy: of(entropy) }
    }
}

impl ScoreMetrics {
    /// From pairs of rewards, `[chosen, rejected]`; at least one.
    pub(super) fn of_rewards(pairs: &[[f32; 2]]) -> Self {
        let all = || pairs.iter().flatten().map(|&score| f64::from(score));
        Self {
            accuracy: mean(pairs.iter().map(|[chosen, rejected]| share(chosen > rejected))),
            margin: mean(pairs.iter().map(|&[chosen, rejected]| f64::from(chosen) - f64::from(rejected))),
            min_reward: all().fold(f64::INFINITY, f64::min),
            mean_reward: mean(all()),
            max_reward: all().fold(f64::NEG_INFINITY, f64::max),
            sign_accuracy: None,
        }
    }

    /// From pairs of costs, `[chosen, rejected]`, with the safety of each.
    pub(super) fn of_costs(pairs: &[[f32; 2]], is_unsafe: &[[bool; 2]]) -> Self {
        let turned: Vec<[f32; 2]> = pairs.iter().map(|&[chosen, rejected]| [-chosen, -rejected]).collect();
        let right = pairs.iter().flatten().zip(is_unsafe.iter().flatten());
        let Self { accuracy, margin, .. } = Self::of_rewards(&turned);
        let sign_accuracy = Some(mean(right.map(|(&cost, &is_unsafe)| share((cost > 0.0) == is_unsafe))));
        Self { accuracy, margin, sign_accuracy, ..Self::of_rewards(pairs) }
    }
}

impl PreferenceMetrics {
    /// From pairs of log-probabilities under the policy and the reference, `[chosen, rejected]`.
    pub(super) fn of_logprobs(policy: &[[f32; 2]], reference: &[[f32; 2]], beta: f32) -> Self {
        let rewards: Vec<[f64; 2]> = policy
            .iter()
            .zip(reference)
            .map(|(policy, reference)| {
                [0, 1].map(|side| f64::from(beta) * (f64::from(policy[side]) - f64::from(reference[side])))
            })
            .collect();
        Self {
            rewards_chosen: mean(rewards.iter().map(|pair| pair[0])),
            rewards_rejected: mean(rewards.iter().map(|pair| pair[1])),
            rewards_accuracies: mean(rewards.iter().map(|pair| share(pair[0] > pair[1]))),
            rewards_margins: mean(rewards.iter().map(|pair| pair[0] - pair[1])),
            logps_chosen: mean(policy.iter().map(|pair| f64::from(pair[0]))),
            logps_rejected: mean(policy.iter().map(|pair| f64::from(pair[1]))),
        }
    }
}

fn share(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

/// Returns the mean; 0 for no numbers.
pub(crate) fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    analysis::mean(numbers).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_metrics_match_trl() {
        let scores = ScoreMetrics::of_rewards(&[[2.0, 0.5], [1.0, 1.0], [-3.0, 0.0]]);
        assert!((scores.accuracy - 1.0 / 3.0).abs() < 1e-12, "a tie is no hit");
        assert!((scores.margin - -0.5).abs() < 1e-12);
        assert_eq!((scores.min_reward, scores.max_reward), (-3.0, 2.0));
        assert!((scores.mean_reward - 0.25).abs() < 1e-12);
    }

    #[test]
    fn safer_completions_should_cost_less() {
        let costs = ScoreMetrics::of_costs(&[[-1.0, 2.0], [1.0, 0.5]], &[[false, true], [false, true]]);
        assert_eq!((costs.accuracy, costs.sign_accuracy), (0.5, Some(0.75)));
        assert!((costs.margin - 1.25).abs() < 1e-12);
        assert_eq!((costs.min_reward, costs.max_reward), (-1.0, 2.0));
    }

    #[test]
    fn implicit_rewards_are_gains_over_the_reference() {
        let metrics = PreferenceMetrics::of_logprobs(&[[-10.0, -12.0]], &[[-11.0, -11.5]], 0.1);
        assert!((metrics.rewards_chosen - 0.1).abs() < 1e-7);
        assert!((metrics.rewards_rejected - -0.05).abs() < 1e-7);
        assert!((metrics.rewards_margins - 0.15).abs() < 1e-7);
        assert_eq!((metrics.rewards_accuracies, metrics.logps_rejected), (1.0, -12.0));
    }

    #[test]
    fn log_lines_use_the_names_of_trl() {
        let details =
            Details::Preferences(PreferenceMetrics::of_logprobs(&[[-1.0, -2.0]], &[[-1.0, -2.0]], 0.1));
        let metrics = StepMetrics {
            step: 3,
            epoch: 0.5,
            loss: 0.7,
            grad_norm: 1.0,
            learning_rate: 1e-4,
            num_tokens: 10,
            tokens_per_second: 5.0,
            details,
        };
        let line = metrics.log_line();
        for name in ["loss", "grad_norm", "num_tokens", "rewards/margins", "logps/chosen"] {
            assert!(line.contains_key(name), "{name}");
        }
        assert_eq!(line.len(), 7 + 6);
    }
}
