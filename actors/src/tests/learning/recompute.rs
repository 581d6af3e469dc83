//! Recorded experiments, computed again.

use dissent_domain::event::{NewEvent, RewardsScored, StepName};
use dissent_domain::log::{Append, ExpectedVersion};

use super::*;
use crate::{Recomputed, recompute};

/// Computes what is in a log again, with models that are opened anew.
pub(super) fn again(
    place: &Place,
    log: &Arc<MemoryLog>,
    plan: &Plan,
    trainer: Box<dyn Trainer>,
) -> Recomputed {
    let broker = Arc::new(EmbeddedBroker::new(Arc::new(MemoryLog::new()), EmbeddedOptions::default()));
    let resources = place.resources(log.clone(), broker, Roles::all(), trainer, None);
    recompute(plan, resources, &mut |_, _| ()).unwrap()
}

fn results(done: &Recomputed) -> Vec<(StepName, u64, u64)> {
    done.steps.iter().map(|(step, tally)| (*step, tally.results, tally.same)).collect()
}

#[test]
fn an_experiment_comes_out_the_same_when_it_is_computed_again() {
    with_place(async |place| {
        let plan = place.plan(2, FeedbackSource::Oracle);
        place.finish(&plan, place.counting(Mishap::None)).await;
        let before = place.recorded();
        let done = again(place, &place.log, &plan, place.counting(Mishap::None));
        assert_eq!(done.differences, []);
        let judged = place.of_kind(EventType::FeedbackReceived).len() as u64;
        let expected = [
            (StepName::Generation, 8, 8),
            (StepName::Reward, 8, 8),
            (StepName::Feedback, judged, judged),
            (StepName::Training, 4, 4),
            (StepName::Evaluation, 3, 3),
        ];
        assert_eq!(results(&done), expected);
        assert_eq!(place.recorded(), before, "nothing is written");
    });
}

#[test]
fn a_training_that_was_interrupted_comes_out_the_same_in_one_go() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::Oracle);
        let silent = Mishap::Silent(Arc::new(AtomicBool::new(true)));
        let times = LeaseTimes { lease: Duration::from_millis(300), heartbeat: Duration::from_secs(3600) };
        let mut pipeline = place.start_with(&plan, place.counting(silent), None, times).await;
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        assert!(!place.of_kind(EventType::TrainingLeaseExpired).is_empty());
        let done = again(place, &place.log, &plan, place.counting(Mishap::None));
        assert_eq!((done.steps[&StepName::Training].same, done.differences), (2, Vec::new()));
    });
}

/// The same history with another reward in one of its events, and the position of that.
async fn altered(log: &MemoryLog) -> (Arc<MemoryLog>, u64) {
    let (copy, mut at) = (Arc::new(MemoryLog::new()), 0);
    for recorded in log.read(0, usize::MAX).unwrap() {
        let mut event = recorded.event.clone();
        if let Event::RewardsScored(scored) = recorded.decode().unwrap()
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
fn a_result_that_comes_out_otherwise_is_named() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::Oracle);
        place.finish(&plan, place.counting(Mishap::None)).await;
        let (copy, position) = altered(&place.log).await;
        let done = again(place, &copy, &plan, place.counting(Mishap::None));
        let named: Vec<_> = done.differences.iter().map(|d| (d.position, d.event_type.as_str())).collect();
        assert_eq!(named, [(position, EventType::RewardsScored.name())]);
        assert_eq!((done.steps[&StepName::Reward].results, done.steps[&StepName::Reward].same), (4, 3));
    });
}

#[test]
fn what_an_experiment_has_no_result_of_yet_is_not_computed() {
    with_place(async |place| {
        let plan = place.plan(1, FeedbackSource::Oracle);
        place.finish(&plan, place.counting(Mishap::None)).await;
        let is = |recorded: &Recorded, kind: EventType| recorded.event.event_type == kind.name();
        let sampled = |recorded: &Recorded| is(recorded, EventType::CompletionsSampled);
        let first = place.recorded().iter().position(sampled).unwrap();
        let part = Arc::new(MemoryLog::new());
        // The first policy is evaluated while prompts are sampled: its result may stand before or after the
        // first sample.
        let evaluated = |recorded: &Recorded| is(recorded, EventType::PolicyEvaluated);
        for recorded in place.recorded().into_iter().take(first + 1).filter(|recorded| !evaluated(recorded)) {
            let (experiment, expected) = (recorded.experiment, ExpectedVersion::Any);
            part.append(Append { experiment, expected, events: vec![recorded.event] }).await.unwrap();
        }
        let done = again(place, &part, &plan, place.counting(Mishap::None));
        assert_eq!((results(&done), done.differences), (vec![(StepName::Generation, 1, 1)], Vec::new()));
    });
}
