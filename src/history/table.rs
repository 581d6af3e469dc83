//! Exports recorded events as flat tables.
//!
//! All rows of a table have the same columns. A value is a scalar or a list of scalars, as data frames and
//! columnar stores expect it. Every row begins with the `position` and `time_us` (microseconds since 1970
//! UTC) of its event, and with `experiment`. A missing text or number is null. Rows are in the order of the
//! log.

use std::collections::BTreeMap;

use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, FeedbackReceived, FeedbackRequested, PolicyEvaluated,
    Recorded, RewardsScored, TrainingEvent,
};
use dissent_domain::feedback::Verdict;
use dissent_domain::generation::FinishReason;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::outcome::Outcome;
use serde::Serialize;

use super::pairs::{Pair, Pairs, PromptTexts};
use crate::jsonl::{JsonLinesWriter, OutputError};

/// The table to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Table {
    /// Every event: its envelope, and its body as JSON text.
    Events,
    /// Every completion.
    Completions,
    /// Every reward.
    Scores,
    /// The conflict of every prompt.
    Conflicts,
    /// Every requested comparison.
    Comparisons,
    /// Every judgement.
    Feedback,
    /// Every compared pair, with its texts, scores, judgements and outcome; one experiment after the other.
    Pairs,
    /// Every event of a training, with its metrics.
    Trainings,
    /// Every evaluation of a policy.
    Evaluations,
}

/// The columns of each table, for `--help`.
pub(crate) const COLUMNS: &str = "\
Tables (every row begins with position, time_us, experiment):
  events       version, id, causation, actor, event_type, schema_version, body_bytes, body_json
  completions  round, prompt_id, category, prompt, completion, text, tokens, logprob, logprob_mean, finish_reason, policy
  scores       round, prompt_id, completion, reward, reward_model
  conflicts    round, prompt_id, degenerate, mean_abs_pacs, kendall_tau, kendall_tau_distance, concordant, discordant, tied,
               pacs (a list, by completion)
  comparisons  round, comparison, prompt_id, prompt_index, first, second
  feedback     round, comparison, annotator, verdict, unsafe_first, unsafe_second, comment
  pairs        round, comparison, prompt_id, category, prompt, first, second, first_text, second_text, first_reward,
               second_reward, first_logprob, second_logprob, first_logprob_mean, second_logprob_mean, first_pacs,
               second_pacs, annotators and verdicts (two lists), verdict, first_unsafe, second_unsafe, outcome,
               propensity, is_audit, is_focus
  trainings    event, round, stage, attempt, worker, lease_ms, sequence, step, steps, checkpoint, resume_from, adapter,
               fingerprint, preferences, rehearsed, metric_names and metric_values (two lists)
  evaluations  evaluation, policy, reward_model, prompts, completions, gold_reward, gold_reward_error, proxy_reward,
               proxy_reward_error, refined_reward, refined_reward_error, proxy_agreement, refined_agreement, mean_abs_pacs,
               kendall_tau, kl, response_tokens, stopped";

impl Table {
    /// Writes the rows of an event in this table. Returns their number.
    ///
    /// # Errors
    /// If the event cannot be decoded or a row cannot be written.
    pub(crate) fn write(self, recorded: &Recorded, out: &mut JsonLinesWriter) -> anyhow::Result<u64> {
        let event = recorded.decode()?;
        let rows = Rows { of: RowOrigin::new(recorded), out };
        Ok(match self {
            Self::Events => rows.event(recorded, &event)?,
            Self::Completions => event.body().map_or(Ok(0), |e| rows.completions(e))?,
            Self::Scores => event.body().map_or(Ok(0), |e| rows.scores(e))?,
            Self::Conflicts => event.body().map_or(Ok(0), |e| rows.conflict(e))?,
            Self::Comparisons => event.body().map_or(Ok(0), |e| rows.comparison(e))?,
            Self::Feedback => event.body().map_or(Ok(0), |e| rows.judgement(e))?,
            Self::Evaluations => event.body().map_or(Ok(0), |e| rows.evaluation(e))?,
            // Its rows join several events: see `write_pairs`.
            Self::Pairs => 0,
            Self::Trainings => match &event {
                Event::Training(e) => rows.training(e)?,
                Event::Experiment(_)
                | Event::Operator(_)
                | Event::Round(_)
                | Event::Prompt(_)
                | Event::Feedback(_)
                | Event::Evaluation(_) => 0,
            },
        })
    }
}

