//! An experiment: its plan, and its state as a fold of its events.
//!
//! [`Experiment::decide`] checks whether a proposed event may happen. [`Experiment::evolve`] applies an event
//! and cannot fail. [`Experiment::due`] returns the events that the round step proposes next. All three are
//! pure. Each family of events has its rules in one file: prompts and selection in [`round`](crate::round),
//! feedback, trainings and evaluations in [`learning`](crate::learning).

use serde::{Deserialize, Serialize};

use crate::due::Due;
use crate::event::{
    EvaluationEvent, Event, EventId, ExperimentCancelled, ExperimentEvent, ExperimentFinished,
    ExperimentPaused, ExperimentStarted, FeedbackEvent, FeedbackReceived, OperatorEvent, PolicyEvaluated,
    PromptEvent, RewardHackingSuspected, RoundClosed, RoundEvent, RoundOpened, StopDecided, TrainingEvent,
};
use crate::learning::evaluation::{self, Evaluations};
use crate::learning::{ModelVersion, feedback, reward_hacking_signs, stop_reason};
use crate::plan::{FeedbackSource, LearningPlan, Plan};
use crate::rejection::Rejection;
use crate::round::Round;
use crate::round::ids::{closed_id, first_opened_id, next_opened_id};
use crate::round::prompts::ExpectedModels;

/// The state of an experiment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Experiment {
    plan: Option<Plan>,
    rounds: Vec<Round>,
    /// The current reward model and policy, after the trainings so far; `None`: those of the plan.
    refined: Option<ModelVersion>,
    tuned: Option<ModelVersion>,
    evaluations: Evaluations,
    warnings: Vec<RewardHackingSuspected>,
    stopped: Option<StopDecided>,
    finished: bool,
    /// Number of pauses so far, the current one included.
    pauses: u32,
    /// The current pause.
    paused: Option<ExperimentPaused>,
    cancelled: Option<ExperimentCancelled>,
}

impl Experiment {
    /// Restores the fields that a snapshot leaves out.
    pub(crate) fn index(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mut opened = first_opened_id(&plan.experiment);
        for round in &mut self.rounds {
            round.index(opened);
            opened = next_opened_id(opened);
        }
    }

    /// The plan; `None` before the start.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The rounds so far.
    #[must_use]
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// The current policy.
    #[must_use]
    pub fn policy(&self) -> Option<ModelVersion> {
        let planned =
            |plan: &Plan| ModelVersion { fingerprint: plan.policy.fingerprint.clone(), adapter: None };
        self.tuned.clone().or_else(|| self.plan.as_ref().map(planned))
    }

    /// The current reward model.
    #[must_use]
    pub fn reward_model(&self) -> Option<ModelVersion> {
        let planned =
            |plan: &Plan| ModelVersion { fingerprint: plan.reward.fingerprint.clone(), adapter: None };
        self.refined.clone().or_else(|| self.plan.as_ref().map(planned))
    }

    /// The evaluations so far, number 0 first.
    #[must_use]
    pub fn evaluations(&self) -> &[PolicyEvaluated] {
        self.evaluations.done()
    }

    /// Whether an evaluation was requested.
    pub(crate) fn evaluation_is_requested(&self) -> bool {
        self.evaluations.requested() > 0
    }

    /// The warnings of reward hacking so far.
    #[must_use]
    pub fn warnings(&self) -> &[RewardHackingSuspected] {
        &self.warnings
    }

    /// The decision to end before the last round, if there is one.
    #[must_use]
    pub fn stopped(&self) -> Option<StopDecided> {
        self.stopped
    }

    /// The current pause; `None` while the experiment is not paused.
    #[must_use]
    pub fn paused(&self) -> Option<&ExperimentPaused> {
        self.paused.as_ref()
    }

    /// Number of pauses so far, the current one included.
    pub(crate) fn pauses(&self) -> u32 {
        self.pauses
    }

    /// The cancellation, with operator and reason.
    #[must_use]
    pub fn cancelled(&self) -> Option<&ExperimentCancelled> {
        self.cancelled.as_ref()
    }

