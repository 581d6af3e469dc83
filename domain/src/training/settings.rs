//! Settings of a training. Every field determines the result, so the experiment's plan has all of them.

use serde::{Deserialize, Serialize};

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} = {value} is out of range: use {range}")]
pub struct SettingError {
    /// The setting's name, as in the configuration file.
    pub name: &'static str,
    /// The value found.
    pub value: f64,
    /// The allowed range.
    pub range: &'static str,
}

fn check(ok: bool, name: &'static str, value: f64, range: &'static str) -> Result<(), SettingError> {
    if ok { Ok(()) } else { Err(SettingError { name, value, range }) }
}

/// Schedule of the learning rate, like the schedule of the same name in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Constant after the warm-up.
    Constant,
    /// Linear, down to 0.
    #[default]
    Linear,
    /// Half a cosine, down to 0.
    Cosine,
}

/// Length of the warm-up, in which the learning rate rises from 0 to its peak.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// A number of steps.
    Steps(u64),
    /// A share of all steps, in [0, 1], rounded up.
    Ratio(f64),
}

impl Default for Warmup {
    fn default() -> Self {
        Self::Steps(0)
    }
}

/// Low-rank adaptation (arXiv 2106.09685).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// The rank r of each change, ≥ 1.
    pub r: u32,
    /// The scale of the change: it is multiplied by alpha / r.
    pub alpha: f64,
    /// Names of the adapted projections, such as `q_proj` (Llama) or `query_key_value` (GPT-NeoX). Empty: the
    /// query and value projections, or the fused one, as in PEFT for these architectures.
    pub targets: Vec<String>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self { r: 8, alpha: 32.0, targets: Vec::new() }
    }
}

/// The settings of every training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hyperparameters {
    /// Peak learning rate, > 0.
    pub learning_rate: f64,
    /// The schedule of the learning rate.
    pub schedule: Schedule,
    /// The warm-up of the learning rate.
    pub warmup: Warmup,
    /// Passes over the data, > 0; fractions are allowed.
    pub epochs: f64,
    /// Number of optimiser steps; if set, it overrides `epochs`.
    pub steps: Option<u64>,
    /// Examples in one micro-batch, ≥ 1. In preference data an example is a pair.
    pub batch_size: u32,
    /// Micro-batches whose gradients are accumulated for one step, ≥ 1.
    pub gradient_accumulation: u32,
    /// Longest example, in tokens. Longer ones are left out, and the report has their number.
    pub max_length: u32,
    /// Decoupled weight decay of AdamW, ≥ 0.
    pub weight_decay: f64,
    /// Largest global norm of the gradients, which are scaled down to it; 0: no clipping.
    pub max_grad_norm: f64,
    /// Decay rates of the first and second moment of AdamW, each in [0, 1).
    pub adam_betas: [f64; 2],
    /// AdamW's ε, > 0.
    pub adam_epsilon: f64,
    /// The low-rank adaptation; `None`: all weights are trained.
    pub lora: Option<LoraSettings>,
    /// Whether activations within a layer are recomputed for the gradient: less memory, more time, the same
    /// result.
    pub recompute: bool,
    /// The seed of the initial values and of the data order.
    pub seed: u64,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: Schedule::Linear,
            warmup: Warmup::Steps(0),
            epochs: 1.0,
            steps: None,
            batch_size: 8,
            gradient_accumulation: 1,
            max_length: 512,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            adam_betas: [0.9, 0.999],
            adam_epsilon: 1e-8,
            lora: Some(LoraSettings::default()),
            recompute: false,
            seed: 0,
        }
    }
}

