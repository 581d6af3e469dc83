//! Who may give orders over HTTP. Whoever can reach the port could otherwise pause or cancel experiments.
//!
//! - With a control token: whoever sends it.
//! - Without one, where only this host can connect: whoever is on this host, but for pages in a browser. A
//!   page of any site may send requests there; it cannot leave out its `Origin`, and where it tricks the name
//!   service into its own name for this host, that name is the `Host`.
//! - Without one, where others can connect: nobody.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

use super::problem::Problem;
use crate::serving::control_token::{ControlToken, VARIABLE};

/// Decides who may give orders.
#[derive(Debug)]
pub(super) struct AccessCheck {
    /// Hash of what a request has to prove itself with: comparing hashes takes the same time wherever they
    /// differ.
    token: Option<blake3::Hash>,
    /// Only this host can connect.
    is_local: bool,
}

impl AccessCheck {
    pub(super) fn new(listen: SocketAddr, token: Option<&ControlToken>) -> Self {
        let token = token.map(|token| blake3::hash(token.bearer().as_bytes()));
        Self { token, is_local: listen.ip().is_loopback() }
    }

    /// Whether anybody may give orders at all.
    pub(super) fn is_open(&self) -> bool {
        self.token.is_some() || self.is_local
    }

    /// Refuses whoever may not.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.contains_key(ORIGIN) {
            return Err(Problem::forbidden("orders are not taken from pages in a browser"));
        }
        if let Some(expected) = self.token {
            let sent = text(headers, &AUTHORIZATION).unwrap_or_default();
            // The hash compares in constant time.
            return if blake3::hash(sent.as_bytes()) == expected {
                Ok(())
            } else {
                Err(Problem::unauthorized(format!("the control token is missing or wrong: set {VARIABLE}")))
            };
        }
        if !self.is_local {
            return Err(Problem::forbidden(format!(
                "this server listens beyond its own host and has no control token: it takes no orders. Give {VARIABLE} or \
                 --control-token-file to it and to whoever gives orders, or let it --listen on 127.0.0.1"
            )));
        }
        if text(headers, &HOST).is_some_and(is_this_host) {
            Ok(())
        } else {
            Err(Problem::forbidden("without a control token, orders are taken for localhost only"))
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a `Host` names this host in a way that no name service has a say in.
fn is_this_host(host: &str) -> bool {
    let is_loopback = |ip: &str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let name =
        bare.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(bare, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || is_loopback(bare)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn access(listen: &str, token: Option<&str>) -> AccessCheck {
        let token = token.map(|token| ControlToken::new(token).unwrap());
        AccessCheck::new(listen.parse().unwrap(), token.as_ref())
    }

    fn checked(access: &AccessCheck, headers: &[(HeaderName, &str)]) -> Result<(), StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().unwrap());
        }
        access.check(&map).map_err(|problem| problem.status())
    }

    #[test]
    fn on_this_host_alone_no_token_is_needed_but_the_host_must_be_this_one() {
        let access = access("127.0.0.1:9464", None);
        for host in ["127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]:9464", "127.0.0.2", "[::1]"] {
            assert_eq!(checked(&access, &[(HOST, host)]), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example:9464", "10.0.0.1:9464", "127.0.0.1.evil.example", ""]
        {
            assert_eq!(checked(&access, &[(HOST, host)]), Err(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(checked(&access, &[]), Err(StatusCode::FORBIDDEN));
        let page = [(HOST, "localhost:9464"), (ORIGIN, "http://localhost:9464")];
        assert_eq!(checked(&access, &page), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn where_others_can_connect_a_token_is_needed_and_the_right_one() {
        let none = access("0.0.0.0:9464", None);
        assert!(!none.is_open());
        assert_eq!(checked(&none, &[(HOST, "127.0.0.1:9464")]), Err(StatusCode::FORBIDDEN));
        for listen in ["0.0.0.0:9464", "127.0.0.1:9464"] {
            let access = access(listen, Some(TOKEN));
            assert!(access.is_open());
            let right = format!("Bearer {TOKEN}");
            assert_eq!(checked(&access, &[(HOST, "server:9464"), (AUTHORIZATION, &right)]), Ok(()));
            for wrong in ["", TOKEN, "Bearer 0123456789abcdeF", "Bearer 0123456789abcdef0", "bearer"] {
                let headers = [(HOST, "127.0.0.1:9464"), (AUTHORIZATION, wrong)];
                assert_eq!(checked(&access, &headers), Err(StatusCode::UNAUTHORIZED), "{wrong}");
            }
            let page = [(ORIGIN, "http://evil.example"), (AUTHORIZATION, right.as_str())];
            assert_eq!(checked(&access, &page), Err(StatusCode::FORBIDDEN));
        }
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused_and_none_is_ever_shown() {
        assert!(ControlToken::new("short").is_err());
        assert!(ControlToken::new("with a blank in the middle of it").is_err());
        let token = ControlToken::new(&format!(" {TOKEN}\n")).unwrap();
        assert!(!format!("{token:?}").contains(TOKEN));
    }
}
