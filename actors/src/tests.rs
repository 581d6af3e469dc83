//! Steps on a real log and broker, with a fake generation step.

mod learning;
pub(crate) mod stalling_store;

use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use dissent_domain::conflict::{LogprobKind, SelectionSettings};
use dissent_domain::event::{
    CompletionsSampled, Event, EventBody as _, EventId, EventType, ExperimentStarted, NewEvent,
    PromptAdmitted, PromptSetAside, RoundClosed, StepName, follow_from,
};
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_domain::weight_form::WeightForm;
use dissent_models::{InvalidKind, ModelError};
use dissent_queues::{Broker, EmbeddedBroker, EmbeddedOptions, Proposal, ProposalReply};
use dissent_storage::MemoryLog;
use tokio::sync::watch;

use crate::error::{RunFailure, StepError, StepFault};
use crate::journal::{self, Adopt, Journal};
use crate::process::step_set::subscriptions;
use crate::runner::context::StepContext;
use crate::runner::failure::Failure;
use crate::runner::gate::Gate;
use crate::runner::known::KnownHistory;
use crate::runner::step::{AnyStep, Consequence, Received, Step};
use crate::runner::stop::StopSwitch;
use crate::runner::turns::Turns;
use crate::runner::{self, propose, redelivery, set_aside};
use crate::state::States;
use crate::state::progress::Progress;
use crate::steps::PIPELINE;
use crate::steps::prompt::PromptStep;
use crate::steps::round::RoundStep;

/// The fault of the fake generation step for the prompt `p1`; the prompt `p0` always works.
#[derive(Clone, Copy)]
enum Fault {
    None,
    /// The first completions break the rules.
    InvalidCompletions,
    /// The first attempt returns no event.
    NoEvent,
    Retry,
    SetAside,
    Panic,
}

struct FakeGeneration(Fault);

impl Step for FakeGeneration {
    const NAME: StepName = StepName::Generation;
    type Input = PromptAdmitted;

    fn batch(&self) -> usize {
        2
    }

    fn handle(&mut self, received: &Received<PromptAdmitted>) -> Result<Consequence, StepError> {
        self.sample(received)
    }
}

impl FakeGeneration {
    fn sample(&mut self, received: &Received<PromptAdmitted>) -> Result<Consequence, StepError> {
        let admitted = &received.event;
        let mut logprob = -1.0;
        match self.0 {
            _ if admitted.prompt.prompt_id.as_str() == "p0" => {}
            Fault::None => {}
            Fault::InvalidCompletions => {
                self.0 = Fault::None;
                logprob = f64::NAN;
            }
            Fault::NoEvent => {
                self.0 = Fault::None;
                return Ok(received.leads_to([]));
            }
            Fault::Retry => return Err(StepError::retry(ModelError::Runtime("no memory".into()))),
            Fault::SetAside => {
                return Err(StepError::set_aside(ModelError::invalid(InvalidKind::Empty, "too long")));
            }
            Fault::Panic => panic!("a bug"),
        }
        let completion =
            Completion { token_ids: vec![1], text: "yes".into(), logprob, finish_reason: FinishReason::Stop };
        let sampled = CompletionsSampled {
            round: 0,
            prompt: admitted.prompt.clone(),
            policy: "policy".into(),
            prompt_token_ids: vec![1],
            completions: vec![completion; 2],
        };
        Ok(received.leads_to([sampled.into()]))
    }
}

fn prompts() -> Vec<Prompt> {
    let prompt = |id: &str| Prompt {
        prompt_id: PromptId::new(id).unwrap(),
        text: "?".into(),
        category: None,
        messages: Vec::new(),
    };
    vec![prompt("p0"), prompt("p1")]
}

pub(crate) fn plan() -> Plan {
    Plan {
        experiment: ExperimentId::new("test").unwrap(),
        seed: 0,
        rounds: 1,
        prompts: PromptSource { artifact: String::new(), count: 2 },
        policy: PolicyPlan {
            name: "policy".into(),
            fingerprint: "policy".into(),
            template: "raw".into(),
            weights: WeightForm::F32,
        },
        reward: RewardPlan {
            name: "proxy".into(),
            fingerprint: "proxy".into(),
            template: "raw".into(),
            kind: RewardKind::Reward,
            output: None,
        },
        sampling: SamplingParams { samples: 2, ..SamplingParams::default() },
        conflict: ConflictPlan { logprob: LogprobKind::Sum, selection: SelectionSettings::default() },
        learning: None,
        reading_rules: 1,
        sampling_key: None,
    }
}

/// The journal, the round step, the prompt step and the fake generation step over one log.
struct Bench {
    log: Arc<MemoryLog>,
    broker: Arc<EmbeddedBroker>,
    states: States,
    progress: watch::Receiver<Progress>,
    failed: watch::Receiver<Option<RunFailure>>,
    _arbiter: Arbiter,
    _stop: StopSwitch,
}

