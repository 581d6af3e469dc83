//! The models of one round, opened to score a few texts again.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use dissent_domain::event::{Event, PromptEvent, TrainingEvent};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use dissent_storage::{ArtifactId, ArtifactStore};

use crate::config::Config;
use crate::error::BadInput;
use crate::experiment::kept_settings::KeptSettings;
use crate::experiment::models::{self, Model};
use crate::history;

/// Largest adapter that is read, in bytes.
const ADAPTER_BYTES_MAX: u64 = 4 << 30;

/// The policy and the proxy of a round.
pub(super) struct RoundModels {
    policy: PolicyScorer,
    proxy: RewardModel,
    policy_tokenizer: TextTokenizer,
    proxy_tokenizer: TextTokenizer,
    template: PromptTemplate,
    kind: RewardKind,
}

/// What the log says of the models of a round.
#[derive(Debug, Default)]
struct Recorded {
    policy: Option<String>,
    proxy: Option<String>,
    /// The artifact of each trained adapter, by the fingerprint of the model with it.
    adapters: HashMap<String, String>,
}

impl Recorded {
    fn read(log: &dyn EventLog, experiment: &ExperimentId, round: u32) -> anyhow::Result<Self> {
        let mut found = Self::default();
        history::each(log, experiment, None, &mut |recorded| {
            match recorded.decode()? {
                Event::Prompt(PromptEvent::Sampled(e)) if e.round == round => found.policy = Some(e.policy),
                Event::Prompt(PromptEvent::Scored(e)) if e.round == round => {
                    found.proxy = Some(e.reward_model);
                }
                Event::Training(TrainingEvent::PolicyTuned(e)) => {
                    found.adapters.insert(e.fingerprint, e.adapter);
                }
                Event::Training(TrainingEvent::RewardModelRefined(e)) => {
                    found.adapters.insert(e.fingerprint, e.adapter);
                }
                Event::Prompt(_)
                | Event::Training(_)
                | Event::Experiment(_)
                | Event::Operator(_)
                | Event::Round(_)
                | Event::Feedback(_)
                | Event::Evaluation(_) => {}
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns the model with the adapter that makes it the recorded one.
    fn version(
        &self,
        model: Model,
        wanted: Option<&str>,
        artifacts: &ArtifactStore,
    ) -> anyhow::Result<Model> {
        let Some(wanted) = wanted.filter(|wanted| *wanted != model.fingerprint) else { return Ok(model) };
        let adapter =
            self.adapters.get(wanted).map(|artifact| read_adapter(artifact, artifacts)).transpose()?;
        let found = dissent_actors::fingerprint(&model.checkpoint, adapter.as_ref());
        if found != wanted {
            let reason = format!(
                "{} is not the model of this experiment: use the configuration and the files that it ran with",
                model.name
            );
            return Err(BadInput(reason).into());
        }
        Ok(Model { adapter, fingerprint: found, ..model })
    }
}

fn read_adapter(artifact: &str, artifacts: &ArtifactStore) -> anyhow::Result<LoraAdapter> {
    let id: ArtifactId = artifact.parse()?;
    let bytes = artifacts.read(&id, ADAPTER_BYTES_MAX)?;
    LoraAdapter::from_artifact(&bytes).with_context(|| format!("artifact {artifact}"))
}

impl RoundModels {
    /// Opens the models that sampled and scored the completions of a round.
    pub(super) fn open(
        log: &dyn EventLog,
        experiment: &ExperimentId,
        round: u32,
        config: &Config,
        data_dir: &Path,
    ) -> anyhow::Result<Self> {
        let reading = KeptSettings::of_experiment(log, experiment)?.reading;
        let recorded = Recorded::read(log, experiment, round)?;
        let artifacts = config.artifacts.open(data_dir)?;
        let (policy, reward) = (&config.policy, &config.reward);
        let opened = Model::open_policy_by(reading, &policy.path, None, policy.adapter.as_deref())
            .context("failed to open the policy")?;
        let opened = recorded.version(opened, recorded.policy.as_deref(), &artifacts).context("[policy]")?;
        let proxy = Model::open_by(reading, &reward.path, reward.layers, reward.adapter.as_deref())
            .context("failed to open the reward model")?
            .choose_output(reward.output())
            .context("[reward]")?;
        let proxy = recorded.version(proxy, recorded.proxy.as_deref(), &artifacts).context("[reward]")?;
        let (runtime, options) = models::runtime(&config.runtime, 1)?;
        Ok(Self {
            policy: PolicyScorer::open(runtime, &opened.checkpoint, opened.adapter.as_ref(), &options)?,
            proxy: RewardModel::open(runtime, &proxy.checkpoint, proxy.adapter.as_ref(), &options)?,
            policy_tokenizer: opened.checkpoint.tokenizer,
            proxy_tokenizer: proxy.checkpoint.tokenizer,
            template: reward.template.parse()?,
            kind: reward.kind,
        })
    }

    /// The tokenizer of the policy.
    pub(super) fn tokenizer(&self) -> &TextTokenizer {
        &self.policy_tokenizer
    }

    /// Returns the policy's log-probability of each token, in nats, shape `[completion_ids]`.
    pub(super) fn logprobs(
        &mut self,
        prompt_ids: &[u32],
        completion_ids: &[u32],
        cancel: &CancelFlag,
    ) -> Result<Vec<f32>, ModelError> {
        let item = ScoreItem { prompt_ids: prompt_ids.to_vec(), completion_ids: completion_ids.to_vec() };
        Ok(self.policy.score(&[item], cancel, &mut |_| ())?.pop().unwrap_or_default())
    }

    /// Returns the proxy's rewards of texts as completions of a prompt, shape `[texts]`; larger is better.
    pub(super) fn rewards(
        &mut self,
        prompt: &Prompt,
        texts: &[String],
        cancel: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let dialogue = prompt.dialogue();
        let sequences = texts
            .iter()
            .map(|text| self.template.encode_dialogue_with_completion(&self.proxy_tokenizer, &dialogue, text))
            .collect::<Result<Vec<_>, _>>()?;
        let scores = self.proxy.score(&sequences, cancel, &mut |_| ())?;
        Ok(scores.into_iter().map(|score| self.kind.reward(f64::from(score))).collect())
    }
}
