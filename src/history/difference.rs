//! Compares two histories: their order, their events, and the size of each difference.
//!
//! Workers finish in any order, so events are matched by subject and not by version. A subject is, for
//! example, the completions of a prompt in a round, or the judgement of an annotator. The comparison ignores
//! the names of the experiments, the version of the program, and the envelopes with their times, ids and
//! actors.

use std::collections::{BTreeMap, HashMap};

use dissent_domain::event::{
    Event, ExperimentEvent, FeedbackEvent, OperatorEvent, Recorded, RoundEvent, TrainingEvent,
};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use serde::Serialize;
use serde_json::Value;

use super::overview::ExperimentHistory;

/// Limit of the reported fields of a kind of event.
const FIELDS_MAX: usize = 12;

/// A stream to compare.
pub(crate) struct Side<'a> {
    pub(crate) log: &'a dyn EventLog,
    pub(crate) experiment: ExperimentId,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// Whether both streams have the same events, in any order.
    pub(crate) same: bool,
    /// Whether both streams have the same events in the same order.
    pub(crate) same_order: bool,
    /// Equal events at the beginning of both streams.
    pub(crate) common: u64,
    /// The first version at which the streams diverge; `None` if they do not.
    pub(crate) parting: Option<Divergence>,
    /// The first event of A that B lacks or that differs in B; if A has no such event, the first one of B.
    pub(crate) first: Option<FirstDifference>,
    /// Differences by kind of event, sorted by name.
    pub(crate) kinds: BTreeMap<String, KindDifference>,
    pub(crate) state_hashes: [String; 2],
}

/// The two events at the version where the streams diverge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Divergence {
    pub(crate) version: u64,
    /// The subject of the event of A; `None` if the stream ends before.
    pub(crate) a: Option<String>,
    /// The subject of the event of B; `None` if the stream ends before.
    pub(crate) b: Option<String>,
}

/// An event that differs, or that one stream lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FirstDifference {
    /// The position in the log of A, or of B if A lacks the event.
    pub(crate) position: u64,
    pub(crate) subject: String,
    /// The difference as text.
    pub(crate) what: String,
}

/// The counts of one kind of event.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct KindDifference {
    pub(crate) same: u64,
    pub(crate) different: u64,
    pub(crate) only_a: u64,
    pub(crate) only_b: u64,
    /// The differing fields of `different` events.
    pub(crate) fields: BTreeMap<String, FieldDifference>,
}

impl KindDifference {
    pub(crate) fn is_same(&self) -> bool {
        self.different + self.only_a + self.only_b == 0
    }
}

/// A differing field.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct FieldDifference {
    /// Events in which the field differs.
    pub(crate) events: u64,
    /// The largest absolute difference; `None` if the field is not a number.
    pub(crate) largest: Option<f64>,
}

/// One event of a stream, without its body.
struct EventSummary {
    position: u64,
    version: u64,
    kind: &'static str,
    hash: blake3::Hash,
}

/// The events of B without a match in A, by the hash of their subject.
type Unmatched = HashMap<blake3::Hash, EventSummary>;

/// Compares two streams up to their ends.
///
/// # Errors
/// If a log cannot be read, or an event cannot be decoded.
pub(crate) fn between(a: &Side<'_>, b: &Side<'_>) -> anyhow::Result<Difference> {
    let mut unmatched = Unmatched::new();
    let mut order: Vec<blake3::Hash> = Vec::new();
    super::each(b.log, &b.experiment, None, &mut |recorded| {
        let (subject, event) = subject_and_event(recorded)?;
        let hash = hash(&event)?;
        order.push(subject_and_body_hash(&subject, hash));
        let kind = event.event_type().name();
        let summary = EventSummary { position: recorded.position, version: recorded.version, kind, hash };
        unmatched.insert(blake3::hash(subject.as_bytes()), summary);
        Ok(())
    })?;
    let mut comparison = Comparison { b, unmatched, order, found: Findings::default() };
    super::each(a.log, &a.experiment, None, &mut |recorded| comparison.next(recorded))?;
    comparison.finish(a)
}

#[derive(Default)]
struct Findings {
    common: u64,
    /// Events of A that are compared.
    compared: u64,
    /// The version at which the streams diverge, and the subject there in A.
    divergence: Option<(u64, Option<String>)>,
    first: Option<FirstDifference>,
    kinds: BTreeMap<String, KindDifference>,
}

