//! Runs the experiments of a study, limited by `parallel` and by the available memory.
//!
//! Each experiment is a process, so it has its own memory and its failure does not affect the others.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dissent_domain::conflict::Rule;
use dissent_domain::log::EventLog as _;
use dissent_models::runtime::CancelFlag;
use dissent_storage::{SledLog, SledOptions};

use super::memory::MemoryBudget;
use super::{Arm, ArmOutcome, JudgedRound};

/// Interval of the checks for finished experiments.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs the unfinished experiments and resumes interrupted ones. Returns the outcomes in the order of `arms`.
///
/// # Errors
/// If an experiment fails, or the user interrupts. The running experiments are then killed; a repeated run of
/// the study resumes them.
pub fn run(
    arms: &[Arm],
    data_dir: &Path,
    parallel: usize,
    cancel: &CancelFlag,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Vec<(Arm, ArmOutcome)>> {
    let folder = data_dir.join("arms");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let folders: Vec<ArmFolder> = arms.iter().map(|arm| ArmFolder::of(arm, &folder)).collect();
    let mut waiting: VecDeque<usize> =
        (0..arms.len()).filter(|&arm| !folders[arm].outcome.is_file()).collect();
    let done_before = arms.len() - waiting.len();
    let mut running = RunningArms(Vec::new());
    let mut memory = MemoryBudget::default();
    let mut done = done_before;
    let start = Instant::now();
    while !waiting.is_empty() || !running.0.is_empty() {
        anyhow::ensure!(!cancel.is_cancelled(), dissent_models::ModelError::Cancelled);
        memory.measure(running.0.iter().map(|(_, child)| child.id()));
        while running.0.len() < parallel.max(1)
            && (running.0.is_empty() || memory.has_room())
            && let Some(next) = waiting.pop_front()
        {
            let child = folders[next].start(&arms[next])?;
            memory.on_start();
            running.0.push((next, child));
        }
        let Some(ended) = running.take_ended()? else {
            std::thread::sleep(POLL_INTERVAL);
            continue;
        };
        let (arm, succeeded) = ended;
        memory.on_end();
        anyhow::ensure!(
            succeeded,
            "experiment {} failed: {}",
            arms[arm].name,
            folders[arm].last_output_line().unwrap_or_default()
        );
        folders[arm].save_outcome(&arms[arm])?;
        done += 1;
        let remaining = arms.len() - done;
        let seconds_each = start.elapsed().as_secs_f64() / (done - done_before) as f64;
        progress(&format!(
            "{done} of {} experiments done ({}); about {:.0} min left",
            arms.len(),
            arms[arm].name,
            (seconds_each * remaining as f64 / 60.0).ceil()
        ));
    }
    arms.iter().zip(&folders).map(|(arm, folder)| Ok((arm.clone(), folder.read_outcome(arm)?))).collect()
}

/// Running experiments with their index. Dropping the value kills them.
struct RunningArms(Vec<(usize, Child)>);

impl RunningArms {
    /// Removes and returns an experiment that has ended, with its success.
    fn take_ended(&mut self) -> anyhow::Result<Option<(usize, bool)>> {
        for index in 0..self.0.len() {
            if let Some(status) = self.0[index].1.try_wait()? {
                let (arm, _) = self.0.swap_remove(index);
                return Ok(Some((arm, status.success())));
            }
        }
        Ok(None)
    }
}

impl Drop for RunningArms {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // Finished work is in the log. An error means that the process has just ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The folder of an experiment. Its name contains a hash of the configuration, so a changed configuration is
/// another experiment.
struct ArmFolder {
    folder: PathBuf,
    config: PathBuf,
    output: PathBuf,
    outcome: PathBuf,
}

impl ArmFolder {
    fn of(arm: &Arm, arms: &Path) -> Self {
        let hash = blake3::hash(arm.config.as_bytes()).to_hex();
        let folder = arms.join(format!("{}-{}", arm.name, &hash[..8]));
        Self {
            config: folder.join("experiment.toml"),
            output: folder.join("output.txt"),
            outcome: folder.join("outcome.json"),
            folder,
        }
    }

    fn start(&self, arm: &Arm) -> anyhow::Result<Child> {
        fs::create_dir_all(&self.folder)?;
        fs::write(&self.config, &arm.config)?;
        let output = fs::File::create(&self.output)?;
        let program = std::env::current_exe().context("failed to find the path of this program")?;
        let child = Command::new(program)
            .arg("--data-dir")
            .arg(&self.folder)
            .arg("run")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn();
        child.with_context(|| format!("failed to start experiment {}", arm.name))
    }

    /// Returns the last line of a failed experiment's output, and the path of the output.
    fn last_output_line(&self) -> Option<String> {
        let text = fs::read_to_string(&self.output).ok()?;
        let last = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(format!("{last} (full output: {})", self.output.display()))
    }

    fn save_outcome(&self, arm: &Arm) -> anyhow::Result<()> {
        let log = SledLog::open(self.folder.join("log"), &SledOptions::default())?;
        let events = log.read_stream(&arm.experiment.parse()?, 0, usize::MAX)?;
        let outcome = ArmOutcome::of(&events, arm.rule == Rule::All)
            .with_context(|| format!("failed to evaluate experiment {}", arm.name))?;
        crate::files::write(&(serde_json::to_string(&outcome)? + "\n"), &self.outcome)
    }

    /// Reads the outcome. One of an older version is evaluated again if it lacks the ties.
    fn read_outcome(&self, arm: &Arm) -> anyhow::Result<ArmOutcome> {
        let read = || {
            let text = fs::read_to_string(&self.outcome)?;
            let outcome: ArmOutcome = serde_json::from_str(&text)
                .with_context(|| format!("failed to read {}", self.outcome.display()))?;
            anyhow::Ok(outcome)
        };
        let outcome = read()?;
        if outcome.judged.as_ref().is_none_or(JudgedRound::has_ties) {
            return Ok(outcome);
        }
        self.save_outcome(arm)?;
        read()
    }
}
