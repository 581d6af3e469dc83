//! Traces: the context of a message becomes the parent of a span, and a span the context of messages, so that what comes of
//! one event is one trace, whichever processes do it.
//!
//! A trace begins with each thing that goes its own way from there: a prompt, and whatever the coordinator concludes. It is
//! linked to what it came of. Where nobody traces, contexts are empty, and nothing is carried.

use std::collections::BTreeMap;

use dissent_domain::event::{NewEvent, Recorded, StepName};
use dissent_domain::id::ExperimentId;
use dissent_queues::{Broker, Delivery, MessageContext};
use opentelemetry::global::get_text_map_propagator;
use opentelemetry::propagation::{Extractor, Injector};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The span of a delivery in a step's hands, from its arrival until it is settled.
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

/// The span of a proposal in the journal's hands, until it is durable or rejected.
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

/// The spans with which the traces of these events begin; they last until the events are decided. None where a step's events
/// belong to the trace of what it worked on.
pub(crate) fn begin(
    broker: &dyn Broker,
    experiment: &ExperimentId,
    step: StepName,
    events: &[NewEvent],
) -> Vec<Span> {
    let begins = match step {
        StepName::Prompt | StepName::Round => true,
        StepName::Generation
        | StepName::Reward
        | StepName::Conflict
        | StepName::Feedback
        | StepName::Training
        | StepName::Evaluation => false,
    };
    let events = if begins { events } else { &[] };
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

/// What a message carries of a span.
pub(crate) fn context_of(span: &Span) -> MessageContext {
    let mut carried = Carried(MessageContext::new());
    if !span.is_disabled() {
        get_text_map_propagator(|propagator| propagator.inject_context(&span.context(), &mut carried));
    }
    carried.0
}

/// A span that goes on with what a message carried; one that carried nothing begins a trace.
fn continued(span: Span, context: &MessageContext) -> Span {
    if !context.is_empty() && !span.is_disabled() {
        let parent = get_text_map_propagator(|propagator| propagator.extract(&Carrier(context)));
        // Where nobody traces, there is no parent to be had.
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
        // An empty `tracestate` says nothing.
        if !value.is_empty() {
            self.0.insert(key.to_owned(), value);
        }
    }
}
