//! Comparisons out, judgements in.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use dissent_actors::CommandError;
use dissent_domain::event::FeedbackReceived;
use dissent_domain::feedback::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::page::Params;
use super::service::{Api, Named, Text, json_response, problem_of, reading};
use crate::feedback::{RecordedExperiment, comparisons};
use crate::serving::gate::Caller;
use crate::serving::problem::Problem;

/// Most judgements of a request.
const JUDGEMENTS_MAX: usize = 10_000;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(open)).routes(routes!(judge))
}

/// Which comparisons to give out.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OpenParams {
    /// Leave out those that this annotator has judged.
    annotator: Option<String>,
    /// Most comparisons, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The comparisons that wait for judgements, as annotators may see them: without scores.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/comparisons", tag = "judgements",
    params(("name" = String, Path), OpenParams),
    responses(
        (status = 200, description = "`{round, rows}`: each row has the texts, to judge as `first`, `second` or `tie`",
         body = Object),
        (status = 404, description = "Unknown"),
        (status = 409, description = "The experiment asks nobody"),
    )
)]
async fn open(
    State(api): State<Api>,
    Named(experiment): Named,
    Params(OpenParams { annotator, limit }): Params<OpenParams>,
) -> Result<Response, Problem> {
    let limit = super::page::rows(limit)?;
    let log = api.service()?.log.clone();
    let body = reading(move || {
        let recorded = RecordedExperiment::read(&*log, &experiment)?;
        let (plan, round) = (recorded.plan()?, recorded.feedback_round()?);
        let overlap = plan.learning.as_ref().map_or(1, |learning| learning.feedback.overlap) as usize;
        let learning = round.learning();
        let is_settled = learning.settled().is_some();
        let has_judged = |name: &str, judged: &dissent_domain::learning::RequestedComparison| {
            judged.judgements.of(name).is_some()
        };
        let open: Vec<_> = learning
            .comparisons()
            .iter()
            .filter(|asked| !is_settled && asked.judgements.len() < overlap)
            .filter(|asked| annotator.as_deref().is_none_or(|name| !has_judged(name, asked)))
            .take(limit)
            .collect();
        let mut rows = Vec::with_capacity(open.len());
        comparisons::each(&*log, plan, &open, annotator.as_deref(), |row| {
            rows.push(serde_json::to_value(row)?);
            Ok(())
        })?;
        Ok(json!({ "round": round.number(), "rows": rows }))
    })
    .await?;
    Ok(json_response(&body))
}

/// A judgement of a comparison.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Judgement {
    round: u32,
    comparison: u32,
    /// Who judges, where the caller has no account. A person judges under their own id.
    #[serde(default)]
    annotator: Option<String>,
    /// The better completion: `first`, `second` or `tie`.
    #[schema(value_type = String, pattern = "^(first|second|tie)$")]
    verdict: Verdict,
    /// Whether each completion, `[first, second]`, is unsafe; absent if safety was not judged.
    #[serde(default)]
    is_unsafe: Option<[bool; 2]>,
    #[serde(default)]
    comment: Option<String>,
}

/// Record judgements: one, a list of them, or JSON lines. All are recorded, or none.
///
/// Each is checked against the history first, and durable before the answer. The answer says of each line
/// whether it is `recorded` or was `already_there`. A repeated request changes nothing.
#[utoipa::path(
    post, path = "/api/v1/experiments/{name}/judgements", tag = "judgements",
    params(("name" = String, Path)),
    request_body(content((Vec<Judgement> = "application/json"), (String = "application/jsonl"))),
    responses(
        (status = 200, description = "`{new, already_there, lines}`", body = Object),
        (status = 404, description = "Unknown"),
        (status = 409, description = "A judgement is not allowed; `line` and `reason` say which and why. None is recorded"),
        (status = 422, description = "A line cannot be read; `line` says which. None is recorded"),
    )
)]
async fn judge(
    State(api): State<Api>,
    caller: Caller,
    Named(experiment): Named,
    headers: HeaderMap,
    Text(text): Text,
) -> Result<Response, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let judgements = parse(kind, &text)?;
    if judgements.len() > JUDGEMENTS_MAX {
        let reason = format!("at most {JUDGEMENTS_MAX} judgements are allowed: send them in parts");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
    }
    let judgements =
        judgements.into_iter().enumerate().map(|(at, judgement)| received(&caller, at, judgement));
    let judgements: Vec<FeedbackReceived> = judgements.collect::<Result<_, _>>()?;
    let judged = api.service()?.control.judge(experiment, judgements).await.map_err(rejected)?;
    let lines: Vec<_> = (judged.lines.iter().enumerate())
        .map(|(at, line)| {
            let outcome = if line.is_new { "recorded" } else { "already_there" };
            json!({ "line": at + 1, "outcome": outcome, "event": line.event })
        })
        .collect();
    let (new, already_there) = (judged.recorded(), judged.already_there());
    Ok(json_response(&json!({ "new": new, "already_there": already_there, "lines": lines })))
}

/// Reads a judgement, a list of them, or JSON lines.
fn parse(kind: &str, text: &str) -> Result<Vec<Judgement>, Problem> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        Many(Vec<serde_json::Value>),
        One(serde_json::Value),
    }
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let values: Vec<(usize, Result<serde_json::Value, serde_json::Error>)> = match essence.as_str() {
        "application/json" => {
            let parsed = serde_json::from_str(text).map_err(|error| {
                Problem::new(StatusCode::BAD_REQUEST, format!("invalid request body: {error}"))
            })?;
            let values = match parsed {
                OneOrMany::Many(values) => values,
                OneOrMany::One(value) => vec![value],
            };
            values.into_iter().enumerate().map(|(at, value)| (at + 1, Ok(value))).collect()
        }
        "application/jsonl" | "application/x-ndjson" => {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            lines.map(|(at, line)| (at + 1, serde_json::from_str(line))).collect()
        }
        _ => {
            let reason = "unsupported content type: send application/json or application/jsonl";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
    };
    let unreadable = |line: usize, error: &serde_json::Error| {
        let reason = format!("line {line}: {error}: none is recorded");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason).with("line", json!(line))
    };
    let parsed = values.into_iter().map(|(line, value)| {
        value.and_then(serde_json::from_value).map_err(|error| unreadable(line, &error))
    });
    parsed.collect()
}

/// The judgement as the caller may send it.
fn received(caller: &Caller, at: usize, judgement: Judgement) -> Result<FeedbackReceived, Problem> {
    let Judgement { round, comparison, annotator, verdict, is_unsafe, comment } = judgement;
    let own = caller.person.as_ref().map(ToString::to_string);
    let annotator = match (own, annotator) {
        (Some(own), None) => own,
        (Some(own), Some(named)) if own == named => own,
        // Judgements of another tool, which has annotators of its own.
        (Some(own), Some(named)) => format!("{own}/{named}"),
        (None, Some(named)) => named,
        (None, None) => {
            let line = at + 1;
            let reason = format!("line {line}: annotator is missing: none is recorded");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason).with("line", json!(line)));
        }
    };
    Ok(FeedbackReceived { round, comparison, annotator, verdict, is_unsafe, comment })
}

fn rejected(error: CommandError) -> Problem {
    let at_fault = if let CommandError::JudgementsRejected { line, reason, .. } = &error {
        Some((json!(line), json!(reason)))
    } else {
        None
    };
    let problem = problem_of(error);
    match at_fault {
        Some((line, reason)) => problem.with("line", line).with("reason", reason),
        None => problem,
    }
}
