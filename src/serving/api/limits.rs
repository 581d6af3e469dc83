//! The limits of requests.

/// Longest body of an order, in bytes.
pub(super) const ORDER_BYTES_MAX: usize = 8 << 10;
/// Longest body, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
