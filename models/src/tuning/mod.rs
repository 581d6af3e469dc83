//! Tuning a policy against a reward: sample from it, score, learn, and again (PPO, GRPO, RLOO).
//!
//! [`PolicyTuner`] runs the iterations over a [`TunedPolicy`], which for models is a [`LoraPolicy`]; answers are judged by a
//! [`Scorer`], such as a [`RewardScorer`]. Each iteration, in TRL's order: draw prompts → sample → cut at the stop token → score
//! the text → log-probabilities of the policy and of the reference → advantages → epochs of steps over shuffled completions.
//! Token ids are kept from end to end: what was sampled is what is learnt from.
//!
//! [`preference_pairs`] makes pairs of scored completions, for methods that learn from pairs (DPO, RSO).

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
