//! A study on labelled completions: does conflict find the proxy's errors earlier than the baselines?
//!
//! The questions are split. Proxies are trained on the preferences of one part and tested on the held-out
//! part. No predictor sees a held-out preference.

mod data;
mod fine_grained;
mod question;
mod rows;

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::conflict::{LogprobKind, PairScore};
use dissent_domain::training::{Dialogue, Hyperparameters, Preference};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use serde::{Deserialize, Serialize};

use super::opponents::{self, AskedSample, OpponentTable};
use super::prediction::{IntervalMethod, Predictions, Predictor, Sample, ScoredPrompt, evaluate};
use super::shuffle::shuffled;
use super::step_cache::StepCache;
use super::training::{ModelRuntime, StudyTraining, TrainingExamples};
use crate::config::{check_reward_template, resolve};
use crate::error::BadInput;
use crate::experiment::models::Model;
use question::Question;

/// `[labelled]`, `[policy]` and `[proxy]` of a study on labelled completions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledConfig {
    /// The completions and their human preferences.
    pub labelled: LabelledSection,
    /// The policy that gives the log-probabilities.
    pub policy: PolicyConfig,
    /// The proxy under test.
    pub proxy: ProxyConfig,
}

/// `[labelled]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledSection {
    /// The published file of Fine-Grained RLHF, or JSON Lines: a prompt a line, with `prompt`, `completions`,
    /// optionally `passages` and `prompt_id`, and either `scores` or `preferences` (with `ties`).
    pub path: PathBuf,
    /// The number of held-out questions, which are drawn by the seed.
    pub held_out: usize,
    /// The kind of log-probability in PACS: `sum` (as in the paper) or `mean`. The report shows both.
    #[serde(default)]
    pub logprob: LogprobKind,
}

/// `[policy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// A PEFT LoRA folder.
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text with `{prompt}`.
    pub template: String,
    /// The policy's prompt: a text with `{question}` and, optionally, `{passages}`.
    pub prompt: String,
}

/// `[proxy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// The number of first layers to keep; `None` keeps all layers.
    pub layers: Option<u32>,
    /// A trained proxy as a PEFT LoRA folder. The study then trains no proxy and has no ensemble.
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text with `{prompt}` and `{completion}`.
    pub template: String,
    /// The proxy's prompt: a text with `{question}` and, optionally, `{passages}`.
    pub prompt: String,
    /// The number of trained proxies, each with another seed. Each is tested, and together they form the
    /// ensemble.
    #[serde(default = "one")]
    pub members: u32,
    /// The number of preferences for each proxy, drawn from the questions that are not held out.
    #[serde(default)]
    pub pairs: usize,
    /// The settings of the training.
    #[serde(default)]
    pub training: Hyperparameters,
}

fn one() -> u32 {
    1
}

impl LabelledConfig {
    /// Checks every value, and resolves paths relative to this folder.
    ///
    /// # Errors
    /// If a value is invalid; the message names the key and the valid values.
    pub fn resolve(&mut self, folder: &std::path::Path) -> anyhow::Result<()> {
        let refuse = |reason: String| Err(anyhow::Error::new(BadInput(reason)));
        for (key, text) in [("policy.prompt", &self.policy.prompt), ("proxy.prompt", &self.proxy.prompt)] {
            if !text.contains("{question}") {
                return refuse(format!("{key} = {text:?} lacks {{question}}: add it"));
            }
        }
        let template = |key: &str, text: &str| {
            text.parse::<PromptTemplate>().map_err(|error| BadInput(format!("{key}: {error}")))
        };
        template("policy.template", &self.policy.template)?;
        check_reward_template(&template("proxy.template", &self.proxy.template)?)
            .map_err(|reason| BadInput(format!("proxy.template: {reason}")))?;
        if self.labelled.held_out < 2 {
            let held_out = self.labelled.held_out;
            return refuse(format!("labelled.held_out = {held_out} is out of range: use at least 2"));
        }
        if self.proxy.adapter.is_none() && (self.proxy.pairs == 0 || self.proxy.members == 0) {
            return refuse(format!(
                "proxy.pairs = {}, proxy.members = {}: use at least 1 of each, or set proxy.adapter",
                self.proxy.pairs, self.proxy.members
            ));
        }
        self.proxy.training.validate().map_err(|error| BadInput(format!("proxy.training.{error}")))?;
        let required = [&mut self.labelled.path, &mut self.policy.path, &mut self.proxy.path];
        let optional = [&mut self.policy.adapter, &mut self.proxy.adapter];
        for path in required.into_iter().chain(optional.into_iter().flatten()) {
            *path = resolve(path, folder)?;
        }
        Ok(())
    }
}

