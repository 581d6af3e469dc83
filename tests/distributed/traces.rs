//! Traces of a collector: the spans of one prompt form one trace across processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::fleet::Fleet;
use crate::node::Node;
use crate::support::required::required;
use crate::support::{Lab, Setup};
use crate::{TIME_LIMIT, fleet_plan};

const HEADER: (&str, &str) = ("x-tenant", "lab");

type Spans = Arc<Mutex<Vec<ReceivedSpan>>>;

/// A span, and the service that sent it.
struct ReceivedSpan {
    service: String,
    span: Span,
}

/// A collector that keeps the spans it receives.
struct Collector {
    url: String,
    spans: Spans,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start() -> Self {
        let spans = Spans::default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/traces", post(receive)).with_state(spans.clone());
        runtime.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, spans, _runtime: runtime }
    }
}

async fn receive(State(spans): State<Spans>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if headers.get(HEADER.0).is_none_or(|value| value != HEADER.1) {
        return StatusCode::FORBIDDEN;
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for of_service in request.resource_spans {
        let attributes = of_service.resource.unwrap_or_default().attributes;
        let service = text(&attributes, "service.name").unwrap_or_default();
        let received = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.lock().unwrap().extend(received.map(|span| ReceivedSpan { service: service.clone(), span }));
    }
    StatusCode::OK
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        _ => None,
    }
}

#[test]
fn the_spans_of_a_prompt_are_one_trace_across_processes() {
    let setup = Setup::default();
    let Some(lab) = Lab::new(&setup) else { return };
    let Some(node) = required(Node::new()) else { return };
    let collector = Collector::start();
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "traced", &["conflict", "generation,reward"]));
    fleet.set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    fleet.set("OTEL_EXPORTER_OTLP_HEADERS", &format!("{}={}", HEADER.0, HEADER.1));
    fleet.start_all();
    fleet.wait_for_all(TIME_LIMIT);
    let spans = collector.spans.lock().unwrap();
    let by_id: BTreeMap<&[u8], &ReceivedSpan> =
        spans.iter().map(|received| (&received.span.span_id[..], received)).collect();
    let measured = spans.iter().filter(|received| received.span.name == "conflict");
    let mut prompts = 0;
    for conflict in measured {
        let mut path = Vec::new();
        let mut at = Some(conflict);
        while let Some(received) = at {
            assert_eq!(received.span.trace_id, conflict.span.trace_id, "{}", received.span.name);
            path.insert(0, (received.span.name.as_str(), received.service.as_str()));
            assert!(!received.span.parent_span_id.is_empty() || received.span.name == "prompt.admitted");
            at = by_id.get(&received.span.parent_span_id[..]).copied();
        }
        let expected = [
            ("prompt.admitted", "dissent-serve"),
            ("generation", "dissent-worker"),
            ("reward", "dissent-worker"),
            ("conflict", "dissent-serve"),
        ];
        assert_eq!(path, expected);
        prompts += 1;
    }
    assert_eq!(prompts, setup.prompts);
    let traces: std::collections::BTreeSet<&[u8]> = spans
        .iter()
        .filter(|received| received.span.name == "conflict")
        .map(|received| &received.span.trace_id[..])
        .collect();
    assert_eq!(traces.len(), prompts as usize, "each prompt has its own trace");
}
