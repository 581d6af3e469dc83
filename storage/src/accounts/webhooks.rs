//! Webhooks: subscriptions to events, and their deliveries.

use std::net::{IpAddr, Ipv4Addr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use url::Url;

use super::tokens::{json, parse};
use super::{Accounts, AccountsError, PersonId, secret};

/// Subscriptions of a server.
const WEBHOOKS_MAX: u64 = 100;
/// Seconds after which a delivery is given up: a day.
const GIVE_UP_SECONDS: u64 = 86_400;
/// Longest pause between two attempts, in seconds.
const PAUSE_MAX: u64 = 3600;
/// Deliveries of a subscription that are listed after they ended.
const KEPT: u64 = 200;

/// What a subscriber is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    /// A round waits for judgements of people.
    RoundWaits,
    /// The feedback of a round is settled.
    RoundSettled,
    /// The server halted an experiment.
    ExperimentHalted,
    /// An experiment did all its rounds, or was cancelled.
    ExperimentFinished,
}

/// A subscription, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// Names the subscription.
    pub id: String,
    /// Who made it; `None` without an account.
    pub owner: Option<String>,
    /// Where deliveries go.
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// Only this experiment.
    pub experiment: Option<String>,
    /// Seconds since 1970 UTC.
    pub created_at: u64,
}

/// A subscription that was just made.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Names the subscription.
    pub id: String,
    /// The secret of its signatures, shown once.
    pub secret: String,
}

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDelivery {
    /// Numbers the delivery.
    pub id: i64,
    /// Where it goes.
    pub url: String,
    /// The secret of its signature.
    pub secret: String,
    /// The body, JSON.
    pub payload: String,
}

/// A delivery, as its subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Numbers the delivery.
    pub id: i64,
    /// `due`, `delivered` or `given_up`.
    pub state: String,
    /// Attempts so far.
    pub attempts: u64,
    /// Seconds since 1970 UTC.
    pub created_at: u64,
    /// The next attempt, in seconds since 1970 UTC.
    pub due_at: u64,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// The body, JSON.
    pub payload: String,
}

/// Returns the signature of a delivery, for a header: `t=SECONDS,v1=HEX`. It is the HMAC-SHA256, with the secret of
/// the subscription, of the time, a dot and the body.
#[must_use]
pub fn signature(secret: &str, at: u64, body: &str) -> String {
    use std::fmt::Write as _;
    // A key of any length is allowed.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(at.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let mut text = format!("t={at},v1=");
    for byte in mac.finalize().into_bytes() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whether an address is one of the public internet, rather than of this host or a network behind it.
#[must_use]
pub fn target_is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => {
            if let Some(mapped) = ip.to_ipv4_mapped() {
                return is_public_v4(mapped);
            }
            let [first, second, ..] = ip.segments();
            // Only 2000::/3 is assigned; in it, documentation, Teredo and 6to4 lead elsewhere.
            let is_global = first & 0xe000 == 0x2000;
            let is_special = (first == 0x2001 && second < 0x0200) || first == 0x2002 || (first == 0x2001 && second == 0x0db8);
            is_global && !is_special
        }
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !is_special
}

/// Checks the address of a subscription.
fn check_url(text: &str) -> Result<(), AccountsError> {
    let bad = |reason: &str| AccountsError::bad("url", reason);
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if text.len() > 2000 || !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("use an http or https address of at most 2000 bytes"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("leave out user and password: the signature shows who sends"));
    }
    Ok(())
}

