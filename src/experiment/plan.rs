//! From a configuration to the plan of an experiment: paths become fingerprints, prompts become an artifact.

use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_storage::ArtifactStore;

use super::models::Models;
use super::{learning_plan, prompt_artifact};
use crate::config::Config;
use crate::dataset::prompts;

/// A plan, with the prompts that it names, which are kept as artifacts from here on.
pub struct PlannedExperiment {
    /// What will be done.
    pub plan: Plan,
    /// The prompts that conflicts are looked for on.
    pub prompts: Vec<Prompt>,
    /// The prompts that policies are evaluated on; empty where nothing is learnt.
    pub held_out: Vec<Prompt>,
}

/// The plan of a configuration.
///
/// # Errors
/// If prompts or data cannot be read, do not go together, or an artifact cannot be written.
pub fn plan(
    config: &Config,
    models: &Models,
    artifacts: &ArtifactStore,
) -> anyhow::Result<PlannedExperiment> {
    let prompts = prompts::read(&config.prompts.path)?;
    let (learning, held_out) = learning_plan::plan(config, models, &prompts, artifacts)?.unzip();
    let plan = Plan {
        experiment: config.experiment.name.clone(),
        seed: config.experiment.seed,
        rounds: config.experiment.rounds,
        prompts: prompt_artifact::keep(&prompts, artifacts)?,
        policy: PolicyPlan {
            name: models.policy.name.clone(),
            fingerprint: models.policy.fingerprint.clone(),
            template: config.policy.template.clone(),
        },
        reward: RewardPlan {
            name: models.reward.name.clone(),
            fingerprint: models.reward.fingerprint.clone(),
            template: config.reward.template.clone(),
            kind: config.reward.kind,
        },
        sampling: config.generation.sampling(),
        conflict: ConflictPlan { logprob: config.conflict.logprob, selection: config.conflict.selection() },
        learning: learning.map(Box::new),
    };
    Ok(PlannedExperiment { plan, prompts, held_out: held_out.unwrap_or_default() })
}