impl Hyperparameters {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        check(positive(self.learning_rate), "learning_rate", self.learning_rate, "a number above 0")?;
        check(positive(self.epochs), "epochs", self.epochs, "a number above 0")?;
        if let Some(steps) = self.steps {
            check(steps >= 1, "steps", steps as f64, "at least 1")?;
        }
        if let Warmup::Ratio(ratio) = self.warmup {
            check((0.0..=1.0).contains(&ratio), "warmup", ratio, "0 to 1 as a ratio")?;
        }
        check((1..=4096).contains(&self.batch_size), "batch_size", f64::from(self.batch_size), "1 to 4096")?;
        let accumulation = f64::from(self.gradient_accumulation);
        check(
            (1..=65_536).contains(&self.gradient_accumulation),
            "gradient_accumulation",
            accumulation,
            "1 to 65536",
        )?;
        check(
            (2..=32_768).contains(&self.max_length),
            "max_length",
            f64::from(self.max_length),
            "2 to 32768",
        )?;
        check(not_negative(self.weight_decay), "weight_decay", self.weight_decay, "0 or more")?;
        check(
            not_negative(self.max_grad_norm),
            "max_grad_norm",
            self.max_grad_norm,
            "0 (never clip) or more",
        )?;
        for beta in self.adam_betas {
            check((0.0..1.0).contains(&beta), "adam_betas", beta, "0 or more, below 1")?;
        }
        check(positive(self.adam_epsilon), "adam_epsilon", self.adam_epsilon, "a number above 0")?;
        let Some(lora) = &self.lora else { return Ok(()) };
        check((1..=65_536).contains(&lora.r), "lora.r", f64::from(lora.r), "1 to 65536")?;
        check(
            lora.alpha.is_finite() && lora.alpha != 0.0,
            "lora.alpha",
            lora.alpha,
            "a finite number other than 0",
        )
    }
}

/// The loss of direct preference optimisation (arXiv 2305.18290) and its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// −log σ(β·h): DPO.
    #[default]
    Sigmoid,
    /// (h − 1/(2β))²: IPO (arXiv 2310.12036).
    Ipo,
    /// max(0, 1 − β·h).
    Hinge,
}

/// Method that tunes a policy against a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMethod {
    /// Direct preference optimisation on pairs of the round's completions, ranked by the refined reward
    /// model.
    #[default]
    Dpo,
    /// Like `dpo`, on pairs of completions kept by rejection sampling (arXiv 2309.06657).
    Rso,
    /// Proximal policy optimisation (arXiv 1707.06347).
    Ppo,
    /// Group-relative policy optimisation (arXiv 2402.03300).
    Grpo,
    /// REINFORCE with a leave-one-out baseline (arXiv 2402.14740).
    Rloo,
}

/// Estimator of the KL divergence from the reference, per token, like `kl_estimator` of TRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// log π − log π_ref: unbiased, may be negative.
    #[default]
    K1,
    /// k1² / 2: biased, never negative, low variance.
    K2,
    /// exp(−k1) − 1 + k1: unbiased, never negative.
    K3,
}

/// Settings of the tuning of a policy: the method, its tie to the reference, and the settings of the methods
/// that sample as they learn. Defaults are those of TRL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyObjective {
    /// The method.
    pub method: PolicyMethod,
    /// DPO and RSO: β, the strength of the tie to the reference, > 0.
    pub beta: f64,
    /// DPO and RSO: the loss.
    pub loss: DpoLoss,
    /// Settings of PPO, GRPO and RLOO.
    pub ppo: PpoSettings,
}

impl Default for PolicyObjective {
    fn default() -> Self {
        Self { method: PolicyMethod::Dpo, beta: 0.1, loss: DpoLoss::Sigmoid, ppo: PpoSettings::default() }
    }
}

/// Settings of the methods that sample as they learn: PPO, GRPO and RLOO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoSettings {
    /// Prompts sampled for one iteration, ≥ 1.
    pub prompts: u32,
    /// Completions per prompt: 1 for PPO, ≥ 2 for GRPO and RLOO.
    pub samples: u32,
    /// Number of iterations, ≥ 1. Each samples, scores and learns.
    pub iterations: u32,
    /// Passes over the completions of an iteration, ≥ 1.
    pub epochs: u32,
    /// Largest number of new tokens of a completion.
    pub max_new_tokens: u32,
    /// Sampling temperature, > 0. Log-probabilities are those of the untempered model.
    pub temperature: f64,
    /// Largest distance of the probability ratio from 1 before it is clipped, in (0, 1).
    pub clip: f64,
    /// PPO: largest change of a value before it is clipped, > 0.
    pub value_clip: f64,
    /// PPO: the weight of the value loss, ≥ 0.
    pub value_coefficient: f64,
    /// The weight of the KL divergence from the reference, ≥ 0.
    pub kl_coefficient: f64,
    /// The estimator of that divergence.
    pub kl_estimator: KlEstimator,
    /// Target of the KL divergence, in nats per completion. If set, the coefficient is adapted to it.
    pub kl_target: Option<f64>,
    /// Horizon of the adaptive coefficient, in completions: a smaller horizon adapts faster.
    pub kl_horizon: f64,
    /// Discount γ of GAE, in [0, 1].
    pub gamma: f64,
    /// λ of GAE, in [0, 1].
    pub lambda: f64,
    /// Subtracted from the score of a completion without a stop token or stop text; nothing if `None`.
    pub missing_eos_penalty: Option<f64>,
    /// PPO: whether advantages are whitened.
    pub whiten_advantages: bool,
    /// Texts that end a completion, beside the model's stop tokens; at most 16 of 1 to 256 bytes. The score
    /// is that of the text before them. It is the last field, because snapshots hold fields by their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl Default for PpoSettings {
    fn default() -> Self {
        Self {
            prompts: 8,
            samples: 1,
            iterations: 10,
            epochs: 4,
            max_new_tokens: 64,
            temperature: 0.7,
            clip: 0.2,
            value_clip: 0.2,
            value_coefficient: 0.1,
            kl_coefficient: 0.05,
            kl_estimator: KlEstimator::K1,
            kl_target: None,
            kl_horizon: 10_000.0,
            gamma: 1.0,
            lambda: 0.95,
            missing_eos_penalty: None,
            whiten_advantages: true,
            stop: Vec::new(),
        }
    }
}

