//! `dissent serve` and `dissent worker`: run experiments as a service, in one process or in several.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dissent_actors::Roles;

use super::runtime_args::RuntimeOverrides;
use crate::cli::{paths, suggestion};
use crate::config::{Config, ConfigSource, ServerConfig, WorkerConfig};
use crate::serving::server::{self, ServerOptions};
use crate::serving::worker::{self, Source, WorkerOptions};

/// Run experiments as a service, and share their steps with workers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent serve                                                every experiment of the data folder that has not ended
  dissent serve --config server.toml                           with the settings of this file
  dissent serve experiment.toml                                the same, and this experiment
  dissent serve experiment.toml --roles conflict,feedback      the other steps in workers
  dissent experiment create other.toml                         a further experiment, while the server runs
  dissent experiment pause tone-demo                           also start, resume, cancel, fork, retry
  curl http://127.0.0.1:9464/metrics                           also /health and /ready

A server needs no settings. In server.toml, each of these is optional:
  data_dir      the data folder
  [broker]      kind = \"rabbitmq\", url_file, prefix, lease_seconds = 60, connect_seconds = 60,
                heartbeat_seconds = 20, message_mib_max = 16, redeliveries_max = 32; workers need a RabbitMQ
  [artifacts]   url, cache_gib: the store that server and workers share; see dissent worker --help
  [runtime]     provider = \"auto\", \"cpu\" or \"cuda\", threads = 0, onnxruntime
  [models]      memory_gib (60 % of the memory), idle_minutes = 30: limits of loaded models
  [archive]     folder*, after_days*: where and when ended experiments are copied to
  [accounts]    auth = \"local\" or \"accounts\": whether people sign in; url: the address of the server for browsers;
                private_webhooks = false
  [names]       NAME = \"path\": models and data that configurations over HTTP may name, as server:NAME
  log_filter    in place of --log-filter; SIGHUP reads it again
Without --config, these sections of experiment.toml count. The address, amqp://user:password@host:5672/vhost, is read from
DISSENT_RABBITMQ_URL, or from the file broker.url_file. Without a prefix, the queues are named by the data folder's installation.

An experiment that fails is halted with its reason, and the others continue. It is tried again at a restart of the server, and by
`dissent experiment retry NAME`. A created experiment waits for `dissent experiment start NAME`, a paused one for `resume`.

Traces are sent as OTLP over http/protobuf if OpenTelemetry's variables name a collector. One prompt is one trace across all processes:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 dissent serve experiment.toml      the same for the workers
  also OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and _SAMPLER_ARG, OTEL_BSP_*

Commands on this host reach the server through the socket of the data folder. Pages and the API are at the address of --listen. Without
accounts, they are for the user of this host. To let programs of other hosts in, set DISSENT_CONTROL_TOKEN or --control-token-file:
each must send the token. To let people in, set [accounts]: the first start prints the link with which the first admin sets a
password. A server on a public address without either refuses these requests.

SIGTERM stops the server in order, and the same command resumes. A second SIGTERM abandons work in progress. SIGHUP reads the control
token and the log filter again.")]
pub(crate) struct ServeArgs {
    /// Configuration of an experiment to run. The server keeps it for later starts.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    experiment: Option<PathBuf>,
    /// Settings of the server.
    #[arg(long, value_parser = crate::cli::paths::path(), value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
    /// Address for health checks, metrics and control requests.
    #[arg(long, value_name = "ADDRESS", default_value = crate::client::DEFAULT_ADDRESS)]
    listen: SocketAddr,
    /// File with the control token of requests from other hosts; DISSENT_CONTROL_TOKEN overrides it.
    #[arg(value_parser = crate::cli::paths::path(), long, env = "DISSENT_CONTROL_TOKEN_FILE", value_name = "FILE")]
    control_token_file: Option<PathBuf>,
}

/// Run steps of experiments for a `dissent serve` process
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  DISSENT_RABBITMQ_URL=amqp://dissent:secret@queue/ dissent worker experiment.toml --roles generation,reward
  dissent worker worker.toml --roles training --provider cuda --data-dir /var/cache/dissent
  dissent worker worker.toml                          every experiment of the server that shares the store of this file
  dissent worker worker.toml --server http://lab:9464 every experiment of this server
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 dissent worker experiment.toml    with traces: see dissent serve --help

