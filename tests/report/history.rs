//! Histories for reports, which the rules of the domain make from completions and scores.

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings, measure};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, EventId, ExperimentStarted, FeedbackReceived,
    FeedbackRequested, NewEvent, PromptAdmitted, PromptSetAside, Recorded, RewardsScored, StepName,
};
use dissent_domain::event_ids::{completions_sampled_id, feedback_requested_id};
use dissent_domain::experiment::Experiment;
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_domain::weight_form::WeightForm;

/// A prompt with its completions; one without completions is set aside.
pub(crate) struct Case {
    pub(crate) prompt_id: String,
    pub(crate) prompt: String,
    pub(crate) category: Option<String>,
    pub(crate) completions: Vec<ScoredCompletion>,
}

pub(crate) struct ScoredCompletion {
    pub(crate) text: String,
    pub(crate) logprob: f64,
    pub(crate) tokens: u32,
    pub(crate) reward: f64,
}

pub(crate) fn plan(name: &str, cases: &[Case]) -> Plan {
    let samples = cases.iter().map(|case| case.completions.len()).max().unwrap_or(0);
    Plan {
        experiment: ExperimentId::new(name).unwrap(),
        seed: 42,
        rounds: 1,
        prompts: PromptSource { artifact: "5f".repeat(32), count: u32::try_from(cases.len()).unwrap() },
        policy: PolicyPlan {
            name: "SmolLM2-135M-Instruct".to_owned(),
            fingerprint: "a1b2c3d4e5f6".repeat(5),
            template: "chat".to_owned(),
            weights: WeightForm::F32,
        },
        reward: RewardPlan {
            name: "tone".to_owned(),
            fingerprint: "0f1e2d3c4b5a".repeat(5),
            template: "Question: {prompt}\n\nAnswer: {completion}".to_owned(),
            kind: RewardKind::Reward,
            output: None,
        },
        sampling: SamplingParams {
            samples: u32::try_from(samples).unwrap().max(1),
            ..SamplingParams::default()
        },
        conflict: ConflictPlan {
            logprob: LogprobKind::Sum,
            selection: SelectionSettings { rule: Rule::Paper, ..SelectionSettings::default() },
        },
        learning: None,
        reading_rules: 1,
        sampling_key: None,
    }
}

/// Returns the history of an experiment, in an order in which workers may finish.
pub(crate) fn history(plan: &Plan, cases: &[Case]) -> Vec<Recorded> {
    measured(plan, cases).events
}

/// Returns the same history as a [`Run`], to continue it.
pub(crate) fn measured<'a>(plan: &'a Plan, cases: &[Case]) -> Run<'a> {
    let mut run = Run { plan, experiment: Experiment::default(), events: Vec::new() };
    run.propose(ExperimentStarted::new(plan.clone()).into());
    run.record_due();
    for (index, case) in (0..).zip(cases) {
        run.propose(PromptAdmitted { round: 0, index, prompt: prompt(case) }.into());
    }
    // Workers finish in another order than that of the file.
    for case in cases.iter().rev() {
        case_events(plan, case).into_iter().for_each(|event| run.propose(event));
    }
    while run.record_due() {}
    run
}

fn prompt(case: &Case) -> Prompt {
    Prompt {
        prompt_id: PromptId::new(&case.prompt_id).unwrap(),
        text: case.prompt.clone(),
        category: case.category.clone(),
        messages: Vec::new(),
    }
}

fn case_events(plan: &Plan, case: &Case) -> Vec<Event> {
    let prompt = prompt(case);
    let prompt_id = prompt.prompt_id.clone();
    if case.completions.is_empty() {
        let reason = "the prompt is longer than the model's context".to_owned();
        return vec![PromptSetAside { round: 0, prompt_id, step: StepName::Generation, reason }.into()];
    }
    let rewards: Vec<f64> = case.completions.iter().map(|scored| scored.reward).collect();
    let completions: Vec<Completion> =
        case.completions.iter().map(|scored| completion(plan, scored)).collect();
    let logprobs: Vec<f64> =
        completions.iter().map(|completion| completion.logprob_as(plan.conflict.logprob)).collect();
    let conflict = measure(&rewards, &logprobs).unwrap();
    vec![
        CompletionsSampled {
            round: 0,
            prompt,
            policy: plan.policy.fingerprint.clone(),
            prompt_token_ids: vec![1, 2, 3],
            completions,
        }
        .into(),
        RewardsScored {
            round: 0,
            prompt_id: prompt_id.clone(),
            reward_model: plan.reward.fingerprint.clone(),
            rewards,
        }
        .into(),
        ConflictMeasured { round: 0, prompt_id, conflict, flags: Vec::new() }.into(),
    ]
}

fn completion(plan: &Plan, scored: &ScoredCompletion) -> Completion {
    let is_full = scored.tokens >= plan.sampling.max_new_tokens;
    Completion {
        token_ids: vec![7; scored.tokens as usize],
        text: scored.text.clone(),
        logprob: scored.logprob,
        finish_reason: if is_full { FinishReason::Length } else { FinishReason::Stop },
    }
}

/// A minimal journal: decides and records events.
pub(crate) struct Run<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) experiment: Experiment,
    pub(crate) events: Vec<Recorded>,
}

impl Run<'_> {
    pub(crate) fn propose(&mut self, event: Event) {
        self.experiment.decide(&event).unwrap();
        self.record(&event);
    }

    /// Records the due events. Returns whether any were due.
    pub(crate) fn record_due(&mut self) -> bool {
        let due = self.experiment.due().map(|due| due.events).unwrap_or_default();
        due.iter().for_each(|event| self.record(event));
        !due.is_empty()
    }

    fn record(&mut self, event: &Event) {
        let position = self.events.len() as u64 + 1;
        let id = self.id(event, position);
        self.experiment.evolve(event);
        self.events.push(Recorded {
            position,
            experiment: self.plan.experiment.clone(),
            version: position,
            event: NewEvent::new(id, None, "test", 0, event).unwrap(),
        });
    }

    /// Returns the id of an event: the real one if other events refer to it.
    fn id(&self, event: &Event, position: u64) -> EventId {
        if let Some(e) = event.body::<CompletionsSampled>() {
            let round = &self.experiment.rounds()[e.round as usize];
            let place = round.prompts().position(|(id, _)| *id == e.prompt.prompt_id).unwrap();
            completions_sampled_id(self.plan, e.round, u32::try_from(place).unwrap())
        } else if let Some(e) = event.body::<FeedbackRequested>() {
            feedback_requested_id(self.plan, e.round, e.comparison)
        } else if let Some(e) = event.body::<FeedbackReceived>() {
            feedback_requested_id(self.plan, e.round, e.comparison).judged_by(&e.annotator)
        } else {
            let experiment = EventId::of_experiment(&self.plan.experiment);
            experiment.caused("test", u32::try_from(position).unwrap())
        }
    }
}
