//! A round of the campaign: experiments with injected faults.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::disk::Disk;
use crate::fleet::{Fleet, FleetPlan, SERVER};
use crate::kind::{self, Fault};
use crate::meddler::Meddler;
use crate::node::Node;
use crate::support::Lab;
use crate::support::random::Random;
use crate::verdict::Outcome;

/// Lease of a training.
const LEASE: Duration = Duration::from_secs(3);
/// RabbitMQ 3.10 is not killed before. Within a second of declaring a quorum queue, about one kill in ten
/// leaves a queue that never finds a leader. The server detects it, deletes it and declares it again, but
/// only after a minute or two, longer than a round should take. `queues/tests/rabbitmq/faults.rs` tests that
/// case.
const QUEUES_SAFE: Duration = Duration::from_secs(4);
/// Longest time from the last fault to the end of the experiment.
const END_MAX: Duration = Duration::from_secs(150);
/// Longest wait for a process to exit.
const STOP_MAX: Duration = Duration::from_secs(60);
/// Each step has two workers, and trainings have three.
const ROLES: [&str; 4] = [
    "none",
    "generation,reward,feedback,training",
    "reward,conflict,evaluation,training",
    "generation,conflict,feedback,evaluation,training",
];

/// Resources of a campaign.
pub(crate) struct Campaign<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) node: &'a mut Node,
    /// The library for clock jumps, if installed.
    pub(crate) clocks: Option<std::path::PathBuf>,
    /// Whether a file system can be mounted for the log.
    pub(crate) disks: bool,
}

/// A running experiment.
struct Round<'a, 'b> {
    campaign: &'b mut Campaign<'a>,
    fleet: Fleet<'b>,
    meddler: Meddler,
    disk: Option<Disk>,
    random: Random,
    data: String,
    begun: Instant,
    /// Events in the log at the last check.
    known: Vec<Recorded>,
}

/// Outcomes of the faults of a round.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) survived: Vec<Fault>,
    /// Faults that cannot be injected on this machine.
    pub(crate) impossible: Vec<Fault>,
}

/// Outcome of one fault.
#[derive(Debug, PartialEq)]
enum Fate {
    Happened,
    /// The experiment finished first: the next one gets the fault.
    TooLate,
    /// It cannot be injected on this machine.
    Impossible,
}

/// Injects the faults of a seed into an experiment, which must end like an undisturbed one. If it finishes
/// early, the remaining faults are injected into another experiment.
pub(crate) fn run(campaign: &mut Campaign<'_>, seed: u64, calm: &Outcome) -> Tally {
    let (mut faults, mut tally) = (VecDeque::from(kind::of_round(seed)), Tally::default());
    let mut random = Random::new(seed);
    for part in 0.. {
        let name = format!("round{seed}-{part}");
        let lab = campaign.lab;
        random = {
            let mut round = Round::new(campaign, name.clone(), random);
            round.disturbed(&mut faults, &mut tally);
            Outcome::of(lab, &name).is_that_of(calm);
            round.look();
            round.random
        };
        if faults.is_empty() {
            break;
        }
    }
    tally
}

impl<'a, 'b> Round<'a, 'b> {
    fn new(campaign: &'b mut Campaign<'a>, name: String, random: Random) -> Self {
        let (lab, url, clocks) = (campaign.lab, campaign.node.url(), campaign.clocks.clone());
        let log = lab.data_dir(&name).join("log");
        let disk = campaign.disks.then(|| Disk::mount(&log)).flatten();
        let meddler = Meddler::new(url.clone(), name.clone());
        let lease_seconds = LEASE.as_secs();
        let plan = FleetPlan { name: name.clone(), url, roles: &ROLES, lease_seconds, clocks, apart: true };
        Self {
            campaign,
            fleet: Fleet::new(lab, plan),
            meddler,
            disk,
            random,
            data: name,
            begun: Instant::now(),
            known: Vec::new(),
        }
    }

    fn disturbed(&mut self, faults: &mut VecDeque<Fault>, tally: &mut Tally) {
        self.fleet.start_all();
        self.fleet.has_said(SERVER, "at work");
        while let Some(&fault) = faults.front() {
            sleep(Duration::from_millis(u64::try_from(50 + self.random.below(400)).unwrap()));
            self.fleet.no_one_failed();
            let begun = Instant::now();
            let fate = if self.fleet.runs(SERVER) { self.inject(fault) } else { Fate::TooLate };
            eprintln!("    {fault:?}: {fate:?} {:?}", begun.elapsed());
            match fate {
                Fate::Happened => tally.survived.push(fault),
                Fate::Impossible => tally.impossible.push(fault),
                Fate::TooLate => break,
            }
            faults.pop_front();
        }
        self.fleet.all_end(END_MAX);
    }