Server and workers can share a store:
  [artifacts]   url = \"s3://bucket/prefix\" or \"file:///mnt/shared\", cache_gib = 50
A worker then needs only [broker], [artifacts], [models] and [runtime]. With [experiment] name it works on that experiment only. The
server's file works too. The worker fetches models, adapters and data by their hash, checks them, and caches up to cache_gib of them
in the data folder. Its folder `inputs` also holds the models and data of the configurations. Delete that folder only while no
worker runs.

S3 needs a build with `--features s3`. Credentials, region and endpoint are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT and AWS_ALLOW_HTTP.

Without [artifacts], workers use the configurations of the server, whose paths must be valid on every host. Server and workers then
share the folder `artifacts` of the data folder. A worker learns the names of the queues from the store, from --server, from
broker.prefix, or from the server's data folder.

Start any number of workers. Stop or kill them at any time: another worker continues their work.")]
pub(crate) struct WorkerArgs {
    /// Settings of the worker, or the configuration of an experiment.
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
    /// Address for health checks and metrics.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    server: super::server::ServerArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Steps to run here: all, none, or some of generation,reward,conflict,feedback,training,evaluation.
    #[arg(long, default_value = "all")]
    roles: Roles,
    /// Exit when the experiment is finished; without one, when no experiment is left to run.
    #[arg(long)]
    until_finished: bool,
    #[command(flatten)]
    runtime: RuntimeOverrides,
}

pub(crate) fn serve(data_dir: Option<&Path>, args: &ServeArgs) -> anyhow::Result<()> {
    let first = args.experiment.as_deref().map(|path| {
        let config = Config::load(path)?;
        anyhow::Ok((config, ConfigSource::read(path, &[])?))
    });
    let first = first.transpose()?;
    let mut server = match (&args.config, &first) {
        (Some(path), _) => ServerConfig::load(path)?,
        (None, Some((config, _))) => ServerConfig::of_experiment(config),
        (None, None) => ServerConfig::default(),
    };
    args.common.runtime.apply(&mut server.runtime);
    let of_experiment = first.as_ref().and_then(|(config, _)| config.experiment.data_dir.as_deref());
    let data_dir = paths::data_dir(data_dir.or(server.data_dir.as_deref()).or(of_experiment));
    let options = ServerOptions {
        roles: args.common.roles.clone(),
        listen: args.listen,
        until_finished: args.common.until_finished,
        token_file: args.control_token_file.clone(),
        config_file: args.config.clone(),
    };
    let first = first.map(|(config, source)| (config.experiment.name, source));
    server::serve(server, &data_dir, &options, first).map_err(|error| {
        let again = suggestion::this_command(&[]);
        suggestion::with_fork(error, &data_dir, |name| format!("{again}    with {name} in the configuration"))
    })
}

pub(crate) fn work(data_dir: Option<&Path>, args: &WorkerArgs) -> anyhow::Result<()> {
    let mut worker = args.config.as_deref().map(WorkerConfig::load).transpose()?.unwrap_or_default();
    args.common.runtime.apply(&mut worker.runtime);
    let of_experiment = worker.experiment.as_ref().and_then(|experiment| experiment.data_dir.as_deref());
    let data_dir = paths::data_dir(data_dir.or(of_experiment).or(worker.data_dir.as_deref()));
    let artifacts = worker.artifacts.open(&data_dir)?;
    let source = match &args.config {
        Some(path) if worker.experiment.is_some() && artifacts.shared().is_none() => {
            let mut config = Config::load(path)?;
            args.common.runtime.apply(&mut config.runtime);
            config.validate()?;
            Source::File(Box::new(config))
        }
        Some(_) | None => Source::Server,
    };
    let options = WorkerOptions {
        roles: args.common.roles.clone(),
        listen: args.listen,
        until_finished: args.common.until_finished,
        server: args.server.named()?,
    };
    worker::work(worker::Settings { worker, source, data_dir, artifacts }, options)
}
