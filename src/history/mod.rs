//! The past of experiments, questioned: what a command over a recorded log needs besides the rules of the
//! domain.

pub(crate) mod difference;
pub(crate) mod overview;
pub(crate) mod settings;
pub(crate) mod table;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

/// Events read at a time: each may hold all the answers to a prompt.
const PAGE_EVENTS: usize = 256;

/// Hands every event of a stream up to a position of the log to `visit`, in order and a page at a time.
/// Returns how many.
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
