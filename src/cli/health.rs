//! `dissent health`: asks a process whether it is ready. Container health checks use it, because the images
//! hold no other HTTP client.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::Request;

use crate::http_client::{self, Endpoint};

/// Longest wait for the response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ask a running server or worker whether it is ready
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dissent health\n  dissent health --address 127.0.0.1:9465\n\nThe exit code is 0 if the process is ready, \
                  and 1 if it is not."
)]
pub(crate) struct HealthArgs {
    /// Address of the process: `--listen` of `dissent serve` or `dissent worker`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464", env = "DISSENT_HEALTH_ADDRESS")]
    address: SocketAddr,
}

pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let address = args.address;
    let request = Request::get("/ready").body(Full::default())?;
    let response = http_client::send(&Endpoint::Tcp(address.to_string()), request, TIMEOUT)
        .with_context(|| format!("failed to query {address}"))?;
    let body = String::from_utf8_lossy(&response.body);
    anyhow::ensure!(response.status.is_success(), "not ready: {}", body.trim());
    writeln!(std::io::stdout(), "{}", body.trim())?;
    Ok(())
}
