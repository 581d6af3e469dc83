//! A server of every experiment of a data folder.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Lab, succeeded};

const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);

/// A running server.
pub(crate) struct Host<'a> {
    lab: &'a Lab,
    data: &'a str,
    child: Child,
    log: PathBuf,
}

impl<'a> Host<'a> {
    pub(crate) fn start(lab: &'a Lab, data: &'a str, arguments: &[&str]) -> Self {
        let mut host = Self::launch(lab, data, arguments, &[]);
        host.until("it is ready", |host| host.text().contains("running steps").then_some(()));
        host
    }

    /// Starts a server with these environment variables, and does not wait for it.
    pub(crate) fn launch(
        lab: &'a Lab,
        data: &'a str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let log = lab.data_dir(&format!("{data}.log"));
        let output = std::fs::File::create(&log).unwrap();
        let mut command = lab.dissent(data, &["serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).env("DISSENT_LOG", "info,lapin=off").env_remove("DISSENT_CONTROL_TOKEN");
        command.envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().unwrap();
        Self { lab, data, child, log }
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn until<T>(&mut self, goal: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            let waits = ended.is_none() && begun.elapsed() < PATIENCE;
            assert!(waits, "until {goal}: {ended:?}\n{}", self.text());
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn give(&self, arguments: &[&str]) -> String {
        let output = succeeded(self.lab.dissent(self.data, arguments));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The rows of `dissent experiment list`.
    pub(crate) fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.give(&["experiment", "list", "--json"])).unwrap()
    }

    pub(crate) fn row(&self, name: &str) -> Value {
        let row = self.list().into_iter().find(|row| row["experiment"] == name);
        row.ok_or_else(|| format!("no {name} in the list")).unwrap()
    }

    pub(crate) fn until_finished(&mut self, names: &[&str]) {
        for name in names {
            self.until(&format!("{name} is finished"), |host| {
                (host.row(name)["state"] == "finished").then_some(())
            });
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(self.child.id().to_string());
        succeeded(kill);
    }

    pub(crate) fn data(&self) -> &str {
        self.data
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the server does not stop\n{}", self.text());
            std::thread::sleep(POLL);
        }
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ = self.child.wait();
    }
}
