//! Points of a history at which a fork can begin.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum as _;
use dissent_domain::event::{
    Event, ExperimentForked, FeedbackEvent, PromptEvent, Recorded, RoundEvent, Stage, TrainingEvent,
};
use dissent_domain::fork::ForkBuilder;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_domain::replay::Replay;

use super::settings::{self, Scope, Setting};
use crate::error::BadInput;

/// A step of a round, in the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum RoundStep {
    /// The round opens
    Opening,
    /// The first completions are sampled
    #[value(alias = "sampling")]
    Generation,
    /// The first completions are scored
    #[value(alias = "scoring")]
    Reward,
    /// The first conflict is measured
    Conflict,
    /// Pairs are selected
    Selection,
    /// The first judgement is recorded
    Feedback,
    /// The training of the reward model is requested
    #[value(alias = "training")]
    Refinement,
    /// The training of the policy is requested
    Tuning,
    /// The evaluation of the tuned policy is requested
    Evaluation,
}

impl RoundStep {
    /// Returns the name of the step on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns the round and the step that an event belongs to; `None` if it begins no step.
    fn of(event: &Event) -> Option<(u32, Self)> {
        match event {
            Event::Round(e) => match e {
                RoundEvent::Opened(e) => Some((e.round, Self::Opening)),
                RoundEvent::PairSelected(_) | RoundEvent::Evaluated(_) => Some((e.round(), Self::Selection)),
                RoundEvent::RewardHackingSuspected(_)
                | RoundEvent::StopDecided(_)
                | RoundEvent::Closed(_) => None,
            },
            Event::Prompt(e) => match e {
                PromptEvent::Sampled(e) => Some((e.round, Self::Generation)),
                PromptEvent::Scored(e) => Some((e.round, Self::Reward)),
                PromptEvent::Measured(e) => Some((e.round, Self::Conflict)),
                PromptEvent::Admitted(_) | PromptEvent::SetAside(_) => None,
            },
            Event::Feedback(e) => match e {
                FeedbackEvent::Requested(e) => Some((e.round, Self::Selection)),
                FeedbackEvent::Received(_) | FeedbackEvent::Settled(_) => Some((e.round(), Self::Feedback)),
            },
            Event::Training(e) => match e {
                TrainingEvent::Requested(e) => Some(match e.stage {
                    Stage::Reward => (e.round, Self::Refinement),
                    Stage::Policy => (e.round, Self::Tuning),
                }),
                TrainingEvent::Started(_)
                | TrainingEvent::Progressed(_)
                | TrainingEvent::LeaseExpired(_)
                | TrainingEvent::RewardModelRefined(_)
                | TrainingEvent::PolicyTuned(_) => None,
            },
            // Evaluation 0 is that of the first policy, and belongs to no round.
            Event::Evaluation(e) => e.evaluation().checked_sub(1).map(|round| (round, Self::Evaluation)),
            Event::Experiment(_) | Event::Operator(_) => None,
        }
    }
}

/// A position of the log at which a fork can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForkPoint {
    /// The last shared position.
    pub(crate) position: u64,
    /// The round and the step that follows the position, if one does.
    step: Option<(u32, RoundStep)>,
}

impl fmt::Display for ForkPoint {
    /// Formats the position and, if it has one, its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        match self.step {
            Some((round, step)) => write!(f, " (--round {round} --before {})", step.name()),
            None => Ok(()),
        }
    }
}

impl ForkPoint {
    /// Returns the options of `dissent experiment fork` that name the point.
    pub(crate) fn options(&self) -> Vec<String> {
        match self.step {
            Some((round, step)) => {
                vec!["--round".to_owned(), round.to_string(), "--before".to_owned(), step.name()]
            }
            None => vec!["--at".to_owned(), self.position.to_string()],
        }
    }
}

/// The positions before the steps of a history, found event by event.
#[derive(Debug, Default)]
struct StepPositions {
    /// The last position at which no event of a decision is missing.
    decided: u64,
    before: BTreeMap<(u32, RoundStep), u64>,
}

