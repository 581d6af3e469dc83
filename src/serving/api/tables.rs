//! Tables of experiments: pages of rows, and whole tables.

use std::io::{self, Write};
use std::str::FromStr as _;
use std::sync::PoisonError;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query as AxumQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog as _;
use futures_util::stream;
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::{Api, json_response, reading};
use crate::error::BadInput;
use crate::serving::problem::Problem;
use crate::serving::table_cache::SharedTables;
use crate::tables::{Format, Query, TableName, write};

/// Bytes of a part of a whole table that is written at once.
const PART_BYTES: usize = 64 << 10;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(table))
}

/// A table of an experiment: a page of rows, or all rows.
///
/// Each other query parameter filters by a column: `round=2`, `pacs.gte=0.5`, `pacs.lte=1`, `outcome.ne=false
/// alarm`,
/// `text.contains=sorry`. The book's chapter on tables has the columns.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/tables/{table}", tag = "tables",
    params(
        ("name" = String, Path),
        ("table" = String, Path, description = "`prompts`, `completions`, `conflicts`, `comparisons` (also `pairs`), `judgements`, `trainings`, `evaluations`"),
        ("format" = Option<String>, Query, description = "`jsonl`, `csv` or `parquet` for all rows; absent for a page of JSON"),
        ("sort" = Option<String>, Query, description = "A column; with `-` before it, the largest first"),
        ("limit" = Option<u32>, Query, description = "Rows of the page, 1 to 1000; default 100", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "Where the page begins: `next` of the page before"),
    ),
    responses(
        (status = 200, description = "`{rows, next}`, or the whole table", content(
            (Object = "application/json"), (String = "application/jsonl"), (String = "text/csv"),
            (String = "application/vnd.apache.parquet")
        )),
        (status = 400, description = "A parameter is unknown or not allowed"),
        (status = 404, description = "Unknown"),
    )
)]
async fn table(
    State(api): State<Api>,
    Path((name, table)): Path<(String, String)>,
    AxumQuery(pairs): AxumQuery<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let bad = |error: BadInput| Problem::new(StatusCode::BAD_REQUEST, error.0);
    let experiment =
        ExperimentId::new(name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let table = TableName::from_str(&table).map_err(|error| Problem::new(StatusCode::NOT_FOUND, error.0))?;
    let (formats, pairs): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key == "format");
    let format = formats.last().map(|(_, format)| format.parse::<Format>()).transpose().map_err(bad)?;
    let query = Query::parse(table, pairs).map_err(bad)?;
    let tables = caught_up(&api, &experiment).await?;
    match format {
        None => {
            let page = reading(move || {
                let tables = tables.read().unwrap_or_else(PoisonError::into_inner);
                Ok(serde_json::to_value(query.page(&tables))?)
            });
            Ok(json_response(&page.await?))
        }
        Some(format) => Ok(whole(&experiment, tables, query, format)),
    }
}

/// Returns the tables of an experiment as of now.
pub(in crate::serving) async fn caught_up(
    api: &Api,
    experiment: &ExperimentId,
) -> Result<SharedTables, Problem> {
    let log = api.service()?.log.clone();
    let (tables, name) = (api.tables().of(experiment), experiment.clone());
    let known = reading(move || {
        // One folds, and the others wait for what it found.
        let mut folded = tables.write().unwrap_or_else(PoisonError::into_inner);
        folded.catch_up(&*log, &name)?;
        let known = folded.version() > 0 || log.streams()?.iter().any(|(found, _)| *found == name);
        drop(folded);
        Ok(known.then_some(tables))
    });
    known
        .await?
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("unknown experiment {experiment}")))
}

/// The response with all rows, written while the client takes them.
fn whole(experiment: &ExperimentId, tables: SharedTables, query: Query, format: Format) -> Response {
    let (sender, receiver) = mpsc::channel(4);
    let file = format!("{experiment}-{}.{}", query.table(), format.extension());
    tokio::task::spawn_blocking(move || {
        let tables = tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::BufWriter::with_capacity(PART_BYTES, ToClient(sender));
        if let Err(error) = write(&tables, &query, format, &mut out) {
            // The client has gone, or sees a response that is cut off.
            tracing::debug!(error = format!("{error:#}"), "failed to write a table");
        }
    });
    let parts = stream::unfold(receiver, |mut receiver| async {
        let part = receiver.recv().await?;
        Some((part, receiver))
    });
    let mut response =
        ([(header::CONTENT_TYPE, format.content_type())], Body::from_stream(parts)).into_response();
    // The names of experiments and tables are plain.
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{file}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// Writes to the body of a response. The client bounds what is in memory.
struct ToClient(mpsc::Sender<Result<Bytes, io::Error>>);

impl Write for ToClient {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(part)));
        sent.map(|()| part.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
