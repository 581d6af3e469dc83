//! The figures of one run, from the state of its experiment.

use anyhow::Context as _;
use dissent_domain::event::PolicyEvaluated;
use dissent_domain::experiment::Experiment;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_storage::{SNAPSHOT_EVENTS, Snapshots};
use serde::Serialize;

use super::figures::{Difference, Figure};
use crate::history::overview::State;

/// The figures of a run. A figure that the run does not have is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunFigures {
    pub(crate) experiment: String,
    pub(crate) data_dir: String,
    pub(crate) state: State,
    pub(crate) seed: u64,
    pub(crate) rule: String,
    pub(crate) budget: Option<u64>,
    pub(crate) method: Option<String>,
    pub(crate) rounds: u32,
    pub(crate) prompts: u32,
    /// Conflict of the last round that was measured.
    pub(crate) mean_abs_pacs: Option<f64>,
    pub(crate) kendall_tau: Option<f64>,
    pub(crate) judgements: u64,
    /// Settled preferences of all rounds, and those that the reward model of the round contradicted.
    pub(crate) preferences: u64,
    pub(crate) contradicted: u64,
    pub(crate) held_out_prompts: Option<u32>,
    /// Gold reward of the first and of the last evaluated policy, and the difference.
    pub(crate) gold_before: Option<Figure>,
    pub(crate) gold_after: Option<Figure>,
    pub(crate) gold_gain: Option<Difference>,
    /// Reward by the first proxy.
    pub(crate) proxy_before: Option<Figure>,
    pub(crate) proxy_after: Option<Figure>,
    /// Share of pairs that the last reward model orders as the gold reward does.
    pub(crate) agreement: Option<f64>,
    pub(crate) kl: Option<f64>,
    pub(crate) response_tokens: Option<f64>,
    pub(crate) stopped: Option<f64>,
    /// The first and the last evaluation: their figures by prompt are paired.
    #[serde(skip)]
    pub(crate) evaluations: [Option<PolicyEvaluated>; 2],
    /// Seconds from the first event to the last one, pauses and people included.
    pub(crate) seconds: f64,
}

impl RunFigures {
    /// Reads the figures of an experiment.
    ///
    /// # Errors
    /// If the log cannot be read, or the experiment has no plan.
    pub(crate) fn read(
        log: &dyn EventLog,
        snapshots: &Snapshots,
        experiment: &ExperimentId,
        data_dir: String,
    ) -> anyhow::Result<Self> {
        let replay = snapshots.resume(log, experiment, SNAPSHOT_EVENTS)?;
        let time = |after: u64| -> anyhow::Result<Option<u64>> {
            Ok(log.read_stream(experiment, after, 1)?.first().map(|recorded| recorded.event.time_us))
        };
        let (first, last) = (time(0)?, time(replay.version().saturating_sub(1))?);
        let micros = last.zip(first).map_or(0, |(last, first)| last.saturating_sub(first));
        let seconds = std::time::Duration::from_micros(micros).as_secs_f64();
        let state = replay.experiment();
        let plan = state.plan().with_context(|| format!("experiment {experiment} has no plan"))?;
        Ok(Self::of(state, plan, data_dir, seconds))
    }

    fn of(state: &Experiment, plan: &Plan, data_dir: String, seconds: f64) -> Self {
        let measured = state.rounds().iter().rev().find_map(|round| round.evaluation());
        let settled = || state.rounds().iter().filter_map(|round| round.learning().settled());
        let (first, last) = (state.evaluations().first(), state.evaluations().last());
        let gold = |e: &PolicyEvaluated| e.gold_reward.map(figure);
        let (gold_before, gold_after) = (first.and_then(gold), last.and_then(gold));
        let several = state.evaluations().len() > 1;
        let gain = gold_after.zip(gold_before).filter(|_| several);
        let held_out_prompts = last.map(|e| e.prompts);
        Self {
            experiment: plan.experiment.to_string(),
            data_dir,
            state: State::of(state),
            seed: plan.seed,
            rule: plan.conflict.selection.rule.name().to_owned(),
            budget: plan.conflict.selection.budget,
            method: plan
                .learning
                .as_ref()
                .map(|learning| format!("{:?}", learning.tuning.objective.method).to_lowercase()),
            rounds: u32::try_from(state.rounds().iter().filter(|round| round.is_closed()).count())
                .unwrap_or(u32::MAX),
            prompts: plan.prompts.count,
            mean_abs_pacs: measured.and_then(|e| e.mean_abs_pacs),
            kendall_tau: measured.and_then(|e| e.kendall_tau),
            judgements: state.rounds().iter().map(|round| round.learning().judgements()).sum(),
            preferences: settled().map(|e| u64::from(e.preferences)).sum(),
            contradicted: settled().map(|e| u64::from(e.contradicted)).sum(),
            held_out_prompts,
            gold_before,
            gold_after,
            gold_gain: gain.map(|(after, before)| {
                let paired = first.zip(last).and_then(|(first, last)| Difference::paired_gold(first, last));
                paired.unwrap_or_else(|| {
                    Difference::unpaired(after, before, held_out_prompts.unwrap_or_default())
                })
            }),
            proxy_before: first.map(|e| figure(e.proxy_reward)),
            proxy_after: last.map(|e| figure(e.proxy_reward)),
            agreement: last.and_then(|e| e.refined_agreement),
            kl: last.map(|e| e.kl),
            response_tokens: last.map(|e| e.response_tokens),
            stopped: last.map(|e| e.stopped),
            evaluations: [first.cloned(), last.cloned()],
            seconds,
        }
    }
}

fn figure([mean, error]: [f64; 2]) -> Figure {
    Figure { mean, error }
}
