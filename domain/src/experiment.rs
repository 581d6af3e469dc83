//! An experiment: its plan, and its state as a fold of its events.
//!
//! [`Experiment::decide`] checks whether a proposed event may happen. [`Experiment::evolve`] applies an event
//! and cannot fail. [`Experiment::due`] returns the events that the round step proposes next. All three are
//! pure.

use serde::{Deserialize, Serialize};

use crate::decision::{Due, Rejection};
use crate::event::{
    EvaluationEvent, EvaluationRequested, Event, EventId, ExperimentCancelled, ExperimentEvent,
    ExperimentFinished, ExperimentPaused, ExperimentStarted, FeedbackEvent, OperatorEvent, PolicyEvaluated,
    PromptEvent, RewardHackingSuspected, RoundClosed, RoundEvent, RoundOpened, StopDecided, TrainingEvent,
};
use crate::event_ids::{next_round_opened_id, round_closed_id, round_opened_id};
use crate::learning::{ModelVersion, reward_hacking_signs, stop_reason};
use crate::plan::{FeedbackSource, LearningPlan, Plan};
use crate::round::Round;

/// The state of an experiment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Experiment {
    plan: Option<Plan>,
    rounds: Vec<Round>,
    /// The current reward model and policy, after the trainings so far; `None`: those of the plan.
    refined: Option<ModelVersion>,
    tuned: Option<ModelVersion>,
    evaluations_requested: u32,
    evaluations: Vec<PolicyEvaluated>,
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
        let mut rounds = std::mem::take(&mut self.rounds);
        for mut round in rounds.drain(..) {
            round.index(self.opened_id(round.number()));
            self.rounds.push(round);
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
        &self.evaluations
    }

    /// Whether an evaluation was ever requested.
    pub(crate) fn evaluation_is_requested(&self) -> bool {
        self.evaluations_requested > 0
    }

    /// The number of the evaluation that is requested and not done.
    pub(crate) fn evaluation_awaited(&self) -> Option<u32> {
        let made = u32::try_from(self.evaluations.len()).ok()?;
        (made < self.evaluations_requested).then_some(made)
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

    /// Whether the experiment waits for judgements of people and for nothing else.
    #[must_use]
    pub fn waits_for_people(&self) -> bool {
        let learning = self.plan.as_ref().and_then(|plan| plan.learning.as_ref());
        let people =
            learning.map(|learning| &learning.feedback).filter(|f| f.source == FeedbackSource::People);
        let open = self.rounds.last().filter(|round| !round.is_closed());
        // The evaluation of the first policy runs while people judge.
        let idle = self.evaluations.len() == self.evaluations_requested as usize;
        let goes_on = self.paused.is_none() && self.cancelled.is_none();
        idle && goes_on
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
        let Some(plan) = &self.plan else {
            let starts = event.body::<ExperimentStarted>().is_some();
            return if starts { Ok(()) } else { Err(Rejection::NotStarted) };
        };
        if self.cancelled.is_some() {
            return Err(Rejection::Cancelled);
        }
        if self.finished {
            return Err(Rejection::Finished);
        }
        match event {
            Event::Experiment(e) => match e {
                ExperimentEvent::Started(_) => Err(Rejection::AlreadyStarted),
                // No step proposes a fork: see `decide_fork`.
                ExperimentEvent::Forked(_) => Err(Rejection::NotAFork),
                ExperimentEvent::Finished(e) => self.decide_finish(plan, e),
            },
            // No step proposes an operator command: see `decide_command`.
            Event::Operator(_) => Err(Rejection::NotAStep),
            Event::Round(e) => self.decide_round(plan, e, event),
            Event::Prompt(e) => self.decide_prompt(plan, e),
            Event::Feedback(e) => match e {
                FeedbackEvent::Requested(e) => self.open_round(e.round)?.decide_asked(e),
                FeedbackEvent::Received(e) => self.open_round(e.round)?.learning().decide_received(e),
                FeedbackEvent::Settled(e) => self.decide_due(e.round, event),
            },
            Event::Training(e) => self.decide_training(e, event),
            Event::Evaluation(e) => match e {
                EvaluationEvent::Requested(_) => self.decide_due(self.next_round().saturating_sub(1), event),
                EvaluationEvent::PolicyEvaluated(e) => self.decide_evaluated(e),
            },
        }
    }

    fn decide_round(&self, plan: &Plan, e: &RoundEvent, event: &Event) -> Result<(), Rejection> {
        match e {
            RoundEvent::Opened(e) => self.decide_open(plan, e),
            RoundEvent::PairSelected(e) => self.open_round(e.round)?.decide_selected(e),
            RoundEvent::Evaluated(e) => self.open_round(e.round)?.decide_complete(),
            RoundEvent::Closed(e) if plan.learning.is_none() => self.open_round(e.round)?.decide_complete(),
            // These conclusions may happen exactly when they are due.
            RoundEvent::Closed(_) | RoundEvent::RewardHackingSuspected(_) | RoundEvent::StopDecided(_) => {
                self.decide_due(e.round(), event)
            }
        }
    }

    fn decide_prompt(&self, plan: &Plan, e: &PromptEvent) -> Result<(), Rejection> {
        let round = self.open_round(e.round())?;
        match e {
            PromptEvent::Admitted(e) => round.decide_admit(e),
            PromptEvent::Sampled(e) => {
                let policy = self.tuned.as_ref().map_or(&plan.policy.fingerprint, |tuned| &tuned.fingerprint);
                round.decide_sampled(plan, policy, e)
            }
            PromptEvent::Scored(e) => {
                let model =
                    self.refined.as_ref().map_or(&plan.reward.fingerprint, |refined| &refined.fingerprint);
                round.decide_scored(model, e)
            }
            PromptEvent::Measured(e) => round.decide_measured(e),
            PromptEvent::SetAside(e) => round.decide_set_aside(e),
        }
    }

    fn decide_training(&self, e: &TrainingEvent, event: &Event) -> Result<(), Rejection> {
        match e {
            TrainingEvent::Requested(e) => self.decide_due(e.round, event),
            TrainingEvent::Started(e) => self.open_round(e.round)?.learning().decide_started(e),
            TrainingEvent::Progressed(e) => self.open_round(e.round)?.learning().decide_progressed(e),
            TrainingEvent::LeaseExpired(e) => self.open_round(e.round)?.learning().decide_expired(e),
            TrainingEvent::RewardModelRefined(e) => self.open_round(e.round)?.learning().decide_refined(e),
            TrainingEvent::PolicyTuned(e) => self.open_round(e.round)?.learning().decide_tuned(e),
        }
    }

    /// Checks whether the round step may propose conclusions: they wait while the experiment is paused.
    pub(crate) fn decide_conclusion(&self) -> Result<(), Rejection> {
        if self.paused.is_some() { Err(Rejection::Paused) } else { Ok(()) }
    }

    fn decide_open(&self, plan: &Plan, opened: &RoundOpened) -> Result<(), Rejection> {
        let next = self.next_round();
        let previous_closed = self.rounds.last().is_none_or(Round::is_closed);
        if opened.round == next
            && previous_closed
            && self.stopped.is_none()
            && next < plan.rounds
            && opened.prompts == plan.prompts.count
        {
            Ok(())
        } else {
            Err(Rejection::Round { round: opened.round, reason: "it is not the next round to open" })
        }
    }

    fn decide_due(&self, round: u32, event: &Event) -> Result<(), Rejection> {
        let due = self.due().is_some_and(|due| due.events.contains(event));
        if due { Ok(()) } else { Err(Rejection::Round { round, reason: "the event is not due" }) }
    }

    fn decide_evaluated(&self, e: &PolicyEvaluated) -> Result<(), Rejection> {
        let reject = |reason| Err(Rejection::Evaluation { evaluation: e.evaluation, reason });
        let current = |version: Option<ModelVersion>, fingerprint: &str| {
            version.is_some_and(|version| version.fingerprint == fingerprint)
        };
        if e.evaluation as usize != self.evaluations.len() || e.evaluation >= self.evaluations_requested {
            return reject("no evaluation with this number is pending");
        }
        // The initial policy is evaluated before any training.
        if !current(self.policy(), &e.policy) || !current(self.reward_model(), &e.reward_model) {
            return reject("its models are other models than the current ones");
        }
        let figures = [e.proxy_reward, e.refined_reward, [e.kl, e.response_tokens], [e.stopped, 0.0]];
        let optional = [e.proxy_agreement, e.refined_agreement, e.mean_abs_pacs, e.kendall_tau];
        let mut figures =
            figures.iter().flatten().chain(e.gold_reward.iter().flatten()).chain(optional.iter().flatten());
        if figures.any(|figure| !figure.is_finite()) {
            return reject("a figure is not finite");
        }
        Ok(())
    }

    fn decide_finish(&self, plan: &Plan, finished: &ExperimentFinished) -> Result<(), Rejection> {
        let all_closed = self.rounds.last().is_some_and(Round::is_closed);
        let done = self.next_round();
        if all_closed && (done == plan.rounds || self.stopped.is_some()) && finished.rounds == done {
            Ok(())
        } else {
            Err(Rejection::Round { round: finished.rounds, reason: "rounds are left to do" })
        }
    }

    fn open_round(&self, round: u32) -> Result<&Round, Rejection> {
        match self.rounds.last() {
            Some(open) if open.number() == round && !open.is_closed() => Ok(open),
            _ => Err(Rejection::Round { round, reason: "it is not the open round" }),
        }
    }

    fn next_round(&self) -> u32 {
        self.rounds.last().map_or(0, |round| round.number() + 1)
    }

    /// The id of the event that opens this round, after the rounds so far.
    fn opened_id(&self, round: u32) -> EventId {
        match (self.rounds.last(), &self.plan) {
            (Some(last), _) if last.number() + 1 == round => next_round_opened_id(last.opened()),
            (_, Some(plan)) => round_opened_id(plan, round),
            (_, None) => EventId(uuid::Uuid::nil()),
        }
    }

    /// Applies a recorded event. An event that does not fit the state changes nothing.
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
            Event::Evaluation(e) => match e {
                EvaluationEvent::Requested(e) => self.evaluations_requested = e.evaluation + 1,
                EvaluationEvent::PolicyEvaluated(e) => self.evaluations.push(e.clone()),
            },
        }
    }

    fn evolve_round(&mut self, event: &RoundEvent) {
        match event {
            RoundEvent::Opened(e) => {
                self.rounds.push(Round::open(self.opened_id(e.round), e.round, e.prompts))
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
                    Some(round) => round_closed_id(round.opened()),
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
        if plan.learning.is_some() && self.evaluations_requested == 0 {
            let first = EvaluationRequested { evaluation: 0 }.into();
            return Some(Due { cause: round_opened_id(plan, 0), events: vec![first] });
        }
        let wanted = round.number() + 2;
        if self.evaluations_requested < wanted {
            // Training would change the models that the first evaluation still uses.
            let waits = round.learning().settled().is_some() && self.evaluations.len() < wanted as usize - 1;
            return round.due(plan).filter(|_| !waits);
        }
        let evaluated = self.evaluations.len() == wanted as usize;
        let learning = plan.learning.as_ref().filter(|_| evaluated)?;
        Some(Due { cause: round.opened(), events: self.close(round.number(), learning) })
    }

    /// The last events of a round with learning: warnings, the decision to stop, the close.
    fn close(&self, round: u32, learning: &LearningPlan) -> Vec<Event> {
        let mut events = Vec::new();
        let signs = reward_hacking_signs(&learning.guards, &self.evaluations);
        if !signs.is_empty() {
            events.push(RewardHackingSuspected { round, signs }.into());
        }
        if let Some(reason) = stop_reason(&learning.guards, &self.evaluations) {
            events.push(StopDecided { round, reason }.into());
        }
        events.push(RoundClosed { round }.into());
        events
    }
}

fn version(fingerprint: &str, adapter: &str) -> ModelVersion {
    ModelVersion { fingerprint: fingerprint.to_owned(), adapter: Some(adapter.to_owned()) }
}
