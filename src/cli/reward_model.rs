//! The options of a reward model, for the commands that need one.

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::reward::{RewardKind, RewardOutput};
use dissent_models::checkpoint::ReadingRules;
use dissent_models::template::PromptTemplate;

use crate::config::{MissingCompletion, check_reward_template};
use crate::experiment::models::Model;

#[derive(Debug, clap::Args)]
pub(super) struct RewardModelOptions {
    /// Reward model: a Hugging Face folder or a GGUF file.
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "PATH")]
    reward: PathBuf,
    /// Keep only the first K layers of the reward model.
    #[arg(long, value_name = "K")]
    reward_layers: Option<u32>,
    /// PEFT LoRA folder of the reward model (SEQ_CLS, with its score head).
    #[arg(value_parser = crate::cli::paths::path(), long, value_name = "DIR")]
    reward_adapter: Option<PathBuf>,
    /// Template of the reward model [default: the policy's]
    #[arg(long, value_name = "TEMPLATE")]
    reward_template: Option<PromptTemplate>,
    /// Meaning of the reward model's score: `reward`, or `cost`, which is negated.
    #[arg(long, default_value = "reward", value_parser = reward_kind)]
    pub(super) reward_kind: RewardKind,
    #[command(flatten)]
    output: RewardOutputOptions,
}

/// The outputs of a reward model with several that make up its score.
#[derive(Debug, clap::Args)]
pub(super) struct RewardOutputOptions {
    /// Output of the reward model that is the score, counted from 0. Needed if it has several outputs.
    #[arg(long, value_name = "N", conflicts_with = "reward_weights")]
    reward_label: Option<u32>,
    /// Weight of each output of the reward model; the score is the weighted sum.
    #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_hyphen_values = true)]
    reward_weights: Option<Vec<f64>>,
}

impl RewardOutputOptions {
    pub(super) fn output(&self) -> Option<RewardOutput> {
        output(self.reward_label, self.reward_weights.as_deref())
    }
}

pub(super) fn reward_kind(text: &str) -> Result<RewardKind, String> {
    match text {
        "reward" => Ok(RewardKind::Reward),
        "cost" => Ok(RewardKind::Cost),
        other => Err(format!("unknown kind {other:?}: use reward or cost")),
    }
}

/// Returns the outputs that a label or weights choose.
pub(super) fn output(label: Option<u32>, weights: Option<&[f64]>) -> Option<RewardOutput> {
    label.map(RewardOutput::Label).or_else(|| weights.map(|weights| RewardOutput::Weights(weights.to_vec())))
}

impl RewardModelOptions {
    pub(super) fn open(&self) -> anyhow::Result<Model> {
        self.open_by(ReadingRules::default())
    }

    /// Opens the reward model by given reading rules.
    pub(super) fn open_by(&self, reading: ReadingRules) -> anyhow::Result<Model> {
        let adapter = self.reward_adapter.as_deref();
        Model::open_by(reading, &self.reward, self.reward_layers, adapter)
            .context("failed to open the reward model")?
            .choose_output(self.output.output())
    }

    /// Opens the reward model without its weights.
    pub(super) fn outline(&self) -> anyhow::Result<Model> {
        Model::outline(&self.reward, self.reward_layers, self.reward_adapter.as_deref())
            .context("failed to open the reward model")?
            .choose_output(self.output.output())
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
