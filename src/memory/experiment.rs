//! The memory of an experiment: of each step, and of the process that runs all of them.

use anyhow::Context as _;
use dissent_domain::prompt::Prompt;
use dissent_domain::training::{Hyperparameters, PolicyMethod};
use dissent_models::memory::Decoding;
use dissent_models::template::PromptTemplate;
use dissent_models::training::memory::{BatchShape, largest_batch};
use dissent_models::training::{DataOrder, Objective, TrainingHead, TrainingSetup};
use dissent_models::tuning::TuningSettings;

use super::{Forecast, StepForecast, steps};
use crate::config::{Config, GoldConfig, LearningConfig};
use crate::dataset::prompts;
use crate::experiment::models::{Model, Models};
use crate::experiment::start::rows;

/// Predicts the memory of an experiment from its configuration, its prompts and the headers of its models.
/// Completions and examples are taken as long as the configuration allows.
///
/// # Errors
/// If the configuration's files cannot be read, or a model cannot do what is asked.
pub(crate) fn forecast(config: &Config) -> anyhow::Result<Forecast> {
    let models = Models::outline(config)?;
    let mut prompts = prompts::read(&config.prompts.path, &config.prompts.ignore)?;
    if let Some(evaluation) = &config.evaluation {
        prompts.extend(prompts::read(&evaluation.prompts, &config.prompts.ignore)?);
    }
    let experiment = Experiment { config, models: &models, prompts: &prompts };
    let generation = steps::generation(&models.policy, experiment.generated()?).context("generation")?;
    let reward = (&models.reward, config.reward.template.as_str());
    let reward = steps::reward_scoring("reward", reward.0, experiment.scored(reward)?).context("reward")?;
    let mut open = vec![generation, reward];
    if let (Some(GoldConfig::Model(gold)), Some(model)) = (&config.gold, &models.gold) {
        let decoding = experiment.scored((model, gold.template.as_str()))?;
        open.push(steps::reward_scoring("gold reward", model, decoding).context("gold reward")?);
    }
    let trainings = match config.learning() {
        Some(learning) => experiment.learning(&learning)?,
        None => Vec::new(),
    };
    Ok(Forecast::of_process(open, trainings))
}

struct Experiment<'a> {
    config: &'a Config,
    models: &'a Models,
    prompts: &'a [Prompt],
}

impl Experiment<'_> {
    /// The sequences of generation.
    fn generated(&self) -> anyhow::Result<Decoding> {
        let (model, template) = (&self.models.policy, self.config.policy.template.parse::<PromptTemplate>()?);
        let encode = |prompt: &Prompt| {
            Ok(template.encode_dialogue(&model.checkpoint.tokenizer, &prompt.dialogue())?.len())
        };
        self.decoding(model, encode)
    }

    /// The sequences of a reward model.
    fn scored(&self, (model, template): (&Model, &str)) -> anyhow::Result<Decoding> {
        let (template, tokenizer) = (template.parse::<PromptTemplate>()?, &model.checkpoint.tokenizer);
        let encode = |prompt: &Prompt| {
            let dialogue = prompt.dialogue();
            Ok(template.encode_dialogue_with_completion(tokenizer, &dialogue, "")?.len())
        };
        self.decoding(model, encode)
    }

    fn decoding(
        &self,
        model: &Model,
        encode: impl Fn(&Prompt) -> anyhow::Result<usize>,
    ) -> anyhow::Result<Decoding> {
        let mut longest = 1;
        for prompt in self.prompts {
            longest = longest.max(encode(prompt)?);
        }
        let config = &model.checkpoint.config;
        let completion = usize::try_from(self.config.generation.sampling().max_new_tokens)?;
        let prompt = longest.min(config.context_length);
        Ok(Decoding { prompt, completion, rows: rows(self.config), distinct_tokens: config.vocab_size })
    }

    fn learning(&self, learning: &LearningConfig<'_>) -> anyhow::Result<Vec<StepForecast>> {
        let Self { config, models, .. } = self;
        let seed = config.experiment.seed;
        let refinement = learning.refinement.hyperparameters(seed, None);
        let scored = self.scored((&models.reward, config.reward.template.as_str()))?;
        let longest = if learning.refinement.data.is_some() { usize::MAX } else { length(scored) };
        let objective = Objective::Reward { center: 0.0 };
        let pairs = pair_batch(TrainingHead::Score, &refinement, &models.reward, longest, 1);
        let refinement = setup(objective, refinement);
        let refinement = steps::training_of_shape("refinement", &models.reward, &refinement, pairs)
            .context("refinement")?;
        let generated = self.generated()?;
        let settings = learning.tuning.hyperparameters(seed, None);
        let tuning = self.tuning(learning, settings, generated).context("tuning")?;
        let evaluation =
            steps::policy_scoring(&models.policy, generated).context("evaluation")?.named("evaluation");
        Ok(vec![refinement, tuning, evaluation])
    }

    fn tuning(
        &self,
        learning: &LearningConfig<'_>,
        settings: Hyperparameters,
        generated: Decoding,
    ) -> anyhow::Result<StepForecast> {
        let policy = &self.models.policy;
        let objective = learning.tuning.objective();
        let (longest, head) = (length(generated), TrainingHead::Vocabulary);
        let pairs = pair_batch(head, &settings, policy, longest, generated.completion);
        #[expect(clippy::cast_possible_truncation, reason = "a setting of a few digits")]
        let beta = objective.beta as f32;
        let dpo = Objective::Dpo { loss: objective.loss, beta, linear: 0.0 };
        match objective.method {
            PolicyMethod::Dpo | PolicyMethod::Rso => {
                Ok(steps::training_of_shape("tuning", policy, &setup(dpo, settings), pairs)?)
            }
            PolicyMethod::Ppo | PolicyMethod::Grpo | PolicyMethod::Rloo => {
                Ok(steps::tuning(policy, &TuningSettings { objective, training: settings }, generated)?)
            }
        }
    }
}

fn length(decoding: Decoding) -> usize {
    decoding.prompt + decoding.completion
}

fn setup(objective: Objective, settings: Hyperparameters) -> TrainingSetup {
    TrainingSetup { objective, settings, order: DataOrder::Shuffled }
}

/// Returns the largest micro-batch of pairs.
fn pair_batch(
    head: TrainingHead,
    settings: &Hyperparameters,
    model: &Model,
    longest: usize,
    completion: usize,
) -> BatchShape {
    let most = usize::try_from(settings.max_length).unwrap_or(usize::MAX);
    let longest = longest.min(most).min(model.checkpoint.config.context_length);
    let sequences = 2 * usize::try_from(settings.batch_size).unwrap_or(usize::MAX).max(1);
    largest_batch(head, sequences, longest, completion.min(longest.saturating_sub(1)).max(1))
}
