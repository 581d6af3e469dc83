//! API tokens of programs, `dissent_ID_SECRET`.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use super::names::{check_key, check_name};
use super::people::find;
use super::{Accounts, AccountsError, Person, PersonId, Scope, secret};

/// How a token begins, so that scanners of leaked secrets find it.
const PREFIX: &str = "dissent_";
/// Longest life of a token, in seconds.
const SECONDS_MAX: u64 = 366 * 86_400;
/// Maximum number of tokens of a person that have not expired.
const TOKENS_MAX: u64 = 100;
/// Seconds for which an expired token is listed.
const LISTED_SECONDS: u64 = 90 * 86_400;
/// Maximum number of experiments to which a token is limited.
const EXPERIMENTS_MAX: usize = 100;
/// Seconds between two notes that a token is used.
const NOTE_SECONDS: u64 = 60;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Names the token.
    pub id: String,
    /// The person in whose name it acts.
    pub person: String,
    /// What it is for.
    pub name: String,
    /// What it allows.
    pub scope: Vec<Scope>,
    /// The experiments that it is limited to.
    pub experiments: Option<Vec<String>>,
    /// Seconds since 1970 UTC.
    pub created_at: u64,
    /// Seconds since 1970 UTC.
    pub expires_at: u64,
    /// Seconds since 1970 UTC, exact to a minute; `None` if it was never used.
    pub used_at: Option<u64>,
}

/// A token that was just made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Names the token.
    pub id: String,
    /// The token itself, shown once.
    pub text: String,
}

/// The program that sends a token.
#[derive(Debug, Clone)]
pub struct TokenCaller {
    /// Names the token.
    pub id: String,
    /// The person in whose name it acts.
    pub person: Person,
    /// What it allows.
    pub scope: Vec<Scope>,
    /// The experiments that it is limited to.
    pub experiments: Option<Vec<String>>,
}