impl Accounts {
    /// Subscribes to events.
    ///
    /// # Errors
    /// If the address is not allowed, no event is named, or there are too many subscriptions.
    pub fn create_webhook(
        &self,
        owner: Option<&PersonId>,
        url: &str,
        events: &[WebhookEvent],
        experiment: Option<&str>,
        now: u64,
    ) -> Result<NewWebhook, AccountsError> {
        check_url(url)?;
        if events.is_empty() {
            return Err(AccountsError::bad("events", "name at least one"));
        }
        let made = NewWebhook { id: secret::name()?, secret: secret::new()? };
        self.change_all(|connection| {
            let count: u64 = connection.query_row("SELECT count(*) FROM webhooks", [], |row| row.get(0))?;
            if count >= WEBHOOKS_MAX {
                let reason = format!("at most {WEBHOOKS_MAX} subscriptions: delete others first");
                return Err(AccountsError::bad("webhooks", reason));
            }
            connection.execute(
                "INSERT INTO webhooks (id, owner, url, events, experiment, secret, created_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    made.id,
                    owner.map(PersonId::as_str),
                    url,
                    json(&events)?,
                    experiment,
                    made.secret,
                    now
                ],
            )?;
            Ok(())
        })?;
        Ok(made)
    }

    /// Returns the subscriptions of a person, or all of them.
    ///
    /// # Errors
    /// If the database fails.
    pub fn webhooks(&self, owner: Option<&PersonId>) -> Result<Vec<Webhook>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, owner, url, events, experiment, created_at FROM webhooks \
             WHERE ?1 IS NULL OR owner = ?1 ORDER BY created_at, id",
        )?;
        let rows = statement.query_map([owner.map(PersonId::as_str)], |row| {
            let events: String = row.get(3)?;
            let webhook = Webhook {
                id: row.get(0)?,
                owner: row.get(1)?,
                url: row.get(2)?,
                events: Vec::new(),
                experiment: row.get(4)?,
                created_at: row.get(5)?,
            };
            Ok((webhook, events))
        })?;
        rows.map(|row| {
            let (webhook, events) = row?;
            Ok(Webhook { events: parse(&events)?, ..webhook })
        })
        .collect()
    }

    /// Ends a subscription, of this person or of anybody.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete_webhook(&self, owner: Option<&PersonId>, id: &str) -> Result<(), AccountsError> {
        let deleted = self.connection().execute(
            "DELETE FROM webhooks WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
            params![id, owner.map(PersonId::as_str)],
        )?;
        if deleted == 0 { Err(AccountsError::NotFound { what: "webhook" }) } else { Ok(()) }
    }

    /// Notes an event for every subscription to it. `key` names the event: a second note of it has no effect.
    /// Owners who may not read the experiment are not told. Returns the number of deliveries.
    ///
    /// # Errors
    /// If the database fails.
    pub fn enqueue(
        &self,
        event: WebhookEvent,
        experiment: &str,
        key: &str,
        payload: &str,
        now: u64,
    ) -> Result<usize, AccountsError> {
        let mut subscribed = Vec::new();
        for webhook in self.webhooks(None)? {
            let is_of = webhook.experiment.as_deref().is_none_or(|only| only == experiment);
            if webhook.events.contains(&event) && is_of && self.may_know(webhook.owner.as_deref(), experiment)? {
                subscribed.push(webhook.id);
            }
        }
        self.change_all(|connection| {
            let mut noted = 0;
            for webhook in &subscribed {
                noted += connection.execute(
                    "INSERT OR IGNORE INTO deliveries (webhook, event_key, payload, created_at, due_at) \
                     SELECT ?1, ?2, ?3, ?4, ?4 WHERE EXISTS (SELECT 1 FROM webhooks WHERE id = ?1)",
                    params![webhook, key, payload, now],
                )?;
            }
            Ok(noted)
        })
    }

    /// Whether the owner of a subscription may read an experiment.
    fn may_know(&self, owner: Option<&str>, experiment: &str) -> Result<bool, AccountsError> {
        let Some(owner) = owner else { return Ok(true) };
        let owner: PersonId = owner.parse()?;
        let person = match self.person(&owner) {
            Ok(person) => person,
            Err(AccountsError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_admin = person.role == super::Role::Admin;
        Ok(!person.disabled && (is_admin || self.access(&owner, experiment)?.is_some()))
    }

    /// Returns deliveries that are due.
    ///
    /// # Errors
    /// If the database fails.
    pub fn due_deliveries(&self, now: u64, limit: usize) -> Result<Vec<DueDelivery>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT deliveries.id, url, secret, payload FROM deliveries JOIN webhooks \
             ON webhooks.id = deliveries.webhook WHERE state = 'due' AND due_at <= ?1 ORDER BY due_at LIMIT ?2",
        )?;
        let rows = statement.query_map(params![now, limit], |row| {
            Ok(DueDelivery { id: row.get(0)?, url: row.get(1)?, secret: row.get(2)?, payload: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a delivery arrived. Old ones of its subscription go.
    ///
    /// # Errors
    /// If the database fails.
    pub fn delivered(&self, id: i64) -> Result<(), AccountsError> {
        self.change_all(|connection| {
            connection.execute(
                "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, reason = NULL WHERE id = ?1",
                [id],
            )?;
            connection.execute(
                "DELETE FROM deliveries WHERE state <> 'due' AND webhook = (SELECT webhook FROM deliveries WHERE id = ?1) \
                 AND id NOT IN (SELECT id FROM deliveries WHERE webhook = (SELECT webhook FROM deliveries WHERE id = ?1) \
                 ORDER BY id DESC LIMIT ?2)",
                params![id, KEPT],
            )?;
            Ok(())
        })
    }

    /// Notes that an attempt failed. The next one follows after a pause that doubles; after a day it is given up.
    ///
    /// # Errors
    /// If the database fails.
    pub fn delivery_failed(&self, id: i64, reason: &str, now: u64) -> Result<(), AccountsError> {
        let reason: String = reason.chars().take(300).collect();
        self.change_all(|connection| {
            let (attempts, created_at): (u32, u64) = connection.query_row(
                "SELECT attempts, created_at FROM deliveries WHERE id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let state = if now >= created_at + GIVE_UP_SECONDS { "given_up" } else { "due" };
            let pause = 10_u64.checked_shl(attempts.min(20)).unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
            // Many that failed together do not come again together.
            let spread = u64::from(u32::from_le_bytes(secret::random::<4>()?)) % (pause / 4 + 1);
            connection.execute(
                "UPDATE deliveries SET state = ?2, attempts = attempts + 1, due_at = ?3, reason = ?4 WHERE id = ?1",
                params![id, state, now + pause + spread, reason],
            )?;
            Ok(())
        })
    }

    /// Returns the latest deliveries of a subscription, of this person or of anybody.
    ///
    /// # Errors
    /// If there is no such subscription.
    pub fn deliveries(&self, owner: Option<&PersonId>, webhook: &str) -> Result<Vec<Delivery>, AccountsError> {
        if !self.webhooks(owner)?.iter().any(|found| found.id == webhook) {
            return Err(AccountsError::NotFound { what: "webhook" });
        }
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, state, attempts, created_at, due_at, reason, payload FROM deliveries WHERE webhook = ?1 \
             ORDER BY id DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![webhook, KEPT], |row| {
            Ok(Delivery {
                id: row.get(0)?,
                state: row.get(1)?,
                attempts: row.get(2)?,
                created_at: row.get(3)?,
                due_at: row.get(4)?,
                reason: row.get(5)?,
                payload: row.get(6)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
