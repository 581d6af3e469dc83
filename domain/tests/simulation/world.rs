//! Server, broker and workers under one scheduler that a seed drives, on virtual time.

use std::collections::BTreeSet;

use dissent_domain::event::StepName;
use dissent_domain::operator::Action;
use dissent_domain::replay::Replay;

use crate::broker::{Broker, STEPS};
use crate::lies;
use crate::models;
use crate::random::Random;
use crate::server::{Disk, Server};
use crate::worker::{Dies, LEASE_MS, Worker};

/// More than any run needs once nothing goes wrong any more.
const CALM_ACTIONS_MAX: usize = 60_000;

pub(crate) struct World {
    random: Random,
    now_ms: u64,
    sessions: u64,
    broker: Broker,
    server: Server,
    workers: Vec<Worker>,
}

/// What a run came to.
pub(crate) struct Outcome {
    /// The final state, but for what may differ.
    pub(crate) summary: String,
    pub(crate) faults: u64,
    /// Why proposals were rejected.
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

    /// Things go wrong for so many actions, then no more, until the experiment is finished.
    pub(crate) fn run(mut self, troubled_actions: usize) -> Outcome {
        let mut faults = 0;
        for _ in 0..troubled_actions {
            if self.random.percent(6) {
                self.fault();
                faults += 1;
            }
            self.act();
        }
        self.calm_down();
        let calm = (0..CALM_ACTIONS_MAX).find(|_| {
            self.act();
            self.server.is_over()
        });
        assert!(calm.is_some(), "the experiment does not finish: {}", self.server.summary());
        self.check();
        let rejected = std::mem::take(&mut self.server.rejected);
        Outcome { summary: models::summary(self.server.ledger.experiment()), faults, rejected }
    }

    /// As `run`, but that it is given up after the trouble: nothing happens after that.
    pub(crate) fn run_until_cancelled(mut self, troubled_actions: usize) -> Outcome {
        for _ in 0..troubled_actions {
            if self.random.percent(6) {
                self.fault();
            }
            self.act();
        }
        let finished = self.server.ledger.experiment().is_finished();
        self.server.order(Action::Cancel, self.now_ms);
        self.server.sync(&mut self.broker, false, self.now_ms);
        let last = self.server.disk.events.len();
        self.calm_down();
        (0..troubled_actions).for_each(|_| self.act());
        assert_eq!(self.server.disk.events.len(), last, "something happened after the end");
        assert_eq!(self.server.ledger.experiment().cancelled().is_some(), !finished);
        assert!(self.server.is_over() && self.server.ledger.unanswered().is_empty());
        self.check();
        let rejected = std::mem::take(&mut self.server.rejected);
        Outcome { summary: models::summary(self.server.ledger.experiment()), faults: 0, rejected }
    }

    /// Nobody hangs, and nothing is paused any more.
    fn calm_down(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.hangs_until_ms = 0);
        self.server.order(Action::Resume, self.now_ms);
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
                self.server.watch_standstill(broker, now);
            }
            _ => {
                let at = random.below(self.workers.len());
                self.let_work(at, Dies::Not);
            }
        }
    }

    fn let_work(&mut self, at: usize, dies: Dies) {
        let (broker, random, disk) = (&mut self.broker, &mut self.random, &self.server.disk.events);
        let worker = &mut self.workers[at];
        if worker.hangs_until_ms > self.now_ms {
            return;
        }
        match random.below(4) {
            0 => worker.take(broker, random),
            1 => worker.follow(broker, disk, random),
            2 => worker.work(broker, disk, random, dies),
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
                let dies = [Dies::BeforeProposing, Dies::BeforeAcknowledging][self.random.below(2)];
                self.let_work(at, dies);
                self.crash(at);
            }
            4 | 5 => self.disconnect(at),
            6 => {
                let hangs_ms = self.random.below(usize::try_from(3 * LEASE_MS).unwrap()) as u64;
                self.workers[at].hangs_until_ms = self.now_ms + hangs_ms;
                // The broker waits for nobody for ever.
                if self.random.percent(50) {
                    self.disconnect(at);
                }
            }
            7 => self.now_ms += self.random.below(usize::try_from(2 * LEASE_MS).unwrap()) as u64,
            8 => self.broker.proposals.duplicate(&mut self.random),
            9 => {
                let step = STEPS[self.random.below(STEPS.len())];
                self.broker.of(step).duplicate(&mut self.random);
            }
            10 => self.server.order(Action::Pause, self.now_ms),
            11 => self.server.order(Action::Resume, self.now_ms),
            _ => self.lie(at),
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

    fn lie(&mut self, at: usize) {
        let worker = &self.workers[at];
        if !worker.lies {
            return;
        }
        let lie = if self.random.percent(60) {
            worker
                .honestly(&self.server.disk.events, &mut self.random)
                .map(|(step, cause, truth)| lies::about(step, cause, &truth, &mut self.random))
        } else {
            lies::beyond_its_station(worker.copy.experiment(), &mut self.random)
        };
        lie.into_iter().for_each(|lie| self.broker.proposals.publish(lie));
        if self.random.percent(30) {
            self.workers[at].neglect(&mut self.broker, &mut self.random);
        }
    }

    /// No acknowledged event is lost, none is doubled, and the rules would have made the history so.
    fn check(&self) {
        let events = &self.server.disk.events;
        let ids: BTreeSet<_> = events.iter().map(|recorded| recorded.event.id).collect();
        assert_eq!(ids.len(), events.len(), "an event is doubled");
        let lost: Vec<_> = self.server.acknowledged.difference(&ids).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let mut replay = Replay::verifying();
        for recorded in events {
            replay.apply(recorded).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(replay.experiment(), self.server.ledger.experiment());
    }
}
