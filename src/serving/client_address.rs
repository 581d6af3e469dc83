//! The address of the client of a request.

use std::net::IpAddr;

/// The address of the client of a request, where the listener knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);
