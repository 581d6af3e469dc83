//! Rounds whose steps run in workers, which follow a copy of the history.

use std::collections::BTreeSet;

use dissent_domain::event::TrainingStarted;
use dissent_domain::log::{Append, ExpectedVersion};

use super::*;
use crate::{LogHistory, Turns, Worker};

/// The results in a log, ordered by id, so that the speed of single workers does not matter.
pub(super) fn results(log: &MemoryLog) -> BTreeSet<(String, String, Vec<u8>)> {
    let heartbeats = [EventType::TrainingStarted.name(), EventType::TrainingProgressed.name()];
    let events = log.read(0, usize::MAX).unwrap().into_iter().map(|recorded| recorded.event);
    events
        .filter(|event| !heartbeats.contains(&event.event_type.as_str()))
        .map(|event| (event.id.to_string(), event.event_type, event.body))
        .collect()
}

pub(super) fn worker(
    fixture: &Fixture,
    plan: &Plan,
    broker: &Arc<EmbeddedBroker>,
    roles: &str,
    fault: Fault,
) -> Worker {
    let history = LogHistory::after(fixture.log.clone(), plan.experiment.clone(), 0);
    let roles = roles.parse().unwrap();
    let resources = fixture.resources(Arc::default(), broker.clone(), roles, fixture.trainer(fault), false);
    Worker::start(plan, resources, Box::new(history), Turns::default()).unwrap()
}

pub(super) async fn journal(fixture: &Fixture, plan: &Plan, broker: &Arc<EmbeddedBroker>) -> Pipeline {
    let trainer = fixture.trainer(Fault::None);
    let resources = fixture.resources(fixture.log.clone(), broker.clone(), Roles::none(), trainer, false);
    Pipeline::start(plan, resources).await.unwrap()
}

#[test]
fn workers_reach_the_same_result_as_one_process() {
    let Some(undisturbed) = Fixture::new() else { return };
    let plan = undisturbed.plan(2, FeedbackSource::Oracle);
    actix::System::new().block_on(undisturbed.finish(&plan, undisturbed.trainer(Fault::None)));
    with_fixture(async |fixture| {
        let broker = Arc::new(EmbeddedBroker::new(fixture.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(fixture, &plan, &broker).await;
        let mut workers = Vec::new();
        for roles in
            ["generation,reward,training", "generation,conflict,training", "feedback,evaluation,reward"]
        {
            workers.push(worker(fixture, &plan, &broker, roles, Fault::None));
        }
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in &mut workers {
            let finished = tokio::time::timeout(Duration::from_secs(60), worker.finished()).await;
            finished.expect("the worker reads the end of the history").unwrap();
            assert_eq!(worker.health().progress.borrow().events, fixture.recorded().len() as u64);
        }
        for worker in workers {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        assert_eq!(results(&undisturbed.log), results(&fixture.log));
        assert_eq!(undisturbed.verified().experiment(), fixture.verified().experiment());
    });
}

#[test]
fn a_failed_worker_reports_its_reason_and_another_one_replaces_it() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let broker = Arc::new(EmbeddedBroker::new(fixture.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(fixture, &plan, &broker).await;
        let steps = "generation,reward,conflict,feedback,evaluation";
        let healthy = worker(fixture, &plan, &broker, steps, Fault::None);
        let mut failing = worker(fixture, &plan, &broker, "training", Fault::Error);
        let failed = tokio::time::timeout(Duration::from_secs(60), failing.finished()).await.unwrap();
        assert!(is_failed_training(&failed.unwrap_err()));
        assert!(!journal.progress().borrow().finished, "the journal continues");
        drop(failing);
        // The lease would expire after a minute.
        let of_last = fixture.recorded().into_iter().rev().find_map(|recorded| {
            let e = TrainingStarted::try_from(recorded.decode().unwrap()).ok()?;
            Some((recorded.event.causation.unwrap(), e))
        });
        let (requested, started) = of_last.unwrap();
        let expired = dissent_domain::event::TrainingLeaseExpired {
            round: started.round,
            stage: started.stage,
            attempt: started.attempt,
        };
        let events = dissent_domain::event::follow_from(requested, "test", 0, &[expired.into()]).unwrap();
        let experiment = plan.experiment.clone();
        let proposal = dissent_queues::Proposal { experiment, cause: Some(requested), events };
        dissent_queues::Broker::propose(&*broker, proposal).await.unwrap();
        let trainer = worker(fixture, &plan, &broker, "training", Fault::None);
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in [healthy, trainer] {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        fixture.verified();
    });
}

#[test]
fn a_worker_with_a_wrong_fingerprint_is_contradicted_and_another_one_replaces_it() {
    let Some(undisturbed) = Fixture::new() else { return };
    let plan = undisturbed.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(undisturbed.finish(&plan, undisturbed.trainer(Fault::None)));
    with_fixture(async |fixture| {
        let broker = Arc::new(EmbeddedBroker::new(fixture.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(fixture, &plan, &broker).await;
        let steps = "generation,reward,conflict,feedback,evaluation";
        let others = worker(fixture, &plan, &broker, steps, Fault::None);
        let wrong = Fault::WrongFingerprint(Arc::new(AtomicBool::new(true)));
        let history = LogHistory::after(fixture.log.clone(), plan.experiment.clone(), 0);
        let roles = "training".parse().unwrap();
        let trainer = fixture.trainer(wrong);
        let mut resources = fixture.resources(Arc::default(), broker.clone(), roles, trainer, false);
        resources.lease = LeaseTimes::of(Duration::from_secs(2));
        let trainer = Worker::start(&plan, resources, Box::new(history), Turns::default()).unwrap();
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in [others, trainer] {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        assert!(
            !fixture.of_kind(EventType::TrainingLeaseExpired).is_empty(),
            "the lease of the contradicted worker expired"
        );
        assert_eq!(fixture.of_kind(EventType::RewardModelRefined).len(), 1);
        let versions = |fixture: &Fixture| {
            let replay = fixture.verified();
            [replay.experiment().reward_model(), replay.experiment().policy()]
        };
        assert_eq!(versions(fixture), versions(&undisturbed));
    });
}

/// A copy of the log.
async fn copied(log: &MemoryLog) -> Arc<MemoryLog> {
    let copy = Arc::new(MemoryLog::new());
    for recorded in log.read(0, usize::MAX).unwrap() {
        let (experiment, expected) = (recorded.experiment, ExpectedVersion::Any);
        copy.append(Append { experiment, expected, events: vec![recorded.event] }).await.unwrap();
    }
    copy
}

#[test]
fn a_start_expires_an_old_lease_only_if_no_other_process_can_hold_it() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let pipeline = fixture.start(&plan, fixture.trainer(Fault::StuckAt(4)), false).await;
        let mut progress = pipeline.progress();
        let reached = progress.wait_for(|now| now.training.is_some_and(|(step, _)| step == 4));
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
        for shared in [true, false] {
            let log = copied(&fixture.log).await;
            let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
            let trainer = fixture.trainer(Fault::None);
            let resources = fixture.resources(log.clone(), broker, Roles::none(), trainer, false);
            let again = Pipeline::start(&plan, Resources { shared, ..resources }).await.unwrap();
            let expired =
                |recorded: &Recorded| recorded.event.event_type == EventType::TrainingLeaseExpired.name();
            assert_eq!(log.read(0, usize::MAX).unwrap().iter().any(expired), !shared);
            again.drain().await.unwrap();
        }
        pipeline.drain().await.unwrap();
    });
}
