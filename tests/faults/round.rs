//! A round of the campaign: one experiment, and what happens to it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::disk::Disk;
use crate::fleet::{Fleet, Order, SERVER};
use crate::kind::{self, Fault};
use crate::meddler::Meddler;
use crate::node::Node;
use crate::random::Random;
use crate::support::Lab;
use crate::verdict::Outcome;

/// How long a training may be silent.
const LEASE: Duration = Duration::from_secs(3);
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
pub(crate) struct Round<'a, 'b> {
    field: &'b mut Field<'a>,
    fleet: Fleet<'b>,
    meddler: Meddler,
    disk: Option<Disk>,
    random: Random,
    data: String,
    /// What the log held when it was last looked at.
    known: Vec<Recorded>,
}

/// What became of the faults of a round.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) survived: Vec<Fault>,
    /// Those for which the experiment ended too early, and those that are not possible here.
    pub(crate) not_run: Vec<Fault>,
}

impl<'a, 'b> Round<'a, 'b> {
    /// Runs the experiment of a seed to its end, which must be that of a calm one.
    pub(crate) fn run(field: &'b mut Field<'a>, seed: u64, calm: &Outcome) -> Tally {
        let (lab, data) = (field.lab, format!("round{seed}"));
        let log = lab.data_dir(&data).join("log");
        let disk = field.disks.then(|| Disk::mount(&log)).flatten();
        let (name, url, clocks) = (data.clone(), field.node.url(), field.clocks.clone());
        let order = Order { name, url: url.clone(), roles: &ROLES, lease_seconds: LEASE.as_secs(), clocks };
        let fleet = Fleet::new(lab, order);
        let meddler = Meddler::new(url, data.clone());
        let random = Random::new(seed);
        let mut round = Round { field, fleet, meddler, disk, random, data, known: Vec::new() };
        let tally = round.disturbed(kind::of_round(seed));
        Outcome::of(lab, &round.data).is_that_of(calm);
        round.look();
        tally
    }

    fn disturbed(&mut self, faults: Vec<Fault>) -> Tally {
        let mut tally = Tally::default();
        self.fleet.start_all();
        self.fleet.has_said(SERVER, "at work");
        for fault in faults {
            sleep(Duration::from_millis(u64::try_from(100 + self.random.below(900)).unwrap()));
            self.fleet.no_one_failed();
            let begun = Instant::now();
            let happened = self.fleet.runs(SERVER) && self.inject(fault);
            eprintln!("    {fault:?}{} {:?}", if happened { "" } else { ": not run" }, begun.elapsed());
            if happened { tally.survived.push(fault) } else { tally.not_run.push(fault) }
        }
        self.fleet.all_end(END_MAX);
        tally
    }

    /// Lets a fault happen, and puts right what would be put right; false if it cannot happen here, or no longer.
    fn inject(&mut self, fault: Fault) -> bool {
        let worker = 1 + self.random.below(self.fleet.len() - 1);
        match fault {
            Fault::KillServer => self.kill_server(),
            Fault::KillWorker => self.fleet.kill(worker) && self.started(worker),
            Fault::TerminateWorker => self.terminate(worker),
            Fault::StopWorker => self.stop(worker),
            Fault::RestartBroker => self.with_node(Node::restart),
            Fault::KillBroker => self.with_node(|node| {
                node.kill();
                node.start();
            }),
            Fault::CloseConnections => self.with_node(|node| node.close_all_connections()),
            Fault::MemoryAlarm => self.alarm(),
            Fault::Duplicates => self.meddled(Meddler::duplicate),
            Fault::Reordered => self.meddled(Meddler::reorder),
            Fault::Corrupted => self.meddled(Meddler::corrupt),
            Fault::FullDisk => self.full_disk(),
            Fault::ClockJump => self.jump(),
        }
    }

    fn started(&mut self, member: usize) -> bool {
        self.fleet.start(member);
        true
    }

    fn with_node(&mut self, deed: impl FnOnce(&mut Node)) -> bool {
        deed(self.field.node);
        true
    }

    fn meddled(&mut self, deed: impl FnOnce(&Meddler, &mut Random)) -> bool {
        deed(&self.meddler, &mut self.random);
        true
    }

    fn kill_server(&mut self) -> bool {
        if !self.fleet.kill(SERVER) {
            return false;
        }
        self.look();
        self.started(SERVER)
    }

    /// What was in the log is still there: the same events at the same positions.
    fn look(&mut self) {
        let events = self.field.lab.events(&self.data);
        assert!(events.len() >= self.known.len(), "{} events became {}", self.known.len(), events.len());
        assert_eq!(self.known, events[..self.known.len()], "events changed");
        self.known = events;
    }

    fn terminate(&mut self, worker: usize) -> bool {
        // One that has just been started is not yet listening for signals.
        if !self.fleet.runs(worker) || !self.fleet.said(worker).contains("at work") {
            return self.fleet.kill(worker) && self.started(worker);
        }
        self.fleet.signal(worker, "TERM");
        let status = self.fleet.ended(worker, STOP_MAX);
        assert!(status.success(), "told to stop, it ended with {status}; {}", self.fleet.report());
        self.started(worker)
    }

    fn stop(&mut self, worker: usize) -> bool {
        if !self.fleet.signal(worker, "STOP") {
            return false;
        }
        sleep(LEASE + Duration::from_millis(1500));
        self.fleet.signal(worker, "CONT")
    }

    fn alarm(&mut self) -> bool {
        self.field.node.set_memory_alarm(true);
        sleep(Duration::from_millis(1000));
        self.field.node.set_memory_alarm(false);
        true
    }

    /// The server ends when it cannot write, says why, and goes on when there is room again.
    fn full_disk(&mut self) -> bool {
        let Some(disk) = &self.disk else { return false };
        disk.fill();
        let status = self.fleet.ended(SERVER, STOP_MAX);
        disk.clear();
        if status.success() {
            // It was finished before it had to write.
            return false;
        }
        let said = self.fleet.said(SERVER);
        assert!(said.contains("No space left on device"), "{}", self.fleet.report());
        self.look();
        self.started(SERVER)
    }

    fn jump(&mut self) -> bool {
        if self.field.clocks.is_none() {
            return false;
        }
        let seconds = *self.random.one_of(&[-86_400, -3_600, 3_600, 86_400]);
        let member = self.random.below(self.fleet.len());
        self.fleet.set_clock(member, seconds);
        // Until it has been looked at, and a heartbeat and a look at the lease have come after it.
        sleep(Duration::from_millis(1700));
        true
    }
}