/// Compares the events of A, one by one, with those of B.
struct Comparison<'a> {
    b: &'a Side<'a>,
    unmatched: Unmatched,
    /// Hashes of the events of B, in order.
    order: Vec<blake3::Hash>,
    found: Findings,
}

impl Comparison<'_> {
    fn next(&mut self, recorded: &Recorded) -> anyhow::Result<()> {
        let (subject, event) = subject_and_event(recorded)?;
        let hash = hash(&event)?;
        let found = &mut self.found;
        if found.divergence.is_none() {
            let index = usize::try_from(found.compared)?;
            if self.order.get(index) == Some(&subject_and_body_hash(&subject, hash)) {
                found.common += 1;
            } else {
                found.divergence = Some((recorded.version, Some(subject.clone())));
            }
        }
        found.compared += 1;
        let kind = found.kinds.entry(event.event_type().name().to_owned()).or_default();
        let what = match self.unmatched.remove(&blake3::hash(subject.as_bytes())) {
            Some(other) if other.hash == hash => {
                kind.same += 1;
                return Ok(());
            }
            Some(other) => {
                kind.different += 1;
                count_fields(self.b, &other, &event, kind)?
            }
            None => {
                kind.only_a += 1;
                "missing in B".to_owned()
            }
        };
        found.first.get_or_insert(FirstDifference { position: recorded.position, subject, what });
        Ok(())
    }

    fn finish(mut self, a: &Side<'_>) -> anyhow::Result<Difference> {
        for unmatched in self.unmatched.values() {
            self.found.kinds.entry(unmatched.kind.to_owned()).or_default().only_b += 1;
        }
        let first_unmatched = self.unmatched.into_values().min_by_key(|event| event.version);
        if let Some(event) = first_unmatched.filter(|_| self.found.first.is_none()) {
            let subject = subject_at(self.b, event.version)?.unwrap_or_default();
            let what = "missing in A".to_owned();
            self.found.first = Some(FirstDifference { position: event.position, subject, what });
        }
        let Findings { common, compared, divergence, first, kinds } = self.found;
        let b_is_longer = self.order.len() as u64 > compared;
        let divergence = divergence.or_else(|| b_is_longer.then_some((compared + 1, None)));
        let parting = match divergence {
            Some((version, in_a)) => Some(Divergence { version, a: in_a, b: subject_at(self.b, version)? }),
            None => None,
        };
        let state = |side: &Side<'_>| -> anyhow::Result<String> {
            Ok(ExperimentHistory::read(side.log, &side.experiment, None)?.experiment().state_hash())
        };
        Ok(Difference {
            same: first.is_none(),
            same_order: parting.is_none(),
            common,
            parting,
            first,
            kinds,
            state_hashes: [state(a)?, state(self.b)?],
        })
    }
}

fn subject_at(side: &Side<'_>, version: u64) -> anyhow::Result<Option<String>> {
    let page = side.log.read_stream(&side.experiment, version.saturating_sub(1), 1)?;
    page.first().map(|recorded| Ok(subject_and_event(recorded)?.0)).transpose()
}

/// Returns the subject of an event, and the event without the experiment's name and the program's version.
fn subject_and_event(recorded: &Recorded) -> anyhow::Result<(String, Event)> {
    let mut event = recorded.decode()?;
    let name = || ExperimentId::new("experiment");
    if let Event::Experiment(e) = &mut event {
        match e {
            ExperimentEvent::Started(e) => {
                e.plan.experiment = name()?;
                e.program = None;
            }
            ExperimentEvent::Forked(e) => e.plan.experiment = name()?,
            ExperimentEvent::Finished(_) => {}
        }
    }
    Ok((subject(&event), event))
}

