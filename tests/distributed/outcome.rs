//! Comparison of the outcomes of experiments.

use std::collections::BTreeMap;

use dissent_domain::event::Recorded;
use dissent_domain::replay::Replay;

use crate::support::{Lab, history};

/// The outcome of an experiment, without the attempts of its trainings.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The hash of its final state.
    pub(crate) state: String,
    /// Number of occurrences of each event, except events of attempts.
    pub(crate) events: BTreeMap<(String, Vec<u8>), u32>,
}

impl Outcome {
    /// Reads the outcome from a data folder, and verifies that the rules allow every event and each occurs
    /// once.
    pub(crate) fn of(lab: &Lab, data: &str) -> Self {
        Self::of_events(&lab.events(data))
    }

    pub(crate) fn of_events(recorded: &[Recorded]) -> Self {
        history(recorded);
        let (mut replay, mut events) = (Replay::verifying(), BTreeMap::new());
        for recorded in recorded {
            replay.apply(recorded).unwrap();
            let event = &recorded.event;
            if !depends_on_attempts(&event.event_type) {
                *events.entry((event.event_type.clone(), event.body.clone())).or_default() += 1;
            }
        }
        let experiment = replay.experiment();
        assert!(experiment.is_finished(), "the experiment is not finished");
        Self { state: experiment.state_hash(), events }
    }

    /// Asserts that two outcomes are equal, or panics with the types of the differing events.
    pub(crate) fn assert_equals(&self, other: &Self) {
        let differ = |one: &Self, other: &Self| -> Vec<String> {
            let differing =
                one.events.iter().filter(|(event, count)| other.events.get(*event) != Some(count));
            differing.map(|((kind, _), _)| kind.clone()).collect()
        };
        let (left, right) = (differ(self, other), differ(other, self));
        assert!(left.is_empty() && right.is_empty(), "left {left:?}, right {right:?}");
        assert_eq!(self.state, other.state);
    }
}

/// Whether events of this type depend on retries of trainings or on pauses.
fn depends_on_attempts(kind: &str) -> bool {
    kind.starts_with("training.") || ["experiment.paused", "experiment.resumed"].contains(&kind)
}
