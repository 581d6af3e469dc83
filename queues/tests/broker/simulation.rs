//! Seeded random faults over the embedded broker: deliveries dropped, failed and leaked, experiments loaded
//! and dropped, processes killed with more or less of their progress on disk. No message may be lost, and no
//! durably done message may return. Only failing messages may be parked, after the allowed number of
//! failures.
//!
//! `DISSENT_SIMULATION_SEEDS` (50) sets the number of seeds, `DISSENT_SIMULATION_FIRST` (0) the first one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::{Broker, Consumer, Delivery, EmbeddedBroker, Parked, ParkedConsumer, Subscription};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::contract::{OTHER, WANTED, subscription};
use crate::embedded::Embedded;
use crate::memory_log::Durability;

const EXPERIMENTS: usize = 3;
const CONSUMERS: usize = 2;
const PREFETCH: usize = 4;
const LIMIT: u32 = 3;
const STEPS: usize = 400;

/// Messages that fail at every attempt; the others never fail.
fn always_fails(position: u64) -> bool {
    position.is_multiple_of(3)
}

/// Bounds of the failures of a message. A crash may lose failures, but not those before a clean stop, and
/// never adds any.
#[derive(Default, Clone, Copy)]
struct Failures {
    at_least: u32,
    at_most: u32,
    durable: u32,
}

struct World {
    random: ChaCha8Rng,
    embedded: Embedded,
    /// The consumers of each loaded experiment.
    loaded: BTreeMap<usize, Members>,
    held: Vec<Held>,
    /// All messages that must be delivered, with their experiment.
    wanted: BTreeMap<u64, usize>,
    /// Acknowledged, or parked with an acknowledged parking.
    done: BTreeSet<u64>,
    /// Done since their experiment was loaded.
    done_now: BTreeSet<u64>,
    /// Done before a clean close, or before their experiment left.
    done_for_good: BTreeSet<u64>,
    failures: BTreeMap<u64, Failures>,
}

/// The consumers of an experiment.
struct Members {
    consumers: Vec<Consumer>,
    parked: ParkedConsumer,
}

struct Held {
    experiment: usize,
    member: usize,
    delivery: Delivery,
}

fn experiment(number: usize) -> ExperimentId {
    ExperimentId::new(format!("experiment-{number}")).unwrap()
}

