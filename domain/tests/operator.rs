//! Operator commands and their effect on an experiment.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot continue fails")]

mod support;

use std::convert::Infallible;

use dissent_domain::event::{
    Event, EventId, ExperimentCancelled, ExperimentStarted, NewEvent, Recorded, follow_from,
};
use dissent_domain::fork::{ForkBuilder, ForkError};
use dissent_domain::id::ExperimentId;
use dissent_domain::journal::{Decision, Ledger};
use dissent_domain::operator::{
    Action, BY_BYTES_MAX, ExperimentStatus, OperatorCommand, REASON_BYTES_MAX, created,
};
use dissent_domain::rejection::{CommandRejection, Rejection};
use dissent_domain::replay::{Difference, Replay, ReplayError};

use support::{History, plan, replayed};

const PROMPTS: u32 = 3;

/// A ledger and its recorded history.
#[derive(Default)]
struct Bench {
    ledger: Ledger,
    recorded: Vec<Recorded>,
}

fn command(action: Action) -> OperatorCommand {
    OperatorCommand { action, by: "ann".into(), reason: None }
}

impl Bench {
    fn started() -> Self {
        let mut bench = Self::default();
        let (plan, id) = (plan(PROMPTS), EventId::of_experiment(&plan(PROMPTS).experiment));
        let started = NewEvent::new(id, None, "test", 0, &ExperimentStarted::new(plan).into()).unwrap();
        bench.propose(vec![started]).unwrap();
        bench
    }

    fn record(&mut self, events: Vec<NewEvent>) {
        for event in events {
            let position = self.recorded.len() as u64 + 1;
            let experiment = plan(PROMPTS).experiment;
            if self.recorded.iter().all(|known| known.event.id != event.id) {
                self.recorded.push(Recorded { position, experiment, version: position, event });
            }
        }
    }

    fn propose(&mut self, events: Vec<NewEvent>) -> Result<(), Rejection> {
        let is_known = |id| Ok::<_, Infallible>(self.recorded.iter().any(|recorded| recorded.event.id == id));
        let Ok(decision) = self.ledger.decide(&plan(PROMPTS).experiment, &events, 0, is_known);
        match decision {
            Decision::Accepted(accepted) => {
                self.record(accepted.append.events);
                Ok(())
            }
            Decision::Rejected(reason) => Err(reason),
        }
    }

    /// Gives a command. Returns whether it caused an event.
    fn command(&mut self, action: Action) -> Result<bool, Rejection> {
        let append = self.ledger.command(&command(action), 0)?;
        let is_new = append.is_some();
        self.record(append.map_or_else(Vec::new, |append| append.events));
        Ok(is_new)
    }

    fn conclude(&mut self) -> Result<(), Rejection> {
        let due = self.ledger.experiment().due().unwrap();
        self.propose(follow_from(due.cause, "round", 0, &due.events).unwrap())
    }

    fn status(&self) -> ExperimentStatus {
        self.ledger.experiment().status()
    }
}

#[test]
fn a_paused_experiment_has_no_conclusions_until_it_resumes() {
    let mut bench = Bench::started();
    let due = bench.ledger.experiment().due().unwrap();
    let opens = follow_from(due.cause, "round", 0, &due.events).unwrap();
    assert!(bench.command(Action::Pause).unwrap());
    assert_eq!(bench.ledger.experiment().due(), None);
    assert_eq!(bench.propose(opens.clone()), Err(Rejection::Paused));
    assert!(bench.command(Action::Resume).unwrap());
    bench.propose(opens).unwrap();
    // A second pause, with other ids.
    assert!(bench.command(Action::Pause).unwrap() && bench.command(Action::Resume).unwrap());
    assert_eq!(replayed(&bench.recorded).unwrap().experiment(), bench.ledger.experiment());
    assert_eq!(bench.recorded.len(), 6);
}

#[test]
fn work_in_progress_is_recorded_during_a_pause() {
    let mut calm = History::start(PROMPTS);
    let admitted = calm.admit_all(PROMPTS);
    (0..PROMPTS).for_each(|index| calm.process(index, admitted[index as usize], false));
    calm.coordinate();

    let mut bench = Bench::started();
    bench.conclude().unwrap();
    bench.command(Action::Pause).unwrap();
    let conclusions = ["round", "experiment", "conflict.pair_selected"];
    let by_steps = |recorded: &&Recorded| {
        let kind = &recorded.event.event_type;
        !conclusions.iter().any(|conclusion| kind.starts_with(conclusion))
    };
    for recorded in calm.recorded.iter().filter(by_steps) {
        bench.propose(vec![recorded.event.clone()]).unwrap();
    }
    bench.command(Action::Resume).unwrap();
    while bench.ledger.experiment().due().is_some() {
        bench.conclude().unwrap();
    }
    assert_eq!(bench.status(), ExperimentStatus::Finished);
    assert_eq!(bench.ledger.experiment().state_hash(), calm.experiment.state_hash());
    replayed(&bench.recorded).unwrap();
}

#[test]
fn a_cancelled_experiment_rejects_every_event() {
    let mut bench = Bench::started();
    let due = bench.ledger.experiment().due().unwrap();
    let before = bench.ledger.experiment().state_hash();
    assert!(bench.command(Action::Cancel).unwrap());
    assert!(bench.ledger.experiment().is_over() && bench.ledger.experiment().due().is_none());
    assert_ne!(bench.ledger.experiment().state_hash(), before);
    let opens = follow_from(due.cause, "round", 0, &due.events).unwrap();
    assert_eq!(bench.propose(opens), Err(Rejection::Cancelled));
    assert!(!bench.command(Action::Cancel).unwrap(), "it is already cancelled");
    for action in [Action::Start, Action::Pause, Action::Resume] {
        assert_eq!(bench.command(action), Err(Rejection::Cancelled));
    }
    replayed(&bench.recorded).unwrap();
}

