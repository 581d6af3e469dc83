//! `dissent health`: is the process on this host ready? For health checks of containers, which have no other
//! client.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::Request;

use super::http_client::{self, Endpoint};

/// Longest wait for the answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ask a running serve or worker whether it is ready
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dissent health\n  dissent health --address 127.0.0.1:9465\n\nExits with 0 if it is ready, with 1 if not."
)]
pub(crate) struct HealthArgs {
    /// Where it answers for its health (`--listen` of serve and worker).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464", env = "DISSENT_HEALTH_ADDRESS")]
    address: SocketAddr,
}

pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let address = args.address;
    let request = Request::get("/ready").body(Full::default())?;
    let response = http_client::send(&Endpoint::Tcp(address.to_string()), request, TIMEOUT)
        .with_context(|| format!("failed to ask {address}"))?;
    let body = String::from_utf8_lossy(&response.body);
    anyhow::ensure!(response.status.is_success(), "not ready: {}", body.trim());
    writeln!(std::io::stdout(), "{}", body.trim())?;
    Ok(())
}
