//! Tells subscribers of events: notes what happened, and delivers it until it arrives.
//!
//! The end of an experiment and the settling of a round are read from the log, from where the last process
//! ended. That a round waits for people, or that an experiment is halted, is a state, which is seen again
//! after a restart.

use std::net::ToSocketAddrs as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::event::EventType;
use dissent_domain::log::EventLog as _;
use dissent_storage::SledLog;
use dissent_storage::accounts::{Accounts, DueDelivery, WebhookEvent, signature, target_is_public};
use serde_json::{Value, json};
use ureq::Agent;
use url::Url;

use super::gate::now;
use super::status::{Hosting, ServiceStatus};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time of a delivery.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Deliveries between two looks.
const AT_ONCE: usize = 16;
/// Events of the log that are read at a look.
const EVENTS_AT_ONCE: usize = 10_000;
/// The subscription of this step, whose position the log keeps.
const CURSOR: &str = "webhooks";

/// Starts the thread that notes and delivers. It ends with the process.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn start(
    accounts: Accounts,
    log: Arc<SledLog>,
    status: Arc<ServiceStatus>,
    may_be_private: bool,
) -> anyhow::Result<()> {
    let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).max_redirects(0).proxy(None);
    let agent = config.http_status_as_error(false).user_agent("dissent").build().new_agent();
    let webhooks = Webhooks {
        accounts,
        log: Arc::downgrade(&log),
        status: Arc::downgrade(&status),
        may_be_private,
        agent,
    };
    let thread = std::thread::Builder::new().name("webhooks".to_owned());
    thread.spawn(move || webhooks.run()).context("failed to start the thread of webhooks")?;
    Ok(())
}

struct Webhooks {
    accounts: Accounts,
    /// The thread keeps neither open at the end of the process.
    log: std::sync::Weak<SledLog>,
    status: std::sync::Weak<ServiceStatus>,
    may_be_private: bool,
    agent: Agent,
}

impl Webhooks {
    fn run(&self) {
        loop {
            std::thread::sleep(INTERVAL);
            let (Some(log), Some(status)) = (self.log.upgrade(), self.status.upgrade()) else { return };
            if let Err(error) = self.look(&log, &status) {
                tracing::warn!(error = format!("{error:#}"), "failed to note events for webhooks");
            }
            drop((log, status));
            if let Err(error) = self.deliver() {
                tracing::warn!(error = format!("{error:#}"), "failed to deliver webhooks");
            }
        }
    }

    /// Notes what happened since the last look.
    fn look(&self, log: &SledLog, status: &ServiceStatus) -> anyhow::Result<()> {
        let kept = log.load_cursor(CURSOR)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        if self.accounts.webhooks(None)?.is_empty() {
            // Later subscribers are told of later events.
            if kept != Some(log.head()) {
                log.store_cursor(CURSOR, log.head().to_le_bytes().to_vec())?;
            }
            return Ok(());
        }
        let after = kept.unwrap_or_else(|| log.head());
        let last = self.note_events(log, after)?;
        if kept != Some(last) {
            log.store_cursor(CURSOR, last.to_le_bytes().to_vec())?;
        }
        self.note_states(status)
    }

    fn note_events(&self, log: &SledLog, after: u64) -> anyhow::Result<u64> {
        let (mut last, mut count, mut found) = (after, 0, Vec::new());
        log.scan_views(after, &mut |view| {
            last = view.position;
            count += 1;
            let event = match view.event_type {
                name if name == EventType::FeedbackSettled.name() => Some(WebhookEvent::RoundSettled),
                name if name == EventType::ExperimentFinished.name()
                    || name == EventType::ExperimentCancelled.name() =>
                {
                    Some(WebhookEvent::ExperimentFinished)
                }
                _ => None,
            };
            if let Some(event) = event {
                found.push((event, view.experiment.to_owned(), view.id, view.position));
            }
            if count < EVENTS_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        for (event, experiment, id, position) in found {
            self.note(event, &experiment, &id.to_string(), json!({ "position": position }))?;
        }
        Ok(last)
    }

    fn note_states(&self, status: &ServiceStatus) -> anyhow::Result<()> {
        for (experiment, hosting) in status.experiments() {
            let name = experiment.as_str();
            match hosting {
                Hosting::Halted(halt) => {
                    let key = format!("halted:{name}:{}", halt.at_us);
                    // The reason may name files of the server.
                    self.note(WebhookEvent::ExperimentHalted, name, &key, json!({ "at_us": halt.at_us }))?;
                }
                Hosting::Running(health) => {
                    let progress = health.progress.borrow().clone();
                    if let Some(round) = progress.round.filter(|_| progress.waits_for_people) {
                        let wanted = progress.judgements_wanted.saturating_sub(progress.judgements);
                        let key = format!("waits:{name}:{round}");
                        let more = json!({ "round": round, "judgements_wanted": wanted });
                        self.note(WebhookEvent::RoundWaits, name, &key, more)?;
                    }
                }
                Hosting::Loading | Hosting::Ended(_) | Hosting::NoConfiguration => {}
            }
        }
        Ok(())
    }

    fn note(&self, event: WebhookEvent, experiment: &str, key: &str, more: Value) -> anyhow::Result<()> {
        let mut payload = json!({ "event": event, "experiment": experiment, "key": key });
        if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
            payload.extend(more);
        }
        self.accounts.enqueue(event, experiment, key, &payload.to_string(), now())?;
        Ok(())
    }

    fn deliver(&self) -> anyhow::Result<()> {
        for due in self.accounts.due_deliveries(now(), AT_ONCE)? {
            match self.send(&due) {
                Ok(()) => self.accounts.delivered(due.id)?,
                Err(error) => {
                    let reason = format!("{error:#}");
                    tracing::info!(delivery = due.id, reason, "failed to deliver a webhook; retrying later");
                    self.accounts.delivery_failed(due.id, &reason, now())?;
                }
            }
        }
        Ok(())
    }

    fn send(&self, due: &DueDelivery) -> anyhow::Result<()> {
        self.check_target(&due.url)?;
        let request = self.agent.post(&due.url).content_type("application/json");
        let request = request.header("dissent-signature", signature(&due.secret, now(), &due.payload));
        let status = request.send(&due.payload)?.status();
        anyhow::ensure!(status.is_success(), "the subscriber answered with {status}");
        Ok(())
    }

    /// Refuses addresses of this host and its networks, where the settings do.
    fn check_target(&self, url: &str) -> anyhow::Result<()> {
        if self.may_be_private {
            return Ok(());
        }
        let url = Url::parse(url)?;
        let host = url.host_str().context("the address has no host")?;
        let port = url.port_or_known_default().unwrap_or(80);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        for address in (host, port).to_socket_addrs().context("the host is unknown")? {
            let ip = address.ip();
            anyhow::ensure!(
                target_is_public(ip),
                "{ip} is no public address: set [accounts] private_webhooks = true to allow it"
            );
        }
        Ok(())
    }
}
