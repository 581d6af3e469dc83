//! Access control of control requests over HTTP. Without it, any client could pause or cancel experiments.
//!
//! - With a control token, a request must send it.
//! - Without a token, on a loopback address, a request must name this host in `Host` and have no `Origin`.
//!   This refuses pages in a browser. A page cannot omit its `Origin`. If the name of its site resolves to
//!   this host, that name is the `Host`.
//! - Without a token, on another address, every request is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

use super::problem::Problem;
use crate::serving::control_token::{ControlToken, VARIABLE};

/// Decides whether a control request is accepted.
#[derive(Debug, Clone)]
pub(super) struct AccessCheck {
    /// Hash of the expected `Authorization` header. Two hashes are compared in constant time. Clones share
    /// it.
    token: Arc<RwLock<Option<blake3::Hash>>>,
    listener: Listener,
}

/// The socket at which requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    /// An address that only this host reaches, and thus also pages in its browsers.
    Loopback,
    /// Any other address.
    Public,
}

impl AccessCheck {
    pub(super) fn new(listen: SocketAddr, token: Option<&ControlToken>) -> Self {
        let listener = if listen.ip().is_loopback() { Listener::Loopback } else { Listener::Public };
        let check = Self { token: Arc::default(), listener };
        check.set_token(token);
        check
    }

    /// Replaces the token, for all clones.
    pub(super) fn set_token(&self, token: Option<&ControlToken>) {
        let hash = token.map(|token| blake3::hash(token.bearer().as_bytes()));
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = hash;
    }

    fn token(&self) -> Option<blake3::Hash> {
        *self.token.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any control request can be accepted.
    pub(super) fn accepts_some(&self) -> bool {
        self.token().is_some() || self.listener != Listener::Public
    }

    /// Accepts or refuses a control request by its headers.
    ///
    /// # Errors
    /// The response to a request that is refused.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.contains_key(ORIGIN) {
            return Err(Problem::forbidden(
                "a browser page may not send control requests: use the `dissent` command",
            ));
        }
        if let Some(expected) = self.token() {
            let sent = text(headers, &AUTHORIZATION).unwrap_or_default();
            return if blake3::hash(sent.as_bytes()) == expected {
                Ok(())
            } else {
                Err(Problem::unauthorized(format!(
                    "the control token is missing or wrong: set {VARIABLE} or --control-token-file"
                )))
            };
        }
        if self.listener == Listener::Public {
            return Err(Problem::forbidden(format!(
                "a server on a public address refuses control requests without a control token: set {VARIABLE} or \
                 --control-token-file, or --listen on 127.0.0.1"
            )));
        }
        check_host(headers)
    }

    /// Accepts or refuses a request that only reads, by its headers. Without a token, a page in a browser on
    /// this host could read the answer, if the name of its site resolves to this host.
    ///
    /// # Errors
    /// The response to a request that is refused.
    pub(super) fn check_reader(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.token().is_none() && self.listener == Listener::Loopback {
            return check_host(headers);
        }
        Ok(())
    }
}

fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    if text(headers, &HOST).is_some_and(is_this_host) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "the header Host does not name this host: use localhost, or give the server a control token",
    ))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a `Host` names this host without the help of a name service.
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
    fn a_loopback_server_without_a_token_accepts_only_its_own_host() {
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
    fn a_public_server_accepts_only_the_right_token() {
        let none = access("0.0.0.0:9464", None);
        assert!(!none.accepts_some());
        assert_eq!(checked(&none, &[(HOST, "127.0.0.1:9464")]), Err(StatusCode::FORBIDDEN));
        for listen in ["0.0.0.0:9464", "127.0.0.1:9464"] {
            let access = access(listen, Some(TOKEN));
            assert!(access.accepts_some());
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
    fn a_replaced_token_counts_at_once() {
        let access = access("0.0.0.0:9464", Some(TOKEN));
        let routes = access.clone();
        access.set_token(Some(&ControlToken::new("fedcba9876543210").unwrap()));
        let sent = |token: &str| checked(&routes, &[(AUTHORIZATION, &format!("Bearer {token}"))]);
        assert_eq!(sent("fedcba9876543210"), Ok(()));
        assert_eq!(sent(TOKEN), Err(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn a_weak_token_is_refused_and_debug_output_hides_a_token() {
        assert!(ControlToken::new("short").is_err());
        assert!(ControlToken::new("with a blank in the middle of it").is_err());
        let token = ControlToken::new(&format!(" {TOKEN}\n")).unwrap();
        assert!(!format!("{token:?}").contains(TOKEN));
    }
}
