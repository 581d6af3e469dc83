//! Encodes and decodes event bodies, for live processing and replay alike.

use super::{Event, EventType, upcast};

/// A body that cannot be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The event type is unknown: a newer program wrote the log.
    #[error("unknown event type {0:?}: use the newer version of dissent that wrote the log")]
    UnknownType(String),
    /// The type has no such version.
    #[error(
        "event type {event_type} has no version {version}, this program reads up to {newest}: \
         use the version of dissent that wrote the log"
    )]
    UnknownVersion {
        /// The type.
        event_type: &'static str,
        /// The version found.
        version: u16,
        /// The newest known version.
        newest: u16,
    },
    /// The bytes are not a body of that type.
    #[error("failed to decode a {event_type} v{version} body: {reason}")]
    Body {
        /// The type.
        event_type: &'static str,
        /// The version.
        version: u16,
        /// The error of the decoder.
        reason: String,
    },
    /// The body cannot be encoded.
    #[error("failed to encode a {event_type} body: {reason}")]
    Encode {
        /// The type.
        event_type: &'static str,
        /// The error of the encoder.
        reason: String,
    },
}

/// Encodes a body as MessagePack with named fields, in the newest version of its type.
///
/// # Errors
/// If a value cannot be represented.
pub fn encode(event: &Event) -> Result<Vec<u8>, CodecError> {
    event.to_msgpack().map_err(|error| CodecError::Encode {
        event_type: event.event_type().name(),
        reason: error.to_string(),
    })
}

/// Decodes a body of any version, upcast to the newest.
///
/// # Errors
/// If the type or version is unknown, or the bytes are not such a body.
pub fn decode(event_type: &str, version: u16, body: &[u8]) -> Result<Event, CodecError> {
    let kind =
        EventType::from_name(event_type).ok_or_else(|| CodecError::UnknownType(event_type.to_owned()))?;
    let event = if version == kind.version() {
        Event::from_msgpack(kind, body)
    } else {
        let newest = kind.version();
        let unknown = CodecError::UnknownVersion { event_type: kind.name(), version, newest };
        upcast::older(kind, version, body).ok_or(unknown)?
    };
    event.map_err(|error| CodecError::Body { event_type: kind.name(), version, reason: error.to_string() })
}
