//! Who sends a request, and whether the server listens to them. Without this check, any client could pause or
//! cancel experiments, and any page in a browser could do so in the name of its reader.
//!
//! | the request has | it comes from |
//! |---|---|
//! | `Authorization: Bearer` with the control token | the operator, who may do everything |
//! | `Authorization: Bearer dissent_…` | the person of an API token, within its scope |
//! | the cookie of a session | the person who signed in |
//! | none of these, on a loopback address without accounts | the user of this host, who may do everything |
//! | none of these, elsewhere | nobody: only the routes of the sign-in answer |
//!
//! A browser sends cookies, and reaches loopback addresses, for any page that asks. So a change that comes
//! with a cookie must have the session's CSRF token. A request with an `Origin` must come from a page of this
//! server. Without a secret in the request, `Host` must name this host, so that no other name can lead here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::FromRequestParts;
use axum::http::Method;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, ORIGIN};
use axum::http::request::Parts;
use dissent_storage::accounts::{Accounts, AccountsError, PersonId, Role, Scope};

use super::problem::Problem;
use crate::serving::control_token::{ControlToken, VARIABLE};

/// The header with the CSRF token of a session.
pub(crate) const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
/// The header in which a browser says which site asks.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The cookie of a session.
pub(crate) const COOKIE_NAME: &str = "dissent_session";
/// Its name where TLS protects it: a browser then takes it from no other host and no plain connection.
pub(crate) const SECURE_COOKIE_NAME: &str = "__Host-dissent_session";
/// How an API token begins.
const TOKEN_PREFIX: &str = "dissent_";

/// How a caller was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Via {
    /// The socket of the data folder, whose readers the file system chooses.
    Door,
    /// The control token.
    ControlToken,
    /// A loopback address of a server without accounts.
    Loopback,
    /// A session; its CSRF token, the secret of its cookie, and the id of the personal link that opened it.
    Session { csrf: String, secret: String, link: Option<String> },
    /// An API token: its id, its scope, and the experiments that it is limited to.
    Token { id: String, scope: Vec<Scope>, experiments: Option<Vec<String>> },
    /// Nobody: the request has no secret.
    Nobody,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) via: Via,
    /// The person; `None` for nobody, and for the user of this host.
    pub(crate) person: Option<PersonId>,
    /// Their name, for pages and for events without accounts.
    pub(crate) name: String,
    /// Their role; `None` for nobody.
    pub(crate) role: Option<Role>,
    /// The address of the client, as far as it is known.
    pub(crate) address: Option<IpAddr>,
}

impl Caller {
    /// The user of this host, who may do everything.
    pub(crate) fn operator(via: Via) -> Self {
        Self { via, person: None, name: String::new(), role: Some(Role::Admin), address: None }
    }

    fn nobody() -> Self {
        Self { via: Via::Nobody, person: None, name: String::new(), role: None, address: None }
    }

    /// The CSRF token that pages of this caller send; empty without a session.
    pub(crate) fn csrf(&self) -> &str {
        match &self.via {
            Via::Session { csrf, .. } => csrf,
            Via::Door | Via::ControlToken | Via::Loopback | Via::Token { .. } | Via::Nobody => "",
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::internal(anyhow::anyhow!("the request came past the gate")))
    }
}

/// Recognises the senders of requests. Clones share the control token.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Hash of the expected `Authorization` header. Two hashes are compared in constant time.
    token: Arc<RwLock<Option<blake3::Hash>>>,
    listener: Listener,
    /// The accounts of people; `None` where the user of this host is the only one.
    accounts: Option<Accounts>,
    /// The address at which browsers reach the server, such as `https://lab.example`.
    url: Option<url::Url>,
}

/// The socket at which requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    /// An address that only this host reaches, and thus also pages in its browsers.
    Loopback,
    /// Any other address.
    Public,
}

impl Gate {
    /// A gate of a server without accounts.
    pub(crate) fn new(listen: SocketAddr, token: Option<&ControlToken>) -> Self {
        let listener = if listen.ip().is_loopback() { Listener::Loopback } else { Listener::Public };
        let gate = Self { token: Arc::default(), listener, accounts: None, url: None };
        gate.set_token(token);
        gate
    }

    /// Lets people in by their accounts, who reach the server at this address.
    pub(crate) fn with_accounts(self, accounts: Accounts, url: Option<url::Url>) -> Self {
        Self { accounts: Some(accounts), url, ..self }
    }

    /// Replaces the control token, for all clones.
    pub(crate) fn set_token(&self, token: Option<&ControlToken>) {
        let hash = token.map(|token| blake3::hash(token.bearer().as_bytes()));
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = hash;
    }

    fn token(&self) -> Option<blake3::Hash> {
        *self.token.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any request for the API can be accepted.
    pub(crate) fn accepts_some(&self) -> bool {
        self.accounts.is_some() || self.token().is_some() || self.listener != Listener::Public
    }

    /// Whether people sign in.
    pub(crate) fn has_accounts(&self) -> bool {
        self.accounts.is_some()
    }

    /// Whether browsers reach the server over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.url.as_ref().is_some_and(|url| url.scheme() == "https")
    }

