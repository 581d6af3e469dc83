//! Running the experiments of a study, as many at a time as are wanted and memory allows, each as a process
//! of its own: their memory is then their own, and one that fails takes no other with it.

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

use super::memory::Memory;
use super::{Arm, ArmOutcome};

/// How often it is looked whether an experiment has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Runs what is not done yet and gives what each came to, in the order of `arms`. An experiment that was
/// begun goes on where it stopped.
///
/// # Errors
/// If an experiment fails (the others that run are ended; run the study again to go on), or the user asks to
/// stop.
pub fn run(
    arms: &[Arm],
    data_dir: &Path,
    parallel: usize,
    cancel: &CancelFlag,
    say: &dyn Fn(&str),
) -> anyhow::Result<Vec<(Arm, ArmOutcome)>> {
    let folder = data_dir.join("arms");
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let places: Vec<ArmFolder> = arms.iter().map(|arm| ArmFolder::of(arm, &folder)).collect();
    let mut waiting: VecDeque<usize> =
        (0..arms.len()).filter(|&arm| !places[arm].outcome.is_file()).collect();
    let known = arms.len() - waiting.len();
    let mut running = RunningArms(Vec::new());
    let mut memory = Memory::default();
    let mut done = known;
    let begun = Instant::now();
    while !waiting.is_empty() || !running.0.is_empty() {
        anyhow::ensure!(!cancel.is_cancelled(), dissent_models::ModelError::Cancelled);
        memory.watch(running.0.iter().map(|(_, child)| child.id()));
        while running.0.len() < parallel.max(1)
            && (running.0.is_empty() || memory.has_room())
            && let Some(next) = waiting.pop_front()
        {
            let child = places[next].start(&arms[next])?;
            memory.started();
            running.0.push((next, child));
        }
        let Some(ended) = running.ended()? else {
            std::thread::sleep(LOOK);
            continue;
        };
        let (arm, succeeded) = ended;
        memory.ended();
        anyhow::ensure!(
            succeeded,
            "the experiment {} failed: {}",
            arms[arm].name,
            places[arm].last_words().unwrap_or_default()
        );
        places[arm].conclude(&arms[arm])?;
        done += 1;
        let left = arms.len() - done;
        let each = begun.elapsed().as_secs_f64() / (done - known) as f64;
        say(&format!(
            "{done} of {} experiments done ({}); about {:.0} min left",
            arms.len(),
            arms[arm].name,
            (each * left as f64 / 60.0).ceil()
        ));
    }
    arms.iter().zip(&places).map(|(arm, place)| Ok((arm.clone(), place.read()?))).collect()
}

/// Experiments that run: ended when this is dropped.
struct RunningArms(Vec<(usize, Child)>);

impl RunningArms {
    /// One that has ended, and whether it succeeded.
    fn ended(&mut self) -> anyhow::Result<Option<(usize, bool)>> {
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
            // What it has done is in its log; nothing can be done about one that has just ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where an experiment of a study lies: named by its configuration, so that another one is another
/// experiment.
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
        let program = std::env::current_exe().context("failed to find this program")?;
        let child = Command::new(program)
            .arg("--data-dir")
            .arg(&self.folder)
            .arg("run")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn();
        child.with_context(|| format!("failed to start the experiment {}", arm.name))
    }

    /// The end of what a failed experiment said.
    fn last_words(&self) -> Option<String> {
        let text = fs::read_to_string(&self.output).ok()?;
        let last = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(format!("{last} (all of it is in {})", self.output.display()))
    }

    fn conclude(&self, arm: &Arm) -> anyhow::Result<()> {
        let log = SledLog::open(self.folder.join("log"), &SledOptions::default())?;
        let events = log.read_stream(&arm.experiment.parse()?, 0, usize::MAX)?;
        let outcome = ArmOutcome::of(&events, arm.rule == Rule::All)
            .with_context(|| format!("the experiment {}", arm.name))?;
        crate::files::write(&(serde_json::to_string(&outcome)? + "\n"), &self.outcome)
    }

    fn read(&self) -> anyhow::Result<ArmOutcome> {
        let text = fs::read_to_string(&self.outcome)?;
        serde_json::from_str(&text).with_context(|| format!("failed to read {}", self.outcome.display()))
    }
}
