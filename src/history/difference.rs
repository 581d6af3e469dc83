//! Where two histories differ: in what order, in what, and by how much.
//!
//! Workers finish in any order, so events are matched by what they are about (the completions of a prompt in
//! a round, the third comparison, the judgement of an annotator), not by their place. The names of the
//! experiments are no difference, nor are the version of the program and what only an envelope says: times,
//! ids, actors.

use std::collections::{BTreeMap, HashMap};

use dissent_domain::event::{Event, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use serde::Serialize;
use serde_json::Value;

use super::overview::ExperimentHistory;

/// Fields of differing events that are reported for each kind.
const FIELDS_MAX: usize = 12;

/// A stream to compare.
pub(crate) struct Side<'a> {
    pub(crate) log: &'a dyn EventLog,
    pub(crate) experiment: ExperimentId,
}

/// What the comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// Whether everything but the order is the same.
    pub(crate) same: bool,
    /// Whether the order is, too.
    pub(crate) same_order: bool,
    /// Events at the beginning that are the same, in the same order.
    pub(crate) common: u64,
    /// The first place at which the streams part; none if they do not.
    pub(crate) parting: Option<Divergence>,
    /// The first event of A, in A's order, that B has not or has otherwise; none if there is none.
    pub(crate) first: Option<FirstDifference>,
    /// By kind of event, in order of name.
    pub(crate) kinds: BTreeMap<String, KindDifference>,
    pub(crate) state_hashes: [String; 2],
}

/// What each stream has where they part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Divergence {
    pub(crate) version: u64,
    /// None: the stream ends before.
    pub(crate) a: Option<String>,
    pub(crate) b: Option<String>,
}

/// An event that differs, or that one stream lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FirstDifference {
    /// Its position in the log of A, or of B if A has no such event.
    pub(crate) position: u64,
    pub(crate) subject: String,
    /// How it differs, for a person to read.
    pub(crate) what: String,
}

/// The events of one kind.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct KindDifference {
    pub(crate) same: u64,
    pub(crate) different: u64,
    pub(crate) only_a: u64,
    pub(crate) only_b: u64,
    /// Of the events that differ, by field: in how many events, and the largest difference of a number.
    pub(crate) fields: BTreeMap<String, FieldDifference>,
}

impl KindDifference {
    pub(crate) fn is_same(&self) -> bool {
        self.different + self.only_a + self.only_b == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct FieldDifference {
    pub(crate) events: u64,
    pub(crate) largest: Option<f64>,
}

/// One event of a stream, by what it is about.
struct EventSummary {
    position: u64,
    version: u64,
    kind: &'static str,
    hash: blake3::Hash,
}

/// The events of B that A has not met yet, by the hash of what they are about.
type Unmatched = HashMap<blake3::Hash, EventSummary>;

/// Compares two streams up to their ends.
///
/// # Errors
/// If one cannot be read, or has an event that this program does not know.
pub(crate) fn between(a: &Side<'_>, b: &Side<'_>) -> anyhow::Result<Difference> {
    let mut unmet = Unmatched::new();
    let mut order: Vec<blake3::Hash> = Vec::new();
    super::each(b.log, &b.experiment, None, &mut |recorded| {
        let (subject, event) = named(recorded)?;
        let hash = hash(&event)?;
        order.push(place_hash(&subject, hash));
        let kind = event.event_type().name();
        let met = EventSummary { position: recorded.position, version: recorded.version, kind, hash };
        unmet.insert(blake3::hash(subject.as_bytes()), met);
        Ok(())
    })?;
    let mut walk = Comparison { b, unmet, order, found: Findings::default() };
    super::each(a.log, &a.experiment, None, &mut |recorded| walk.next(recorded))?;
    walk.finish(a)
}

#[derive(Default)]
struct Findings {
    common: u64,
    seen: u64,
    parted: Option<(u64, Option<String>)>,
    first: Option<FirstDifference>,
    kinds: BTreeMap<String, KindDifference>,
}

/// A walk through A, with B at hand.
struct Comparison<'a> {
    b: &'a Side<'a>,
    unmet: Unmatched,
    order: Vec<blake3::Hash>,
    found: Findings,
}

impl Comparison<'_> {
    fn next(&mut self, recorded: &Recorded) -> anyhow::Result<()> {
        let (subject, event) = named(recorded)?;
        let hash = hash(&event)?;
        let found = &mut self.found;
        if found.parted.is_none() {
            let place = usize::try_from(found.seen)?;
            if self.order.get(place) == Some(&place_hash(&subject, hash)) {
                found.common += 1;
            } else {
                found.parted = Some((recorded.version, Some(subject.clone())));
            }
        }
        found.seen += 1;
        let kind = found.kinds.entry(event.event_type().name().to_owned()).or_default();
        let what = match self.unmet.remove(&blake3::hash(subject.as_bytes())) {
            Some(met) if met.hash == hash => {
                kind.same += 1;
                return Ok(());
            }
            Some(met) => {
                kind.different += 1;
                differing(self.b, &met, &event, kind)?
            }
            None => {
                kind.only_a += 1;
                "only A has it".to_owned()
            }
        };
        found.first.get_or_insert(FirstDifference { position: recorded.position, subject, what });
        Ok(())
    }

