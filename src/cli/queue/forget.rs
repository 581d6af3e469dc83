//! `dissent queue forget`: takes away what an experiment has left in RabbitMQ.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_queues::RabbitBroker;
use dissent_storage::{SNAPSHOT_EVENTS, Snapshots};

use super::connection::{rabbit, with_broker};
use crate::cli::paths;
use crate::config::Config;
use crate::error::BadInput;
use crate::experiment::start::snapshots_folder;
use crate::log_access::open;

/// Delete the queues and the history that an experiment has left in RabbitMQ once it is finished or cancelled
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent queue forget experiment.toml            once it is over and its server is stopped
  dissent queue forget experiment.toml --force    whether or not it is over, and whoever still listens

`dissent serve` does this itself when it is stopped after the end and no worker follows any more. The event log keeps everything: a server
that is started again makes and fills the queues anew. Dead letters stay: see `dissent dead`.")]
pub(super) struct ForgetArgs {
    /// The experiment's configuration, which names the RabbitMQ.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Delete them although the experiment is not over, or its log is not here, or processes still listen.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ForgetArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let rabbit = rabbit(&config)?;
    let experiment = &config.experiment.name;
    let data_dir = paths::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    if !args.force {
        require_over(&data_dir, experiment)?;
    }
    let deleted = with_broker(rabbit, async |broker| {
        let names = broker.queues_of(experiment, &dissent_actors::groups(experiment))?;
        if !args.force {
            require_unheard(broker, &names).await?;
        }
        Ok(broker.delete_queues(&names).await?)
    })?;
    let mut out = std::io::stdout().lock();
    deleted.iter().try_for_each(|name| writeln!(out, "{name} is deleted"))?;
    if deleted.is_empty() {
        writeln!(out, "{experiment} has left nothing")?;
    }
    Ok(())
}

fn require_over(data_dir: &Path, experiment: &ExperimentId) -> anyhow::Result<()> {
    let log = open::open_log(data_dir)?;
    open::require_experiment(&log, experiment)?;
    let snapshots = Snapshots::new(snapshots_folder(data_dir));
    let state = snapshots.resume(&log, experiment, SNAPSHOT_EVENTS)?;
    if state.experiment().is_over() {
        return Ok(());
    }
    Err(BadInput(format!(
        "{experiment} is not finished, nor cancelled: what its queues hold is still needed; the log can fill them again, so --force loses time only"
    ))
    .into())
}

async fn require_unheard(broker: &RabbitBroker, names: &[String]) -> anyhow::Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let heard = broker.queue_stats(&names).await?.into_iter().find(|queue| queue.consumers > 0);
    match heard {
        None => Ok(()),
        Some(queue) => Err(BadInput(format!(
            "{} still has {} consumers: stop the server and the workers, or delete it all the same with --force",
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
    fn a_cancelled_experiment_needs_its_queues_no_more() {
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
        let refused = require_over(folder.path(), &experiment).unwrap_err();
        assert!(refused.to_string().contains("e is not finished, nor cancelled"), "{refused}");
        with_log(&|log| {
            let order = OperatorCommand { action: Action::Cancel, by: String::new(), reason: None };
            wait(command_in_log(log, &experiment, &order)).unwrap();
        });
        require_over(folder.path(), &experiment).unwrap();
    }
}
