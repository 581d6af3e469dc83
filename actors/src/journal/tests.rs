//! The journal while an artifact store stalls.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use actix::Arbiter;
use dissent_domain::conflict::{LogprobKind, SelectionSettings};
use dissent_domain::event::{
    Event, EventType, ExperimentStarted, NewEvent, PolicyEvaluated, PromptAdmitted, PromptSetAside, Stage,
    StepName, TrainingProgressed, TrainingStarted, decode, follow_from,
};
use dissent_domain::feedback::Opponent;
use dissent_domain::generation::SamplingParams;
use dissent_domain::id::PromptId;
use dissent_domain::log::ExpectedVersion;
use dissent_domain::operator::Action;
use dissent_domain::plan::{
    ConflictPlan, DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, GuardPlan,
    LearningPlan, Plan, PolicyPlan, PromptSource, RefinementPlan, RewardPlan, TuningPlan,
};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_domain::training::{Hyperparameters, PolicyObjective};
use dissent_domain::weight_form::WeightForm;
use dissent_queues::{EmbeddedBroker, EmbeddedOptions, MessageContext};
use dissent_storage::{ArtifactId, MemoryLog, StorageError};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::artifact_check::ReadArtifacts;
use super::artifact_check::tests::initial;
use super::checks::{CHECK_GRACE, CHECKS_MAX};
use super::operator::Control;
use super::*;
use crate::runner::propose::decision;
use crate::tests::stalling_store::{Keeps, StallingStore};

/// Longest wait of a test for something that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
const STALLED: &str = "stalled";
const OTHER: &str = "other";

fn id(name: &str) -> ExperimentId {
    ExperimentId::new(name).unwrap()
}

fn plan(name: &str) -> Plan {
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
            prompts: PromptSource { artifact: "1".repeat(64), count: 1 },
            samples: 1,
            gold: None,
        },
        guards: GuardPlan::default(),
    };
    Plan {
        experiment: id(name),
        seed: 0,
        rounds: 1,
        prompts: PromptSource { artifact: "0".repeat(64), count: 1 },
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
        sampling: SamplingParams::default(),
        conflict: ConflictPlan { logprob: LogprobKind::Sum, selection: SelectionSettings::default() },
        learning: Some(Box::new(learning)),
        reading_rules: 1,
        sampling_key: None,
    }
}

/// A history that the rules make.
#[derive(Default)]
struct History {
    experiment: Experiment,
    events: Vec<NewEvent>,
}

impl History {
    fn record(&mut self, new: NewEvent) -> EventId {
        let id = new.id;
        self.experiment.evolve(&decode(&new.event_type, new.schema_version, &new.body).unwrap());
        self.events.push(new);
        id
    }

    /// Records an event and everything that is due after it.
    fn follow(&mut self, cause: EventId, event: impl Into<Event>) -> EventId {
        let event = event.into();
        self.experiment.decide(&event).unwrap();
        let id = self.record(follow_from(cause, "test", 0, &[event]).unwrap().remove(0));
        self.conclude();
        id
    }

    fn conclude(&mut self) {
        while let Some(due) = self.experiment.due() {
            for new in follow_from(due.cause, "round", 0, &due.events).unwrap() {
                self.record(new);
            }
        }
    }

    fn last(&self, kind: EventType) -> EventId {
        self.events.iter().rev().find(|new| new.event_type == kind.name()).unwrap().id
    }