    fn finish(mut self, a: &Side<'_>) -> anyhow::Result<Difference> {
        for met in self.unmet.values() {
            self.found.kinds.entry(met.kind.to_owned()).or_default().only_b += 1;
        }
        let left = self.unmet.into_values().min_by_key(|met| met.version);
        if let Some(met) = left.filter(|_| self.found.first.is_none()) {
            let subject = subject_at(self.b, met.version)?.unwrap_or_default();
            let what = "only B has it".to_owned();
            self.found.first = Some(FirstDifference { position: met.position, subject, what });
        }
        let Findings { common, seen, parted, first, kinds } = self.found;
        let parted = parted.or_else(|| (self.order.len() as u64 > seen).then_some((seen + 1, None)));
        let parting = match parted {
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
    page.first().map(|recorded| Ok(named(recorded)?.0)).transpose()
}

/// What an event is about, and the event but for the experiment's name.
fn named(recorded: &Recorded) -> anyhow::Result<(String, Event)> {
    let mut event = recorded.decode()?;
    let name = || ExperimentId::new("experiment");
    if let Event::ExperimentStarted(e) = &mut event {
        e.plan.experiment = name()?;
        e.program = None;
    } else if let Event::ExperimentForked(e) = &mut event {
        e.plan.experiment = name()?;
    }
    Ok((subject(&event), event))
}

/// What an event is about: no stream has two events with the same subject.
fn subject(event: &Event) -> String {
    let about = match event {
        Event::ExperimentStarted(_) | Event::ExperimentFinished(_) => String::new(),
        Event::ExperimentForked(e) => format!(" after {} events", e.shared),
        Event::ExperimentCancelled(_) => String::new(),
        Event::ExperimentPaused(e) => format!(" pause {}", e.number),
        Event::ExperimentResumed(e) => format!(" pause {}", e.number),
        Event::RoundOpened(e) => format!(" round {}", e.round),
        Event::PromptAdmitted(e) => format!(" round {} prompt {}", e.round, e.prompt.prompt_id),
        Event::CompletionsSampled(e) => format!(" round {} prompt {}", e.round, e.prompt.prompt_id),
        Event::RewardsScored(e) => format!(" round {} prompt {}", e.round, e.prompt_id),
        Event::ConflictMeasured(e) => format!(" round {} prompt {}", e.round, e.prompt_id),
        Event::PromptSetAside(e) => format!(" round {} prompt {}", e.round, e.prompt_id),
        Event::PairSelected(e) => {
            format!(" round {} prompt {} answer {}", e.round, e.prompt_id, e.completion)
        }
        Event::RoundEvaluated(e) => format!(" round {}", e.round),
        Event::RoundClosed(e) => format!(" round {}", e.round),
        Event::FeedbackRequested(e) => format!(" round {} comparison {}", e.round, e.comparison),
        Event::FeedbackReceived(e) => {
            format!(" round {} comparison {} by {}", e.round, e.comparison, e.annotator)
        }
        Event::FeedbackSettled(e) => format!(" round {}", e.round),
        Event::TrainingRequested(e) => trained(e.round, e.stage.name(), e.attempt),
        Event::TrainingStarted(e) => trained(e.round, e.stage.name(), e.attempt),
        Event::TrainingProgressed(e) => {
            format!("{} sign {}", trained(e.round, e.stage.name(), e.attempt), e.sequence)
        }
        Event::TrainingLeaseExpired(e) => trained(e.round, e.stage.name(), e.attempt),
        Event::RewardModelRefined(e) => format!(" round {}", e.round),
        Event::PolicyTuned(e) => format!(" round {}", e.round),
        Event::EvaluationRequested(e) => format!(" {}", e.evaluation),
        Event::PolicyEvaluated(e) => format!(" {}", e.evaluation),
        Event::RewardHackingSuspected(e) => format!(" round {}", e.round),
        Event::StopDecided(e) => format!(" round {}", e.round),
    };
    format!("{}{about}", event.event_type().name())
}

fn trained(round: u32, stage: &str, attempt: u32) -> String {
    format!(" round {round} {stage} attempt {attempt}")
}

fn hash(event: &Event) -> anyhow::Result<blake3::Hash> {
    Ok(blake3::hash(&dissent_domain::event::encode(event)?))
}

fn place_hash(subject: &str, body: blake3::Hash) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(subject.as_bytes());
    hasher.update(body.as_bytes());
    hasher.finalize()
}

/// Counts the fields in which an event of A differs from that of B, and puts the first into words.
fn differing(
    b: &Side<'_>,
    met: &EventSummary,
    event: &Event,
    kind: &mut KindDifference,
) -> anyhow::Result<String> {
    let other = b.log.read_stream(&b.experiment, met.version - 1, 1)?;
    let Some(other) = other.first() else { anyhow::bail!("event {} of B is gone", met.position) };
    let (_, other) = named(other)?;
    let value = |event: &Event| event.serialize_body(serde_json::value::Serializer);
    let mut fields = BTreeMap::new();
    let mut first = None;
    compare("", &value(event)?, &value(&other)?, &mut fields, &mut first);
    for (field, largest) in fields {
        if kind.fields.len() >= FIELDS_MAX && !kind.fields.contains_key(&field) {
            continue;
        }
        let known = kind.fields.entry(field).or_default();
        known.events += 1;
        known.largest = match (known.largest, largest) {
            (Some(one), Some(other)) => Some(f64::max(one, other)),
            (one, other) => one.or(other),
        };
    }
    Ok(first.unwrap_or_else(|| "its bytes differ, what they say does not".to_owned()))
}

/// Collects the paths at which two values differ, items of a list under one path, with the largest difference
/// of numbers.
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
            let apart = a.as_f64().zip(b.as_f64()).map(|(a, b)| (a - b).abs());
            let known = fields.entry(path.to_owned()).or_insert(apart);
            *known = known.zip(apart).map(|(one, other)| one.max(other)).or(*known).or(apart);
            first.get_or_insert_with(|| format!("{path} is {} in A, {} in B", short(a), short(b)));
        }
    }
}

/// A value, cut to what a line holds.
fn short(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = crate::text::ascii_controls(value.to_string());
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(&text)),
        None => text,
    }
}