/// The result of the study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelledResult {
    /// The source of the completions.
    pub source: String,
    /// The number of questions in the file.
    pub questions: usize,
    /// The number of held-out questions.
    pub held_out: usize,
    /// Training preferences of each proxy; 0 for a trained proxy of the configuration.
    #[serde(rename = "learnt_from")]
    pub preferences: usize,
    /// The default kind of log-probability in PACS.
    pub logprob: LogprobKind,
    /// The rules as predictors of the proxies' errors.
    pub predictions: Predictions,
    /// The opponents of selected completions by the proxies' errors that they find.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opponents: Option<OpponentTable>,
}

/// Runs the study: trains the proxies, scores the held-out completions, and evaluates the rules. Finished
/// steps of an earlier run are not repeated.
///
/// # Errors
/// If the data or a model cannot be used, or a step fails.
pub fn run(
    config: &LabelledConfig,
    seed: u64,
    steps: &StepCache,
    models: &ModelRuntime,
    progress: &dyn Fn(&str),
) -> anyhow::Result<LabelledResult> {
    let (questions, source) = data::read(&config.labelled.path)?;
    let held_out = config.labelled.held_out;
    if held_out >= questions.len() {
        let reason = format!(
            "labelled.held_out = {held_out} leaves no question for training: use less than {}, the number of questions",
            questions.len()
        );
        return Err(BadInput(reason).into());
    }
    let order = shuffled(questions.len(), seed);
    let of = |indices: &[usize]| indices.iter().map(|&index| &questions[index]).collect::<Vec<&Question>>();
    let (tested, training) = (of(&order[..held_out]), of(&order[held_out..]));
    let rewards = score_by_proxies(config, seed, &training, &tested, steps, models, progress)?;
    progress("scoring with the policy");
    let logprobs = score_by_policy(&config.policy, &tested, steps, models, progress)?;
    let members = rewards.len();
    let prompts = |member: usize| -> Vec<ScoredPrompt> {
        let of_question = |question: usize| ScoredPrompt {
            rewards: rewards[member][question].clone(),
            logprobs: logprobs[question].iter().map(|completion| completion.sum).collect(),
            logprob_means: logprobs[question].iter().map(Logprob::mean).collect(),
            ensemble: rewards.iter().map(|of| of[question].clone()).collect(),
        };
        (0..tested.len()).map(of_question).collect()
    };
    let kind = config.labelled.logprob;
    let predictors = predictors(kind, members > 1);
    let pairs = data::labelled_pairs(&tested);
    let samples: anyhow::Result<Vec<Sample>> =
        (0..members).map(|member| Sample::new(&prompts(member), &pairs, &predictors)).collect();
    progress("evaluating the rules");
    let judged = data::judged_pairs(&tested);
    let asked: anyhow::Result<Vec<AskedSample>> =
        (0..members).map(|member| AskedSample::new(&prompts(member), &judged, kind)).collect();
    Ok(LabelledResult {
        source,
        questions: questions.len(),
        held_out,
        preferences: if config.proxy.adapter.is_some() { 0 } else { config.proxy.pairs },
        logprob: kind,
        predictions: evaluate(&samples?, &predictors, kind, IntervalMethod::Bootstrap, seed),
        opponents: opponents::evaluate(&asked?, kind, IntervalMethod::Bootstrap, seed),
    })
}

fn predictors(kind: LogprobKind, has_ensemble: bool) -> Vec<Predictor> {
    let other = if kind == LogprobKind::Sum { LogprobKind::Mean } else { LogprobKind::Sum };
    let mut found = vec![Predictor::Random, Predictor::Score(PairScore::Margin, kind)];
    found.extend(has_ensemble.then_some(Predictor::Ensemble));
    for kind in [kind, other] {
        let scores = PairScore::ALL.into_iter().filter(|score| *score != PairScore::Margin);
        found.extend(scores.map(|score| Predictor::Score(score, kind)));
    }
    found
}

/// Fills a prompt with the question and its passages.
fn fill(text: &str, question: &Question) -> String {
    // Passages may contain `{question}`, so they are inserted last.
    match text.split_once("{passages}") {
        Some((before, after)) => [before, after]
            .map(|part| part.replace("{question}", &question.question))
            .join(&question.passages),
        None => text.replace("{question}", &question.question),
    }
}

