//! Other processes read a log through the process that has it open.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::history::histories::{DataFolders, in_order, learning_plan, learnt, measured, plan, utf8};
use crate::support::required::optional;
use crate::support::succeeded;

const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody, in every system of users.
const NOBODY: u32 = 65_534;
/// Another user, in the group of nobody.
const COLLEAGUE: u32 = 65_533;

const READING: [&[&str]; 16] = [
    &["experiment", "list", "--json"],
    &["experiment", "show", "loop"],
    &["report", "loop", "--format", "json"],
    &["lift", "loop"],
    &["compare", "loop", "calm"],
    &["log", "stat"],
    &["log", "verify"],
    &["log", "tail", "-n", "100"],
    &["log", "export"],
    &["log", "export", "--experiment", "calm"],
    &["log", "export", "--table", "pairs"],
    &["log", "diff", "loop", "calm"],
    &["replay", "--verify"],
    &["replay", "loop"],
    &["feedback", "status", "loop"],
    &["feedback", "export", "loop", "--all"],
];

/// Data folders whose log has two finished experiments.
fn folders(data: &str) -> DataFolders {
    let folders = DataFolders::new();
    folders.append(data, &learnt(learning_plan("loop")).recorded);
    folders.append(data, &measured(plan("calm"), &in_order(), 0.0).recorded);
    folders
}

/// A reading command that has the log open, because nobody takes its output.
struct Holder(Child);

impl Holder {
    fn start(folders: &DataFolders, data: &str) -> Self {
        Self::spawn(folders.dissent(data, &["log", "export"]), &folders.path(data).join("dissent.sock"))
    }

