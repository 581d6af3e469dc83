//! A private RabbitMQ node for a test, with its own ports and folder. The file uses no other test code, so
//! tests of other crates can include it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Debian's folder of the programs. The wrappers in `/usr/sbin` change the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// Limit of a start, which takes about 6 s on an idle machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Limit of a stop, which flushes queues and takes a few seconds.
const STOP_MAX: Duration = Duration::from_secs(120);
/// Limit of the end of the name server, which takes moments.
const EPMD_STOP_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// A running node.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    server: Option<Child>,
}

/// Returns free ports, which all differ.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // All listeners stay open until every port is chosen.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

impl Node {
    /// Starts a node and waits until it accepts connections.
    ///
    /// # Errors
    /// If RabbitMQ is not installed.
    ///
    /// # Panics
    /// If the node does not start.
    pub(crate) fn new() -> Result<Self, String> {
        Self::with(|_| String::new())
    }

    /// Starts a node with additional settings, in the format of `rabbitmq.conf`. `settings` receives the
    /// folder of the node.
    pub(crate) fn with(settings: impl FnOnce(&Path) -> String) -> Result<Self, String> {
        let server = Path::new(PROGRAMS).join("rabbitmq-server");
        if !server.exists() {
            return Err(format!("{} is missing: apt-get install rabbitmq-server", server.display()));
        }
        let [port, dist_port, epmd_port] = free_ports();
        let folder = tempfile::Builder::new().prefix("dissent-rabbitmq-").tempdir().expect("a folder");
        let mut node = Self { folder, port, dist_port, epmd_port, server: None };
        fs::write(node.path("plugins"), "[].").expect("the list of plugins is written");
        let settings = settings(node.folder.path());
        fs::write(node.path("rabbitmq.conf"), settings).expect("the settings are written");
        fs::write(node.path("advanced.config"), "[].").expect("the advanced settings are written");
        node.start();
        Ok(node)
    }

    /// Returns the URL of the node, with user and password.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        let settings = [
            ("RABBITMQ_NODENAME", format!("dissent{}@localhost", self.port)),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.port.to_string()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string()),
            ("ERL_EPMD_PORT", self.epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_CTL_DIST_PORT_MIN", "0".to_owned()),
            ("RABBITMQ_CTL_DIST_PORT_MAX", "0".to_owned()),
        ];
        let paths = [
            ("HOME", "home"),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_MNESIA_DIR", "data/node"),
            ("RABBITMQ_FEATURE_FLAGS_FILE", "feature_flags"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "pid"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
            // Without these, the node reads the configuration of a node that the machine runs.
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ];
        fs::create_dir_all(self.path("home")).expect("a home folder");
        command.envs(settings).envs(paths.map(|(name, file)| (name, self.path(file))));
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        command
    }

    /// Starts the node after [`stop`](Self::stop) or [`kill`](Self::kill).
    pub(crate) fn start(&mut self) {
        let output = fs::File::create(self.path("output")).expect("a file for the output");
        let errors = output.try_clone().expect("a second handle of the file");
        let mut command = self.program("rabbitmq-server");
        self.server = Some(command.stdout(output).stderr(errors).spawn().expect("rabbitmq-server starts"));
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let exited = self.server.as_mut().and_then(|server| server.try_wait().ok().flatten());
            assert!(
                exited.is_none() && begun.elapsed() < START_MAX,
                "RabbitMQ does not accept connections on port {} after {:?}:\n{}",
                self.port,
                begun.elapsed(),
                self.output()
            );
            sleep(POLL);
        }
    }

    /// Returns the output of the server, for failure messages.
    fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap_or_default()
    }

    fn signal(&mut self, signal: &str) {
        let Some(mut server) = self.server.take() else { return };
        let pid = fs::read_to_string(self.path("pid")).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
        // While the node starts, this file does not exist: signal the started script instead.
        let pid = pid.unwrap_or(server.id()).to_string();
        let _status = Command::new("kill").args([signal, &pid]).status();
        // The script that started the node exits after the node and reaps it.
        self.wait_until("the start script exits", || !matches!(server.try_wait(), Ok(None)));
        // The node is another process than the script and may take a moment longer.
        let port = self.port;
        self.wait_until("RabbitMQ closes its port", || TcpStream::connect(("127.0.0.1", port)).is_err());
        let _gone = fs::remove_file(self.path("pid"));
    }

    /// Waits until the condition holds. Fails after [`STOP_MAX`], unless the test has already failed.
    fn wait_until(&self, condition: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            if begun.elapsed() >= STOP_MAX {
                // A second panic would abort the process.
                assert!(std::thread::panicking(), "not after {STOP_MAX:?}: {condition}\n{}", self.output());
                return;
            }
            sleep(POLL);
        }
    }

    /// Stops the node cleanly.
    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
    }

    /// Kills the node.
    #[allow(dead_code, reason = "not every test that includes this file kills the node")]
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
    }

    /// Stops and starts the node.
    #[allow(dead_code, reason = "not every test that includes this file restarts the node")]
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Deletes all data of the stopped node.
    ///
    /// # Panics
    /// If the node is running.
    #[allow(dead_code, reason = "not every test that includes this file deletes the data")]
    pub(crate) fn delete_data(&mut self) {
        assert!(self.server.is_none(), "stop the node first");
        fs::remove_dir_all(self.path("data")).expect("the data is deleted");
    }

    /// Runs `rabbitmqctl`; returns its output.
    #[allow(dead_code, reason = "not every test that includes this file disturbs the node")]
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let output = self.program("rabbitmqctl").args(arguments).output().expect("rabbitmqctl starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Closes the connections of all clients.
    #[allow(dead_code, reason = "not every test that includes this file disturbs the node")]
    pub(crate) fn close_all_connections(&self) {
        self.control(&["close_all_connections", "test"]);
    }

    /// Raises or clears a memory alarm.
    #[allow(dead_code, reason = "not every test that includes this file disturbs the node")]
    pub(crate) fn set_memory_alarm(&self, on: bool) {
        self.control(&["set_vm_memory_high_watermark", if on { "0.0000001" } else { "0.8" }]);
    }

    /// Suspends the leader of the queue of this name forever.
    #[allow(dead_code, reason = "not every test that includes this file disturbs the node")]
    pub(crate) fn suspend_leader(&self, queue: &str) {
        self.control(&["eval", &format!("sys:suspend(list_to_atom(\"%2F_{queue}\")).")]);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.signal("-KILL");
        // The name server outlives the node, even one that failed to start. It refuses to stop while a node
        // is registered.
        let port = self.epmd_port.to_string();
        let epmd = |option: &str| {
            let mut command = Command::new("epmd");
            command.args(["-port", &port, option]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let begun = Instant::now();
        while epmd("-names") && begun.elapsed() < EPMD_STOP_MAX {
            epmd("-kill");
            sleep(POLL);
        }
    }
}
