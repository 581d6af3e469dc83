//! Whole rounds that learn, on tiny models. Where training itself is not tested, a fake trainer replaces it.

mod host;
mod models;
mod operator_commands;
mod packed;
mod recompute;
mod stall;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings};
use dissent_domain::event::{
    CompletionsSampled, Event, EventType, FeedbackReceived, PolicyTuned, Recorded, RewardModelRefined,
    RewardsScored, StepName, TrainingRequested,
};
use dissent_domain::feedback::{Opponent, Verdict};
use dissent_domain::generation::SamplingParams;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use dissent_domain::plan::{
    ConflictPlan, DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, GoldPlan, GuardPlan,
    LearningPlan, Plan, PolicyPlan, PromptSource, RefinementPlan, RewardPlan, TuningPlan,
};
use dissent_domain::prompt::Prompt;
use dissent_domain::replay::Replay;
use dissent_domain::reward::RewardKind;
use dissent_domain::training::{Hyperparameters, LoraSettings, PolicyObjective};
use dissent_domain::weight_form::WeightForm;
use dissent_models::adapter::LoraAdapter;
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};
use dissent_models::template::PromptTemplate;
use dissent_models::{InvalidKind, ModelError};
use dissent_queues::{EmbeddedBroker, EmbeddedOptions};
use dissent_storage::{ArtifactStore, MemoryLog, Snapshots};
use tempfile::TempDir;

use crate::ModelCache;
use crate::required::required;
use crate::{
    Base, Ending, Gold, LearningResources, LeaseTimes, Pipeline, PipelineError, Policy, Proxy, Refinement,
    Resources, Roles, RunFailure, StepError, StepFault, TrainedAdapter, Trainer, TrainingWatch, Tuning,
    fingerprint,
};

const PROMPTS: u32 = 4;
const STEPS: u64 = 6;

/// A gold reward that prefers the longer completion.
struct Longest;

impl Gold for Longest {
    fn score(&mut self, _: &Prompt, completions: &[String]) -> Result<Vec<f64>, StepError> {
        Ok(completions.iter().map(|completion| completion.len() as f64).collect())
    }
}

/// A fake trainer that counts: its result depends on the task and on every step.
struct CountingTrainer {
    policy: Base,
    reward: Base,
    fault: Fault,
}

#[derive(Clone)]
enum Fault {
    None,
    /// Every attempt waits at this step until it is stopped.
    StuckAt(u64),
    /// The first attempt reports nothing until it is stopped.
    Silent(Arc<AtomicBool>),
    Error,
    /// The first attempt reports the fingerprint of another adapter.
    WrongFingerprint(Arc<AtomicBool>),
}

impl CountingTrainer {
    fn count(&self, seed: u64, resume: Option<&[u8]>, watch: &mut TrainingWatch) -> Result<u64, StepError> {
        let (mut step, mut sum) = match resume {
            Some(bytes) => {
                let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                (number(0), number(8))
            }
            None => (0, seed),
        };
        if let Fault::Silent(first) = &self.fault
            && first.swap(false, Ordering::SeqCst)
        {
            while !watch.should_stop() {
                std::thread::yield_now();
            }
            return Err(StepError::Cancelled);
        }
        if matches!(self.fault, Fault::Error) {
            return Err(StepError::fatal(ModelError::invalid(
                InvalidKind::NotFinite,
                "the loss is not finite",
            )));
        }
        while step < STEPS {
            step += 1;
            sum = sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            watch.progressed(step, STEPS, BTreeMap::from([("loss".to_owned(), 1.0 / step as f64)]))?;
            while matches!(self.fault, Fault::StuckAt(at) if at == step) && !watch.should_stop() {
                std::thread::yield_now();
            }
            if step < STEPS && (step == 2 || watch.should_stop()) {
                watch.checkpoint(step, STEPS, &[step.to_le_bytes(), sum.to_le_bytes()].concat())?;
            }
            if step < STEPS && watch.should_stop() {
                return Err(StepError::Cancelled);
            }
        }
        Ok(sum)
    }

