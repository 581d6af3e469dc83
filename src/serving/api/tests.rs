//! Who may use which route, and which requests are refused before any route.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use dissent_storage::accounts::{Access, PersonId, Role, Scope, may};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::rights::{Need, RIGHTS};
use super::service::SignIn;
use super::*;
use crate::serving::audit_trail::AuditTrail;
use crate::serving::control_token::ControlToken;
use crate::serving::gate::{self, COOKIE_NAME, now};
use dissent_storage::accounts::{Accounts, FILE};

const TOKEN: &str = "0123456789abcdef";
const PASSWORD: &str = "correct horse";

/// A server that still starts, with accounts.
struct Place {
    _folder: tempfile::TempDir,
    accounts: Accounts,
    routes: Router,
}

/// An answer: its status, its body, and its cookie.
struct Answer {
    status: StatusCode,
    body: String,
    cookie: Option<String>,
}

impl Place {
    fn new(listen: &str, token: Option<&str>, url: Option<&str>) -> Self {
        Self::with(listen, token, Some(url))
    }

    /// `url`: none for a server without accounts.
    fn with(listen: &str, token: Option<&str>, url: Option<Option<&str>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&folder.path().join(FILE)).unwrap();
        let token = token.map(|token| ControlToken::new(token).unwrap());
        let mut gate = gate::Gate::new(listen.parse().unwrap(), token.as_ref());
        if let Some(url) = url {
            gate = gate.with_accounts(accounts.clone(), url.map(|url| url.parse().unwrap()));
        }
        let audit = AuditTrail::start(accounts.clone()).unwrap();
        let api =
            Api::of_server(folder.path(), SignIn { accounts: accounts.clone(), audit, gate: gate.clone() });
        Self { _folder: folder, accounts, routes: routes(&api, gate) }
    }

    fn local() -> Self {
        Self::new("127.0.0.1:9464", None, None)
    }

    fn person(&self, role: Role) -> PersonId {
        let id = self.accounts.create(&format!("a {role}"), role, now()).unwrap().id;
        self.accounts.set_password(&id, PASSWORD).unwrap();
        id
    }

    /// The headers of a session of the person with this role.
    fn session(&self, role: Role) -> Vec<(&'static str, String)> {
        let signed_in = self.accounts.sign_in(&format!("a {role}"), PASSWORD, "", now()).unwrap();
        vec![("cookie", format!("{COOKIE_NAME}={}", signed_in.secret)), ("x-csrf-token", signed_in.csrf)]
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&'static str, String)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:9464");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.header("content-type", "application/json").body(Body::from(body.to_owned()));
        let service = TowerToHyperService::new(self.routes.clone());
        let response = service.call(request.unwrap()).await.unwrap();
        let cookie = response.headers().get(header::SET_COOKIE);
        let cookie = cookie.map(|cookie| cookie.to_str().unwrap().to_owned());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, body: String::from_utf8_lossy(&body).into_owned(), cookie }
    }
}

/// The path of a route, of the experiment `e`.
fn path(pattern: &str) -> String {
    pattern
        .replace("{name}", "e")
        .replace("{action}", "pause")
        .replace("{table}", "conflicts")
        .replace("{person}", "p_0000000000000000")
        .replace("{id}", "x")
        .replace("{hash}", &"0".repeat(64))
        .replace("{*file}", "index.html")
        .replace("{version}/{file}", "0/page.js")
}

#[test]
fn each_route_is_in_the_rights_table_once_and_described() {
    let (_, description) = described();
    let mut routes = BTreeSet::new();
    let value: Value = serde_json::from_str(&description.to_json().unwrap()).unwrap();
    assert_eq!(value["openapi"], "3.1.0");
    for (path, methods) in value["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            routes.insert((method.to_uppercase(), path.clone()));
        }
    }
    let rights: Vec<(String, String)> =
        RIGHTS.iter().map(|right| (right.method.to_owned(), right.path.to_owned())).collect();
    let unique: BTreeSet<_> = rights.iter().cloned().collect();
    assert_eq!(unique.len(), rights.len(), "a route has two rows");
    let undescribed: Vec<&(String, String)> = unique.difference(&routes).collect();
    // The description itself, the pages, and the orders of version 0.1.
    let undescribed: Vec<&&(String, String)> = undescribed
        .iter()
        .filter(|(method, path)| method != "GET" || (path.starts_with("/api/") && !path.contains("/docs")))
        .collect();
    let paths: Vec<&str> = undescribed.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, ["/api/v1/openapi.json", "/backup", "/experiments/{name}/{action}"]);
    let forgotten: Vec<_> = routes.difference(&unique).collect();
    assert!(forgotten.is_empty(), "the rights table lacks {forgotten:?}");
}

