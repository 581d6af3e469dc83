//! Full disks: of the log, at a snapshot, and during a backup.

use std::process::Output;

use serde_json::Value;

use crate::clients;
use crate::disk::Disks;
use crate::fleet::SERVER;
use crate::round::{Injection, Round, STOP_MAX};
use crate::service_faults::{RESPONSE_MAX, failure};
use crate::support::succeeded;

/// The message of a full disk.
const FULL: &str = "No space left on device";
/// Free bytes when a backup begins, which is larger.
const SLACK_MAX: usize = 128 << 10;
/// Most attempts until a stopping server has a snapshot to write.
const ATTEMPTS_MAX: u32 = 5;
const NO_DISKS: &str = "mounting a file system is not permitted";

impl Round<'_, '_> {
    fn disks(&self) -> &Disks {
        self.disks.as_ref().expect("mounted disks")
    }

    /// Fills the disk. The server must exit with the reason, and resume when there is space again.
    pub(crate) fn full_disk(&mut self) -> Injection {
        let Some(disks) = &self.disks else { return Injection::Impossible(NO_DISKS) };
        disks.log.fill();
        let status = self.fleet.wait_for_end(SERVER, STOP_MAX);
        disks.log.clear();
        if status.success() {
            // The experiments finished before the server had to write.
            return Injection::TooLate;
        }
        self.assert_output_has(FULL);
        self.check_log();
        self.restart(SERVER)
    }

    fn assert_output_has(&self, text: &str) {
        assert!(self.fleet.output_text(SERVER).contains(text), "no {text:?}; {}", self.fleet.report());
    }

    /// Stops the server, which then writes a snapshot of each experiment, on a full disk. At times the log is
    /// on that disk, too.
    pub(crate) fn full_disk_at_snapshot(&mut self) -> Injection {
        if self.disks.is_none() {
            return Injection::Impossible(NO_DISKS);
        }
        let with_log = self.random.below(2) == 0;
        for _ in 0..ATTEMPTS_MAX {
            if !self.until_ready() {
                return Injection::TooLate;
            }
            let disks = self.disks();
            disks.snapshots.fill();
            if with_log {
                disks.log.fill();
            }
            let was_running = self.fleet.signal(SERVER, "TERM");
            let status = self.fleet.wait_for_end(SERVER, STOP_MAX);
            let disks = self.disks();
            disks.snapshots.clear();
            disks.log.clear();
            if !was_running {
                return Injection::TooLate;
            }
            let names = disks.snapshots.names();
            assert!(names.iter().all(|name| name.ends_with(".snapshot")), "left behind: {names:?}");
            let output = self.fleet.output_text(SERVER);
            if !status.success() {
                assert!(with_log, "{status}; {}", self.fleet.report());
                self.assert_output_has(FULL);
            }
            self.check_log();
            self.restart(SERVER);
            // Without a new event, no snapshot is due.
            if !status.success() || output.contains("failed to save a snapshot") {
                return Injection::Done;
            }
        }
        panic!("no snapshot was due in {ATTEMPTS_MAX} stops; {}", self.fleet.report());
    }

    /// Has the server make a backup on a disk that becomes full. At times the log is on that disk, too.
    pub(crate) fn full_disk_at_backup(&mut self) -> Injection {
        if self.disks.is_none() {
            return Injection::Impossible(NO_DISKS);
        }
        if !self.until_ready() {
            return Injection::TooLate;
        }
        let (slack, with_log) = (self.random.below(SLACK_MAX) as u64, self.random.below(3) == 0);
        let before = self.disks().backups.names();
        self.disks().backups.fill_but(slack);
        if with_log {
            self.disks().log.fill();
        }
        self.backup_fails(with_log);
        // A server that ended during the backup removes what it left at its next start.
        if !with_log {
            self.assert_backups(&before);
        }
        self.disks().backups.clear();
        if with_log {
            let injection = self.full_disk();
            if self.until_ready() {
                self.assert_backups(&before);
            }
            return injection;
        }
        if !self.fleet.runs(SERVER) {
            return Injection::TooLate;
        }
        let Some(backup) = self.back_up() else { return Injection::TooLate };
        let (lab, copy) = (self.campaign.lab, format!("{}-restored", self.data));
        succeeded(lab.dissent(&copy, &["log", "restore", &backup]));
        succeeded(lab.dissent(&copy, &["log", "verify"]));
        std::fs::remove_dir_all(lab.data_dir(&copy)).unwrap();
        std::fs::remove_dir_all(backup).unwrap();
        Injection::Done
    }

    fn assert_backups(&self, before: &[String]) {
        let after = self.disks().backups.names();
        assert!(after.iter().all(|name| before.contains(name)), "left behind: {after:?}");
    }

    /// Asks for a backup over the socket or over HTTP, which must fail with the reason in the answer or in
    /// the server's log. A server without space for its log may end before the answer.
    fn backup_fails(&mut self, with_log: bool) {
        if self.random.below(2) == 0 {
            let error = failure(&self.backup_command());
            let is_told = error.contains(FULL) || self.fleet.output_text(SERVER).contains(FULL);
            assert!(is_told || with_log, "{error}; {}", self.fleet.report());
            return;
        }
        let Some(address) = self.fleet.known_address(SERVER) else { return };
        let response = clients::request(&address, "POST", "/backup", "{}", RESPONSE_MAX);
        let Some((status, body)) = response else {
            assert!(with_log || !self.fleet.runs(SERVER), "no response; {}", self.fleet.report());
            return;
        };
        assert!(status >= 500, "{status} {body}; {}", self.fleet.report());
        self.assert_output_has(FULL);
    }

    fn backup_command(&self) -> Output {
        self.campaign.lab.dissent(&self.data, &["log", "--json", "backup"]).output().unwrap()
    }

    /// Has the server make a backup, and returns its folder; `None` if the server has ended.
    pub(crate) fn back_up(&mut self) -> Option<String> {
        let output = self.backup_command();
        if !self.fleet.runs(SERVER) {
            return None;
        }
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}; {}", self.fleet.report());
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        Some(made["path"].as_str().unwrap().to_owned())
    }
}