    /// Injects a fault, and repairs what an operator would repair.
    fn inject(&mut self, fault: Fault) -> Fate {
        let worker = 1 + self.random.below(self.fleet.len() - 1);
        match fault {
            Fault::KillServer => self.kill_server(),
            Fault::KillWorker => self.kill_worker(worker),
            Fault::TerminateWorker => self.terminate(worker),
            Fault::StopWorker => self.stop(worker),
            Fault::RestartBroker => self.with_node(Node::restart),
            Fault::KillBroker => self.kill_broker(),
            Fault::CloseConnections => self.with_node(|node| node.close_all_connections()),
            Fault::MemoryAlarm => self.alarm(),
            Fault::Duplicates => self.meddled(Meddler::duplicate),
            Fault::Reordered => self.meddled(Meddler::reorder),
            Fault::Corrupted => self.meddled(Meddler::corrupt),
            Fault::FullDisk => self.full_disk(),
            Fault::ClockJump => self.jump(),
        }
    }

    fn started(&mut self, member: usize) -> Fate {
        self.fleet.start(member);
        Fate::Happened
    }

    fn with_node(&mut self, deed: impl FnOnce(&mut Node)) -> Fate {
        deed(self.campaign.node);
        Fate::Happened
    }

    fn kill_broker(&mut self) -> Fate {
        sleep(QUEUES_SAFE.saturating_sub(self.begun.elapsed()));
        self.with_node(|node| {
            node.kill();
            node.start();
        })
    }

    fn meddled(&mut self, deed: impl FnOnce(&Meddler, &mut Random)) -> Fate {
        deed(&self.meddler, &mut self.random);
        Fate::Happened
    }

    fn kill_server(&mut self) -> Fate {
        if !self.fleet.kill(SERVER) {
            return Fate::TooLate;
        }
        self.look();
        self.started(SERVER)
    }

    fn kill_worker(&mut self, worker: usize) -> Fate {
        if self.fleet.kill(worker) { self.started(worker) } else { Fate::TooLate }
    }

    /// Checks that the events of the last check are still in the log, at the same positions.
    fn look(&mut self) {
        let events = self.campaign.lab.events(&self.data);
        assert!(events.len() >= self.known.len(), "{} events became {}", self.known.len(), events.len());
        assert_eq!(self.known, events[..self.known.len()], "events changed");
        self.known = events;
    }

    fn terminate(&mut self, worker: usize) -> Fate {
        // A process handles signals once it says so.
        self.fleet.has_said(worker, "at work");
        if !self.fleet.signal(worker, "TERM") {
            return Fate::TooLate;
        }
        let status = self.fleet.ended(worker, STOP_MAX);
        assert!(status.success(), "told to stop, it ended with {status}; {}", self.fleet.report());
        self.started(worker)
    }

    fn stop(&mut self, worker: usize) -> Fate {
        if !self.fleet.signal(worker, "STOP") {
            return Fate::TooLate;
        }
        sleep(LEASE + Duration::from_millis(1500));
        self.fleet.signal(worker, "CONT");
        Fate::Happened
    }

    fn alarm(&mut self) -> Fate {
        self.campaign.node.set_memory_alarm(true);
        sleep(Duration::from_millis(1000));
        self.campaign.node.set_memory_alarm(false);
        Fate::Happened
    }

    /// A server that cannot write exits with the reason, and resumes once there is space.
    fn full_disk(&mut self) -> Fate {
        let Some(disk) = &self.disk else { return Fate::Impossible };
        disk.fill();
        let status = self.fleet.ended(SERVER, STOP_MAX);
        disk.clear();
        if status.success() {
            // The experiment finished before the server had to write.
            return Fate::TooLate;
        }
        let said = self.fleet.said(SERVER);
        assert!(said.contains("No space left on device"), "{}", self.fleet.report());
        self.look();
        self.started(SERVER)
    }

    fn jump(&mut self) -> Fate {
        if self.campaign.clocks.is_none() {
            return Fate::Impossible;
        }
        let seconds = *self.random.one_of(&[-86_400, -3_600, 3_600, 86_400]);
        let member = self.random.below(self.fleet.len());
        self.fleet.set_clock(member, seconds);
        // Long enough for the process to read the clock, and for a heartbeat and a lease check after that.
        sleep(Duration::from_millis(1700));
        Fate::Happened
    }
}
