//! The plan of an experiment, derived from its configuration. Paths become fingerprints, and prompts an
//! artifact.

use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_storage::ArtifactStore;

use super::kept_settings::KeptSettings;
use super::models::Models;
use super::{learning_plan, prompt_artifact};
use crate::config::Config;
use crate::dataset::prompts;

/// A plan with its prompts, which are stored as artifacts.
pub struct PlannedExperiment {
    /// The plan to record or to compare.
    pub plan: Plan,
    /// The prompts on which conflict is measured.
    pub prompts: Vec<Prompt>,
    /// The prompts on which policies are evaluated; empty without learning.
    pub held_out: Vec<Prompt>,
}

/// Derives the plan of a configuration. Settings that it does not name are those in `kept`.
///
/// # Errors
/// If prompts or data are unreadable or inconsistent, or an artifact cannot be written.
pub fn plan(
    config: &Config,
    models: &Models,
    artifacts: &ArtifactStore,
    kept: &KeptSettings,
) -> anyhow::Result<PlannedExperiment> {
    let prompts = prompts::read(&config.prompts.path, &config.prompts.ignore)?;
    let (learning, held_out) = learning_plan::plan(config, models, &prompts, artifacts, kept)?.unzip();
    let plan = Plan {
        experiment: config.experiment.name.clone(),
        seed: config.experiment.seed,
        rounds: config.experiment.rounds,
        prompts: prompt_artifact::store(&prompts, artifacts)?,
        policy: PolicyPlan {
            name: models.policy.name.clone(),
            fingerprint: models.policy.fingerprint.clone(),
            template: config.policy.template.clone(),
            weights: config.policy.weights,
        },
        reward: RewardPlan {
            name: models.reward.name.clone(),
            fingerprint: models.reward.fingerprint.clone(),
            template: config.reward.template.clone(),
            kind: config.reward.kind,
            output: config.reward.output(),
        },
        sampling: config.generation.sampling(),
        conflict: ConflictPlan { logprob: config.conflict.logprob, selection: config.conflict.selection() },
        learning: learning.map(Box::new),
        reading_rules: models.reading.version(),
        sampling_key: kept.sampling_key.clone(),
    };
    Ok(PlannedExperiment { plan, prompts, held_out: held_out.unwrap_or_default() })
}
