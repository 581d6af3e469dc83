//! The soak test: one server hosts experiments at full rate, one after another, with stand-ins for the models
//! of a worker. Events pass a durable log, the journal, the relay and a private RabbitMQ. Each finished
//! experiment is dropped, its queues are deleted, and its events are copied to an archive.
//!
//! `soak [MINUTES] [PROMPTS] [FOLDER]` prints a JSON line with rate, memory and open files at intervals. The
//! last line compares memory with that after a quarter of the time: the events since then explain 17 bytes
//! each. A named folder is kept: a server can be started on it.
//!
//! `cargo run --release --example soak -- 20`

#[path = "../queues/tests/broker/node.rs"]
mod node;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dissent_actors::{Host, LeaseTimes, Resources, groups, subscriptions};
use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings};
use dissent_domain::event::{
    CompletionsSampled, Event, PromptAdmitted, Recorded, RewardsScored, StepName, follow_from,
};
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_domain::weight_form::WeightForm;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{Broker, Consumer, Proposal, RabbitBroker, RabbitOptions, ServerIdentity, Subscription};
use dissent_storage::{ArtifactStore, SledLog, SledOptions, Snapshots, StorageError, transfer};
use node::Node;

/// The allocator of the program.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Completions per prompt, and tokens per completion.
const SAMPLES: u32 = 8;
const TOKENS: u32 = 64;
/// Prompts that a stand-in processes at once.
const AT_ONCE: usize = 64;
const LOOK: Duration = Duration::from_secs(5);
/// Ended experiments that are archived together, as a server does it by schedule.
const ARCHIVE_AT_ONCE: usize = 20;
/// Longest wait for the worker to leave an experiment.
const LEAVE_MAX: Duration = Duration::from_secs(60);
const LEAVE_POLL: Duration = Duration::from_millis(20);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let minutes: f64 = std::env::args().nth(1).map_or(Ok(20.0), |text| text.parse())?;
    let prompts: u32 = std::env::args().nth(2).map_or(Ok(5_000), |text| text.parse())?;
    // The folder is beside the program, because system folders for temporary files are often in memory.
    let here = std::env::current_exe()?;
    let folder = tempfile::tempdir_in(here.parent().unwrap_or(Path::new(".")))?;
    let kept = std::env::args().nth(3);
    let path = kept.as_deref().map_or(folder.path(), Path::new);
    let node = Node::new().map_err(anyhow::Error::msg)?;
    actix::System::new().block_on(soak(&node, path, Duration::from_secs_f64(minutes * 60.0), prompts))
}

async fn soak(node: &Node, folder: &Path, length: Duration, prompts: u32) -> Outcome<()> {
    let log = Arc::new(SledLog::open(folder.join("log"), &SledOptions::default())?);
    let options = RabbitOptions::from_url(&node.url())?;
    let identity = ServerIdentity {
        installation: "soak".to_owned(),
        host: "here".to_owned(),
        process: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since_us: dissent_actors::now_us(),
    };
    let server =
        RabbitBroker::connect_server(options.clone(), log.clone() as Arc<dyn EventLog>, identity).await?;
    let worker = RabbitBroker::connect_worker(options).await?;
    let mut host = Host::start(log.clone() as Arc<dyn EventLog>, server.clone() as Arc<dyn Broker>)?;
    let looks = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    let looking = actix::spawn(look(begun, looks.clone(), log.clone()));
    let (mut experiments, mut ended) = (0, Vec::new());
    while begun.elapsed() < length {
        let plan = plan(experiments, prompts)?;
        Box::pin(experiment(&mut host, [&server, &worker], folder, &log, &plan)).await?;
        experiments += 1;
        ended.push(plan.experiment.clone());
        if ended.len() == ARCHIVE_AT_ONCE {
            archive(log.clone(), folder.join("archive"), std::mem::take(&mut ended)).await?;
        }
    }
    looking.abort();
    worker.close();
    worker.drained().await?;
    host.drain().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let looks = looks.lock().map_err(|error| error.to_string())?;
    let after = looks.iter().find(|look| look.seconds >= length.as_secs_f64() / 4.0);
    let (Some(after), Some(last)) = (after, looks.last()) else {
        return Err("the soak was too short".into());
    };
    let events_since = (last.events - after.events) as f64;
    let report = serde_json::json!({
        "experiments": experiments,
        "events": log.head(),
        "events_per_second": log.head() as f64 / seconds,
        "seconds": seconds,
        "resident_mib": last.resident_mib,
        "growth_mib": last.resident_mib - after.resident_mib,
        "explained_mib": events_since * 17.0 / 1_048_576.0,
        "files": last.files,
        "files_growth": last.files as i64 - after.files as i64,
    });
    Ok(writeln!(std::io::stdout().lock(), "{report}")?)
}

