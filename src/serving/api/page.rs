//! Query parameters and pages, as every list of the API has them.

use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::service::json_response;
use crate::serving::problem::Problem;

/// Most rows of a page.
pub(super) const ROWS_MAX: usize = 1000;
/// Rows of a page, if the client names none.
pub(super) const ROWS_DEFAULT: usize = 100;

/// The query parameters of a route. Unknown ones are refused, with their names.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(params)| Self(params))
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// The number of rows that a client asks for.
///
/// # Errors
/// If it is out of range.
pub(super) fn rows(limit: Option<u32>) -> Result<usize, Problem> {
    let limit = limit.map_or(ROWS_DEFAULT, |limit| limit as usize);
    if (1..=ROWS_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit: use 1 to {ROWS_MAX}")))
    }
}

/// A page: its rows, and the cursor of the next page.
pub(super) fn page_response(rows: impl Serialize, next: Option<String>) -> Result<Response, Problem> {
    let page = serde_json::to_value(rows).map_err(Problem::internal)?;
    Ok(json_response(&json!({ "rows": page, "next": next })))
}
