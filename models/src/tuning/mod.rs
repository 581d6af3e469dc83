//! Tuning a policy against a reward, by PPO, GRPO or RLOO.
//!
//! [`PolicyTuner`] runs the iterations over a [`TunedPolicy`], for models a [`LoraPolicy`]. A [`Scorer`]
//! rewards the completions, for example a [`RewardScorer`]. The order of an iteration is TRL's: draw prompts
//! → sample → cut at the stop token → score the text → log-probabilities of policy and reference → advantages
//! → epochs of steps over shuffled completions. Token ids are kept from end to end, so a policy is trained on
//! exactly the sampled tokens.
//!
//! [`preference_pairs`] makes pairs of scored completions, for methods that train on pairs (DPO, RSO).

mod checkpoint;
mod grpo;
mod lora_policy;
mod method;
mod phases;
mod policy;
mod ppo;
pub mod preference_pairs;
mod reward_scorer;
mod rloo;
mod rollout;
mod rollout_math;
mod tuner;

pub use checkpoint::TuningCheckpoint;
pub use lora_policy::{LoraPolicy, PolicyStart, ReferencePolicy};
pub use phases::PhaseTimes;
pub use policy::{EvaluatedModel, TunedPolicy};
pub use reward_scorer::RewardScorer;
pub use rollout::{Rollout, SampledCompletion, Scorer, TuningPrompt};
pub use tuner::{IterationReport, PolicyTuner, TuningHooks, TuningSettings};

#[cfg(test)]
mod tests;
