//! The format of events on disk.
//!
//! An event is a record, a byte string. Records of one commit that fit into one value of at most
//! [`VALUE_BYTES_MAX`] are stored one after the other, as a block. A larger record is a block of its own,
//! split into parts of that size. Each part is a frame:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | format, 1 |
//! | 4 | length of the payload |
//! | 4 | crc32c over the key, the format, the length and the payload |
//! | … | payload |
//!
//! The crc covers the key, so that an intact frame under the wrong key is detected. A record has these
//! fields, with little-endian numbers:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of the record |
//! | 8 | version |
//! | 8 | time |
//! | 16 | id |
//! | 1 or 17 | causation: 0, or 1 and the id |
//! | 2 | schema version |
//! | … | experiment, event type and actor, each a u16 length and the text |
//! | … | body |

use std::borrow::Cow;

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;
use uuid::Uuid;

use super::error::{damaged, damaged_because};
use super::keys;
use crate::limits::{BODY_BYTES_MAX, CURSOR_BYTES_MAX};

/// Largest value given to sled. A page briefly holds up to 17 values. With their keys they must stay below a
/// quarter of a segment (512 KiB). A larger page is moved to a file that sled never syncs.
pub(super) const VALUE_BYTES_MAX: usize = 7_500;
/// Bytes of a frame before its payload.
const FRAME_BYTES: usize = 9;
pub(super) const PAYLOAD_BYTES_MAX: usize = VALUE_BYTES_MAX - FRAME_BYTES;
/// Larger than any record: the fields before the body have a few kilobytes at most.
const RECORD_BYTES_MAX: usize = BODY_BYTES_MAX + (16 << 10);
const FORMAT: u8 = 1;

const _: () = assert!(CURSOR_BYTES_MAX + FRAME_BYTES <= VALUE_BYTES_MAX, "cursors are values, too");

/// A borrowed event of the log, for scans without copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventView<'a> {
    /// Place in the whole log, from 1.
    pub position: u64,
    /// Name of the experiment.
    pub experiment: &'a str,
    /// Place in the experiment's stream, from 1.
    pub version: u64,
    /// Id of the event.
    pub id: EventId,
    /// The event that caused it, if any.
    pub causation: Option<EventId>,
    /// The step that proposed it.
    pub actor: &'a str,
    /// Wall-clock time of the proposal, microseconds since 1970 UTC.
    pub time_us: u64,
    /// Name of its type.
    pub event_type: &'a str,
    /// Schema version of its body.
    pub schema_version: u16,
    /// MessagePack.
    pub body: &'a [u8],
}

impl EventView<'_> {
    /// Copies it into an owned event.
    ///
    /// # Errors
    /// If the experiment's name is not one that this program writes.
    pub fn to_recorded(&self) -> Result<Recorded, LogError> {
        let experiment = ExperimentId::new(self.experiment)
            .map_err(|error| damaged_because(self.position, "invalid experiment name", error))?;
        Ok(Recorded {
            position: self.position,
            experiment,
            version: self.version,
            event: NewEvent {
                id: self.id,
                causation: self.causation,
                actor: self.actor.to_owned(),
                time_us: self.time_us,
                event_type: self.event_type.to_owned(),
                schema_version: self.schema_version,
                body: self.body.to_vec(),
            },
        })
    }
}

/// A key and a framed value.
type Part = ([u8; keys::NUMBERED_BYTES], Vec<u8>);

/// Encodes events with consecutive positions into keys and values.
///
/// # Errors
/// If an event exceeds the limits of the format.
pub(super) fn encode(events: &[Recorded]) -> Result<Vec<Part>, LogError> {
    let mut parts = Vec::new();
    let mut block = Vec::new();
    let mut first = 0;
    for recorded in events {
        let record = encode_record(recorded)?;
        if !block.is_empty() && block.len() + record.len() > PAYLOAD_BYTES_MAX {
            cut(first, &std::mem::take(&mut block), &mut parts)?;
        }
        if block.is_empty() {
            first = recorded.position;
        }
        block.extend_from_slice(&record);
    }
    cut(first, &block, &mut parts)?;
    Ok(parts)
}

/// Splits a block into its parts: one, unless it is a large record.
fn cut(first: u64, block: &[u8], parts: &mut Vec<Part>) -> Result<(), LogError> {
    for (index, payload) in block.chunks(PAYLOAD_BYTES_MAX).enumerate() {
        let part = u16::try_from(index)
            .map_err(|_| LogError::Invalid(format!("event {first} is too large to be recorded")))?;
        let key = keys::event(first, part);
        parts.push((key, frame(&key, payload)));
    }
    Ok(())
}

