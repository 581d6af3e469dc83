//! Experiments that are paused, resumed and cancelled while they run.

use dissent_domain::operator::{Action, ExperimentStatus, OperatorCommand};

use super::worker::{journal, results, worker};
use super::*;
use crate::{CommandError, Control, Progress};

fn order(action: Action) -> OperatorCommand {
    OperatorCommand { action, by: "ann".to_owned(), reason: Some("the machine is needed".to_owned()) }
}

async fn give(control: &Control, plan: &Plan, action: Action) -> ExperimentStatus {
    let ordered = control.command(plan.experiment.clone(), order(action)).await.unwrap();
    assert!(ordered.changed);
    ordered.standing
}

async fn until(pipeline: &Pipeline, reached: impl Fn(&Progress) -> bool) {
    let mut progress = pipeline.progress();
    let waited = tokio::time::timeout(Duration::from_secs(60), progress.wait_for(|now| reached(now))).await;
    waited.expect("it gets there").unwrap();
}

/// The events that say what was done, and not who did it when, or that it was interrupted.
fn lasting(log: &MemoryLog) -> Vec<(String, Vec<u8>)> {
    let passing = ["experiment.", "training.requested", "training.lease_expired"];
    let mut lasting: Vec<_> = results(log)
        .into_iter()
        .filter(|(_, kind, _)| !passing.iter().any(|passing| kind.starts_with(passing)))
        .map(|(_, kind, body)| (kind, body))
        .filter(|(kind, _)| {
            !["training.reward_model_refined", "training.policy_tuned"].contains(&kind.as_str())
        })
        .collect();
    lasting.sort();
    lasting
}

#[test]
fn a_training_that_is_paused_gives_its_lease_up_and_goes_on_from_its_checkpoint_when_it_is_resumed() {
    let Some(calm) = Place::new() else { return };
    let plan = calm.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(calm.finish(&plan, calm.counting(Mishap::None)));
    with_place(async |place| {
        let pipeline = place.start(&plan, place.counting(Mishap::Stuck(4)), None).await;
        until(&pipeline, |now| now.training.is_some_and(|(step, _)| step == 4)).await;
        assert_eq!(give(&pipeline.control(), &plan, Action::Pause).await, ExperimentStatus::Paused);
        until(&pipeline, |now| now.training.is_none()).await;
        // A server that is stopped and started meanwhile changes nothing.
        pipeline.drain().await.unwrap();
        let requested = place.of_kind(EventType::TrainingRequested).len();
        let mut pipeline = place.start(&plan, place.counting(Mishap::None), None).await;
        assert_eq!(pipeline.progress().borrow().standing, ExperimentStatus::Paused);
        assert_eq!(place.of_kind(EventType::TrainingRequested).len(), requested);
        assert_eq!(give(&pipeline.control(), &plan, Action::Resume).await, ExperimentStatus::Running);
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        let Event::TrainingRequested(again) = &place.of_kind(EventType::TrainingRequested)[1] else {
            panic!()
        };
        assert_eq!((again.attempt, again.resume_from.is_some()), (1, true));
        assert_eq!((place.results(), lasting(&place.log)), (calm.results(), lasting(&calm.log)));
        assert_eq!(place.verified().experiment().state_hash(), calm.verified().experiment().state_hash());
    });
}

