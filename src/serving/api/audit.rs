//! The audit trail: who read and changed what, by person.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use dissent_storage::accounts::{Accounts, AuditEntry, AuditFilter};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admission::blocking;
use super::page::{Params, page_response, rows};
use super::service::Api;
use crate::serving::problem::Problem;

/// Entries that wait to be written. More are dropped, with a warning.
const WAITING_MAX: usize = 4096;
/// Entries of one write.
const BATCH_MAX: usize = 512;
/// Time in which entries come together to one write.
const GATHER: Duration = Duration::from_millis(200);

/// Writes entries in the background, so that no request waits for a write to the disk.
#[derive(Debug, Clone)]
pub(crate) struct AuditTrail(SyncSender<AuditEntry>);

impl AuditTrail {
    /// Starts the thread that writes. It ends with the last clone.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(accounts: Accounts) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<AuditEntry>(WAITING_MAX);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || {
            while let Ok(first) = receiver.recv() {
                std::thread::sleep(GATHER);
                let mut entries = vec![first];
                entries.extend(receiver.try_iter().take(BATCH_MAX - 1));
                if let Err(error) = accounts.record(&entries) {
                    tracing::error!(%error, entries = entries.len(), "failed to write the audit trail");
                }
            }
        })?;
        Ok(Self(sender))
    }
}

/// Notes what a caller did.
pub(super) fn note(api: &Api, entry: AuditEntry) {
    let Some(trail) = api.audit() else { return };
    if let Err(TrySendError::Full(entry)) = trail.0.try_send(entry) {
        tracing::warn!(
            action = entry.action,
            object = entry.object,
            "the audit trail is full: dropped an entry"
        );
    }
}

/// Which entries of the audit trail to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditParams {
    /// Only what this person did, by id.
    person: Option<String>,
    /// Only what was done to this path.
    object: Option<String>,
    /// Rows of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The audit trail, newest first.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "people", params(AuditParams),
    responses((status = 200, description = "A page of entries", body = Object))
)]
async fn list(State(api): State<Api>, Params(params): Params<AuditParams>) -> Result<Response, Problem> {
    let AuditParams { person, object, limit, cursor } = params;
    let (accounts, limit) = (api.require_accounts()?, rows(limit)?);
    let filter = AuditFilter { person, object };
    let page = blocking(move || accounts.audit(&filter, limit, cursor.as_deref())).await?;
    page_response(page.rows, page.next)
}