impl Bench {
    fn start(fault: Fault) -> Self {
        Self::with_patience(fault, redelivery::PATIENCE)
    }

    fn with_patience(fault: Fault, patience: Duration) -> Self {
        let log = Arc::new(MemoryLog::default());
        let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
        let states = States::default();
        let experiment = plan().experiment;
        states.load(&*log, &experiment, None).unwrap();
        let (failure, failed) = Failure::new();
        let (sender, progress) = watch::channel(Progress::default());
        let arbiter = Arbiter::new();
        let mut journal = Journal::new(log.clone(), states.clone(), failure.clone());
        let adopt = Adopt { experiment: experiment.clone(), progress: sender, check: None };
        let rejections = journal.adopt(adopt);
        journal::start(journal, &*broker, &arbiter.handle()).unwrap();
        let (stop, stopped) = StopSwitch::new();
        let context = StepContext {
            experiment: experiment.clone(),
            broker: broker.clone(),
            failure,
            known: KnownHistory::all(),
            gate: Gate::of(progress.clone()),
            pipeline: &PIPELINE,
            stop: stopped,
            states: states.clone(),
            turns: Turns::default(),
        };
        actix::spawn(set_aside::run(broker.parked(&experiment).unwrap(), context.clone()));
        let round = crate::runner::context::group(StepName::Round, &experiment);
        let steps = subscriptions(&plan(), 1).into_iter().filter(|step| step.group != round).collect();
        let (states_seen, log_read) = (states.clone(), log.clone());
        actix::spawn(redelivery::watch(states_seen, log_read, steps, patience, rejections, context.clone()));
        runner::start(RoundStep::new(states.clone(), experiment), &context).unwrap();
        runner::start(PromptStep::new(prompts()), &context).unwrap();
        runner::start(FakeGeneration(fault), &context).unwrap();
        Self { log, broker, states, progress, failed, _arbiter: arbiter, _stop: stop }
    }

    async fn propose(&self, events: Vec<NewEvent>) -> ProposalReply {
        let proposal = Proposal { experiment: plan().experiment, cause: None, events };
        self.broker.propose(proposal).await.unwrap()
    }

    async fn begin(&self) -> ProposalReply {
        let id = EventId::of_experiment(&plan().experiment);
        let event = ExperimentStarted::new(plan()).into();
        self.propose(vec![NewEvent::new(id, None, "test", 0, &event).unwrap()]).await
    }

    async fn until(&mut self, reached: impl Fn(&Progress) -> bool) {
        let waited =
            tokio::time::timeout(Duration::from_secs(30), self.progress.wait_for(|now| reached(now)));
        waited.await.expect("the pipeline gets there in time").unwrap();
    }

    fn events(&self) -> Vec<Event> {
        self.log.read(0, usize::MAX).unwrap().iter().map(|recorded| recorded.decode().unwrap()).collect()
    }

    fn set_aside(&self) -> Vec<(String, String)> {
        let events = self.events();
        let reasons = events.iter().filter_map(|event| {
            let e = event.body::<PromptSetAside>()?;
            Some((e.prompt_id.to_string(), e.reason.clone()))
        });
        reasons.collect()
    }
}

#[test]
fn prompts_are_admitted_and_sampled() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::None);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        assert_eq!(bench.states.progress(&plan().experiment).counts.completions, 4);
    });
}

#[test]
fn a_prompt_that_always_fails_is_retried_and_then_set_aside() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::Retry);
        bench.begin().await;
        bench.until(|progress| progress.counts.set_aside == 1).await;
        let set_aside = bench.set_aside();
        assert_eq!(set_aside[0].0, "p1");
        assert!(set_aside[0].1.contains("gave up after 4 attempts: no memory"), "{set_aside:?}");
        bench.until(|progress| progress.counts.sampled == 1).await;
    });
}

#[test]
fn a_prompt_that_does_not_fit_is_set_aside_at_once() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::SetAside);
        bench.begin().await;
        bench.until(|progress| progress.counts.set_aside == 1).await;
        assert_eq!(bench.set_aside(), [("p1".to_owned(), "too long".to_owned())]);
    });
}

#[test]
fn the_cause_of_a_rejected_proposal_is_redelivered() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::InvalidCompletions);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        assert!(bench.set_aside().is_empty());
    });
}

#[test]
fn an_unanswered_event_is_redelivered_after_a_while() {
    actix::System::new().block_on(async {
        let mut bench = Bench::with_patience(Fault::NoEvent, Duration::from_millis(400));
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        assert!(bench.set_aside().is_empty());
    });
}