/// Writes a row for each pair of an experiment.
///
/// # Errors
/// If a row cannot be written.
pub(crate) fn write_pairs(
    experiment: &ExperimentId,
    pairs: &Pairs,
    out: &mut JsonLinesWriter,
) -> Result<(), OutputError> {
    let none = PromptTexts::default();
    for pair in pairs.all() {
        let of =
            RowOrigin { position: pair.position, time_us: pair.time_us, experiment: experiment.as_str() };
        let texts = pairs.texts(pair.request.round, &pair.request.prompt_id).unwrap_or(&none);
        out.write(&Row { of, columns: PairRow::of(pair, texts, pairs.outcome(pair)) })?;
    }
    Ok(())
}

/// The origin of a row.
#[derive(Clone, Copy, Serialize)]
struct RowOrigin<'a> {
    position: u64,
    time_us: u64,
    experiment: &'a str,
}

impl<'a> RowOrigin<'a> {
    fn new(recorded: &'a Recorded) -> Self {
        let experiment = recorded.experiment.as_str();
        Self { position: recorded.position, time_us: recorded.event.time_us, experiment }
    }
}

/// A row: its origin, then the columns of its table.
#[derive(Serialize)]
struct Row<'a, T> {
    #[serde(flatten)]
    of: RowOrigin<'a>,
    #[serde(flatten)]
    columns: T,
}

struct Rows<'a, 'w> {
    of: RowOrigin<'a>,
    out: &'w mut JsonLinesWriter,
}

impl Rows<'_, '_> {
    fn write(&mut self, columns: impl Serialize) -> Result<(), OutputError> {
        self.out.write(&Row { of: self.of, columns })
    }

    fn event(mut self, recorded: &Recorded, event: &Event) -> anyhow::Result<u64> {
        let envelope = &recorded.event;
        let body = event.serialize_body(serde_json::value::Serializer)?;
        self.write(EventRow {
            version: recorded.version,
            id: envelope.id.to_string(),
            causation: envelope.causation.map(|cause| cause.to_string()),
            actor: &envelope.actor,
            event_type: &envelope.event_type,
            schema_version: envelope.schema_version,
            body_bytes: envelope.body.len() as u64,
            body_json: body.to_string(),
        })?;
        Ok(1)
    }

    fn completions(mut self, e: &CompletionsSampled) -> Result<u64, OutputError> {
        for (completion, sampled) in (0_u32..).zip(&e.completions) {
            self.write(CompletionRow {
                round: e.round,
                prompt_id: &e.prompt.prompt_id,
                category: e.prompt.category.as_deref(),
                prompt: &e.prompt.text,
                completion,
                text: &sampled.text,
                tokens: sampled.token_ids.len() as u64,
                logprob: sampled.logprob,
                logprob_mean: sampled.logprob_mean(),
                finish_reason: sampled.finish_reason,
                policy: &e.policy,
            })?;
        }
        Ok(e.completions.len() as u64)
    }

    fn scores(mut self, e: &RewardsScored) -> Result<u64, OutputError> {
        for (completion, &reward) in (0_u32..).zip(&e.rewards) {
            let (prompt_id, reward_model) = (&e.prompt_id, &e.reward_model);
            self.write(ScoreRow { round: e.round, prompt_id, completion, reward, reward_model })?;
        }
        Ok(e.rewards.len() as u64)
    }

    fn conflict(mut self, e: &ConflictMeasured) -> Result<u64, OutputError> {
        let conflict = &e.conflict;
        self.write(ConflictRow {
            round: e.round,
            prompt_id: &e.prompt_id,
            degenerate: conflict.degenerate,
            mean_abs_pacs: conflict.mean_abs_pacs,
            kendall_tau: conflict.kendall_tau,
            kendall_tau_distance: conflict.kendall_tau_distance,
            concordant: conflict.concordant,
            discordant: conflict.discordant,
            tied: conflict.tied,
            pacs: &conflict.pacs,
        })?;
        Ok(1)
    }

    fn comparison(mut self, e: &FeedbackRequested) -> Result<u64, OutputError> {
        self.write(e)?;
        Ok(1)
    }

    fn judgement(mut self, e: &FeedbackReceived) -> Result<u64, OutputError> {
        self.write(JudgementRow {
            round: e.round,
            comparison: e.comparison,
            annotator: &e.annotator,
            verdict: e.verdict,
            unsafe_first: e.is_unsafe.map(|[first, _]| first),
            unsafe_second: e.is_unsafe.map(|[_, second]| second),
            comment: e.comment.as_deref(),
        })?;
        Ok(1)
    }