    /// A history in which a training of the policy runs: its only prompt is set aside.
    fn in_training(name: &str, lease: Duration) -> Self {
        let mut history = Self::default();
        let start = EventId::of_experiment(&id(name));
        let started = ExperimentStarted::new(plan(name)).into();
        history.record(NewEvent::new(start, None, "test", 0, &started).unwrap());
        history.conclude();
        history.follow(history.last(EventType::EvaluationRequested), evaluated());
        let prompt = Prompt {
            prompt_id: PromptId::new("p").unwrap(),
            text: "?".into(),
            category: None,
            messages: Vec::new(),
        };
        let aside = PromptSetAside {
            round: 0,
            prompt_id: prompt.prompt_id.clone(),
            step: StepName::Generation,
            reason: "too long".into(),
        };
        let opened = history.last(EventType::RoundOpened);
        let admitted = history.follow(opened, PromptAdmitted { round: 0, index: 0, prompt });
        history.follow(admitted, aside);
        let started = TrainingStarted {
            round: 0,
            stage: Stage::Policy,
            attempt: 0,
            worker: "worker".into(),
            lease_ms: u64::try_from(lease.as_millis()).unwrap(),
        };
        history.follow(history.last(EventType::TrainingRequested), started);
        history
    }
}

fn evaluated() -> PolicyEvaluated {
    PolicyEvaluated {
        evaluation: 0,
        policy: "policy".into(),
        reward_model: "proxy".into(),
        prompts: 1,
        completions: 1,
        gold_reward: None,
        proxy_reward: [0.0, 0.0],
        refined_reward: [0.0, 0.0],
        proxy_agreement: None,
        refined_agreement: None,
        mean_abs_pacs: None,
        kendall_tau: None,
        kl: 0.0,
        response_tokens: 1.0,
        stopped: 1.0,
        samples: None,
        by_prompt: None,
    }
}

/// A journal that hosts experiments in training, over one log and one store.
struct Bench {
    log: Arc<MemoryLog>,
    broker: Arc<EmbeddedBroker>,
    states: States,
    control: Control,
    limit: CheckLimit,
    failed: watch::Receiver<Option<RunFailure>>,
    _rejections: Vec<Rejections>,
    arbiter: Arbiter,
}

impl Bench {
    async fn start(store: &Arc<StallingStore>, names: &[&str]) -> Self {
        Self::start_with(store, names, Duration::from_secs(60), IN_FLIGHT_MAX).await
    }

    async fn start_with(
        store: &Arc<StallingStore>,
        names: &[&str],
        lease: Duration,
        in_flight: usize,
    ) -> Self {
        let log = Arc::new(MemoryLog::new());
        let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
        let (states, (failure, failed)) = (States::default(), Failure::new());
        let mut journal = Journal::new(log.clone(), states.clone(), failure);
        let (model, mut rejections) = (initial(None), Vec::new());
        for name in names {
            append(&log, name, lease).await;
            states.load(&*log, &id(name), None).unwrap();
            let check = ArtifactCheck::of(store.clone(), model.clone(), model.clone());
            let (progress, _) = watch::channel(states.progress(&id(name)));
            let adopt = Adopt { experiment: id(name), progress, check: Some(check) };
            rejections.push(journal.adopt(adopt));
        }
        let (idle, limit, arbiter) = (journal.idle_experiments(), journal.check_limit(), Arbiter::new());
        let permits = Arc::new(Semaphore::new(in_flight));
        let journal = start_bounded(journal, &*broker, &arbiter.handle(), permits).unwrap();
        let control = Control::new(journal, idle);
        Self { log, broker, states, control, limit, failed, _rejections: rejections, arbiter }
    }

    fn propose(&self, name: &str, event: TrainingProgressed) -> JoinHandle<ProposalReply> {
        let (broker, proposal) = (self.broker.clone(), self.proposal(name, event));
        actix::spawn(async move { broker.propose(proposal).await.unwrap() })
    }

    fn proposal(&self, name: &str, event: TrainingProgressed) -> Proposal {
        let lease = self.states.lease(&id(name)).expect("a training runs");
        let events = follow_from(lease.requested, "training", 0, &[event.into()]).unwrap();
        Proposal { experiment: id(name), cause: Some(lease.requested), events }
    }

    /// The sequence numbers of the recorded heartbeats of an experiment.
    fn heartbeats(&self, name: &str) -> Vec<u32> {
        let events = self.log.read_stream(&id(name), 0, usize::MAX).unwrap();
        let sequence = |recorded: &dissent_domain::event::Recorded| {
            let event = recorded.decode().unwrap();
            event.body().map(|e: &TrainingProgressed| e.sequence)
        };
        events.iter().filter_map(sequence).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.arbiter.stop();
        assert!(self.failed.borrow().is_none(), "{:?}", self.failed.borrow());
    }
}

