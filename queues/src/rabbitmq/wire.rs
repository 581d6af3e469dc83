//! The format of messages: a format byte, a checksum, and MessagePack. Received bytes are not trusted.
//! Decoding never panics and allocates at most the message's length.

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::BrokerError;
use crate::proposal::{PROPOSAL_EVENTS_MAX, Proposal};

/// The first byte of every message.
const FORMAT: u8 = 1;
/// The format byte and the checksum.
const HEAD_BYTES: usize = 5;
/// Longest name of an actor or an event type, in bytes.
const NAME_BYTES_MAX: usize = 1024;

#[derive(Serialize, Deserialize)]
struct WireEvent<'a> {
    id: Uuid,
    causation: Option<Uuid>,
    #[serde(borrow)]
    actor: &'a str,
    time_us: u64,
    #[serde(borrow)]
    event_type: &'a str,
    schema_version: u16,
    #[serde(borrow, with = "serde_bytes")]
    body: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct WireRecorded<'a> {
    position: u64,
    #[serde(borrow)]
    experiment: &'a str,
    version: u64,
    #[serde(borrow)]
    event: WireEvent<'a>,
}

#[derive(Serialize, Deserialize)]
struct WireProposal<'a> {
    #[serde(borrow)]
    experiment: &'a str,
    cause: Option<Uuid>,
    #[serde(borrow)]
    events: Vec<WireEvent<'a>>,
}

impl<'a> WireEvent<'a> {
    fn of(event: &'a NewEvent) -> Self {
        Self {
            id: event.id.0,
            causation: event.causation.map(|id| id.0),
            actor: &event.actor,
            time_us: event.time_us,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            body: &event.body,
        }
    }

    fn into_event(self) -> Result<NewEvent, String> {
        for (what, name) in [("actor", self.actor), ("event type", self.event_type)] {
            if name.len() > NAME_BYTES_MAX {
                return Err(format!("the {what} has {} bytes, the limit is {NAME_BYTES_MAX}", name.len()));
            }
        }
        Ok(NewEvent {
            id: EventId(self.id),
            causation: self.causation.map(EventId),
            actor: self.actor.to_owned(),
            time_us: self.time_us,
            event_type: self.event_type.to_owned(),
            schema_version: self.schema_version,
            body: self.body.to_vec(),
        })
    }
}

/// Encodes the body of an event's message.
pub(super) fn encode_event(event: &Recorded) -> Result<Vec<u8>, BrokerError> {
    let encoded = sealed(&WireRecorded {
        position: event.position,
        experiment: event.experiment.as_str(),
        version: event.version,
        event: WireEvent::of(&event.event),
    });
    encoded.map_err(|error| BrokerError::encode("an event", error))
}

/// Decodes an event from a message of at most `bytes_max`.
pub(super) fn decode_event(message: &[u8], bytes_max: usize) -> Result<Recorded, String> {
    let wire: WireRecorded<'_> = unsealed(message, bytes_max)?;
    if wire.position == 0 || wire.version == 0 {
        return Err(format!(
            "position {} or version {} is invalid: both begin at 1",
            wire.position, wire.version
        ));
    }
    Ok(Recorded {
        position: wire.position,
        experiment: experiment(wire.experiment)?,
        version: wire.version,
        event: wire.event.into_event()?,
    })
}

/// Encodes the body of a proposal's message.
pub(super) fn encode_proposal(proposal: &Proposal) -> Result<Vec<u8>, BrokerError> {
    let encoded = sealed(&WireProposal {
        experiment: proposal.experiment.as_str(),
        cause: proposal.cause.map(|id| id.0),
        events: proposal.events.iter().map(WireEvent::of).collect(),
    });
    encoded.map_err(|error| BrokerError::encode("a proposal", error))
}

/// Decodes a proposal from a message of at most `bytes_max`.
pub(super) fn decode_proposal(message: &[u8], bytes_max: usize) -> Result<Proposal, String> {
    let wire: WireProposal<'_> = unsealed(message, bytes_max)?;
    if wire.events.is_empty() || wire.events.len() > PROPOSAL_EVENTS_MAX {
        return Err(format!(
            "the proposal has {} events, the limits are 1 and {PROPOSAL_EVENTS_MAX}",
            wire.events.len()
        ));
    }
    Ok(Proposal {
        experiment: experiment(wire.experiment)?,
        cause: wire.cause.map(EventId),
        events: wire.events.into_iter().map(WireEvent::into_event).collect::<Result<_, _>>()?,
    })
}

fn experiment(name: &str) -> Result<ExperimentId, String> {
    ExperimentId::new(name).map_err(|error| error.to_string())
}

fn sealed(content: &impl Serialize) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut message = vec![FORMAT, 0, 0, 0, 0];
    rmp_serde::encode::write(&mut message, content)?;
    let checksum = crc32c::crc32c(&message[HEAD_BYTES..]).to_le_bytes();
    message[1..HEAD_BYTES].copy_from_slice(&checksum);
    Ok(message)
}