impl Accounts {
    /// Makes a token of a person. `until` is in seconds since 1970 UTC.
    ///
    /// # Errors
    /// If the name, the scope or the life is not allowed, or the person has too many.
    pub fn create_token(
        &self,
        person: &PersonId,
        name: &str,
        scope: &[Scope],
        experiments: Option<&[String]>,
        until: u64,
        now: u64,
    ) -> Result<NewToken, AccountsError> {
        let name = check_name(name)?;
        if scope.is_empty() {
            return Err(AccountsError::bad(
                "scope",
                "name at least one of read, write, judge, operate and work",
            ));
        }
        if until <= now || until > now + SECONDS_MAX {
            return Err(AccountsError::bad("expires_at", "use a time within 366 days"));
        }
        let experiments = experiments.map(check_experiments).transpose()?;
        let scope: BTreeSet<Scope> = scope.iter().copied().collect();
        let (id, secret) = (secret::name()?, secret::new()?);
        let text = format!("{PREFIX}{id}_{secret}");
        self.change_all(|connection| {
            find(connection, person)?;
            connection
                .execute("DELETE FROM tokens WHERE expires_at + ?2 <= ?1", params![now, LISTED_SECONDS])?;
            let count: u64 = connection.query_row(
                "SELECT count(*) FROM tokens WHERE person = ?1 AND expires_at > ?2",
                params![person.as_str(), now],
                |row| row.get(0),
            )?;
            if count >= TOKENS_MAX {
                return Err(AccountsError::bad(
                    "tokens",
                    format!("at most {TOKENS_MAX}: revoke others first"),
                ));
            }
            connection.execute(
                "INSERT INTO tokens (id, hash, person, name, scope, experiments, created_at, expires_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    id,
                    secret::hash(&text),
                    person.as_str(),
                    name,
                    json(&scope)?,
                    experiments.map(|listed| json(&listed)).transpose()?,
                    now,
                    until
                ],
            )?;
            Ok(())
        })?;
        Ok(NewToken { id, text })
    }

    /// Returns the program that sends a token.
    ///
    /// # Errors
    /// If the token is unknown, expired or revoked, or its person is disabled.
    pub fn token(&self, text: &str, now: u64) -> Result<TokenCaller, AccountsError> {
        let id = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let id = id.ok_or(AccountsError::Ended)?;
        let connection = self.connection();
        let found = connection
            .prepare_cached(
                "SELECT hash, person, scope, experiments, expires_at, coalesce(used_at, 0) FROM tokens WHERE id = ?1",
            )?
            .query_row([id], |row| {
                let (hash, person, scope): (Vec<u8>, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let experiments: Option<String> = row.get(3)?;
                Ok((hash, person, scope, experiments, row.get::<_, u64>(4)?, row.get::<_, u64>(5)?))
            })
            .optional()?;
        let (hash, person, scope, experiments, expires_at, used_at) = found.ok_or(AccountsError::Ended)?;
        if !secret::same(&hash, secret::hash(text)) || now >= expires_at {
            return Err(AccountsError::Ended);
        }
        let person = find(&connection, &person.parse()?).map_err(|_| AccountsError::Ended)?;
        if person.disabled {
            return Err(AccountsError::Ended);
        }
        if now >= used_at + NOTE_SECONDS {
            connection.execute("UPDATE tokens SET used_at = ?2 WHERE id = ?1", params![id, now])?;
        }
        let experiments = experiments.map(|listed| parse(&listed)).transpose()?;
        Ok(TokenCaller { id: id.to_owned(), person, scope: parse(&scope)?, experiments })
    }

    /// Returns the tokens of a person, or of everybody; the latest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn tokens(&self, person: Option<&PersonId>) -> Result<Vec<Token>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, person, name, scope, experiments, created_at, expires_at, used_at FROM tokens \
             WHERE ?1 IS NULL OR person = ?1 ORDER BY created_at DESC, id",
        )?;
        let rows = statement.query_map([person.map(PersonId::as_str)], |row| {
            let scope: String = row.get(3)?;
            let experiments: Option<String> = row.get(4)?;
            let token = Token {
                id: row.get(0)?,
                person: row.get(1)?,
                name: row.get(2)?,
                scope: Vec::new(),
                experiments: None,
                created_at: row.get(5)?,
                expires_at: row.get(6)?,
                used_at: row.get(7)?,
            };
            Ok((token, scope, experiments))
        })?;
        let read = |row: rusqlite::Result<(Token, String, Option<String>)>| {
            let (token, scope, experiments) = row?;
            let experiments = experiments.map(|listed| parse(&listed)).transpose()?;
            Ok(Token { scope: parse(&scope)?, experiments, ..token })
        };
        rows.map(read).collect()
    }

    /// Revokes a token, of this person or of anybody.
    ///
    /// # Errors
    /// If there is none.
    pub fn revoke_token(&self, person: Option<&PersonId>, id: &str) -> Result<(), AccountsError> {
        let revoked = self.connection().execute(
            "DELETE FROM tokens WHERE id = ?1 AND (?2 IS NULL OR person = ?2)",
            params![id, person.map(PersonId::as_str)],
        )?;
        if revoked == 0 { Err(AccountsError::NotFound { what: "token" }) } else { Ok(()) }
    }
}

/// Checks the experiments to which a token is limited.
fn check_experiments(listed: &[String]) -> Result<&[String], AccountsError> {
    if listed.is_empty() || listed.len() > EXPERIMENTS_MAX {
        return Err(AccountsError::bad(
            "experiments",
            format!("name 1 to {EXPERIMENTS_MAX}, or leave it out"),
        ));
    }
    listed.iter().try_for_each(|experiment| check_key("experiments", experiment))?;
    Ok(listed)
}

/// Encodes a list for a column.
pub(super) fn json(value: &impl Serialize) -> Result<String, AccountsError> {
    serde_json::to_string(value).map_err(|error| AccountsError::Damaged(error.to_string()))
}

/// Decodes a list of a column.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, AccountsError> {
    serde_json::from_str(text).map_err(|error| AccountsError::Damaged(error.to_string()))
}