impl StepPositions {
    fn visit(&mut self, recorded: &Recorded, is_decided: bool) -> anyhow::Result<()> {
        if let Some(step) = RoundStep::of(&recorded.decode()?) {
            self.before.entry(step).or_insert(self.decided);
        }
        if is_decided {
            self.decided = recorded.position;
        }
        Ok(())
    }

    fn at(&self, position: u64) -> ForkPoint {
        let step = self.before.iter().find(|(_, before)| **before == position).map(|(step, _)| *step);
        ForkPoint { position, step }
    }
}

/// Returns the last position before a step of a round; of the last round opened if none is named.
///
/// # Errors
/// If the log cannot be read or contradicts the rules, or the experiment has not reached the step.
pub(crate) fn position_before(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    round: Option<u32>,
    step: RoundStep,
) -> anyhow::Result<u64> {
    let (mut replay, mut positions) = (Replay::verifying(), StepPositions::default());
    super::each(log, experiment, None, &mut |recorded| {
        replay.apply(recorded)?;
        positions.visit(recorded, replay.undecided() == 0)
    })?;
    let opened = replay.experiment().rounds().len();
    let Some(last) = u32::try_from(opened)?.checked_sub(1) else {
        let reason = format!("experiment {experiment} has opened no round yet: leave --before out");
        return Err(BadInput(reason).into());
    };
    let round = round.unwrap_or(last);
    if round > last {
        let rounds = crate::text::count(opened as u64, "round");
        let reason = format!(
            "unknown round {round}: experiment {experiment} has {rounds}, counted from 0: use --round {last}"
        );
        return Err(BadInput(reason).into());
    }
    positions.before.get(&(round, step)).copied().ok_or_else(|| {
        let reached = positions.before.keys().filter(|(of, _)| *of == round).map(|(_, step)| step.name());
        let reason = format!(
            "round {round} of {experiment} has not reached the step {}: use --before {}, or leave --round and --before out to \
             share all events",
            step.name(),
            reached.collect::<Vec<_>>().join(", ")
        );
        BadInput(reason).into()
    })
}

/// Returns the last point, up to the position `last` of the log, at which a fork can begin with these
/// settings. `None` if there is none.
///
/// # Errors
/// If the log cannot be read, or contradicts the rules.
pub(crate) fn last_forkable(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    fork: &ExperimentId,
    settings: &[Setting],
    last: Option<u64>,
) -> anyhow::Result<Option<ForkPoint>> {
    let mut builder = ForkBuilder::new(fork.clone());
    let mut positions = StepPositions::default();
    let mut candidate = Candidate::default();
    let mut forkable = None;
    super::each(log, experiment, None, &mut |recorded| {
        builder.share(recorded)?;
        positions.visit(recorded, builder.is_decided())?;
        let is_within = last.is_none_or(|last| recorded.position <= last);
        let plan = builder.experiment().plan().filter(|_| is_within && builder.is_decided());
        let forked = plan.and_then(|plan| candidate.with(plan, experiment, settings));
        if forked.is_some_and(|forked| builder.check(forked).is_ok()) {
            forkable = Some(recorded.position);
        }
        Ok(())
    })?;
    Ok(forkable.map(|position| positions.at(position)))
}

/// The event that would begin a fork, made once for each plan of the history.
#[derive(Default)]
struct Candidate {
    plan: Option<Plan>,
    forked: Option<ExperimentForked>,
}

impl Candidate {
    fn with(
        &mut self,
        plan: &Plan,
        origin: &ExperimentId,
        settings: &[Setting],
    ) -> Option<&ExperimentForked> {
        if self.plan.as_ref() != Some(plan) {
            self.plan = Some(plan.clone());
            let changed = settings::changed(plan, settings, Scope::Fork).ok();
            let forked = |plan| ExperimentForked { origin: origin.clone(), position: 0, shared: 0, plan };
            self.forked = changed.map(forked);
        }
        self.forked.as_ref()
    }
}
