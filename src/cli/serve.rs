//! `dissent serve` and `dissent worker`: an experiment as a service, in one process or in many.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dissent_actors::Roles;
use dissent_models::runtime::Provider;

use crate::cli::paths;
use crate::config::{Config, ExperimentConfig, RuntimeConfig, WorkerConfig};
use crate::error::BadInput;
use crate::experiment::bundle;
use crate::serving::control_token::ControlToken;
use crate::serving::{self, ServeOptions};

/// Run an experiment as a service: write its history, share its steps with workers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent serve experiment.toml                                everything in this process
  dissent serve experiment.toml --roles conflict,feedback      the rest is done by workers
  curl http://127.0.0.1:9464/metrics                           /health, /ready and /metrics
  dissent experiment pause tone-demo                           asks it; so do resume, cancel and `dissent log backup`

Workers need a RabbitMQ in the configuration of all:
  [broker]      kind = \"rabbitmq\", url_file, prefix = \"dissent\", lease_seconds = 60, connect_seconds = 60,
                heartbeat_seconds = 20, message_mib_max = 16, redeliveries_max = 32
Its address, amqp://user:password@host:5672/vhost, is read from DISSENT_RABBITMQ_URL, else from broker.url_file.

Traces go where OpenTelemetry's variables say, as OTLP over http/protobuf; without them there are none. One prompt is one trace, whichever
processes do its steps:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 dissent serve experiment.toml      and the same for the workers
  also OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and _SAMPLER_ARG, OTEL_BSP_*

Orders (pause, resume, cancel, backup) are taken from this host. With DISSENT_CONTROL_TOKEN or --control-token-file they are taken from
whoever has the token; without one, a server that listens for other hosts takes none. What was created waits for `dissent experiment
start NAME`, what was paused for `resume`.

People's judgements are taken in while it runs: dissent feedback import. SIGTERM stops it in order; the same command goes on.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Where it answers for its health, and takes orders.
    #[arg(long, value_name = "ADDRESS", default_value = super::server::DEFAULT_ADDRESS)]
    listen: SocketAddr,
    /// A file that holds the token by which orders are taken from elsewhere; DISSENT_CONTROL_TOKEN comes
    /// first.
    #[arg(long, env = "DISSENT_CONTROL_TOKEN_FILE", value_name = "FILE")]
    control_token_file: Option<PathBuf>,
}

/// Do some steps of an experiment that a `dissent serve` elsewhere writes the history of
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  DISSENT_RABBITMQ_URL=amqp://dissent:secret@queue/ dissent worker experiment.toml --roles generation,reward
  dissent worker worker.toml --roles training --provider cuda --data-dir /var/cache/dissent
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 dissent worker experiment.toml    with traces: see dissent serve --help

With a store that server and workers share,
  [artifacts]   url = \"s3://bucket/prefix\" or \"file:///mnt/shared\", cache_gib = 50
a worker needs no more than [experiment] name, [broker], [artifacts] and [runtime]; the server's file will do as well. Models, adapters
and data come from the store by their hash, are checked, and are kept in the data folder within cache_gib. The models and data that a
worker was started with come on top of it: they stay in `inputs` there, which may be removed while no worker runs. S3's credentials,
region and endpoint are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_ALLOW_HTTP; it takes a build
with `--features s3`. Without [artifacts] the configuration is the server's, with paths that hold here too, and server and workers share
the folder `artifacts` of the data folder.

Start as many workers as you like, and stop or kill them when you like: what one had in hand, another does.")]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Where it answers for its health.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
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
    let data_dir = data_folder(data_dir, &config.experiment);
    let token = ControlToken::find(args.control_token_file.as_deref())?;
    let serving = args.common.serving(Some(args.listen));
    serving::serve(&config, &args.common.config, &data_dir, &serving, token.as_ref())
}

pub(crate) fn work(data_dir: Option<&Path>, args: &WorkerArgs) -> anyhow::Result<()> {
    let mut worker = WorkerConfig::load(&args.common.config)?;
    args.common.set(&mut worker.runtime);
    let data_dir = data_folder(data_dir, &worker.experiment);
    let artifacts = worker.artifacts.open(&data_dir)?;
    let config = match artifacts.shared() {
        Some(_) => bundle::fetch(worker, &data_dir, &artifacts)?,
        None => args.common.configured()?,
    };
    serving::work(&config, artifacts, &args.common.serving(args.listen))
}

fn data_folder(given: Option<&Path>, experiment: &ExperimentConfig) -> PathBuf {
    paths::data_dir(given.or(experiment.data_dir.as_deref()))
}

impl CommonArgs {
    fn configured(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(&self.config)?;
        self.set(&mut config.runtime);
        config.validate().map_err(BadInput)?;
        Ok(config)
    }

    fn set(&self, runtime: &mut RuntimeConfig) {
        runtime.provider = self.provider.unwrap_or(runtime.provider);
        runtime.threads = self.threads.unwrap_or(runtime.threads);
    }

    fn serving(&self, listen: Option<SocketAddr>) -> ServeOptions {
        ServeOptions { roles: self.roles.clone(), listen, until_finished: self.until_finished }
    }
}
