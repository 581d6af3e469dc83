//! Whole histories, made by the rules alone: what a pipeline would do, without models.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings, measure};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, EventId, ExperimentStarted, NewEvent, PromptAdmitted,
    PromptSetAside, Recorded, RewardsScored, Step, follow_from,
};
use dissent_domain::experiment::{
    ConflictPlan, Experiment, Plan, PolicyPlan, PromptSource, RewardPlan, round_opened_id,
};
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::prompt::Prompt;
use dissent_domain::replay::{Replay, ReplayError};
use dissent_domain::reward::RewardKind;
use proptest::prelude::*;

const SAMPLES: u32 = 4;

fn plan(prompts: u32) -> Plan {
    Plan {
        experiment: ExperimentId::new("history").unwrap(),
        seed: 7,
        rounds: 1,
        prompts: PromptSource { artifact: "0".repeat(64), count: prompts },
        policy: PolicyPlan { name: "policy".into(), fingerprint: "p".into(), template: "chat".into() },
        reward: RewardPlan {
            name: "proxy".into(),
            fingerprint: "r".into(),
            template: "chat".into(),
            kind: RewardKind::Reward,
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
    }
}

fn prompt(index: u32) -> Prompt {
    Prompt { prompt_id: PromptId::new(format!("p{index}")).unwrap(), text: "why?".into(), category: None }
}

/// Scores that differ from prompt to prompt, the same each time.
fn scores(index: u32, salt: u32) -> Vec<f64> {
    (0..SAMPLES).map(|i| f64::from((index * 31 + i * 17 + salt * 13) % 23) - 40.0).collect()
}

fn sampled(index: u32) -> Event {
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
        round: 0,
        prompt: prompt(index),
        policy: "p".into(),
        prompt_token_ids: vec![5, 6],
        completions,
    }
    .into()
}

/// A journal in miniature: decides, evolves, records.
#[derive(Default)]
struct History {
    experiment: Experiment,
    recorded: Vec<Recorded>,
}

impl History {
    fn start(prompts: u32) -> Self {
        let mut history = Self::default();
        let plan = plan(prompts);
        let id = EventId::of_experiment(&plan.experiment);
        let started = NewEvent::new(id, None, "test", 0, &ExperimentStarted { plan }.into()).unwrap();
        history.append(started);
        history.coordinate();
        history
    }

    fn append(&mut self, event: NewEvent) {
        let decoded =
            dissent_domain::event::decode(&event.event_type, event.schema_version, &event.body).unwrap();
        self.experiment.decide(&decoded).unwrap();
        self.experiment.evolve(&decoded);
        let position = self.recorded.len() as u64 + 1;
        let experiment = ExperimentId::new("history").unwrap();
        self.recorded.push(Recorded { position, experiment, version: position, event });
    }

    fn propose(&mut self, cause: EventId, event: &Event) -> EventId {
        let event = follow_from(cause, "test", 0, std::slice::from_ref(event)).unwrap().remove(0);
        let id = event.id;
        self.append(event);
        id
    }

    fn coordinate(&mut self) {
        while let Some(due) = self.experiment.due() {
            let events = follow_from(due.cause, "round", 0, &due.events).unwrap();
            // Proposed together, decided against the state before all of them.
            for event in &due.events {
                self.experiment.decide(event).unwrap();
            }
            for event in events {
                let decoded =
                    dissent_domain::event::decode(&event.event_type, event.schema_version, &event.body)
                        .unwrap();
                self.experiment.evolve(&decoded);
                let position = self.recorded.len() as u64 + 1;
                let experiment = ExperimentId::new("history").unwrap();
                self.recorded.push(Recorded { position, experiment, version: position, event });
            }
        }
    }

