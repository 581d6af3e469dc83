//! A round of the campaign: three experiments on one server, with injected faults.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::disk::Disks;
use crate::experiments::{self, Outcomes};
use crate::fleet::{Fleet, FleetPlan, SERVER};
use crate::kind::{self, Fault};
use crate::message_faults::MessageFaults;
use crate::node::Node;
use crate::support::Lab;
use crate::support::random::Random;

/// The user of the private RabbitMQ.
pub(crate) const USER: &str = "guest";
/// Lease of a training.
const LEASE: Duration = Duration::from_secs(3);
/// Shortest time before RabbitMQ 3.10 is killed. Within a second of declaring a quorum queue, about one kill
/// in ten leaves a queue that never finds a leader. The server detects such a queue, deletes it and declares
/// it again. That takes a minute or two, longer than a round. `queues/tests/rabbitmq/faults.rs` tests that
/// case.
const QUEUES_SAFE: Duration = Duration::from_secs(4);
/// Longest time from the last fault to the end of the experiments.
const END_MAX: Duration = Duration::from_secs(240);
/// Time from the last fault to a look for a RabbitMQ that cannot recover.
const REPAIR_AFTER: Duration = Duration::from_secs(45);
/// Longest wait for a process to exit.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(60);
/// Longest wait for all processes to be ready, for example after a start of RabbitMQ.
const READY_MAX: Duration = Duration::from_secs(90);
/// Most parts of a round. A part that is over before all faults are injected is followed by another one.
const PARTS_MAX: usize = 8;
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
    /// Whether file systems can be mounted for the data.
    pub(crate) disks: bool,
}

impl Campaign<'_> {
    /// Repairs RabbitMQ after a failed round.
    pub(crate) fn repair(&mut self) {
        self.node.kill();
        self.node.start();
        self.node.set_memory_alarm(false);
        self.node.control(&["set_permissions", USER, ".*", ".*", ".*"]);
    }
}

/// A server with three experiments and three workers.
pub(crate) struct Round<'a, 'b> {
    pub(crate) campaign: &'b mut Campaign<'a>,
    pub(crate) fleet: Fleet<'b>,
    pub(crate) disks: Option<Disks>,
    pub(crate) random: Random,
    /// Name of the data folder, and prefix of the queues.
    pub(crate) data: String,
    /// Clients that stay connected until the end of the round.
    pub(crate) stuck: Vec<OwnedFd>,
    /// When queues were last declared or deleted.
    pub(crate) queues_changed: Instant,
    /// Experiments that were running at the last look.
    pub(crate) running: Vec<&'static str>,
    /// Events in the log at the last check.
    recorded: Vec<Recorded>,
}

/// Outcomes of the faults of a round.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) survived: Vec<Fault>,
    /// Faults that this machine does not support, with the reasons.
    pub(crate) skipped: Vec<(Fault, &'static str)>,
}

/// Outcome of one fault.
#[derive(Debug, PartialEq)]
pub(crate) enum Injection {
    Done,
    /// The experiments finished before the fault, which goes to the next part.
    TooLate,
    /// This machine does not support the fault.
    Impossible(&'static str),
}

/// Injects the faults of a seed into a server with three experiments, which must end as those without faults.
/// If they finish early, the remaining faults are injected into another server's.
pub(crate) fn run(campaign: &mut Campaign<'_>, seed: u64, references: &Outcomes) -> Tally {
    let (mut faults, mut tally) = (VecDeque::from(kind::of_round(seed)), Tally::default());
    let mut random = Random::new(seed);
    for part in 0..PARTS_MAX {
        let name = format!("round{seed}-{part}");
        let lab = campaign.lab;
        random = {
            let mut round = Round::new(campaign, name.clone(), random);
            round.run(&mut faults, &mut tally);
            round.check_log();
            let outcomes = experiments::outcomes(lab, &name);
            for (name, reference) in references {
                eprintln!("    comparing {name}");
                outcomes[name].assert_equals(reference);
            }
            round.random
        };
        if faults.is_empty() {
            return tally;
        }
    }
    panic!("{faults:?} came too late in {PARTS_MAX} parts");
}

impl<'a, 'b> Round<'a, 'b> {
    fn new(campaign: &'b mut Campaign<'a>, name: String, random: Random) -> Self {
        let (lab, url, clocks) = (campaign.lab, campaign.node.url(), campaign.clocks.clone());
        let disks = campaign.disks.then(|| Disks::mount(&lab.data_dir(&name))).flatten();
        let lease_seconds = LEASE.as_secs();
        let plan = FleetPlan { name: name.clone(), url, roles: &ROLES, lease_seconds, clocks, apart: true };
        Self {
            campaign,
            fleet: Fleet::of_all(lab, plan),
            disks,
            random,
            data: name,
            stuck: Vec::new(),
            queues_changed: Instant::now(),
            running: experiments::NAMES.to_vec(),
            recorded: Vec::new(),
        }
    }

    fn run(&mut self, faults: &mut VecDeque<Fault>, tally: &mut Tally) {
        experiments::create_all(self.campaign.lab, &self.data);
        self.fleet.start_all();
        self.fleet.wait_for_output(SERVER, "running steps");
        self.queues_changed = Instant::now();
        while let Some(&fault) = faults.front() {
            sleep(Duration::from_millis(u64::try_from(50 + self.random.below(400)).unwrap()));
            self.fleet.assert_no_failure();
            self.check_health_beside_stuck_clients();
            let begun = Instant::now();
            let injection = if self.fleet.runs(SERVER) { self.inject(fault) } else { Injection::TooLate };
            eprintln!("    {fault:?}: {injection:?} {:?}", begun.elapsed());
            match injection {
                Injection::Done => tally.survived.push(fault),
                Injection::Impossible(reason) => tally.skipped.push((fault, reason)),
                Injection::TooLate => break,
            }
            faults.pop_front();
        }
        self.finish();
    }

