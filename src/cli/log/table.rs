//! `dissent log export --table`: flat rows for data frames.

use std::path::Path;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

use crate::history;
use crate::history::pairs::Pairs;
use crate::history::table::{self, Table};
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
    if table == Table::Pairs {
        let streams = log.streams()?.into_iter().map(|(name, _)| name);
        for name in streams.filter(|name| experiment.is_none_or(|experiment| experiment == name)) {
            let mut pairs = Pairs::default();
            history::each(log, &name, None, &mut |recorded| pairs.apply(recorded))?;
            table::write_pairs(&name, &pairs, &mut out)?;
        }
        return Ok(out.finish()?);
    }
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
