//! Steps at work on a real log and broker, with a stand-in for what they compute.

mod learning;

use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use dissent_domain::conflict::{LogprobKind, SelectionSettings};
use dissent_domain::event::{
    CompletionsSampled, Event, EventId, EventType, ExperimentStarted, NewEvent, StepName, follow_from,
};
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_queues::{Broker, EmbeddedBroker, EmbeddedOptions, Proposal, ProposalReply};
use dissent_storage::MemoryLog;
use tokio::sync::watch;

use crate::gate::Gate;
use crate::journal::{self, Journal, States};
use crate::neglect;
use crate::progress::Progress;
use crate::prompt::Prompts;
use crate::round::Coordinator;
use crate::set_aside;
use crate::step::{self, Consequence, Failure, Known, Perform, Received, StepError, Surroundings, follows};

/// What the stand-in policy does with the prompt `p1`; `p0` it always answers.
#[derive(Clone, Copy)]
enum Mishap {
    None,
    /// Its first answer is against the rules.
    Nonsense,
    /// It has no answer at first.
    Silence,
    Retry,
    SetAside,
    Panic,
}

struct StandIn(Mishap);

impl Perform for StandIn {
    const STEP: StepName = StepName::Generation;
    const CONSUMES: &'static [EventType] = &[EventType::PromptAdmitted];

    fn batch(&self) -> usize {
        2
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch.iter().map(|received| self.answer(received)).collect()
    }
}

impl StandIn {
    fn answer(&mut self, received: &Received) -> Result<Consequence, StepError> {
        let Event::PromptAdmitted(admitted) = &received.event else { return Ok(follows(received, [])) };
        let mut logprob = -1.0;
        match self.0 {
            _ if admitted.prompt.prompt_id.as_str() == "p0" => {}
            Mishap::None => {}
            Mishap::Nonsense => {
                self.0 = Mishap::None;
                logprob = f64::NAN;
            }
            Mishap::Silence => {
                self.0 = Mishap::None;
                return Ok(follows(received, []));
            }
            Mishap::Retry => return Err(StepError::Retry("no memory".into())),
            Mishap::SetAside => return Err(StepError::SetAside("too long".into())),
            Mishap::Panic => panic!("a bug"),
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
        Ok(follows(received, [sampled.into()]))
    }
}

fn prompts() -> Vec<Prompt> {
    let prompt =
        |id: &str| Prompt { prompt_id: PromptId::new(id).unwrap(), text: "?".into(), category: None };
    vec![prompt("p0"), prompt("p1")]
}

fn plan() -> Plan {
    Plan {
        experiment: ExperimentId::new("test").unwrap(),
        seed: 0,
        rounds: 1,
        prompts: PromptSource { artifact: String::new(), count: 2 },
        policy: PolicyPlan { name: "policy".into(), fingerprint: "policy".into(), template: "raw".into() },
        reward: RewardPlan {
            name: "proxy".into(),
            fingerprint: "proxy".into(),
            template: "raw".into(),
            kind: RewardKind::Reward,
        },
        sampling: SamplingParams { samples: 2, ..SamplingParams::default() },
        conflict: ConflictPlan { logprob: LogprobKind::Sum, selection: SelectionSettings::default() },
        learning: None,
    }
}

/// Journal, coordinator, prompt step and stand-in over one log.
struct Bench {
    log: Arc<MemoryLog>,
    broker: Arc<EmbeddedBroker>,
    states: States,
    progress: watch::Receiver<Progress>,
    failed: watch::Receiver<Option<String>>,
    _arbiter: Arbiter,
}

impl Bench {
    fn start(mishap: Mishap) -> Self {
        Self::with_patience(mishap, neglect::PATIENCE)
    }

    fn with_patience(mishap: Mishap, patience: Duration) -> Self {
        let log = Arc::new(MemoryLog::default());
        let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
        let states = States::default();
        let experiment = plan().experiment;
        states.load(&*log, &experiment, None).unwrap();
        let (failure, failed) = Failure::new();
        let (sender, progress) = watch::channel(Progress::default());
        let arbiter = Arbiter::new();
        let (journal, rejections) = Journal::new(log.clone(), states.clone(), sender, failure.clone(), None);
        journal::start(journal, &*broker, &arbiter.handle()).unwrap();
        let (known, gate) = (Known::all(), Gate::of(progress.clone()));
        let around =
            Surroundings { experiment: experiment.clone(), broker: broker.clone(), failure, known, gate };
        actix::spawn(set_aside::run(broker.parked().unwrap(), around.clone()));
        actix::spawn(neglect::watch(
            states.clone(),
            log.clone(),
            &plan(),
            patience,
            rejections,
            around.clone(),
        ));
        step::start(Coordinator::new(states.clone(), experiment), &around).unwrap();
        step::start(Prompts::new(prompts()), &around).unwrap();
        step::start(StandIn(mishap), &around).unwrap();
        Self { log, broker, states, progress, failed, _arbiter: arbiter }
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
        waited.await.expect("the pipeline gets there").unwrap();
    }

