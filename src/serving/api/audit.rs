//! The audit trail: who read and changed what, by person.

use axum::extract::State;
use axum::response::Response;
use dissent_storage::accounts::{AuditEntry, AuditFilter};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts_access::blocking;
use super::page::{Params, page_response, rows};
use super::service::Api;
use crate::serving::problem::Problem;

/// Notes what a caller did.
pub(super) fn note(api: &Api, entry: AuditEntry) {
    if let Some(trail) = api.audit() {
        trail.note(entry);
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
