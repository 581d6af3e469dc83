//! `dissent serve` and `dissent worker`: run an experiment as a service, in one process or in several.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dissent_actors::Roles;

use super::runtime_args::RuntimeOverrides;
use crate::cli::{paths, suggestion};
use crate::config::{Config, ExperimentConfig, WorkerConfig};
use crate::experiment::bundle;
use crate::serving::control_token::ControlToken;
use crate::serving::{self, ServeOptions};

/// Run an experiment as a service, and share its steps with workers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent serve experiment.toml                                all steps in this process
  dissent serve experiment.toml --roles conflict,feedback      the other steps in workers
  curl http://127.0.0.1:9464/metrics                           also /health and /ready
  dissent experiment pause tone-demo                           also resume, cancel, and `dissent log backup`

Workers need a RabbitMQ, in the configuration of the server and of every worker:
  [broker]      kind = \"rabbitmq\", url_file, prefix = \"dissent\", lease_seconds = 60, connect_seconds = 60,
                heartbeat_seconds = 20, message_mib_max = 16, redeliveries_max = 32
The address, amqp://user:password@host:5672/vhost, is read from DISSENT_RABBITMQ_URL, or from the file broker.url_file.

Traces are sent as OTLP over http/protobuf if OpenTelemetry's variables name a collector. One prompt is one trace across all processes:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 dissent serve experiment.toml      the same for the workers
  also OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and _SAMPLER_ARG, OTEL_BSP_*

Control requests (start, pause, resume, cancel, backup) are accepted from this host. To accept them from other hosts, set
DISSENT_CONTROL_TOKEN or --control-token-file: each client must send the token. Without a token, a server on a public address rejects
all control requests. A created experiment waits for `dissent experiment start NAME`, a paused one for `resume`.

Judgements can be imported while the server runs: dissent feedback import. SIGTERM stops it cleanly, and the same command resumes.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Address for health checks, metrics and control requests.
    #[arg(long, value_name = "ADDRESS", default_value = super::server::DEFAULT_ADDRESS)]
    listen: SocketAddr,
    /// File with the control token of requests from other hosts; DISSENT_CONTROL_TOKEN overrides it.
    #[arg(value_parser = crate::cli::paths::path(), long, env = "DISSENT_CONTROL_TOKEN_FILE", value_name = "FILE")]
    control_token_file: Option<PathBuf>,
}

/// Run steps of an experiment for a `dissent serve` process
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  DISSENT_RABBITMQ_URL=amqp://dissent:secret@queue/ dissent worker experiment.toml --roles generation,reward
  dissent worker worker.toml --roles training --provider cuda --data-dir /var/cache/dissent
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 dissent worker experiment.toml    with traces: see dissent serve --help

Server and workers can share a store:
  [artifacts]   url = \"s3://bucket/prefix\" or \"file:///mnt/shared\", cache_gib = 50
A worker then needs only [experiment] name, [broker], [artifacts] and [runtime]; the server's file works too. The worker fetches
models, adapters and data by their hash, checks them, and caches up to cache_gib of them in the data folder. Its folder `inputs` also
holds the models and data of the configuration. Delete that folder only while no worker runs.

S3 needs a build with `--features s3`. Credentials, region and endpoint are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT and AWS_ALLOW_HTTP.

Without [artifacts], workers use the server's configuration, and its paths must be valid on every host. Server and workers then share
the folder `artifacts` of the data folder.

Start any number of workers. Stop or kill them at any time: another worker continues their work.")]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Address for health checks and metrics.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Configuration of the experiment.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Steps to run here: all, none, or some of generation,reward,conflict,feedback,training,evaluation.
    #[arg(long, default_value = "all")]
    roles: Roles,
    /// Exit when the experiment is finished.
    #[arg(long)]
    until_finished: bool,
    #[command(flatten)]
    runtime: RuntimeOverrides,
}

pub(crate) fn serve(data_dir: Option<&Path>, args: &ServeArgs) -> anyhow::Result<()> {
    let config = args.common.configured()?;
    let data_dir = data_folder(data_dir, &config.experiment);
    let token = ControlToken::find(args.control_token_file.as_deref())?;
    let serving = args.common.serving(Some(args.listen));
    serving::serve(&config, &args.common.config, &data_dir, &serving, token.as_ref()).map_err(|error| {
        let again = suggestion::this_command(&[]);
        suggestion::with_fork(error, &data_dir, |name| format!("{again}    with {name} in the configuration"))
    })
}

pub(crate) fn work(data_dir: Option<&Path>, args: &WorkerArgs) -> anyhow::Result<()> {
    let mut worker = WorkerConfig::load(&args.common.config)?;
    args.common.runtime.apply(&mut worker.runtime);
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
        self.runtime.apply(&mut config.runtime);
        config.validate()?;
        Ok(config)
    }

    fn serving(&self, listen: Option<SocketAddr>) -> ServeOptions {
        ServeOptions { roles: self.roles.clone(), listen, until_finished: self.until_finished }
    }
}
