//! A round of the campaign: experiments with injected faults.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::disk::Disk;
use crate::fleet::{Fleet, FleetPlan, SERVER};
use crate::kind::{self, Fault};
use crate::message_faults::MessageFaults;
use crate::node::Node;
use crate::outcome::Outcome;
use crate::support::Lab;
use crate::support::random::Random;

/// Lease of a training.
const LEASE: Duration = Duration::from_secs(3);
/// Shortest time before RabbitMQ 3.10 is killed. Within a second of declaring a quorum queue, about one kill
/// in ten leaves a queue that never finds a leader. The server detects such a queue, deletes it and declares
/// it again. That takes a minute or two, longer than a round. `queues/tests/rabbitmq/faults.rs` tests that
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
    message_faults: MessageFaults,
    disk: Option<Disk>,
    random: Random,
    data: String,
    begun: Instant,
    /// Events in the log at the last check.
    recorded: Vec<Recorded>,
}

/// Outcomes of the faults of a round.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) survived: Vec<Fault>,
    /// Faults that this machine does not support.
    pub(crate) impossible: Vec<Fault>,
}

/// Outcome of one fault.
#[derive(Debug, PartialEq)]
enum Injection {
    Done,
    /// The experiment finished before the fault, which goes to the next experiment.
    TooLate,
    /// This machine does not support the fault.
    Impossible,
}

/// Injects the faults of a seed into an experiment, which must end as one without faults. If the experiment
/// finishes early, the remaining faults are injected into another experiment.
pub(crate) fn run(campaign: &mut Campaign<'_>, seed: u64, reference: &Outcome) -> Tally {
    let (mut faults, mut tally) = (VecDeque::from(kind::of_round(seed)), Tally::default());
    let mut random = Random::new(seed);
    for part in 0.. {
        let name = format!("round{seed}-{part}");
        let lab = campaign.lab;
        random = {
            let mut round = Round::new(campaign, name.clone(), random);
            round.run(&mut faults, &mut tally);
            Outcome::of(lab, &name).assert_equals(reference);
            round.check_log();
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
        let message_faults = MessageFaults::new(url.clone(), name.clone());
        let lease_seconds = LEASE.as_secs();
        let plan = FleetPlan { name: name.clone(), url, roles: &ROLES, lease_seconds, clocks, apart: true };
        Self {
            campaign,
            fleet: Fleet::new(lab, plan),
            message_faults,
            disk,
            random,
            data: name,
            begun: Instant::now(),
            recorded: Vec::new(),
        }
    }

    fn run(&mut self, faults: &mut VecDeque<Fault>, tally: &mut Tally) {
        self.fleet.start_all();
        self.fleet.wait_for_output(SERVER, "running steps");
        while let Some(&fault) = faults.front() {
            sleep(Duration::from_millis(u64::try_from(50 + self.random.below(400)).unwrap()));
            self.fleet.assert_no_failure();
            let begun = Instant::now();
            let injection = if self.fleet.runs(SERVER) { self.inject(fault) } else { Injection::TooLate };
            eprintln!("    {fault:?}: {injection:?} {:?}", begun.elapsed());
            match injection {
                Injection::Done => tally.survived.push(fault),
                Injection::Impossible => tally.impossible.push(fault),
                Injection::TooLate => break,
            }
            faults.pop_front();
        }
        self.fleet.wait_for_all(END_MAX);
    }

    /// Injects a fault, and repairs it as an operator would.
    fn inject(&mut self, fault: Fault) -> Injection {
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
            Fault::Duplicates => self.publish_faults(MessageFaults::duplicate),
            Fault::Reordered => self.publish_faults(MessageFaults::reorder),
            Fault::Corrupted => self.publish_faults(MessageFaults::corrupt),
            Fault::FullDisk => self.full_disk(),
            Fault::ClockJump => self.jump(),
        }
    }

    fn restart(&mut self, member: usize) -> Injection {
        self.fleet.start(member);
        Injection::Done
    }

    fn with_node(&mut self, action: impl FnOnce(&mut Node)) -> Injection {
        action(self.campaign.node);
        Injection::Done
    }

    fn kill_broker(&mut self) -> Injection {
        sleep(QUEUES_SAFE.saturating_sub(self.begun.elapsed()));
        self.with_node(|node| {
            node.kill();
            node.start();
        })
    }

    fn publish_faults(&mut self, publish: impl FnOnce(&MessageFaults, &mut Random)) -> Injection {
        publish(&self.message_faults, &mut self.random);
        Injection::Done
    }

    fn kill_server(&mut self) -> Injection {
        if !self.fleet.kill(SERVER) {
            return Injection::TooLate;
        }
        self.check_log();
        self.restart(SERVER)
    }

    fn kill_worker(&mut self, worker: usize) -> Injection {
        if self.fleet.kill(worker) { self.restart(worker) } else { Injection::TooLate }
    }

    /// Checks that the events of the last check are still in the log, at the same positions.
    fn check_log(&mut self) {
        let events = self.campaign.lab.events(&self.data);
        let before = self.recorded.len();
        assert!(events.len() >= before, "{before} events became {}", events.len());
        assert_eq!(self.recorded, events[..before], "events changed");
        self.recorded = events;
    }

    fn terminate(&mut self, worker: usize) -> Injection {
        // A process handles signals after it has logged this line.
        self.fleet.wait_for_output(worker, "running steps");
        if !self.fleet.signal(worker, "TERM") {
            return Injection::TooLate;
        }
        let status = self.fleet.wait_for_end(worker, STOP_MAX);
        assert!(status.success(), "after SIGTERM the worker ended with {status}; {}", self.fleet.report());
        self.restart(worker)
    }

    fn stop(&mut self, worker: usize) -> Injection {
        if !self.fleet.signal(worker, "STOP") {
            return Injection::TooLate;
        }
        sleep(LEASE + Duration::from_millis(1500));
        self.fleet.signal(worker, "CONT");
        Injection::Done
    }

    fn alarm(&mut self) -> Injection {
        self.campaign.node.set_memory_alarm(true);
        sleep(Duration::from_millis(1000));
        self.campaign.node.set_memory_alarm(false);
        Injection::Done
    }

    /// Fills the disk. The server must exit with the reason, and resume when there is space again.
    fn full_disk(&mut self) -> Injection {
        let Some(disk) = &self.disk else { return Injection::Impossible };
        disk.fill();
        let status = self.fleet.wait_for_end(SERVER, STOP_MAX);
        disk.clear();
        if status.success() {
            // The experiment finished before the server had to write.
            return Injection::TooLate;
        }
        let output = self.fleet.output_text(SERVER);
        assert!(output.contains("No space left on device"), "{}", self.fleet.report());
        self.check_log();
        self.restart(SERVER)
    }

    fn jump(&mut self) -> Injection {
        if self.campaign.clocks.is_none() {
            return Injection::Impossible;
        }
        let seconds = *self.random.one_of(&[-86_400, -3_600, 3_600, 86_400]);
        let member = self.random.below(self.fleet.len());
        self.fleet.set_clock(member, seconds);
        // In this time the process reads the clock, sends a heartbeat and checks its lease.
        sleep(Duration::from_millis(1700));
        Injection::Done
    }
}
