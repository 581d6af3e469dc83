//! Histories in a log on disk, which the rules of the domain make without models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dissent_domain::event::{
    Event, EventId, EventType, FeedbackReceived, NewEvent, PolicyEvaluated, PolicyTuned, Recorded,
    RewardModelRefined, Stage, TrainingStarted,
};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::feedback::{Opponent, Verdict};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::{
    DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, GuardPlan, LearningPlan, Plan,
    PromptSource, RefinementPlan, TuningPlan,
};
use dissent_domain::training::{Hyperparameters, PolicyObjective};
use dissent_storage::{SledLog, wait};
use tempfile::TempDir;

use crate::rules::{self, History};
use crate::support::open_log;

pub(crate) const PROMPTS: u32 = 6;

pub(crate) fn plan(name: &str) -> Plan {
    Plan { experiment: ExperimentId::new(name).unwrap(), ..rules::plan(PROMPTS) }
}

pub(crate) fn learning_plan(name: &str) -> Plan {
    let learning = LearningPlan {
        feedback: FeedbackPlan {
            source: FeedbackSource::People,
            opponent: Opponent::Conflict,
            overlap: 1,
            budget: None,
            audit: 0.0,
            degenerate: DegenerateCompletions::Ask,
            focus: None,
        },
        refinement: RefinementPlan { original: None, hyperparameters: Hyperparameters::default() },
        tuning: TuningPlan {
            objective: PolicyObjective::default(),
            hyperparameters: Hyperparameters::default(),
        },
        evaluation: EvaluationPlan {
            prompts: PromptSource { artifact: "1".repeat(64), count: 2 },
            samples: 4,
            gold: None,
        },
        guards: GuardPlan::default(),
    };
    Plan { rounds: 2, learning: Some(Box::new(learning)), ..plan(name) }
}

/// Returns a finished experiment without a learning part. Its prompts are processed in this order.
pub(crate) fn measured(plan: Plan, order: &[u32], shift: f64) -> History {
    let mut history = History { shift, ..History::begin(plan) };
    measure(&mut history, order);
    history
}

pub(crate) fn in_order() -> Vec<u32> {
    (0..PROMPTS).collect()
}

fn measure(history: &mut History, order: &[u32]) {
    let admitted = history.admit_all(PROMPTS);
    for &index in order {
        history.process(index, admitted[index as usize], index == 4);
    }
    history.coordinate();
}

/// Returns a learning experiment up to the comparisons of its first round.
pub(crate) fn awaiting_judgements(plan: Plan) -> History {
    let mut history = History::begin(plan);
    evaluate(&mut history);
    measure(&mut history, &in_order());
    history
}

/// Returns a finished learning experiment.
pub(crate) fn learnt(plan: Plan) -> History {
    let rounds = plan.rounds;
    let mut history = awaiting_judgements(plan);
    for round in 0..rounds {
        if round > 0 {
            measure(&mut history, &in_order());
        }
        judge_all(&mut history);
        train(&mut history, Stage::Reward);
        train(&mut history, Stage::Policy);
        evaluate(&mut history);
    }
    assert!(history.experiment.is_finished());
    history
}

fn last_id(history: &History, kind: EventType) -> EventId {
    let last = history.recorded.iter().rev().find(|e| e.event.event_type == kind.name());
    last.unwrap().event.id
}

fn evaluate(history: &mut History) {
    let evaluation = u32::try_from(history.experiment.evaluations().len()).unwrap();
    let evaluated = PolicyEvaluated {
        evaluation,
        policy: history.experiment.policy().unwrap().fingerprint,
        reward_model: history.experiment.reward_model().unwrap().fingerprint,
        prompts: 2,
        completions: 8,
        gold_reward: None,
        proxy_reward: [f64::from(evaluation), 0.1],
        refined_reward: [f64::from(evaluation), 0.1],
        proxy_agreement: None,
        refined_agreement: None,
        mean_abs_pacs: Some(1.0),
        kendall_tau: None,
        kl: 0.0,
        response_tokens: 3.0,
        stopped: 1.0,
        samples: None,
        by_prompt: None,
    };
    let cause = last_id(history, EventType::EvaluationRequested);
    history.propose(cause, &evaluated.into());
    history.coordinate();
}

pub(crate) fn judge_all(history: &mut History) {
    let round = history.round();
    let comparisons = history.experiment.rounds().last().unwrap().learning().comparisons().len();
    for comparison in 0..u32::try_from(comparisons).unwrap() {
        let received = FeedbackReceived {
            round,
            comparison,
            annotator: "ann".to_owned(),
            verdict: Verdict::First,
            is_unsafe: (comparison > 0).then_some([true, false]),
            comment: None,
        };
        let cause = feedback_requested_id(history.experiment.plan().unwrap(), round, comparison);
        let id = cause.judged_by("ann");
        history.append(NewEvent::new(id, Some(cause), "feedback", 0, &received.into()).unwrap());
        history.coordinate();
    }
}

pub(crate) fn train(history: &mut History, stage: Stage) {
    let (round, attempt, worker) = (history.round(), 0, "worker".to_owned());
    let cause = last_id(history, EventType::TrainingRequested);
    history.propose(cause, &TrainingStarted { round, stage, attempt, worker, lease_ms: 60_000 }.into());
    let (adapter, fingerprint) = (format!("adapter {round}"), format!("{} {round}", stage.name()));
    let metrics = BTreeMap::from([("loss".to_owned(), 0.5)]);
    let trained: Event = match stage {
        Stage::Reward => {
            RewardModelRefined { round, attempt, adapter, fingerprint, preferences: 4, rehearsed: 0, metrics }
                .into()
        }
        Stage::Policy => PolicyTuned { round, attempt, adapter, fingerprint, metrics }.into(),
    };
    history.propose(cause, &trained);
    history.coordinate();
}

/// A temporary folder with data folders.
pub(crate) struct DataFolders(TempDir);

impl DataFolders {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Appends the events of a history to the log of a data folder.
    pub(crate) fn append(&self, data: &str, events: &[Recorded]) {
        let log = self.log(data);
        for recorded in events {
            let experiment = recorded.experiment.clone();
            let events = vec![recorded.event.clone()];
            wait(log.append(Append { experiment, expected: ExpectedVersion::Any, events })).unwrap();
        }
    }

    pub(crate) fn log(&self, data: &str) -> SledLog {
        open_log(&self.path(data).join("log"))
    }

    pub(crate) fn dissent(&self, data: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("--data-dir").arg(self.path(data)).args(arguments).current_dir(self.0.path());
        command
    }

    /// Runs a command that exits with `code`. Returns its stdout and stderr.
    pub(crate) fn output(&self, data: &str, arguments: &[&str], code: i32) -> String {
        let output = self.dissent(data, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text_of(&output));
        text_of(&output)
    }

    pub(crate) fn json(&self, data: &str, arguments: &[&str], code: i32) -> serde_json::Value {
        let output = self.dissent(data, arguments).arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}