fn members(embedded: &Embedded, number: usize) -> Members {
    let experiment = experiment(number);
    let subscription = Subscription {
        group: format!("step.{experiment}"),
        experiment: Some(experiment.clone()),
        delivery_limit: LIMIT,
        ..subscription(PREFETCH)
    };
    let consumers = (0..CONSUMERS).map(|_| embedded.broker.subscribe(subscription.clone()).unwrap());
    Members { consumers: consumers.collect(), parked: embedded.broker.parked(&experiment).unwrap() }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            embedded: Embedded::new(Durability::Manual),
            loaded: BTreeMap::new(),
            held: Vec::new(),
            wanted: BTreeMap::new(),
            done: BTreeSet::new(),
            done_now: BTreeSet::new(),
            done_for_good: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..2 => self.load_or_leave().await,
            2..10 => self.append(),
            10..20 => self.embedded.log.commit(),
            20..55 => self.take(),
            55..85 => self.settle_one().await,
            85..90 => self.take_parked().await,
            90..95 => tokio::time::advance(Duration::from_millis(700)).await,
            95..97 => self.embedded.all_read().await,
            97 => self.load_or_leave().await,
            98 => self.crash(),
            _ => self.close_cleanly().await,
        }
    }

    /// Loads an experiment, or drops it after its consumers, whether or not its deliveries are settled.
    async fn load_or_leave(&mut self) {
        let number = self.random.random_range(0..EXPERIMENTS);
        if self.loaded.remove(&number).is_none() {
            self.loaded.insert(number, members(&self.embedded, number));
            return;
        }
        let keep = |held: &Held| held.experiment != number;
        self.held.retain(keep);
        self.embedded.broker.leave(&experiment(number)).await.unwrap();
        let wanted = &self.wanted;
        let left = self.done_now.extract_if(.., |position| wanted.get(position) == Some(&number));
        self.done_for_good.extend(left);
        for (position, failures) in &mut self.failures {
            if wanted.get(position) == Some(&number) {
                failures.durable = failures.at_least;
            }
        }
    }

    fn append(&mut self) {
        let number = self.random.random_range(0..EXPERIMENTS);
        let (wanted, other) = (self.random.random_range(0..6), self.random.random_range(0..300));
        let positions = self.embedded.log.put_for(&experiment(number), WANTED, wanted);
        self.wanted.extend(positions.into_iter().map(|position| (position, number)));
        let another = self.random.random_range(0..EXPERIMENTS);
        self.embedded.log.put_for(&experiment(another), OTHER, other);
    }

    fn take(&mut self) {
        let (experiment, member) =
            (self.random.random_range(0..EXPERIMENTS), self.random.random_range(0..CONSUMERS));
        self.take_for(experiment, member);
    }

    fn take_for(&mut self, experiment: usize, member: usize) {
        let Some(members) = self.loaded.get_mut(&experiment) else { return };
        let Some(delivery) = members.consumers[member].try_next() else { return };
        let position = delivery.event.position;
        assert!(position <= self.embedded.log.head(), "event {position} is not durable");
        assert_eq!(self.wanted.get(&position), Some(&experiment), "event {position} is of another kind");
        let done = self.done_for_good.contains(&position) || self.done_now.contains(&position);
        assert!(!done, "event {position} was done and redelivered");
        assert!(delivery.attempt == 1 || delivery.redelivered);
        self.note_attempt(position, delivery.attempt);
        assert!(
            self.held.iter().all(|held| held.delivery.event.position != position),
            "{position} is delivered twice at once"
        );
        self.held.push(Held { experiment, member, delivery });
        let of_member = |held: &&Held| (held.experiment, held.member) == (experiment, member);
        let unsettled = self.held.iter().filter(of_member).count();
        assert!(unsettled <= PREFETCH, "{unsettled} unsettled");
    }

    async fn settle_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let Held { delivery, .. } = self.held.swap_remove(self.random.random_range(0..self.held.len()));
        if self.random.random_bool(0.1) {
            drop(delivery);
        } else {
            self.process(delivery).await;
        }
    }

    async fn process(&mut self, delivery: Delivery) {
        let position = delivery.event.position;
        if always_fails(position) {
            let failures = self.failures.entry(position).or_default();
            (failures.at_least, failures.at_most) = (delivery.attempt, delivery.attempt);
            delivery.retry("chaos").await.unwrap();
        } else {
            self.note_done(position);
            delivery.ack().await.unwrap();
        }
    }

    /// Checks that the attempt is the number of failures plus one.
    fn note_attempt(&mut self, position: u64, attempt: u32) {
        let failures = self.failures.entry(position).or_default();
        let allowed = failures.at_least..=failures.at_most.min(LIMIT - 1);
        assert!(
            allowed.contains(&(attempt - 1)),
            "attempt {attempt} of {position} after {allowed:?} failures"
        );
        (failures.at_least, failures.at_most) = (attempt - 1, attempt - 1);
    }

    fn check_parked(&self, parked: &Parked) {
        let position = parked.event.position;
        assert_eq!(parked.attempts, LIMIT);
        assert!(always_fails(position), "event {position} is innocent");
        assert_eq!(self.failures[&position].at_most, LIMIT, "event {position} failed less often");
    }

    fn note_done(&mut self, position: u64) {
        self.done.insert(position);
        self.done_now.insert(position);
    }

    async fn take_parked(&mut self) {
        let number = self.random.random_range(0..EXPERIMENTS);
        self.take_parked_of(number, 0.8).await;
    }

    async fn take_parked_of(&mut self, number: usize, done: f64) {
        let Some(members) = self.loaded.get_mut(&number) else { return };
        let Some(message) = members.parked.try_next() else { return };
        assert_eq!(message.parked.event.experiment, experiment(number));
        self.check_parked(&message.parked);
        if self.random.random_bool(done) {
            self.note_done(message.parked.event.position);
            message.ack().await.unwrap();
        }
    }

    /// Loses all events that are not durable. The old broker may continue.
    fn crash(&mut self) {
        let log = self.embedded.log.crash();
        let head = log.head();
        self.wanted.retain(|&position, _| position <= head);
        for failures in self.failures.values_mut() {
            failures.at_least = failures.durable;
        }
        self.restart_on(log);
    }

    async fn close_cleanly(&mut self) {
        self.embedded.broker.close();
        self.held.clear();
        self.embedded.broker.drained().await.unwrap();
        self.done_for_good.append(&mut self.done_now);
        for failures in self.failures.values_mut() {
            failures.durable = failures.at_least;
        }
        self.embedded.log.commit();
        self.restart_on(self.embedded.log.crash());
    }

    fn restart_on(&mut self, log: Arc<crate::memory_log::MemoryLog>) {
        let broker = EmbeddedBroker::new(Arc::clone(&log) as Arc<dyn EventLog>, crate::embedded::options());
        self.embedded = Embedded { log, broker };
        let loaded: Vec<usize> = self.loaded.keys().copied().collect();
        self.loaded = loaded.into_iter().map(|number| (number, members(&self.embedded, number))).collect();
        self.done_now.clear();
        // Workers of the killed process that still act on their deliveries.
        self.held.clear();
    }

    /// No more faults: everything gets done.
    async fn finish(&mut self) {
        self.embedded.log.commit();
        for number in 0..EXPERIMENTS {
            let embedded = &self.embedded;
            self.loaded.entry(number).or_insert_with(|| members(embedded, number));
        }
        let unfinished = |embedded: &Embedded| {
            let (groups, head) = (embedded.broker.status(), embedded.log.head());
            groups.len() < EXPERIMENTS
                || groups.iter().any(|group| group.checkpoint < head || group.parked > 0)
        };
        while unfinished(&self.embedded) {
            for number in 0..EXPERIMENTS {
                self.take_for(number, 0);
                while let Some(Held { delivery, .. }) = self.held.pop() {
                    self.process(delivery).await;
                }
                self.take_parked_of(number, 1.0).await;
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let wanted: BTreeSet<u64> = self.wanted.keys().copied().collect();
        assert_eq!(wanted, self.done, "lost or invented");
    }
}

async fn run(seed: u64) {
    #[expect(clippy::print_stdout, reason = "shown when the test fails")]
    {
        println!("seed {seed}: run it alone with DISSENT_SIMULATION_SEEDS=1 DISSENT_SIMULATION_FIRST={seed}");
    }
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step().await;
    }
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn random_faults_lose_no_message() {
    let number =
        |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let (seeds, first) = (number("DISSENT_SIMULATION_SEEDS", 50), number("DISSENT_SIMULATION_FIRST", 0));
    for seed in first..first + seeds {
        run(seed).await;
    }
}