    /// Waits for the end of all experiments, and stops the workers.
    fn finish(&mut self) {
        let (begun, mut is_repaired) = (Instant::now(), false);
        while self.fleet.runs(SERVER) {
            self.fleet.assert_no_failure();
            if !is_repaired && begun.elapsed() > REPAIR_AFTER && self.declares_nothing() {
                eprintln!("      RabbitMQ declares no queue any more: restarting it");
                self.campaign.node.restart();
                is_repaired = true;
            }
            let waits = begun.elapsed() < END_MAX;
            assert!(waits, "not finished after {END_MAX:?}; {:?} {}", self.running(), self.fleet.report());
            sleep(Duration::from_millis(50));
        }
        self.stuck.clear();
        for worker in 1..self.fleet.len() {
            self.fleet.wait_for_output(worker, "running steps");
            self.fleet.signal(worker, "TERM");
        }
        self.fleet.wait_for_all(STOP_MAX);
        eprintln!("    finished after {:?}", begun.elapsed());
    }

    /// Whether RabbitMQ answers declarations with an internal error. RabbitMQ 3.10 does so until its restart
    /// if queues are deleted while it restarts: the supervisor of their dead-letter workers then ends.
    fn declares_nothing(&self) -> bool {
        self.fleet.output_text(SERVER).lines().rev().take(20).any(|line| line.contains("INTERNAL-ERROR"))
    }

    /// Injects a fault, and repairs it as an operator would.
    fn inject(&mut self, fault: Fault) -> Injection {
        let worker = 1 + self.random.below(self.fleet.len() - 1);
        match fault {
            Fault::KillServer => self.kill_server(),
            Fault::KillWorker => self.kill_worker(worker),
            Fault::TerminateWorker => self.terminate(worker),
            Fault::StopWorker => self.stop(worker),
            Fault::HangUp => self.hang_up(worker),
            Fault::RestartBroker => self.with_node(Node::restart),
            Fault::KillBroker => self.kill_broker(),
            Fault::CloseConnections => self.with_node(|node| node.close_all_connections()),
            Fault::MemoryAlarm => self.alarm(),
            Fault::AlarmDuringStop => self.alarm_during_stop(),
            Fault::PermissionWithdrawn => self.withdraw_permission(),
            Fault::QueueDeleted => self.delete_queue(),
            Fault::Duplicates => self.publish_faults(MessageFaults::duplicate),
            Fault::Reordered => self.publish_faults(MessageFaults::reorder),
            Fault::Corrupted => self.publish_faults(MessageFaults::corrupt),
            Fault::OtherVersionWorker => self.other_version(),
            Fault::SecondServer => self.second_server(),
            Fault::StuckClient => self.connect_stuck_clients(),
            Fault::FullDisk => self.full_disk(),
            Fault::FullDiskAtSnapshot => self.full_disk_at_snapshot(),
            Fault::FullDiskAtBackup => self.full_disk_at_backup(),
            Fault::ClockJump => self.jump(),
        }
    }

    pub(crate) fn restart(&mut self, member: usize) -> Injection {
        self.fleet.start(member);
        Injection::Done
    }

    /// Waits until every process works, connected to RabbitMQ. Returns false if the server has ended.
    pub(crate) fn until_ready(&mut self) -> bool {
        let begun = Instant::now();
        for member in 0..self.fleet.len() {
            while !self.fleet.is_ready(member) {
                if !self.fleet.runs(SERVER) {
                    return false;
                }
                let waits = begun.elapsed() < READY_MAX;
                assert!(waits, "process {member} is not ready; {}", self.fleet.report());
                sleep(Duration::from_millis(50));
            }
        }
        self.fleet.runs(SERVER)
    }

    /// Returns a random experiment that still runs; `None` if there is none.
    pub(crate) fn experiment(&mut self) -> Option<&'static str> {
        let running = self.running();
        (!running.is_empty()).then(|| *self.random.one_of(&running))
    }

    fn with_node(&mut self, action: impl FnOnce(&mut Node)) -> Injection {
        action(self.campaign.node);
        Injection::Done
    }

    fn kill_broker(&mut self) -> Injection {
        sleep(QUEUES_SAFE.saturating_sub(self.queues_changed.elapsed()));
        self.with_node(|node| {
            node.kill();
            node.start();
        })
    }

    fn publish_faults(
        &mut self,
        publish: impl FnOnce(&MessageFaults, &mut Random) -> Option<()>,
    ) -> Injection {
        let Some(experiment) = self.experiment() else { return Injection::TooLate };
        let faults = MessageFaults::new(self.campaign.node.url(), self.data.clone(), experiment);
        if publish(&faults, &mut self.random).is_some() {
            return Injection::Done;
        }
        let is_over = !self.running().contains(&experiment);
        assert!(is_over, "{experiment} has no history on RabbitMQ; {}", self.fleet.report());
        Injection::TooLate
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
    pub(crate) fn check_log(&mut self) {
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

    fn jump(&mut self) -> Injection {
        if self.campaign.clocks.is_none() {
            return Injection::Impossible("libfaketime is missing (Debian: apt-get install faketime)");
        }
        let seconds = *self.random.one_of(&[-86_400, -3_600, 3_600, 86_400]);
        let member = self.random.below(self.fleet.len());
        self.fleet.set_clock(member, seconds);
        // In this time the process reads the clock, sends a heartbeat and checks its lease.
        sleep(Duration::from_millis(1700));
        Injection::Done
    }
}
