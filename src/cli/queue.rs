//! `dissent queue` and `dissent dead`: what lies in RabbitMQ's queues, and what is to become of the messages
//! that were given up.

mod connection;
mod forget;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_queues::{DeadContent, DeadMessage, QueueStats, RabbitBroker};
use serde_json::{Value, json};

use connection::{rabbit, with_broker};

use crate::config::Config;
use crate::error::BadInput;

/// Longest reason shown in a list, in characters.
const REASON_CHARS: usize = 100;

/// Look at the queues of an experiment on RabbitMQ, and delete them when it is over
#[derive(Debug, clap::Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    /// Messages and consumers of every queue
    #[command(
        after_help = "Examples:\n  dissent queue stat experiment.toml\n  watch -n 1 dissent queue stat experiment.toml"
    )]
    Stat(StatArgs),
    Forget(forget::ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct StatArgs {
    /// The experiment's configuration, which names the RabbitMQ.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Look at messages that were given up on RabbitMQ, and try them again or drop them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent dead list experiment.toml
  dissent dead show experiment.toml 8c1f2d…
  dissent dead retry experiment.toml 8c1f2d…     once the reason is gone
  dissent dead drop experiment.toml 8c1f2d…

Here is what RabbitMQ holds of all experiments under the configuration's broker.prefix: messages that cannot be read, proposals that the
rules rejected, and events that no step could process. Events stay in the log whatever becomes of them here.")]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadCommand {
    /// Which there are, and why
    List(DeadListArgs),
    /// One of them, with all that is known
    Show(OneArgs),
    /// Give one back to where it failed, with all its attempts before it
    Retry(OneArgs),
    /// Take one off the list for good
    Drop(OneArgs),
}

#[derive(Debug, clap::Args)]
struct DeadListArgs {
    /// A configuration that names the RabbitMQ.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Show at most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print as JSON lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// A configuration that names the RabbitMQ.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Its id, as `dissent dead list` shows it.
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn run(data_dir: Option<&Path>, args: &QueueArgs) -> anyhow::Result<()> {
    match &args.command {
        QueueCommand::Stat(args) => stat(args),
        QueueCommand::Forget(args) => forget::run(data_dir, args),
    }
}

fn stat(args: &StatArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let rabbit = rabbit(&config)?;
    let experiment = &config.experiment.name;
    let shared = ["proposals", "parked", "dead"].map(|name| format!("{}.{name}", rabbit.prefix));
    let found = with_broker(rabbit, async |broker| {
        let of_it = broker.queues_of(experiment, &dissent_actors::groups(experiment))?;
        let names: Vec<&str> = shared.iter().chain(&of_it).map(String::as_str).collect();
        Ok(broker.queue_stats(&names).await?)
    })?;
    show_stats(&found, args.json)
}

fn show_stats(found: &[QueueStats], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let row = |queue: &QueueStats| json!({"queue": queue.name, "messages": queue.messages, "consumers": queue.consumers});
        serde_json::to_writer_pretty(&mut out, &found.iter().map(row).collect::<Vec<_>>())?;
        writeln!(out)?;
        return Ok(());
    }
    let width = found.iter().map(|queue| queue.name.len()).max().unwrap_or_default().max(5);
    writeln!(out, "{:width$} {:>9} {:>9}", "queue", "messages", "consumers")?;
    for queue in found {
        writeln!(out, "{:width$} {:>9} {:>9}", queue.name, queue.messages, queue.consumers)?;
    }
    Ok(())
}

pub(crate) fn dead(args: &DeadArgs) -> anyhow::Result<()> {
    match &args.command {
        DeadCommand::List(args) => list(args),
        DeadCommand::Show(args) => {
            let id = args.id.as_str();
            let found = args.with(async |broker| Ok(broker.dead_get(id).await?))?;
            let message = found.ok_or_else(|| absent(id))?;
            let mut out = std::io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &whole(&message))?;
            Ok(writeln!(out)?)
        }
        DeadCommand::Retry(args) => {
            let id = args.id.as_str();
            args.settle(async |broker| Ok(broker.dead_retry(id).await?), "is tried again")
        }
        DeadCommand::Drop(args) => {
            let id = args.id.as_str();
            args.settle(async |broker| Ok(broker.dead_drop(id).await?), "is dropped")
        }
    }
}

impl OneArgs {
    fn with<T>(&self, work: impl AsyncFnOnce(&RabbitBroker) -> anyhow::Result<T>) -> anyhow::Result<T> {
        with_broker(rabbit(&Config::load(&self.config)?)?, work)
    }

    fn settle(
        &self,
        work: impl AsyncFnOnce(&RabbitBroker) -> anyhow::Result<bool>,
        done: &str,
    ) -> anyhow::Result<()> {
        if !self.with(work)? {
            return Err(absent(&self.id));
        }
        Ok(writeln!(std::io::stdout(), "{} {done}", self.id)?)
    }
}

fn absent(id: &str) -> anyhow::Error {
    BadInput(format!("there is no dead message {id:?}: see dissent dead list")).into()
}

fn list(args: &DeadListArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let limit = args.limit;
    let found = with_broker(rabbit(&config)?, async |broker| Ok(broker.dead_list(limit).await?))?;
    let mut out = std::io::stdout().lock();
    if found.is_empty() && !args.json {
        return Ok(writeln!(out, "no message was given up")?);
    }
    for message in &found {
        if args.json {
            serde_json::to_writer(&mut out, &described(message))?;
            writeln!(out)?;
        } else {
            let experiment = message.experiment.as_deref().unwrap_or("-");
            let reason: String = message.reason.chars().take(REASON_CHARS).collect();
            writeln!(out, "{}  {:8}  {experiment}  {}  {reason}", message.id, message.kind, message.queue)?;
        }
    }
    Ok(())
}

fn described(message: &DeadMessage) -> Value {
    json!({
        "id": message.id, "kind": message.kind, "parked": message.parked, "queue": message.queue,
        "experiment": message.experiment, "attempts": message.attempts, "reason": message.reason, "bytes": message.bytes,
    })
}

fn whole(message: &DeadMessage) -> Value {
    let mut whole = described(message);
    let of_event = |event: &dissent_domain::event::NewEvent| json!({"id": event.id, "type": event.event_type, "by": event.actor});
    whole["content"] = match &message.content {
        DeadContent::Event(recorded) => {
            json!({"position": recorded.position, "event": of_event(&recorded.event)})
        }
        DeadContent::Proposal(proposal) => {
            json!({"events": proposal.events.iter().map(of_event).collect::<Vec<_>>()})
        }
        DeadContent::Unreadable(bytes) => json!({"unreadable_bytes": bytes.len()}),
    };
    whole
}
