//! Faults of operators and clients: permissions, deleted queues, second servers, stuck clients, signals.

use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::broker_faults::{self, OTHER_PROTOCOL, OTHER_VERSION};
use crate::clients;
use crate::experiments::NAMES;
use crate::fleet::SERVER;
use crate::round::{Injection, Round, USER};
use crate::support::succeeded;

/// Longest time from SIGTERM to the end of a process: its grace and some seconds.
const GRACE_MAX: Duration = Duration::from_secs(28);
/// Longest time until a response about health.
const HEALTH_MAX: Duration = Duration::from_secs(1);
/// Requests of a check of health. Most must be answered in time: this machine may be busy.
const HEALTH_REQUESTS: usize = 5;
/// Longest wait for any other response.
pub(crate) const RESPONSE_MAX: Duration = Duration::from_secs(10);

impl Round<'_, '_> {
    /// Returns the experiments that run on the server. While the server does not answer, they are those of
    /// the last look.
    pub(crate) fn running(&mut self) -> Vec<&'static str> {
        let listed = self.fleet.known_address(SERVER).and_then(|address| {
            let response = clients::get(&address, "/api/v1/experiments", HEALTH_MAX);
            response.filter(|(status, _)| *status == 200)
        });
        if let Some((_, body)) = listed {
            let page: Value = serde_json::from_str(&body).unwrap();
            let rows = page["rows"].as_array().unwrap();
            let hosting = |row: &Value| row["hosting"].as_str().unwrap_or_default().to_owned();
            let halted = rows.iter().find(|row| hosting(row) == "halted");
            assert!(halted.is_none(), "halted: {halted:?}; {}", self.fleet.report());
            // A server that starts knows only some.
            if !rows.is_empty() && rows.iter().all(|row| hosting(row) != "loading") {
                let runs = |name: &str| {
                    rows.iter().any(|row| row["experiment"] == name && hosting(row) == "running")
                };
                self.running = NAMES.into_iter().filter(|name| runs(name)).collect();
            }
        }
        self.running.clone()
    }

    pub(crate) fn hang_up(&mut self, worker: usize) -> Injection {
        // Before, the signal ends the process, as the system has it.
        if !self.until_ready() {
            return Injection::TooLate;
        }
        let reactions = [(SERVER, "reloaded the control token"), (worker, "keeping all settings")];
        for (member, reaction) in reactions {
            if !self.fleet.signal(member, "HUP") {
                return Injection::TooLate;
            }
            let begun = Instant::now();
            while !self.fleet.output_text(member).contains(reaction) {
                if !self.fleet.runs(SERVER) && self.fleet.output_text(SERVER).contains("finishing work") {
                    return Injection::TooLate;
                }
                let waits = self.fleet.runs(member) && begun.elapsed() < RESPONSE_MAX;
                assert!(waits, "no {reaction:?} after SIGHUP; {}", self.fleet.report());
                sleep(Duration::from_millis(20));
            }
        }
        assert!(self.fleet.runs(worker), "SIGHUP ended a worker; {}", self.fleet.report());
        Injection::Done
    }

    /// A stop under an alarm cannot wait for RabbitMQ, which confirms nothing.
    pub(crate) fn alarm_during_stop(&mut self) -> Injection {
        if !self.until_ready() {
            return Injection::TooLate;
        }
        let member = self.random.below(self.fleet.len());
        self.campaign.node.set_memory_alarm(true);
        // In this time some messages are published, which blocks connections.
        sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let is_running = self.fleet.signal(member, "TERM");
        let ended = is_running.then(|| self.fleet.wait_for_end(member, GRACE_MAX));
        self.campaign.node.set_memory_alarm(false);
        let Some(status) = ended else { return Injection::TooLate };
        eprintln!("      process {member} ended {:?} after SIGTERM with {status}", begun.elapsed());
        assert!(status.code().is_some(), "{status}; {}", self.fleet.report());
        if member == SERVER {
            self.check_log();
        }
        self.restart(member)
    }

    /// Withdraws the permissions of all processes. Open connections are refused an operation at the next
    /// look, closed ones the virtual host.
    pub(crate) fn withdraw_permission(&mut self) -> Injection {
        // A process that starts ends with the refusal.
        if !self.until_ready() {
            return Injection::TooLate;
        }
        let closes = self.random.below(2) == 0;
        let node = &self.campaign.node;
        node.control(&["clear_permissions", USER]);
        if closes {
            node.close_all_connections();
        }
        sleep(Duration::from_secs(3));
        node.control(&["set_permissions", USER, ".*", ".*", ".*"]);
        Injection::Done
    }

    pub(crate) fn delete_queue(&mut self) -> Injection {
        let Some(experiment) = self.experiment() else { return Injection::TooLate };
        let (url, prefix) = (self.campaign.node.url(), self.data.clone());
        let (deleted, lost) = broker_faults::delete_some(&url, &prefix, experiment, &mut self.random);
        eprintln!("      deleted {deleted} of {experiment} with {lost} messages");
        self.queues_changed = Instant::now();
        Injection::Done
    }

    /// Publishes proposals of a newer protocol, and starts a worker of a server of a newer protocol.
    pub(crate) fn other_version(&mut self) -> Injection {
        let Some(experiment) = self.experiment() else { return Injection::TooLate };
        let url = self.campaign.node.url();
        broker_faults::propose_nonsense(&url, &self.data, experiment, &mut self.random);
        let prefix = format!("{}-newer", self.data);
        broker_faults::record_other_server(&url, &prefix);
        let lab = self.campaign.lab;
        let config = lab.config().with_file_name(format!("{prefix}.toml"));
        std::fs::write(&config, format!("[broker]\nkind = \"rabbitmq\"\nprefix = \"{prefix}\"\n")).unwrap();
        let mut worker = lab.dissent(&prefix, &["worker", config.to_str().unwrap()]);
        let output = worker.env("DISSENT_RABBITMQ_URL", &url).output().unwrap();
        broker_faults::forget_other_server(&url, &prefix);
        let error = failure(&output);
        let parts = [format!("protocol {OTHER_PROTOCOL}"), "protocol 2".to_owned(), OTHER_VERSION.to_owned()];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        Injection::Done
    }

    /// Starts a second server of the same installation, on a copy of the data folder.
    pub(crate) fn second_server(&mut self) -> Injection {
        // The server has its lock on RabbitMQ.
        if !self.until_ready() {
            return Injection::TooLate;
        }
        let (lab, copy) = (self.campaign.lab, format!("{}-copy", self.data));
        let Some(backup) = self.back_up() else { return Injection::TooLate };
        succeeded(lab.dissent(&copy, &["log", "restore", &backup]));
        std::fs::remove_dir_all(backup).unwrap();
        let [from, to] = [&self.data, &copy].map(|data| lab.data_dir(data).join("installation"));
        std::fs::copy(from, to).unwrap();
        let config = self.fleet.config().to_owned();
        let arguments = ["serve", "--config", config.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let mut second = lab.dissent(&copy, &arguments);
        let output = second.env("DISSENT_RABBITMQ_URL", self.campaign.node.url()).output().unwrap();
        std::fs::remove_dir_all(lab.data_dir(&copy)).unwrap();
        if !self.fleet.runs(SERVER) {
            return Injection::TooLate;
        }
        let (error, host) = (failure(&output), std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap());
        let process = format!("process {}", self.fleet.id(SERVER).unwrap());
        assert!(error.contains(&process) && error.contains(host.trim()), "{error}; {}", self.fleet.report());
        Injection::Done
    }

    pub(crate) fn connect_stuck_clients(&mut self) -> Injection {
        if !self.until_ready() {
            return Injection::TooLate;
        }
        let Some(address) = self.fleet.known_address(SERVER) else { return Injection::TooLate };
        let socket = self.campaign.lab.data_dir(&self.data).join("dissent.sock");
        self.stuck.extend(clients::stuck(&address, &socket));
        self.check_health_beside_stuck_clients();
        Injection::Done
    }

    /// Checks that the server answers in time while it has stuck clients.
    pub(crate) fn check_health_beside_stuck_clients(&mut self) {
        if self.stuck.is_empty() {
            return;
        }
        let Some(address) = self.fleet.known_address(SERVER) else { return };
        let mut times = Vec::new();
        for _ in 0..HEALTH_REQUESTS {
            let begun = Instant::now();
            let response = clients::get(&address, "/health", RESPONSE_MAX);
            // A server whose experiments have all ended stops, perhaps before it answers.
            let waits = || response.is_none() && begun.elapsed() < 2 * RESPONSE_MAX;
            while self.fleet.runs(SERVER) && waits() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if !self.fleet.runs(SERVER) {
                return;
            }
            assert_eq!(response.map(|(status, _)| status), Some(200), "{}", self.fleet.report());
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        assert!(times[HEALTH_REQUESTS / 2] < HEALTH_MAX, "{times:?}");
    }
}

/// Returns the standard error of a command that must have failed.
pub(crate) fn failure(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_failure = output.status.code().is_some_and(|code| code != 0);
    assert!(is_failure, "{}: {error}", output.status);
    error
}
