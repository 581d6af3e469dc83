//! Compares the outcomes of experiments.

use std::collections::BTreeMap;

use dissent_domain::event::Recorded;
use dissent_domain::replay::Replay;

use crate::support::{Lab, history};

/// The outcome of an experiment, without its attempts at trainings.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The hash of its final state.
    pub(crate) state: String,
    /// Number of occurrences of each event, except events of attempts.
    pub(crate) events: BTreeMap<(String, Vec<u8>), u32>,
}

impl Outcome {
    /// The outcome in a data folder. Verifies that every event follows from the rules and occurs once.
    pub(crate) fn of(lab: &Lab, data: &str) -> Self {
        Self::of_events(&lab.events(data))
    }

    fn of_events(recorded: &[Recorded]) -> Self {
        history(recorded);
        let (mut replay, mut events) = (Replay::verifying(), BTreeMap::new());
        for recorded in recorded {
            replay.apply(recorded).unwrap();
            let event = &recorded.event;
            if !tells_of_attempts(&event.event_type) {
                *events.entry((event.event_type.clone(), event.body.clone())).or_default() += 1;
            }
        }
        let experiment = replay.experiment();
        assert!(experiment.is_finished(), "it is not finished");
        Self { state: experiment.state_hash(), events }
    }

    /// Fails with the types of the differing events.
    pub(crate) fn is_that_of(&self, other: &Self) {
        let differ = |one: &Self, other: &Self| -> Vec<String> {
            let differing =
                one.events.iter().filter(|(event, count)| other.events.get(*event) != Some(count));
            differing.map(|((kind, _), _)| kind.clone()).collect()
        };
        let (only_here, only_there) = (differ(self, other), differ(other, self));
        assert!(only_here.is_empty() && only_there.is_empty(), "here {only_here:?}, there {only_there:?}");
        assert_eq!(self.state, other.state);
    }
}

/// Whether events of this type depend on retries of trainings or on pauses.
fn tells_of_attempts(kind: &str) -> bool {
    kind.starts_with("training.") || ["experiment.paused", "experiment.resumed"].contains(&kind)
}