fn encode_record(recorded: &Recorded) -> Result<Vec<u8>, LogError> {
    let event = &recorded.event;
    let mut out = Vec::with_capacity(event.body.len() + 256);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&recorded.version.to_le_bytes());
    out.extend_from_slice(&event.time_us.to_le_bytes());
    out.extend_from_slice(event.id.0.as_bytes());
    out.push(u8::from(event.causation.is_some()));
    if let Some(cause) = event.causation {
        out.extend_from_slice(cause.0.as_bytes());
    }
    out.extend_from_slice(&event.schema_version.to_le_bytes());
    for text in [recorded.experiment.as_str(), &event.event_type, &event.actor] {
        let length = u16::try_from(text.len()).map_err(|_| too_large(recorded))?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&event.body);
    if out.len() > RECORD_BYTES_MAX {
        return Err(too_large(recorded));
    }
    let length = u32::try_from(out.len()).map_err(|_| too_large(recorded))?;
    out[..4].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

fn too_large(recorded: &Recorded) -> LogError {
    LogError::Invalid(format!("event {} is too large to be recorded", recorded.event.id))
}

/// Frames a payload under `key`, with a checksum.
pub(super) fn frame(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES + payload.len());
    out.push(FORMAT);
    // A payload has at most 7,500 bytes, so its length fits. Otherwise reading it back would fail.
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    let crc = frame_crc(key, &out, payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// Returns the payload of a framed value, or a description of the damage.
pub(super) fn unframe<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let (head, payload) =
        value.split_first_chunk::<FRAME_BYTES>().ok_or("the value is shorter than a frame")?;
    let [format, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    if format != FORMAT {
        return Err(format!("the format is {format} instead of {FORMAT}: damaged or from a newer version"));
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length != payload.len() {
        return Err(format!("{} bytes instead of {length}", payload.len()));
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != frame_crc(key, &head[..5], payload) {
        return Err("the checksum does not match".to_owned());
    }
    Ok(payload)
}

fn frame_crc(key: &[u8], head: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), head), payload)
}

/// Returns the block at `first` from its first payload; `rest` returns the payloads of later parts.
pub(super) fn assemble<'a>(
    first: u64,
    payload: &'a [u8],
    mut rest: impl FnMut(u16) -> Result<Vec<u8>, LogError>,
) -> Result<Cow<'a, [u8]>, LogError> {
    let length = record_length(payload).ok_or_else(|| damaged(first, "the record is cut short"))?;
    if length > RECORD_BYTES_MAX {
        return Err(damaged(first, &format!("the record claims {length} bytes")));
    }
    if length <= payload.len() {
        return Ok(Cow::Borrowed(payload));
    }
    let mut record = payload.to_vec();
    let mut part = 0_u16;
    while record.len() < length {
        part = part.checked_add(1).ok_or_else(|| damaged(first, "the record has too many parts"))?;
        record.extend_from_slice(&rest(part)?);
    }
    if record.len() != length {
        let found = record.len();
        return Err(damaged(first, &format!("the record has {found} bytes instead of {length}")));
    }
    Ok(Cow::Owned(record))
}

fn record_length(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)
}

/// Returns the records of a block, each with its position. An error is the last item.
pub(super) fn records(first: u64, block: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), LogError>> {
    let mut rest = block;
    (first..).map_while(move |position| {
        if rest.is_empty() {
            return None;
        }
        let length = record_length(rest).filter(|length| *length >= 4);
        let Some((record, behind)) = length.and_then(|length| rest.split_at_checked(length)) else {
            rest = &[];
            return Some(Err(damaged(position, "the record is cut short")));
        };
        rest = behind;
        Some(Ok((position, record)))
    })
}

/// Decodes a record.
pub(super) fn decode(position: u64, record: &[u8]) -> Result<EventView<'_>, LogError> {
    view(position, record)
        .ok_or_else(|| damaged(position, "the record has a valid checksum but cannot be decoded"))
}

fn view(position: u64, record: &[u8]) -> Option<EventView<'_>> {
    let mut input = record.get(4..)?;
    let version = u64::from_le_bytes(take(&mut input)?);
    let time_us = u64::from_le_bytes(take(&mut input)?);
    let id = EventId(Uuid::from_bytes(take(&mut input)?));
    let causation = match take::<1>(&mut input)? {
        [0] => None,
        [1] => Some(EventId(Uuid::from_bytes(take(&mut input)?))),
        _ => return None,
    };
    let schema_version = u16::from_le_bytes(take(&mut input)?);
    let experiment = text(&mut input)?;
    let event_type = text(&mut input)?;
    let actor = text(&mut input)?;
    Some(EventView {
        position,
        experiment,
        version,
        id,
        causation,
        actor,
        time_us,
        event_type,
        schema_version,
        body: input,
    })
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