    fn spawn(mut command: Command, socket: &Path) -> Self {
        let before = socket.symlink_metadata().map(|found| found.ino()).ok();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let holder = Self(child);
        let begun = Instant::now();
        while socket.symlink_metadata().map(|found| found.ino()).ok() == before {
            assert!(begun.elapsed() < PATIENCE, "the command makes no socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        holder
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg(name).arg(self.0.id().to_string());
        succeeded(kill);
    }

    /// Takes the output, so that the command ends.
    fn end(mut self) {
        let mut output = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the exit code, the standard output and the standard error of a command.
fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Replaces times that a command measures.
fn timeless(text: &str) -> String {
    text.lines().filter(|line| !line.contains("on disk for")).collect::<Vec<_>>().join("\n")
}

/// Checks that every reading command has the same outcome beside a holder of the log as alone.
fn reads_through_a_holder(data: &str) {
    let folders = folders(data);
    let alone = READING.map(|command| outcome(folders.dissent(data, command)));
    let holder = Holder::start(&folders, data);
    for (command, (code, stdout, stderr)) in READING.iter().zip(alone) {
        let (code_beside, stdout_beside, stderr_beside) = outcome(folders.dissent(data, command));
        assert_eq!(code_beside, code, "{command:?}: {stderr_beside}");
        assert_eq!(timeless(&stdout_beside), timeless(&stdout), "{command:?}");
        let notice = "another process has the event log open: reading through it up to position ";
        assert!(
            stderr_beside.starts_with(notice) && !stderr.contains(notice),
            "{command:?}: {stderr_beside}"
        );
    }
    holder.end();
    assert!(!folders.path(data).join("dissent.sock").exists(), "the command removed its socket");
}

#[test]
fn every_reading_command_reads_through_the_process_that_has_the_log() {
    reads_through_a_holder("data");
}

#[test]
fn a_data_folder_with_a_long_path_has_a_socket() {
    reads_through_a_holder(&["a".repeat(120), "b".repeat(120)].join("/"));
}

#[test]
fn a_backup_comes_from_the_process_that_has_the_log_and_orders_are_refused_with_a_reason() {
    let folders = folders("data");
    let holder = Holder::start(&folders, "data");
    let target = folders.path("backup");
    folders.output("data", &["log", "backup", utf8(&target)], 0);
    let refused = folders.output("data", &["experiment", "pause", "loop"], 2);
    assert!(refused.contains("does not serve this path") && refused.contains("dissent.sock"), "{refused}");
    holder.end();
    folders.output("again", &["log", "restore", utf8(&target)], 0);
    let exported = |data| outcome(folders.dissent(data, &["log", "export"])).1;
    assert_eq!(exported("again"), exported("data"));
}

#[test]
fn a_socket_of_a_killed_process_is_replaced() {
    let folders = folders("data");
    let socket = folders.path("data").join("dissent.sock");
    let holder = Holder::start(&folders, "data");
    holder.signal("-KILL");
    drop(holder);
    assert!(socket.exists() && UnixStream::connect(&socket).is_err());
    folders.output("data", &["experiment", "list"], 0);
    let holder = Holder::start(&folders, "data");
    assert!(folders.output("data", &["log", "stat"], 0).contains("reading through it"));
    holder.end();
}

#[test]
fn a_suspended_process_is_named_as_the_cause() {
    let folders = folders("data");
    let holder = Holder::start(&folders, "data");
    holder.signal("-STOP");
    let begun = Instant::now();
    let failed = folders.output("data", &["experiment", "list"], 1);
    assert!(failed.contains("suspended or overloaded"), "{failed}");
    assert!(begun.elapsed() < PATIENCE);
    holder.signal("-CONT");
    folders.output("data", &["experiment", "list"], 0);
}

#[test]
fn pages_are_bounded_and_wrong_requests_are_refused() {
    let folders = folders("data");
    let _holder = Holder::start(&folders, "data");
    let get = |path: &str| {
        let mut stream = UnixStream::connect(folders.path("data").join("dissent.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /api/v1/log{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let response = String::from_utf8_lossy(&response).into_owned();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), body.to_owned())
    };
    assert_eq!(get("/events?limit=0").0, 200);
    assert_eq!(get("/events?limit=18446744073709551615").0, 200);
    assert_eq!(get("/events?after=18446744073709551615"), (200, String::new()));
    assert_eq!(get("/experiments/nobody/events"), (200, String::new()));
    let one = get("/events?after=0&limit=1").1;
    assert!(!one.is_empty() && get("/events").1.len() > 10 * one.len());
    for (path, status) in [
        ("/events?after=-1", 400),
        ("/events?limit=x", 400),
        ("/events/nothing", 400),
        ("/events/00000000-0000-0000-0000-000000000000", 404),
        ("/experiments/.hidden/events", 400),
        ("/backup", 405),
        ("/../../etc/passwd", 404),
    ] {
        assert_eq!(get(path).0, status, "{path}");
    }
}

/// Returns the files and folders below a folder, itself included.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(entries(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Runs a command with no umask, as a careless service manager does.
fn without_umask(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

#[test]
fn a_data_folder_is_open_to_its_owner_and_group_only() {
    let folders = folders("source");
    let export = folders.path("events.jsonl");
    folders.output("source", &["log", "export", "--output", utf8(&export)], 0);
    for arguments in [
        &["log", "import", utf8(&export)][..],
        &["report", "loop"],
        &["log", "backup"],
        &["log", "archive", "loop", "--to", "archive", "--remove"],
        // The new log, which has the events of the archived experiment again.
        &["log", "import", utf8(&export)],
    ] {
        succeeded(without_umask(&folders.dissent("data", arguments)));
    }
    let socket = folders.path("data").join("dissent.sock");
    let holder = Holder::spawn(without_umask(&folders.dissent("data", &["log", "export"])), &socket);
    for path in [entries(&folders.path("data")), entries(&folders.path("archive"))].concat() {
        let metadata = path.symlink_metadata().unwrap();
        let expected = if path == socket {
            0o660
        } else if metadata.is_dir() {
            0o750
        } else {
            0o640
        };
        let mode = metadata.permissions().mode() & 0o7777;
        assert_eq!(format!("{mode:o}"), format!("{expected:o}"), "{}", path.display());
    }
    holder.end();
    let table = folders.path("table.jsonl");
    let export = folders.dissent("data", &["log", "export", "--table", "pairs", utf8(&table)]);
    succeeded(without_umask(&export));
    let mode = table.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(format!("{mode:o}"), "666", "an output that the user names has the user's mode");
}

/// Runs a command as nobody.
fn as_nobody(command: &Command) -> Command {
    as_user(NOBODY, command)
}

/// Runs a command as a user in the group of nobody.
fn as_user(user: u32, command: &Command) -> Command {
    let mut other = Command::new("setpriv");
    other.args([&format!("--reuid={user}"), &format!("--regid={NOBODY}"), "--clear-groups"]);
    other.arg(command.get_program()).args(command.get_args()).current_dir("/");
    other
}

/// Whether this process is root and another user can run the program.
fn is_root_among_users(folders: &DataFolders) -> Result<(), String> {
    if folders.path("data").metadata().unwrap().uid() != 0 {
        return Err("the test needs root, to change users".to_owned());
    }
    let mut version = Command::new(env!("CARGO_BIN_EXE_dissent"));
    let output = as_nobody(version.arg("--version")).output().map_err(|error| error.to_string())?;
    output.status.success().then_some(()).ok_or_else(|| "another user cannot run the program".to_owned())
}

#[test]
fn root_reads_the_log_of_a_service_and_leaves_it_usable() {
    let folders = folders("data");
    if optional(is_root_among_users(&folders)).is_none() {
        return;
    }
    let data = folders.path("data");
    std::fs::set_permissions(data.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let give = || {
        for path in entries(&data) {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    };
    let of_root = || {
        let of_root = |path: &PathBuf| path.symlink_metadata().unwrap().uid() == 0;
        entries(&data).into_iter().filter(of_root).collect::<Vec<_>>()
    };
    give();
    // As a new data folder is.
    for path in entries(&data) {
        let mode = if path.is_dir() { 0o750 } else { 0o640 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let export = as_nobody(&folders.dissent("data", &["log", "export"]));
    let service = Holder::spawn(export, &data.join("dissent.sock"));
    let before = entries(&data);
    for command in READING {
        let (code, _, stderr) = outcome(folders.dissent("data", command));
        assert!(stderr.contains("reading through it") && code != Some(2), "{command:?}: {stderr}");
    }
    for command in READING {
        let (code, _, stderr) = outcome(as_user(COLLEAGUE, &folders.dissent("data", command)));
        assert!(stderr.contains("reading through it") && code != Some(2), "{command:?}: {stderr}");
    }
    assert_eq!(entries(&data), before, "reading creates no file");
    service.end();

    // Without a service root opens the log itself.
    for command in READING.into_iter().chain([&["report", "loop"][..], &["log", "backup"]]) {
        let (code, _, stderr) = outcome(folders.dissent("data", command));
        assert!(!stderr.contains("reading through it") && code != Some(2), "{command:?}: {stderr}");
        assert_eq!(of_root(), [""; 0].map(PathBuf::from), "{command:?}");
    }
    succeeded(as_nobody(&folders.dissent("data", &["log", "verify"])));
    succeeded(as_nobody(&folders.dissent("data", &["log", "backup"])));
    // A killed command of root may leave files of root. The next one gives them back.
    let killed = Holder::start(&folders, "data");
    killed.signal("-KILL");
    drop(killed);
    succeeded(folders.dissent("data", &["log", "stat"]));
    assert_eq!(of_root(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_user_outside_the_group_is_told_so() {
    let folders = folders("data");
    if optional(is_root_among_users(&folders)).is_none() {
        return;
    }
    for path in [folders.path("data").parent().unwrap(), &folders.path("data")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let holder = Holder::start(&folders, "data");
    let (code, _, stderr) = outcome(as_nobody(&folders.dissent("data", &["experiment", "list"])));
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("no permission to connect") && stderr.contains("member of its group"),
        "{stderr}"
    );
    holder.end();
    for mode in [0o755, 0o750] {
        std::fs::set_permissions(folders.path("data"), PermissionsExt::from_mode(mode)).unwrap();
        std::fs::set_permissions(folders.path("data").join("log"), PermissionsExt::from_mode(mode)).unwrap();
        let (_, _, stderr) = outcome(as_nobody(&folders.dissent("data", &["experiment", "list"])));
        assert!(stderr.contains("no permission for the event log"), "{mode:o}: {stderr}");
    }
}
