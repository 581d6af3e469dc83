//! A round of the campaign: one experiment, and what happens to it.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::disk::Disk;
use crate::fleet::{Fleet, Order, SERVER};
use crate::kind::{self, Fault};
use crate::meddler::Meddler;
use crate::node::Node;
use crate::support::Lab;
use crate::support::random::Random;
use crate::verdict::Outcome;

/// How long a training may be silent.
const LEASE: Duration = Duration::from_secs(3);
/// RabbitMQ 3.10, killed within a second of making a quorum queue, comes back in about one of ten cases with one that never finds
/// a leader. The server finds that out, deletes it and makes it anew, but only after a minute or two of waiting for answers: longer
/// than a round should take, so it is killed later. `queues/tests/rabbitmq/faults.rs` tries it.
const QUEUES_SAFE: Duration = Duration::from_secs(4);
/// Longest time from the last fault to the end.
const END_MAX: Duration = Duration::from_secs(150);
/// Longest wait for a process that is to end.
const STOP_MAX: Duration = Duration::from_secs(60);
/// Each step has two workers, and trainings have three.
const ROLES: [&str; 4] = [
    "none",
    "generation,reward,feedback,training",
    "reward,conflict,evaluation,training",
    "generation,conflict,feedback,evaluation,training",
];

/// What a campaign works with.
pub(crate) struct Field<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) node: &'a mut Node,
    /// What makes clocks jump, where it is installed.
    pub(crate) clocks: Option<std::path::PathBuf>,
    /// Whether a small disk can be put where the log is.
    pub(crate) disks: bool,
}

/// An experiment under way.
struct Round<'a, 'b> {
    field: &'b mut Field<'a>,
    fleet: Fleet<'b>,
    meddler: Meddler,
    disk: Option<Disk>,
    random: Random,
    data: String,
    begun: Instant,
    /// What the log held when it was last looked at.
    known: Vec<Recorded>,
}

/// What became of the faults of a round.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) survived: Vec<Fault>,
    /// Those that cannot happen on this machine.
    pub(crate) impossible: Vec<Fault>,
}

/// What became of a fault.
#[derive(Debug, PartialEq)]
enum Fate {
    Happened,
    /// The experiment was finished before it: it is for the next.
    TooLate,
    /// It cannot happen on this machine.
    Impossible,
}

/// Lets the faults of a seed happen to an experiment, which must come to the end of a calm one; where it comes to it before all have
/// happened, the others happen to another.
pub(crate) fn run(field: &mut Field<'_>, seed: u64, calm: &Outcome) -> Tally {
    let (mut faults, mut tally) = (VecDeque::from(kind::of_round(seed)), Tally::default());
    let mut random = Random::new(seed);
    for part in 0.. {
        let name = format!("round{seed}-{part}");
        let lab = field.lab;
        random = {
            let mut round = Round::new(field, name.clone(), random);
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
    fn new(field: &'b mut Field<'a>, name: String, random: Random) -> Self {
        let (lab, url, clocks) = (field.lab, field.node.url(), field.clocks.clone());
        let log = lab.data_dir(&name).join("log");
        let disk = field.disks.then(|| Disk::mount(&log)).flatten();
        let meddler = Meddler::new(url.clone(), name.clone());
        let lease_seconds = LEASE.as_secs();
        let order = Order { name: name.clone(), url, roles: &ROLES, lease_seconds, clocks, apart: true };
        Self {
            field,
            fleet: Fleet::new(lab, order),
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

    /// Lets a fault happen, and puts right what somebody would put right.
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
        deed(self.field.node);
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

    /// What was in the log is still there: the same events at the same positions.
    fn look(&mut self) {
        let events = self.field.lab.events(&self.data);
        assert!(events.len() >= self.known.len(), "{} events became {}", self.known.len(), events.len());
        assert_eq!(self.known, events[..self.known.len()], "events changed");
        self.known = events;
    }

    fn terminate(&mut self, worker: usize) -> Fate {
        // One that has just been started is not yet listening for signals.
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
        self.field.node.set_memory_alarm(true);
        sleep(Duration::from_millis(1000));
        self.field.node.set_memory_alarm(false);
        Fate::Happened
    }

    /// The server ends when it cannot write, says why, and goes on when there is room again.
    fn full_disk(&mut self) -> Fate {
        let Some(disk) = &self.disk else { return Fate::Impossible };
        disk.fill();
        let status = self.fleet.ended(SERVER, STOP_MAX);
        disk.clear();
        if status.success() {
            // It was finished before it had to write.
            return Fate::TooLate;
        }
        let said = self.fleet.said(SERVER);
        assert!(said.contains("No space left on device"), "{}", self.fleet.report());
        self.look();
        self.started(SERVER)
    }

    fn jump(&mut self) -> Fate {
        if self.field.clocks.is_none() {
            return Fate::Impossible;
        }
        let seconds = *self.random.one_of(&[-86_400, -3_600, 3_600, 86_400]);
        let member = self.random.below(self.fleet.len());
        self.fleet.set_clock(member, seconds);
        // Until it has been looked at, and a heartbeat and a look at the lease have come after it.
        sleep(Duration::from_millis(1700));
        Fate::Happened
    }
}