/// Copies ended experiments to the archive. As in the server, it is open only meanwhile.
async fn archive(log: Arc<SledLog>, folder: PathBuf, ended: Vec<ExperimentId>) -> Outcome<()> {
    let archiving = move || -> Result<(), StorageError> {
        let archive = SledLog::open(folder, &SledOptions::default())?;
        ended.iter().try_for_each(|name| transfer::copy_stream(&*log, &archive, name).map(drop))
    };
    Ok(tokio::task::spawn_blocking(archiving).await??)
}

/// What a sample shows.
struct Look {
    seconds: f64,
    resident_mib: f64,
    events: u64,
    files: usize,
}

/// Samples the memory of this process at intervals.
async fn look(begun: Instant, looks: Arc<Mutex<Vec<Look>>>, log: Arc<SledLog>) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let seconds = begun.elapsed().as_secs_f64();
        let Some(resident) = resident_mib() else { return };
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let events = log.head();
        if let Ok(mut looks) = looks.lock() {
            looks.push(Look { seconds, resident_mib: resident, events, files });
        }
        let line = serde_json::json!({
            "seconds": seconds.round(), "resident_mib": resident, "events": events, "files": files,
        });
        // A closed pipe is reported as an error at the end.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

fn resident_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Hosts one experiment to its end, and deletes its queues from RabbitMQ.
async fn experiment(
    host: &mut Host,
    [server, worker]: [&Arc<RabbitBroker>; 2],
    folder: &Path,
    log: &Arc<SledLog>,
    plan: &Plan,
) -> Outcome<()> {
    let subscribed = subscriptions(plan, AT_ONCE / 2);
    server.declare_groups(&subscribed).await?;
    server.publish_history(&plan.experiment).await?;
    let mut history = worker.history(&plan.experiment).await?;
    let following =
        actix::spawn(async move { while history.next().await.is_ok_and(|next| next.is_some()) {} });
    let mut standing_in = Vec::new();
    for (step, answer) in
        [(StepName::Generation, sampled as fn(&Event) -> Option<Event>), (StepName::Reward, scored)]
    {
        let consumer = worker.subscribe(of_step(&subscribed, step)?)?;
        standing_in.push(actix::spawn(stand_in(
            consumer,
            worker.clone(),
            plan.experiment.clone(),
            step,
            answer,
        )));
    }
    host.host(plan, resources(plan, folder, log, server)?).await?;
    host.end(&plan.experiment).ok_or("the experiment is not hosted")?.ended().await?;
    following.abort();
    for task in standing_in {
        task.abort();
        let _aborted = task.await;
    }
    worker.leave(&plan.experiment).await?;
    host.leave(&plan.experiment).await?;
    let queues = server.queues_of(&plan.experiment, &groups(&plan.experiment))?;
    // As the server does: queues with a follower stay.
    let begun = Instant::now();
    while server.followers(&plan.experiment).await? > 0 {
        if begun.elapsed() > LEAVE_MAX {
            return Err("the worker still follows an experiment that it left".into());
        }
        tokio::time::sleep(LEAVE_POLL).await;
    }
    server.delete_queues(&queues).await?;
    Ok(())
}

fn of_step(subscriptions: &[Subscription], step: StepName) -> Outcome<Subscription> {
    let name = format!("{}.", step.name());
    let found = subscriptions.iter().find(|subscription| subscription.group.starts_with(&name));
    let subscription = found.cloned().ok_or("the plan lacks the step")?;
    // A larger prefetch than that of a model, so that the stand-in is never the bottleneck.
    Ok(Subscription { prefetch: 2 * AT_ONCE, ..subscription })
}