    fn events(&self) -> Vec<Event> {
        self.log.read(0, usize::MAX).unwrap().iter().map(|recorded| recorded.decode().unwrap()).collect()
    }

    fn set_aside(&self) -> Vec<(String, String)> {
        let events = self.events();
        let reasons = events.iter().filter_map(|event| {
            let Event::PromptSetAside(e) = event else { return None };
            Some((e.prompt_id.to_string(), e.reason.clone()))
        });
        reasons.collect()
    }
}

#[test]
fn prompts_are_admitted_and_answered() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::None);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        assert_eq!(bench.states.progress(&plan().experiment).counts.completions, 4);
    });
}

#[test]
fn a_prompt_that_always_fails_is_tried_again_and_then_set_aside() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::Retry);
        bench.begin().await;
        bench.until(|progress| progress.counts.set_aside == 1).await;
        let set_aside = bench.set_aside();
        assert_eq!(set_aside[0].0, "p1");
        assert!(set_aside[0].1.contains("gave up after 4 attempts: no memory"), "{set_aside:?}");
        bench.until(|progress| progress.counts.sampled == 1).await;
    });
}

#[test]
fn a_prompt_that_can_never_work_is_set_aside_at_once() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::SetAside);
        bench.begin().await;
        bench.until(|progress| progress.counts.set_aside == 1).await;
        assert_eq!(bench.set_aside(), [("p1".to_owned(), "too long".to_owned())]);
    });
}

#[test]
fn an_event_whose_answer_was_against_the_rules_is_delivered_again() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::Nonsense);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        assert!(bench.set_aside().is_empty());
    });
}

#[test]
fn an_event_that_nothing_came_of_is_delivered_again_after_a_while() {
    actix::System::new().block_on(async {
        let mut bench = Bench::with_patience(Mishap::Silence, Duration::from_millis(400));
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        assert!(bench.set_aside().is_empty());
    });
}

#[test]
fn a_panic_in_a_step_stops_the_pipeline_and_says_where() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::Panic);
        bench.begin().await;
        let failed = tokio::time::timeout(Duration::from_secs(30), bench.failed.wait_for(Option::is_some));
        let reason = failed.await.expect("it fails").unwrap().clone().unwrap();
        assert!(reason.contains("generation") && reason.contains("a bug"), "{reason}");
    });
}

#[test]
fn proposals_that_wait_when_the_journal_starts_are_all_answered() {
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
        // More than an actor's mailbox takes before the actor runs.
        let waiting: Vec<_> = (0..64)
            .map(|_| {
                let (broker, proposal) = (broker.clone(), proposal.clone());
                actix::spawn(async move { broker.propose(proposal).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let arbiter = Arbiter::new();
        arbiter.spawn_fn(|| std::thread::sleep(Duration::from_millis(200)));
        let (failure, failed) = Failure::new();
        let (progress, _) = watch::channel(Progress::default());
        let states = States::default();
        states.load(&*log, &plan().experiment, None).unwrap();
        let (journal, _) = Journal::new(log, states, progress, failure, None);
        journal::start(journal, &*broker, &arbiter.handle()).unwrap();
        for answered in waiting {
            let answer = tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap().unwrap();
            assert!(matches!(answer, Ok(ProposalReply::Recorded(_))), "{answer:?}, {:?}", failed.borrow());
        }
    });
}

#[test]
fn the_same_proposal_twice_is_recorded_once_and_answered_with_the_original() {
    actix::System::new().block_on(async {
        let bench = Bench::start(Mishap::None);
        let (first, second) = (bench.begin().await, bench.begin().await);
        assert!(matches!(first, ProposalReply::Recorded(_)));
        assert_eq!(first, second);
    });
}

#[test]
fn a_proposal_against_the_rules_is_rejected_and_changes_nothing() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::None);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        let before = bench.events();
        let closed = dissent_domain::event::RoundClosed { round: 0 }.into();
        let cause = EventId::of_experiment(&plan().experiment);
        let answer = bench.propose(follow_from(cause, "test", 0, &[closed]).unwrap()).await;
        assert!(matches!(answer, ProposalReply::Rejected { .. }), "{answer:?}");
        assert_eq!(before, bench.events());
    });
}

#[test]
fn what_happened_does_not_happen_again_under_another_name() {
    actix::System::new().block_on(async {
        let mut bench = Bench::start(Mishap::None);
        bench.begin().await;
        bench.until(|progress| progress.counts.sampled == 2).await;
        let before = bench.events();
        // The rules allow it: the prompt waits for its reward. Only its name gives it away.
        let aside = bench.log.read(0, usize::MAX).unwrap().into_iter().find_map(|recorded| {
            step::set_aside(&recorded, StepName::Reward, "no reason").map(|event| (recorded.event.id, event))
        });
        let (cause, event) = aside.unwrap();
        let mut proposed = follow_from(cause, "test", 0, &[event]).unwrap();
        proposed[0].id = proposed[0].id.caused("another", 0);
        let ProposalReply::Rejected { reason } = bench.propose(proposed).await else {
            panic!("it is accepted")
        };
        assert!(reason.contains("which makes its id"), "{reason}");
        assert_eq!(before, bench.events());
    });
}
