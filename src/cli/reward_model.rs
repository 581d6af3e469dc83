//! The options of a reward model, for the commands that need one.

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::reward::RewardKind;
use dissent_models::template::PromptTemplate;

use super::score::reward_kind;
use crate::config::{MissingCompletion, check_reward_template};
use crate::experiment::models::Model;

#[derive(Debug, clap::Args)]
pub(super) struct RewardModelOptions {
    /// Reward model: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "PATH")]
    reward: PathBuf,
    /// Keep only the first K layers of the reward model.
    #[arg(long, value_name = "K")]
    reward_layers: Option<u32>,
    /// PEFT LoRA folder of the reward model (SEQ_CLS, with its score head).
    #[arg(long, value_name = "DIR")]
    reward_adapter: Option<PathBuf>,
    /// Template of the reward model [default: the policy's]
    #[arg(long, value_name = "TEMPLATE")]
    reward_template: Option<PromptTemplate>,
    /// Meaning of the reward model's score: `reward`, or `cost`, which is negated.
    #[arg(long, default_value = "reward", value_parser = reward_kind)]
    pub(super) reward_kind: RewardKind,
}

impl RewardModelOptions {
    pub(super) fn open(&self) -> anyhow::Result<Model> {
        Model::open(&self.reward, self.reward_layers, self.reward_adapter.as_deref())
            .context("failed to open the reward model")
    }

    /// Returns the template of the reward model: its own, or that of the policy.
    ///
    /// # Errors
    /// If the template does not place the completion.
    pub(super) fn template<'a>(
        &'a self,
        policy_template: &'a PromptTemplate,
    ) -> Result<&'a PromptTemplate, MissingCompletion> {
        let template = self.reward_template.as_ref().unwrap_or(policy_template);
        check_reward_template(template)?;
        Ok(template)
    }

    /// Returns the reward model's own template, if it has one.
    pub(super) fn own_template(&self) -> Option<&PromptTemplate> {
        self.reward_template.as_ref()
    }
}
