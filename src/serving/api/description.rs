//! The description of the API, and a page to read it on, which needs no network.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder};
use utoipa_swagger_ui::{Config, serve};

use super::service::Api;
use crate::serving::problem::Problem;

const PATH: &str = "/api/v1/openapi.json";
const PAGE: &str = "/api/v1/docs/index.html";

/// The description without routes.
pub(super) fn base() -> OpenApi {
    let mut license = License::new("MIT");
    license.identifier = Some("MIT".to_owned());
    let info = InfoBuilder::new()
        .title("Dissent")
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(license))
        .description(Some(
            "Experiments, their histories and tables, judgements of people, and the server that hosts them.\n\n\
             Send an API token as `Authorization: Bearer dissent_…`. Errors are problems of RFC 9457, with the \
             request's id. A `POST` with an `Idempotency-Key` can be repeated.",
        ))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// The routes of the description.
pub(super) fn routes(description: &OpenApi) -> Router<Api> {
    let text = description.to_json().unwrap_or_default();
    let config = Arc::new(Config::from(PATH).try_it_out_enabled(true));
    let file = async move |Path(file): Path<String>| page_file(&file, config.clone());
    let json = [(header::CONTENT_TYPE, "application/json")];
    Router::new()
        .route(PATH, get(move || async move { (json, text) }))
        .route("/api/v1/docs", get(|| async { Redirect::to(PAGE) }))
        .route("/api/v1/docs/{*file}", get(file))
}

fn page_file(name: &str, config: Arc<Config<'static>>) -> Result<Response, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no such file");
    let found = serve(name, config).map_err(|error| Problem::internal(anyhow::anyhow!("{error}")))?;
    let file = found.ok_or_else(missing)?;
    let mut response = ([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response();
    // The page has styles of its own, and scripts only in files.
    let policy =
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}
