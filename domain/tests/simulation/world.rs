//! Server, broker and workers under one scheduler, driven by a seed, on virtual time.

use std::collections::BTreeSet;

use dissent_domain::event::StepName;
use dissent_domain::operator::Action;
use dissent_domain::replay::Replay;

use crate::broker::Broker;
use crate::invalid_proposals;
use crate::models;
use crate::random::Random;
use crate::server::{Disk, Server};
use crate::worker::{CrashPoint, LEASE_MS, Worker};

/// More actions than any run needs after its last fault.
const QUIET_ACTIONS_MAX: usize = 60_000;

pub(crate) struct World {
    random: Random,
    now_ms: u64,
    sessions: u64,
    broker: Broker,
    server: Server,
    workers: Vec<Worker>,
}

/// The result of a run.
pub(crate) struct Outcome {
    /// The results in the final state.
    pub(crate) summary: String,
    pub(crate) faults: u64,
    /// Reasons of rejected proposals.
    pub(crate) rejected: BTreeSet<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let every = vec![
            StepName::Generation,
            StepName::Reward,
            StepName::Conflict,
            StepName::Feedback,
            StepName::Training,
            StepName::Evaluation,
        ];
        let mut broker = Broker::default();
        Server::begin(&mut broker);
        let workers = vec![
            Worker::new(1, every.clone(), false),
            Worker::new(2, vec![StepName::Generation, StepName::Reward, StepName::Training], false),
            Worker::new(3, every, true),
        ];
        let server = Server::new(Disk::default(), 0, 0);
        Self { random: Random::new(seed), now_ms: 0, sessions: 3, broker, server, workers }
    }

    /// Runs so many actions with faults, then actions without faults until the experiment is finished.
    pub(crate) fn run(mut self, faulty_actions: usize) -> Outcome {
        let mut faults = 0;
        for _ in 0..faulty_actions {
            if self.random.percent(6) {
                self.fault();
                faults += 1;
            }
            self.act();
        }
        self.stop_faults();
        let finished = (0..QUIET_ACTIONS_MAX).find(|_| {
            self.act();
            self.server.is_over()
        });
        assert!(finished.is_some(), "the experiment does not finish: {}", self.server.summary());
        self.check();
        let rejected = std::mem::take(&mut self.server.rejected);
        Outcome { summary: models::summary(self.server.ledger.experiment()), faults, rejected }
    }

    /// Runs so many actions with faults, then cancels the experiment. No event may follow.
    pub(crate) fn run_until_cancelled(mut self, faulty_actions: usize) -> Outcome {
        for _ in 0..faulty_actions {
            if self.random.percent(6) {
                self.fault();
            }
            self.act();
        }
        let finished = self.server.ledger.experiment().is_finished();
        self.server.command(Action::Cancel, self.now_ms);
        self.server.sync(&mut self.broker, false, self.now_ms);
        let last = self.server.disk.events.len();
        self.stop_faults();
        (0..faulty_actions).for_each(|_| self.act());
        assert_eq!(self.server.disk.events.len(), last, "an event follows the cancellation");
        assert_eq!(self.server.ledger.experiment().cancelled().is_some(), !finished);
        assert!(self.server.is_over() && self.server.ledger.unanswered().is_empty());
        self.check();
        let rejected = std::mem::take(&mut self.server.rejected);
        Outcome { summary: models::summary(self.server.ledger.experiment()), faults: 0, rejected }
    }

    /// Ends hangs and pauses.
    fn stop_faults(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.hangs_until_ms = 0);
        self.server.command(Action::Resume, self.now_ms);
    }

    fn act(&mut self) {
        self.now_ms += self.random.below(30) as u64;
        let (broker, random, now) = (&mut self.broker, &mut self.random, self.now_ms);
        match random.below(100) {
            0..22 => self.server.decide(broker, random, now),
            22..32 => self.server.sync(broker, false, now),
            32..42 => self.server.relay(broker, random),
            42..48 => self.server.coordinate(broker, random),
            48..50 => self.server.admit(broker, random),
            50..51 => {
                self.server.watch_leases(broker, now);
                self.server.redeliver_unanswered(broker, now);
            }
            _ => {
                let at = random.below(self.workers.len());
                self.run_worker(at, CrashPoint::None);
            }
        }
    }

    fn run_worker(&mut self, at: usize, crash: CrashPoint) {
        let (broker, random, disk) = (&mut self.broker, &mut self.random, &self.server.disk.events);
        let worker = &mut self.workers[at];
        if worker.hangs_until_ms > self.now_ms {
            return;
        }
        match random.below(4) {
            0 => worker.take(broker, random),
            1 => worker.follow(broker, disk, random),
            2 => worker.work(broker, disk, random, crash),
            _ => worker.train(broker),
        }
    }

    fn fault(&mut self) {
        let at = self.random.below(self.workers.len());
        match self.random.below(15) {
            0 => self.server.crash(&mut self.broker, self.now_ms),
            1 => self.server.sync(&mut self.broker, true, self.now_ms),
            2 => self.crash(at),
            3 => {
                let crash =
                    [CrashPoint::BeforeProposing, CrashPoint::BeforeAcknowledging][self.random.below(2)];
                self.run_worker(at, crash);
                self.crash(at);
            }
            4 | 5 => self.disconnect(at),
            6 => {
                let hangs_ms = self.random.below(usize::try_from(3 * LEASE_MS).unwrap()) as u64;
                self.workers[at].hangs_until_ms = self.now_ms + hangs_ms;
                // The broker may close the connection of a worker that hangs.
                if self.random.percent(50) {
                    self.disconnect(at);
                }
            }
            7 => self.now_ms += self.random.below(usize::try_from(2 * LEASE_MS).unwrap()) as u64,
            8 => self.broker.proposals.duplicate(&mut self.random),
            9 => {
                let step = StepName::ALL[self.random.below(StepName::ALL.len())];
                self.broker.of(step).duplicate(&mut self.random);
            }
            10 => self.server.command(Action::Pause, self.now_ms),
            11 => self.server.command(Action::Resume, self.now_ms),
            _ => self.propose_invalid(at),
        }
    }

    fn crash(&mut self, at: usize) {
        self.sessions += 1;
        self.workers[at].crash(&mut self.broker, self.sessions);
    }

    fn disconnect(&mut self, at: usize) {
        self.sessions += 1;
        self.workers[at].disconnect(&mut self.broker, self.sessions);
    }

    fn propose_invalid(&mut self, at: usize) {
        let worker = &self.workers[at];
        if !worker.is_faulty {
            return;
        }
        let invalid = if self.random.percent(60) {
            worker.valid_result(&self.server.disk.events, &mut self.random).map(|(step, cause, truth)| {
                invalid_proposals::invalid_result(step, cause, &truth, &mut self.random)
            })
        } else {
            invalid_proposals::unauthorised(worker.history.experiment(), &mut self.random)
        };
        invalid.into_iter().for_each(|proposal| self.broker.proposals.publish(proposal));
        if self.random.percent(30) {
            self.workers[at].acknowledge_unanswered(&mut self.broker, &mut self.random);
        }
    }

    /// Checks that no acknowledged event is lost, that no event is recorded twice, and that the history
    /// passes a replay.
    fn check(&self) {
        let events = &self.server.disk.events;
        let ids: BTreeSet<_> = events.iter().map(|recorded| recorded.event.id).collect();
        assert_eq!(ids.len(), events.len(), "an event is recorded twice");
        let lost: Vec<_> = self.server.acknowledged.difference(&ids).collect();
        assert!(lost.is_empty(), "acknowledged events are lost: {lost:?}");
        let mut replay = Replay::verifying();
        for recorded in events {
            replay.apply(recorded).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(replay.experiment(), self.server.ledger.experiment());
    }
}