impl PolicyObjective {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), SettingError> {
        check(self.beta > 0.0 && self.beta.is_finite(), "beta", self.beta, "a number above 0")?;
        let ppo = &self.ppo;
        let samples_min = match self.method {
            PolicyMethod::Grpo | PolicyMethod::Rloo => 2,
            PolicyMethod::Dpo | PolicyMethod::Rso | PolicyMethod::Ppo => 1,
        };
        let range = if samples_min == 2 { "2 to 1024 for grpo and rloo" } else { "1 to 1024" };
        check((samples_min..=1024).contains(&ppo.samples), "ppo.samples", f64::from(ppo.samples), range)?;
        for (name, count) in [
            ("ppo.prompts", ppo.prompts),
            ("ppo.iterations", ppo.iterations),
            ("ppo.epochs", ppo.epochs),
            ("ppo.max_new_tokens", ppo.max_new_tokens),
        ] {
            check((1..=65_536).contains(&count), name, f64::from(count), "1 to 65536")?;
        }
        let longest = ppo.stop.iter().map(String::len).max().unwrap_or(1);
        let texts = ppo.stop.len() <= 16 && longest <= 256 && ppo.stop.iter().all(|text| !text.is_empty());
        check(texts, "ppo.stop", ppo.stop.len() as f64, "at most 16 texts of 1 to 256 bytes")?;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        check(positive(ppo.temperature), "ppo.temperature", ppo.temperature, "a number above 0")?;
        check(ppo.clip > 0.0 && ppo.clip < 1.0, "ppo.clip", ppo.clip, "a number above 0 and below 1")?;
        check(positive(ppo.value_clip), "ppo.value_clip", ppo.value_clip, "a number above 0")?;
        for (name, value) in [
            ("ppo.value_coefficient", ppo.value_coefficient),
            ("ppo.kl_coefficient", ppo.kl_coefficient),
            ("ppo.missing_eos_penalty", ppo.missing_eos_penalty.unwrap_or(0.0)),
        ] {
            check(value >= 0.0 && value.is_finite(), name, value, "0 or more")?;
        }
        let target = ppo.kl_target.unwrap_or(1.0);
        check(positive(target), "ppo.kl_target", target, "a number above 0")?;
        check(positive(ppo.kl_horizon), "ppo.kl_horizon", ppo.kl_horizon, "a number above 0")?;
        check((0.0..=1.0).contains(&ppo.gamma), "ppo.gamma", ppo.gamma, "0 to 1")?;
        check((0.0..=1.0).contains(&ppo.lambda), "ppo.lambda", ppo.lambda, "0 to 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(Hyperparameters::default().validate(), Ok(()));
        assert_eq!(PolicyObjective::default().validate(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let error =
            Hyperparameters { learning_rate: 0.0, ..Hyperparameters::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "learning_rate = 0 is out of range: use a number above 0");
        let group_of_one = PolicyObjective { method: PolicyMethod::Grpo, ..PolicyObjective::default() };
        assert_eq!(group_of_one.validate().unwrap_err().name, "ppo.samples");
    }
}
