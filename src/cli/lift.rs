//! `dissent lift`: prints how well selection rules find the errors of the proxy.

use std::io::Write as _;
use std::path::Path;

use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::history::overview::ExperimentHistory;
use crate::log_access::open;
use crate::report::LiftFigures;
use crate::report::lift::{LiftPage, LiftRow};

/// Tell whether conflicts find the proxy's errors, better than random pairs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent lift demo                                 the answer, and a table of all rules
  dissent lift demo --json | jq .table.conclusion   for programs

The share feedback.audit of the comparisons is drawn uniformly from all pairs. From these and from the others, weighted by \
their propensities, the command estimates how many errors a label each rule finds. It works while people still judge.")]
pub(crate) struct LiftArgs {
    /// Name of the experiment, or its configuration.
    experiment: ExperimentArg,
    /// Stop after this position of the log.
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(data_dir: Option<&Path>, args: &LiftArgs) -> anyhow::Result<()> {
    let Target { experiment, data_dir } = args.experiment.target(data_dir)?;
    let log = open::read_log(&data_dir)?;
    open::require_experiment(&*log, &experiment)?;
    let history = ExperimentHistory::read(&*log, &experiment, args.at)?;
    let figures = LiftFigures::of(history.experiment());
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &figures)?;
        return Ok(writeln!(out)?);
    }
    let page = LiftPage::new(&figures);
    writeln!(out, "Do conflicts find the proxy's errors, better than random pairs?\n{}", page.answer)?;
    if page.rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}\n", page.basis)?;
    let head =
        ["rule", "AUROC", "asks", "errors a label", "versus random", "versus margin"].map(str::to_owned);
    line(&mut out, &head, "")?;
    for row in &page.rows {
        let LiftRow { rule, is_in_use, auroc, pairs, errors, versus_random, versus_margin, is_clear } = row;
        let name = if *is_in_use { format!("{rule} (in use)") } else { rule.clone() };
        let cells = [&name, auroc, pairs, errors, versus_random, versus_margin].map(Clone::clone);
        line(&mut out, &cells, if *is_clear { " *" } else { "" })?;
    }
    writeln!(out, "\n* clear: the interval excludes 0, even after correction for the rules of the table")?;
    if !page.unknown.is_empty() {
        writeln!(out, "{}", page.unknown)?;
    }
    Ok(())
}

fn line(out: &mut impl std::io::Write, cells: &[String; 6], mark: &str) -> std::io::Result<()> {
    let [rule, auroc, pairs, errors, random, margin] = cells;
    writeln!(out, "{rule:<24}  {auroc:<20}  {pairs:>6}  {errors:<36}  {random:<24}  {margin:<24}{mark}")
}