#[tokio::test]
async fn each_role_reaches_the_routes_of_its_rights_and_no_other() {
    let place = Place::local();
    for role in Role::ALL {
        let person = place.person(role);
        let session = place.session(role);
        place.accounts.set_owner("e", &person).unwrap();
        // The routes of the sign-in check secrets themselves, and one of them ends the session.
        for right in RIGHTS.iter().filter(|right| !right.path.starts_with("/api/v1/session")) {
            let answer = place.send(right.method, &path(right.path), &session, "{}").await;
            let is_refused = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let expected = match right.need {
                Need::Nothing | Need::SignedIn => true,
                Need::May(action, _) | Need::On(action, _, _) => may(role, action),
            };
            let (method, path) = (right.method, right.path);
            assert!(is_refused != expected, "{role} {method} {path}: {} {}", answer.status, answer.body);
        }
    }
}

#[tokio::test]
async fn nobody_reaches_only_the_routes_of_the_sign_in() {
    let place = Place::local();
    for right in RIGHTS.iter().filter(|right| right.need != Need::Nothing) {
        let answer = place.send(right.method, &path(right.path), &[], "{}").await;
        // Pages lead to the sign-in.
        let is_page = !right.path.starts_with("/api/") && right.method == "GET";
        let expected = if is_page { StatusCode::SEE_OTHER } else { StatusCode::UNAUTHORIZED };
        assert_eq!(answer.status, expected, "{} {}", right.method, right.path);
    }
}

#[tokio::test]
async fn an_experiment_of_others_is_unknown_and_a_read_share_allows_no_change() {
    let place = Place::local();
    let (researcher, admin) = (place.person(Role::Researcher), place.person(Role::Admin));
    place.accounts.set_owner("e", &admin).unwrap();
    let session = place.session(Role::Researcher);
    for access in [None, Some(Access::Read), Some(Access::Write)] {
        if let Some(access) = access {
            place.accounts.share("e", &researcher, access).unwrap();
        }
        for right in RIGHTS {
            let Need::On(action, _, needed) = right.need else { continue };
            if !may(Role::Researcher, action) {
                continue;
            }
            let answer = place.send(right.method, &path(right.path), &session, "{}").await;
            let reached = !matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN)
                || answer.body.contains("unknown person");
            let (method, path) = (right.method, right.path);
            assert_eq!(reached, access >= Some(needed), "{access:?} {method} {path}: {}", answer.body);
            if access.is_none() {
                assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path} tells that it exists");
            }
        }
    }
}

