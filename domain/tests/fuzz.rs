//! Untrusted bytes: event bodies and judgements, arbitrary and mutated. `PROPTEST_CASES` sets the number of
//! cases.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod mutation;
mod support;

use dissent_domain::event::{
    Event, EventType, ExperimentStarted, FeedbackReceived, FeedbackRequested, PolicyTuned, PromptAdmitted,
    Stage, TrainingProgressed, decode, encode,
};
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::Verdict;
use dissent_domain::id::{ExperimentId, PromptId};
use proptest::prelude::*;

use mutation::{bounded, cases, mutated, mutations};
use support::{plan, prompt, sampled};

/// Events with every kind of value: nested structs, texts, lists, maps, options.
fn events() -> Vec<Event> {
    let judged = FeedbackReceived {
        round: 0,
        comparison: 1,
        annotator: "ann".to_owned(),
        verdict: Verdict::First,
        is_unsafe: Some([true, false]),
        comment: Some("clear".to_owned()),
    };
    let metrics = [("loss".to_owned(), 0.5), ("kl".to_owned(), -1.0)].into();
    let progressed = TrainingProgressed {
        round: 0,
        stage: Stage::Policy,
        attempt: 0,
        sequence: 3,
        step: 4,
        steps: 10,
        checkpoint: Some("c".repeat(64)),
        metrics,
    };
    let (adapter, fingerprint) = ("a".repeat(64), "f".to_owned());
    let tuned = PolicyTuned { round: 0, attempt: 0, adapter, fingerprint, metrics: Default::default() };
    let requested = FeedbackRequested {
        round: 0,
        comparison: 0,
        prompt_id: prompt(1).prompt_id,
        prompt_index: 1,
        first: 0,
        second: 2,
        propensity: None,
        is_focus: false,
    };
    let conflict = dissent_domain::conflict::measure(&support::scores(1, 2), &support::scores(1, 1)).unwrap();
    let prompt_id = prompt(1).prompt_id;
    let measured =
        dissent_domain::event::ConflictMeasured { round: 0, prompt_id, conflict, flags: Vec::new() };
    vec![
        ExperimentStarted { plan: plan(3), program: None }.into(),
        PromptAdmitted { round: 0, index: 0, prompt: prompt(0) }.into(),
        sampled(0),
        measured.into(),
        judged.into(),
        progressed.into(),
        tuned.into(),
        requested.into(),
    ]
}

/// Decodes a body in bounded memory. A decoded event is then encoded, decided and applied.
fn decode_and_apply(kind: EventType, body: &[u8]) {
    let Ok(event) = bounded(body.len(), || decode(kind.name(), kind.version(), body)) else { return };
    encode(&event).unwrap();
    let mut experiment = Experiment::default();
    for event in [ExperimentStarted { plan: plan(3), program: None }.into(), event] {
        let _decided = experiment.decide(&event);
        bounded(body.len(), || experiment.evolve(&event));
        let _due = experiment.due();
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn decoding_any_bytes_never_panics_and_bounds_memory(
        kind in prop::sample::select(EventType::ALL.to_vec()),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        decode_and_apply(kind, &body);
    }

    #[test]
    fn decoding_a_corrupted_body_never_panics(
        event in prop::sample::select(events()), mutations in mutations(),
    ) {
        let body = mutated(&encode(&event).unwrap(), &mutations);
        decode_and_apply(event.event_type(), &body);
    }

    #[test]
    fn decoding_a_body_of_another_type_never_panics(
        event in prop::sample::select(events()), kind in prop::sample::select(EventType::ALL.to_vec()),
    ) {
        decode_and_apply(kind, &encode(&event).unwrap());
    }

    #[test]
    fn decoding_judgements_from_an_inbox_never_panics(mutations in mutations()) {
        let line = br#"{"round":0,"comparison":12,"annotator":"ann","verdict":"second","is_unsafe":[true,false],"comment":"no"}"#;
        let line = mutated(line, &mutations);
        let _ = bounded(line.len(), || serde_json::from_slice::<FeedbackReceived>(&line));
    }

    #[test]
    fn any_text_is_a_name_or_an_error_without_panic(name: String, type_name: String, version: u16) {
        let _ = (ExperimentId::new(name.clone()), PromptId::new(name));
        prop_assert!(decode(&type_name, version, &[]).is_err());
    }
}

#[test]
fn bodies_with_false_lengths_or_endless_nesting_are_rejected() {
    for kind in EventType::ALL {
        for claim in [
            &[0xdf, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(bounded(claim.len(), || decode(kind.name(), kind.version(), claim)).is_err());
        }
        // A map with an unknown key and deeply nested arrays as its value.
        let mut nested = vec![0x81, 0xa1, b'x'];
        nested.resize(200_000, 0x91);
        assert!(bounded(nested.len(), || decode(kind.name(), kind.version(), &nested)).is_err());
    }
}

#[test]
fn the_allocator_counts_memory_beyond_the_input() {
    let greedy = || bounded(1000, || std::hint::black_box(vec![1_u8; 32 << 20]).len());
    assert!(std::panic::catch_unwind(greedy).is_err());
}
