//! Decisions on proposals of untrusted processes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot continue fails")]

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;

use dissent_domain::event::{
    ConflictMeasured, Event, EventId, EventType, ExperimentStarted, NewEvent, PromptAdmitted, RewardsScored,
    follow_from,
};
use dissent_domain::event_ids::round_opened_id;
use dissent_domain::journal::{Accepted, Decision, Ledger};
use dissent_domain::rejection::Rejection;
use dissent_domain::round::PromptRejection;

use support::{plan, prompt, sampled, scores};

const PROMPTS: u32 = 3;

/// A ledger, and the ids that are durable.
#[derive(Default)]
struct Bench {
    ledger: Ledger,
    durable: BTreeSet<EventId>,
}

impl Bench {
    fn decide(&mut self, events: &[NewEvent]) -> Decision {
        let experiment = plan(PROMPTS).experiment;
        let durable = &self.durable;
        let Ok(decision) =
            self.ledger.decide(&experiment, events, 5, |id| Ok::<_, Infallible>(durable.contains(&id)));
        decision
    }

    #[track_caller]
    fn accept(&mut self, events: &[NewEvent]) -> Accepted {
        match self.decide(events) {
            Decision::Accepted(accepted) => accepted,
            Decision::Rejected(reason) => panic!("rejected: {reason}"),
        }
    }

    #[track_caller]
    fn reject(&mut self, events: &[NewEvent]) -> Rejection {
        let version = self.ledger.version();
        let rejection = match self.decide(events) {
            Decision::Rejected(rejection) => rejection,
            Decision::Accepted(accepted) => panic!("accepted: {:?}", accepted.fresh),
        };
        assert_eq!(self.ledger.version(), version);
        rejection
    }

    fn due(&self) -> Vec<NewEvent> {
        let due = self.ledger.experiment().due().unwrap();
        follow_from(due.cause, "round", 0, &due.events).unwrap()
    }

    /// An experiment with an open round and admitted prompts.
    fn admitted() -> Self {
        let mut bench = Self::default();
        bench.accept(&[started()]);
        let opened = bench.due();
        bench.accept(&opened);
        bench.accept(&prompts());
        bench
    }

    /// An experiment with measured prompts: the conclusion of the round is due.
    fn measured() -> Self {
        let mut bench = Self::admitted();
        for index in 0..PROMPTS {
            let admitted = round_opened_id(&plan(PROMPTS), 0).caused("prompt.admitted", index);
            let sampled = following(admitted, sampled(index));
            let scored = following(sampled[0].id, scored(index));
            let conflict = dissent_domain::conflict::measure(&scores(index, 2), &scores(index, 1)).unwrap();
            let prompt_id = prompt(index).prompt_id;
            let measured = ConflictMeasured { round: 0, prompt_id, conflict, flags: Vec::new() };
            for events in [&sampled, &scored, &following(scored[0].id, measured.into())] {
                bench.accept(events);
            }
        }
        bench
    }
}

fn started() -> NewEvent {
    let plan = plan(PROMPTS);
    let id = EventId::of_experiment(&plan.experiment);
    NewEvent::new(id, None, "cli", 0, &ExperimentStarted { plan, program: None }.into()).unwrap()
}

fn following(cause: EventId, event: Event) -> Vec<NewEvent> {
    follow_from(cause, "test", 0, &[event]).unwrap()
}

fn scored(index: u32) -> Event {
    let (prompt_id, rewards) = (prompt(index).prompt_id, scores(index, 2));
    RewardsScored { round: 0, prompt_id, reward_model: "r".to_owned(), rewards }.into()
}

fn admit(index: u32) -> Event {
    PromptAdmitted { round: 0, index, prompt: prompt(index) }.into()
}

fn prompts() -> Vec<NewEvent> {
    let events: Vec<Event> = (0..PROMPTS).map(admit).collect();
    follow_from(round_opened_id(&plan(PROMPTS), 0), "prompt", 0, &events).unwrap()
}

fn first_admitted() -> EventId {
    round_opened_id(&plan(PROMPTS), 0).caused("prompt.admitted", 0)
}

#[test]
fn an_accepted_event_is_not_decided_again_before_it_is_durable() {
    let mut bench = Bench::admitted();
    let events = following(first_admitted(), sampled(0));
    assert_eq!(bench.accept(&events).fresh.len(), 1);
    let version = bench.ledger.version();
    let again = bench.accept(&events);
    assert_eq!((again.fresh.len(), again.append.events.len(), bench.ledger.version()), (0, 1, version));
    bench.durable.insert(events[0].id);
    assert_eq!(bench.accept(&events).fresh, []);
}

