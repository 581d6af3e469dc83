//! Operator commands, with and without a server that holds the log.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::history::histories::{DataFolders, awaiting_judgements as asking_history, learning_plan};
use crate::support::{Lab, Learning, Setup, succeeded};

const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
pub(crate) const TOKEN: &str = "a token of more than 16 bytes";

/// A server of a lab's experiment.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(lab: &Lab, data: &str, listen: &str, token: Option<&str>) -> Self {
        Self::start_with(lab, data, listen, &[("DISSENT_CONTROL_TOKEN", token)])
    }

    /// Starts with these environment variables set, or removed if they have no value.
    fn start_with(lab: &Lab, data: &str, listen: &str, variables: &[(&str, Option<&str>)]) -> Self {
        let (config, log) = (lab.config(), lab.data_dir(&format!("{data}.log")));
        let arguments = ["serve", config.to_str().unwrap(), "--until-finished", "--listen", listen];
        let mut command = lab.dissent(data, &arguments);
        command.env("DISSENT_LOG", "info").env_remove("DISSENT_CONTROL_TOKEN");
        command.envs(variables.iter().filter_map(|(name, value)| Some((name, (*value)?))));
        let output = std::fs::File::create(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().unwrap();
        let mut server = Self { child, address: String::new() };
        server.address = server.until(|_| {
            let log = std::fs::read_to_string(&log).unwrap();
            assert!(!log.contains("ERROR"), "{log}");
            let line = log.lines().find(|line| line.contains("listening address="))?.to_owned();
            Some(line.split("address=").nth(1).unwrap().trim().to_owned())
        });
        server
    }

    /// Polls until `look` returns something.
    pub(crate) fn until<T>(&mut self, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "timeout or end of the server: {ended:?}");
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends a request; returns the status and the body of the response.
    pub(crate) fn send(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address.replace("0.0.0.0", "127.0.0.1")).unwrap();
        let length = body.len();
        let _cut_off = write!(stream, "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, metrics) = self.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n", "");
        let start = format!("dissent_{name}{{experiment=\"lab\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start))?.parse().ok()
    }

    /// Stops the server with SIGTERM.
    pub(crate) fn stops(self) {
        let mut kill = Command::new("kill");
        kill.arg("-TERM").arg(self.child.id().to_string());
        succeeded(kill);
        self.ends();
    }

    pub(crate) fn ends(mut self) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return assert!(status.success(), "{status}");
            }
            assert!(begun.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the JSON that a command prints.
pub(crate) fn json_output(lab: &Lab, data: &str, arguments: &[&str]) -> Value {
    let output = succeeded(lab.dissent(data, arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Gives an operator command. Returns the state, and whether it changed.
pub(crate) fn give_command(lab: &Lab, data: &str, action: &str, more: &[&str]) -> (String, bool) {
    let arguments = [&["experiment", "--json", action, "lab"], more].concat();
    let output = json_output(lab, data, &arguments);
    (output["state"].as_str().unwrap().to_owned(), output["changed"].as_bool().unwrap())
}

fn state_hash(lab: &Lab, data: &str) -> Value {
    json_output(lab, data, &["experiment", "--json", "show", "lab"])["overview"]["state_hash"].clone()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_served_experiment_with_operator_commands_equals_an_undisturbed_run() {
    let learns = Some(Learning { rounds: 1, steps: 60 });
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    lab.run("calm");
    let calm = state_hash(&lab, "calm");
    let config = lab.config();
    succeeded(lab.dissent("data", &["experiment", "create", config.to_str().unwrap(), "--by", "ann"]));
    let again = lab.dissent("data", &["experiment", "create", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "the experiment exists");
    assert_eq!(json_output(&lab, "data", &["experiment", "--json", "list"])[0]["state"], "created");

    let mut server = Server::start(&lab, "data", "127.0.0.1:0", None);
    let url = server.url();
    let at = ["--server", url.as_str()];
    server.until(|server| server.metric("paused").filter(|paused| *paused >= 1.0));
    assert_eq!(server.metric("longest_wait_seconds"), Some(0.0), "no event is due before the start");
    assert_eq!(give_command(&lab, "data", "start", &at), ("going".to_owned(), true));
    server.until(|server| server.metric("training_step").filter(|step| *step >= 1.0));
    let (_, metrics) = server.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n", "");
    assert!(metrics.contains("dissent_queue_messages{queue=\"generation."), "{metrics}");
    let because = ["--server", url.as_str(), "--by", "bob", "--reason", "the machine is needed"];
    assert_eq!(give_command(&lab, "data", "pause", &because), ("paused".to_owned(), true));
    assert_eq!(give_command(&lab, "data", "pause", &at), ("paused".to_owned(), false));
    // The training has released its lease.
    server.until(|server| server.metric("lease_age_seconds").is_none().then_some(()));

    let made = json_output(&lab, "data", &["log", "--json", "backup", "--server", &url]);
    let backup = made["path"].as_str().unwrap().to_owned();
    assert!(Path::new(&backup).starts_with(lab.data_dir("data").canonicalize().unwrap().join("backups")));
    assert_eq!(give_command(&lab, "data", "resume", &at), ("going".to_owned(), true));
    server.ends();
    assert_eq!(state_hash(&lab, "data"), calm);
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));

    succeeded(lab.dissent("again", &["log", "restore", &backup]));
    copy_folder(&lab.data_dir("data").join("artifacts"), &lab.data_dir("again").join("artifacts"));
    succeeded(lab.dissent("again", &["replay", "lab", "--verify"]));
    let shown =
        String::from_utf8(succeeded(lab.dissent("again", &["experiment", "show", "lab"])).stdout).unwrap();
    assert!(shown.contains("bob") && shown.contains("the machine is needed"), "{shown}");
    let run = String::from_utf8(lab.run("again").stdout).unwrap();
    assert!(run.contains("bob") && run.contains("experiment resume lab"), "{run}");
    assert_eq!(give_command(&lab, "again", "resume", &[]), ("going".to_owned(), true));
    lab.run("again");
    assert_eq!(state_hash(&lab, "again"), calm);
}

#[test]
fn a_backup_of_a_working_server_restores_its_events_up_to_then() {
    // The training takes longer than this test.
    let learns = Some(Learning { rounds: 1, steps: 100_000 });
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    let mut server = Server::start(&lab, "data", "127.0.0.1:0", None);
    server.until(|server| server.metric("lease_age_seconds"));
    let url = server.url();
    let made = json_output(&lab, "data", &["log", "--json", "backup", "--server", &url]);
    let named = lab.dissent("data", &["log", "backup", "elsewhere", "--server", &url]).output().unwrap();
    assert_eq!(named.status.code(), Some(2), "the server chooses the folder");
    assert_eq!(server.metric("finished"), Some(0.0), "the server is still at work");
    server.stops();
    succeeded(lab.dissent("again", &["log", "restore", made["path"].as_str().unwrap()]));
    copy_folder(&lab.data_dir("data").join("artifacts"), &lab.data_dir("again").join("artifacts"));
    succeeded(lab.dissent("again", &["replay", "lab", "--verify"]));
    let restored = json_output(&lab, "again", &["experiment", "--json", "show", "lab"])["overview"].clone();
    assert_eq!((&restored["state"], &restored["events"]), (&json!("in_progress"), &made["events"]));
    let until_then = ["experiment", "--json", "show", "lab", "--at", &made["events"].to_string()];
    assert_eq!(restored["state_hash"], json_output(&lab, "data", &until_then)["overview"]["state_hash"]);
    let mut again = Server::start(&lab, "again", "127.0.0.1:0", None);
    again.until(|server| server.metric("training_step").filter(|step| *step >= 1.0));
    again.stops();
}

/// The head of a control request with these headers.
fn post(path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\n{headers}")
}

#[test]
fn operator_commands_over_http_need_authorisation() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    succeeded(lab.dissent("data", &["experiment", "create", lab.config().to_str().unwrap()]));
    let (json, here) = ("Content-Type: application/json", "Host: 127.0.0.1:9464");
    let (pause, cancel) = ("/experiments/lab/pause", "/experiments/lab/cancel");
    {
        let server = Server::start(&lab, "data", "127.0.0.1:0", None);
        let foreign = lab.data_dir("elsewhere");
        for (status, head, body) in [
            (403, post(cancel, &[json, "Host: evil.example"]), "{}".to_owned()),
            (403, post(cancel, &[json, here, "Origin: http://127.0.0.1:1"]), "{}".to_owned()),
            (403, post("/backup", &[json, "Host: evil.example"]), "{}".to_owned()),
            (415, post(cancel, &["Content-Type: text/plain", here]), "{}".to_owned()),
            (413, post(cancel, &[json, here]), " ".repeat(9000)),
            (400, post(cancel, &[json, here]), "{\"unknown\": 1}".to_owned()),
            (404, post("/experiments/lab/delete", &[json, here]), "{}".to_owned()),
            (404, post("/experiments/nobody/pause", &[json, here]), "{}".to_owned()),
            (409, post(cancel, &[json, here]), json!({ "data": foreign }).to_string()),
            (409, post(cancel, &[json, here]), json!({ "by": "x".repeat(300) }).to_string()),
            (405, format!("GET {cancel} HTTP/1.1\r\n{here}\r\n"), String::new()),
            (
                200,
                post(pause, &["Content-Type: Application/JSON; charset=utf-8", here]),
                "{\"by\": \"ann\"}".to_owned(),
            ),
        ] {
            let (found, response) = server.send(&head, &body);
            assert_eq!(found, status, "{head}{response}");
        }
        for (status, host, body) in [(403, "Host: evil.example", "{}"), (413, here, &" ".repeat(9000))] {
            let (_, refused) = server.send(&post(cancel, &[json, host]), body);
            assert_eq!(serde_json::from_str::<Value>(&refused).unwrap()["status"], status);
        }
        let listed = succeeded(lab.dissent("data", &["experiment", "list"]));
        assert!(
            String::from_utf8(listed.stderr).unwrap().contains("through it"),
            "the server has the log open"
        );
        succeeded(lab.dissent("data", &["log", "verify"]));
    }
    {
        let server = Server::start(&lab, "data", "0.0.0.0:0", None);
        let (status, response) = server.send(&post(cancel, &[json, here]), "{}");
        assert!(status == 403 && response.contains("DISSENT_CONTROL_TOKEN"), "{status} {response}");
    }
    let token = TOKEN.replace(' ', "-");
    let server = Server::start(&lab, "data", "0.0.0.0:0", Some(&token));
    assert_eq!(server.send(&post(cancel, &[json, here]), "{}").0, 401);
    assert_eq!(server.send(&post(cancel, &[json, here, "Authorization: Bearer wrong"]), "{}").0, 401);
    let url = server.url().replace("0.0.0.0", "127.0.0.1");
    let mut command = lab.dissent("data", &["experiment", "cancel", "lab", "--server", &url]);
    let refused = command.env("DISSENT_CONTROL_TOKEN", "not-the-token-of-it").output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    let mut command = lab.dissent("data", &["experiment", "cancel", "lab", "--server", &url]);
    command.env("DISSENT_CONTROL_TOKEN", &token);
    let cancelled = String::from_utf8(succeeded(command).stdout).unwrap();
    assert_eq!(cancelled, "lab is cancelled\n");
    // The server ends with the experiment.
    server.ends();
    let run = lab.dissent("data", &["run", lab.config().to_str().unwrap()]).output().unwrap();
    assert_eq!(run.status.code(), Some(2), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_run_starts_a_created_experiment() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("template = \"raw\"", "template = \"chat\"")).unwrap();
    let refused =
        lab.dissent("data", &["experiment", "create", lab.config().to_str().unwrap()]).output().unwrap();
    assert!(!refused.status.success(), "this model has no chat template");
    assert!(!lab.data_dir("data").join("log").exists(), "no log was created");
    std::fs::write(lab.config(), config).unwrap();
    succeeded(lab.dissent("data", &["experiment", "create", lab.config().to_str().unwrap()]));
    let run = String::from_utf8(lab.run("data").stdout).unwrap();
    assert!(run.contains("lab.html"), "{run}");
    assert_eq!(json_output(&lab, "data", &["experiment", "--json", "list"])[0]["state"], "finished");
    let late = lab.dissent("data", &["experiment", "pause", "lab"]).output().unwrap();
    assert_eq!(late.status.code(), Some(2), "{}", String::from_utf8_lossy(&late.stderr));
}

#[test]
fn create_prints_a_command_that_starts_the_experiment() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("seed = 3", "seed = 3\ndata_dir = \"./its-own\"")).unwrap();
    let dissent = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.current_dir(lab.config().parent().unwrap()).env_remove("DISSENT_DATA").args(arguments);
        String::from_utf8(succeeded(command).stdout).unwrap()
    };
    let created = dissent(&["experiment", "create", "lab.toml"]);
    let start = created.split("to start it: dissent ").nth(1).unwrap().split(", or ").next().unwrap();
    assert_eq!(start, "experiment start lab --data-dir its-own");
    dissent(&start.split(' ').collect::<Vec<_>>());
}