#[test]
fn a_panic_stops_the_pipeline_and_the_failure_names_the_step() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::Panic);
        bench.begin().await;
        let failed = tokio::time::timeout(Duration::from_secs(30), bench.failed.wait_for(Option::is_some));
        let failure = failed.await.expect("the run fails in time").unwrap().clone().unwrap();
        let RunFailure::Step { step: StepName::Generation, source: StepFault::Panicked(message) } = failure
        else {
            panic!("{failure:?}")
        };
        assert_eq!(message, "a bug");
    });
}

#[test]
fn proposals_beyond_the_mailbox_of_a_starting_journal_are_all_answered() {
    actix::System::new().block_on(async {
        let log = Arc::new(MemoryLog::default());
        let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
        let started = NewEvent::new(
            EventId::of_experiment(&plan().experiment),
            None,
            "test",
            0,
            &ExperimentStarted::new(plan()).into(),
        );
        let proposal =
            Proposal { experiment: plan().experiment, cause: None, events: vec![started.unwrap()] };
        // More than the mailbox of an actor holds before the actor runs.
        let waiting: Vec<_> = (0..64)
            .map(|_| {
                let (broker, proposal) = (broker.clone(), proposal.clone());
                actix::spawn(async move { broker.propose(proposal).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let arbiter = Arbiter::new();
        // The journal cannot run before its intake has received more proposals than its mailbox holds.
        let (release, held) = std::sync::mpsc::channel::<()>();
        arbiter.spawn_fn(move || held.recv().unwrap_or_default());
        let (failure, failed) = Failure::new();
        let (progress, _) = watch::channel(Progress::default());
        let states = States::default();
        states.load(&*log, &plan().experiment, None).unwrap();
        let mut journal = Journal::new(log, states, failure);
        let _rejections = journal.adopt(Adopt { experiment: plan().experiment, progress, check: None });
        let in_flight = Arc::new(tokio::sync::Semaphore::new(64));
        journal::start_bounded(journal, &*broker, &arbiter.handle(), in_flight.clone()).unwrap();
        let full = async {
            while in_flight.available_permits() > 64 - 17 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), full).await.expect("the mailbox fills up");
        release.send(()).unwrap();
        for answered in waiting {
            let answer = tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap().unwrap();
            assert!(matches!(answer, Ok(ProposalReply::Recorded(_))), "{answer:?}, {:?}", failed.borrow());
        }
    });
}

#[test]
fn a_repeated_proposal_is_recorded_once_and_answered_with_the_original() {
    actix::System::new().block_on(async {
        let bench = Bench::start(Fault::None);
        let (first, second) = (bench.begin().await, bench.begin().await);
        assert!(matches!(first, ProposalReply::Recorded(_)));
        assert_eq!(first, second);
    });
}

#[test]
fn a_rejected_proposal_changes_nothing() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::None);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        let before = bench.events();
        let closed = RoundClosed { round: 0 }.into();
        let cause = EventId::of_experiment(&plan().experiment);
        let answer = bench.propose(follow_from(cause, "test", 0, &[closed]).unwrap()).await;
        assert!(matches!(answer, ProposalReply::Rejected { .. }), "{answer:?}");
        assert_eq!(before, bench.events());
    });
}

#[test]
fn an_event_with_a_foreign_id_is_rejected() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Fault::None);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        let before = bench.events();
        // The rules allow the event, because the prompt waits for its reward. Only its id is wrong.
        let aside = bench.log.read(0, usize::MAX).unwrap().into_iter().find_map(|recorded| {
            propose::set_aside(&recorded, StepName::Reward, "no reason")
                .map(|event| (recorded.event.id, event))
        });
        let (cause, event) = aside.unwrap();
        let mut proposed = follow_from(cause, "test", 0, &[event]).unwrap();
        proposed[0].id = proposed[0].id.caused("another", 0);
        let ProposalReply::Rejected { reason } = bench.propose(proposed).await else {
            panic!("it is accepted")
        };
        assert!(reason.contains("must have the cause") && reason.contains("not the id"), "{reason}");
        assert_eq!(before, bench.events());
    });
}

#[test]
fn a_wrong_event_is_fatal_and_names_event_and_step() {
    let id = EventId::of_experiment(&plan().experiment);
    let wrong = Received { id, causation: None, event: RoundClosed { round: 0 }.into() };
    let outcomes = FakeGeneration(Fault::None).handle_events(vec![wrong.clone(), wrong]);
    let [Err(StepError::Fatal(first)), Err(StepError::Fatal(second))] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    let wrong = (StepName::Generation, id, EventType::RoundClosed, PromptAdmitted::EVENT_TYPE);
    for fault in [first, second] {
        let StepFault::WrongInput { step, id, received, handled } = fault else { panic!("{fault:?}") };
        assert_eq!((*step, *id, *received, *handled), wrong);
    }
}