    /// Whether the experiment is finished or cancelled: no event can follow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.finished || self.cancelled.is_some()
    }

    /// Whether the experiment waits only for judgements of people.
    #[must_use]
    pub fn waits_for_people(&self) -> bool {
        let learning = self.plan.as_ref().and_then(|plan| plan.learning.as_ref());
        let people =
            learning.map(|learning| &learning.feedback).filter(|f| f.source == FeedbackSource::People);
        let open = self.rounds.last().filter(|round| !round.is_closed());
        // The evaluation of the first policy runs while people judge.
        let is_idle = self.evaluations.pending().is_none();
        let is_running = self.paused.is_none() && self.cancelled.is_none();
        is_idle
            && is_running
            && people.zip(open).is_some_and(|(plan, round)| round.learning().waits_for_feedback(plan))
    }

    /// Whether the experiment did all its rounds.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Checks whether this event may happen now. Of several events proposed together, each is checked against
    /// the state before all of them.
    ///
    /// # Errors
    /// The reason why the event may not happen.
    pub fn decide(&self, event: &Event) -> Result<(), Rejection> {
        if self.plan.is_none() && event.body::<ExperimentStarted>().is_some() {
            return Ok(());
        }
        let plan = self.running()?;
        match event {
            Event::Experiment(e) => match e {
                ExperimentEvent::Started(_) => Err(Rejection::AlreadyStarted),
                // No step proposes a fork: see `decide_fork`.
                ExperimentEvent::Forked(_) => Err(Rejection::NotAFork),
                ExperimentEvent::Finished(_) => self.decide_due(event),
            },
            // No step proposes an operator command: see `decide_command`.
            Event::Operator(_) => Err(Rejection::NotAStep),
            Event::Round(_) => self.decide_due(event),
            Event::Prompt(e) => self.decide_prompt(plan, e),
            Event::Feedback(e) => match e {
                FeedbackEvent::Requested(_) | FeedbackEvent::Settled(_) => self.decide_due(event),
                FeedbackEvent::Received(e) => self.decide_received(e),
            },
            Event::Training(e) => self.decide_training(e, event),
            Event::Evaluation(e) => match e {
                EvaluationEvent::Requested(_) => self.decide_due(event),
                EvaluationEvent::PolicyEvaluated(e) => self.decide_evaluated(plan, e),
            },
        }
    }

    /// Checks whether the round step may propose conclusions: not while the experiment is paused or over.
    /// The conclusions must be those that are [`due`](Self::due).
    pub(crate) fn decide_conclusion(&self) -> Result<(), Rejection> {
        self.running()?;
        if self.paused.is_some() { Err(Rejection::Paused) } else { Ok(()) }
    }

    fn decide_due(&self, event: &Event) -> Result<(), Rejection> {
        self.decide_conclusion()?;
        let is_due = self.due().is_some_and(|due| due.events.contains(event));
        if is_due { Ok(()) } else { Err(Rejection::NotDue) }
    }

    /// The plan, if the experiment has started and is not over.
    fn running(&self) -> Result<&Plan, Rejection> {
        let plan = self.plan.as_ref().ok_or(Rejection::NotStarted)?;
        if self.cancelled.is_some() {
            Err(Rejection::Cancelled)
        } else if self.finished {
            Err(Rejection::Finished)
        } else {
            Ok(plan)
        }
    }

    fn decide_prompt(&self, plan: &Plan, e: &PromptEvent) -> Result<(), Rejection> {
        let expected = ExpectedModels {
            samples: plan.sampling.samples,
            policy: self.policy_fingerprint(plan),
            reward_model: self.reward_model_fingerprint(plan),
        };
        let decided = self.open_round(e.round())?.prompt_states().decide(expected, e);
        decided.map_err(|reason| Rejection::Prompt { prompt_id: e.prompt_id().clone(), reason })
    }

    fn decide_received(&self, e: &FeedbackReceived) -> Result<(), Rejection> {
        let decided = self.open_round(e.round)?.learning().feedback().decide_received(e);
        decided.map_err(|reason| Rejection::Comparison { round: e.round, comparison: e.comparison, reason })
    }

    fn decide_training(&self, e: &TrainingEvent, event: &Event) -> Result<(), Rejection> {
        if event.is_conclusion() {
            return self.decide_due(event);
        }
        let (round, stage) = (e.round(), e.stage());
        let decided = self.open_round(round)?.learning().trainings().decide(e);
        decided.map_err(|reason| Rejection::Training { round, stage, reason })
    }

    fn decide_evaluated(&self, plan: &Plan, e: &PolicyEvaluated) -> Result<(), Rejection> {
        let (policy, reward_model) = (self.policy_fingerprint(plan), self.reward_model_fingerprint(plan));
        let decided = self.evaluations.decide_evaluated(policy, reward_model, e);
        decided.map_err(|reason| Rejection::Evaluation { evaluation: e.evaluation, reason })
    }

    fn policy_fingerprint<'a>(&'a self, plan: &'a Plan) -> &'a str {
        self.tuned.as_ref().map_or(&plan.policy.fingerprint, |tuned| &tuned.fingerprint)
    }

    fn reward_model_fingerprint<'a>(&'a self, plan: &'a Plan) -> &'a str {
        self.refined.as_ref().map_or(&plan.reward.fingerprint, |refined| &refined.fingerprint)
    }

    fn open_round(&self, round: u32) -> Result<&Round, Rejection> {
        match self.rounds.last() {
            Some(open) if open.number() == round && !open.is_closed() => Ok(open),
            _ => Err(Rejection::RoundNotOpen { round }),
        }
    }

    fn next_round(&self) -> u32 {
        self.rounds.last().map_or(0, |round| round.number() + 1)
    }

    /// Applies a recorded event. An event that does not fit the state has no effect.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::Experiment(e) => match e {
                ExperimentEvent::Started(e) => self.plan = Some(e.plan.clone()),
                ExperimentEvent::Forked(e) => {
                    self.plan = Some(e.plan.clone());
                    // The origin may be paused; a fork starts unpaused.
                    self.paused = None;
                }
                ExperimentEvent::Finished(_) => self.finished = true,
            },
            Event::Operator(e) => match e {
                OperatorEvent::Paused(e) => {
                    self.pauses = e.number.saturating_add(1);
                    self.paused = Some(e.clone());
                }
                OperatorEvent::Resumed(_) => self.paused = None,
                OperatorEvent::Cancelled(e) => self.cancelled = Some(e.clone()),
            },
            Event::Round(e) => self.evolve_round(e),
            Event::Prompt(e) => self.evolve_last(|round| round.evolve_prompt(e)),
            Event::Feedback(e) => self.evolve_last(|round| round.evolve_feedback(e)),
            Event::Training(e) => self.evolve_training(e),
            Event::Evaluation(e) => self.evaluations.evolve(e),
        }
    }

    fn evolve_round(&mut self, event: &RoundEvent) {
        match event {
            RoundEvent::Opened(e) => {
                let opened = match (self.rounds.last(), &self.plan) {
                    (Some(last), _) => next_opened_id(last.opened()),
                    (None, Some(plan)) => first_opened_id(&plan.experiment),
                    (None, None) => return,
                };
                self.rounds.push(Round::open(opened, e.round, e.prompts));
            }
            RoundEvent::RewardHackingSuspected(e) => self.warnings.push(e.clone()),
            RoundEvent::StopDecided(e) => self.stopped = Some(*e),
            RoundEvent::PairSelected(_) | RoundEvent::Evaluated(_) | RoundEvent::Closed(_) => {
                self.evolve_last(|round| round.evolve_round(event));
            }
        }
    }

    fn evolve_training(&mut self, event: &TrainingEvent) {
        match event {
            TrainingEvent::RewardModelRefined(e) => self.refined = Some(version(&e.fingerprint, &e.adapter)),
            TrainingEvent::PolicyTuned(e) => self.tuned = Some(version(&e.fingerprint, &e.adapter)),
            TrainingEvent::Requested(_)
            | TrainingEvent::Started(_)
            | TrainingEvent::Progressed(_)
            | TrainingEvent::LeaseExpired(_) => {}
        }
        self.evolve_last(|round| round.evolve_training(event));
    }

    fn evolve_last(&mut self, evolve: impl FnOnce(&mut Round)) {
        if let (Some(_), Some(round)) = (&self.plan, self.rounds.last_mut()) {
            evolve(round);
        }
    }

    /// Returns the events that the round step proposes next, all together. `None` while the experiment is
    /// over, paused, or waits for a step.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        let plan = self.plan.as_ref().filter(|_| !self.is_over() && self.paused.is_none())?;
        match self.rounds.last() {
            Some(round) if !round.is_closed() => self.due_in_round(plan, round),
            last => {
                let cause = match last {
                    Some(round) => closed_id(round.opened()),
                    None => EventId::of_experiment(&plan.experiment),
                };
                let round = self.next_round();
                let event = if round < plan.rounds && self.stopped.is_none() {
                    RoundOpened { round, prompts: plan.prompts.count }.into()
                } else {
                    ExperimentFinished { rounds: round }.into()
                };
                Some(Due { cause, events: vec![event] })
            }
        }
    }

    fn due_in_round(&self, plan: &Plan, round: &Round) -> Option<Due> {
        if plan.learning.is_some() && self.evaluations.requested() == 0 {
            return Some(evaluation::due(first_opened_id(&plan.experiment), 0));
        }
        let wanted = round.number() + 2;
        let evaluated = self.evaluations.done().len();
        if self.evaluations.requested() < wanted {
            // Training would change the models that the first evaluation still uses.
            let waits = round.learning().settled().is_some() && evaluated < wanted as usize - 1;
            return round.due(plan).filter(|_| !waits);
        }
        let evaluated = evaluated == wanted as usize;
        let learning = plan.learning.as_ref().filter(|_| evaluated)?;
        Some(Due { cause: round.opened(), events: self.close(round.number(), learning) })
    }

    /// The last events of a round with learning: warnings, the decision to stop, the close.
    fn close(&self, round: u32, learning: &LearningPlan) -> Vec<Event> {
        let mut events = Vec::new();
        let signs = reward_hacking_signs(&learning.guards, self.evaluations.done());
        if !signs.is_empty() {
            events.push(RewardHackingSuspected { round, signs }.into());
        }
        if let Some(reason) = stop_reason(&learning.guards, self.evaluations.done()) {
            events.push(StopDecided { round, reason }.into());
        }
        events.push(RoundClosed { round }.into());
        events
    }

    /// Returns the one possible cause of an event that is no conclusion; `None` if the state has none.
    pub(crate) fn cause(&self, event: &Event) -> Option<EventId> {
        let round = self.rounds.last()?;
        match event {
            Event::Prompt(e) => round.prompt_states().cause(round.opened(), e),
            Event::Feedback(e) => match e {
                FeedbackEvent::Received(e) => Some(feedback::requested_id(round.opened(), e.comparison)),
                FeedbackEvent::Requested(_) | FeedbackEvent::Settled(_) => None,
            },
            Event::Training(e) => round.learning().trainings().cause(e),
            Event::Evaluation(e) => match e {
                EvaluationEvent::PolicyEvaluated(e) => self.evaluation_request(e.evaluation),
                EvaluationEvent::Requested(_) => None,
            },
            Event::Experiment(_) | Event::Operator(_) | Event::Round(_) => None,
        }
    }

    /// The id of an evaluation's request: of the initial policy, or of the policy tuned in the round before.
    fn evaluation_request(&self, evaluation: u32) -> Option<EventId> {
        let cause = match evaluation.checked_sub(1) {
            None => self.rounds.first()?.opened(),
            Some(round) => self.rounds.get(round as usize)?.learning().trainings().tuned()?,
        };
        Some(evaluation::requested_id(cause))
    }

    /// Returns the events of the open round that wait for a step other than the round step. Empty unless the
    /// experiment runs.
    pub(crate) fn unanswered(&self) -> Vec<EventId> {
        let open =
            self.rounds.last().filter(|round| !round.is_closed() && !self.is_over() && self.paused.is_none());
        let Some((plan, round)) = self.plan.as_ref().zip(open) else { return Vec::new() };
        let (opened, learning) = (round.opened(), round.learning());
        let comparisons =
            plan.learning.iter().flat_map(|plan| learning.feedback().unanswered(&plan.feedback, opened));
        let evaluation =
            self.evaluations.pending().and_then(|evaluation| self.evaluation_request(evaluation));
        let prompts = round.prompt_states().unanswered(opened);
        prompts.chain(comparisons).chain(learning.trainings().unanswered()).chain(evaluation).collect()
    }
}

fn version(fingerprint: &str, adapter: &str) -> ModelVersion {
    ModelVersion { fingerprint: fingerprint.to_owned(), adapter: Some(adapter.to_owned()) }
}
