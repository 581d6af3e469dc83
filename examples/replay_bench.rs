//! Measures the speed of replay: `replay_bench [PROMPTS]` prints one JSON object.
//!
//! The program writes a round into a durable log, with eight completions of 64 tokens for each prompt and
//! texts of realistic length. Then it opens the log again and folds the stream from the disk. `verify` also
//! makes every decision again.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use dissent_domain::conflict::{self, LogprobKind, Rule, SelectionSettings};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, Event, EventId, ExperimentStarted, NewEvent, PromptAdmitted,
    RewardsScored, follow_from,
};
use dissent_domain::experiment::Experiment;
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::replay::Replay;
use dissent_domain::reward::RewardKind;
use dissent_domain::weight_form::WeightForm;
use dissent_storage::{SledLog, SledOptions, Snapshots};

/// Completions per prompt.
const SAMPLES: u32 = 8;
/// Tokens per completion.
const TOKENS: u32 = 64;
/// Events read from the log at a time.
const PAGE_EVENTS: usize = 1024;
/// Prompts whose events are appended together.
const APPEND_PROMPTS: usize = 64;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let prompts: u32 = std::env::args().nth(1).map_or(Ok(20_000), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let plan = plan(prompts)?;
    write_round(folder.path(), &plan)?;

    let started = Instant::now();
    let log = SledLog::open(folder.path(), &SledOptions::default())?;
    let open_seconds = started.elapsed().as_secs_f64();
    let replay = events_per_second(&log, &plan, Replay::new)?;
    let verify = events_per_second(&log, &plan, Replay::verifying)?;
    let (snapshot, resume_seconds, snapshot_bytes) = from_snapshot(&log, &plan)?;
    let report = serde_json::json!({
        "prompts": prompts,
        "events": log.head(),
        "open_seconds": open_seconds,
        "events_per_second": replay,
        "verify_events_per_second": verify,
        "fold_seconds": log.head() as f64 / replay,
        "snapshot_seconds": snapshot,
        "snapshot_bytes": snapshot_bytes,
        "resume_seconds": resume_seconds,
    });
    writeln!(std::io::stdout().lock(), "{report}")?;
    Ok(())
}

/// Returns the seconds to write a snapshot of the history and to start from it, and its size in bytes.
fn from_snapshot(log: &SledLog, plan: &Plan) -> Outcome<(f64, f64, u64)> {
    let folder = tempfile::tempdir()?;
    let snapshots = Snapshots::new(folder.path());
    let started = Instant::now();
    let folded = snapshots.resume(log, &plan.experiment, 0)?;
    let kept_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let resumed = snapshots.resume(log, &plan.experiment, 0)?;
    let resumed_seconds = started.elapsed().as_secs_f64();
    if resumed.experiment() != folded.experiment() {
        return Err("the snapshot has another state".into());
    }
    let bytes = std::fs::metadata(folder.path().join(format!("{}.snapshot", plan.experiment)))?.len();
    Ok((kept_seconds, resumed_seconds, bytes))
}