async fn append(log: &MemoryLog, name: &str, lease: Duration) {
    let events = History::in_training(name, lease).events;
    let append = Append { experiment: id(name), expected: ExpectedVersion::NoStream, events };
    log.append(append).await.unwrap();
}

/// A heartbeat. With a checkpoint, the journal asks the store for it.
fn heartbeat(sequence: u32, has_checkpoint: bool) -> TrainingProgressed {
    TrainingProgressed {
        round: 0,
        stage: Stage::Policy,
        attempt: 0,
        sequence,
        step: 1,
        steps: 10,
        checkpoint: has_checkpoint.then(checkpoint),
        metrics: BTreeMap::new(),
    }
}

fn checkpoint() -> String {
    ArtifactId::of(b"a checkpoint").to_string()
}

async fn reply(proposed: JoinHandle<ProposalReply>) -> ProposalReply {
    timeout(PATIENCE, proposed).await.expect("the journal replies").unwrap()
}

fn is_recorded(reply: &ProposalReply) -> bool {
    matches!(reply, ProposalReply::Recorded(_))
}

fn is_rejected(reply: &ProposalReply) -> bool {
    matches!(reply, ProposalReply::Rejected { .. })
}

fn command(action: Action) -> OperatorCommand {
    OperatorCommand { action, by: "ann".to_owned(), reason: None }
}