#[test]
fn an_event_repeated_in_a_proposal_is_recorded_once() {
    let mut bench = Bench::admitted();
    let events = following(first_admitted(), sampled(0));
    let accepted = bench.accept(&[events.clone(), events].concat());
    assert_eq!(accepted.fresh.len(), 1);
    assert_eq!(bench.ledger.experiment().rounds()[0].counts().sampled, 1);
}

#[test]
fn two_events_for_one_prompt_in_a_proposal_are_rejected() {
    let mut bench = Bench::admitted();
    let twice = follow_from(first_admitted(), "test", 0, &[sampled(0), sampled(0)]).unwrap();
    assert!(matches!(bench.reject(&twice), Rejection::WrongCause { .. }));
    let mut prompts = Bench::default();
    prompts.accept(&[started()]);
    let opened = prompts.due();
    prompts.accept(&opened);
    let same = PromptAdmitted { round: 0, index: 1, prompt: prompt(0) }.into();
    let events = follow_from(round_opened_id(&plan(PROMPTS), 0), "prompt", 0, &[admit(0), same]).unwrap();
    assert_eq!(prompts.reject(&events), Rejection::NotTogether);
}

#[test]
fn an_event_needs_its_one_possible_cause() {
    let mut bench = Bench::admitted();
    let other = following(EventId::of_experiment(&plan(1).experiment), sampled(0));
    assert!(matches!(bench.reject(&other), Rejection::WrongCause { .. }));
    let mut events = following(first_admitted(), sampled(0));
    events[0].causation = None;
    let cause = first_admitted();
    let id = events[0].id;
    let event_type = EventType::CompletionsSampled;
    let rejection = bench.reject(&events);
    assert_eq!(rejection, Rejection::WrongCause { event_type, cause, id, found: id });
    let text = format!(
        "generation.completions_sampled must have the cause {cause} and the id {id}, not the id {id}"
    );
    assert_eq!(rejection.to_string(), text);
}

#[test]
fn an_experiment_is_started_under_its_own_name() {
    let mut bench = Bench::default();
    let other = NewEvent { id: first_admitted(), ..started() };
    assert_eq!(bench.reject(&[other]), Rejection::OtherExperiment);
}

#[test]
fn figures_that_are_not_finite_are_rejected() {
    let mut bench = Bench::admitted();
    let completions = following(first_admitted(), sampled(0));
    bench.accept(&completions);
    let rewards = following(completions[0].id, scored(0));
    bench.accept(&rewards);
    let mut conflict = dissent_domain::conflict::measure(&scores(0, 2), &scores(0, 1)).unwrap();
    conflict.pacs[1] = f64::NAN;
    let prompt_id = prompt(0).prompt_id;
    let measured = ConflictMeasured { round: 0, prompt_id: prompt_id.clone(), conflict, flags: Vec::new() };
    let rejection = bench.reject(&following(rewards[0].id, measured.into()));
    assert_eq!(rejection, Rejection::Prompt { prompt_id, reason: PromptRejection::ConflictNotFinite });
}

#[test]
fn the_ledger_lists_unanswered_events() {
    let mut bench = Bench::default();
    assert_eq!(bench.ledger.unanswered(), []);
    bench.accept(&[started()]);
    let opened = bench.due();
    bench.accept(&opened);
    assert_eq!(bench.ledger.unanswered(), [opened[0].id]);
    bench.accept(&prompts());
    let mut waiting: Vec<_> = prompts().iter().map(|event| event.id).collect();
    assert_eq!(bench.ledger.unanswered(), waiting);
    let sampled = following(first_admitted(), sampled(0));
    bench.accept(&sampled);
    waiting[0] = sampled[0].id;
    assert_eq!(bench.ledger.unanswered(), waiting);
    assert_eq!(Bench::measured().ledger.unanswered(), []);
}

#[test]
fn conclusions_must_be_the_due_events_in_sequence() {
    let mut bench = Bench::measured();
    let due = bench.due();
    assert!(due.len() > 3, "{}", due.len());
    let (first, rest) = due.split_at(2);
    assert_eq!(bench.reject(rest), Rejection::NotNext);
    assert_eq!(bench.reject(&[due[0].clone(), due[2].clone()]), Rejection::NotDue);
    let elsewhere = NewEvent { id: first_admitted().caused("elsewhere", 0), ..due[0].clone() };
    assert_eq!(bench.reject(&[elsewhere]), Rejection::NotDue);
    assert_eq!(bench.accept(first).fresh.len(), 2);
    assert_eq!(bench.accept(first).fresh.len(), 0);
    assert_eq!(bench.accept(rest).fresh.len(), rest.len());
    assert!(bench.ledger.experiment().rounds()[0].is_closed());
}