#[test]
fn workers_pause_and_go_on_as_the_journal_is_told() {
    let Some(calm) = Place::new() else { return };
    let plan = calm.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(calm.finish(&plan, calm.counting(Mishap::None)));
    with_place(async |place| {
        let broker = Arc::new(EmbeddedBroker::new(place.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(place, &plan, &broker).await;
        // Before anything is sampled, as it may come.
        give(&journal.control(), &plan, Action::Pause).await;
        let roles = ["generation,reward,conflict", "feedback,evaluation,training"];
        let workers = roles.map(|roles| worker(place, &plan, &broker, roles, Mishap::Stuck(4)));
        for worker in &workers {
            let mut told = worker.health().progress;
            let hears = told.wait_for(|now| now.standing.is_paused());
            tokio::time::timeout(Duration::from_secs(60), hears).await.unwrap().unwrap();
        }
        assert!(place.of_kind(EventType::CompletionsSampled).is_empty());
        give(&journal.control(), &plan, Action::Resume).await;
        until(&journal, |now| now.training.is_some_and(|(step, _)| step == 4)).await;
        give(&journal.control(), &plan, Action::Pause).await;
        until(&journal, |now| now.training.is_none()).await;
        give(&journal.control(), &plan, Action::Resume).await;
        // The policy's training is stuck at the same place.
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
        assert_eq!((place.results(), lasting(&place.log)), (calm.results(), lasting(&calm.log)));
        assert_eq!(place.verified().experiment().state_hash(), calm.verified().experiment().state_hash());
    });
}

#[test]
fn people_are_heard_while_it_is_paused_and_nothing_follows_until_it_is_resumed() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::People);
        let mut pipeline = place.start(&plan, place.counting(Mishap::None), Some(place.inbox())).await;
        until(&pipeline, |now| now.waits_for_people).await;
        give(&pipeline.control(), &plan, Action::Pause).await;
        place.judge_all(Verdict::First, None);
        until(&pipeline, |now| now.judgements == now.judgements_wanted).await;
        assert!(place.of_kind(EventType::FeedbackSettled).is_empty());
        give(&pipeline.control(), &plan, Action::Resume).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        let order: Vec<String> =
            place.recorded().into_iter().map(|recorded| recorded.event.event_type).collect();
        let at = |kind: EventType| order.iter().position(|name| name == kind.name()).unwrap();
        assert!(at(EventType::ExperimentResumed) < at(EventType::FeedbackSettled));
        place.verified();
    });
}

#[test]
fn a_cancelled_experiment_ends_in_the_middle_of_a_training_and_stays_so() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::Oracle);
        let mut pipeline = place.start(&plan, place.counting(Mishap::Stuck(4)), None).await;
        until(&pipeline, |now| now.training.is_some_and(|(step, _)| step == 4)).await;
        let control = pipeline.control();
        assert_eq!(give(&control, &plan, Action::Cancel).await, ExperimentStatus::Cancelled);
        assert_eq!(ended(&mut pipeline).await, Ending::Cancelled);
        let refused = control.command(plan.experiment.clone(), order(Action::Resume)).await.unwrap_err();
        assert_eq!(refused.to_string(), "learning: the experiment was cancelled");
        pipeline.drain().await.unwrap();
        let refused = control.command(plan.experiment.clone(), order(Action::Pause)).await.unwrap_err();
        assert!(matches!(refused, CommandError::Gone), "{refused}");
        let last = place.recorded().pop().unwrap().decode().unwrap();
        assert!(matches!(last, Event::ExperimentCancelled(_)), "{last:?}");
        let mut pipeline = place.start(&plan, place.counting(Mishap::None), None).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Cancelled);
        pipeline.drain().await.unwrap();
        assert!(place.verified().experiment().is_over());
    });
}

#[test]
fn experiments_of_the_log_that_are_not_at_work_take_orders_too() {
    with_place(async |place| {
        let mut other = place.plan(1, FeedbackSource::Oracle);
        other.experiment = ExperimentId::new("other").unwrap();
        place.start(&other, place.counting(Mishap::None), None).await.drain().await.unwrap();
        let plan = place.plan(1, FeedbackSource::Oracle);
        let mut pipeline = place.start(&plan, place.counting(Mishap::None), None).await;
        assert_eq!(give(&pipeline.control(), &other, Action::Cancel).await, ExperimentStatus::Cancelled);
        let nobody = ExperimentId::new("nobody").unwrap();
        let refused = pipeline.control().command(nobody, order(Action::Pause)).await.unwrap_err();
        assert!(matches!(refused, CommandError::Unknown(_)), "{refused}");
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        let again =
            crate::command_in_log(&*place.log, &other.experiment, &order(Action::Cancel)).await.unwrap();
        assert_eq!(again, crate::CommandOutcome { standing: ExperimentStatus::Cancelled, changed: false });
    });
}
