//! `dissent queue forget`: takes away what an experiment has left in RabbitMQ.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_queues::RabbitBroker;
use dissent_storage::{SNAPSHOT_EVENTS, Snapshots};

use super::{rabbit, with_broker};
use crate::cli::exit::BadInput;
use crate::config::Config;
use crate::opening::snapshots_folder;

/// Delete the queues and the history that a finished experiment has left in RabbitMQ
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent queue forget experiment.toml            once it is finished and its server is stopped
  dissent queue forget experiment.toml --force    whether or not it is finished, and whoever still listens

`dissent serve` does this itself when it is stopped after the end and no worker follows any more. The event log keeps everything: a server
that is started again makes and fills the queues anew. Dead letters stay: see `dissent dead`.")]
pub(super) struct ForgetArgs {
    /// The experiment's configuration, which names the RabbitMQ.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Delete them although the experiment is not finished, or its log is not here, or processes still listen.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(data_dir: Option<&Path>, args: &ForgetArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let rabbit = rabbit(&config)?;
    let experiment = &config.experiment.name;
    let data_dir = crate::cli::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    if !args.force {
        require_finished(&data_dir, experiment)?;
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

fn require_finished(data_dir: &Path, experiment: &ExperimentId) -> anyhow::Result<()> {
    let log = crate::cli::open_log(data_dir)?;
    crate::cli::require_experiment(&log, experiment)?;
    let snapshots = Snapshots::new(snapshots_folder(data_dir));
    let state = snapshots.resume(&log, experiment, SNAPSHOT_EVENTS)?;
    if state.experiment().is_finished() {
        return Ok(());
    }
    Err(BadInput(format!(
        "{experiment} is not finished: what its queues hold is still needed; the log can fill them again, so --force loses time only"
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
