//! Experiments that are paused, resumed and cancelled while they run.

use dissent_domain::operator::{Action, ExperimentStatus, OperatorCommand};
use dissent_domain::rejection::Rejection;

use super::worker::{journal, results, worker};
use super::*;
use crate::{CommandError, Control, Progress};

fn command(action: Action) -> OperatorCommand {
    OperatorCommand { action, by: "ann".to_owned(), reason: Some("the machine is needed".to_owned()) }
}

/// Gives a command that changes the status; returns the new status.
async fn give(control: &Control, plan: &Plan, action: Action) -> ExperimentStatus {
    let outcome = control.command(plan.experiment.clone(), command(action)).await.unwrap();
    assert!(outcome.changed);
    outcome.status
}

async fn until(pipeline: &Pipeline, reached: impl Fn(&Progress) -> bool) {
    let mut progress = pipeline.progress();
    let waited = tokio::time::timeout(Duration::from_secs(60), progress.wait_for(|now| reached(now))).await;
    waited.expect("the run gets there in time").unwrap();
}

/// The events whose content depends neither on interruptions nor on the trained adapters.
fn stable_events(log: &MemoryLog) -> Vec<(String, Vec<u8>)> {
    let interrupting = ["experiment.", "training.requested", "training.lease_expired"];
    let mut stable: Vec<_> = results(log)
        .into_iter()
        .filter(|(_, kind, _)| !interrupting.iter().any(|prefix| kind.starts_with(prefix)))
        .map(|(_, kind, body)| (kind, body))
        .filter(|(kind, _)| {
            !["training.reward_model_refined", "training.policy_tuned"].contains(&kind.as_str())
        })
        .collect();
    stable.sort();
    stable
}

#[test]
fn a_paused_training_releases_its_lease_and_resumes_from_its_checkpoint() {
    let Some(undisturbed) = Fixture::new() else { return };
    let plan = undisturbed.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(undisturbed.finish(&plan, undisturbed.trainer(Fault::None)));
    with_fixture(async |fixture| {
        let pipeline = fixture.start(&plan, fixture.trainer(Fault::StuckAt(4)), false).await;
        until(&pipeline, |now| now.training.is_some_and(|(step, _)| step == 4)).await;
        assert_eq!(give(&pipeline.control(), &plan, Action::Pause).await, ExperimentStatus::Paused);
        until(&pipeline, |now| now.training.is_none()).await;
        // A restart of the server during the pause changes nothing.
        pipeline.drain().await.unwrap();
        let requested = fixture.of_kind(EventType::TrainingRequested).len();
        let mut pipeline = fixture.start(&plan, fixture.trainer(Fault::None), false).await;
        assert_eq!(pipeline.progress().borrow().status, ExperimentStatus::Paused);
        assert_eq!(fixture.of_kind(EventType::TrainingRequested).len(), requested);
        assert_eq!(give(&pipeline.control(), &plan, Action::Resume).await, ExperimentStatus::Running);
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        let requested = fixture.of_kind(EventType::TrainingRequested);
        let again: &TrainingRequested = requested[1].body().unwrap();
        assert_eq!((again.attempt, again.resume_from.is_some()), (1, true));
        assert_eq!(
            (fixture.results(), stable_events(&fixture.log)),
            (undisturbed.results(), stable_events(&undisturbed.log))
        );
        assert_eq!(
            fixture.verified().experiment().state_hash(),
            undisturbed.verified().experiment().state_hash()
        );
    });
}