/// Returns the rewards of the tested completions, `[members][questions][completions]`.
fn score_by_proxies(
    config: &LabelledConfig,
    seed: u64,
    training: &[&Question],
    tested: &[&Question],
    steps: &StepCache,
    models: &ModelRuntime,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Vec<Vec<Vec<f64>>>> {
    let proxy = &config.proxy;
    let template: PromptTemplate = proxy.template.parse()?;
    let base =
        Model::open(&proxy.path, proxy.layers, None).context("failed to open the proxy's base model")?;
    let all = preferences(training, &proxy.prompt);
    let mut rewards = Vec::new();
    let members = if proxy.adapter.is_some() { 1 } else { proxy.members };
    for member in 0..members {
        let adapter = match &proxy.adapter {
            Some(adapter) => adapter.clone(),
            None => {
                progress(&format!("training proxy {} of {members}", member + 1));
                let drawn: Vec<Preference> = shuffled(all.len(), seed + 1 + u64::from(member))
                    .into_iter()
                    .take(proxy.pairs)
                    .map(|index| all[index].clone())
                    .collect();
                let settings = Hyperparameters { seed: seed + u64::from(member), ..proxy.training.clone() };
                let inputs = (&base.fingerprint, &proxy.template, &drawn, &settings);
                steps.folder("proxy", &inputs, |output| {
                    let name = format!("proxy {}", member + 1);
                    let training = StudyTraining {
                        name: &name,
                        checkpoint: &base.checkpoint,
                        template: &template,
                        examples: TrainingExamples::Preferences(&drawn),
                        settings: &settings,
                    };
                    models.train(&training, output)
                })?
            }
        };
        let model =
            Model::open(&proxy.path, proxy.layers, Some(&adapter)).context("failed to open the proxy")?;
        let prompts: Vec<(String, &Vec<String>)> =
            tested.iter().map(|question| (fill(&proxy.prompt, question), &question.completions)).collect();
        let inputs = (&model.fingerprint, &proxy.template, &prompts);
        let mut scorer: Option<RewardModel> = None;
        progress(&format!("scoring with proxy {} of {members}", member + 1));
        rewards.push(steps.rows("rewards", &inputs, prompts.len(), |row| {
            let scorer = get_or_open(&mut scorer, || {
                RewardModel::open(models.runtime, &model.checkpoint, model.adapter.as_ref(), &models.options)
            })?;
            let (prompt, completions) = &prompts[row];
            let tokenizer = &model.checkpoint.tokenizer;
            let sequences: Result<Vec<Vec<u32>>, _> = completions
                .iter()
                .map(|completion| template.encode_with_completion(tokenizer, prompt, completion))
                .collect();
            let scores = scorer.score(&sequences?, &models.cancel, &mut |_| ())?;
            Ok(scores.into_iter().map(f64::from).collect::<Vec<f64>>())
        })?);
    }
    Ok(rewards)
}

/// Returns the content of the slot, and fills it first with `open` if it is empty. A finished step opens no
/// model.
fn get_or_open<T, E>(slot: &mut Option<T>, open: impl FnOnce() -> Result<T, E>) -> Result<&mut T, E> {
    if slot.is_none() {
        *slot = Some(open()?);
    }
    match slot {
        Some(opened) => Ok(opened),
        None => unreachable!("the slot was just filled"),
    }
}

fn preferences(questions: &[&Question], prompt: &str) -> Vec<Preference> {
    let of = |question: &&Question| {
        let prompt = Dialogue::Text(fill(prompt, question));
        let preference = |&(better, worse): &(usize, usize)| Preference {
            prompt: prompt.clone(),
            chosen: question.completions[better].clone(),
            rejected: question.completions[worse].clone(),
            margin: 0.0,
            is_unsafe: None,
        };
        question.preferred.iter().map(preference).collect::<Vec<_>>()
    };
    questions.iter().flat_map(of).collect()
}

/// The log-probability of a completion by the policy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Logprob {
    /// Nats.
    sum: f64,
    tokens: usize,
}

impl Logprob {
    fn mean(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.sum / self.tokens as f64 }
    }
}

fn score_by_policy(
    policy: &PolicyConfig,
    tested: &[&Question],
    steps: &StepCache,
    models: &ModelRuntime,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Vec<Vec<Logprob>>> {
    let template: PromptTemplate = policy.template.parse()?;
    let model = Model::open_policy(&policy.path, None, policy.adapter.as_deref())
        .context("failed to open the policy")?;
    let prompts: Vec<(String, &Vec<String>)> =
        tested.iter().map(|question| (fill(&policy.prompt, question), &question.completions)).collect();
    let inputs = (&model.fingerprint, &policy.template, &prompts);
    let mut scorer: Option<PolicyScorer> = None;
    let tokenizer = &model.checkpoint.tokenizer;
    steps.rows("logprobs", &inputs, prompts.len(), |row| {
        if row % 10 == 0 {
            progress(&format!("scoring with the policy: {row} of {} questions", prompts.len()));
        }
        let scorer = get_or_open(&mut scorer, || {
            PolicyScorer::open(models.runtime, &model.checkpoint, model.adapter.as_ref(), &models.options)
        })?;
        let (prompt, completions) = &prompts[row];
        let prompt_ids = template.encode_prompt(tokenizer, prompt)?;
        let item = |completion: &String| {
            Ok(ScoreItem {
                prompt_ids: prompt_ids.clone(),
                completion_ids: tokenizer.encode(completion, false)?,
            })
        };
        let items: anyhow::Result<Vec<ScoreItem>> = completions.iter().map(item).collect();
        let scores = scorer.score(&items?, &models.cancel, &mut |_| ())?;
        let logprob = |tokens: Vec<f32>| Logprob {
            sum: tokens.iter().copied().map(f64::from).sum(),
            tokens: tokens.len(),
        };
        Ok(scores.into_iter().map(logprob).collect())
    })
}
