//! The headers of messages: names and reading.

use lapin::types::{FieldTable, LongString, ShortString};

/// The header that counts attempts, from 1.
pub(super) const ATTEMPT: &str = "attempt";
/// The header with the number of the server's start that the sender knew, for people who look for the origin
/// of a message. No process drops a message by it.
pub(super) const START: &str = "start";
/// Longest reason in a message, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// Returns the beginning of a text, in whole characters.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(REASON_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// Returns a header that is text. RabbitMQ may return either kind of string.
pub(super) fn text_header(headers: Option<&FieldTable>, name: &str) -> Option<String> {
    let value = headers?.inner().get(name)?;
    let long = value.as_long_string().map(LongString::to_string);
    long.or_else(|| value.as_short_string().map(ShortString::to_string))
}

/// Returns a header that is a number ≥ 0.
pub(super) fn number_header(headers: Option<&FieldTable>, name: &str) -> Option<u64> {
    let value = headers?.inner().get(name)?;
    let number = value.as_long_long_int().or_else(|| value.as_long_int().map(i64::from));
    u64::try_from(number?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        let reason = "é".repeat(REASON_BYTES_MAX);
        let cut = cut(&format!("x{reason}")).to_owned();
        assert!(cut.len() <= REASON_BYTES_MAX && cut.len() > REASON_BYTES_MAX - 2, "{}", cut.len());
    }
}
