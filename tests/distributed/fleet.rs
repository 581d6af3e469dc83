//! The processes of an installation on RabbitMQ: a server and workers.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Lab, succeeded};

/// Index of the server among the processes of a fleet.
pub(crate) const SERVER: usize = 0;
/// Longest wait for a process to start or to respond.
const TIME_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Settings of a fleet.
pub(crate) struct FleetPlan<'a> {
    /// Name of its data folder and prefix of its queues.
    pub(crate) name: String,
    /// URL of RabbitMQ.
    pub(crate) url: String,
    /// The steps of the server, then of each worker.
    pub(crate) roles: &'a [&'a str],
    /// Lease of a training.
    pub(crate) lease_seconds: u64,
    /// The library for clock jumps.
    pub(crate) clocks: Option<PathBuf>,
    /// Whether workers run as on other hosts, configured with the experiment's name and the shared store
    /// only.
    pub(crate) apart: bool,
}

/// Processes that work on one experiment, or on every experiment of a data folder.
pub(crate) struct Fleet<'a> {
    lab: &'a Lab,
    plan: FleetPlan<'a>,
    config: PathBuf,
    /// Whether the server hosts every experiment of its data folder, for workers of every experiment.
    hosts_all: bool,
    /// Additional environment variables of every process.
    environment: Vec<(String, String)>,
    members: Vec<Member>,
}

struct Member {
    child: Option<Child>,
    /// Number of starts.
    lives: u32,
}

impl<'a> Fleet<'a> {
    /// Writes the configuration; starts nothing.
    pub(crate) fn new(lab: &'a Lab, plan: FleetPlan<'a>) -> Self {
        let config = lab.config().with_file_name(format!("{}.toml", plan.name));
        let FleetPlan { name, lease_seconds, .. } = &plan;
        let broker = format!(
            "\n[broker]\nkind = \"rabbitmq\"\nprefix = \"{name}\"\nlease_seconds = {lease_seconds}\nconnect_seconds = 300\n"
        );
        let store =
            format!("\n[artifacts]\nurl = \"file://{}\"\n", lab.data_dir(&format!("{name}-store")).display());
        let shared = if plan.apart { broker + &store } else { broker };
        std::fs::write(&config, std::fs::read_to_string(lab.config()).unwrap() + &shared).unwrap();
        let worker = "[experiment]\nname = \"lab\"\n[runtime]\nprovider = \"cpu\"\nthreads = 1\n";
        std::fs::write(config.with_extension("worker.toml"), worker.to_owned() + &shared).unwrap();
        std::fs::create_dir_all(lab.data_dir(name)).unwrap();
        let members = plan.roles.iter().map(|_| Member { child: None, lives: 0 }).collect();
        Self { lab, plan, config, hosts_all: false, environment: Vec::new(), members }
    }

    /// Writes the configuration of a server of every experiment, and of workers of every experiment; starts
    /// nothing.
    #[allow(dead_code, reason = "not every test program that includes this file has a server of all")]
    pub(crate) fn of_all(lab: &'a Lab, plan: FleetPlan<'a>) -> Self {
        let mut fleet = Self::new(lab, FleetPlan { apart: true, ..plan });
        fleet.hosts_all = true;
        let path = fleet.config.with_extension("worker.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, settings) = text.split_once("[runtime]").unwrap();
        let settings = format!("[runtime]{settings}");
        std::fs::write(&fleet.config, &settings).unwrap();
        std::fs::write(path, settings).unwrap();
        fleet
    }

    /// Sets an environment variable of every process started later.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    fn path(&self, name: String) -> PathBuf {
        self.lab.data_dir(&self.plan.name).join(name)
    }

    /// The file that sets the clock of a process.
    pub(crate) fn clock(&self, member: usize) -> PathBuf {
        self.path(format!("{member}.clock"))
    }

    /// The configuration and the data folder of a process.
    pub(crate) fn config_and_data(&self, member: usize) -> (PathBuf, String) {
        let name = &self.plan.name;
        if self.plan.apart && member != SERVER {
            (self.config.with_extension("worker.toml"), format!("{name}-{member}"))
        } else {
            (self.config.clone(), name.clone())
        }
    }

    fn output(&self, member: usize) -> PathBuf {
        self.path(format!("{member}.{}.log", self.members[member].lives))
    }

    /// Returns the output of a process since its last start.
    pub(crate) fn output_text(&self, member: usize) -> String {
        std::fs::read_to_string(self.output(member)).unwrap_or_default()
    }

    pub(crate) fn start_all(&mut self) {
        for member in 0..self.len() {
            self.start(member);
        }
    }

    /// Starts a process with additional arguments.
    pub(crate) fn start_with(&mut self, member: usize, more: &[&str]) {
        let (config, data) = self.config_and_data(member);
        let mut arguments = match (member, self.hosts_all) {
            (SERVER, true) => vec!["serve", "--config"],
            (SERVER, false) => vec!["serve"],
            _ => vec!["worker"],
        };
        arguments.push(config.to_str().unwrap());
        arguments.extend(["--roles", self.plan.roles[member], "--listen", "127.0.0.1:0"]);
        arguments.extend(more);
        let mut command = self.lab.dissent(&data, &arguments);
        command.env("DISSENT_RABBITMQ_URL", &self.plan.url).env("DISSENT_LOG", "info,lapin=error");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(library) = &self.plan.clocks {
            self.set_clock(member, 0);
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.clock(member));
            command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.members[member].lives += 1;
        let output = std::fs::File::create(self.output(member)).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        self.members[member].child = Some(command.spawn().unwrap());
    }

