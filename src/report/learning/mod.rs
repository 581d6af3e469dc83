//! The learning part of a report: evaluations, feedback, trainings, and signs of reward hacking.

mod fold;
mod wording;

use dissent_domain::drift::Drift;
use dissent_domain::event::{PolicyEvaluated, RewardHackingSuspected, Stage, StopDecided};
use dissent_domain::feedback::{Agreement, PairAgreement};
use dissent_domain::learning::{AgreementTable, Difference};
use dissent_domain::plan::FeedbackSource;
use serde::Serialize;

use super::lift::LiftFigures;
use super::outcomes::OutcomeFigures;
use super::topics::TopicFigures;

pub(super) use fold::LearningFold;
pub(super) use wording::{LearningPage, agreement_rows, is_better, is_paired, settings, table};

/// The learning part of a report, up to the reported round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LearningFigures {
    /// The progress of the round, as text.
    pub stage: String,
    /// Whether the round is closed.
    pub is_closed: bool,
    /// The evaluations by number; number 0 precedes every training.
    pub evaluations: Vec<PolicyEvaluated>,
    /// The differences between the first and the last evaluation.
    pub changes: Vec<Change>,
    /// How often the first proxy and the current reward model order pairs as the gold reward does; `None`
    /// without a gold reward, or in experiments of version 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementTable>,
    /// How well selection rules find the errors of the proxy.
    pub lift: LiftFigures,
    /// The feedback of each round.
    pub feedback: Vec<FeedbackFigures>,
    /// Which model was wrong about the judged pairs of each round.
    pub outcomes: Vec<OutcomeFigures>,
    /// Topics of the prompts by the errors of the proxy; `None` with few prompts or without a judged pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topics: Option<TopicFigures>,
    /// Conflicts born, resolved and reopened from round to round; `None` before the second round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// The trainings of the reported round.
    pub trainings: Vec<TrainingFigures>,
    /// Signs of reward hacking.
    pub warnings: Vec<RewardHackingSuspected>,
    /// The reason of an early stop.
    pub stopped: Option<StopDecided>,
}

/// A figure of the first and of the last evaluation; `None` if it is undefined or not measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The figure.
    pub figure: Figure,
    /// The value of evaluation 0.
    pub before: Option<Measured>,
    /// The value of the last evaluation.
    pub after: Option<Measured>,
    /// `after` − `before`. The standard error is that of two independent means. It is too large if the values
    /// of a prompt are correlated.
    pub difference: Option<Measured>,
    /// The difference with its interval, paired by prompt; `None` for a figure that has none by prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired: Option<Difference>,
}

/// A number, with its standard error if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// The number.
    pub value: f64,
    /// The standard error over prompts.
    pub standard_error: Option<f64>,
}

/// A figure of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Mean gold reward.
    GoldReward,
    /// Mean reward by the first proxy.
    ProxyReward,
    /// Mean reward by the current reward model.
    RefinedReward,
    /// Share of pairs of completions that the first proxy orders as the gold reward does.
    ProxyAgreement,
    /// The same share for the current reward model.
    RefinedAgreement,
    /// Mean over prompts of mean|PACS|.
    MeanAbsPacs,
    /// Mean over prompts of Kendall's tau.
    KendallTau,
    /// KL from the first policy, in nats per completion.
    Kl,
    /// Mean length of a completion, in tokens.
    ResponseTokens,
    /// Share of completions that the token limit did not cut off.
    Stopped,
}

/// The feedback of one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackFigures {
    /// The round.
    pub round: u32,
    /// The source of the judgements.
    pub source: FeedbackSource,
    /// Requested comparisons.
    pub comparisons: u32,
    /// Comparisons that lack judgements.
    pub open: u32,
    /// Received judgements.
    pub judgements: u64,
    /// Annotators with their number of judgements, sorted by name.
    pub annotators: Vec<(String, u64)>,
    /// Comparisons with a majority for one completion; `None` before the feedback is settled.
    pub preferences: Option<u32>,
    /// Comparisons without a majority; `None` before the feedback is settled.
    pub ties: Option<u32>,
    /// Preferences that the reward model contradicted; `None` before the feedback is settled.
    pub contradicted: Option<u32>,
    /// The agreement of all annotators.
    pub agreement: Agreement,
    /// The agreement of each two annotators.
    pub pairs: Vec<PairAgreement>,
}

/// The progress or the result of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingFigures {
    /// The round.
    pub round: u32,
    /// The trained model.
    pub stage: Stage,
    /// Attempts, ≥ 1.
    pub attempts: u32,
    /// Finished steps.
    pub step: u64,
    /// All steps; 0 before the first heartbeat.
    pub steps: u64,
    /// Whether the result is recorded.
    pub is_done: bool,
    /// Whether the model is unchanged because no pair was found to learn from.
    pub is_unchanged: bool,
    /// Preferences from feedback and from the original data; `None` for a policy or before the end.
    #[serde(rename = "learnt_from")]
    pub preferences: Option<[u32; 2]>,
    /// The reported metrics by step, under TRL's names.
    pub curves: Vec<Curve>,
}

/// A metric over the steps of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Its name.
    pub metric: String,
    /// `[step, value]`, by step.
    pub points: Vec<(u64, f64)>,
}
