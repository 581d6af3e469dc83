//! `dissent serve` and `dissent worker`: an experiment as a service, in one process or in many.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dissent_actors::Roles;
use dissent_models::runtime::Provider;

use super::exit::BadInput;
use crate::config::Config;
use crate::serving::{self, Serving};

/// Run an experiment as a service: write its history, share its steps with workers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent serve experiment.toml                                everything in this process
  dissent serve experiment.toml --roles conflict,feedback      the rest is done by workers
  curl http://127.0.0.1:9464/metrics                           /health, /ready and /metrics

Workers need a RabbitMQ in the configuration of all:
  [broker]      kind = \"rabbitmq\", url_file, prefix = \"dissent\", lease_seconds = 60
Its address, amqp://user:password@host:5672/vhost, is read from DISSENT_RABBITMQ_URL, else from broker.url_file.

People's judgements are taken in while it runs: dissent feedback import. SIGTERM stops it in order; the same command goes on.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Where it answers for its health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    listen: SocketAddr,
}

/// Do some steps of an experiment that a `dissent serve` elsewhere writes the history of
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  DISSENT_RABBITMQ_URL=amqp://dissent:secret@queue/ dissent worker experiment.toml --roles generation,reward
  dissent worker experiment.toml --roles training --provider cuda --data-dir /mnt/shared/dissent

The configuration is the server's. Adapters and checkpoints pass through the folder `artifacts` of the data folder, which server and
workers share. Start as many workers as you like, and stop or kill them when you like: what one had in hand, another does.")]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    common: Common,
    /// Where it answers for its health.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The experiment's configuration.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The steps to do here: all, none, or some of generation,reward,conflict,feedback,training,evaluation.
    #[arg(long, default_value = "all")]
    roles: Roles,
    /// End when the experiment is finished.
    #[arg(long)]
    until_finished: bool,
    /// Where models run: cpu, cuda or auto. Overrides the configuration.
    #[arg(long)]
    provider: Option<Provider>,
    /// Threads of one model run; 0: one for each physical core. Overrides the configuration.
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) fn serve(data_dir: Option<&Path>, args: &ServeArgs) -> anyhow::Result<()> {
    let config = args.common.configured()?;
    serving::serve(&config, &data_folder(data_dir, &config), &args.common.serving(Some(args.listen)))
}

pub(crate) fn work(data_dir: Option<&Path>, args: &WorkerArgs) -> anyhow::Result<()> {
    let config = args.common.configured()?;
    serving::work(&config, &data_folder(data_dir, &config), &args.common.serving(args.listen))
}

fn data_folder(given: Option<&Path>, config: &Config) -> PathBuf {
    super::data_dir(given.or(config.experiment.data_dir.as_deref()))
}

impl Common {
    fn configured(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(&self.config)?;
        config.runtime.provider = self.provider.unwrap_or(config.runtime.provider);
        config.runtime.threads = self.threads.unwrap_or(config.runtime.threads);
        config.validate().map_err(BadInput)?;
        Ok(config)
    }

    fn serving(&self, listen: Option<SocketAddr>) -> Serving {
        Serving { roles: self.roles.clone(), listen, until_finished: self.until_finished }
    }
}
