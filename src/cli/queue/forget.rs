//! `dissent queue forget`: deletes the queues and the history of an experiment from RabbitMQ.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_queues::RabbitBroker;
use dissent_storage::{SNAPSHOT_EVENTS, Snapshots};

use super::connection::Connection;
use crate::error::BadInput;
use crate::experiment::start::snapshots_folder;
use crate::log_access::open;

/// Delete the queues and the history of experiments from RabbitMQ
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent queue forget experiment.toml            after the end of the experiment
  dissent queue forget experiment.toml --force    at any time, even if processes still consume the queues
  dissent queue forget experiment.toml --all      every queue and exchange of the installation, without a server
  dissent queue forget experiment.toml --old      those that version 0.1 left under its prefix, `dissent`

A server deletes the queues of an ended experiment itself once no worker follows it. The event log keeps everything: a server
creates and fills new queues when it needs them.")]
pub(super) struct ForgetArgs {
    /// Configuration of the experiment, with [broker] kind = "rabbitmq". For --all and --old also the
    /// server's.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Delete even if the experiment has not ended, its log is not here, or processes consume the queues.
    #[arg(long, conflicts_with_all = ["all", "old"])]
    force: bool,
    /// Delete all queues and exchanges of the installation, with the dead letters. No server may run.
    #[arg(long, conflicts_with = "old")]
    all: bool,
    /// Delete the queues and exchanges of version 0.1. No process of that version may run.
    #[arg(long)]
    old: bool,
    /// Prefix of the queues of version 0.1.
    #[arg(long, value_name = "PREFIX", default_value = "dissent", requires = "old")]
    old_prefix: String,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ForgetArgs) -> anyhow::Result<()> {
    let prefix = args.old.then_some(args.old_prefix.as_str());
    let connection = Connection::of(&args.config, data_dir, prefix)?;
    if args.old || args.all {
        return forget_all(&connection, args.old);
    }
    let Some(experiment) = connection.experiment() else {
        let reason =
            "the file names no experiment: use the configuration of one, or --all for the whole installation";
        return Err(BadInput(reason.to_owned()).into());
    };
    if !args.force {
        require_ended(&connection.data_dir, experiment)?;
    }
    let deleted = connection.with_broker(async |broker| {
        let names = broker.queues_of(experiment, &dissent_actors::groups(experiment))?;
        if !args.force {
            require_no_consumers(broker, &names).await?;
        }
        Ok(broker.delete_queues(&names).await?)
    })?;
    let mut out = std::io::stdout().lock();
    deleted.iter().try_for_each(|name| writeln!(out, "deleted {name}"))?;
    if deleted.is_empty() {
        writeln!(out, "{experiment} has no queues")?;
    }
    Ok(())
}

/// Deletes everything of an installation, or everything that version 0.1 left.
fn forget_all(connection: &Connection, old: bool) -> anyhow::Result<()> {
    let experiments = connection.experiments();
    let groups: Vec<String> = experiments.iter().flat_map(dissent_actors::groups).collect();
    let deleted = connection.with_broker(async |broker| {
        Ok(match old {
            true => broker.delete_old(&experiments, &groups).await?,
            false => broker.delete_all(&experiments, &groups).await?,
        })
    })?;
    let mut out = std::io::stdout().lock();
    deleted.iter().try_for_each(|found| writeln!(out, "deleted {}", found.name))?;
    if deleted.is_empty() {
        writeln!(out, "nothing to delete")?;
    }
    Ok(())
}

fn require_ended(data_dir: &Path, experiment: &ExperimentId) -> anyhow::Result<()> {
    let log = open::read_log(data_dir)?.shared();
    open::require_experiment(&*log, experiment)?;
    let snapshots = Snapshots::new(snapshots_folder(data_dir));
    let state = snapshots.resume(&*log, experiment, SNAPSHOT_EVENTS)?;
    if state.experiment().is_over() {
        return Ok(());
    }
    Err(BadInput(format!(
        "{experiment} is neither finished nor cancelled, and still needs its queues: use --force to delete the queues; the \
         server then fills new ones from the log"
    ))
    .into())
}

async fn require_no_consumers(broker: &RabbitBroker, names: &[String]) -> anyhow::Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let consumed = broker.queue_stats(&names).await?.into_iter().find(|queue| queue.consumers > 0);
    match consumed {
        None => Ok(()),
        Some(queue) => Err(BadInput(format!(
            "queue {} still has {} consumers: stop the server and the workers, or use --force",
            queue.name, queue.consumers
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use dissent_actors::command_in_log;
    use dissent_domain::event::{EventId, ExperimentStarted, NewEvent};
    use dissent_domain::log::{Append, EventLog as _, ExpectedVersion};
    use dissent_domain::operator::{Action, OperatorCommand};
    use dissent_storage::{SledLog, SledOptions, wait};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_ended_experiment_may_lose_its_queues() {
        let folder = tempfile::tempdir().unwrap();
        let experiment = ExperimentId::new("e").unwrap();
        let with_log = |change: &dyn Fn(&SledLog)| {
            let log = SledLog::open(folder.path().join("log"), &SledOptions::default()).unwrap();
            change(&log);
            log.close().unwrap();
        };
        with_log(&|log| {
            let plan = serde_json::from_value(json!({
                "experiment": "e", "seed": 0, "rounds": 1,
                "prompts": {"artifact": "a", "count": 2},
                "policy": {"name": "p", "fingerprint": "f", "template": "chat"},
                "reward": {"name": "r", "fingerprint": "g", "template": "chat", "kind": "reward"},
                "sampling": {},
                "conflict": {"logprob": "sum", "selection": dissent_domain::conflict::SelectionSettings::default()},
            }));
            let started = ExperimentStarted::new(plan.unwrap()).into();
            let id = EventId::of_experiment(&experiment);
            let events = vec![NewEvent::new(id, None, "cli", 0, &started).unwrap()];
            let append =
                Append { experiment: experiment.clone(), expected: ExpectedVersion::Exact(0), events };
            wait(log.append(append)).unwrap();
        });
        let refused = require_ended(folder.path(), &experiment).unwrap_err();
        assert!(refused.is::<BadInput>(), "{refused}");
        with_log(&|log| {
            let order = OperatorCommand { action: Action::Cancel, by: String::new(), reason: None };
            wait(command_in_log(log, &experiment, &order)).unwrap();
        });
        require_ended(folder.path(), &experiment).unwrap();
    }
}