    /// The name of the cookie of a session.
    pub(crate) fn cookie_name(&self) -> &'static str {
        if self.is_secure() { SECURE_COOKIE_NAME } else { COOKIE_NAME }
    }

    /// Returns who sends a request. May read the accounts, so it may block for milliseconds.
    ///
    /// # Errors
    /// The response to a request that no page of this server and no program sends, or whose secret is wrong.
    pub(crate) fn caller(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
        self.check_origin(headers)?;
        if let Some(sent) = text(headers, &AUTHORIZATION) {
            return self.bearer(sent);
        }
        if headers.contains_key(AUTHORIZATION) {
            return Err(wrong_token());
        }
        self.check_name(headers)?;
        if let Some(accounts) = &self.accounts {
            let Some(secret) = cookie(headers, self.cookie_name()) else { return Ok(Caller::nobody()) };
            return session(accounts, secret, method, headers);
        }
        match (self.token(), self.listener) {
            (Some(_), _) => Err(missing_token()),
            (None, Listener::Public) => Err(Problem::forbidden(format!(
                "a server on a public address refuses requests without accounts and without a control token: set \
                 {VARIABLE} or --control-token-file, set [accounts] auth = \"accounts\", or --listen on 127.0.0.1"
            ))),
            (None, Listener::Loopback) => Ok(Caller::operator(Via::Loopback)),
        }
    }

    /// Refuses a request of a page of another site.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let refused = || Problem::forbidden("a page of another site may not send requests to this server");
        match text(headers, &FETCH_SITE) {
            None | Some("same-origin" | "none") => {}
            // A link on another site may lead here: the browser opens a page, and no script reads the answer.
            Some(_)
                if text(headers, &SEC_FETCH_MODE) == Some("navigate") && !headers.contains_key(ORIGIN) => {}
            Some(_) => return Err(refused()),
        }
        if !headers.contains_key(ORIGIN) {
            return Ok(());
        }
        let origin = text(headers, &ORIGIN).ok_or_else(refused)?;
        let is_own = match &self.url {
            Some(url) if origin == url.origin().ascii_serialization() => true,
            Some(_) | None => text(headers, &HOST)
                .is_some_and(|host| is_this_host(host) && origin == format!("http://{host}")),
        };
        if is_own { Ok(()) } else { Err(refused()) }
    }

    /// Refuses a request without a secret whose `Host` does not name this server.
    fn check_name(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.url.is_none() && self.listener == Listener::Public {
            // Its names are unknown. A page that reached it by another name would have no cookie of it.
            return Ok(());
        }
        let host = text(headers, &HOST).unwrap_or_default();
        let named = self.url.as_ref().and_then(|url| {
            let name = url.host_str()?;
            Some(url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}")))
        });
        if is_this_host(host) || named.is_some_and(|named| named.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        Err(Problem::forbidden(
            "the header Host does not name this host: use localhost, set [accounts] url, or send a token",
        ))
    }

    /// Refuses a request for metrics, which needs no secret, from a page that reached a loopback address by
    /// the name of its own site.
    ///
    /// # Errors
    /// The response to a request that is refused.
    pub(crate) fn check_reader(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.token().is_none() && self.listener == Listener::Loopback {
            return self.check_name(headers);
        }
        Ok(())
    }

    fn bearer(&self, sent: &str) -> Result<Caller, Problem> {
        if self.token().is_some_and(|expected| blake3::hash(sent.as_bytes()) == expected) {
            return Ok(Caller::operator(Via::ControlToken));
        }
        let token = sent.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = token.map(|(_, token)| token.trim()).filter(|token| token.starts_with(TOKEN_PREFIX));
        match (&self.accounts, token) {
            (Some(accounts), Some(token)) => {
                let found = accounts.token(token, now()).map_err(problem_of_secret)?;
                let (id, scope, experiments) = (found.id, found.scope, found.experiments);
                Ok(Caller {
                    via: Via::Token { id, scope, experiments },
                    person: Some(found.person.id),
                    name: found.person.name,
                    role: Some(found.person.role),
                    address: None,
                })
            }
            (None, _) if self.token().is_none() && self.listener == Listener::Public => Err(missing_token()),
            _ => Err(wrong_token()),
        }
    }
}

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

fn session(
    accounts: &Accounts,
    secret: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let found = match accounts.session(secret, now()) {
        Ok(found) => found,
        // An old cookie is as none: its owner signs in again.
        Err(AccountsError::Ended | AccountsError::NotFound { .. }) => return Ok(Caller::nobody()),
        Err(error) => return Err(problem_of_secret(error)),
    };
    if !method.is_safe() && !found.has_csrf(text(headers, &CSRF).unwrap_or_default()) {
        return Err(Problem::forbidden("the CSRF token is missing or wrong: load the page again"));
    }
    Ok(Caller {
        via: Via::Session { csrf: found.csrf, secret: secret.to_owned(), link: found.link },
        person: Some(found.person.id),
        name: found.person.name,
        role: Some(found.person.role),
        address: None,
    })
}

fn missing_token() -> Problem {
    Problem::unauthorized(format!(
        "the control token is missing or wrong: set {VARIABLE} or --control-token-file"
    ))
}

fn wrong_token() -> Problem {
    Problem::unauthorized("the token is unknown, expired or revoked")
}

fn problem_of_secret(error: AccountsError) -> Problem {
    // A secret that the accounts do not know is the client's fault; that they cannot be read is not.
    if matches!(error, AccountsError::Ended | AccountsError::NotFound { .. }) {
        wrong_token()
    } else {
        Problem::internal(error)
    }
}

/// Seconds since 1970 UTC.
pub(crate) fn now() -> u64 {
    dissent_actors::now_us() / 1_000_000
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the value of a cookie.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let sent = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
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
