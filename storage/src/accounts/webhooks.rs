//! Webhooks: subscriptions to events.

use std::collections::BTreeSet;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::names::check_key;
use super::target::check_url;
use super::tokens::{json, parse};
use super::{Accounts, AccountsError, PersonId, secret};

/// Maximum number of subscriptions of a server, and of one owner.
const WEBHOOKS_MAX: u64 = 1000;
const OF_OWNER_MAX: u64 = 100;

/// An event that a subscription may name.
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
    /// The person who made it; `None` without an account.
    pub owner: Option<String>,
    /// The target of deliveries.
    pub url: String,
    /// The events that are delivered.
    pub events: Vec<WebhookEvent>,
    /// Only this experiment.
    pub experiment: Option<String>,
    /// Seconds since 1970 UTC.
    pub created_at: u64,
    /// Whether events are delivered.
    pub enabled: bool,
}

/// A subscription that was just made.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Names the subscription.
    pub id: String,
    /// The secret of its signatures, shown once.
    pub secret: String,
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
        experiment.map_or(Ok(()), |experiment| check_key("experiment", experiment))?;
        let events: BTreeSet<WebhookEvent> = events.iter().copied().collect();
        if events.is_empty() {
            return Err(AccountsError::bad("events", "name at least one"));
        }
        let made = NewWebhook { id: secret::name()?, secret: secret::new()? };
        self.change_all(|connection| {
            let query = "SELECT count(*), count(CASE WHEN owner IS ?1 THEN 1 END) FROM webhooks";
            let (all, of_owner): (u64, u64) =
                connection
                    .query_row(query, [owner.map(PersonId::as_str)], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if all >= WEBHOOKS_MAX || of_owner >= OF_OWNER_MAX {
                let reason = format!("at most {OF_OWNER_MAX} subscriptions: delete others first");
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
            "SELECT id, owner, url, events, experiment, created_at, is_enabled FROM webhooks \
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
                enabled: row.get(6)?,
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

    /// Switches a subscription on or off, of this person or of anybody. Deliveries that are due wait while it
    /// is off, and new events are not noted.
    ///
    /// # Errors
    /// If there is none.
    pub fn enable_webhook(
        &self,
        owner: Option<&PersonId>,
        id: &str,
        enabled: bool,
    ) -> Result<(), AccountsError> {
        let changed = self.connection().execute(
            "UPDATE webhooks SET is_enabled = ?3 WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
            params![id, owner.map(PersonId::as_str), enabled],
        )?;
        if changed == 0 { Err(AccountsError::NotFound { what: "webhook" }) } else { Ok(()) }
    }
}