    fn training(mut self, event: &TrainingEvent) -> Result<u64, OutputError> {
        self.write(TrainingRow::of(event))?;
        Ok(1)
    }

    fn evaluation(mut self, e: &PolicyEvaluated) -> Result<u64, OutputError> {
        self.write(EvaluationRow {
            evaluation: e.evaluation,
            policy: &e.policy,
            reward_model: &e.reward_model,
            prompts: e.prompts,
            completions: e.completions,
            gold_reward: e.gold_reward.map(|[mean, _]| mean),
            gold_reward_error: e.gold_reward.map(|[_, error]| error),
            proxy_reward: e.proxy_reward[0],
            proxy_reward_error: e.proxy_reward[1],
            refined_reward: e.refined_reward[0],
            refined_reward_error: e.refined_reward[1],
            proxy_agreement: e.proxy_agreement,
            refined_agreement: e.refined_agreement,
            mean_abs_pacs: e.mean_abs_pacs,
            kendall_tau: e.kendall_tau,
            kl: e.kl,
            response_tokens: e.response_tokens,
            stopped: e.stopped,
        })?;
        Ok(1)
    }
}

#[derive(Serialize)]
struct EventRow<'a> {
    version: u64,
    id: String,
    causation: Option<String>,
    actor: &'a str,
    event_type: &'a str,
    schema_version: u16,
    body_bytes: u64,
    body_json: String,
}

#[derive(Serialize)]
struct CompletionRow<'a> {
    round: u32,
    prompt_id: &'a PromptId,
    category: Option<&'a str>,
    prompt: &'a str,
    completion: u32,
    text: &'a str,
    tokens: u64,
    logprob: f64,
    logprob_mean: f64,
    finish_reason: FinishReason,
    policy: &'a str,
}

#[derive(Serialize)]
struct ScoreRow<'a> {
    round: u32,
    prompt_id: &'a PromptId,
    completion: u32,
    reward: f64,
    reward_model: &'a str,
}

#[derive(Serialize)]
struct ConflictRow<'a> {
    round: u32,
    prompt_id: &'a PromptId,
    degenerate: bool,
    mean_abs_pacs: f64,
    kendall_tau: Option<f64>,
    kendall_tau_distance: Option<f64>,
    concordant: u64,
    discordant: u64,
    tied: u64,
    pacs: &'a [f64],
}

#[derive(Serialize)]
struct JudgementRow<'a> {
    round: u32,
    comparison: u32,
    annotator: &'a str,
    verdict: Verdict,
    unsafe_first: Option<bool>,
    unsafe_second: Option<bool>,
    comment: Option<&'a str>,
}

#[derive(Serialize)]
struct PairRow<'a> {
    round: u32,
    comparison: u32,
    prompt_id: &'a PromptId,
    category: Option<&'a str>,
    prompt: &'a str,
    first: u32,
    second: u32,
    first_text: Option<&'a str>,
    second_text: Option<&'a str>,
    first_reward: Option<f64>,
    second_reward: Option<f64>,
    first_logprob: Option<f64>,
    second_logprob: Option<f64>,
    first_logprob_mean: Option<f64>,
    second_logprob_mean: Option<f64>,
    first_pacs: Option<f64>,
    second_pacs: Option<f64>,
    annotators: Vec<&'a str>,
    verdicts: Vec<Verdict>,
    verdict: Option<Verdict>,
    first_unsafe: Option<bool>,
    second_unsafe: Option<bool>,
    outcome: Option<Outcome>,
    /// 1 for a pair that the audit did not draw.
    propensity: f64,
    is_audit: bool,
    is_focus: bool,
}

impl<'a> PairRow<'a> {
    fn of(pair: &'a Pair, texts: &'a PromptTexts, outcome: Option<Outcome>) -> Self {
        let FeedbackRequested { round, comparison, prompt_id, first, second, .. } = &pair.request;
        let text = |index: u32| texts.texts.get(index as usize).map(String::as_str);
        let of = |scores: &[f64], index: u32| scores.get(index as usize).copied();
        let is_unsafe = pair.is_unsafe();
        Self {
            round: *round,
            comparison: *comparison,
            prompt_id,
            category: texts.category.as_deref(),
            prompt: &texts.prompt,
            first: *first,
            second: *second,
            first_text: text(*first),
            second_text: text(*second),
            first_reward: of(&texts.rewards, *first),
            second_reward: of(&texts.rewards, *second),
            first_logprob: of(&texts.logprobs, *first),
            second_logprob: of(&texts.logprobs, *second),
            first_logprob_mean: of(&texts.logprob_means, *first),
            second_logprob_mean: of(&texts.logprob_means, *second),
            first_pacs: of(&texts.pacs, *first),
            second_pacs: of(&texts.pacs, *second),
            annotators: pair.judgements.iter().map(|judgement| judgement.annotator.as_str()).collect(),
            verdicts: pair.judgements.iter().map(|judgement| judgement.verdict).collect(),
            verdict: pair.verdict(),
            first_unsafe: is_unsafe.map(|[first, _]| first),
            second_unsafe: is_unsafe.map(|[_, second]| second),
            outcome,
            propensity: pair.request.propensity.unwrap_or(1.0),
            is_audit: pair.request.propensity.is_some(),
            is_focus: pair.request.is_focus,
        }
    }
}

