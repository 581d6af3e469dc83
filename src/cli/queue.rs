//! `dissent queue` and `dissent dead`: show and delete the queues of RabbitMQ, and list, retry or drop dead
//! letters.

mod connection;
mod forget;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use dissent_domain::id::ExperimentId;
use dissent_queues::{DeadContent, DeadMessage, QueueStats, RabbitBroker};
use serde_json::{Value, json};

use connection::Connection;

use crate::error::BadInput;

/// Longest reason shown in a list, in characters.
const REASON_CHARS: usize = 100;

/// Show the RabbitMQ queues of an experiment, or delete them after its end
#[derive(Debug, clap::Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    /// Show the messages and consumers of every queue
    #[command(
        after_help = "Examples:\n  dissent queue stat experiment.toml\n  watch -n 1 dissent queue stat experiment.toml"
    )]
    Stat(StatArgs),
    Forget(forget::ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct StatArgs {
    /// Configuration of the experiment, with [broker] kind = "rabbitmq".
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// List the dead letters of RabbitMQ, and retry or drop them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent dead list experiment.toml
  dissent dead show experiment.toml 8c1f2d…
  dissent dead retry experiment.toml 8c1f2d…     after the cause is fixed
  dissent dead drop experiment.toml 8c1f2d…

Dead letters are unreadable messages and rejected proposals. The commands also cover parked messages: events that failed their last
attempt. They cover all experiments under the configuration's broker.prefix. Events stay in the log, even if their message is dropped.")]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadCommand {
    /// List dead letters with their reasons
    List(DeadListArgs),
    /// Show one dead letter with all its fields
    Show(DeadLetterArgs),
    /// Send a dead letter back to its queue as a first attempt
    Retry(DeadLetterArgs),
    /// Delete a dead letter
    Drop(DeadLetterArgs),
}

#[derive(Debug, clap::Args)]
struct DeadListArgs {
    /// Configuration with [broker] kind = "rabbitmq".
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Maximum number of dead letters to show.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print as JSON Lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DeadLetterArgs {
    /// Configuration with [broker] kind = "rabbitmq".
    #[arg(value_parser = crate::cli::paths::path(), value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Id of the dead letter, from `dissent dead list`.
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn run(data_dir: Option<&Path>, args: &QueueArgs) -> anyhow::Result<()> {
    match &args.command {
        QueueCommand::Stat(args) => stat(data_dir, args),
        QueueCommand::Forget(args) => forget::run(data_dir, args),
    }
}

fn stat(data_dir: Option<&Path>, args: &StatArgs) -> anyhow::Result<()> {
    let connection = Connection::of(&args.config, data_dir, None)?;
    let experiments =
        connection.experiment().map_or_else(|| connection.experiments(), |one| vec![one.clone()]);
    let found = connection.with_broker(async |broker| {
        let mut names = vec![format!("{}.2.dead", broker.prefix())];
        for experiment in &experiments {
            names.extend(broker.queues_of(experiment, &dissent_actors::groups(experiment))?);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
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

pub(crate) fn dead(data_dir: Option<&Path>, args: &DeadArgs) -> anyhow::Result<()> {
    match &args.command {
        DeadCommand::List(args) => list(data_dir, args),
        DeadCommand::Show(args) => {
            let id = args.id.as_str();
            let connection = Connection::of(&args.config, data_dir, None)?;
            let experiments = connection.experiments();
            let found =
                connection.with_broker(async |broker| Ok(broker.dead_get(&experiments, id).await?))?;
            let message = found.ok_or_else(|| unknown(id))?;
            let mut out = std::io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &with_content(&message))?;
            Ok(writeln!(out)?)
        }
        DeadCommand::Retry(args) => {
            let id = args.id.as_str();
            let work =
                async |broker: &RabbitBroker, all: &[ExperimentId]| Ok(broker.dead_retry(all, id).await?);
            args.settle(data_dir, work, "sent back to its queue")
        }
        DeadCommand::Drop(args) => {
            let id = args.id.as_str();
            let work =
                async |broker: &RabbitBroker, all: &[ExperimentId]| Ok(broker.dead_drop(all, id).await?);
            args.settle(data_dir, work, "dropped")
        }
    }
}

impl DeadLetterArgs {
    fn settle(
        &self,
        data_dir: Option<&Path>,
        work: impl AsyncFnOnce(&RabbitBroker, &[ExperimentId]) -> anyhow::Result<bool>,
        done: &str,
    ) -> anyhow::Result<()> {
        let connection = Connection::of(&self.config, data_dir, None)?;
        let experiments = connection.experiments();
        if !connection.with_broker(async |broker| work(broker, &experiments).await)? {
            return Err(unknown(&self.id));
        }
        Ok(writeln!(std::io::stdout(), "{}: {done}", self.id)?)
    }
}

fn unknown(id: &str) -> anyhow::Error {
    BadInput(format!("unknown dead letter {id:?}: `dissent dead list` shows the ids")).into()
}

fn list(data_dir: Option<&Path>, args: &DeadListArgs) -> anyhow::Result<()> {
    let connection = Connection::of(&args.config, data_dir, None)?;
    let (experiments, limit) = (connection.experiments(), args.limit);
    let found = connection.with_broker(async |broker| Ok(broker.dead_list(&experiments, limit).await?))?;
    let mut out = std::io::stdout().lock();
    if found.is_empty() && !args.json {
        return Ok(writeln!(out, "no dead letters")?);
    }
    for message in &found {
        if args.json {
            serde_json::to_writer(&mut out, &without_content(message))?;
            writeln!(out)?;
        } else {
            let experiment = message.experiment.as_deref().unwrap_or("-");
            let reason: String = message.reason.chars().take(REASON_CHARS).collect();
            writeln!(out, "{}  {:8}  {experiment}  {}  {reason}", message.id, message.kind, message.queue)?;
        }
    }
    Ok(())
}

fn without_content(message: &DeadMessage) -> Value {
    json!({
        "id": message.id, "kind": message.kind, "parked": message.parked, "queue": message.queue,
        "experiment": message.experiment, "attempts": message.attempts, "reason": message.reason, "bytes": message.bytes,
    })
}

fn with_content(message: &DeadMessage) -> Value {
    let mut letter = without_content(message);
    let of_event = |event: &dissent_domain::event::NewEvent| json!({"id": event.id, "type": event.event_type, "by": event.actor});
    letter["content"] = match &message.content {
        DeadContent::Event(recorded) => {
            json!({"position": recorded.position, "event": of_event(&recorded.event)})
        }
        DeadContent::Proposal(proposal) => {
            json!({"events": proposal.events.iter().map(of_event).collect::<Vec<_>>()})
        }
        DeadContent::Unreadable(bytes) => json!({"unreadable_bytes": bytes.len()}),
    };
    letter
}
