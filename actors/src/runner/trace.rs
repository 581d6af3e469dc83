//! Traces: the context of a message becomes the parent of a span, and a span becomes the context of messages.
//! So an event and its consequences form one trace, across processes.
//!
//! The table of the pipeline says which steps begin a trace with each event: the prompt step and the round
//! step. The new trace links to the trace of its cause. Without tracing, contexts are empty, and messages
//! carry no context.

use std::collections::BTreeMap;

use dissent_domain::event::{NewEvent, Recorded, StepName};
use dissent_domain::id::ExperimentId;
use dissent_queues::{Broker, Delivery, MessageContext};
use opentelemetry::global::get_text_map_propagator;
use opentelemetry::propagation::{Extractor, Injector};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The span of a delivery to a step, from its arrival until it is settled.
pub(crate) fn of_delivery(step: StepName, delivery: &Delivery) -> Span {
    let Recorded { position, experiment, event, .. } = &delivery.event;
    let span = tracing::info_span!(
        parent: None,
        "delivery",
        otel.name = step.name(),
        otel.kind = "consumer",
        step = step.name(),
        experiment_id = %experiment,
        event_seq = position,
        event_type = event.event_type,
        message_id = %event.id,
        attempt = delivery.attempt,
        redelivered = delivery.redelivered,
    );
    continued(span, &delivery.context)
}

/// The span of a proposal, from its arrival at the journal until it is durable or rejected.
pub(crate) fn of_proposal(experiment: &ExperimentId, events: &[NewEvent], context: &MessageContext) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "journal",
        experiment_id = %experiment,
        events = events.len(),
        event_type = events.first().map(|event| event.event_type.as_str()),
    );
    continued(span, context)
}

/// The spans that begin a trace for each of these events; they last until the events are decided.
pub(crate) fn begin(broker: &dyn Broker, experiment: &ExperimentId, events: &[NewEvent]) -> Vec<Span> {
    events.iter().map(|event| beginning(broker, experiment, event)).collect()
}

fn beginning(broker: &dyn Broker, experiment: &ExperimentId, event: &NewEvent) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "beginning",
        otel.name = event.event_type,
        experiment_id = %experiment,
        message_id = %event.id,
    );
    span.follows_from(Span::current());
    let context = context_of(&span);
    if !context.is_empty() {
        broker.put_in_context(event.id, &context);
    }
    span
}

/// The context by which a message carries a span.
pub(crate) fn context_of(span: &Span) -> MessageContext {
    let mut carried = Carried(MessageContext::new());
    if !span.is_disabled() {
        get_text_map_propagator(|propagator| propagator.inject_context(&span.context(), &mut carried));
    }
    carried.0
}

/// A span that continues the trace of a message; a message without a context begins a trace.
fn continued(span: Span, context: &MessageContext) -> Span {
    if !context.is_empty() && !span.is_disabled() {
        let parent = get_text_map_propagator(|propagator| propagator.extract(&Carrier(context)));
        // Fails only where tracing is off.
        let _untraced = span.set_parent(parent);
    }
    span
}

struct Carrier<'a>(&'a BTreeMap<String, String>);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

struct Carried(BTreeMap<String, String>);

impl Injector for Carried {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` carries no information.
        if !value.is_empty() {
            self.0.insert(key.to_owned(), value);
        }
    }
}
