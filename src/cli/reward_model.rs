//! The reward model of the commands that need one: which it is, and how answers are put to it.

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::reward::RewardKind;
use dissent_models::template::PromptTemplate;

use super::score::reward_kind;
use crate::config::check_reward_template;
use crate::error::BadInput;
use crate::experiment::models::Model;

#[derive(Debug, clap::Args)]
pub(super) struct RewardModelOptions {
    /// The reward model: a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "PATH")]
    reward: PathBuf,
    /// Keep only the first K layers of the reward model.
    #[arg(long, value_name = "K")]
    reward_layers: Option<u32>,
    /// A PEFT LoRA folder (SEQ_CLS, with its score head) for the reward model.
    #[arg(long, value_name = "DIR")]
    reward_adapter: Option<PathBuf>,
    /// The reward model's template, if it is another than the policy's.
    #[arg(long, value_name = "TEMPLATE")]
    reward_template: Option<PromptTemplate>,
    /// What the reward model's score means: `reward`, or `cost` to negate it.
    #[arg(long, default_value = "reward", value_parser = reward_kind)]
    pub(super) reward_kind: RewardKind,
}

impl RewardModelOptions {
    pub(super) fn open(&self) -> anyhow::Result<Model> {
        Model::open(&self.reward, self.reward_layers, self.reward_adapter.as_deref())
            .context("the reward model")
    }

    /// How answers are put to it, where a policy has this template.
    pub(super) fn template<'a>(
        &'a self,
        of_policy: &'a PromptTemplate,
    ) -> Result<&'a PromptTemplate, BadInput> {
        let template = self.reward_template.as_ref().unwrap_or(of_policy);
        check_reward_template(template).map_err(BadInput)?;
        Ok(template)
    }

    /// Its template, where it has one of its own.
    pub(super) fn own_template(&self) -> Option<&PromptTemplate> {
        self.reward_template.as_ref()
    }
}
