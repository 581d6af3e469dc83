//! Addresses of clients, as far as a client can choose them.

use std::net::{IpAddr, Ipv6Addr};

/// Longest address that is no IP address, in characters.
const CHARS_MAX: usize = 64;

/// Returns the network by which a client is known. A client chooses freely within the /64 of an IPv6 address,
/// so the rest is left out. An IPv4 address in an IPv6 one counts as IPv4.
pub(super) fn network(address: &str) -> String {
    match address.trim().parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Ok(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
            Some(mapped) => mapped.to_string(),
            None => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        },
        Err(_) => address.chars().take(CHARS_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_are_one_network() {
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::9"), network("2001:db8:1:3::9"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("local"), "local");
        assert_eq!(network(&"x".repeat(5000)).len(), CHARS_MAX);
    }
}
