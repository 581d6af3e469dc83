//! `dissent experiment fork`: creates an experiment that shares the history of another one.

use std::io::Write as _;
use std::path::Path;

use dissent_domain::id::ExperimentId;
use dissent_domain::plan::Plan;
use serde_json::json;

use super::focus::FocusArgs;
use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::cli::paths;
use crate::cli::point_args::PointArgs;
use crate::cli::server::{self, LogAccess};
use crate::experiment::fork::{ForkRequest, Forked, make_fork};
use crate::history::settings::Setting;
use crate::log_access::open;
use crate::text::{shell_command, shell_word};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent experiment fork tone-demo --before selection --as tone-budget --set conflict.rule=budget --set conflict.budget=40
  dissent experiment fork experiment.toml --round 0 --before tuning --as tone-beta --set tuning.beta=0.3
  dissent run experiment.toml --set experiment.name=tone-beta --set tuning.beta=0.3     continues the fork
  dissent experiment fork tone-demo --focus salt --as tone-salt           ask 20 more pairs about the topic with this word
  dissent experiment show tone-demo                shows the positions of its rounds, for --at

The fork's stream is complete: it holds the shared events under its own name, then an event with their origin and the new plan.
To continue the fork, run the configuration with its name and the changed settings; the command prints how. A fork draws the same
random numbers as its origin. Forks of experiments of version 0.1 draw others: those seeds depend on the name.

--focus keeps the pairs that rule and audit select, and adds pairs from the named prompts. Judgements of people that the origin
has are written to a file, which `dissent feedback import` reads once the fork has made its selection.

A setting may change until the open round has used it. For example, sampling settings may change until completions are
recorded (--before generation), and selection settings until the selection (--before selection). Closed rounds do not change.
If a position cannot be forked, the error names the last one that can.")]
pub(super) struct ForkArgs {
    /// Experiment whose history is shared, by name or configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    #[command(flatten)]
    point: PointArgs,
    #[command(flatten)]
    focus: FocusArgs,
    /// Name of the fork.
    #[arg(long = "as", value_name = "NAME")]
    name: ExperimentId,
    /// Changed setting, by its key in the configuration; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ForkArgs, as_json: bool) -> anyhow::Result<()> {
    let Target { experiment: origin, data_dir } = args.experiment.target(data_dir)?;
    let log = open::read_log(&data_dir)?;
    open::require_experiment(&*log, &origin)?;
    let focus = args.focus.find(&*log, &origin)?;
    let at = match args.point.position(&*log, &origin)? {
        None if !args.point.is_given() => args.focus.position(&*log, &origin)?,
        at => at,
    };
    drop(log);
    let set = args.set.iter().map(Setting::to_string).collect();
    let request = ForkRequest { name: args.name.clone(), set, focus: focus.clone(), at };
    let forked = match server::writable(&data_dir)? {
        LogAccess::Here(log) => make_fork(&log, &data_dir, &origin, &request)?,
        LogAccess::Server(holder) => holder.fork(&origin, &request)?,
    };
    let mut out = std::io::stdout().lock();
    if as_json {
        let Forked { experiment, shared, plan, judgements, .. } = &forked;
        let value = json!({
            "experiment": experiment, "origin": origin, "shared": shared, "plan": plan, "judgements": judgements,
        });
        return Ok(writeln!(out, "{value}")?);
    }
    writeln!(out, "{} shares {} events with {origin}", args.name, forked.shared)?;
    if let Some(focus) = &focus {
        writeln!(out, "it asks {}", focus.description())?;
    }
    if forked.is_hosted {
        writeln!(out, "the server runs it")?;
    } else {
        writeln!(out, "to continue it: {}{}", args.run_command(&forked.plan), paths::data_option(&data_dir))?;
    }
    if let Some(path) = &forked.judgements {
        let (path, data) = (paths::shortened(path), paths::data_option(&data_dir));
        writeln!(
            out,
            "then take over the {} of {origin}: dissent feedback import {}{data}",
            crate::text::count(forked.judgements_count, "judgement"),
            shell_word(&path.to_string_lossy()),
        )?;
    }
    Ok(())
}

impl ForkArgs {
    /// Returns the command that continues the fork, without its data folder. A focus raises the budget of
    /// judgements, if there is one.
    fn run_command(&self, plan: &Plan) -> String {
        let config = match &self.experiment {
            ExperimentArg::Config(path) => path.to_string_lossy().into_owned(),
            ExperimentArg::Name(_) => "CONFIG.toml".to_owned(),
        };
        let name = format!("experiment.name={}", self.name);
        let budget = plan.learning.as_ref().filter(|_| self.focus.is_given()).and_then(|l| l.feedback.budget);
        let settings = std::iter::once(name).chain(self.set.iter().map(Setting::to_string));
        let settings = settings.chain(budget.map(|budget| format!("feedback.budget={budget}")));
        let options = settings.flat_map(|setting| ["--set".to_owned(), setting]);
        let words: Vec<String> =
            ["dissent".to_owned(), "run".to_owned(), config].into_iter().chain(options).collect();
        shell_command(words.iter().map(String::as_str))
    }
}
