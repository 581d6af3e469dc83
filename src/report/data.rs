//! The data of a report. The JSON form has the same fields.

use dissent_domain::conflict::{LogprobKind, NullBand};
use dissent_domain::event::{CodecError, StepName};
use dissent_domain::flags::Flag;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::LogError;
use dissent_domain::plan::Plan;
use serde::Serialize;

use super::learning::LearningFigures;
pub use super::prompt_figures::{CompletionFigures, Judged, PromptFigures, PromptState};
use super::tendencies::Tendency;

/// The version of the JSON form. Under the same version, fields are added but never changed.
pub const SCHEMA: &str = "dissent.report/1";

/// The default number of completions and prompts that are listed with their text.
pub const TOP_DEFAULT: usize = 10;

/// The reason why a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The log has no such experiment.
    #[error("unknown experiment {experiment}: {}", known_experiments(.known))]
    UnknownExperiment {
        /// The requested experiment.
        experiment: ExperimentId,
        /// The experiments of the log.
        known: Vec<ExperimentId>,
    },
    /// The experiment has not opened this round.
    #[error("experiment {experiment} has no round {round}: {}", opened_rounds(*.opened))]
    UnknownRound {
        /// The experiment.
        experiment: ExperimentId,
        /// The requested round.
        round: u32,
        /// The number of opened rounds.
        opened: u32,
    },
    /// The stream does not begin with the plan.
    #[error("the stream of experiment {0} does not begin with a plan: check it with `dissent log verify`")]
    NoPlan(ExperimentId),
    /// An event's body cannot be read.
    #[error("failed to read event {position}")]
    Body {
        /// Its position in the log.
        position: u64,
        /// The error of the decoder.
        source: CodecError,
    },
    /// The log cannot be read.
    #[error("failed to read the event log")]
    Log(#[from] LogError),
}

fn known_experiments(known: &[ExperimentId]) -> String {
    /// Experiments that the message lists: a log may have thousands.
    const LISTED_MAX: usize = 20;
    if known.is_empty() {
        return "the event log is empty; start an experiment with `dissent run CONFIG.toml`".to_owned();
    }
    let listed: Vec<&str> = known.iter().take(LISTED_MAX).map(ExperimentId::as_str).collect();
    let more = known.len() - listed.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the event log has {}{more}", listed.join(", "))
}

fn opened_rounds(opened: u32) -> String {
    match opened {
        0 => "no round is opened yet".to_owned(),
        1 => "use 0, the only opened round".to_owned(),
        opened => format!("use 0 to {}", opened - 1),
    }
}

/// The figures of one round, compared with noise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportData {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The experiment.
    pub experiment: ExperimentId,
    /// The reported round, from 0.
    pub round: u32,
    /// Opened rounds.
    pub rounds_opened: u32,
    /// The progress of the round.
    pub status: Status,
    /// The plan of the experiment.
    pub plan: Plan,
    /// The counts of the round.
    pub counts: Counts,
    /// The figures of the round, against those of noise.
    pub figures: Figures,
    /// The distribution of conflict if reward and log-probability are unrelated; `None` if N < 2.
    pub null_band: Option<NullBand>,
    /// The figures by category, sorted by name; empty if no prompt has a category.
    pub categories: Vec<CategoryFigures>,
    /// The completions with the largest PACS: the proxy rates them higher than the policy does.
    pub proxy_favours: Vec<ConflictingCompletion>,
    /// The completions with the smallest PACS: the policy rates them higher than the proxy does.
    pub policy_favours: Vec<ConflictingCompletion>,
    /// The prompts with the largest Kendall-tau distance; equal ones by mean|PACS|.
    pub most_conflicting_prompts: Vec<ConflictingPrompt>,
    /// What goes with conflict, the largest difference first.
    pub tendencies: Vec<Tendency>,
    /// The pairs selected for feedback, in prompt order; empty before the selection.
    pub selected: Vec<SelectedPair>,
    /// The prompts that were set aside.
    pub set_aside: Vec<SetAside>,
    /// Every admitted prompt, in the order of the prompt file.
    pub prompts: Vec<PromptFigures>,
    /// The figures of feedback, training and evaluation; `None` if the plan has no learning part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning: Option<LearningFigures>,
}

/// The progress of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Prompts are in progress, and the selection is pending.
    InProgress,
    /// All prompts are done, and the selection is made.
    Complete,
}

/// The counts of a round.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Planned prompts.
    pub prompts: u32,
    /// Prompts with completions.
    pub sampled: u32,
    /// Prompts with rewards.
    pub scored: u32,
    /// Prompts with a measured conflict, degenerate ones included.
    pub measured: u32,
    /// Prompts on which conflict is undefined.
    pub degenerate: u32,
    /// Prompts that were set aside.
    pub set_aside: u32,
    /// Sampled completions.
    pub completions: u64,
    /// Sampled tokens.
    pub tokens: u64,
    /// Completions that the token limit cut off.
    pub truncated: u64,
    /// Selected pairs.
    pub selected: u32,
    /// Prompts with a selected pair.
    pub selected_prompts: u32,
    /// Completions with each flag, in the order of [`Flag::ALL`]; empty if flags are not recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<(Flag, u64)>,
}