    /// Starts a process that ends when the experiment is finished, or the server of every experiment, which
    /// ends when all are. A worker of every experiment ends at a signal only.
    pub(crate) fn start(&mut self, member: usize) {
        let is_endless = self.hosts_all && member != SERVER;
        self.start_with(member, if is_endless { &[] } else { &["--until-finished"] });
    }

    /// The id of a process, if it was started.
    #[allow(dead_code, reason = "not every test program that includes this file has a server of all")]
    pub(crate) fn id(&self, member: usize) -> Option<u32> {
        self.members[member].child.as_ref().map(Child::id)
    }

    /// Sets the clock of a process wrong by `seconds`.
    pub(crate) fn set_clock(&self, member: usize, seconds: i64) {
        let (clock, new) = (self.clock(member), self.path(format!("{member}.clock.new")));
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, clock).unwrap();
    }

    /// Sends a signal with the system's `kill`; false if the process has ended.
    pub(crate) fn signal(&mut self, member: usize, name: &str) -> bool {
        if !self.runs(member) {
            return false;
        }
        let child = self.members[member].child.as_ref().unwrap();
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(child.id().to_string());
        succeeded(kill);
        true
    }

    /// Whether a process is running.
    pub(crate) fn runs(&mut self, member: usize) -> bool {
        self.members[member].child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Kills a process with SIGKILL; false if it has ended before.
    pub(crate) fn kill(&mut self, member: usize) -> bool {
        let ran = self.runs(member);
        if let Some(mut child) = self.members[member].child.take() {
            let _ended = child.kill();
            child.wait().unwrap();
            // The library for clock jumps leaves these files after a kill.
            for file in ["faketime_shm_", "sem.faketime_sem_"] {
                let _missing = std::fs::remove_file(format!("/dev/shm/{file}{}", child.id()));
            }
        }
        ran
    }

    /// Waits until a process exits, and returns its status.
    pub(crate) fn wait_for_end(&mut self, member: usize, within: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            let child = self.members[member].child.as_mut().expect("a started process");
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < within, "{} does not exit; {}", self.name(member), self.report());
            sleep(POLL);
        }
    }

    /// Waits until all processes exit with success.
    pub(crate) fn wait_for_all(&mut self, within: Duration) {
        let begun = Instant::now();
        while (0..self.len()).any(|member| self.runs(member)) {
            self.assert_no_failure();
            assert!(begun.elapsed() < within, "not finished after {within:?}; {}", self.report());
            sleep(POLL);
        }
        self.assert_no_failure();
    }

    /// Fails if a process has exited with an error.
    pub(crate) fn assert_no_failure(&mut self) {
        for member in 0..self.len() {
            let status = self.members[member].child.as_mut().and_then(|child| child.try_wait().unwrap());
            let failed = status.is_some_and(|status| !status.success());
            assert!(!failed, "{} ended with {status:?}; {}", self.name(member), self.report());
        }
    }

    fn name(&self, member: usize) -> String {
        let kind = if member == SERVER { "the server" } else { "a worker" };
        format!("{kind} of {}", self.plan.roles[member])
    }

    /// The last lines of the output of all processes.
    pub(crate) fn report(&self) -> String {
        let end = |member| {
            let output = self.output_text(member);
            let lines: Vec<&str> = output.lines().collect();
            let end = lines[lines.len().saturating_sub(25)..].join("\n");
            format!("\n== {} ({}):\n{end}", self.name(member), self.output(member).display())
        };
        (0..self.len()).map(end).collect()
    }

    /// Waits until the output of a process contains `text`, and returns the line.
    pub(crate) fn wait_for_output(&mut self, member: usize, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let output = self.output_text(member);
            if let Some(line) = output.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let may_wait = self.runs(member) && begun.elapsed() < TIME_LIMIT;
            assert!(may_wait, "no {text:?} in the output of {}; {}", self.name(member), self.report());
            sleep(POLL);
        }
    }

    /// The HTTP address of a process.
    pub(crate) fn address(&mut self, member: usize) -> String {
        let line = self.wait_for_output(member, "listening address=");
        line.split("address=").nth(1).unwrap().trim().to_owned()
    }

    /// The HTTP address of a process that has one by now.
    #[allow(dead_code, reason = "not every test program that includes this file has a server of all")]
    pub(crate) fn known_address(&mut self, member: usize) -> Option<String> {
        if !self.runs(member) {
            return None;
        }
        let output = self.output_text(member);
        let line = output.lines().find(|line| line.contains("listening address="))?;
        line.split("address=").nth(1).map(|address| address.trim().to_owned())
    }

    /// Whether a process runs its steps and is connected to RabbitMQ.
    #[allow(dead_code, reason = "not every test program that includes this file has a server of all")]
    pub(crate) fn is_ready(&mut self, member: usize) -> bool {
        let Some(address) = self.known_address(member) else { return false };
        if !self.output_text(member).contains("running steps") {
            return false;
        }
        let Ok(mut stream) = TcpStream::connect(&address) else { return false };
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        let mut response = String::new();
        write!(stream, "GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").is_ok()
            && stream.read_to_string(&mut response).is_ok()
            && response.split(' ').nth(1) == Some("200")
    }

    /// Sends a GET request; returns the status and the body.
    pub(crate) fn get(&mut self, member: usize, path: &str) -> (u16, String) {
        let address = self.address(member);
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for member in 0..self.len() {
            self.kill(member);
        }
    }
}