#[test]
fn repeated_commands_have_no_effect_and_impossible_ones_are_rejected() {
    let mut bench = Bench::started();
    assert!(!bench.command(Action::Start).unwrap() && !bench.command(Action::Resume).unwrap());
    bench.conclude().unwrap();
    assert!(bench.command(Action::Pause).unwrap());
    assert!(!bench.command(Action::Pause).unwrap());
    assert_eq!(bench.command(Action::Start), Err(CommandRejection::StartedBefore.into()));
    let mut long = command(Action::Cancel);
    long.by = "x".repeat(BY_BYTES_MAX + 1);
    assert_eq!(bench.ledger.command(&long, 0), Err(CommandRejection::OperatorTooLong.into()));
    long = OperatorCommand { reason: Some("x".repeat(REASON_BYTES_MAX + 1)), ..command(Action::Cancel) };
    assert_eq!(bench.ledger.command(&long, 0), Err(CommandRejection::ReasonTooLong.into()));
    assert_eq!(bench.status(), ExperimentStatus::Paused);
    assert_eq!(Ledger::default().command(&command(Action::Pause), 0), Err(Rejection::NotStarted));
}

#[test]
fn steps_cannot_propose_operator_commands() {
    let mut bench = Bench::started();
    let cancelled = ExperimentCancelled { by: "a worker".into(), reason: None };
    let start = EventId::of_experiment(&plan(PROMPTS).experiment);
    let events = follow_from(start, "generation", 0, &[cancelled.into()]).unwrap();
    assert_eq!(bench.propose(events), Err(Rejection::NotAStep));
    assert_eq!(bench.status(), ExperimentStatus::Running);
}

#[test]
fn a_created_experiment_waits_for_its_start() {
    let mut bench = Bench::started();
    let pause = created(&plan(PROMPTS), "ann".into(), 0).unwrap();
    bench.record(vec![pause]);
    bench.ledger = replayed(&bench.recorded).unwrap().into();
    assert_eq!((bench.status(), bench.ledger.experiment().due()), (ExperimentStatus::Created, None));
    assert!(bench.command(Action::Start).unwrap());
    bench.conclude().unwrap();
    assert_eq!(bench.status(), ExperimentStatus::Running);
    replayed(&bench.recorded).unwrap();
}

#[track_caller]
fn assert_differs(error: &ReplayError, expected: &Difference) {
    let ReplayError::Differs { difference, .. } = error else { panic!("{error}") };
    assert_eq!(format!("{difference:?}"), format!("{expected:?}"));
}

#[test]
fn a_replay_finds_a_command_that_the_history_does_not_allow() {
    let mut bench = Bench::started();
    bench.command(Action::Pause).unwrap();
    bench.command(Action::Resume).unwrap();
    let mut twice = bench.recorded.clone();
    twice.remove(1);
    twice[1].version = 2;
    let rejected = Difference::Rejected(CommandRejection::OtherPause.into());
    assert_differs(&replayed(&twice).unwrap_err(), &rejected);
    let mut made_up = bench.recorded.clone();
    let event = Event::from(ExperimentCancelled { by: String::new(), reason: None });
    let cause = made_up[1].event.id;
    let new = follow_from(cause, "operator", 0, &[event]).unwrap().remove(0);
    made_up.push(Recorded { position: 4, version: 4, event: new, ..made_up[0].clone() });
    assert_differs(&replayed(&made_up).unwrap_err(), &Difference::CommandCause);
}

#[test]
fn a_fork_of_a_paused_experiment_runs_and_a_fork_after_a_cancellation_is_rejected() {
    let mut bench = Bench::started();
    bench.command(Action::Pause).unwrap();
    let name = ExperimentId::new("fork").unwrap();
    let (mut forking, mut replay) = (ForkBuilder::new(name.clone()), Replay::verifying());
    let mut events: Vec<NewEvent> = Vec::new();
    for recorded in &bench.recorded {
        events.push(forking.share(recorded).unwrap());
    }
    let mut forked = plan(PROMPTS);
    forked.experiment = name.clone();
    events.push(forking.fork(plan(PROMPTS).experiment, forked.clone(), 0).unwrap());
    for (version, event) in (1..).zip(events) {
        replay.apply(&Recorded { position: version, experiment: name.clone(), version, event }).unwrap();
    }
    assert_eq!(replay.experiment().status(), ExperimentStatus::Running);
    // A new pause of the fork has another id than the shared pause.
    let mut ledger = Ledger::from(replay);
    assert!(ledger.command(&command(Action::Pause), 0).unwrap().is_some());
    assert_eq!(ledger.experiment().paused().unwrap().number, 1);

    bench.command(Action::Cancel).unwrap();
    let mut forking = ForkBuilder::new(name);
    bench.recorded.iter().for_each(|recorded| drop(forking.share(recorded).unwrap()));
    let refused = forking.fork(plan(PROMPTS).experiment, forked, 0).unwrap_err();
    assert!(matches!(refused, ForkError::Rejected(Rejection::Cancelled)), "{refused}");
}
