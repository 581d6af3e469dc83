//! Opening the sessions of models, for the roles of this process only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use dissent_actors::{
    Base, Gold, GoldModel, LearningResources, LeaseTimes, ModelCache, OnnxTrainer, Policy, Proxy, Resources,
    Roles, StepError, StepFault, TrainableModel, Trainer,
};
use dissent_domain::event::StepName;
use dissent_domain::log::EventLog;
use dissent_domain::prompt::Prompt;
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::template::PromptTemplate;
use dissent_queues::Broker;
use dissent_storage::{ArtifactStore, Snapshots};

use crate::config::{Config, GoldConfig};
use crate::experiment::models::{Model, Models};
use crate::experiment::plan::PlannedExperiment;
use crate::gold::{ReferenceAnswers, Sentiment};

/// Largest number of rows of a model run. More rows gain little, because computation becomes the bottleneck
/// instead of reading weights.
const ROWS_MAX: usize = 32;

/// The storage and messaging of a process.
pub(crate) struct Backends {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) artifacts: ArtifactStore,
    /// The store of snapshots; `None` without a log.
    pub(crate) snapshots: Option<Snapshots>,
    /// Whether the run waits for judgements of people.
    pub(crate) waits_for_people: bool,
    /// The lease times of trainings.
    pub(crate) lease: LeaseTimes,
    /// Whether other processes may run steps too.
    pub(crate) shared: bool,
    /// The loaded models of the process.
    pub(crate) cache: ModelCache,
    /// Whether the models are loaded now, which finds their errors, or at their first use.
    pub(crate) loads_models: bool,
}

/// Returns the folder of snapshots in a data folder.
pub(crate) fn snapshots_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

/// Opens the sessions that the roles of this process need.
///
/// # Errors
/// If a model or the gold reward is unusable.
pub(crate) fn open(
    config: &Config,
    models: &Models,
    planned: PlannedExperiment,
    roles: Roles,
    backends: Backends,
) -> anyhow::Result<Resources> {
    let (runtime, options) = crate::experiment::models::runtime(&config.runtime, rows(config))?;
    let PlannedExperiment { plan, prompts, held_out } = planned;
    let Backends { log, broker, artifacts, snapshots, waits_for_people, lease, shared, cache, loads_models } =
        backends;
    let (options, cancel) = (&options, CancelFlag::new());
    let opener = SessionOpener { config, models, runtime, options, cancel, cache, loads_models };
    let learning = match &plan.learning {
        Some(_) => Some(opener.learning(&roles, held_out)?),
        None => None,
    };
    let policy = roles.need_policy().then(|| opener.policy()).transpose()?;
    let proxy = roles.need_reward_model().then(|| opener.proxy()).transpose()?;
    let cancel = opener.cancel;
    Ok(Resources {
        log,
        broker,
        artifacts,
        snapshots,
        roles,
        prompts,
        policy,
        proxy,
        learning,
        cancel,
        lease,
        shared,
        waits_for_people,
    })
}

/// Returns the rows of a model run: the completions of a batch, up to the maximum.
pub(crate) fn rows(config: &Config) -> usize {
    config.generation.batch_prompts.saturating_mul(config.generation.samples as usize).min(ROWS_MAX)
}

/// Opens sessions of models.
struct SessionOpener<'a> {
    config: &'a Config,
    models: &'a Models,
    runtime: &'static OnnxRuntime,
    options: &'a SessionOptions,
    cancel: CancelFlag,
    cache: ModelCache,
    loads_models: bool,
}

impl SessionOpener<'_> {
    fn policy(&self) -> anyhow::Result<Policy> {
        let model = &self.models.policy;
        let template: PromptTemplate = self.config.policy.template.parse()?;
        // An error with any prompt is an error of the configuration.
        template.render_prompt(&model.checkpoint.tokenizer, "prompt").context("policy.template")?;
        let policy = Policy::new(self.base(model), template, self.config.generation.batch_prompts);
        if self.loads_models {
            policy.load().with_context(|| format!("failed to start the policy {}", model.name))?;
        }
        Ok(policy)
    }

    fn proxy(&self) -> anyhow::Result<Proxy> {
        let model = &self.models.reward;
        let template: PromptTemplate = self.config.reward.template.parse()?;
        template
            .render_with_completion(&model.checkpoint.tokenizer, "prompt", "answer")
            .context("reward.template")?;
        let proxy = Proxy::new(self.base(model), template, self.config.reward.kind);
        if self.loads_models {
            proxy.load().with_context(|| format!("failed to start the reward model {}", model.name))?;
        }
        Ok(proxy)
    }

    fn base(&self, model: &Model) -> Base {
        model.base(self.runtime, self.options, &self.cache)
    }

    fn learning(&self, roles: &Roles, held_out: Vec<Prompt>) -> anyhow::Result<LearningResources> {
        let gold = if roles.need_gold() { self.gold()? } else { None };
        let policy = self.base(&self.models.policy);
        let reward = self.base(&self.models.reward);
        let trainer =
            if roles.contains(StepName::Training) { Some(self.trainer(&policy, &reward)?) } else { None };
        Ok(LearningResources { held_out, gold, trainer, policy, reward })
    }

    fn trainer(&self, policy: &Base, reward: &Base) -> anyhow::Result<Box<dyn Trainer>> {
        Ok(Box::new(OnnxTrainer {
            policy: TrainableModel { base: policy.clone(), template: self.config.policy.template.parse()? },
            reward: TrainableModel { base: reward.clone(), template: self.config.reward.template.parse()? },
            kind: self.config.reward.kind,
        }))
    }

    /// Opens the gold reward, if one is configured.
    fn gold(&self) -> anyhow::Result<Option<Box<dyn Gold>>> {
        Ok(match (&self.config.gold, &self.models.gold) {
            (Some(GoldConfig::Model(gold)), Some(model)) => {
                let template: PromptTemplate = gold.template.parse()?;
                template
                    .render_with_completion(&model.checkpoint.tokenizer, "prompt", "answer")
                    .context("gold.template")?;
                let opened = Proxy::new(self.base(model), template, gold.score);
                if self.loads_models {
                    let failed = || format!("failed to start the gold reward model {}", model.name);
                    opened.load().with_context(failed)?;
                }
                Some(Box::new(GoldModel::new(opened, self.cancel.clone())))
            }
            (Some(GoldConfig::Sentiment(_)), _) => Some(Box::new(GoldSentiment(Sentiment::new()))),
            (Some(GoldConfig::Answers(gold)), _) => {
                Some(Box::new(GoldAnswers(ReferenceAnswers::open(&gold.path)?)))
            }
            (Some(GoldConfig::Model(_)) | None, _) => None,
        })
    }
}

/// The sentiment of completions.
struct GoldSentiment(Sentiment);

impl Gold for GoldSentiment {
    fn score(&mut self, _: &Prompt, completions: &[String]) -> Result<Vec<f64>, StepError> {
        Ok(completions.iter().map(|completion| self.0.score(completion)).collect())
    }
}

/// The similarity of completions to reference answers.
struct GoldAnswers(ReferenceAnswers);

impl Gold for GoldAnswers {
    fn score(&mut self, prompt: &Prompt, completions: &[String]) -> Result<Vec<f64>, StepError> {
        let missing = || {
            let (gold, prompt_id) = (self.0.name().to_string(), prompt.prompt_id.clone());
            StepError::set_aside(StepFault::NoGold { gold, prompt_id })
        };
        completions.iter().map(|text| self.0.score(&prompt.prompt_id, text).ok_or_else(missing)).collect()
    }
}
