//! Deliveries of events to the subscriptions of webhooks.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{Accounts, AccountsError, PersonId, Role, WebhookEvent, secret};

/// Seconds after which a delivery is given up: a day.
const GIVE_UP_SECONDS: u64 = 86_400;
/// Longest pause between two attempts, in seconds.
const PAUSE_MAX: u64 = 3600;
/// Deliveries of a subscription that are listed.
const LISTED: u64 = 200;
/// Seconds for which an ended delivery is kept: its event is not delivered again within them.
const KEPT_SECONDS: u64 = 30 * 86_400;
/// Longest reason of a failure, in characters.
const REASON_CHARS_MAX: usize = 300;
/// Deliveries of a subscription that wait at most. Above it, the oldest is given up.
const DUE_MAX: u64 = 10_000;
/// Longest key of an event, in bytes.
const KEY_BYTES_MAX: usize = 1000;
/// Largest payload, in bytes.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

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

impl Accounts {
    /// Notes an event for every subscription to it. `key` names the event: a second note of it has no effect.
    /// Owners who may not read the experiment get no delivery. Returns the number of new deliveries.
    ///
    /// # Errors
    /// If the key or the payload is too long, or the database fails.
    pub fn enqueue(
        &self,
        event: WebhookEvent,
        experiment: &str,
        key: &str,
        payload: &str,
        now: u64,
    ) -> Result<usize, AccountsError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(AccountsError::bad("key", format!("use 1 to {KEY_BYTES_MAX} bytes")));
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AccountsError::bad("payload", format!("use at most {PAYLOAD_BYTES_MAX} bytes")));
        }
        let mut subscribed = Vec::new();
        for webhook in self.webhooks(None)? {
            let is_of = webhook.experiment.as_deref().is_none_or(|only| only == experiment);
            if webhook.enabled
                && is_of
                && webhook.events.contains(&event)
                && self.may_know(webhook.owner.as_deref(), experiment)?
            {
                subscribed.push(webhook.id);
            }
        }
        self.change_all(|connection| {
            let mut noted = 0;
            for webhook in &subscribed {
                let is_new = connection.execute(
                    "INSERT OR IGNORE INTO deliveries (webhook, event_key, payload, created_at, due_at) \
                     SELECT ?1, ?2, ?3, ?4, ?4 WHERE EXISTS (SELECT 1 FROM webhooks WHERE id = ?1)",
                    params![webhook, key, payload, now],
                )? > 0;
                if is_new {
                    noted += 1;
                    tidy(connection, webhook, now)?;
                }
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
        let is_admin = person.role == Role::Admin;
        Ok(!person.disabled && (is_admin || self.access(&owner, experiment)?.is_some()))
    }

    /// Returns deliveries that are due, the oldest first. One caller sends them: a delivery stays due until
    /// [`delivered`](Self::delivered) or [`delivery_failed`](Self::delivery_failed).
    ///
    /// # Errors
    /// If the database fails.
    pub fn due_deliveries(&self, now: u64, limit: usize) -> Result<Vec<DueDelivery>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT deliveries.id, url, secret, payload FROM deliveries JOIN webhooks \
             ON webhooks.id = deliveries.webhook WHERE state = 'due' AND due_at <= ?1 AND is_enabled = 1 \
             ORDER BY due_at LIMIT ?2",
        )?;
        let rows = statement.query_map(params![now, limit], |row| {
            Ok(DueDelivery { id: row.get(0)?, url: row.get(1)?, secret: row.get(2)?, payload: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a delivery arrived. An unknown one is no error: its subscription may have ended meanwhile.
    ///
    /// # Errors
    /// If the database fails.
    pub fn delivered(&self, id: i64) -> Result<(), AccountsError> {
        self.connection().execute(
            "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1, reason = NULL WHERE id = ?1",
            [id],
        )?;
        Ok(())
    }

    /// Notes that an attempt failed. The next one follows after a pause that doubles, plus up to a quarter at
    /// random. After a day the delivery is given up. An unknown one is no error.
    ///
    /// # Errors
    /// If the database fails.
    pub fn delivery_failed(&self, id: i64, reason: &str, now: u64) -> Result<(), AccountsError> {
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        self.change_all(|connection| {
            let query = "SELECT attempts, created_at FROM deliveries WHERE id = ?1 AND state = 'due'";
            let found: Option<(u32, u64)> =
                connection.query_row(query, [id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((attempts, created_at)) = found else { return Ok(()) };
            let state = if now >= created_at + GIVE_UP_SECONDS { "given_up" } else { "due" };
            let pause = 10_u64.checked_shl(attempts.min(20)).unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
            // Deliveries that failed together are not repeated together.
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
    pub fn deliveries(
        &self,
        owner: Option<&PersonId>,
        webhook: &str,
    ) -> Result<Vec<Delivery>, AccountsError> {
        if !self.webhooks(owner)?.iter().any(|found| found.id == webhook) {
            return Err(AccountsError::NotFound { what: "webhook" });
        }
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, state, attempts, created_at, due_at, reason, payload FROM deliveries WHERE webhook = ?1 \
             ORDER BY id DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![webhook, LISTED], |row| {
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

/// Removes old deliveries of a subscription that ended, and gives up the oldest above the limit.
fn tidy(connection: &Connection, webhook: &str, now: u64) -> Result<(), AccountsError> {
    connection.execute(
        "DELETE FROM deliveries WHERE webhook = ?1 AND state <> 'due' AND created_at < ?2",
        params![webhook, now.saturating_sub(KEPT_SECONDS)],
    )?;
    let query = "SELECT count(*) FROM deliveries WHERE webhook = ?1 AND state = 'due'";
    let due: u64 = connection.query_row(query, [webhook], |row| row.get(0))?;
    if due > DUE_MAX {
        connection.execute(
            "UPDATE deliveries SET state = 'given_up', reason = 'too many others are due' WHERE id = \
             (SELECT min(id) FROM deliveries WHERE webhook = ?1 AND state = 'due')",
            [webhook],
        )?;
    }
    Ok(())
}
