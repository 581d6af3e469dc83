//! Subscriptions to events.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use dissent_storage::accounts::{PersonId, Role, WebhookEvent};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts_access::blocking;
use super::page::page_response;
use super::service::{Api, Body, json_response};
use crate::serving::gate::{Caller, now};
use crate::serving::problem::Problem;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete)).routes(routes!(deliveries))
}

/// A subscription to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSubscription {
    /// Where deliveries go: an http or https address.
    #[schema(max_length = 2000)]
    url: String,
    /// `round_waits`, `round_settled`, `experiment_halted`, `experiment_finished`.
    #[schema(value_type = Vec<String>)]
    events: Vec<WebhookEvent>,
    /// Only this experiment; all that the caller may read if absent.
    #[serde(default)]
    experiment: Option<String>,
}

/// The owner whose subscriptions the caller manages; `None`: everybody's.
fn owner(caller: &Caller) -> Option<PersonId> {
    caller.person.clone().filter(|_| caller.role != Some(Role::Admin))
}

/// The subscriptions of the caller, or of everybody for an admin; without their secrets.
#[utoipa::path(
    get, path = "/api/v1/webhooks", tag = "webhooks",
    responses((status = 200, description = "The subscriptions", body = Object))
)]
async fn list(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    let (accounts, owner) = (api.require_accounts()?, owner(&caller));
    page_response(blocking(move || accounts.webhooks(owner.as_ref())).await?, None)
}

/// Subscribe to events. The answer shows the secret of the signatures once.
///
/// A delivery is a `POST` with JSON. Its header `Dissent-Signature` is `t=SECONDS,v1=HEX`, the HMAC-SHA256
/// with the secret of the time, a dot and the body. A delivery without a 2xx answer is retried for a day.
#[utoipa::path(
    post, path = "/api/v1/webhooks", tag = "webhooks", request_body = NewSubscription,
    responses(
        (status = 201, description = "`{id, secret}`", body = Object),
        (status = 422, description = "The address is not allowed, or no event is named"),
    )
)]
async fn create(
    State(api): State<Api>,
    caller: Caller,
    Body(NewSubscription { url, events, experiment }): Body<NewSubscription>,
) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, caller.person);
    let made = blocking(move || {
        accounts.create_webhook(person.as_ref(), &url, &events, experiment.as_deref(), now())
    })
    .await?;
    let body = json_response(&json!({ "id": made.id, "secret": made.secret }));
    Ok((StatusCode::CREATED, body).into_response())
}

/// End a subscription. Its deliveries go.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 204, description = "Ended"), (status = 404, description = "Unknown"))
)]
async fn delete(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let (accounts, owner) = (api.require_accounts()?, owner(&caller));
    blocking(move || accounts.delete_webhook(owner.as_ref(), &id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The latest deliveries of a subscription, with the reason of a failed attempt.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, description = "The deliveries", body = Object), (status = 404, description = "Unknown"))
)]
async fn deliveries(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (accounts, owner) = (api.require_accounts()?, owner(&caller));
    page_response(blocking(move || accounts.deliveries(owner.as_ref(), &id)).await?, None)
}