/// Returns the subject of an event. No stream has two events with the same subject.
fn subject(event: &Event) -> String {
    let detail = match event {
        Event::Experiment(e) => match e {
            ExperimentEvent::Forked(e) => format!(" after {} events", e.shared),
            ExperimentEvent::Started(_) | ExperimentEvent::Finished(_) => String::new(),
        },
        Event::Operator(e) => match e {
            OperatorEvent::Paused(e) => format!(" pause {}", e.number),
            OperatorEvent::Resumed(e) => format!(" pause {}", e.number),
            OperatorEvent::Cancelled(_) => String::new(),
        },
        Event::Round(RoundEvent::PairSelected(e)) => {
            format!(" round {} prompt {} completion {}", e.round, e.prompt_id, e.completion)
        }
        Event::Round(e) => format!(" round {}", e.round()),
        Event::Prompt(e) => format!(" round {} prompt {}", e.round(), e.prompt_id()),
        Event::Feedback(e) => match e {
            FeedbackEvent::Requested(e) => format!(" round {} comparison {}", e.round, e.comparison),
            FeedbackEvent::Received(e) => {
                format!(" round {} comparison {} by {}", e.round, e.comparison, e.annotator)
            }
            FeedbackEvent::Settled(e) => format!(" round {}", e.round),
        },
        Event::Training(e) => training_subject(e),
        Event::Evaluation(e) => format!(" {}", e.evaluation()),
    };
    format!("{}{detail}", event.event_type().name())
}

fn training_subject(event: &TrainingEvent) -> String {
    match event {
        TrainingEvent::Requested(e) => attempt(e.round, e.stage.name(), e.attempt),
        TrainingEvent::Started(e) => attempt(e.round, e.stage.name(), e.attempt),
        TrainingEvent::Progressed(e) => {
            format!("{} heartbeat {}", attempt(e.round, e.stage.name(), e.attempt), e.sequence)
        }
        TrainingEvent::LeaseExpired(e) => attempt(e.round, e.stage.name(), e.attempt),
        TrainingEvent::RewardModelRefined(e) => format!(" round {}", e.round),
        TrainingEvent::PolicyTuned(e) => format!(" round {}", e.round),
    }
}

fn attempt(round: u32, stage: &str, attempt: u32) -> String {
    format!(" round {round} {stage} attempt {attempt}")
}

fn hash(event: &Event) -> anyhow::Result<blake3::Hash> {
    Ok(blake3::hash(&dissent_domain::event::encode(event)?))
}

fn subject_and_body_hash(subject: &str, body: blake3::Hash) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(subject.as_bytes());
    hasher.update(body.as_bytes());
    hasher.finalize()
}

/// Counts the fields in which an event of A differs from that of B. Returns the first difference as text.
fn count_fields(
    b: &Side<'_>,
    summary: &EventSummary,
    event: &Event,
    kind: &mut KindDifference,
) -> anyhow::Result<String> {
    let other = b.log.read_stream(&b.experiment, summary.version - 1, 1)?;
    let Some(other) = other.first() else {
        anyhow::bail!("event {} of B disappeared during the comparison: compare again", summary.position)
    };
    let (_, other) = subject_and_event(other)?;
    let value = |event: &Event| event.serialize_body(serde_json::value::Serializer);
    let mut fields = BTreeMap::new();
    let mut first = None;
    compare("", &value(event)?, &value(&other)?, &mut fields, &mut first);
    for (field, largest) in fields {
        if kind.fields.len() >= FIELDS_MAX && !kind.fields.contains_key(&field) {
            continue;
        }
        let counted = kind.fields.entry(field).or_default();
        counted.events += 1;
        counted.largest = match (counted.largest, largest) {
            (Some(one), Some(other)) => Some(f64::max(one, other)),
            (one, other) => one.or(other),
        };
    }
    Ok(first.unwrap_or_else(|| "different bytes of the same content".to_owned()))
}

/// Collects the paths at which two values differ, with the largest difference of numbers. All items of a list
/// share one path.
fn compare(
    path: &str,
    a: &Value,
    b: &Value,
    fields: &mut BTreeMap<String, Option<f64>>,
    first: &mut Option<String>,
) {
    if a == b {
        return;
    }
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(added) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of = |members: &serde_json::Map<_, _>| members.get(name).unwrap_or(&Value::Null).clone();
                compare(&path, &of(a), &of(b), fields, first);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                compare(&format!("{path}[]"), a, b, fields, first);
            }
        }
        _ => {
            let difference = a.as_f64().zip(b.as_f64()).map(|(a, b)| (a - b).abs());
            let largest = fields.entry(path.to_owned()).or_insert(difference);
            *largest = largest.zip(difference).map(|(one, other)| one.max(other)).or(*largest).or(difference);
            first.get_or_insert_with(|| format!("{path} is {} in A, {} in B", shortened(a), shortened(b)));
        }
    }
}

/// Returns a value, cut off at 60 characters.
fn shortened(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = crate::text::ascii_controls(value.to_string());
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(&text)),
        None => text,
    }
}
