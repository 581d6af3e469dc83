//! A study on given answers that people have compared: does conflict find the proxy's errors sooner than the
//! baselines do?
//!
//! The questions are divided: proxies learn from the preferences of some, and are put to the test on those of
//! the others. No predictor sees a preference of the questions that it is tested on.

mod data;

use std::path::PathBuf;

use anyhow::Context as _;
use dissent_domain::conflict::{LogprobKind, PairScore};
use dissent_domain::training::{Dialogue, Hyperparameters, Preference};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use serde::{Deserialize, Serialize};

use super::draw::shuffled;
use super::prediction::{Predictions, Predictor, Sample, ScoredPrompt, Spread, evaluate};
use super::steps::Steps;
use super::training::{ModelRuntime, StudyTraining, TrainingExamples};
use crate::config::{check_reward_template, resolve};
use crate::error::BadInput;
use crate::experiment::models::Model;
use data::Question;

/// `[labelled]`, `[policy]` and `[proxy]` of a study on given answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledConfig {
    /// The answers and what people say about them.
    pub labelled: AnswersConfig,
    /// Who says how likely an answer is.
    pub policy: PolicyConfig,
    /// Whose errors are looked for.
    pub proxy: ProxyConfig,
}

/// `[labelled]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswersConfig {
    /// The published file.
    pub path: PathBuf,
    /// Questions, drawn, that no proxy learns from.
    pub held_out: usize,
    /// Which log-probability PACS is made of: `sum` (the paper's) or `mean`. The other is reported beside it.
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
    /// `chat`, `raw`, or a text naming `{prompt}`.
    pub template: String,
    /// What the policy is asked: a text naming `{question}` and, if it is to see them, `{passages}`.
    pub prompt: String,
}

/// `[proxy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// A Hugging Face folder or a GGUF file.
    pub path: PathBuf,
    /// Keep the first K layers only.
    pub layers: Option<u32>,
    /// A trained proxy, a PEFT LoRA folder: then none is trained, and there is no ensemble.
    pub adapter: Option<PathBuf>,
    /// `chat`, `raw`, or a text naming `{prompt}` and `{completion}`.
    pub template: String,
    /// What the proxy is told was asked: a text naming `{question}` and, if it is to see them, `{passages}`.
    pub prompt: String,
    /// Proxies trained with other seeds on other draws. Each is put to the test, and together they are the
    /// ensemble.
    #[serde(default = "one")]
    pub members: u32,
    /// Preferences that each learns from, drawn from those of the questions that are not held out.
    #[serde(default)]
    pub pairs: usize,
    /// How they are trained.
    #[serde(default)]
    pub training: Hyperparameters,
}

fn one() -> u32 {
    1
}

