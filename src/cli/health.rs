//! `dissent health`: is the process on this host ready? For health checks of containers, which have no other client.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

/// Longest wait for a connection, and for the answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Far more than an answer has.
const ANSWER_BYTES_MAX: u64 = 4096;

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
    let answer = ask(args.address).with_context(|| format!("failed to ask {}", args.address))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.split(' ').nth(1) == Some("200"), "not ready: {}", body.trim());
    writeln!(std::io::stdout(), "{}", body.trim())?;
    Ok(())
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
