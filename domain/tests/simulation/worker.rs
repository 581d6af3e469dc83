//! A worker: some steps, a copy of the history that lags behind, deliveries in hand, a training under way.

use std::collections::BTreeMap;

use dissent_domain::event::{
    EvaluationEvent, Event, EventId, FeedbackEvent, OperatorEvent, PromptEvent, Recorded, Stage, StepName,
    TrainingEvent, TrainingLeaseExpired, TrainingProgressed, TrainingStarted,
};
use dissent_domain::event_ids::completions_sampled_id;
use dissent_domain::journal::Ledger;
use dissent_domain::learning::{Training, TrainingProgress};

use crate::broker::Broker;
use crate::models;
use crate::random::Random;
use crate::server::propose;

pub(crate) const LEASE_MS: u64 = 2_000;

pub(crate) struct Worker {
    /// One connection: a lost one gives back what is in hand.
    pub(crate) session: u64,
    steps: Vec<StepName>,
    pub(crate) copy: Ledger,
    pub(crate) hands: Vec<InHand>,
    training: Option<Assignment>,
    pub(crate) hangs_until_ms: u64,
    pub(crate) lies: bool,
}

#[derive(Clone)]
pub(crate) struct InHand {
    pub(crate) step: StepName,
    tag: u64,
    position: usize,
}

struct Assignment {
    round: u32,
    stage: Stage,
    attempt: u32,
    requested: EventId,
    sequence: u32,
    step: u64,
}

/// Where a worker dies while it settles a delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dies {
    Not,
    BeforeProposing,
    BeforeAcknowledging,
}

impl Worker {
    pub(crate) fn new(session: u64, steps: Vec<StepName>, lies: bool) -> Self {
        let (copy, hands) = (Ledger::default(), Vec::new());
        Self { session, steps, copy, hands, training: None, hangs_until_ms: 0, lies }
    }

    /// Its process was killed: another begins, knowing nothing.
    pub(crate) fn crash(&mut self, broker: &mut Broker, session: u64) {
        broker.end(self.session);
        *self = Self::new(session, std::mem::take(&mut self.steps), self.lies);
    }

    /// Its connection broke: others get what it still believes to have in hand.
    pub(crate) fn disconnect(&mut self, broker: &mut Broker, session: u64) {
        broker.end(self.session);
        self.session = session;
    }

    pub(crate) fn take(&mut self, broker: &mut Broker, random: &mut Random) {
        let step = self.steps[random.below(self.steps.len())];
        if self.copy.experiment().paused().is_some() {
            return;
        }
        if self.hands.len() < 4
            && let Some((tag, position)) = broker.of(step).take(self.session, random)
        {
            self.hands.push(InHand { step, tag, position });
        }
    }

    /// Hears of some more of the history; a training that it took up begins.
    pub(crate) fn follow(&mut self, broker: &mut Broker, disk: &[Recorded], random: &mut Random) {
        for _ in 0..=random.below(12) {
            let known = usize::try_from(self.copy.version()).unwrap();
            let Some(recorded) = disk.get(known) else { return };
            self.copy.follow(recorded).unwrap();
            match recorded.decode().unwrap() {
                Event::Training(TrainingEvent::Started(started)) => self.begin_training(&started),
                Event::Operator(OperatorEvent::Paused(_)) => self.give_up_training(broker),
                _ => {}
            }
        }
    }

    fn begin_training(&mut self, started: &TrainingStarted) {
        let &TrainingStarted { round, stage, attempt, ref worker, .. } = started;
        if *worker != self.name() {
            return;
        }
        if let Some(Training { requested, checkpoint, .. }) = self.current(round, stage, attempt) {
            let step = checkpoint.as_deref().map_or(0, models::checkpoint_step);
            self.training = Some(Assignment { round, stage, attempt, requested, sequence: 0, step });
        }
    }

    /// Where it is paused, a training goes on later, and perhaps elsewhere.
    fn give_up_training(&mut self, broker: &mut Broker) {
        let Some(Assignment { round, stage, attempt, requested, .. }) = self.training.take() else { return };
        let expired = TrainingLeaseExpired { round, stage, attempt }.into();
        propose(broker, StepName::Training, requested, &[expired]);
    }

    /// Unlike any other process that ever was.
    fn name(&self) -> String {
        format!("worker {}", self.session)
    }

    /// The attempt, if history still counts on it.
    fn current(&self, round: u32, stage: Stage, attempt: u32) -> Option<Training> {
        let open = self.copy.experiment().rounds().last().filter(|open| open.number() == round)?;
        let training = open.learning().training(stage).filter(|training| training.attempt == attempt)?;
        matches!(training.progress, TrainingProgress::Running { .. }).then(|| training.clone())
    }