#[tokio::test]
async fn a_token_allows_what_its_scope_and_its_person_allow() {
    let place = Place::local();
    let admin = place.person(Role::Admin);
    place.accounts.set_owner("e", &admin).unwrap();
    for scope in [Scope::Read, Scope::Write, Scope::Judge, Scope::Operate, Scope::Work] {
        let listed = ["e".to_owned()];
        let made =
            place.accounts.create_token(&admin, "t", &[scope], Some(&listed), now() + 60, now()).unwrap();
        let bearer = [("authorization", format!("Bearer {}", made.text))];
        for right in RIGHTS {
            let needed = match right.need {
                Need::Nothing | Need::SignedIn => continue,
                Need::May(_, needed) | Need::On(_, needed, _) => needed,
            };
            let answer = place.send(right.method, &path(right.path), &bearer, "{}").await;
            // A token of an admin makes no further tokens without the scope to.
            let (method, path) = (right.method, right.path);
            assert_eq!(answer.status != StatusCode::FORBIDDEN, scope == needed, "{scope} {method} {path}");
        }
        let other = place.send("GET", "/api/v1/experiments/other", &bearer, "").await.status;
        let expected = if scope == Scope::Read { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
        assert_eq!(other, expected, "{scope}: an experiment that the token does not list");
    }
    for wrong in ["dissent_x_y", "Bearer", "Bearer dissent_", "Bearer x", "Basic YTpi"] {
        let answer =
            place.send("GET", "/api/v1/experiments", &[("authorization", wrong.to_owned())], "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong}");
    }
}

#[tokio::test]
async fn a_change_with_a_cookie_needs_the_csrf_token_and_a_page_of_this_server() {
    let place = Place::local();
    place.person(Role::Admin);
    let session = place.session(Role::Admin);
    let cookie = session[0].clone();
    let new = r#"{"name":"n","role":"viewer"}"#;
    let create = async |headers: &[(&'static str, String)]| {
        place.send("POST", "/api/v1/people", headers, new).await.status
    };
    assert_eq!(create(std::slice::from_ref(&cookie)).await, StatusCode::FORBIDDEN);
    assert_eq!(create(&[cookie.clone(), ("x-csrf-token", "x".to_owned())]).await, StatusCode::FORBIDDEN);
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("origin", "https://localhost:9464"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("host", "evil.example"),
    ] {
        let mut headers = session.clone();
        headers.push((name, value.to_owned()));
        assert_eq!(create(&headers).await, StatusCode::FORBIDDEN, "{name}: {value}");
    }
    let mut own = session.clone();
    own.push(("origin", "http://localhost:9464".to_owned()));
    own.push(("sec-fetch-site", "same-origin".to_owned()));
    assert_eq!(create(&own).await, StatusCode::CREATED);
}

#[tokio::test]
async fn a_loopback_server_without_accounts_serves_only_its_own_name_and_pages() {
    let place = Place::with("127.0.0.1:9464", None, None);
    let asked = async |headers: &[(&'static str, &str)]| {
        let headers: Vec<(&'static str, String)> =
            headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        place.send("GET", "/api/v1/experiments", &headers, "").await.status
    };
    // It still starts.
    const OK: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    for host in ["127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]:9464", "127.0.0.2", "[::1]"] {
        assert_eq!(asked(&[("host", host)]).await, OK, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example:9464", "10.0.0.1:9464", "127.0.0.1.evil.example", ""]
    {
        assert_eq!(asked(&[("host", host)]).await, StatusCode::FORBIDDEN, "{host}");
    }
    assert_eq!(asked(&[("origin", "http://localhost:9464")]).await, OK);
    assert_eq!(asked(&[("origin", "http://evil.example")]).await, StatusCode::FORBIDDEN);
    assert_eq!(asked(&[("sec-fetch-site", "cross-site")]).await, StatusCode::FORBIDDEN);
    // A link on another site opens a page.
    assert_eq!(asked(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]).await, OK);
    let rebound = [("host", "evil.example:9464"), ("origin", "http://evil.example:9464")];
    assert_eq!(asked(&rebound).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_control_token_counts_on_every_address_and_a_public_server_needs_one() {
    let bearer =
        |token: &str| [("authorization", format!("Bearer {token}")), ("host", "server:9464".to_owned())];
    for listen in ["0.0.0.0:9464", "127.0.0.1:9464"] {
        let place = Place::with(listen, Some(TOKEN), None);
        let status = async |headers: &[(&'static str, String)]| {
            place.send("GET", "/api/v1/experiments", headers, "").await.status
        };
        assert_eq!(status(&bearer(TOKEN)).await, StatusCode::SERVICE_UNAVAILABLE);
        for wrong in ["", "0123456789abcdeF", "0123456789abcdef0"] {
            assert_eq!(status(&bearer(wrong)).await, StatusCode::UNAUTHORIZED, "{wrong}");
        }
        assert_eq!(status(&[]).await, StatusCode::UNAUTHORIZED);
        let mut page = bearer(TOKEN).to_vec();
        page.push(("origin", "http://evil.example".to_owned()));
        assert_eq!(status(&page).await, StatusCode::FORBIDDEN);
    }
    let public = Place::with("0.0.0.0:9464", None, None);
    assert_eq!(public.send("GET", "/api/v1/experiments", &[], "").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn people_sign_in_and_out_with_a_cookie_that_scripts_do_not_see() {
    let place = Place::new("127.0.0.1:9464", None, Some("https://lab.example"));
    place.person(Role::Researcher);
    let host = ("host", "lab.example".to_owned());
    let body = |password: &str| json!({ "name": "a researcher", "password": password }).to_string();
    let wrong =
        place.send("POST", "/api/v1/session", std::slice::from_ref(&host), &body("wrong password")).await;
    assert!(wrong.status == StatusCode::UNAUTHORIZED && wrong.cookie.is_none());
    let answer = place.send("POST", "/api/v1/session", std::slice::from_ref(&host), &body(PASSWORD)).await;
    let cookie = answer.cookie.unwrap();
    for part in ["__Host-dissent_session=", "; HttpOnly", "; SameSite=Strict", "; Secure", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let me: Value = serde_json::from_str(&answer.body).unwrap();
    let cookie = ("cookie", cookie.split(';').next().unwrap().to_owned());
    let csrf = ("x-csrf-token", me["csrf"].as_str().unwrap().to_owned());
    let shown = place.send("GET", "/api/v1/session", &[host.clone(), cookie.clone()], "").await;
    assert_eq!(serde_json::from_str::<Value>(&shown.body).unwrap()["role"], "researcher");
    let gone = place.send("DELETE", "/api/v1/session", &[host.clone(), cookie.clone(), csrf], "").await;
    assert!(gone.status == StatusCode::NO_CONTENT && gone.cookie.unwrap().contains("Max-Age=0"));
    let shown = place.send("GET", "/api/v1/session", &[host, cookie], "").await;
    assert_eq!(serde_json::from_str::<Value>(&shown.body).unwrap()["role"], Value::Null);
}

#[tokio::test]
async fn a_repeated_change_with_a_key_is_made_once() {
    let place = Place::local();
    place.person(Role::Admin);
    let mut headers = place.session(Role::Admin);
    headers.push(("idempotency-key", "k1".to_owned()));
    let create = async |name: &str| {
        let body = json!({ "name": name, "role": "viewer" }).to_string();
        place.send("POST", "/api/v1/people", &headers, &body).await
    };
    let (first, again) = (create("ann").await, create("ann").await);
    assert_eq!((first.status, &first.body), (StatusCode::CREATED, &again.body));
    assert_eq!(again.status, StatusCode::CREATED);
    assert_eq!(create("ben").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(place.accounts.people(10, None).unwrap().rows.len(), 2);
}

#[tokio::test]
async fn a_change_of_what_was_changed_in_between_is_refused() {
    let place = Place::local();
    place.person(Role::Admin);
    let viewer = place.person(Role::Viewer);
    let session = place.session(Role::Admin);
    let path = format!("/api/v1/people/{viewer}");
    let change = async |tag: &str| {
        let mut headers = session.clone();
        headers.push(("if-match", tag.to_owned()));
        place.send("PATCH", &path, &headers, r#"{"role":"annotator"}"#).await.status
    };
    let revision = place.accounts.person(&viewer).unwrap().revision;
    assert_eq!(change("x").await, StatusCode::BAD_REQUEST);
    assert_eq!(change(&format!("\"{revision}\"")).await, StatusCode::OK);
    assert_eq!(change(&format!("\"{revision}\"")).await, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn the_audit_trail_names_who_did_what_and_no_secret() {
    let place = Place::local();
    let admin = place.person(Role::Admin);
    let session = place.session(Role::Admin);
    place.send("POST", "/api/v1/people", &session, r#"{"name":"secret-name","role":"viewer"}"#).await;
    let begun = std::time::Instant::now();
    let rows = loop {
        let answer = place.send("GET", "/api/v1/audit", &session, "").await;
        let rows: Value = serde_json::from_str(&answer.body).unwrap();
        if rows["rows"].as_array().is_some_and(|rows| rows.iter().any(|row| row["outcome"] == "201")) {
            break rows;
        }
        assert!(begun.elapsed().as_secs() < 20, "{rows}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let row = rows["rows"].as_array().unwrap().iter().find(|row| row["outcome"] == "201").unwrap();
    assert_eq!((&row["person"], &row["action"]), (&json!(admin), &json!("POST /api/v1/people")));
    let text = rows.to_string();
    for (_, secret) in &session {
        assert!(!text.contains(secret.split('=').next_back().unwrap()), "{text}");
    }
    assert!(!text.contains("secret-name"));
}