#[derive(Serialize, Default)]
struct TrainingRow<'a> {
    event: &'static str,
    round: u32,
    stage: &'static str,
    attempt: u32,
    worker: Option<&'a str>,
    lease_ms: Option<u64>,
    sequence: Option<u32>,
    step: Option<u64>,
    steps: Option<u64>,
    checkpoint: Option<&'a str>,
    resume_from: Option<&'a str>,
    adapter: Option<&'a str>,
    fingerprint: Option<&'a str>,
    preferences: Option<u32>,
    rehearsed: Option<u32>,
    metric_names: Vec<&'a str>,
    metric_values: Vec<f64>,
}

impl<'a> TrainingRow<'a> {
    /// Returns the row of an event of a training.
    fn of(event: &'a TrainingEvent) -> Self {
        let row = |event, round, stage, attempt| Self { event, round, stage, attempt, ..Self::default() };
        match event {
            TrainingEvent::Requested(e) => {
                let resume_from = e.resume_from.as_deref();
                Self { resume_from, ..row("requested", e.round, e.stage.name(), e.attempt) }
            }
            TrainingEvent::Started(e) => {
                let (worker, lease_ms) = (Some(e.worker.as_str()), Some(e.lease_ms));
                Self { worker, lease_ms, ..row("started", e.round, e.stage.name(), e.attempt) }
            }
            TrainingEvent::Progressed(e) => {
                let row = Self {
                    sequence: Some(e.sequence),
                    step: Some(e.step),
                    steps: Some(e.steps),
                    checkpoint: e.checkpoint.as_deref(),
                    ..row("progressed", e.round, e.stage.name(), e.attempt)
                };
                row.with_metrics(&e.metrics)
            }
            TrainingEvent::LeaseExpired(e) => row("lease_expired", e.round, e.stage.name(), e.attempt),
            TrainingEvent::RewardModelRefined(e) => {
                let row = Self {
                    adapter: Some(&e.adapter),
                    fingerprint: Some(&e.fingerprint),
                    preferences: Some(e.preferences),
                    rehearsed: Some(e.rehearsed),
                    ..row("reward_model_refined", e.round, "reward", e.attempt)
                };
                row.with_metrics(&e.metrics)
            }
            TrainingEvent::PolicyTuned(e) => {
                let row = Self {
                    adapter: Some(&e.adapter),
                    fingerprint: Some(&e.fingerprint),
                    ..row("policy_tuned", e.round, "policy", e.attempt)
                };
                row.with_metrics(&e.metrics)
            }
        }
    }

    fn with_metrics(self, metrics: &'a BTreeMap<String, f64>) -> Self {
        let metric_names = metrics.keys().map(String::as_str).collect();
        Self { metric_names, metric_values: metrics.values().copied().collect(), ..self }
    }
}

/// Returns the columns of an event of a training, by name.
///
/// # Errors
/// If a number has no JSON form. Recorded numbers always have one.
pub(crate) fn training_row(event: &TrainingEvent) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(TrainingRow::of(event))
}

#[derive(Serialize)]
struct EvaluationRow<'a> {
    evaluation: u32,
    policy: &'a str,
    reward_model: &'a str,
    prompts: u32,
    completions: u32,
    gold_reward: Option<f64>,
    gold_reward_error: Option<f64>,
    proxy_reward: f64,
    proxy_reward_error: f64,
    refined_reward: f64,
    refined_reward_error: f64,
    proxy_agreement: Option<f64>,
    refined_agreement: Option<f64>,
    mean_abs_pacs: Option<f64>,
    kendall_tau: Option<f64>,
    kl: f64,
    response_tokens: f64,
    stopped: f64,
}