/// Proposes the results of a step in batches, at full speed.
async fn stand_in(
    mut consumer: Consumer,
    broker: Arc<RabbitBroker>,
    experiment: ExperimentId,
    step: StepName,
    answer: fn(&Event) -> Option<Event>,
) {
    let mut under_way = tokio::task::JoinSet::new();
    while let Some(delivery) = consumer.next().await {
        let (broker, experiment) = (broker.clone(), experiment.clone());
        under_way.spawn_local(async move {
            if let Some(events) = consequence(&delivery.event, step, answer) {
                let proposal = Proposal { experiment, cause: Some(delivery.event.event.id), events };
                if broker.propose(proposal).await.is_ok() {
                    // After a failed acknowledgement, the redelivered event gets the same results.
                    let _ = delivery.ack().await;
                }
            }
        });
        while under_way.len() >= AT_ONCE {
            under_way.join_next().await;
        }
    }
    while under_way.join_next().await.is_some() {}
}

fn consequence(
    recorded: &Recorded,
    step: StepName,
    answer: fn(&Event) -> Option<Event>,
) -> Option<Vec<dissent_domain::event::NewEvent>> {
    let event = answer(&recorded.decode().ok()?)?;
    follow_from(recorded.event.id, step.name(), 0, &[event]).ok()
}

fn sampled(event: &Event) -> Option<Event> {
    let admitted: &PromptAdmitted = event.body()?;
    let completion = |sample: u32| Completion {
        token_ids: (0..TOKENS)
            .map(|token| (admitted.index * 31 + sample * 7 + token * 613) % 49_152)
            .collect(),
        text: "Look at the frame for cracks, spin both wheels, and ask to see the receipt. ".repeat(4),
        logprob: -60.0 - f64::from((admitted.index * 17 + sample * 29) % 41),
        finish_reason: FinishReason::Length,
    };
    let completions = (0..SAMPLES).map(completion).collect();
    let (prompt, policy) = (admitted.prompt.clone(), "1".repeat(64));
    let prompt_token_ids = (0..43).map(|token| 1000 + 37 * token).collect();
    Some(CompletionsSampled { round: admitted.round, prompt, policy, prompt_token_ids, completions }.into())
}

fn scored(event: &Event) -> Option<Event> {
    let sampled: &CompletionsSampled = event.body()?;
    let rewards = sampled.completions.iter().map(|completion| (completion.logprob * 7.0).sin()).collect();
    let (round, prompt_id) = (sampled.round, sampled.prompt.prompt_id.clone());
    Some(RewardsScored { round, prompt_id, reward_model: "2".repeat(64), rewards }.into())
}

fn plan(number: u32, prompts: u32) -> Outcome<Plan> {
    let budget = Some(u64::from(prompts / 10));
    Ok(Plan {
        experiment: ExperimentId::new(format!("soak-{number}"))?,
        seed: 0,
        rounds: 1,
        prompts: PromptSource { artifact: "0".repeat(64), count: prompts },
        policy: PolicyPlan {
            name: "policy".into(),
            fingerprint: "1".repeat(64),
            template: "chat".into(),
            weights: WeightForm::F32,
        },
        reward: RewardPlan {
            name: "reward".into(),
            fingerprint: "2".repeat(64),
            template: "{prompt} {completion}".into(),
            kind: RewardKind::Reward,
            output: None,
        },
        sampling: SamplingParams { samples: SAMPLES, max_new_tokens: TOKENS, ..SamplingParams::default() },
        conflict: ConflictPlan {
            logprob: LogprobKind::Sum,
            selection: SelectionSettings { rule: Rule::Budget, budget, ..SelectionSettings::default() },
        },
        learning: None,
        reading_rules: 1,
        sampling_key: None,
    })
}

fn resources(
    plan: &Plan,
    folder: &Path,
    log: &Arc<SledLog>,
    server: &Arc<RabbitBroker>,
) -> Outcome<Resources> {
    let prompt = |index: u32| -> Outcome<Prompt> {
        let text = "What should I check before I buy a used bicycle from a stranger?".to_owned();
        Ok(Prompt {
            prompt_id: PromptId::new(format!("prompt-{index}"))?,
            text,
            category: None,
            messages: Vec::new(),
        })
    };
    Ok(Resources {
        log: log.clone(),
        broker: server.clone(),
        artifacts: ArtifactStore::open(folder.join("artifacts"))?,
        snapshots: Some(Snapshots::new(folder.join("snapshots"))),
        roles: "conflict".parse()?,
        prompts: (0..plan.prompts.count).map(prompt).collect::<Outcome<_>>()?,
        policy: None,
        proxy: None,
        learning: None,
        cancel: CancelFlag::new(),
        lease: LeaseTimes::default(),
        shared: true,
        waits_for_people: true,
    })
}
