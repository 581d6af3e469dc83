//! A folder to run the program in, with tiny models and a configuration.

#[allow(dead_code, reason = "each test program uses a part of it")]
pub(crate) mod host;
pub(crate) mod random;
pub(crate) mod required;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;
use dissent_domain::log::{EventLog, LogError};
use dissent_models::runtime::OnnxRuntime;
use dissent_storage::{SledLog, SledOptions};
use tempfile::TempDir;

use required::required;

/// Settings of the configuration that tests change.
pub(crate) struct Setup {
    pub(crate) prompts: u32,
    pub(crate) samples: u32,
    pub(crate) max_new_tokens: u32,
    pub(crate) batch_prompts: u32,
    /// Whether both models learn.
    pub(crate) learns: Option<Learning>,
}

/// Length of the learning.
#[derive(Clone, Copy)]
pub(crate) struct Learning {
    pub(crate) rounds: u32,
    /// Steps of each training.
    pub(crate) steps: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self { prompts: 12, samples: 4, max_new_tokens: 24, batch_prompts: 4, learns: None }
    }
}

/// A folder with an experiment that is ready to run.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    /// Requires ONNX Runtime.
    pub(crate) fn new(setup: &Setup) -> Option<Self> {
        required(OnnxRuntime::load(None))?;
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        lab.write_prompts("prompts.jsonl", "p", "what is", setup.prompts);
        lab.write_prompts("held-out.jsonl", "h", "what was", 3);
        lab.write_config(setup);
        Some(lab)
    }

    fn write_prompts(&self, file: &str, name: &str, question: &str, prompts: u32) {
        let line = |index: u32| {
            format!("{{\"prompt_id\": \"{name}{index}\", \"prompt\": \"{question} {index}?\"}}\n")
        };
        std::fs::write(self.folder.path().join(file), (0..prompts).map(line).collect::<String>()).unwrap();
    }

    fn write_config(&self, setup: &Setup) {
        let text = format!(
            r#"
            [experiment]
            name = "lab"
            seed = 3
            rounds = {rounds}
            [prompts]
            path = "prompts.jsonl"
            [policy]
            path = {policy:?}
            template = "raw"
            [reward]
            path = {policy:?}
            adapter = {adapter:?}
            template = "{{prompt}} {{completion}}"
            [generation]
            samples = {samples}
            temperature = 1.0
            max_new_tokens = {max_new_tokens}
            batch_prompts = {batch_prompts}
            [conflict]
            rule = "budget"
            budget = 7
            [runtime]
            provider = "cpu"
            threads = 1
            {learning}
            "#,
            policy = self.policy(),
            adapter = golden().join("llama-reward"),
            samples = setup.samples,
            max_new_tokens = setup.max_new_tokens,
            batch_prompts = setup.batch_prompts,
            rounds = setup.learns.map_or(1, |learning| learning.rounds),
            learning = setup.learns.map(|learning| self.learning(learning)).unwrap_or_default(),
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// The sections of an experiment that learns. The oracle prefers the completions of least reward, which
    /// the models have to learn.
    fn learning(&self, learning: Learning) -> String {
        format!(
            r#"
            [feedback]
            source = "oracle"
            [gold]
            kind = "model"
            path = {policy:?}
            adapter = {adapter:?}
            template = "{{prompt}} {{completion}}"
            score = "cost"
            [refinement]
            steps = {steps}
            batch_size = 2
            learning_rate = 1e-3
            [tuning]
            method = "dpo"
            steps = {steps}
            batch_size = 2
            learning_rate = 1e-3
            [evaluation]
            prompts = "held-out.jsonl"
            samples = 2
            "#,
            policy = self.policy(),
            adapter = golden().join("llama-reward"),
            steps = learning.steps,
        )
    }

    /// The tiny policy, which is also the reward model's base.
    pub(crate) fn policy(&self) -> PathBuf {
        golden().join("llama")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("lab.toml")
    }

    /// A data folder; each name is a separate run of the same experiment.
    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn dissent(&self, data: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("--data-dir").arg(self.data_dir(data)).args(arguments);
        command
    }

    pub(crate) fn run(&self, data: &str) -> Output {
        let config = self.config();
        succeeded(self.dissent(data, &["run", config.to_str().unwrap()]))
    }

    /// Every event of a data folder, in order.
    pub(crate) fn events(&self, data: &str) -> Vec<Recorded> {
        open_log(&self.data_dir(data).join("log")).read(0, usize::MAX).unwrap()
    }
}

/// Opens a log that this process may just have closed. A program that another test starts holds a copy of the
/// log's lock between its fork and its exec, for a moment.
pub(crate) fn open_log(folder: &Path) -> SledLog {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match SledLog::open(folder, &SledOptions::default()) {
            Err(LogError::InUse(_)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden")
}

/// Runs a command to its end and expects success.
pub(crate) fn succeeded(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Type and body of each event by its id, without order and times. Panics if an id occurs twice.
pub(crate) fn history(events: &[Recorded]) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut history = BTreeMap::new();
    for recorded in events {
        let event = &recorded.event;
        let duplicate = history.insert(event.id.to_string(), (event.event_type.clone(), event.body.clone()));
        assert!(duplicate.is_none(), "event {} is in the log twice", event.id);
    }
    history
}
