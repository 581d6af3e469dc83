//! The events and options that the test and its child share.

use dissent_domain::event::{EventId, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_storage::SledOptions;

/// Returns the `n`-th event, from 0.
pub(crate) fn event(n: u32) -> NewEvent {
    let root = EventId::of_experiment(&ExperimentId::new("kill").unwrap());
    // Some bodies have several parts, and some exceed the copy in the tail file.
    let bytes = match n % 97 {
        0 => 400_000,
        1..=5 => 20_000,
        small => small as usize * 8,
    };
    NewEvent {
        id: root.caused("kill.event", n),
        causation: None,
        actor: "test".to_owned(),
        time_us: u64::from(n),
        event_type: "kill.event".to_owned(),
        schema_version: 1,
        body: vec![n.to_le_bytes()[0]; bytes],
    }
}

/// Short runs of ids, so that some kills come while one is written.
pub(crate) fn options() -> SledOptions {
    SledOptions { run_events: 100, ..SledOptions::default() }
}
