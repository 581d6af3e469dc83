//! Queries on the recorded history of experiments: comparison, overview, changed settings, tables.

pub(crate) mod difference;
pub(crate) mod fork_points;
pub(crate) mod overview;
pub(crate) mod pairs;
pub(crate) mod settings;
pub(crate) mod suggested_fork;
pub(crate) mod table;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

/// Events read at a time. Each may hold all completions of a prompt.
const PAGE_EVENTS: usize = 256;

/// Returns an event with its envelope, and this body, as JSON.
pub(crate) fn envelope(recorded: &Recorded, body: &serde_json::Value) -> serde_json::Value {
    let event = &recorded.event;
    serde_json::json!({
        "position": recorded.position,
        "experiment": recorded.experiment,
        "version": recorded.version,
        "id": event.id,
        "causation": event.causation,
        "actor": event.actor,
        "time_us": event.time_us,
        "event_type": event.event_type,
        "schema_version": event.schema_version,
        "body": body,
    })
}

/// Passes the events of a stream to `visit`, in order, up to the position `last` of the log. Reads them page
/// by page. Returns the number of events.
///
/// # Errors
/// If the log cannot be read, or as `visit`.
pub(crate) fn each(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    last: Option<u64>,
    visit: &mut dyn FnMut(&Recorded) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut after = 0;
    loop {
        let page = log.read_stream(experiment, after, PAGE_EVENTS)?;
        for recorded in &page {
            if last.is_some_and(|last| recorded.position > last) {
                return Ok(after);
            }
            visit(recorded)?;
            after = recorded.version;
        }
        if page.len() < PAGE_EVENTS {
            return Ok(after);
        }
    }
}
