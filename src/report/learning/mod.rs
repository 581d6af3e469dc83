//! What an experiment learnt: before and after, the feedback, the trainings, and the signs that something
//! went wrong.

mod fold;
mod words;

use dissent_domain::event::{PolicyEvaluated, RewardHackingSuspected, Stage, StopDecided};
use dissent_domain::feedback::{Agreement, PairAgreement};
use dissent_domain::plan::FeedbackSource;
use serde::Serialize;

pub(super) use fold::LearningFold;
pub(super) use words::{LearningPage, settings, table};

/// The learning part of a report, up to the round reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LearningFigures {
    /// Where the round is, for people.
    pub stage: String,
    /// Whether the round is closed.
    pub is_closed: bool,
    /// The evaluations, number 0 (before any training) first.
    pub evaluations: Vec<PolicyEvaluated>,
    /// The first evaluation beside the last.
    pub changes: Vec<Change>,
    /// The feedback of each round.
    pub feedback: Vec<FeedbackFigures>,
    /// The trainings of the round reported.
    pub trainings: Vec<TrainingFigures>,
    /// Signs of reward hacking.
    pub warnings: Vec<RewardHackingSuspected>,
    /// Why the experiment ended before its last round, if it did.
    pub stopped: Option<StopDecided>,
}

/// A figure before any training and after the last. None where it is undefined or not measured yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Which figure.
    pub figure: Figure,
    /// Of evaluation 0.
    pub before: Option<Measured>,
    /// Of the last evaluation.
    pub after: Option<Measured>,
    /// After less before; its standard error is that of two independent means, which is too wide where the
    /// same prompts vary alike.
    pub difference: Option<Measured>,
}

/// A number with its standard error, where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// The number.
    pub value: f64,
    /// Its standard error over prompts.
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
    /// Mean reward by the reward model of the time.
    RefinedReward,
    /// Share of pairs that the first proxy orders as the gold reward does.
    ProxyAgreement,
    /// The same of the reward model of the time.
    RefinedAgreement,
    /// Mean over prompts of mean|PACS|.
    MeanAbsPacs,
    /// Mean over prompts of Kendall's tau.
    KendallTau,
    /// KL from the first policy, in nats a completion.
    Kl,
    /// Mean length, in tokens.
    ResponseTokens,
    /// Share of completions that ended by themselves.
    Stopped,
}

/// What one round's feedback came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackFigures {
    /// The round.
    pub round: u32,
    /// Who was asked.
    pub source: FeedbackSource,
    /// Comparisons put up.
    pub comparisons: u32,
    /// Comparisons that have not the judgements they need.
    pub open: u32,
    /// Judgements so far.
    pub judgements: u64,
    /// Who judged how many, in the order of names.
    pub annotators: Vec<(String, u64)>,
    /// Comparisons with a majority for one answer; none before the feedback is settled.
    pub preferences: Option<u32>,
    /// Comparisons without one.
    pub ties: Option<u32>,
    /// Preferences that the reward model contradicted.
    pub contradicted: Option<u32>,
    /// How far annotators agree.
    pub agreement: Agreement,
    /// How far each two of them do.
    pub pairs: Vec<PairAgreement>,
}

/// A training, as far as it came.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingFigures {
    /// The round.
    pub round: u32,
    /// What was trained.
    pub stage: Stage,
    /// Attempts, ≥ 1.
    pub attempts: u32,
    /// Steps done.
    pub step: u64,
    /// Of how many; 0 before the first sign of life.
    pub steps: u64,
    /// Whether it has its result.
    pub is_done: bool,
    /// Whether there was nothing to learn from, so that the model stayed as it was.
    pub is_unchanged: bool,
    /// Preferences from feedback, and original ones beside them; none for a policy, or before the end.
    pub learnt_from: Option<[u32; 2]>,
    /// Each metric that was reported, by step, named as in TRL.
    pub curves: Vec<Curve>,
}

/// A metric over the steps of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Its name.
    pub metric: String,
    /// `[step, value]`, in order.
    pub points: Vec<(u64, f64)>,
}