impl LabelledConfig {
    /// Checks every value, and takes paths from this folder.
    ///
    /// # Errors
    /// The first key at fault, and what it may be.
    pub fn resolve(&mut self, folder: &std::path::Path) -> anyhow::Result<()> {
        let refuse = |reason: String| Err(anyhow::Error::new(BadInput(reason)));
        for (key, text) in [("policy.prompt", &self.policy.prompt), ("proxy.prompt", &self.proxy.prompt)] {
            if !text.contains("{question}") {
                return refuse(format!("{key} = {text:?}: it must name {{question}}"));
            }
        }
        let template = |key: &str, text: &str| {
            text.parse::<PromptTemplate>().map_err(|error| BadInput(format!("{key}: {error}")))
        };
        template("policy.template", &self.policy.template)?;
        check_reward_template(&template("proxy.template", &self.proxy.template)?)
            .map_err(|reason| BadInput(format!("proxy.template: {reason}")))?;
        if self.labelled.held_out < 2 {
            return refuse("labelled.held_out: use at least 2".to_owned());
        }
        if self.proxy.adapter.is_none() && (self.proxy.pairs == 0 || self.proxy.members == 0) {
            return refuse("proxy.pairs and proxy.members: use at least 1, or name an adapter".to_owned());
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

/// What the study found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelledResult {
    /// Where the answers come from.
    pub source: &'static str,
    /// All questions of the file.
    pub questions: usize,
    /// Those that were held out.
    pub held_out: usize,
    /// Preferences that each proxy learnt from; 0 for a proxy that was given.
    pub learnt_from: usize,
    /// Which log-probability goes without saying.
    pub logprob: LogprobKind,
    /// How well the rules predict the proxies' errors.
    pub predictions: Predictions,
}

/// Runs the study: trains the proxies, scores the held-out answers, and compares. Whatever an earlier run has
/// done is found.
///
/// # Errors
/// If the data or a model cannot be used, or a step fails.
pub fn run(
    config: &LabelledConfig,
    seed: u64,
    steps: &Steps,
    workshop: &ModelRuntime,
    say: &dyn Fn(&str),
) -> anyhow::Result<LabelledResult> {
    let questions = data::read(&config.labelled.path)?;
    let held_out = config.labelled.held_out;
    if held_out >= questions.len() {
        let reason = format!(
            "labelled.held_out = {held_out}: the file has {} questions, leave some to learn from",
            questions.len()
        );
        return Err(BadInput(reason).into());
    }
    let order = shuffled(questions.len(), seed);
    let of = |places: &[usize]| places.iter().map(|&place| &questions[place]).collect::<Vec<&Question>>();
    let (tested, learnt) = (of(&order[..held_out]), of(&order[held_out..]));
    let rewards = score_by_proxies(config, seed, &learnt, &tested, steps, workshop, say)?;
    say("log-probabilities of the policy");
    let logprobs = score_by_policy(&config.policy, &tested, steps, workshop, say)?;
    let members = rewards.len();
    let prompts = |member: usize| -> Vec<ScoredPrompt> {
        let of_question = |question: usize| ScoredPrompt {
            rewards: rewards[member][question].clone(),
            logprobs: logprobs[question].iter().map(|answer| answer.sum).collect(),
            logprob_means: logprobs[question].iter().map(Logprob::mean).collect(),
            ensemble: rewards.iter().map(|of| of[question].clone()).collect(),
        };
        (0..tested.len()).map(of_question).collect()
    };
    let kind = config.labelled.logprob;
    let predictors = predictors(kind, members > 1);
    let judged = data::judged(&tested);
    let samples: anyhow::Result<Vec<Sample>> =
        (0..members).map(|member| Sample::new(&prompts(member), &judged, &predictors)).collect();
    say("comparing");
    Ok(LabelledResult {
        source: data::SOURCE,
        questions: questions.len(),
        held_out,
        learnt_from: if config.proxy.adapter.is_some() { 0 } else { config.proxy.pairs },
        logprob: kind,
        predictions: evaluate(&samples?, &predictors, kind, Spread::OverPrompts, seed),
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

fn fill(text: &str, question: &Question) -> String {
    // Passages may hold anything, so they are put in last and not looked through.
    match text.split_once("{passages}") {
        Some((before, after)) => [before, after]
            .map(|part| part.replace("{question}", &question.question))
            .join(&question.passages),
        None => text.replace("{question}", &question.question),
    }
}

/// Rewards of the tested answers, `[members][questions][answers]`.
fn score_by_proxies(
    config: &LabelledConfig,
    seed: u64,
    learnt: &[&Question],
    tested: &[&Question],
    steps: &Steps,
    workshop: &ModelRuntime,
    say: &dyn Fn(&str),
) -> anyhow::Result<Vec<Vec<Vec<f64>>>> {
    let proxy = &config.proxy;
    let template: PromptTemplate = proxy.template.parse()?;
    let base = Model::open(&proxy.path, proxy.layers, None).context("the proxy's base model")?;
    let all = preferences(learnt, &proxy.prompt);
    let mut rewards = Vec::new();
    let members = if proxy.adapter.is_some() { 1 } else { proxy.members };
    for member in 0..members {
        let adapter = match &proxy.adapter {
            Some(adapter) => adapter.clone(),
            None => {
                say(&format!("proxy {} of {members}", member + 1));
                let drawn: Vec<Preference> = shuffled(all.len(), seed + 1 + u64::from(member))
                    .into_iter()
                    .take(proxy.pairs)
                    .map(|place| all[place].clone())
                    .collect();
                let settings = Hyperparameters { seed: seed + u64::from(member), ..proxy.training.clone() };
                let inputs = (&base.fingerprint, &proxy.template, &drawn, &settings);
                steps.folder("proxy", &inputs, |output| {
                    let name = format!("proxy {}", member + 1);
                    let training = StudyTraining {
                        name: &name,
                        checkpoint: &base.checkpoint,
                        template: &template,
                        lessons: TrainingExamples::Preferences(&drawn),
                        settings: &settings,
                    };
                    workshop.train(&training, output)
                })?
            }
        };
        let model = Model::open(&proxy.path, proxy.layers, Some(&adapter)).context("the proxy")?;
        let asked: Vec<(String, &Vec<String>)> =
            tested.iter().map(|question| (fill(&proxy.prompt, question), &question.answers)).collect();
        let inputs = (&model.fingerprint, &proxy.template, &asked);
        let mut running: Option<RewardModel> = None;
        say(&format!("rewards of proxy {} of {members}", member + 1));
        rewards.push(steps.rows("rewards", &inputs, asked.len(), |row| {
            let running = opened(&mut running, || {
                RewardModel::open(
                    workshop.runtime,
                    &model.checkpoint,
                    model.adapter.as_ref(),
                    &workshop.options,
                )
            })?;
            let (prompt, answers) = &asked[row];
            let tokenizer = &model.checkpoint.tokenizer;
            let sequences: Result<Vec<Vec<u32>>, _> = answers
                .iter()
                .map(|answer| template.encode_with_completion(tokenizer, prompt, answer))
                .collect();
            let scores = running.score(&sequences?, &workshop.cancel, &mut |_| ())?;
            Ok(scores.into_iter().map(f64::from).collect::<Vec<f64>>())
        })?);
    }
    Ok(rewards)
}

/// What is there, or what `open` gives the first time it is needed: a step that was done before needs no
/// model.
fn opened<T, E>(slot: &mut Option<T>, open: impl FnOnce() -> Result<T, E>) -> Result<&mut T, E> {
    if slot.is_none() {
        *slot = Some(open()?);
    }
    match slot {
        Some(opened) => Ok(opened),
        None => unreachable!("it was just opened"),
    }
}

fn preferences(questions: &[&Question], prompt: &str) -> Vec<Preference> {
    let of = |question: &&Question| {
        let asked = Dialogue::Text(fill(prompt, question));
        let preference = |&(better, worse): &(usize, usize)| Preference {
            prompt: asked.clone(),
            chosen: question.answers[better].clone(),
            rejected: question.answers[worse].clone(),
            margin: 0.0,
            is_unsafe: None,
        };
        question.preferred.iter().map(preference).collect::<Vec<_>>()
    };
    questions.iter().flat_map(of).collect()
}

/// How likely the policy finds an answer.
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
    steps: &Steps,
    workshop: &ModelRuntime,
    say: &dyn Fn(&str),
) -> anyhow::Result<Vec<Vec<Logprob>>> {
    let template: PromptTemplate = policy.template.parse()?;
    let model = Model::open(&policy.path, None, policy.adapter.as_deref()).context("the policy")?;
    let asked: Vec<(String, &Vec<String>)> =
        tested.iter().map(|question| (fill(&policy.prompt, question), &question.answers)).collect();
    let inputs = (&model.fingerprint, &policy.template, &asked);
    let mut running: Option<PolicyScorer> = None;
    let tokenizer = &model.checkpoint.tokenizer;
    steps.rows("logprobs", &inputs, asked.len(), |row| {
        if row % 10 == 0 {
            say(&format!("log-probabilities of the policy: {row} of {} questions", asked.len()));
        }
        let running = opened(&mut running, || {
            PolicyScorer::open(workshop.runtime, &model.checkpoint, model.adapter.as_ref(), &workshop.options)
        })?;
        let (prompt, answers) = &asked[row];
        let prompt_ids = template.encode_prompt(tokenizer, prompt)?;
        let item = |answer: &String| {
            Ok(ScoreItem { prompt_ids: prompt_ids.clone(), completion_ids: tokenizer.encode(answer, false)? })
        };
        let items: anyhow::Result<Vec<ScoreItem>> = answers.iter().map(item).collect();
        let scores = running.score(&items?, &workshop.cancel, &mut |_| ())?;
        let logprob = |tokens: Vec<f32>| Logprob {
            sum: tokens.iter().copied().map(f64::from).sum(),
            tokens: tokens.len(),
        };
        Ok(scores.into_iter().map(logprob).collect())
    })
}
