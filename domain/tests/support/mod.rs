//! Builds whole histories by the rules, without models.
#![allow(dead_code, reason = "each test binary uses a part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings, measure};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, EventId, ExperimentStarted, NewEvent, PromptAdmitted,
    PromptSetAside, Recorded, RewardsScored, StepName, follow_from,
};
use dissent_domain::event_ids::round_opened_id;
use dissent_domain::experiment::Experiment;
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::replay::{Replay, ReplayError};
use dissent_domain::reward::RewardKind;
use dissent_domain::weight_form::WeightForm;

pub(crate) const SAMPLES: u32 = 4;

pub(crate) fn plan(prompts: u32) -> Plan {
    Plan {
        experiment: ExperimentId::new("history").unwrap(),
        seed: 7,
        rounds: 1,
        prompts: PromptSource { artifact: "0".repeat(64), count: prompts },
        policy: PolicyPlan {
            name: "policy".into(),
            fingerprint: "p".into(),
            template: "chat".into(),
            weights: WeightForm::F32,
        },
        reward: RewardPlan {
            name: "proxy".into(),
            fingerprint: "r".into(),
            template: "chat".into(),
            kind: RewardKind::Reward,
            output: None,
        },
        sampling: SamplingParams { samples: SAMPLES, ..SamplingParams::default() },
        conflict: ConflictPlan {
            logprob: LogprobKind::Sum,
            selection: SelectionSettings {
                rule: Rule::Budget,
                budget: Some(5),
                ..SelectionSettings::default()
            },
        },
        learning: None,
        reading_rules: 1,
        sampling_key: None,
    }
}

pub(crate) fn prompt(index: u32) -> Prompt {
    Prompt {
        prompt_id: PromptId::new(format!("p{index}")).unwrap(),
        text: "why?".into(),
        category: None,
        messages: Vec::new(),
    }
}

/// Scores that differ between prompts and are the same in every run.
pub(crate) fn scores(index: u32, salt: u32) -> Vec<f64> {
    (0..SAMPLES).map(|i| f64::from((index * 31 + i * 17 + salt * 13) % 23) - 40.0).collect()
}

pub(crate) fn sampled(index: u32) -> Event {
    sampled_by("p", 0, index)
}

pub(crate) fn sampled_by(policy: &str, round: u32, index: u32) -> Event {
    let completions = scores(index, 1)
        .into_iter()
        .map(|logprob| Completion {
            token_ids: vec![1, 2, 3],
            text: "because".into(),
            logprob,
            finish_reason: FinishReason::Stop,
        })
        .collect();
    CompletionsSampled {
        round,
        prompt: prompt(index),
        policy: policy.into(),
        prompt_token_ids: vec![5, 6],
        completions,
    }
    .into()
}

/// A small journal: decides, evolves, records.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) experiment: Experiment,
    pub(crate) recorded: Vec<Recorded>,
    /// Added to the first reward of prompt 0, so that two runs differ.
    pub(crate) shift: f64,
}

impl History {
    pub(crate) fn start(prompts: u32) -> Self {
        Self::begin(plan(prompts))
    }

    pub(crate) fn begin(plan: Plan) -> Self {
        let mut history = Self::default();
        let id = EventId::of_experiment(&plan.experiment);
        let started = NewEvent::new(id, None, "test", 0, &ExperimentStarted::new(plan).into()).unwrap();
        history.append(started);
        history.coordinate();
        history
    }

    pub(crate) fn append(&mut self, event: NewEvent) {
        let decoded =
            dissent_domain::event::decode(&event.event_type, event.schema_version, &event.body).unwrap();
        self.experiment.decide(&decoded).unwrap();
        self.record(event, &decoded);
    }

    fn record(&mut self, event: NewEvent, decoded: &Event) {
        self.experiment.evolve(decoded);
        let position = self.recorded.len() as u64 + 1;
        let experiment = self.experiment.plan().unwrap().experiment.clone();
        self.recorded.push(Recorded { position, experiment, version: position, event });
    }

    pub(crate) fn propose(&mut self, cause: EventId, event: &Event) -> EventId {
        let event = follow_from(cause, "test", 0, std::slice::from_ref(event)).unwrap().remove(0);
        let id = event.id;
        self.append(event);
        id
    }

    pub(crate) fn coordinate(&mut self) {
        while let Some(due) = self.experiment.due() {
            let events = follow_from(due.cause, "round", 0, &due.events).unwrap();
            // Events of one proposal are decided against the state before all of them.
            for event in &due.events {
                self.experiment.decide(event).unwrap();
            }
            for (event, decoded) in events.into_iter().zip(&due.events) {
                self.record(event, decoded);
            }
        }
    }

    pub(crate) fn admit_all(&mut self, prompts: u32) -> Vec<EventId> {
        let round = self.round();
        let cause = round_opened_id(self.experiment.plan().unwrap(), round);
        let events: Vec<Event> =
            (0..prompts).map(|index| PromptAdmitted { round, index, prompt: prompt(index) }.into()).collect();
        let events = follow_from(cause, "prompt", 0, &events).unwrap();
        events
            .into_iter()
            .map(|event| {
                let id = event.id;
                self.append(event);
                id
            })
            .collect()
    }

    pub(crate) fn round(&self) -> u32 {
        self.experiment.rounds().last().unwrap().number()
    }

    /// Runs every step of one prompt, or sets the prompt aside after sampling.
    pub(crate) fn process(&mut self, index: u32, admitted: EventId, set_aside: bool) {
        let round = self.round();
        let policy = self.experiment.policy().unwrap().fingerprint;
        let reward_model = self.experiment.reward_model().unwrap().fingerprint;
        let prompt_id = prompt(index).prompt_id;
        let sampled_id = self.propose(admitted, &sampled_by(&policy, round, index));
        if set_aside {
            let reason = "does not fit".to_owned();
            let event = PromptSetAside { round, prompt_id, step: StepName::Reward, reason };
            self.propose(sampled_id, &event.into());
            return;
        }
        let mut rewards = scores(index, 2);
        if index == 0 {
            rewards[0] += self.shift;
        }
        let scored =
            RewardsScored { round, prompt_id: prompt_id.clone(), reward_model, rewards: rewards.clone() };
        let scored_id = self.propose(sampled_id, &scored.into());
        let conflict = measure(&rewards, &scores(index, 1)).unwrap();
        self.propose(scored_id, &ConflictMeasured { round, prompt_id, conflict, flags: Vec::new() }.into());
    }
}

pub(crate) fn replayed(recorded: &[Recorded]) -> Result<Replay, ReplayError> {
    let mut replay = Replay::verifying();
    recorded.iter().try_for_each(|event| replay.apply(event))?;
    Ok(replay)
}
