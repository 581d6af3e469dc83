//! `dissent log export --table`: flat rows for data frames.

use std::path::Path;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

use crate::history;
use crate::history::table::Table;
use crate::jsonl::JsonLinesWriter;

/// Events in one read of the log.
const PAGE_EVENTS: usize = 64;

/// Writes a table of one experiment, or of all experiments in the order of the log.
pub(super) fn run(
    log: &dyn EventLog,
    table: Table,
    experiment: Option<&ExperimentId>,
    output: &Path,
) -> anyhow::Result<()> {
    let mut out = JsonLinesWriter::create(output)?;
    if let Some(experiment) = experiment {
        history::each(log, experiment, None, &mut |recorded| table.write(recorded, &mut out).map(drop))?;
    } else {
        let mut after = 0;
        loop {
            let page = log.read(after, PAGE_EVENTS)?;
            let Some(last) = page.last() else { break };
            after = last.position;
            for recorded in &page {
                table.write(recorded, &mut out)?;
            }
        }
    }
    Ok(out.finish()?)
}