fn run(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

/// The store stalls from before the first command until after the last one. The log is in memory: the test
/// measures the journal, not a disk.
#[test]
fn operator_commands_are_decided_within_50_ms_while_the_store_stalls() {
    const NAMES: [&str; 5] = [STALLED, "a", "b", "c", "idle"];
    let store = StallingStore::closed(Keeps(true));
    run(async {
        let bench = Bench::start(&store, &NAMES[..4]).await;
        append(&bench.log, "idle", Duration::from_secs(60)).await;
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        let mut latencies = Vec::new();
        for number in 0..100 {
            let action = match number / NAMES.len() {
                19 => Action::Cancel,
                turn if turn % 2 == 0 => Action::Pause,
                _ => Action::Resume,
            };
            let begun = Instant::now();
            let outcome =
                bench.control.command(id(NAMES[number % NAMES.len()]), command(action)).await.unwrap();
            latencies.push(begun.elapsed());
            assert!(outcome.changed, "command {number}");
        }
        store.stalls(1).await;
        assert!(!checked.is_finished(), "the store has stalled all the time");
        latencies.sort_unstable();
        let p99 = latencies[98];
        println!("p50 {:?}, p99 {p99:?}, max {:?}", latencies[49], latencies[99]);
        assert!(p99 <= Duration::from_millis(50), "{latencies:?}");
        store.open();
        assert!(is_rejected(&reply(checked).await), "the experiment was cancelled meanwhile");
    });
}

#[test]
fn proposals_of_other_experiments_are_decided_while_the_store_stalls() {
    let store = StallingStore::closed(Keeps(true));
    run(async {
        // One proposal in flight at a time: the stalled one must not be counted.
        let bench = Bench::start_with(&store, &[STALLED, OTHER], Duration::from_secs(60), 1).await;
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        let held = bench.propose(STALLED, heartbeat(1, false));
        for sequence in 0..10 {
            assert!(is_recorded(&reply(bench.propose(OTHER, heartbeat(sequence, false))).await));
        }
        assert!(!checked.is_finished() && !held.is_finished());
        store.open();
        assert!(is_recorded(&reply(checked).await) && is_recorded(&reply(held).await));
    });
}

#[test]
fn a_bounded_number_of_checks_runs_at_once_and_every_proposal_is_decided() {
    let names: Vec<String> = (0..CHECKS_MAX + 2).map(|number| format!("e{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let store = StallingStore::closed(Keeps(true));
    run(async {
        let mut hosted = names.clone();
        hosted.push(OTHER);
        let bench = Bench::start(&store, &hosted).await;
        let checked: Vec<_> = names.iter().map(|name| bench.propose(name, heartbeat(0, true))).collect();
        store.stalls(CHECKS_MAX).await;
        assert!(is_recorded(&reply(bench.propose(OTHER, heartbeat(0, false))).await));
        assert_eq!(store.reading(), CHECKS_MAX);
        store.open();
        for checked in checked {
            assert!(is_recorded(&reply(checked).await));
        }
        assert_eq!(store.reading_max(), CHECKS_MAX);
    });
}

#[test]
fn proposals_that_wait_for_a_check_are_recorded_in_order() {
    let store = StallingStore::closed(Keeps(true));
    run(async {
        let bench = Bench::start(&store, &[STALLED, OTHER]).await;
        let mut proposed = Vec::new();
        for (sequence, has_checkpoint) in [(0, true), (1, false), (2, true), (3, false), (4, false)] {
            proposed.push(bench.propose(STALLED, heartbeat(sequence, has_checkpoint)));
        }
        store.stalls(1).await;
        // The journal receives proposals in order: once this one is decided, it has seen all of the above.
        assert!(is_recorded(&reply(bench.propose(OTHER, heartbeat(0, false))).await));
        assert!(proposed.iter().all(|proposed| !proposed.is_finished()));
        assert!(bench.heartbeats(STALLED).is_empty());
        store.open();
        for proposed in proposed {
            assert!(is_recorded(&reply(proposed).await));
        }
        assert_eq!(bench.heartbeats(STALLED), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn proposals_that_waited_are_decided_against_the_state_after_the_stall() {
    let store = StallingStore::closed(Keeps(true));
    run(async {
        let bench = Bench::start(&store, &[STALLED]).await;
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        let held = bench.propose(STALLED, heartbeat(1, false));
        let checked_too = bench.propose(STALLED, heartbeat(2, true));
        bench.control.command(id(STALLED), command(Action::Cancel)).await.unwrap();
        store.open();
        for proposed in [checked, held, checked_too] {
            assert!(is_rejected(&reply(proposed).await), "the experiment was cancelled meanwhile");
        }
        assert!(bench.heartbeats(STALLED).is_empty());
    });
}

#[test]
fn a_contradicted_proposal_does_not_affect_those_that_waited_for_its_check() {
    let store = StallingStore::closed(Keeps(false));
    run(async {
        let bench = Bench::start(&store, &[STALLED]).await;
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        let held = bench.propose(STALLED, heartbeat(1, false));
        store.open();
        let ProposalReply::Rejected { reason } = reply(checked).await else { panic!("it is accepted") };
        assert!(reason.contains(&checkpoint()), "{reason}");
        assert!(is_recorded(&reply(held).await));
        assert_eq!(bench.heartbeats(STALLED), [1]);
    });
}

#[test]
fn a_recorded_event_is_not_checked_again() {
    let store = StallingStore::closed(Keeps(true));
    run(async {
        let bench = Bench::start(&store, &[STALLED]).await;
        let first = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        store.open();
        assert!(is_recorded(&reply(first).await));
        store.close();
        assert!(is_recorded(&reply(bench.propose(STALLED, heartbeat(0, true))).await));
        assert_eq!(store.reading(), 0);
    });
}

#[test]
fn a_lease_does_not_expire_while_a_heartbeat_waits_for_the_store() {
    let store = StallingStore::closed(Keeps(true));
    run(async {
        let lease = Duration::from_secs(2);
        let bench = Bench::start_with(&store, &[STALLED], lease, IN_FLIGHT_MAX).await;
        let has_expired = || bench.states.lease(&id(STALLED)).unwrap().has_expired();
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        tokio::time::sleep(lease + Duration::from_millis(100)).await;
        assert!(!has_expired(), "the worker is not silent: the store is");
        store.open();
        assert!(is_recorded(&reply(checked).await));
        assert!(!has_expired(), "the heartbeat renews the lease when it is recorded");
        tokio::time::sleep(lease + Duration::from_millis(100)).await;
        assert!(has_expired());
    });
}

#[test]
fn proposals_beyond_the_bound_are_to_be_repeated_and_none_is_lost() {
    let store = StallingStore::closed(Keeps(true));
    let beyond = 5;
    run(async {
        let bench = Bench::start(&store, &[STALLED, OTHER]).await;
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        let last = u32::try_from(HELD_MAX).unwrap() + beyond;
        let mut proposed: Vec<_> =
            (1..=last).map(|sequence| bench.propose(STALLED, heartbeat(sequence, false))).collect();
        for refused in proposed.split_off(HELD_MAX) {
            assert_eq!(reply(refused).await, ProposalReply::RetryLater);
        }
        assert!(proposed.iter().all(|held| !held.is_finished()));
        assert!(is_recorded(&reply(bench.propose(OTHER, heartbeat(0, false))).await));
        // A step repeats its proposal until it is decided.
        let repeated: Vec<_> = (last - beyond + 1..=last)
            .map(|sequence| {
                let proposal = bench.proposal(STALLED, heartbeat(sequence, false));
                let broker = bench.broker.clone();
                actix::spawn(async move {
                    decision(&*broker, || proposal.clone(), &MessageContext::new()).await.unwrap()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(repeated.iter().all(|repeated| !repeated.is_finished()));
        store.open();
        assert!(is_recorded(&reply(checked).await));
        for held in proposed {
            assert!(is_recorded(&reply(held).await));
        }
        for repeated in repeated {
            assert_eq!(timeout(PATIENCE, repeated).await.unwrap().unwrap(), Ok(()));
        }
        let mut recorded = bench.heartbeats(STALLED);
        recorded.sort_unstable();
        assert_eq!(recorded, (0..=last).collect::<Vec<_>>());
    });
}

/// The log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn a_shutdown_waits_for_a_stalled_store_within_its_grace_and_names_the_artifact() {
    let store = StallingStore::closed(Keeps(true));
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    run(async {
        let bench = Bench::start(&store, &[STALLED, OTHER]).await;
        let checked = bench.propose(STALLED, heartbeat(0, true));
        store.stalls(1).await;
        let held = bench.propose(STALLED, heartbeat(1, true));
        let _logging = tracing::subscriber::set_default(subscriber);
        let begun = Instant::now();
        bench.limit.expire().await;
        // The store contradicts no worker, because it did not answer.
        assert!(is_recorded(&reply(checked).await) && is_recorded(&reply(held).await));
        let took = begun.elapsed();
        assert!(took >= CHECK_GRACE && took < CHECK_GRACE + Duration::from_secs(5), "{took:?}");
        assert_eq!(store.reading(), 1, "the store still stalls");
        let waiting = lines.text();
        assert!(waiting.contains(STALLED) && waiting.contains(&checkpoint()), "{waiting}");
        assert!(!waiting.contains(OTHER), "{waiting}");
        store.open();
    });
}

#[test]
fn a_check_that_panics_is_a_contradiction_and_the_journal_continues() {
    struct Broken;
    impl ReadArtifacts for Broken {
        fn is_kept(&self, _: &ArtifactId) -> Result<bool, StorageError> {
            panic!("a bug of the store")
        }

        fn read(&self, _: &ArtifactId, _: u64) -> Result<Vec<u8>, StorageError> {
            panic!("a bug of the store")
        }
    }
    run(async {
        let model = initial(None);
        let check = Arc::new(ArtifactCheck::of(Arc::new(Broken), model.clone(), model));
        let events = vec![heartbeat(0, true).into()];
        let found = Checks::new().run(id(STALLED), check, events).await;
        assert!(matches!(found, Some(Contradiction::Panicked(_))), "{found:?}");
    });
}
