//! Whole histories, made by the rules without models.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod support;

use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, EventId, PairSelected, RewardsScored, RoundEvaluated,
};
use dissent_domain::id::ExperimentId;
use dissent_domain::replay::{Difference, ReplayError};
use proptest::prelude::*;

use support::{History, SAMPLES, prompt, replayed, sampled};

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
fn a_round_closes_although_a_prompt_is_set_aside() {
    let history = run_in_order(&[0, 1, 2], &[1]);
    let counts = history.experiment.rounds()[0].counts();
    assert!(history.experiment.is_finished());
    assert_eq!((counts.measured, counts.set_aside), (2, 1));
}

#[test]
fn a_replay_gives_the_state_and_confirms_every_decision() {
    let history = run_in_order(&[2, 0, 1], &[]);
    let replay = replayed(&history.recorded).unwrap();
    assert_eq!(replay.experiment(), &history.experiment);
    assert_eq!(replay.checked(), history.recorded.len() as u64);
}

/// Changes the first event of a type. The replay must name its position.
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
        let mut e = ConflictMeasured::try_from(event).unwrap();
        e.conflict.pacs[0] += 1e-9;
        e.into()
    });
}

#[test]
fn a_changed_selection_is_found() {
    tampered("conflict.pair_selected", |event| {
        let mut e = PairSelected::try_from(event).unwrap();
        e.completion = (e.completion + 1) % SAMPLES;
        e.into()
    });
}

#[test]
fn a_changed_evaluation_is_found() {
    tampered("round.evaluated", |event| {
        let mut e = RoundEvaluated::try_from(event).unwrap();
        e.selected += 1;
        e.into()
    });
}

#[test]
fn an_event_with_an_id_of_another_cause_is_found() {
    let mut history = run_in_order(&[0, 1], &[]);
    let last = history.recorded.len() - 1;
    history.recorded[last].event.id = EventId::of_experiment(&ExperimentId::new("other").unwrap());
    let error = replayed(&history.recorded).unwrap_err();
    assert!(matches!(error, ReplayError::Differs { difference: Difference::Id { .. }, .. }), "{error}");
}

#[test]
fn a_missing_event_is_found() {
    let mut history = run_in_order(&[0, 1], &[]);
    history.recorded.remove(4);
    assert!(matches!(replayed(&history.recorded).unwrap_err(), ReplayError::Gap { position: 6, .. }));
}

#[test]
fn a_second_result_for_a_finished_prompt_is_rejected() {
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
    let mut event = CompletionsSampled::try_from(sampled(0)).unwrap();
    event.policy = "another".into();
    assert!(history.experiment.decide(&event.into()).is_err());
}

#[test]
fn scores_that_are_not_finite_are_rejected() {
    let mut history = History::start(1);
    let admitted = history.admit_all(1);
    let mut event = CompletionsSampled::try_from(sampled(0)).unwrap();
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
    /// For every order of finished prompts, the round concludes with the same events.
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
