//! A queue that events go to, and what the log remembers of its filling.

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;

use super::topology::{Topology, binding_key, experiment_key};
use crate::broker::Subscription;
use crate::error::BrokerError;

const FORMAT: u8 = 1;

/// A queue of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventQueue {
    pub queue: String,
    /// The name of its record in the log.
    pub record: String,
    pub experiment: Option<ExperimentId>,
    /// The names of the kinds it takes; none: all.
    kinds: Option<Vec<&'static str>>,
    pub bindings: Vec<String>,
    /// The history of an experiment.
    pub stream: bool,
}

impl EventQueue {
    pub(super) fn of_group(
        topology: &Topology,
        prefix: &str,
        subscription: &Subscription,
    ) -> Result<Self, BrokerError> {
        let kinds: Vec<&'static str> = subscription.kinds.iter().map(|kind| kind.name()).collect();
        let of = subscription.experiment.as_ref();
        Ok(Self {
            queue: topology.group(&subscription.group)?,
            record: format!("filled.{prefix}.{}", subscription.group),
            experiment: subscription.experiment.clone(),
            bindings: kinds.iter().map(|kind| binding_key(of, kind)).collect(),
            kinds: Some(kinds),
            stream: false,
        })
    }

    pub(super) fn of_history(topology: &Topology, prefix: &str, experiment: &ExperimentId) -> Self {
        let key = experiment_key(experiment);
        Self {
            queue: topology.history(experiment),
            record: format!("filled.{prefix}.history.{key}"),
            experiment: Some(experiment.clone()),
            kinds: None,
            bindings: vec![format!("{key}.#")],
            stream: true,
        }
    }

    pub(super) fn wants(&self, event: &Recorded) -> bool {
        let of_experiment = self.experiment.as_ref().is_none_or(|wanted| *wanted == event.experiment);
        let of_kind = |kinds: &Vec<&str>| kinds.contains(&event.event.event_type.as_str());
        of_experiment && self.kinds.as_ref().is_none_or(of_kind)
    }
}

/// What the log remembers of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FillRecord {
    /// It has every event that the relay had passed.
    pub complete: bool,
    /// What it was bound by.
    pub bindings: Vec<String>,
}

impl FillRecord {
    pub(super) fn begun() -> Self {
        Self { complete: false, bindings: Vec::new() }
    }

    pub(super) fn complete(bindings: Vec<String>) -> Self {
        Self { complete: true, bindings }
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut record = vec![FORMAT, u8::from(self.complete)];
        record.extend_from_slice(self.bindings.join("\n").as_bytes());
        record
    }

    /// A record that is not understood counts as begun: the queue is filled again, which harms nothing.
    pub(super) fn read(record: Option<&[u8]>) -> Self {
        match record {
            Some([FORMAT, 1, bindings @ ..]) => match std::str::from_utf8(bindings) {
                Ok(bindings) => Self::complete(bindings.lines().map(str::to_owned).collect()),
                Err(_) => Self::begun(),
            },
            _ => Self::begun(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_anything_else_as_begun() {
        let full = FillRecord::complete(vec!["a.b".to_owned(), "*.c".to_owned()]);
        assert_eq!(FillRecord::read(Some(&full.encoded())), full);
        assert_eq!(FillRecord::read(Some(&FillRecord::begun().encoded())), FillRecord::begun());
        for other in [None, Some(&[][..]), Some(&[9, 1][..]), Some(&[FORMAT, 1, 0xff][..])] {
            assert_eq!(FillRecord::read(other), FillRecord::begun(), "{other:?}");
        }
    }
}