/// The figures of a round; `None` if no prompt defines the figure.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Figures {
    /// The mean over prompts of mean|PACS|.
    pub mean_abs_pacs: Option<AgainstNoise>,
    /// The mean over prompts of Kendall's tau-b.
    pub kendall_tau: Option<AgainstNoise>,
    /// The share of prompts whose mean|PACS| exceeds the null band's 95 % quantile, in [0, 1]. Noise gives
    /// 0.05.
    pub above_noise_95: Option<f64>,
    /// The share of ordered pairs that the two models order oppositely, in [0, 1]. Noise gives 0.5. An
    /// ordered pair is two completions of one prompt without a tie in either model.
    pub opposed_pairs: Option<f64>,
}

/// A mean over prompts, beside its expectation under noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AgainstNoise {
    /// The mean.
    pub mean: f64,
    /// The number of prompts.
    pub prompts: u32,
    /// The expectation of the mean under noise.
    pub noise_mean: f64,
    /// The lower end of the 95 % interval of the mean under noise, in the normal approximation.
    pub noise_low: f64,
    /// The upper end of that interval.
    pub noise_high: f64,
    /// The place of the mean relative to the interval.
    pub verdict: Verdict,
}

impl AgainstNoise {
    /// Compares a mean over `prompts` with noise. `noise_mean` and `noise_sd` are those of one prompt.
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

/// The place of a figure relative to the 95 % interval of noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Below the interval.
    Below,
    /// In the interval.
    Within,
    /// Above the interval.
    Above,
}

/// The figures of the prompts of one category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryFigures {
    /// The category; `None` for the prompts without a category.
    pub category: Option<String>,
    /// Measured prompts that are not degenerate.
    pub prompts: u32,
    /// The mean of mean|PACS| over these prompts.
    pub mean_abs_pacs: f64,
    /// The mean of Kendall's tau-b over these prompts.
    pub kendall_tau: Option<f64>,
    /// Selected pairs.
    pub selected: u32,
}

/// A completion on which the two models disagree, beside the favourite of the other model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictingCompletion {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The category of the prompt.
    pub category: Option<String>,
    /// The text of the prompt.
    pub prompt: String,
    /// Kendall's tau-b of the prompt.
    pub kendall_tau: Option<f64>,
    /// mean|PACS| of the prompt.
    pub mean_abs_pacs: Option<f64>,
    /// The completion.
    #[serde(rename = "answer")]
    pub completion: RankedCompletion,
    /// The completion of the same prompt that the other model rates highest; `None` if it is `completion`.
    /// The other model is the policy if the proxy favours `completion`, and the proxy otherwise.
    pub preferred: Option<RankedCompletion>,
}

/// A completion with its ranks among the N completions of its prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedCompletion {
    /// Its sample index.
    #[serde(rename = "completion")]
    pub sample: u32,
    /// The number of samples with these tokens.
    pub times: u32,
    /// Its text.
    pub text: String,
    /// Its rank by reward, 1 for the highest; equal rewards share the better rank.
    pub reward_rank: u32,
    /// Its rank by log-probability, 1 for the likeliest.
    pub logprob_rank: u32,
    /// N.
    pub of: u32,
    /// Its figures.
    pub figures: CompletionFigures,
    /// What moves the two models; `None` unless the report explains the conflict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

/// What moves the two models on one completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The tokens that the policy sampled.
    pub tokens: Vec<TokenLogprob>,
    /// The sentences of the text, and their effect on the proxy.
    pub sentences: Vec<SentenceEffect>,
}

/// A token and its log-probability. Tokens that share a character are one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// Its text.
    pub text: String,
    /// log π(token | prompt, earlier tokens), in nats.
    pub logprob: f64,
}

/// A sentence and its effect on the reward.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SentenceEffect {
    /// The sentence, with the white space after it.
    pub sentence: String,
    /// The reward of the completion minus its reward without the sentence.
    pub effect: f64,
}

/// A prompt on which the two models disagree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConflictingPrompt {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The category of the prompt.
    pub category: Option<String>,
    /// The beginning of the prompt's text.
    pub excerpt: String,
    /// (1 − tau-b)/2.
    pub kendall_tau_distance: f64,
    /// Kendall's tau-b.
    pub kendall_tau: f64,
    /// mean|PACS|.
    pub mean_abs_pacs: f64,
    /// The probability of a Kendall-tau distance at least this large under noise.
    pub noise_at_least: Option<f64>,
    /// Selected pairs of the prompt.
    pub selected: u32,
    /// How sure the conflict is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certainty: Option<Certainty>,
}

/// How sure the conflict of a prompt is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Certainty {
    /// The 95 % interval of Kendall's tau over samples of completions, `[low, high]`; `None` if it has none.
    pub kendall_tau: Option<[f64; 2]>,
    /// Whether that interval contains 0 while tau is below 0.
    pub may_be_chance: bool,
    /// The kind of log-probability, if the other kind shows no opposition.
    pub only_with: Option<LogprobKind>,
    /// The standard deviation of the rewards: z-scores hide a spread that is next to nothing.
    pub reward_spread: f64,
}

/// A pair selected for feedback.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectedPair {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The index of the completion.
    pub completion: u32,
    /// The PACS of the completion.
    pub pacs: f64,
    /// The beginnings of the two texts, for the first [`LISTED_MAX`] pairs.
    pub excerpt: Option<Excerpt>,
}

/// The beginnings of a pair's texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// The beginning of the prompt.
    pub prompt: String,
    /// The beginning of the completion.
    #[serde(rename = "answer")]
    pub completion: String,
}

/// Limit of the lists of selected pairs and of prompts set aside, except in the JSON form.
pub const LISTED_MAX: usize = 1000;

/// A prompt that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The step that set it aside.
    pub step: StepName,
    /// The reason.
    pub reason: String,
}