/// Returns the best of three times, because the first pass also reads cold pages.
fn events_per_second(log: &SledLog, plan: &Plan, replay: fn() -> Replay) -> Outcome<f64> {
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let started = Instant::now();
        let mut state = replay();
        loop {
            let page = log.read_stream(&plan.experiment, state.version(), PAGE_EVENTS)?;
            if page.is_empty() {
                break;
            }
            for recorded in &page {
                state.apply(recorded)?;
            }
        }
        if !state.experiment().is_finished() {
            return Err("the rebuilt experiment is not finished".into());
        }
        best = best.max(state.version() as f64 / started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn plan(prompts: u32) -> Outcome<Plan> {
    let template = "Question: {prompt}\n\nAnswer: {completion}".to_owned();
    Ok(Plan {
        experiment: ExperimentId::new("replay-bench")?,
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
            template,
            kind: RewardKind::Reward,
            output: None,
        },
        sampling: SamplingParams { samples: SAMPLES, max_new_tokens: TOKENS, ..SamplingParams::default() },
        conflict: ConflictPlan {
            logprob: LogprobKind::Sum,
            selection: SelectionSettings {
                rule: Rule::Budget,
                budget: Some(u64::from(prompts)),
                ..SelectionSettings::default()
            },
        },
        learning: None,
        reading_rules: 1,
        sampling_key: None,
    })
}

/// Writes the events of the experiment from start to finish, in the order of a real run.
fn write_round(folder: &Path, plan: &Plan) -> Outcome<()> {
    let log = SledLog::open(folder, &SledOptions::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut state = Experiment::default();
    let mut append = |events: Vec<NewEvent>| -> Outcome<()> {
        let expected = ExpectedVersion::Any;
        runtime.block_on(log.append(Append { experiment: plan.experiment.clone(), expected, events }))?;
        Ok(())
    };

    let begin: Event = ExperimentStarted::new(plan.clone()).into();
    append(vec![NewEvent::new(EventId::of_experiment(&plan.experiment), None, "bench", 0, &begin)?])?;
    state.evolve(&begin);
    let opened = conclude(&mut state, &mut append)?;
    let indices: Vec<u32> = (0..plan.prompts.count).collect();
    for chunk in indices.chunks(APPEND_PROMPTS) {
        let mut events = Vec::new();
        for &index in chunk {
            events.extend(prompt_events(plan, &mut state, opened, index)?);
        }
        append(events)?;
    }
    while !state.is_finished() {
        conclude(&mut state, &mut append)?;
    }
    Ok(())
}

/// Appends the events that the coordinator would propose next. Returns the id of the first.
fn conclude(
    state: &mut Experiment,
    append: &mut impl FnMut(Vec<NewEvent>) -> Outcome<()>,
) -> Outcome<EventId> {
    let due = state.due().ok_or("nothing is due")?;
    let events = follow_from(due.cause, "round", 0, &due.events)?;
    let first = events.first().ok_or("nothing is due")?.id;
    due.events.iter().for_each(|event| state.evolve(event));
    let mut events = events.into_iter().peekable();
    while events.peek().is_some() {
        append(events.by_ref().take(PAGE_EVENTS).collect())?;
    }
    Ok(first)
}

/// Appends the events of one prompt in the round.
fn prompt_events(plan: &Plan, state: &mut Experiment, opened: EventId, index: u32) -> Outcome<Vec<NewEvent>> {
    let prompt = Prompt {
        prompt_id: PromptId::new(format!("prompt-{index}"))?,
        text: "What should I check before I buy a used bicycle from a stranger?".into(),
        category: Some("everyday".into()),
        messages: Vec::new(),
    };
    let prompt_id = prompt.prompt_id.clone();
    let completions: Vec<Completion> = (0..SAMPLES).map(|sample| completion(index, sample)).collect();
    let rewards: Vec<f64> = (0..SAMPLES).map(|sample| noise(index, sample, 1) * 4.0).collect();
    let logprobs: Vec<f64> = completions.iter().map(|completion| completion.logprob).collect();
    let conflict = conflict::measure(&rewards, &logprobs)?;

    let admitted: Event = PromptAdmitted { round: 0, index, prompt: prompt.clone() }.into();
    let sampled = CompletionsSampled {
        round: 0,
        prompt,
        policy: plan.policy.fingerprint.clone(),
        prompt_token_ids: (0..43).map(|token| 1000 + 37 * token).collect(),
        completions,
    };
    let scored = RewardsScored {
        round: 0,
        prompt_id: prompt_id.clone(),
        reward_model: plan.reward.fingerprint.clone(),
        rewards,
    };
    let measured = ConflictMeasured { round: 0, prompt_id, conflict, flags: Vec::new() };

    let mut cause = opened.caused(admitted.event_type().name(), index);
    let mut events = vec![NewEvent::new(cause, Some(opened), "prompt", 0, &admitted)?];
    state.evolve(&admitted);
    for event in [Event::from(sampled), scored.into(), measured.into()] {
        let next = follow_from(cause, "bench", 0, std::slice::from_ref(&event))?;
        cause = next.first().ok_or("no event followed")?.id;
        events.extend(next);
        state.evolve(&event);
    }
    Ok(events)
}

fn completion(index: u32, sample: u32) -> Completion {
    Completion {
        token_ids: (0..TOKENS).map(|token| (index * 31 + sample * 7 + token * 613) % 49_152).collect(),
        text: "Look at the frame for cracks, spin both wheels, and ask to see the receipt. ".repeat(4),
        logprob: -60.0 - 40.0 * noise(index, sample, 2),
        finish_reason: FinishReason::Length,
    }
}

/// Returns a repeatable pseudo-random number in [0, 1).
fn noise(index: u32, sample: u32, stream: u32) -> f64 {
    let mixed =
        (index.wrapping_mul(2_654_435_761) ^ sample.wrapping_mul(40_503) ^ stream.wrapping_mul(97_531))
            .wrapping_mul(2_246_822_519);
    f64::from(mixed ^ (mixed >> 15)) / 4_294_967_296.0
}
