//! The server: writes the histories of all experiments of a data folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{ModelCache, Roles};
use dissent_domain::id::ExperimentId;
use dissent_models::runtime::CancelFlag;
use dissent_storage::accounts::{self, Accounts};
use tokio::sync::Notify;

use super::api;
use super::api::service::{Api, Service, SignIn};
use super::audit_trail::AuditTrail;
use super::broker_handle::BrokerHandle;
use super::control_token::ControlToken;
use super::experiments::{Experiments, Shared};
use super::gate::{Gate, now};
use super::http;
use super::signals::{GRACE, Received, Signals};
use super::status::{Hosting, ServiceStatus};
use super::systemd;
use super::webhooks;
use super::worker_directory::ServerEntry;
use crate::config::{Auth, ConfigSource, ServerConfig};
use crate::installation::Installation;
use crate::log_access::door::LocalDoor;
use crate::log_access::open;
use crate::telemetry;

/// Options of a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerOptions {
    /// The steps to run in this process.
    pub(crate) roles: Roles,
    /// Address of the HTTP interface.
    pub(crate) listen: SocketAddr,
    /// Whether the process exits when no experiment is left to run, instead of waiting for a signal.
    pub(crate) until_finished: bool,
    /// The file with the control token of requests from other hosts.
    pub(crate) token_file: Option<PathBuf>,
    /// The file with the settings of the server.
    pub(crate) config_file: Option<PathBuf>,
}

impl ServerOptions {
    fn token(&self) -> anyhow::Result<Option<ControlToken>> {
        ControlToken::find(self.token_file.as_deref())
    }

    /// Reads again what can change while the server runs: the control token, and the log filter of the
    /// settings.
    fn reload(&self, gate: &Gate) -> anyhow::Result<()> {
        let token = self.token()?;
        let filter = match &self.config_file {
            Some(path) => ServerConfig::load(path)?.log_filter,
            None => None,
        };
        if let Some(filter) = filter {
            telemetry::set_filter(&filter)?;
        }
        gate.set_token(token.as_ref());
        Ok(())
    }
}

/// Hosts the experiments of a data folder until a signal stops the process. With `first`, this experiment is
/// hosted before the others, and a failure to do so ends the start.
///
/// # Errors
/// If the settings cannot be used, the log fails, RabbitMQ refuses an operation, or `first` cannot be hosted.
pub(crate) fn serve(
    config: ServerConfig,
    data_dir: &Path,
    options: &ServerOptions,
    first: Option<(ExperimentId, ConfigSource)>,
) -> anyhow::Result<()> {
    if let Some(filter) = &config.log_filter {
        telemetry::set_filter(filter)?;
    }
    let log = Arc::new(open::open_for_writing(data_dir)?);
    let sign_in = sign_in(&config, data_dir, options)?;
    let (accounts, gate) = (sign_in.accounts.clone(), sign_in.gate.clone());
    let api = Api::of_server(data_dir, sign_in);
    let _door = LocalDoor::start(log.clone(), data_dir, api::local_routes(&api))?;
    let installation = Installation::of(data_dir)?;
    let artifacts = config.artifacts.open(data_dir)?;
    let status = Arc::new(ServiceStatus::new(ModelCache::new(config.models.limits())));
    actix::System::new().block_on(async {
        let mut signals = Signals::new()?;
        http::listen(options.listen, status.clone(), gate.clone(), api::routes(&api, gate.clone())).await?;
        let serving = async {
            status.wait_for("waiting for the broker");
            let broker = BrokerHandle::of_server(&config.broker, log.clone(), installation).await?;
            status.use_broker(broker.clone());
            let entry = ServerEntry::of_this_process(broker.prefix().unwrap_or_default().to_owned());
            let shared = Shared {
                data_dir: data_dir.to_owned(),
                config: Arc::new(config),
                roles: options.roles.clone(),
                log: log.clone(),
                artifacts,
                broker,
                status: status.clone(),
                entry,
            };
            let mut experiments = Experiments::start(shared.clone())?;
            api.begin(Service {
                control: experiments.control(),
                log: shared.log.clone(),
                artifacts: shared.artifacts,
                status: status.clone(),
                orders: Some(experiments.orders()),
                entry: Some(shared.entry),
                names: Arc::new(shared.config.names.clone()),
            });
            let may_be_private =
                shared.config.accounts.auth == Auth::Local || shared.config.accounts.private_webhooks;
            webhooks::start(accounts, shared.log, status.clone(), may_be_private)?;
            if let Some((experiment, source)) = &first {
                experiments.host_from(experiment, source).await?;
            }
            experiments.host_all().await?;
            status.start_working();
            systemd::ready();
            tracing::info!(roles = %options.roles, "running steps");
            anyhow::Ok(experiments)
        };
        let mut experiments = tokio::select! {
            started = serving => started?,
            () = stop_signal(&mut signals, options, &gate) => return Ok(()),
        };
        let only = first.as_ref().map(|(experiment, _)| experiment);
        let is_done = |status: &ServiceStatus| options.until_finished && is_over(status, only);
        let outcome = tokio::select! {
            outcome = experiments.run(is_done) => outcome,
            () = stop_signal(&mut signals, options, &gate) => Ok(()),
        };
        let outcome = outcome.and_then(|()| check_end(&status, only.filter(|_| options.until_finished)));
        status.start_draining();
        systemd::stopping();
        tracing::info!("finishing work in progress before the stop");
        let over = signals.grace(if outcome.is_ok() { GRACE } else { Duration::ZERO });
        give_up_after(over, experiments.cancel_flags(), status.broker());
        let drained = experiments.drain(!options.until_finished).await;
        outcome.and(drained)
    })
}