fn unsealed<'a, T: Deserialize<'a>>(message: &'a [u8], bytes_max: usize) -> Result<T, String> {
    if message.len() > bytes_max {
        return Err(format!("the message has {} bytes, the limit is {bytes_max}", message.len()));
    }
    let Some((&[format, ref checksum @ ..], content)) = message.split_first_chunk::<HEAD_BYTES>() else {
        return Err(format!("the message is cut off after {} bytes", message.len()));
    };
    if format != FORMAT {
        return Err(format!(
            "unknown format {format}, expected {FORMAT}: use the same version of dissent everywhere"
        ));
    }
    if crc32c::crc32c(content).to_le_bytes() != *checksum {
        return Err("the checksum does not match: the message is damaged".to_owned());
    }
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(content);
    // Valid messages nest four deep.
    deserializer.set_max_depth(16);
    T::deserialize(&mut deserializer).map_err(|error| format!("invalid message: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation::{bounded, cases, mutated, mutations};
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    fn event(body: Vec<u8>) -> NewEvent {
        let id = EventId::of_experiment(&ExperimentId::new("x").unwrap());
        NewEvent {
            id,
            causation: Some(id.caused("y", 1)),
            actor: "reward".to_owned(),
            time_us: 7,
            event_type: "reward.scored".to_owned(),
            schema_version: 3,
            body,
        }
    }

    fn recorded(body: Vec<u8>) -> Recorded {
        Recorded { position: 9, experiment: ExperimentId::new("x").unwrap(), version: 4, event: event(body) }
    }

    fn proposal(events: usize) -> Proposal {
        Proposal {
            experiment: ExperimentId::new("x").unwrap(),
            cause: None,
            events: vec![event(vec![1, 2]); events],
        }
    }

    /// Sets the correct checksum, so that the content is decoded.
    fn resealed(mut message: Vec<u8>) -> Vec<u8> {
        let checksum = crc32c::crc32c(&message[HEAD_BYTES..]).to_le_bytes();
        message[1..HEAD_BYTES].copy_from_slice(&checksum);
        message
    }

    #[test]
    fn encoded_messages_decode() {
        let message = encode_event(&recorded(vec![0xc1; 300])).unwrap();
        assert_eq!(decode_event(&message, MAX).unwrap(), recorded(vec![0xc1; 300]));
        let message = encode_proposal(&proposal(3)).unwrap();
        assert_eq!(decode_proposal(&message, MAX).unwrap(), proposal(3));
    }

    #[test]
    fn exceeded_limits_are_errors_that_name_them() {
        let message = encode_event(&recorded(vec![0; 100])).unwrap();
        assert!(decode_event(&message, 99).unwrap_err().contains("the limit is 99"));
        assert!(decode_event(&message[..3], MAX).unwrap_err().contains("cut off"));
        let many = encode_proposal(&proposal(PROPOSAL_EVENTS_MAX + 1)).unwrap();
        assert!(decode_proposal(&many, MAX).unwrap_err().contains("1025 events"));
        assert!(decode_proposal(&encode_proposal(&proposal(0)).unwrap(), MAX).is_err());
        let mut newer = message.clone();
        newer[0] = 2;
        assert!(decode_event(&newer, MAX).unwrap_err().contains("format 2"));
        let nowhere = Recorded { position: 0, ..recorded(Vec::new()) };
        assert!(decode_event(&encode_event(&nowhere).unwrap(), MAX).unwrap_err().contains("position 0"));
    }

    proptest! {
        #[test]
        fn decoding_arbitrary_bytes_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode_event(&bytes, MAX).is_err());
            prop_assert!(decode_proposal(&bytes, MAX).is_err());
        }

        #[test]
        fn decoding_arbitrary_content_with_a_right_checksum_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let message = resealed([vec![FORMAT, 0, 0, 0, 0], bytes].concat());
            let _either = (decode_event(&message, MAX), decode_proposal(&message, MAX));
        }

        #[test]
        fn a_changed_byte_is_always_an_error(at in 0usize..300, flip in 1u8..) {
            let mut message = encode_event(&recorded(vec![5; 100])).unwrap();
            let at = at % message.len();
            message[at] ^= flip;
            prop_assert!(decode_event(&message, MAX).is_err());
        }
    }

    /// Checks that a decoded message encodes and decodes to the same message, within bounded memory.
    fn assert_decoding_is_stable(message: &[u8]) {
        if let Ok(event) = bounded(message.len(), || decode_event(message, MAX)) {
            assert_eq!(decode_event(&encode_event(&event).unwrap(), MAX).unwrap(), event);
        }
        if let Ok(proposal) = bounded(message.len(), || decode_proposal(message, MAX)) {
            assert_eq!(decode_proposal(&encode_proposal(&proposal).unwrap(), MAX).unwrap(), proposal);
        }
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn decoding_mutated_content_is_stable_and_bounded_in_memory(
            is_proposal: bool,
            mutations in mutations(),
        ) {
            let whole = if is_proposal {
                encode_proposal(&proposal(5)).unwrap()
            } else {
                encode_event(&recorded(vec![5; 100])).unwrap()
            };
            let (head, content) = whole.split_at(HEAD_BYTES);
            assert_decoding_is_stable(&resealed([head, &mutated(content, &mutations)].concat()));
        }
    }
}