    fn admit_all(&mut self, prompts: u32) -> Vec<EventId> {
        let cause = round_opened_id(&plan(prompts), 0);
        let events: Vec<Event> = (0..prompts)
            .map(|index| PromptAdmitted { round: 0, index, prompt: prompt(index) }.into())
            .collect();
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

    /// Takes one prompt through every step, or sets it aside after sampling.
    fn process(&mut self, index: u32, admitted: EventId, set_aside: bool) {
        let prompt_id = prompt(index).prompt_id;
        let sampled_id = self.propose(admitted, &sampled(index));
        if set_aside {
            let reason = "does not fit".to_owned();
            let event = PromptSetAside { round: 0, prompt_id, step: Step::Reward, reason };
            self.propose(sampled_id, &event.into());
            return;
        }
        let rewards = scores(index, 2);
        let scored = RewardsScored {
            round: 0,
            prompt_id: prompt_id.clone(),
            reward_model: "r".into(),
            rewards: rewards.clone(),
        };
        let scored_id = self.propose(sampled_id, &scored.into());
        let conflict = measure(&rewards, &scores(index, 1)).unwrap();
        self.propose(scored_id, &ConflictMeasured { round: 0, prompt_id, conflict }.into());
    }
}

fn run_in_order(order: &[u32], set_aside: &[u32]) -> History {
    let prompts = u32::try_from(order.len()).unwrap();
    let mut history = History::start(prompts);
    let admitted = history.admit_all(prompts);
    for &index in order {
        history.process(index, admitted[index as usize], set_aside.contains(&index));
        history.coordinate();
    }
    history
}

fn replayed(recorded: &[Recorded]) -> Result<Replay, ReplayError> {
    let mut replay = Replay::verifying();
    recorded.iter().try_for_each(|event| replay.apply(event))?;
    Ok(replay)
}

#[test]
fn a_round_closes_only_when_its_last_prompt_is_done() {
    let mut history = History::start(3);
    let admitted = history.admit_all(3);
    for index in 0..3 {
        assert!(history.experiment.due().is_none(), "due with {index} of 3 prompts done");
        history.process(index, admitted[index as usize], false);
    }
    history.coordinate();
    assert!(history.experiment.is_finished());
    assert_eq!(history.experiment.rounds()[0].counts().selected, 5);
}

#[test]
fn a_prompt_set_aside_does_not_hold_up_the_round() {
    let history = run_in_order(&[0, 1, 2], &[1]);
    let counts = history.experiment.rounds()[0].counts();
    assert!(history.experiment.is_finished());
    assert_eq!((counts.measured, counts.set_aside), (2, 1));
}

#[test]
fn replaying_a_history_gives_its_state_and_finds_every_decision_right() {
    let history = run_in_order(&[2, 0, 1], &[]);
    let replay = replayed(&history.recorded).unwrap();
    assert_eq!(replay.experiment(), &history.experiment);
    assert_eq!(replay.checked(), history.recorded.len() as u64);
}

/// Replaces the body of the first event of a type, and expects the replay to name its position.
fn tampered(event_type: &str, change: impl Fn(Event) -> Event) {
    let mut history = run_in_order(&[0, 1, 2], &[]);
    let place = history.recorded.iter().position(|e| e.event.event_type == event_type).unwrap();
    let event = change(history.recorded[place].decode().unwrap());
    history.recorded[place].event.body = dissent_domain::event::encode(&event).unwrap();
    let error = replayed(&history.recorded).unwrap_err().to_string();
    assert!(error.contains(&format!("event {}", place + 1)), "{event_type}: {error}");
}

#[test]
fn a_changed_conflict_is_found() {
    tampered("conflict.measured", |event| {
        let Event::ConflictMeasured(mut e) = event else { unreachable!() };
        e.conflict.pacs[0] += 1e-9;
        e.into()
    });
}

#[test]
fn a_changed_selection_is_found() {
    tampered("conflict.pair_selected", |event| {
        let Event::PairSelected(mut e) = event else { unreachable!() };
        e.completion = (e.completion + 1) % SAMPLES;
        e.into()
    });
}

#[test]
fn a_changed_evaluation_is_found() {
    tampered("round.evaluated", |event| {
        let Event::RoundEvaluated(mut e) = event else { unreachable!() };
        e.selected += 1;
        e.into()
    });
}

#[test]
fn an_event_that_does_not_follow_from_its_cause_is_found() {
    let mut history = run_in_order(&[0, 1], &[]);
    let last = history.recorded.len() - 1;
    history.recorded[last].event.id = EventId::of_experiment(&ExperimentId::new("other").unwrap());
    let error = replayed(&history.recorded).unwrap_err();
    assert!(matches!(error, ReplayError::Differs { .. }), "{error}");
}

#[test]
fn a_missing_event_is_found() {
    let mut history = run_in_order(&[0, 1], &[]);
    history.recorded.remove(4);
    assert!(matches!(replayed(&history.recorded).unwrap_err(), ReplayError::Gap { position: 6, .. }));
}

#[test]
fn work_on_a_prompt_that_is_done_is_rejected() {
    let mut history = History::start(2);
    let admitted = history.admit_all(2);
    history.process(0, admitted[0], false);
    assert!(history.experiment.decide(&sampled(0)).is_err());
    assert!(history.experiment.decide(&sampled(1)).is_ok());
}

#[test]
fn completions_of_another_policy_are_rejected() {
    let mut history = History::start(1);
    history.admit_all(1);
    let Event::CompletionsSampled(mut event) = sampled(0) else { unreachable!() };
    event.policy = "another".into();
    assert!(history.experiment.decide(&event.into()).is_err());
}

#[test]
fn scores_that_are_not_finite_are_rejected() {
    let mut history = History::start(1);
    let admitted = history.admit_all(1);
    let Event::CompletionsSampled(mut event) = sampled(0) else { unreachable!() };
    event.completions[1].logprob = f64::NAN;
    assert!(history.experiment.decide(&event.into()).is_err());
    history.propose(admitted[0], &sampled(0));
    let scored = RewardsScored {
        round: 0,
        prompt_id: prompt(0).prompt_id,
        reward_model: "r".into(),
        rewards: vec![0.0, 1.0, f64::INFINITY, 2.0],
    };
    assert!(history.experiment.decide(&scored.into()).is_err());
}

proptest! {
    /// Whatever the order in which prompts are done, the round concludes with the same events.
    #[test]
    fn the_order_of_arrival_does_not_change_the_conclusion(
        order in Just((0..12_u32).collect::<Vec<_>>()).prop_shuffle(),
        set_aside in prop::collection::vec(0..12_u32, 0..3),
    ) {
        let in_order = run_in_order(&(0..12).collect::<Vec<_>>(), &set_aside);
        let shuffled = run_in_order(&order, &set_aside);
        let by_id = |history: &History| {
            let mut events: Vec<_> = history.recorded.iter().map(|e| (e.event.id, e.event.body.clone())).collect();
            events.sort();
            events
        };
        prop_assert_eq!(by_id(&in_order), by_id(&shuffled));
        prop_assert!(replayed(&shuffled.recorded).is_ok());
    }
}
