//! The accounts of people and programs, and what belongs to them.
//!
//! Accounts change and are private, so they are no events. They are in one SQLite database beside the event
//! log. Events name people by an opaque id ([`PersonId`]), which says nothing once its person is erased.
//!
//! Secrets are shown once, when they are made, and kept as hashes. Times are seconds since 1970 UTC, given by
//! the caller. All functions block for a read or a write of the database.

mod address;
mod audit;
mod backup;
mod deliveries;
mod erased_list;
mod erasure;
mod error;
mod hashing;
mod idempotency;
mod links;
mod names;
mod open;
mod passwords;
mod people;
mod rights;
mod sealing;
mod secret;
mod sessions;
mod sharing;
mod sign_in;
mod signature;
mod target;
mod throttle;
mod tokens;
mod webhooks;

#[cfg(test)]
mod tests;

pub use audit::{AuditEntry, AuditFilter, AuditRow, Channel};
pub use deliveries::{Delivery, DueDelivery};
pub use error::AccountsError;
pub use idempotency::{ANSWER_BYTES_MAX, Claim};
pub use links::{Link, NewLink};
pub use open::{AUDIT_DAYS, Accounts, FILE};
pub use people::{Page, Person, PersonChange, PersonId};
pub use rights::{Action, Role, Scope, may, may_link};
pub use sessions::Session;
pub use sharing::{Access, Share};
pub use sign_in::SignedIn;
pub use signature::{signature, verify_signature};
pub use target::target_is_public;
pub use tokens::{NewToken, Token, TokenCaller};
pub use webhooks::{NewWebhook, Webhook, WebhookEvent};