    /// Works on one of its deliveries, if it knows what led to it, and settles it.
    pub(crate) fn work(&mut self, broker: &mut Broker, disk: &[Recorded], random: &mut Random, dies: Dies) {
        if self.hands.is_empty() || dies == Dies::BeforeProposing {
            return;
        }
        let held = self.hands.swap_remove(random.below(self.hands.len()));
        if usize::try_from(self.copy.version()).unwrap() <= held.position {
            return broker.of(held.step).release(held.tag);
        }
        let recorded = &disk[held.position];
        if let Some((cause, event)) = self.follows(held.step, recorded, disk) {
            propose(broker, held.step, cause, &[event]);
        }
        if dies != Dies::BeforeAcknowledging {
            broker.of(held.step).ack(held.tag);
        }
    }

    /// Acknowledges a delivery that it did nothing about.
    pub(crate) fn neglect(&mut self, broker: &mut Broker, random: &mut Random) {
        if !self.hands.is_empty() {
            let held = self.hands.swap_remove(random.below(self.hands.len()));
            broker.of(held.step).ack(held.tag);
        }
    }

    /// What an honest worker says follows from what is in its hands, without settling it.
    pub(crate) fn honestly(
        &self,
        disk: &[Recorded],
        random: &mut Random,
    ) -> Option<(StepName, EventId, Event)> {
        if self.hands.is_empty() {
            return None;
        }
        let held = &self.hands[random.below(self.hands.len())];
        if usize::try_from(self.copy.version()).unwrap() <= held.position {
            return None;
        }
        let (cause, event) = self.follows(held.step, &disk[held.position], disk)?;
        Some((held.step, cause, event))
    }

    fn follows(&self, step: StepName, recorded: &Recorded, disk: &[Recorded]) -> Option<(EventId, Event)> {
        let known = &disk[..usize::try_from(self.copy.version()).unwrap()];
        let experiment = self.copy.experiment();
        let event = match (step, recorded.decode().unwrap()) {
            (StepName::Generation, Event::Prompt(PromptEvent::Admitted(admitted))) => {
                models::sample(&experiment.policy()?.fingerprint, &admitted)
            }
            (StepName::Reward, Event::Prompt(PromptEvent::Sampled(sampled))) => {
                models::score(&experiment.reward_model()?.fingerprint, &sampled)
            }
            (StepName::Conflict, Event::Prompt(PromptEvent::Scored(scored))) => {
                models::conflict(&models::sampled(known, recorded.event.causation?).unwrap(), &scored)
            }
            (StepName::Feedback, Event::Feedback(FeedbackEvent::Requested(asked))) => {
                let id = completions_sampled_id(experiment.plan()?, asked.round, asked.prompt_index);
                models::judge(&models::sampled(known, id).unwrap(), &asked)
            }
            (StepName::Evaluation, Event::Evaluation(EvaluationEvent::Requested(requested))) => {
                models::evaluate(experiment, requested.evaluation)
            }
            (StepName::Training, Event::Training(TrainingEvent::Requested(requested))) => {
                let (round, stage, attempt) = (requested.round, requested.stage, requested.attempt);
                let open = experiment.rounds().last().filter(|open| open.number() == round)?;
                let training = open.learning().training(stage)?;
                let waits = training.progress == TrainingProgress::Requested && training.attempt == attempt;
                if !waits {
                    return None;
                }
                TrainingStarted { round, stage, attempt, worker: self.name(), lease_ms: LEASE_MS }.into()
            }
            _ => return None,
        };
        Some((recorded.event.id, event))
    }

    /// One step of its training, or its end.
    pub(crate) fn train(&mut self, broker: &mut Broker) {
        let Some(mut training) = self.training.take() else { return };
        let Assignment { round, stage, attempt, requested, sequence, step } = training;
        if self.current(round, stage, attempt).is_none() {
            return;
        }
        if step >= models::TRAINING_STEPS {
            let trained = models::trained(self.copy.experiment(), round, stage, attempt);
            return propose(broker, StepName::Training, requested, &[trained]);
        }
        let step = step + 1;
        let alive = TrainingProgressed {
            round,
            stage,
            attempt,
            sequence,
            step,
            steps: models::TRAINING_STEPS,
            checkpoint: Some(models::checkpoint(round, stage, step)),
            metrics: BTreeMap::new(),
        };
        propose(broker, StepName::Training, requested, &[alive.into()]);
        (training.step, training.sequence) = (step, sequence + 1);
        self.training = Some(training);
    }
}
