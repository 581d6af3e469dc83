//! Recorded experiments that are recomputed.

use dissent_domain::event::{NewEvent, RewardsScored, StepName};
use dissent_domain::log::{Append, ExpectedVersion};

use super::*;
use crate::{Recomputed, recompute};

/// Recomputes the experiment of a log, with newly opened models.
pub(super) fn recomputed(
    fixture: &Fixture,
    log: &Arc<MemoryLog>,
    plan: &Plan,
    trainer: Box<dyn Trainer>,
) -> Recomputed {
    let broker = Arc::new(EmbeddedBroker::new(Arc::new(MemoryLog::new()), EmbeddedOptions::default()));
    let resources = fixture.resources(log.clone(), broker, Roles::all(), trainer, false);
    recompute(plan, resources, &mut |_, _| ()).unwrap()
}

fn results(done: &Recomputed) -> Vec<(StepName, u64, u64)> {
    done.steps.iter().map(|(step, tally)| (*step, tally.results, tally.same)).collect()
}

#[test]
fn recomputing_an_experiment_reproduces_every_result() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(2, FeedbackSource::Oracle);
        fixture.finish(&plan, fixture.trainer(Fault::None)).await;
        let before = fixture.recorded();
        let done = recomputed(fixture, &fixture.log, &plan, fixture.trainer(Fault::None));
        assert_eq!(done.differences, []);
        let judged = fixture.of_kind(EventType::FeedbackReceived).len() as u64;
        let expected = [
            (StepName::Generation, 8, 8),
            (StepName::Reward, 8, 8),
            (StepName::Feedback, judged, judged),
            (StepName::Training, 4, 4),
            (StepName::Evaluation, 3, 3),
        ];
        assert_eq!(results(&done), expected);
        assert_eq!(fixture.recorded(), before, "the log is unchanged");
    });
}

#[test]
fn an_interrupted_training_is_reproduced_without_the_interruption() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let silent = Fault::Silent(Arc::new(AtomicBool::new(true)));
        let times = LeaseTimes { lease: Duration::from_millis(300), heartbeat: Duration::from_secs(3600) };
        let mut pipeline = fixture.start_with(&plan, fixture.trainer(silent), false, times).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        assert!(!fixture.of_kind(EventType::TrainingLeaseExpired).is_empty());
        let done = recomputed(fixture, &fixture.log, &plan, fixture.trainer(Fault::None));
        assert_eq!((done.steps[&StepName::Training].same, done.differences), (2, Vec::new()));
    });
}

/// A copy of the history with a different reward in one event, and the position of that event.
async fn altered(log: &MemoryLog) -> (Arc<MemoryLog>, u64) {
    let (copy, mut at) = (Arc::new(MemoryLog::new()), 0);
    for recorded in log.read(0, usize::MAX).unwrap() {
        let mut event = recorded.event.clone();
        if let Ok(scored) = RewardsScored::try_from(recorded.decode().unwrap())
            && at == 0
        {
            at = recorded.position;
            let mut rewards = scored.rewards.clone();
            rewards[0] += 1e-9;
            let body = RewardsScored { rewards, ..scored }.into();
            event = NewEvent::new(event.id, event.causation, &event.actor, event.time_us, &body).unwrap();
        }
        let (experiment, expected) = (recorded.experiment, ExpectedVersion::Any);
        copy.append(Append { experiment, expected, events: vec![event] }).await.unwrap();
    }
    (copy, at)
}

#[test]
fn a_result_that_differs_is_reported_with_its_position() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        fixture.finish(&plan, fixture.trainer(Fault::None)).await;
        let (copy, position) = altered(&fixture.log).await;
        let done = recomputed(fixture, &copy, &plan, fixture.trainer(Fault::None));
        let named: Vec<_> = done.differences.iter().map(|d| (d.position, d.event_type.as_str())).collect();
        assert_eq!(named, [(position, EventType::RewardsScored.name())]);
        assert_eq!((done.steps[&StepName::Reward].results, done.steps[&StepName::Reward].same), (4, 3));
    });
}

#[test]
fn events_without_a_recorded_result_are_not_recomputed() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        fixture.finish(&plan, fixture.trainer(Fault::None)).await;
        let is = |recorded: &Recorded, kind: EventType| recorded.event.event_type == kind.name();
        let sampled = |recorded: &Recorded| is(recorded, EventType::CompletionsSampled);
        let first = fixture.recorded().iter().position(sampled).unwrap();
        let part = Arc::new(MemoryLog::new());
        // The evaluation of the first policy runs beside the sampling: its result may come before or after
        // the first completions.
        let evaluated = |recorded: &Recorded| is(recorded, EventType::PolicyEvaluated);
        for recorded in fixture.recorded().into_iter().take(first + 1).filter(|recorded| !evaluated(recorded))
        {
            let (experiment, expected) = (recorded.experiment, ExpectedVersion::Any);
            part.append(Append { experiment, expected, events: vec![recorded.event] }).await.unwrap();
        }
        let done = recomputed(fixture, &part, &plan, fixture.trainer(Fault::None));
        assert_eq!((results(&done), done.differences), (vec![(StepName::Generation, 1, 1)], Vec::new()));
    });
}
