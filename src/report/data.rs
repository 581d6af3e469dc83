//! What a report says, as data: the JSON form is this, field by field.

use dissent_domain::conflict::{LogprobKind, NullBand};
use dissent_domain::event::{CodecError, StepName};
use dissent_domain::generation::FinishReason;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::LogError;
use dissent_domain::plan::Plan;
use serde::Serialize;

use super::learning::LearningFigures;

/// The version of the JSON form: a field may be added under the same name, nothing else changes.
pub const SCHEMA: &str = "dissent.report/1";

/// Answers and prompts listed with their text, unless asked otherwise.
pub const TOP_DEFAULT: usize = 10;

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The log has no such experiment.
    #[error("there is no experiment {experiment} in the event log: {}", known_experiments(.known))]
    UnknownExperiment {
        /// The experiment asked for.
        experiment: ExperimentId,
        /// Those there are.
        known: Vec<ExperimentId>,
    },
    /// The experiment has not come to this round, or has no such round.
    #[error("experiment {experiment} has no round {round} yet: it has opened {opened} (they count from 0)")]
    UnknownRound {
        /// The experiment.
        experiment: ExperimentId,
        /// The round asked for.
        round: u32,
        /// How many there are.
        opened: u32,
    },
    /// A stream that does not begin with its plan.
    #[error("the events of experiment {0} do not begin with its plan")]
    NoPlan(ExperimentId),
    /// An event's body cannot be read.
    #[error("failed to read event {position}")]
    Body {
        /// Its position in the log.
        position: u64,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The log cannot be read.
    #[error("failed to read the event log")]
    Log(#[from] LogError),
}

fn known_experiments(known: &[ExperimentId]) -> String {
    /// So that a log of thousands does not flood the terminal.
    const LISTED_MAX: usize = 20;
    if known.is_empty() {
        return "it has none yet, start one with `dissent run CONFIG.toml`".to_owned();
    }
    let listed: Vec<&str> = known.iter().take(LISTED_MAX).map(ExperimentId::as_str).collect();
    let more = known.len() - listed.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("it has {}{more}", listed.join(", "))
}

/// One round of an experiment, measured and compared with noise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportData {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The experiment.
    pub experiment: ExperimentId,
    /// The round reported, from 0.
    pub round: u32,
    /// Rounds opened so far.
    pub rounds_opened: u32,
    /// How far the round has come.
    pub status: Status,
    /// Everything that determines the experiment.
    pub plan: Plan,
    /// How many of what.
    pub counts: Counts,
    /// The round's figures against those of noise.
    pub figures: Figures,
    /// What a prompt of N answers shows when reward and log-probability have nothing to do with each other;
    /// none if N < 2.
    pub null_band: Option<NullBand>,
    /// By category, in order of name; empty if no prompt has one. Prompts without one are under none.
    pub categories: Vec<CategoryFigures>,
    /// The answers with the largest PACS: the proxy loves what the policy finds unlikely.
    pub proxy_favours: Vec<ConflictingAnswer>,
    /// The answers with the smallest PACS: the policy favours what the proxy dislikes.
    pub policy_favours: Vec<ConflictingAnswer>,
    /// The prompts with the largest Kendall-tau distance, then mean|PACS|.
    pub most_conflicting_prompts: Vec<ConflictingPrompt>,
    /// The pairs selected for feedback, in prompt order; empty before the round closes.
    pub selected: Vec<SelectedPair>,
    /// The prompts that a step gave up on.
    pub set_aside: Vec<SetAside>,
    /// Every prompt admitted, in the order of the prompt file.
    pub prompts: Vec<PromptFigures>,
    /// What was learnt from the conflicts; none where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning: Option<LearningFigures>,
}

/// How far a round has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Prompts are on their way, and nothing is selected yet.
    InProgress,
    /// Its prompts are done, and the selection is made.
    Complete,
}

