//! The same rounds with the steps done by workers, who know of the history only what they are told.

use std::collections::BTreeSet;

use dissent_domain::log::{Append, ExpectedVersion};

use super::*;
use crate::{LogHistory, Worker};

/// The bodies of the events that are results, in an order that does not depend on who was faster.
pub(super) fn results(log: &MemoryLog) -> BTreeSet<(String, String, Vec<u8>)> {
    let signs = [EventType::TrainingStarted.name(), EventType::TrainingProgressed.name()];
    let events = log.read(0, usize::MAX).unwrap().into_iter().map(|recorded| recorded.event);
    events
        .filter(|event| !signs.contains(&event.event_type.as_str()))
        .map(|event| (event.id.to_string(), event.event_type, event.body))
        .collect()
}

pub(super) fn worker(
    place: &Place,
    plan: &Plan,
    broker: &Arc<EmbeddedBroker>,
    roles: &str,
    mishap: Mishap,
) -> Worker {
    let history = LogHistory::after(place.log.clone(), plan.experiment.clone(), 0);
    let roles = roles.parse().unwrap();
    let resources = place.resources(Arc::default(), broker.clone(), roles, place.counting(mishap), None);
    Worker::start(plan, resources, Box::new(history)).unwrap()
}

pub(super) async fn journal(place: &Place, plan: &Plan, broker: &Arc<EmbeddedBroker>) -> Pipeline {
    let trainer = place.counting(Mishap::None);
    let resources = place.resources(place.log.clone(), broker.clone(), Roles::none(), trainer, None);
    Pipeline::start(plan, resources).await.unwrap()
}

#[test]
fn workers_come_to_the_same_result_as_one_process() {
    let Some(alone) = Place::new() else { return };
    let plan = alone.plan(2, FeedbackSource::Oracle);
    actix::System::new().block_on(alone.finish(&plan, alone.counting(Mishap::None)));
    with_place(async |place| {
        let broker = Arc::new(EmbeddedBroker::new(place.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(place, &plan, &broker).await;
        let mut workers = Vec::new();
        for roles in
            ["generation,reward,training", "generation,conflict,training", "feedback,evaluation,reward"]
        {
            workers.push(worker(place, &plan, &broker, roles, Mishap::None));
        }
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in &mut workers {
            let heard = tokio::time::timeout(Duration::from_secs(60), worker.finished()).await;
            heard.expect("it hears of the end").unwrap();
            assert_eq!(worker.health().progress.borrow().events, place.recorded().len() as u64);
        }
        for worker in workers {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        assert_eq!(results(&alone.log), results(&place.log));
        assert_eq!(alone.verified().experiment(), place.verified().experiment());
    });
}

#[test]
fn a_worker_that_fails_says_why_and_another_does_its_work() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::Oracle);
        let broker = Arc::new(EmbeddedBroker::new(place.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(place, &plan, &broker).await;
        let steps = "generation,reward,conflict,feedback,evaluation";
        let healthy = worker(place, &plan, &broker, steps, Mishap::None);
        let mut failing = worker(place, &plan, &broker, "training", Mishap::Error);
        let failed = tokio::time::timeout(Duration::from_secs(60), failing.finished()).await.unwrap();
        assert!(failed.unwrap_err().to_string().contains("the loss is not finite"));
        assert!(!journal.progress().borrow().finished, "the journal goes on");
        drop(failing);
        // What the lease would do in a minute.
        let of_last = place.recorded().into_iter().rev().find_map(|recorded| {
            let Event::TrainingStarted(e) = recorded.decode().unwrap() else { return None };
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
        let trainer = worker(place, &plan, &broker, "training", Mishap::None);
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in [healthy, trainer] {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        place.verified();
    });
}

#[test]
fn a_worker_that_lies_about_what_it_trained_is_not_believed_and_another_does_its_work() {
    let Some(honest) = Place::new() else { return };
    let plan = honest.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(honest.finish(&plan, honest.counting(Mishap::None)));
    with_place(async |place| {
        let broker = Arc::new(EmbeddedBroker::new(place.log.clone(), EmbeddedOptions::default()));
        let mut journal = journal(place, &plan, &broker).await;
        let steps = "generation,reward,conflict,feedback,evaluation";
        let others = worker(place, &plan, &broker, steps, Mishap::None);
        let liar = Mishap::Lie(Arc::new(AtomicBool::new(true)));
        let history = LogHistory::after(place.log.clone(), plan.experiment.clone(), 0);
        let roles = "training".parse().unwrap();
        let trainer = place.counting(liar);
        let mut resources = place.resources(Arc::default(), broker.clone(), roles, trainer, None);
        resources.lease = LeaseTimes::of(Duration::from_secs(2));
        let trainer = Worker::start(&plan, resources, Box::new(history)).unwrap();
        assert_eq!(ended(&mut journal).await, Ending::Finished);
        for worker in [others, trainer] {
            worker.drain().await.unwrap();
        }
        journal.drain().await.unwrap();
        assert!(!place.of_kind(EventType::TrainingLeaseExpired).is_empty(), "the lie cost it its lease");
        assert_eq!(place.of_kind(EventType::RewardModelRefined).len(), 1);
        let versions = |place: &Place| {
            let replay = place.verified();
            [replay.experiment().reward_model(), replay.experiment().policy()]
        };
        assert_eq!(versions(place), versions(&honest));
    });
}

/// A log with the same events, so far.
async fn copied(log: &MemoryLog) -> Arc<MemoryLog> {
    let copy = Arc::new(MemoryLog::new());
    for recorded in log.read(0, usize::MAX).unwrap() {
        let (experiment, expected) = (recorded.experiment, ExpectedVersion::Any);
        copy.append(Append { experiment, expected, events: vec![recorded.event] }).await.unwrap();
    }
    copy
}

#[test]
fn a_training_is_given_up_at_the_start_only_where_no_other_process_can_be_at_it() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::Oracle);
        let pipeline = place.start(&plan, place.counting(Mishap::Stuck(4)), None).await;
        let mut progress = pipeline.progress();
        let reached = progress.wait_for(|now| now.training.is_some_and(|(step, _)| step == 4));
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap().unwrap();
        for shared in [true, false] {
            let log = copied(&place.log).await;
            let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
            let trainer = place.counting(Mishap::None);
            let resources = place.resources(log.clone(), broker, Roles::none(), trainer, None);
            let again = Pipeline::start(&plan, Resources { shared, ..resources }).await.unwrap();
            let expired =
                |recorded: &Recorded| recorded.event.event_type == EventType::TrainingLeaseExpired.name();
            assert_eq!(log.read(0, usize::MAX).unwrap().iter().any(expired), !shared);
            again.drain().await.unwrap();
        }
        pipeline.drain().await.unwrap();
    });
}
