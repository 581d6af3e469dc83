//! The state hash: one hash of an experiment's results.
//!
//! Equal results have equal hashes. The hash leaves out the order of arrival, the attempts of trainings,
//! pauses, and the name of the experiment.

use serde::Serialize;

use crate::conflict::Conflict;
use crate::event::{
    FeedbackRequested, FeedbackSettled, PolicyEvaluated, RewardHackingSuspected, RoundEvaluated, Stage,
    StepName, StopReason,
};
use crate::experiment::Experiment;
use crate::feedback::Verdict;
use crate::flags::Flag;
use crate::generation::SamplingParams;
use crate::id::PromptId;
use crate::learning::{ModelVersion, TrainingProgress};
use crate::plan::{
    ConflictPlan, LearningPlan, Plan, PolicyPlan, PromptSource, RewardPlan, is_first_reading_rules,
};
use crate::round::{PromptProgress, Round};

#[derive(Serialize)]
struct State<'a> {
    plan: Option<PlanView<'a>>,
    rounds: Vec<RoundView<'a>>,
    policy: Option<[Option<String>; 2]>,
    reward_model: Option<[Option<String>; 2]>,
    evaluations: &'a [PolicyEvaluated],
    warnings: &'a [RewardHackingSuspected],
    stopped: Option<(u32, StopReason)>,
    finished: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancelled: bool,
}

/// A plan without the experiment's name.
#[derive(Serialize)]
struct PlanView<'a> {
    seed: u64,
    rounds: u32,
    prompts: &'a PromptSource,
    policy: &'a PolicyPlan,
    reward: &'a RewardPlan,
    sampling: &'a SamplingParams,
    conflict: &'a ConflictPlan,
    learning: Option<&'a LearningPlan>,
    #[serde(skip_serializing_if = "is_first_reading_rules")]
    reading_rules: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampling_key: Option<&'a str>,
}

#[derive(Serialize)]
struct RoundView<'a> {
    number: u32,
    prompts: Vec<(&'a PromptId, ProgressView<'a>)>,
    completions: u64,
    tokens: u64,
    selected: u32,
    evaluated: Option<&'a RoundEvaluated>,
    #[serde(rename = "asked")]
    comparisons: Vec<ComparisonView<'a>>,
    settled: Option<&'a FeedbackSettled>,
    trained: [Option<bool>; 2],
    closed: bool,
}

#[derive(Serialize)]
enum ProgressView<'a> {
    Admitted,
    Sampled(u64),
    Scored(&'a [f64]),
    Measured {
        conflict: &'a Conflict,
        rewards: &'a [f64],
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        flags: &'a [Vec<Flag>],
    },
    SetAside(StepName),
}

#[derive(Serialize)]
struct ComparisonView<'a> {
    request: &'a FeedbackRequested,
    judgements: Vec<(&'a str, Verdict, Option<[bool; 2]>)>,
}

impl Experiment {
    /// Returns BLAKE3 (hex) of the state, without arrival order, attempts, pauses and the name.
    #[must_use]
    pub fn state_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // Writing cannot fail: a hasher accepts every byte, and every key of the view is serialisable.
        let written = rmp_serde::encode::write_named(&mut hasher, &State::of(self));
        debug_assert!(written.is_ok(), "{written:?}");
        hasher.finalize().to_hex().to_string()
    }
}

impl<'a> State<'a> {
    fn of(experiment: &'a Experiment) -> Self {
        let model = |model: ModelVersion| [Some(model.fingerprint), model.adapter];
        Self {
            plan: experiment.plan().map(PlanView::of),
            rounds: experiment.rounds().iter().map(RoundView::of).collect(),
            policy: experiment.policy().map(model),
            reward_model: experiment.reward_model().map(model),
            evaluations: experiment.evaluations(),
            warnings: experiment.warnings(),
            stopped: experiment.stopped().map(|stopped| (stopped.round, stopped.reason)),
            finished: experiment.is_finished(),
            cancelled: experiment.cancelled().is_some(),
        }
    }
}

impl<'a> PlanView<'a> {
    fn of(plan: &'a Plan) -> Self {
        let Plan {
            experiment: _,
            seed,
            rounds,
            prompts,
            policy,
            reward,
            sampling,
            conflict,
            learning,
            reading_rules,
            sampling_key,
        } = plan;
        Self {
            seed: *seed,
            rounds: *rounds,
            prompts,
            policy,
            reward,
            sampling,
            conflict,
            learning: learning.as_deref(),
            reading_rules: *reading_rules,
            sampling_key: sampling_key.as_deref(),
        }
    }
}

impl<'a> RoundView<'a> {
    fn of(round: &'a Round) -> Self {
        let (counts, learning) = (round.counts(), round.learning());
        let trained =
            |stage| learning.training(stage).map(|training| training.progress == TrainingProgress::Done);
        let comparisons = learning.comparisons().iter().map(|comparison| ComparisonView {
            request: &comparison.request,
            judgements: comparison
                .judgements
                .iter()
                .map(|(annotator, judgement)| (annotator, judgement.verdict, judgement.is_unsafe))
                .collect(),
        });
        Self {
            number: round.number(),
            prompts: round
                .prompts()
                .map(|(prompt_id, progress)| (prompt_id, ProgressView::of(progress)))
                .collect(),
            completions: counts.completions,
            tokens: counts.tokens,
            selected: counts.selected,
            evaluated: round.evaluation(),
            comparisons: comparisons.collect(),
            settled: learning.settled(),
            trained: [trained(Stage::Reward), trained(Stage::Policy)],
            closed: round.is_closed(),
        }
    }
}

impl<'a> ProgressView<'a> {
    fn of(progress: &'a PromptProgress) -> Self {
        match progress {
            PromptProgress::Admitted => Self::Admitted,
            PromptProgress::Sampled(completions) => Self::Sampled(*completions as u64),
            PromptProgress::Scored(rewards) => Self::Scored(rewards),
            PromptProgress::Measured { conflict, rewards, flags } => {
                Self::Measured { conflict, rewards, flags }
            }
            PromptProgress::SetAside(step) => Self::SetAside(*step),
        }
    }
}