/// How many of what a round has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Prompts planned.
    pub prompts: u32,
    /// Prompts answered by the policy.
    pub sampled: u32,
    /// Prompts scored by the proxy.
    pub scored: u32,
    /// Prompts whose conflict is measured, degenerate ones included.
    pub measured: u32,
    /// Prompts on which conflict is undefined.
    pub degenerate: u32,
    /// Prompts that a step gave up on.
    pub set_aside: u32,
    /// Completions sampled.
    pub completions: u64,
    /// Response tokens sampled.
    pub tokens: u64,
    /// Completions cut off by the token limit.
    pub truncated: u64,
    /// Pairs selected.
    pub selected: u32,
    /// Prompts that have a selected pair.
    pub selected_prompts: u32,
}

/// A round's figures. None where no prompt defines them.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Figures {
    /// The mean over prompts of mean|PACS|.
    pub mean_abs_pacs: Option<AgainstNoise>,
    /// The mean over prompts of Kendall's tau-b.
    pub kendall_tau: Option<AgainstNoise>,
    /// The share of prompts whose mean|PACS| is above the null band's 95 % quantile, in [0, 1]: .05 for
    /// noise.
    pub above_noise_95: Option<f64>,
    /// Of all pairs of answers to one prompt that both models order, the share that they order oppositely,
    /// in [0, 1]: .5 for noise.
    pub opposed_pairs: Option<f64>,
}

/// A mean over prompts, and where it would lie if there were nothing but noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AgainstNoise {
    /// The mean.
    pub mean: f64,
    /// Prompts it is over.
    pub prompts: u32,
    /// Its expectation under noise.
    pub noise_mean: f64,
    /// With noise, the mean over this many prompts lies above this in 97.5 % of experiments (normal limit).
    pub noise_low: f64,
    /// With noise, it lies below this in 97.5 % of experiments.
    pub noise_high: f64,
    /// Where it lies.
    pub verdict: Verdict,
}

impl AgainstNoise {
    /// Compares a mean over `prompts` with noise of this mean and standard deviation per prompt.
    #[must_use]
    pub fn new(mean: f64, prompts: u32, noise_mean: f64, noise_sd: f64) -> Self {
        const NORMAL_975: f64 = 1.959_964;
        let half = NORMAL_975 * noise_sd / f64::from(prompts.max(1)).sqrt();
        let (noise_low, noise_high) = (noise_mean - half, noise_mean + half);
        let verdict = if mean > noise_high {
            Verdict::Above
        } else if mean < noise_low {
            Verdict::Below
        } else {
            Verdict::Within
        };
        Self { mean, prompts, noise_mean, noise_low, noise_high, verdict }
    }
}

/// Where a figure lies against the 95 % interval of noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Below it.
    Below,
    /// In it.
    Within,
    /// Above it.
    Above,
}

/// The figures of the prompts of one category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryFigures {
    /// The category; none for prompts without one.
    pub category: Option<String>,
    /// Prompts measured that are not degenerate.
    pub prompts: u32,
    /// The mean over them of mean|PACS|.
    pub mean_abs_pacs: f64,
    /// The mean over them of Kendall's tau-b.
    pub kendall_tau: Option<f64>,
    /// Pairs selected.
    pub selected: u32,
}

/// The step that a prompt has passed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptState {
    /// It waits for answers.
    Admitted,
    /// It waits for rewards.
    Sampled,
    /// It waits for its conflict.
    Scored,
    /// Its conflict is known.
    Measured,
    /// A step gave up on it.
    SetAside,
}

/// The numbers of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptFigures {
    /// The prompt.
    pub prompt_id: PromptId,
    /// Its place in the prompt file, from 0.
    pub index: u32,
    /// Its category.
    pub category: Option<String>,
    /// How far it has come.
    pub state: PromptState,
    /// Whether it is measured, but rewards or log-probabilities do not vary.
    pub degenerate: bool,
    /// mean|PACS|; none if not measured or degenerate.
    pub mean_abs_pacs: Option<f64>,
    /// Kendall's tau-b; none if not measured or degenerate.
    pub kendall_tau: Option<f64>,
    /// (1 − tau-b)/2; none if not measured or degenerate.
    pub kendall_tau_distance: Option<f64>,
    /// Pairs of answers that both order alike.
    pub concordant: u64,
    /// Pairs of answers that they order oppositely.
    pub discordant: u64,
    /// Pairs of answers tied in either.
    pub tied: u64,
    /// Its answers, by sample index.
    pub answers: Vec<AnswerFigures>,
}

