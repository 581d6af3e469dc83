//! Rounds whose artifact store stalls while a training stores its checkpoint.

use std::time::Instant;

use super::*;
use crate::journal::artifact_check::ArtifactCheck;
use crate::tests::stalling_store::StallingStore;

/// Starts a plan whose checks read the artifacts of the fixture through a store that stalls.
async fn start(fixture: &Fixture, plan: &Plan, times: LeaseTimes) -> (Pipeline, Arc<StallingStore>) {
    let resources = fixture.own_resources(plan, fixture.trainer(Fault::None), false, times);
    let store = StallingStore::closed(resources.artifacts.clone());
    let check = ArtifactCheck::new(store.clone(), &fixture.policy, &fixture.reward);
    let pipeline = Box::pin(Pipeline::start_with_check(plan, resources, Some(check))).await.unwrap();
    store.stalls(1).await;
    (pipeline, store)
}

#[test]
fn a_training_keeps_its_lease_while_the_store_stalls() {
    with_fixture(async |fixture| {
        let plan = fixture.plan(1, FeedbackSource::Oracle);
        let times = LeaseTimes { lease: Duration::from_secs(1), heartbeat: Duration::from_millis(100) };
        let (mut pipeline, store) = start(fixture, &plan, times).await;
        // Longer than the lease, and than the interval at which leases are looked at.
        tokio::time::sleep(3 * times.lease).await;
        store.open();
        assert_eq!(ended(&mut pipeline).await, Ending::Finished);
        pipeline.drain().await.unwrap();
        assert!(fixture.of_kind(EventType::TrainingLeaseExpired).is_empty());
        assert_eq!(fixture.of_kind(EventType::TrainingRequested).len(), 2, "one attempt for each model");
        fixture.verified();
    });
}

#[test]
fn a_run_that_is_stopped_while_the_store_stalls_ends_in_time_and_resumes() {
    let Some(undisturbed) = Fixture::new() else { return };
    let plan = undisturbed.plan(1, FeedbackSource::Oracle);
    actix::System::new().block_on(undisturbed.finish(&plan, undisturbed.trainer(Fault::None)));
    with_fixture(async |fixture| {
        let (pipeline, store) = start(fixture, &plan, LeaseTimes::default()).await;
        let begun = Instant::now();
        pipeline.drain().await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "the grace is 5 s: {took:?}");
        assert_eq!(store.reading(), 1, "the store still stalls");
        fixture.finish(&plan, fixture.trainer(Fault::None)).await;
        assert_eq!(fixture.results(), undisturbed.results());
        fixture.verified();
        store.open();
    });
}