fn text<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(u16::from_le_bytes(take(input)?));
    let (head, tail) = input.split_at_checked(length)?;
    *input = tail;
    std::str::from_utf8(head).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(body: Vec<u8>) -> Recorded {
        Recorded {
            position: 258,
            experiment: ExperimentId::new("exp").unwrap(),
            version: 3,
            event: NewEvent {
                id: EventId(Uuid::from_u128(0x11)),
                causation: Some(EventId(Uuid::from_u128(0x22))),
                actor: "actor".to_owned(),
                time_us: 0x0102_0304,
                event_type: "type.fact".to_owned(),
                schema_version: 7,
                body,
            },
        }
    }

    /// Returns the events of a block.
    fn decode_parts(parts: &[Part]) -> Result<Vec<Recorded>, LogError> {
        let payload = |index: usize| {
            let (key, value) = parts.get(index).ok_or_else(|| damaged(258, "no more parts"))?;
            unframe(key, value).map_err(|what| damaged(258, &what))
        };
        let block = assemble(258, payload(0)?, |part| payload(usize::from(part)).map(<[u8]>::to_vec))?;
        records(258, &block)
            .map(|record| record.and_then(|(position, record)| decode(position, record)?.to_recorded()))
            .collect()
    }

    const GOLDEN: &str = "0150000000bd5446d0\
        5000000003000000000000000403020100000000\
        00000000000000000000000000000011\
        0100000000000000000000000000000022\
        070003006578700900747970652e6661637405006163746f72aabb";

    /// These bytes are on users' disks. A change needs a new format number and a reader for both.
    #[test]
    fn format_1_stays_readable() {
        let parts = encode(&[recorded(vec![0xAA, 0xBB])]).unwrap();
        let hex: String = parts[0].1.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(parts[0].0, *b"e\0\0\0\0\0\0\x01\x02\0\0");
        assert_eq!(hex, GOLDEN);
        assert_eq!(decode_parts(&parts).unwrap(), [recorded(vec![0xAA, 0xBB])]);
    }

    #[test]
    fn a_claimed_length_is_not_trusted() {
        let mut payload = u32::MAX.to_le_bytes().to_vec();
        payload.extend_from_slice(&[0; 60]);
        assemble(1, &payload, |_| panic!("nothing may be fetched for it")).unwrap_err();
        let short = [100, 0, 0, 0, 1, 2];
        assemble(1, &short, |_| Err(damaged(1, "gone"))).unwrap_err();
        assemble(1, &short, |_| Ok(vec![0; 200])).unwrap_err();
    }

    proptest! {
        #[test]
        fn encoded_records_decode(body in prop::collection::vec(any::<u8>(), 0..40_000)) {
            let parts = encode(&[recorded(body.clone())]).unwrap();
            prop_assert!(parts.iter().all(|(_, value)| value.len() <= VALUE_BYTES_MAX));
            prop_assert_eq!(decode_parts(&parts).unwrap(), vec![recorded(body)]);
        }

        #[test]
        fn records_that_fit_share_a_value(lengths in prop::collection::vec(0..5000_usize, 1..40)) {
            let events: Vec<_> = (258..)
                .zip(&lengths)
                .map(|(position, &length)| Recorded { position, ..recorded(vec![1; length]) })
                .collect();
            let parts = encode(&events).unwrap();
            let mut read = Vec::new();
            for (key, value) in &parts {
                prop_assert!(value.len() <= VALUE_BYTES_MAX);
                let (first, _) = keys::parse_event(key).unwrap();
                prop_assert_eq!(first, 258 + read.len() as u64);
                let block = unframe(key, value).unwrap();
                read.extend(records(first, block).map(|record| {
                    let (position, record) = record.unwrap();
                    decode(position, record).unwrap().to_recorded().unwrap()
                }));
            }
            prop_assert_eq!(&read, &events);
            let bytes: usize = lengths.iter().sum();
            prop_assert!(parts.len() <= 1 + 2 * (bytes + 200 * lengths.len()) / PAYLOAD_BYTES_MAX);
        }

        #[test]
        fn decoding_any_bytes_never_panics_and_yields_a_bounded_number_of_records(bytes: Vec<u8>) {
            prop_assert!(unframe(b"key", &bytes).is_err());
            let _outcome = decode(1, &bytes);
            let most = bytes.len() / 4 + 1;
            prop_assert!(records(1, &bytes).count() <= most);
        }

        #[test]
        fn every_changed_bit_is_detected(at in 0..130_usize, bit in 0..8_u32) {
            let mut parts = encode(&[recorded(vec![5; 60])]).unwrap();
            if let Some(byte) = parts[0].1.get_mut(at) {
                *byte ^= 1_u8 << bit;
                prop_assert!(decode_parts(&parts).is_err());
            }
        }
    }
}
