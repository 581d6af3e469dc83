//! A worker: its steps, a copy of the history that may lag behind, its deliveries, and its training.

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
    /// The connection. When it is lost, its deliveries are redelivered.
    pub(crate) session: u64,
    steps: Vec<StepName>,
    pub(crate) history: Ledger,
    pub(crate) deliveries: Vec<Delivery>,
    training: Option<Assignment>,
    pub(crate) hangs_until_ms: u64,
    pub(crate) is_faulty: bool,
}

#[derive(Clone)]
pub(crate) struct Delivery {
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

/// Point at which a worker crashes while it handles a delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    None,
    BeforeProposing,
    BeforeAcknowledging,
}

impl Worker {
    pub(crate) fn new(session: u64, steps: Vec<StepName>, is_faulty: bool) -> Self {
        let (history, deliveries) = (Ledger::default(), Vec::new());
        Self { session, steps, history, deliveries, training: None, hangs_until_ms: 0, is_faulty }
    }

    /// Crashes. A new process begins without history or deliveries.
    pub(crate) fn crash(&mut self, broker: &mut Broker, session: u64) {
        broker.end(self.session);
        *self = Self::new(session, std::mem::take(&mut self.steps), self.is_faulty);
    }

    /// Loses the connection. Its deliveries are redelivered, although the worker still has them.
    pub(crate) fn disconnect(&mut self, broker: &mut Broker, session: u64) {
        broker.end(self.session);
        self.session = session;
    }

    pub(crate) fn take(&mut self, broker: &mut Broker, random: &mut Random) {
        let step = self.steps[random.below(self.steps.len())];
        if self.history.experiment().paused().is_some() {
            return;
        }
        if self.deliveries.len() < 4
            && let Some((tag, position)) = broker.of(step).take(self.session, random)
        {
            self.deliveries.push(Delivery { step, tag, position });
        }
    }

    /// Receives some more events of the history, and begins a training whose start is recorded.
    pub(crate) fn follow(&mut self, broker: &mut Broker, disk: &[Recorded], random: &mut Random) {
        for _ in 0..=random.below(12) {
            let known = usize::try_from(self.history.version()).unwrap();
            let Some(recorded) = disk.get(known) else { return };
            self.history.follow(recorded).unwrap();
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

    /// Ends the lease at a pause. The training resumes later, perhaps on another worker.
    fn give_up_training(&mut self, broker: &mut Broker) {
        let Some(Assignment { round, stage, attempt, requested, .. }) = self.training.take() else { return };
        let expired = TrainingLeaseExpired { round, stage, attempt }.into();
        propose(broker, StepName::Training, requested, &[expired]);
    }

    /// A name that no other process has had.
    fn name(&self) -> String {
        format!("worker {}", self.session)
    }

    /// Returns the training, if this attempt is running.
    fn current(&self, round: u32, stage: Stage, attempt: u32) -> Option<Training> {
        let open = self.history.experiment().rounds().last().filter(|open| open.number() == round)?;
        let training = open.learning().training(stage).filter(|training| training.attempt == attempt)?;
        matches!(training.progress, TrainingProgress::Running { .. }).then(|| training.clone())
    }

    /// Handles one of its deliveries: proposes the result and acknowledges. Releases it if the history lags
    /// behind.
    pub(crate) fn work(
        &mut self,
        broker: &mut Broker,
        disk: &[Recorded],
        random: &mut Random,
        crash: CrashPoint,
    ) {
        if self.deliveries.is_empty() || crash == CrashPoint::BeforeProposing {
            return;
        }
        let held = self.deliveries.swap_remove(random.below(self.deliveries.len()));
        if usize::try_from(self.history.version()).unwrap() <= held.position {
            return broker.of(held.step).release(held.tag);
        }
        let recorded = &disk[held.position];
        if let Some((cause, event)) = self.result_of(held.step, recorded, disk) {
            propose(broker, held.step, cause, &[event]);
        }
        if crash != CrashPoint::BeforeAcknowledging {
            broker.of(held.step).ack(held.tag);
        }
    }

    /// Acknowledges a delivery without a result.
    pub(crate) fn acknowledge_unanswered(&mut self, broker: &mut Broker, random: &mut Random) {
        if !self.deliveries.is_empty() {
            let held = self.deliveries.swap_remove(random.below(self.deliveries.len()));
            broker.of(held.step).ack(held.tag);
        }
    }

    /// Returns the valid result of one of its deliveries, without acknowledging it.
    pub(crate) fn valid_result(
        &self,
        disk: &[Recorded],
        random: &mut Random,
    ) -> Option<(StepName, EventId, Event)> {
        if self.deliveries.is_empty() {
            return None;
        }
        let held = &self.deliveries[random.below(self.deliveries.len())];
        if usize::try_from(self.history.version()).unwrap() <= held.position {
            return None;
        }
        let (cause, event) = self.result_of(held.step, &disk[held.position], disk)?;
        Some((held.step, cause, event))
    }

    fn result_of(&self, step: StepName, recorded: &Recorded, disk: &[Recorded]) -> Option<(EventId, Event)> {
        let known = &disk[..usize::try_from(self.history.version()).unwrap()];
        let experiment = self.history.experiment();
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
            (StepName::Feedback, Event::Feedback(FeedbackEvent::Requested(requested))) => {
                let id = completions_sampled_id(experiment.plan()?, requested.round, requested.prompt_index);
                models::judge(&models::sampled(known, id).unwrap(), &requested)
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

    /// Runs one step of its training, or finishes the training.
    pub(crate) fn train(&mut self, broker: &mut Broker) {
        let Some(mut training) = self.training.take() else { return };
        let Assignment { round, stage, attempt, requested, sequence, step } = training;
        if self.current(round, stage, attempt).is_none() {
            return;
        }
        if step >= models::TRAINING_STEPS {
            let trained = models::trained(self.history.experiment(), round, stage, attempt);
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