#[test]
fn workers_pause_and_resume_with_the_journal() {
    let Some(undisturbed) = Fixture::new() else { return };
    let plan = undisturbed.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(undisturbed.finish(&plan, undisturbed.trainer(Fault::None)));
    with_fixture(async |fixture| {
        let broker = Arc::new(EmbeddedBroker::new(fixture.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(fixture, &plan, &broker).await;
        // Possibly before the first prompt is sampled.
        give(&journal.control(), &plan, Action::Pause).await;
        let roles = ["generation,reward,conflict", "feedback,evaluation,training"];
        let workers = roles.map(|roles| worker(fixture, &plan, &broker, roles, Fault::StuckAt(4)));
        for worker in &workers {
            let mut progress = worker.health().progress;
            let paused = progress.wait_for(|now| now.status.is_paused());
            tokio::time::timeout(Duration::from_secs(60), paused).await.unwrap().unwrap();
        }
        assert!(fixture.of_kind(EventType::CompletionsSampled).is_empty());
        give(&journal.control(), &plan, Action::Resume).await;
        until(&journal, |now| now.training.is_some_and(|(step, _)| step == 4)).await;
        give(&journal.control(), &plan, Action::Pause).await;
        until(&journal, |now| now.training.is_none()).await;
        give(&journal.control(), &plan, Action::Resume).await;
        // The training of the policy stops at the same step.
        until(&journal, |now| {
            now.phase == crate::Phase::Tuning && now.training.is_some_and(|(step, _)| step == 4)
        })
        .await;
        give(&journal.control(), &plan, Action::Pause).await;
        give(&journal.control(), &plan, Action::Resume).await;
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in workers {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        assert_eq!(
            (fixture.results(), stable_events(&fixture.log)),
            (undisturbed.results(), stable_events(&undisturbed.log))
        );
        assert_eq!(
            fixture.verified().experiment().state_hash(),
            undisturbed.verified().experiment().state_hash()
        );
    });
}

#[test]
fn judgements_are_recorded_during_a_pause_and_used_after_it() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::People);
        let mut pipeline = fixture.start(&plan, fixture.trainer(Fault::None), true).await;
        until(&pipeline, |now| now.waits_for_people).await;
        give(&pipeline.control(), &plan, Action::Pause).await;
        fixture.judge_all(&pipeline, Verdict::First, None).await;
        until(&pipeline, |now| now.judgements == now.judgements_wanted).await;
        assert!(fixture.of_kind(EventType::FeedbackSettled).is_empty());
        give(&pipeline.control(), &plan, Action::Resume).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        let order: Vec<String> =
            fixture.recorded().into_iter().map(|recorded| recorded.event.event_type).collect();
        let at = |kind: EventType| order.iter().position(|name| name == kind.name()).unwrap();
        assert!(at(EventType::ExperimentResumed) < at(EventType::FeedbackSettled));
        fixture.verified();
    });
}

#[test]
fn a_cancelled_experiment_ends_during_a_training_and_stays_cancelled() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let mut pipeline = fixture.start(&plan, fixture.trainer(Fault::StuckAt(4)), false).await;
        until(&pipeline, |now| now.training.is_some_and(|(step, _)| step == 4)).await;
        let control = pipeline.control();
        assert_eq!(give(&control, &plan, Action::Cancel).await, ExperimentStatus::Cancelled);
        assert_eq!(ended(&mut pipeline).await, Ending::Cancelled);
        let refused = control.command(plan.experiment.clone(), command(Action::Resume)).await.unwrap_err();
        let CommandError::Rejected { experiment, rejection } = refused else { panic!("{refused:?}") };
        assert_eq!((experiment, rejection), (plan.experiment.clone(), Rejection::Cancelled));
        pipeline.drain().await.unwrap();
        let refused = control.command(plan.experiment.clone(), command(Action::Pause)).await.unwrap_err();
        assert!(matches!(refused, CommandError::Gone), "{refused}");
        let last = fixture.recorded().pop().unwrap().decode().unwrap();
        assert_eq!(last.event_type(), EventType::ExperimentCancelled);
        let mut pipeline = fixture.start(&plan, fixture.trainer(Fault::None), false).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Cancelled);
        pipeline.drain().await.unwrap();
        assert!(fixture.verified().experiment().is_over());
    });
}

#[test]
fn idle_experiments_of_the_log_accept_operator_commands() {
    with_fixture(async |fixture| {
        let mut other = fixture.plan(1, FeedbackSource::Oracle);
        other.experiment = ExperimentId::new("other").unwrap();
        fixture.start(&other, fixture.trainer(Fault::None), false).await.drain().await.unwrap();
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let mut pipeline = fixture.start(&plan, fixture.trainer(Fault::None), false).await;
        assert_eq!(give(&pipeline.control(), &other, Action::Cancel).await, ExperimentStatus::Cancelled);
        let unknown = ExperimentId::new("unknown").unwrap();
        let refused = pipeline.control().command(unknown, command(Action::Pause)).await.unwrap_err();
        assert!(matches!(refused, CommandError::Unknown(_)), "{refused}");
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        let again =
            crate::command_in_log(&*fixture.log, &other.experiment, &command(Action::Cancel)).await.unwrap();
        assert_eq!(again, crate::CommandOutcome { status: ExperimentStatus::Cancelled, changed: false });
    });
}