/// The numbers of one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerFigures {
    /// log π(y|x) in nats, the sum over response tokens.
    pub logprob: f64,
    /// The same per token.
    pub logprob_mean: f64,
    /// Response tokens.
    pub tokens: u32,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The reward, once scored.
    pub reward: Option<f64>,
    /// Standard deviations of the log-probability compared above the prompt's mean; none as PACS.
    pub z_logprob: Option<f64>,
    /// Standard deviations of the reward above the prompt's mean; none as PACS.
    pub z_reward: Option<f64>,
    /// `z_reward − z_logprob`; none if not measured or degenerate.
    pub pacs: Option<f64>,
    /// Whether it is selected for feedback.
    pub selected: bool,
}

impl AnswerFigures {
    /// The log-probability that conflict is measured on.
    #[must_use]
    pub fn logprob_as(&self, kind: LogprobKind) -> f64 {
        match kind {
            LogprobKind::Sum => self.logprob,
            LogprobKind::Mean => self.logprob_mean,
        }
    }
}

/// An answer on which the two disagree, and the one that the other model would rather have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictingAnswer {
    /// The prompt.
    pub prompt_id: PromptId,
    /// Its category.
    pub category: Option<String>,
    /// Its text.
    pub prompt: String,
    /// The prompt's Kendall's tau-b.
    pub kendall_tau: Option<f64>,
    /// The prompt's mean|PACS|.
    pub mean_abs_pacs: Option<f64>,
    /// The answer.
    pub answer: RankedAnswer,
    /// The answer to the same prompt that the other model puts highest (the policy, if the proxy favours
    /// `answer`); none if that is `answer` itself.
    pub preferred: Option<RankedAnswer>,
}

/// An answer with its place among the N of its prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedAnswer {
    /// Its sample index.
    pub completion: u32,
    /// How many of the N answers are this one, word for word.
    pub times: u32,
    /// Its text.
    pub text: String,
    /// Its place by reward, 1 for the highest; equal rewards share the better place.
    pub reward_rank: u32,
    /// Its place by log-probability, 1 for the likeliest.
    pub logprob_rank: u32,
    /// N.
    pub of: u32,
    /// Its numbers.
    pub figures: AnswerFigures,
}

/// A prompt on which the two disagree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictingPrompt {
    /// The prompt.
    pub prompt_id: PromptId,
    /// Its category.
    pub category: Option<String>,
    /// The beginning of its text.
    pub excerpt: String,
    /// (1 − tau-b)/2.
    pub kendall_tau_distance: f64,
    /// Kendall's tau-b.
    pub kendall_tau: f64,
    /// mean|PACS|.
    pub mean_abs_pacs: f64,
    /// The probability that noise has a Kendall-tau distance at least this large.
    pub noise_at_least: Option<f64>,
    /// Pairs selected of it.
    pub selected: u32,
}

/// A question–answer pair selected for feedback.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectedPair {
    /// The prompt.
    pub prompt_id: PromptId,
    /// Which of its completions.
    pub completion: u32,
    /// Its PACS.
    pub pacs: f64,
    /// The beginnings of its texts, for the first [`LISTED_MAX`] pairs.
    pub excerpt: Option<Excerpt>,
}

/// The beginnings of a pair's texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// Of the prompt.
    pub prompt: String,
    /// Of the answer.
    pub answer: String,
}

/// Selected pairs, and prompts set aside, that pages list: beyond, only the JSON form has them.
pub const LISTED_MAX: usize = 1000;

/// A prompt that a step gave up on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The step.
    pub step: StepName,
    /// Why.
    pub reason: String,
}
