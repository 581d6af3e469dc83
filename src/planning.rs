//! From a configuration to the plan of an experiment: paths become fingerprints, prompts become an artifact.

use anyhow::Context as _;
use dissent_domain::experiment::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_storage::ArtifactStore;

use crate::config::Config;
use crate::loading::Model;
use crate::prompts;

/// The models of an experiment, opened but not running.
pub struct Models {
    /// The policy.
    pub policy: Model,
    /// The proxy reward model.
    pub reward: Model,
}

impl Models {
    /// Opens both.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let (policy, reward) = (&config.policy, &config.reward);
        Ok(Self {
            policy: Model::open(&policy.path, None, policy.adapter.as_deref()).context("the policy")?,
            reward: Model::open(&reward.path, reward.layers, reward.adapter.as_deref())
                .context("the reward model")?,
        })
    }
}

/// The plan, with its prompts, which are kept as an artifact from here on.
///
/// # Errors
/// If the prompts cannot be read or the artifact not written.
pub fn plan(
    config: &Config,
    models: &Models,
    artifacts: &ArtifactStore,
) -> anyhow::Result<(Plan, Vec<Prompt>)> {
    let prompts = prompts::read(&config.prompts.path)?;
    let mut lines = Vec::new();
    for prompt in &prompts {
        serde_json::to_writer(&mut lines, prompt)?;
        lines.push(b'\n');
    }
    let artifact = artifacts.put_bytes(&lines)?;
    let plan = Plan {
        experiment: config.experiment.name.clone(),
        seed: config.experiment.seed,
        rounds: config.experiment.rounds,
        prompts: PromptSource { artifact: artifact.to_string(), count: u32::try_from(prompts.len())? },
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
    };
    Ok((plan, prompts))
}

/// The first difference between two plans, for a person to read; none if they are the same.
#[must_use]
pub fn difference(recorded: &Plan, wanted: &Plan) -> Option<String> {
    if recorded == wanted {
        return None;
    }
    let (recorded, wanted) = (serde_json::to_value(recorded).ok()?, serde_json::to_value(wanted).ok()?);
    first_difference("", &recorded, &wanted)
}

fn first_difference(key: &str, recorded: &serde_json::Value, wanted: &serde_json::Value) -> Option<String> {
    match (recorded.as_object(), wanted.as_object()) {
        (Some(recorded), Some(wanted)) => recorded.iter().find_map(|(name, value)| {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            first_difference(&key, value, wanted.get(name).unwrap_or(&serde_json::Value::Null))
        }),
        _ if recorded == wanted => None,
        _ => Some(match key {
            // Hashes say nothing to a person.
            "prompts.artifact" => "the prompts are not the same".to_owned(),
            "policy.fingerprint" => "the policy's weights or adapter are not the same".to_owned(),
            "reward.fingerprint" => {
                "the reward model's weights, layers or adapter are not the same".to_owned()
            }
            _ => format!("{key} was {recorded}, now {wanted}"),
        }),
    }
}
