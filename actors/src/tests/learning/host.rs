//! Several experiments on one host.

use dissent_domain::operator::{Action, OperatorCommand};
use dissent_queues::Broker;

use super::*;
use crate::{Host, RunEnd};

/// The plan of an experiment with this name.
fn named(fixture: &Fixture, name: &str) -> Plan {
    Plan { experiment: ExperimentId::new(name).unwrap(), ..fixture.plan(1, FeedbackSource::Oracle) }
}

/// The resources of an experiment on a broker that several share.
fn resources(fixture: &Fixture, broker: &Arc<EmbeddedBroker>, fault: Fault) -> Resources {
    fixture.resources(fixture.log.clone(), broker.clone(), Roles::all(), fixture.trainer(fault), true)
}

async fn ended(mut end: RunEnd) -> Result<Ending, PipelineError> {
    tokio::time::timeout(Duration::from_secs(120), end.ended()).await.expect("it ends in time")
}

fn verified(fixture: &Fixture, plan: &Plan) -> Replay {
    let mut replay = Replay::verifying();
    for recorded in fixture.log.read_stream(&plan.experiment, 0, usize::MAX).unwrap() {
        replay.apply(&recorded).unwrap();
    }
    replay
}

#[test]
fn an_experiment_that_fails_leaves_the_others_alone_and_can_be_hosted_again() {
    with_fixture(async |fixture| {
        let broker = Arc::new(EmbeddedBroker::new(fixture.log.clone(), EmbeddedOptions::default()));
        let mut host = Host::start(fixture.log.clone(), broker.clone() as Arc<dyn Broker>).unwrap();
        let (sound, broken) = (named(fixture, "sound"), named(fixture, "broken"));
        host.host(&sound, resources(fixture, &broker, Fault::None)).await.unwrap();
        host.host(&broken, resources(fixture, &broker, Fault::Error)).await.unwrap();
        let twice = host.host(&sound, resources(fixture, &broker, Fault::None)).await;
        assert!(matches!(twice, Err(PipelineError::RunsHere(_))));
        let failed = ended(host.end(&broken.experiment).unwrap()).await.unwrap_err();
        assert!(is_failed_training(&failed));
        host.leave(&broken.experiment).await.unwrap();
        assert!(host.health(&broken.experiment).is_none() && host.failure().is_none());
        assert_eq!(ended(host.end(&sound.experiment).unwrap()).await.unwrap(), Ending::Finished);
        host.leave(&sound.experiment).await.unwrap();
        // A command reaches an experiment whose steps do not run here, and counts when it is hosted again.
        let command = |action| OperatorCommand { action, by: String::new(), reason: None };
        let control = host.control();
        assert!(control.command(broken.experiment.clone(), command(Action::Pause)).await.unwrap().changed);
        host.host(&broken, resources(fixture, &broker, Fault::None)).await.unwrap();
        assert!(host.health(&broken.experiment).unwrap().progress.borrow().status.is_paused());
        control.command(broken.experiment.clone(), command(Action::Resume)).await.unwrap();
        assert_eq!(ended(host.end(&broken.experiment).unwrap()).await.unwrap(), Ending::Finished);
        host.drain().await.unwrap();
        for plan in [&sound, &broken] {
            assert!(verified(fixture, plan).experiment().is_finished());
        }
    });
}

#[test]
fn experiments_of_one_model_load_it_once_and_let_go_of_it_together() {
    with_fixture(async |fixture| {
        let broker = Arc::new(EmbeddedBroker::new(fixture.log.clone(), EmbeddedOptions::default()));
        let mut host = Host::start(fixture.log.clone(), broker.clone() as Arc<dyn Broker>).unwrap();
        let plans = ["a", "b", "c"].map(|name| Plan { learning: None, ..named(fixture, name) });
        for plan in &plans {
            let mut resources = resources(fixture, &broker, Fault::None);
            resources.learning = None;
            host.host(plan, resources).await.unwrap();
        }
        for plan in &plans {
            assert_eq!(ended(host.end(&plan.experiment).unwrap()).await.unwrap(), Ending::Finished);
        }
        let cache = &fixture.policy.cache;
        assert_eq!((cache.status().loads, cache.status().models), (1, 1), "the policy of all three");
        for plan in &plans {
            host.leave(&plan.experiment).await.unwrap();
        }
        assert_eq!(cache.status().models, 0);
        host.drain().await.unwrap();
    });
}