    /// An adapter that differs for each sum.
    fn trained(&self, base: &Base, like: &LoraAdapter, sum: u64, preferences: [usize; 2]) -> TrainedAdapter {
        let mut layers = like.layers.clone();
        layers.values_mut().next().unwrap().a[0] += (sum % 1000) as f32 / 1e4;
        let (score, task) = (like.score.clone(), like.task);
        let adapter = LoraAdapter::new(like.r, like.alpha, layers, score, task, None).unwrap();
        let [preferences, rehearsed] = preferences.map(|count| u32::try_from(count).unwrap());
        let is_wrong =
            matches!(&self.fault, Fault::WrongFingerprint(first) if first.swap(false, Ordering::SeqCst));
        let reported = if is_wrong { like } else { &adapter };
        let fingerprint = fingerprint(&base.checkpoint, Some(reported));
        TrainedAdapter { adapter, fingerprint, preferences, rehearsed, metrics: BTreeMap::new() }
    }
}

impl Trainer for CountingTrainer {
    fn refine(&mut self, task: Refinement, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError> {
        let seed = task.feedback.iter().map(|pair| pair.chosen.len() as u64).sum();
        let sum = self.count(seed, task.resume.as_deref(), watch)?;
        let like = task.adapter.expect("the reward model has an adapter");
        Ok(self.trained(&self.reward, &like, sum, [task.feedback.len(), task.original.len()]))
    }

    fn tune(&mut self, task: Tuning, watch: &mut TrainingWatch) -> Result<TrainedAdapter, StepError> {
        let sum = self.count(task.completions.len() as u64, task.resume.as_deref(), watch)?;
        let first = LoraAdapter::open(&golden("llama-lora")).unwrap();
        Ok(self.trained(&self.policy, task.policy.as_deref().unwrap_or(&first), sum, [0, 0]))
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden").join(name)
}

fn opened(form: WeightForm) -> Arc<Checkpoint> {
    let options = OpenOptions {
        layers: None,
        cache_dir: cache_dir().expect("a cache folder"),
        reading: ReadingRules::default(),
    };
    Arc::new(Checkpoint::open_as(&golden("llama"), &options, form).unwrap())
}

fn base(runtime: &'static OnnxRuntime, adapter: Option<&str>) -> Base {
    let checkpoint = opened(WeightForm::F32);
    let adapter = adapter.map(|name| Arc::new(LoraAdapter::open(&golden(name)).unwrap()));
    let options =
        SessionOptions { provider: Provider::Cpu, threads: 1, rows: 8, ..SessionOptions::default() };
    Base { runtime, checkpoint, sampling: None, adapter, options, cache: ModelCache::default() }
}

fn prompts(kind: &str, count: u32) -> Vec<Prompt> {
    let prompt = |index| Prompt {
        prompt_id: PromptId::new(format!("{kind}{index}")).unwrap(),
        text: format!("what is {kind} {index}?"),
        category: None,
        messages: Vec::new(),
    };
    (0..count).map(prompt).collect()
}

fn templates() -> [PromptTemplate; 2] {
    ["raw", "{prompt} {completion}"].map(|text| text.parse().unwrap())
}

/// A log, artifacts, and the models of the experiments in the log.
struct Fixture {
    log: Arc<MemoryLog>,
    folder: TempDir,
    policy: Base,
    reward: Base,
}

impl Fixture {
    /// Requires ONNX Runtime.
    fn new() -> Option<Self> {
        Self::with_policy(None)
    }

    /// As `new`, with a policy that begins with an adapter.
    fn with_policy(adapter: Option<&str>) -> Option<Self> {
        let runtime = required(OnnxRuntime::load(None))?;
        let (policy, reward) = (base(runtime, adapter), base(runtime, Some("llama-reward")));
        Some(Self { log: Arc::default(), folder: tempfile::tempdir().unwrap(), policy, reward })
    }

    fn plan(&self, rounds: u32, source: FeedbackSource) -> Plan {
        let lora = LoraSettings { r: 4, alpha: 8.0, targets: Vec::new() };
        let hyperparameters =
            Hyperparameters { steps: Some(3), batch_size: 2, lora: Some(lora), ..Hyperparameters::default() };
        let learning = LearningPlan {
            feedback: FeedbackPlan {
                source,
                opponent: Opponent::Conflict,
                overlap: 1,
                budget: None,
                audit: 0.0,
                degenerate: DegenerateCompletions::Ask,
                focus: None,
            },
            refinement: RefinementPlan { original: None, hyperparameters: hyperparameters.clone() },
            tuning: TuningPlan { objective: PolicyObjective::default(), hyperparameters },
            evaluation: EvaluationPlan {
                prompts: PromptSource { artifact: "1".repeat(64), count: 3 },
                samples: 3,
                gold: Some(GoldPlan { name: "longest".into(), fingerprint: "longest".into() }),
            },
            guards: GuardPlan::default(),
        };
        Plan {
            experiment: ExperimentId::new("learning").unwrap(),
            seed: 5,
            rounds,
            prompts: PromptSource { artifact: "0".repeat(64), count: PROMPTS },
            policy: PolicyPlan {
                name: "policy".into(),
                fingerprint: self.policy.fingerprint(),
                template: "raw".into(),
                weights: WeightForm::F32,
            },
            reward: RewardPlan {
                name: "proxy".into(),
                fingerprint: self.reward.fingerprint(),
                template: "{prompt} {completion}".into(),
                kind: RewardKind::Reward,
                output: None,
            },
            sampling: SamplingParams {
                samples: 4,
                temperature: 1.0,
                max_new_tokens: 12,
                ..SamplingParams::default()
            },
            conflict: ConflictPlan {
                logprob: LogprobKind::Sum,
                selection: SelectionSettings {
                    rule: Rule::Budget,
                    budget: Some(5),
                    ..SelectionSettings::default()
                },
            },
            learning: Some(Box::new(learning)),
            reading_rules: 1,
            sampling_key: Some(Plan::SAMPLING_KEY.to_owned()),
        }
    }

    fn trainer(&self, fault: Fault) -> Box<dyn Trainer> {
        Box::new(CountingTrainer { policy: self.policy.clone(), reward: self.reward.clone(), fault })
    }

    /// Runs a plan until it waits for people, then runs it to its end with their judgements.
    async fn finish_with_people(
        &self,
        plan: &Plan,
        [first, second]: [Box<dyn Trainer>; 2],
        is_unsafe: Option<[bool; 2]>,
    ) {
        let mut pipeline = self.start(plan, first, false).await;
        assert_eq!(ended(&mut pipeline).await, Ending::WaitsForPeople);
        pipeline.drain().await.unwrap();
        assert!(self.of_kind(EventType::FeedbackSettled).is_empty());
        let mut pipeline = self.start(plan, second, true).await;
        self.judge_all(&pipeline, Verdict::Second, is_unsafe).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
    }

    /// Gives a judgement of each requested comparison to a running pipeline, twice.
    async fn judge_all(&self, pipeline: &Pipeline, verdict: Verdict, is_unsafe: Option<[bool; 2]>) {
        let comparisons = u32::try_from(self.of_kind(EventType::FeedbackRequested).len()).unwrap();
        let judgement = |comparison| {
            let (annotator, comment) = ("ann".into(), None);
            FeedbackReceived { round: 0, comparison, annotator, verdict, is_unsafe, comment }
        };
        let judgements: Vec<FeedbackReceived> = (0..comparisons).map(judgement).collect();
        let (control, experiment) = (pipeline.control(), pipeline.experiment().clone());
        let judged = control.judge(experiment.clone(), judgements.clone()).await.unwrap();
        assert_eq!((judged.recorded(), judged.already_there()), (comparisons.into(), 0));
        let judged = control.judge(experiment, judgements).await.unwrap();
        assert_eq!((judged.recorded(), judged.already_there()), (0, comparisons.into()));
    }

    async fn start(&self, plan: &Plan, trainer: Box<dyn Trainer>, waits_for_people: bool) -> Pipeline {
        self.start_with(plan, trainer, waits_for_people, LeaseTimes::default()).await
    }

    async fn start_with(
        &self,
        plan: &Plan,
        trainer: Box<dyn Trainer>,
        waits_for_people: bool,
        times: LeaseTimes,
    ) -> Pipeline {
        Pipeline::start(plan, self.own_resources(plan, trainer, waits_for_people, times)).await.unwrap()
    }

    /// The resources of one process that runs every step.
    fn own_resources(
        &self,
        plan: &Plan,
        trainer: Box<dyn Trainer>,
        waits_for_people: bool,
        times: LeaseTimes,
    ) -> Resources {
        let broker = Arc::new(EmbeddedBroker::new(self.log.clone(), EmbeddedOptions::default()));
        let mut resources = self.resources(self.log.clone(), broker, Roles::all(), trainer, waits_for_people);
        let [_, scored] = templates();
        resources.proxy = Some(Proxy::new(self.reward.clone(), scored, plan.reward.kind));
        resources.lease = times;
        resources
    }

    fn resources(
        &self,
        log: Arc<MemoryLog>,
        broker: Arc<EmbeddedBroker>,
        roles: Roles,
        trainer: Box<dyn Trainer>,
        waits_for_people: bool,
    ) -> Resources {
        let [raw, scored] = templates();
        let gold: Box<dyn Gold> = Box::new(Longest);
        let (policy, reward) = (self.policy.clone(), self.reward.clone());
        let (held_out, gold, trainer) = (prompts("held", 3), Some(gold), Some(trainer));
        let learning = LearningResources { held_out, gold, trainer, policy, reward };
        Resources {
            log,
            broker,
            artifacts: ArtifactStore::open(self.folder.path().join("artifacts")).unwrap(),
            snapshots: Some(Snapshots::new(self.folder.path().join("snapshots"))),
            roles,
            prompts: prompts("p", PROMPTS),
            policy: Some(Policy::new(self.policy.clone(), raw, 2)),
            proxy: Some(Proxy::new(self.reward.clone(), scored, RewardKind::Reward)),
            learning: Some(learning),
            cancel: CancelFlag::new(),
            lease: LeaseTimes::default(),
            shared: false,
            waits_for_people,
        }
    }

    async fn finish(&self, plan: &Plan, trainer: Box<dyn Trainer>) {
        let mut pipeline = self.start(plan, trainer, false).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
    }

    fn recorded(&self) -> Vec<Recorded> {
        self.log.read(0, usize::MAX).unwrap()
    }

    fn of_kind(&self, kind: EventType) -> Vec<Event> {
        let of_kind = |recorded: &Recorded| recorded.event.event_type == kind.name();
        self.recorded().iter().filter(|e| of_kind(e)).map(|e| e.decode().unwrap()).collect()
    }

    /// The fingerprints of the trained models, in order.
    fn results(&self) -> Vec<String> {
        let events = self.recorded().into_iter().map(|recorded| recorded.decode().unwrap());
        events
            .filter_map(|event| {
                let refined = event.body().map(|e: &RewardModelRefined| e.fingerprint.clone());
                refined.or_else(|| event.body().map(|e: &PolicyTuned| e.fingerprint.clone()))
            })
            .collect()
    }

    fn verified(&self) -> Replay {
        let mut replay = Replay::verifying();
        for recorded in self.recorded() {
            replay.apply(&recorded).unwrap_or_else(|error| panic!("{error}"));
        }
        replay
    }
}

/// Whether a run failed because the loss of a training is not finite.
fn is_failed_training(error: &PipelineError) -> bool {
    let PipelineError::Failed(RunFailure::Step { step: StepName::Training, source }) = error else {
        return false;
    };
    matches!(source, StepFault::Model(error) if error.invalid_kind() == Some(InvalidKind::NotFinite))
}

async fn ended(pipeline: &mut Pipeline) -> Ending {
    let ended = tokio::time::timeout(Duration::from_secs(120), pipeline.finished()).await;
    ended.expect("the run ends in time").unwrap()
}

fn with_fixture(test: impl AsyncFnOnce(&Fixture)) {
    run_with(Fixture::new(), test);
}

fn run_with(fixture: Option<Fixture>, test: impl AsyncFnOnce(&Fixture)) {
    let Some(fixture) = fixture else { return };
    actix::System::new().block_on(test(&fixture));
}

#[test]
fn a_round_that_learns_passes_a_verifying_replay() {
    with_fixture(async |fixture| {
        fixture.finish(&fixture.plan(1, FeedbackSource::Oracle), fixture.trainer(Fault::None)).await;
        let replay = fixture.verified();
        let experiment = replay.experiment();
        assert!(experiment.is_finished());
        let [before, after] = experiment.evaluations() else { panic!("{:?}", experiment.evaluations()) };
        assert_eq!((before.prompts, before.completions), (3, 9));
        assert_eq!((before.kl, before.proxy_reward), (0.0, before.refined_reward));
        assert!(after.kl != 0.0, "{after:?}");
        assert!((after.proxy_reward[0] - after.refined_reward[0]).abs() > 1e-9, "{after:?}");
        assert!(after.gold_reward.is_some() && after.refined_agreement.is_some());
        let comparisons = experiment.rounds()[0].learning().comparisons();
        assert!(!comparisons.is_empty());
        assert!(comparisons.iter().all(|comparison| comparison.judgements.of("oracle").is_some()));
        let refined = fixture.of_kind(EventType::RewardModelRefined);
        let e: &RewardModelRefined = refined[0].body().unwrap();
        assert_eq!(e.preferences, experiment.rounds()[0].learning().settled().unwrap().preferences);
    });
}

#[test]
fn only_an_experiment_of_version_0_1_records_evaluations_without_figures_by_prompt() {
    for sampling_key in [Some(Plan::SAMPLING_KEY.to_owned()), None] {
        with_fixture(async |fixture| {
            let plan = Plan { sampling_key, ..fixture.plan(1, FeedbackSource::Oracle) };
            fixture.finish(&plan, fixture.trainer(Fault::None)).await;
            let replay = fixture.verified();
            assert_eq!(replay.experiment().evaluations().len(), 2);
            for evaluation in replay.experiment().evaluations() {
                let is_new = plan.sampling_key.is_some();
                assert_eq!((evaluation.by_prompt.is_some(), evaluation.samples.is_some()), (is_new, is_new));
                assert!(evaluation.gold_reward.is_some());
            }
        });
    }
}

#[test]
fn the_second_round_uses_the_models_that_the_first_one_trained() {
    with_fixture(async |fixture| {
        fixture.finish(&fixture.plan(2, FeedbackSource::Oracle), fixture.trainer(Fault::None)).await;
        let replay = fixture.verified();
        assert_eq!(replay.experiment().evaluations().len(), 3);
        let results = fixture.results();
        assert_eq!(results.len(), 4);
        let sampled = fixture.of_kind(EventType::CompletionsSampled);
        let policies = |round| {
            let of_round = sampled.iter().filter_map(move |event| {
                let e = event.body::<CompletionsSampled>()?;
                (e.round == round).then(|| e.policy.clone())
            });
            of_round.collect::<Vec<_>>()
        };
        assert_eq!(policies(0), vec![fixture.policy.fingerprint(); PROMPTS as usize]);
        assert_eq!(policies(1), vec![results[1].clone(); PROMPTS as usize]);
        let scored = fixture.of_kind(EventType::RewardsScored);
        let by_refined = |e: &RewardsScored| e.reward_model == results[0];
        assert!(scored.iter().filter_map(Event::body).any(by_refined));
    });
}

#[test]
fn a_stopped_training_resumes_from_its_checkpoint_with_the_same_result() {
    let Some(undisturbed) = Fixture::new() else { return };
    let plan = undisturbed.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(undisturbed.finish(&plan, undisturbed.trainer(Fault::None)));
    with_fixture(async |fixture| {
        let pipeline = fixture.start(&plan, fixture.trainer(Fault::StuckAt(4)), false).await;
        let mut progress = pipeline.progress();
        let reached = progress.wait_for(|now| now.training.is_some_and(|(step, _)| step == 4));
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
        assert!(!progress.borrow().finished);
        pipeline.drain().await.unwrap();
        fixture.finish(&plan, fixture.trainer(Fault::None)).await;
        let requested = fixture.of_kind(EventType::TrainingRequested);
        let again: &TrainingRequested = requested[1].body().unwrap();
        assert_eq!((again.attempt, again.resume_from.is_some()), (1, true));
        assert_eq!(fixture.results(), undisturbed.results());
        fixture.verified();
    });
}

#[test]
fn a_training_without_heartbeats_is_requested_again_when_its_lease_expires() {
    with_fixture(async |fixture| {
        let times = LeaseTimes { lease: Duration::from_millis(300), heartbeat: Duration::from_secs(3600) };
        let silent = Fault::Silent(Arc::new(AtomicBool::new(true)));
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let mut pipeline = fixture.start_with(&plan, fixture.trainer(silent), false, times).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        assert!(!fixture.of_kind(EventType::TrainingLeaseExpired).is_empty());
        let refined = fixture.of_kind(EventType::RewardModelRefined);
        let e: &RewardModelRefined = refined[0].body().unwrap();
        assert!(e.attempt >= 1);
        fixture.verified();
    });
}

#[test]
fn a_failed_training_stops_the_run_with_its_reason() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let mut pipeline = fixture.start(&plan, fixture.trainer(Fault::Error), false).await;
        let failed = tokio::time::timeout(Duration::from_secs(60), pipeline.finished()).await.unwrap();
        assert!(is_failed_training(&failed.unwrap_err()));
        pipeline.drain().await.unwrap();
    });
}

#[test]
fn a_run_with_people_waits_for_their_judgements() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::People);
        fixture
            .finish_with_people(&plan, [fixture.trainer(Fault::None), fixture.trainer(Fault::None)], None)
            .await;
        fixture.verified();
    });
}
