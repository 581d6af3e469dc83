//! Targets of webhooks: their URLs, and the addresses behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Url;

use super::AccountsError;

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2000;

/// Whether an address is one of the public internet, rather than of this host or a network behind it.
#[must_use]
pub fn target_is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or_else(|| is_public_v6(ip), is_public_v4),
    }
}

/// The special ranges of IANA's registry, and multicast.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !is_special
}

/// Only 2000::/3 is assigned. In it, protocol assignments with Teredo, 6to4 and documentation lead elsewhere.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    let is_assigned = first & 0xe000 == 0x2000;
    let is_protocol = first == 0x2001 && second < 0x0200;
    let is_documentation = (first == 0x2001 && second == 0x0db8) || first & 0xfff0 == 0x3ff0;
    is_assigned && !is_protocol && !is_documentation && first != 0x2002
}

/// Checks the URL of a subscription.
///
/// # Errors
/// If it is too long, is not of HTTP, has no host, or has credentials.
pub(super) fn check_url(text: &str) -> Result<(), AccountsError> {
    let bad = |reason: &str| AccountsError::bad("url", reason);
    if text.len() > URL_BYTES_MAX {
        return Err(bad("use an http or https URL of at most 2000 bytes"));
    }
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(bad("use an http or https URL of at most 2000 bytes"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("leave out user and password: the signature shows the sender"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_of_this_host_and_its_networks_are_not_public() {
        let private = "127.0.0.1 127.255.0.9 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 0.0.0.0 \
            0.1.2.3 100.64.0.1 100.127.255.255 224.0.0.1 255.255.255.255 240.0.0.1 198.18.0.1 198.19.0.1 192.0.0.8 \
            192.0.2.1 198.51.100.1 203.0.113.1 192.88.99.1 ::1 :: fe80::1 fec0::1 fd00::1 fc00::1 ::ffff:127.0.0.1 \
            ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 2002:7f00:1:: 2001:db8::1 2001::1 2001:1ff::1 3fff::1 \
            64:ff9b::7f00:1 64:ff9b:1::1 100::1 5f00::1 ff02::1";
        for ip in private.split_whitespace() {
            assert!(!target_is_public(ip.parse().unwrap()), "{ip}");
        }
        let public = "8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 192.0.1.1 192.167.1.1 198.17.0.1 \
            198.20.0.1 223.255.255.1 2606:4700::1111 2001:200::1 2a00::1 ::ffff:8.8.8.8";
        for ip in public.split_whitespace() {
            assert!(target_is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn urls_are_of_http_and_without_credentials() {
        for url in
            ["http://lab.example", "https://lab.example:8443/hook?a=b", "http://[::1]/", "http://10.0.0.1/"]
        {
            assert!(check_url(url).is_ok(), "{url}");
        }
        let long = format!("https://x/{}", "a".repeat(2000));
        let wrong = [
            "",
            "x",
            "/hook",
            "http://",
            "ftp://x/",
            "file:///etc/passwd",
            "https://a:b@x/",
            "https://a@x/",
            "https://:b@x/",
            "javascript:alert(1)",
            "data:text/plain,x",
            &long,
        ];
        for url in wrong {
            assert!(matches!(check_url(url), Err(AccountsError::BadInput { field: "url", .. })), "{url}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_as_public_as_its_own(bits: u32) {
            let ip = Ipv4Addr::from_bits(bits);
            prop_assert_eq!(target_is_public(ip.into()), target_is_public(ip.to_ipv6_mapped().into()));
        }
    }
}
