//! The check of a setting against its range.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::error::ConfigError;

/// Checks a value against its range.
///
/// # Errors
/// If the value is outside; the error names the range.
pub(super) fn check_range<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::out_of_range(key, value, format_args!("use {} to {}", range.start(), range.end())))
}