#[test]
fn operator_commands_work_without_a_server_and_cancelled_experiments_can_be_archived() {
    let folders = DataFolders::new();
    folders.append("data", &asking_history(learning_plan("loop")).recorded);
    let archive = folders.path("archive");
    let archiving = ["log", "archive", "loop", "--to", archive.to_str().unwrap()];
    folders.output("data", &archiving, 2);
    let state = || folders.json("data", &["experiment", "show", "loop"], 0)["overview"].clone();
    let before = state();
    assert_eq!(before["state"], "waits_for_people");
    let pause = ["experiment", "pause", "loop", "--by", "ann", "--reason", "lunch"];
    folders.output("data", &pause, 0);
    assert_eq!(state()["ordered"], json!({ "by": "ann", "reason": "lunch" }));
    assert_eq!((&state()["state"], &state()["state_hash"]), (&json!("paused"), &before["state_hash"]));
    folders.output("data", &["experiment", "start", "loop"], 2);
    folders.output("data", &["experiment", "resume", "loop"], 0);
    let much = "x".repeat(9000);
    for server in [&[][..], &["--server", "http://127.0.0.1:9"]] {
        let pause = [&["experiment", "pause", "loop", "--reason", &much], server].concat();
        assert!(folders.output("data", &pause, 2).contains("--reason"), "{server:?}");
    }
    assert!(folders.output("data", &["experiment", "cancel", "nobody"], 2).contains("nobody"));
    folders.output("data", &["experiment", "cancel", "loop"], 0);
    folders.output("data", &["experiment", "cancel", "loop"], 0);
    folders.output("data", &["experiment", "resume", "loop"], 2);
    assert!(folders.output("data", &["experiment", "list"], 0).contains("cancelled"));
    folders.output("data", &["experiment", "fork", "loop", "--as", "on"], 2);
    folders.output("data", &archiving, 0);
    folders.output("data", &["replay", "--verify"], 0);
    assert!(folders.output("data", &["log", "backup"], 0).contains("backups"));
}

#[test]
fn a_server_notifies_systemd_of_readiness_liveness_and_stopping() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    succeeded(lab.dissent("data", &["experiment", "create", lab.config().to_str().unwrap()]));
    let path = lab.data_dir("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let variables = [("NOTIFY_SOCKET", path.to_str()), ("WATCHDOG_USEC", Some("40000"))];
    let server = Server::start_with(&lab, "data", "127.0.0.1:0", &variables);
    assert_eq!(receive().trim_end(), "READY=1");
    for _ in 0..3 {
        assert_eq!(receive().trim_end(), "WATCHDOG=1");
    }
    server.stops();
    let last = std::iter::repeat_with(receive).find(|message| !message.starts_with("WATCHDOG")).unwrap();
    assert_eq!(last.trim_end(), "STOPPING=1");
}