/// Opens the accounts, and decides who is let in.
fn sign_in(config: &ServerConfig, data_dir: &Path, options: &ServerOptions) -> anyhow::Result<SignIn> {
    let accounts = Accounts::open(&data_dir.join(accounts::FILE)).context("failed to open the accounts")?;
    let mut gate = Gate::new(options.listen, options.token()?.as_ref());
    if config.accounts.auth == Auth::Accounts {
        gate = gate.with_accounts(accounts.clone(), config.accounts.url());
        show_first_admin_link(&accounts, config, options.listen)?;
    }
    if !gate.accepts_some() {
        let address = options.listen;
        tracing::info!(%address, "refusing control requests on a public address without accounts or a control token");
    }
    let audit = AuditTrail::start(accounts.clone()).context("failed to start the audit trail")?;
    Ok(SignIn { accounts, audit, gate })
}

/// Prints the address at which the first admin sets a password, until there is one. It goes to the terminal,
/// and not to the log, which others may read.
fn show_first_admin_link(
    accounts: &Accounts,
    config: &ServerConfig,
    listen: SocketAddr,
) -> anyhow::Result<()> {
    use std::io::Write as _;
    let Some(secret) = accounts.first_admin_link(now())? else { return Ok(()) };
    let origin = config.accounts.url().map(|url| url.origin().ascii_serialization());
    let origin = origin.unwrap_or_else(|| format!("http://{listen}"));
    // A server without a terminal has the link in its output.
    let text = format!("Set the password of the first admin within a day:\n  {origin}/invitation#{secret}\n");
    std::io::stderr().write_all(text.as_bytes()).context("failed to write to stderr")
}

/// Cancels the work in progress, and no longer waits for RabbitMQ, once the time of a stop is over.
fn give_up_after(over: Arc<Notify>, flags: Vec<CancelFlag>, broker: Option<BrokerHandle>) {
    actix::spawn(async move {
        over.notified().await;
        flags.iter().for_each(CancelFlag::cancel);
        broker.iter().for_each(BrokerHandle::abandon);
    });
}

/// Waits for a signal to stop, and reloads on SIGHUP.
async fn stop_signal(signals: &mut Signals, options: &ServerOptions, gate: &Gate) {
    while signals.next().await == Received::Reload {
        match options.reload(gate) {
            Ok(()) => tracing::info!("reloaded the control token and the log filter"),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "keeping the old settings: they cannot be reloaded"
                );
            }
        }
    }
}

/// Whether nothing is left to wait for: the only experiment, or every experiment, has ended or is halted.
fn is_over(status: &ServiceStatus, only: Option<&ExperimentId>) -> bool {
    let is_over = |hosting: &Hosting| match hosting {
        Hosting::Ended(_) | Hosting::Halted(_) | Hosting::NoConfiguration => true,
        Hosting::Loading | Hosting::Running(_) => false,
    };
    match only {
        Some(only) => status.hosting(only).is_some_and(|hosting| is_over(&hosting)),
        None => status.experiments().iter().all(|(_, hosting)| is_over(hosting)),
    }
}

/// Returns the reason of the halt of the only experiment, if it is halted.
fn check_end(status: &ServiceStatus, only: Option<&ExperimentId>) -> anyhow::Result<()> {
    match only.and_then(|only| status.hosting(only)) {
        Some(Hosting::Halted(halt)) => Err(anyhow::anyhow!(halt.reason)).context("the experiment is halted"),
        _ => Ok(()),
    }
}
