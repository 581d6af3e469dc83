//! The HTTP API of a server: experiments from uploads, tables, events, judgements, accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::host::Host;
use crate::support::{Lab, Learning, Setup, succeeded};

const PATIENCE: Duration = Duration::from_secs(120);

/// A client of a server, with a token or the headers of a session.
#[derive(Clone)]
struct Client {
    url: String,
    headers: Vec<(String, String)>,
}

impl Client {
    /// A client of the server that writes this log.
    fn of(host: &Host<'_>) -> Self {
        let line = host.text().lines().find(|line| line.contains("listening address=")).unwrap().to_owned();
        let address = line.split("address=").nth(1).unwrap().trim().to_owned();
        Self { url: format!("http://{address}"), headers: Vec::new() }
    }

    fn with(&self, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { url: self.url.clone(), headers: headers.collect() }
    }

    /// Sends a request; returns the status, the headers and the body.
    fn raw(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> (u16, BTreeMap<String, String>, Vec<u8>) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let headers = response.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        (response.status().as_u16(), headers, body)
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, "application/json", body.to_string().as_bytes());
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.raw("GET", path, "", b"");
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    fn upload(&self, bytes: &[u8]) -> String {
        let (status, _, body) = self.raw("POST", "/api/v1/artifacts", "application/octet-stream", bytes);
        assert_eq!(status, 200);
        let upload: Value = serde_json::from_slice(&body).unwrap();
        upload["artifact"].as_str().unwrap().to_owned()
    }

    /// Waits for an answer of which this holds.
    fn until(&self, path: &str, goal: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.get(path);
            if goal(&found) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{path}: {found}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The files of a lab, by their relative names, and the configuration that names them.
fn uploaded(lab: &Lab, client: &Client) -> (String, BTreeMap<String, String>) {
    let config = lab.config();
    let folder = config.parent().unwrap();
    let mut text = std::fs::read_to_string(&config).unwrap();
    // The server's own settings are refused.
    let runtime = text.find("[runtime]").unwrap();
    let end = text[runtime + 1..].find('[').map_or(text.len(), |at| runtime + 1 + at);
    text.replace_range(runtime..end, "");
    let mut files = BTreeMap::new();
    let mut add = |text: &mut String, path: &Path, name: &str| {
        *text = text.replace(&format!("{path:?}"), &format!("{name:?}"));
        let listed = if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            entries
                .map(|file| (format!("{name}/{}", file.file_name().unwrap().to_str().unwrap()), file))
                .collect()
        } else {
            vec![(name.to_owned(), path.to_owned())]
        };
        for (name, file) in listed {
            files.insert(name, client.upload(&std::fs::read(file).unwrap()));
        }
    };
    add(&mut text, &lab.policy(), "policy");
    let adapter = text.lines().find(|line| line.trim().starts_with("adapter")).unwrap().to_owned();
    let adapter: String = serde_json::from_str(adapter.split('=').nth(1).unwrap().trim()).unwrap();
    add(&mut text, Path::new(&adapter), "adapter");
    for name in ["prompts.jsonl", "held-out.jsonl"] {
        let path = folder.join(name);
        add(&mut text, &path, name);
    }
    (text, files)
}

#[test]
fn a_program_creates_watches_reads_and_forks_an_experiment() {
    let learns = Some(Learning { rounds: 1, steps: 3 });
    let Some(lab) = Lab::new(&Setup { prompts: 6, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    let host = Host::start(&lab, "data", &[]);
    let client = Client::of(&host);
    let (configuration, files) = uploaded(&lab, &client);
    let new = json!({ "configuration": configuration, "files": files, "start": true, "by": "ann" });

    check_refusals(&client, &new);
    // Nothing is halted that does not exist.
    assert_eq!(client.json("POST", "/api/v1/experiments/lab/retry", &json!({})).0, 404);
    assert_eq!(client.get("/api/v1/experiments")["rows"], json!([]));

    let (status, made) = client.json("POST", "/api/v1/experiments", &new);
    assert_eq!((status, &made["experiment"]), (201, &json!("lab")), "{made}");
    assert_eq!(client.json("POST", "/api/v1/experiments", &new).0, 409, "the name is taken");

    // Listeners are told until the end, and continue where they were.
    let mut told = listen(&client, 0, None);
    let first = told.next_message();
    let mut versions: Vec<u64> = versions(&first.1);
    let mut again = listen(&client, 0, Some(first.0));
    while !again.kinds.contains("experiment.finished") {
        let message = again.next_message();
        versions.extend(self::versions(&message.1));
        again.kinds.extend(kinds(&message.1));
    }
    let count = versions.len() as u64;
    assert_eq!(versions, (1..=count).collect::<Vec<_>>(), "each event once, in order");
    let shown = client.until("/api/v1/experiments/lab", |shown| shown["overview"]["state"] == "finished");
    assert_eq!(shown["overview"]["events"], count);

    // The state as of any event is that of the command.
    let half = client.get("/api/v1/experiments/lab/state?at=20");
    let command: Value =
        serde_json::from_str(&host.give(&["experiment", "--json", "show", "lab", "--at", "20"])).unwrap();
    assert_eq!(half["overview"], command["overview"]);
    let (status, _, events) = client.raw("GET", "/api/v1/experiments/lab/events?after=0", "", b"");
    let tail = host.give(&["log", "--json", "tail", "-n", "1000"]);
    assert_eq!((status, String::from_utf8(events).unwrap()), (200, tail));

    check_tables(&client, &host);
    let (status, headers, page) = client.raw("GET", "/api/v1/experiments/lab/report?format=html", "", b"");
    assert!(status == 200 && headers["content-security-policy"].starts_with("default-src 'none'"));
    assert!(page.starts_with(b"<!DOCTYPE html>"));

    let fork = json!({ "name": "other", "at": 20, "set": ["conflict.budget=3"] });
    let (status, forked) = client.json("POST", "/api/v1/experiments/lab/fork", &fork);
    assert_eq!((status, &forked["experiment"]), (201, &json!("other")), "{forked}");
    client.until("/api/v1/experiments/other", |shown| shown["overview"]["state"] == "finished");
    let names: Vec<Value> = client.get("/api/v1/experiments?limit=1")["rows"].as_array().unwrap().clone();
    assert_eq!((names.len(), &names[0]["experiment"]), (1, &json!("lab")));
    succeeded(lab.dissent("data", &["replay", "--verify"]));
    host.stop();
}

/// What reaches files, keys or endpoints of the server is refused, and leaves nothing.
fn check_refusals(client: &Client, new: &Value) {
    for (from, to) in [
        ("\"prompts.jsonl\"", "\"/etc/passwd\""),
        ("\"prompts.jsonl\"", "\"../prompts.jsonl\""),
        ("\"policy\"", "\"cache:models/x\""),
        ("[conflict]", "[broker]\nkind = \"rabbitmq\"\nurl_file = \"/etc/key\"\n[conflict]"),
        ("[conflict]", "[artifacts]\nurl = \"s3://bucket\"\n[conflict]"),
        ("[conflict]", "[runtime]\nonnxruntime = \"/tmp/x.so\"\n[conflict]"),
    ] {
        let configuration = new["configuration"].as_str().unwrap();
        assert!(configuration.contains(from));
        let mut bad = new.clone();
        bad["configuration"] = configuration.replace(from, to).into();
        let (status, answer) = client.json("POST", "/api/v1/experiments", &bad);
        assert_eq!(status, 409, "{to}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    let local = json!({ "source": { "text": new["configuration"], "folder": "/" } });
    assert_eq!(client.json("POST", "/api/v1/experiments", &local).0, 409);
    assert_eq!(client.get("/api/v1/experiments")["rows"], json!([]), "refused ones leave nothing");
}

/// Pages, whole tables, and those of the command are the same rows.
fn check_tables(client: &Client, host: &Host<'_>) {
    for table in ["prompts", "completions", "conflicts", "pairs", "judgements", "trainings", "evaluations"] {
        let path = format!("/api/v1/experiments/lab/tables/{table}");
        let (_, headers, whole) = client.raw("GET", &format!("{path}?format=jsonl"), "", b"");
        assert_eq!(headers["content-type"], "application/jsonl");
        let whole = String::from_utf8(whole).unwrap();
        assert_eq!(whole, host.give(&["experiment", "table", "lab", table]), "{table}");
        let whole: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = client.get(&format!("{path}?limit=7{cursor}"));
            rows.extend(page["rows"].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(rows, whole, "{table}");
        assert!(!rows.is_empty(), "{table}");
    }
    assert_eq!(client.raw("GET", "/api/v1/experiments/lab/tables/conflicts?x=1", "", b"").0, 400);
    assert_eq!(client.raw("GET", "/api/v1/experiments/lab/tables/x", "", b"").0, 404);
    assert_eq!(client.raw("GET", "/api/v1/experiments/none/tables/prompts", "", b"").0, 404);
}

/// An erased person is gone from every answer, and from the restore of a backup from before.
fn check_erasure(lab: &Lab, admin: &Client, ben: &Client, path: &str) {
    let backup = lab.data_dir("backup");
    succeeded(lab.dissent("data", &["log", "backup", backup.to_str().unwrap()]));

    // Erased: name and secrets are gone everywhere.
    assert_eq!(admin.raw("DELETE", path, "", b"").0, 204);
    assert_eq!(ben.raw("GET", "/api/v1/experiments", "", b"").0, 401);
    for asked in ["/api/v1/people", "/api/v1/audit?limit=1000", "/people", "/api/v1/experiments/lab/sharing"]
    {
        let (_, _, body) = admin.raw("GET", asked, "", b"");
        assert!(!String::from_utf8_lossy(&body).contains("Ben"), "{asked}");
    }
    // A backup from before, restored beside the list of the erased, does not bring the name back.
    let again = lab.data_dir("again");
    std::fs::create_dir(&again).unwrap();
    std::fs::copy(lab.data_dir("data").join("erased.jsonl"), again.join("erased.jsonl")).unwrap();
    assert!(holds(&backup.join("accounts.sqlite"), "Ben"));
    succeeded(lab.dissent("again", &["log", "restore", backup.to_str().unwrap()]));
    succeeded(lab.dissent("again", &["log", "verify"]));
    assert!(!holds(&again.join("accounts.sqlite"), "Ben"));
}

/// Whether a file has these bytes.
fn holds(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A listener to the events of `lab`.
struct Listener {
    lines: std::io::Lines<BufReader<TcpStream>>,
    kinds: BTreeSet<String>,
}

fn listen(client: &Client, after: u64, last: Option<u64>) -> Listener {
    let address = client.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
    let path = format!("/api/v1/experiments/lab/events?after={after}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{last}\r\n")
        .unwrap();
    Listener { lines: BufReader::new(stream).lines(), kinds: BTreeSet::new() }
}

impl Listener {
    /// The id and the data of the next message.
    fn next_message(&mut self) -> (u64, Value) {
        let mut id = None;
        loop {
            let line = self.lines.next().expect("the stream goes on").unwrap();
            if let Some(found) = line.strip_prefix("id: ") {
                id = Some(found.parse().unwrap());
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (id.unwrap(), serde_json::from_str(data).unwrap());
            }
        }
    }
}

fn versions(message: &Value) -> Vec<u64> {
    message["events"].as_array().unwrap().iter().map(|event| event["version"].as_u64().unwrap()).collect()
}

fn kinds(message: &Value) -> Vec<String> {
    let events = message["events"].as_array().unwrap();
    events.iter().map(|event| event["event_type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn judgements_come_one_or_many_all_or_none_and_each_line_is_told() {
    let learns = Some(Learning { rounds: 1, steps: 2 });
    let Some(lab) = Lab::new(&Setup { prompts: 6, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("source = \"oracle\"", "source = \"people\"")).unwrap();
    let host = Host::start(&lab, "data", &[lab.config().to_str().unwrap()]);
    let client = Client::of(&host);
    let path = "/api/v1/experiments/lab/judgements";
    client.until("/api/v1/experiments/lab", |shown| shown["overview"]["state"] == "waits_for_people");
    let open = client.get("/api/v1/experiments/lab/comparisons?annotator=ann");
    let rows = open["rows"].as_array().unwrap().clone();
    assert!(rows.len() >= 3, "{open}");
    assert!(rows.iter().all(|row| row.get("first_reward").is_none()), "annotators see no score");
    let judgement = |row: &Value, verdict: &str| json!({ "round": row["round"], "comparison": row["comparison"], "annotator": "ann", "verdict": verdict });
    let one = judgement(&rows[0], "first");
    let (status, answer) = client.json("POST", path, &one);
    assert_eq!(
        (status, &answer["new"], &answer["lines"][0]["outcome"]),
        (200, &json!(1), &json!("recorded"))
    );
    let (status, answer) = client.json("POST", path, &one);
    assert_eq!(
        (status, &answer["new"], &answer["lines"][0]["outcome"]),
        (200, &json!(0), &json!("already_there"))
    );

    // One line at fault: none is recorded, and the answer says which.
    let mut unknown = judgement(&rows[2], "second");
    unknown["comparison"] = json!(9999);
    let (status, answer) = client.json("POST", path, &json!([judgement(&rows[1], "tie"), unknown]));
    assert_eq!((status, &answer["line"]), (409, &json!(2)), "{answer}");
    for (line, text) in [
        (1, "{"),
        (1, r#"{"round":0}"#),
        (1, r#"{"round":0,"comparison":0,"verdict":"both","annotator":"a"}"#),
    ] {
        let (status, _, body) = client.raw("POST", path, "application/jsonl", text.as_bytes());
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &answer["line"]), (422, &json!(line)), "{text}: {answer}");
    }
    assert_eq!(client.raw("POST", path, "text/plain", b"x").0, 415);
    let judged = client.get("/api/v1/experiments/lab/tables/judgements");
    assert_eq!(judged["rows"].as_array().unwrap().len(), 1);

    // The rest as JSON lines: the round goes on.
    let lines: String = rows.iter().map(|row| judgement(row, "second").to_string() + "\n").collect();
    let (status, _, body) = client.raw("POST", path, "application/jsonl", lines.as_bytes());
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let (new, known) = (json!(rows.len() - 1), json!(1));
    assert_eq!((status, &answer["new"], &answer["already_there"]), (200, &new, &known), "{answer}");
    client.until("/api/v1/experiments/lab", |shown| shown["overview"]["state"] == "finished");
    succeeded(lab.dissent("data", &["replay", "--verify"]));
    host.stop();
}

#[test]
fn an_upload_goes_on_where_it_ended_and_a_wrong_file_is_discarded() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let host = Host::start(&lab, "data", &[]);
    let client = Client::of(&host);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let hash = blake3::hash(&bytes).to_hex().to_string();
    let path = format!("/api/v1/artifacts/{hash}");
    let part = |from: usize, to: usize| {
        let headers = [("upload-offset", from.to_string()), ("upload-length", bytes.len().to_string())];
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, _, body) =
            client.with(&headers).raw("PATCH", &path, "application/octet-stream", &bytes[from..to]);
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    assert_eq!(client.get(&path)["received"], 0);
    assert_eq!(part(0, 1_000_000).0, 200);
    let (status, answer) = part(2_000_000, 3_000_000);
    assert_eq!((status, &answer["received"]), (409, &json!(1_000_000)));
    assert_eq!(client.get(&path)["received"], 1_000_000);
    let (status, answer) = part(1_000_000, 3_000_000);
    assert_eq!((status, &answer["complete"]), (200, &json!(true)));
    assert_eq!(client.get(&path)["complete"], true);

    let other = format!("/api/v1/artifacts/{}", blake3::hash(b"other").to_hex());
    let headers = client.with(&[("upload-offset", "0"), ("upload-length", "4")]);
    assert_eq!(headers.raw("PATCH", &other, "application/octet-stream", b"1234").0, 422);
    assert_eq!(client.get(&other)["received"], 0, "it is discarded");
    assert_eq!(headers.raw("PATCH", &other, "application/octet-stream", b"12345").0, 413);
    assert_eq!(client.raw("PATCH", &other, "application/octet-stream", b"1234").0, 400);
    for name in ["x", "../../etc/passwd", &"0".repeat(63), &"A".repeat(64)] {
        let (status, ..) =
            client.raw("GET", &format!("/api/v1/artifacts/{}", name.replace('/', "%2F")), "", b"");
        assert_eq!(status, 400, "{name}");
    }
    host.stop();
}

#[test]
fn people_sign_in_and_see_their_own_experiments() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    let settings = lab.data_dir("server.toml");
    std::fs::write(&settings, "[accounts]\nauth = \"accounts\"\n").unwrap();
    let host = Host::start(&lab, "data", &["--config", settings.to_str().unwrap()]);
    let client = Client::of(&host);
    assert_eq!(client.raw("GET", "/api/v1/experiments", "", b"").0, 401);
    let (status, headers, _) = client.raw("GET", "/", "", b"");
    assert_eq!((status, headers["location"].as_str()), (303, "/sign-in"));
    let text = host.text();
    let secret = text.lines().find_map(|line| line.split_once("/invitation#")).unwrap().1.trim().to_owned();
    let first = json!({ "secret": secret, "name": "Ada", "password": "correct horse" });
    let (status, _, _) =
        client.raw("POST", "/api/v1/session/invitation", "application/json", first.to_string().as_bytes());
    assert_eq!(status, 200);
    assert_eq!(client.json("POST", "/api/v1/session/invitation", &first).0, 401, "it works once");
    let sign_in = |name: &str| {
        let body = json!({ "name": name, "password": "correct horse" }).to_string();
        let (status, headers, body) =
            client.raw("POST", "/api/v1/session", "application/json", body.as_bytes());
        assert_eq!(status, 200);
        let me: Value = serde_json::from_slice(&body).unwrap();
        let cookie = headers["set-cookie"].split(';').next().unwrap().to_owned();
        (client.with(&[("cookie", &cookie), ("x-csrf-token", me["csrf"].as_str().unwrap())]), cookie)
    };
    let (admin, cookie) = sign_in("ada");
    let (status, ben) = admin.json("POST", "/api/v1/people", &json!({ "name": "Ben", "role": "researcher" }));
    assert_eq!(status, 201, "{ben}");
    let path = format!("/api/v1/people/{}", ben["id"].as_str().unwrap());
    let (_, made) = admin.json("POST", &format!("{path}/invitation"), &json!({ "days": 1 }));
    let accept = json!({ "secret": made["secret"], "password": "correct horse" });
    assert_eq!(client.json("POST", "/api/v1/session/invitation", &accept).0, 200);
    let (ben_client, _) = sign_in("Ben");

    // An experiment belongs to who created it. Others do not know that it exists.
    let (configuration, files) = uploaded(&lab, &admin);
    let new = json!({ "configuration": configuration, "files": files });
    assert_eq!(admin.json("POST", "/api/v1/experiments", &new).0, 201);
    assert_eq!(ben_client.get("/api/v1/experiments")["rows"], json!([]));
    assert_eq!(ben_client.raw("GET", "/api/v1/experiments/lab", "", b"").0, 404);
    let share = format!("/api/v1/experiments/lab/sharing/{}", ben["id"].as_str().unwrap());
    assert_eq!(admin.json("PUT", &share, &json!({ "access": "read" })).0, 204);
    assert_eq!(ben_client.get("/api/v1/experiments")["rows"][0]["experiment"], "lab");
    assert_eq!(ben_client.json("POST", "/api/v1/experiments/lab/orders/start", &json!({})).0, 403);
    let (status, shown) = admin.json("POST", "/api/v1/experiments/lab/orders/cancel", &json!({}));
    assert_eq!((status, &shown["state"]), (200, &json!("cancelled")));
    // Events name people by their opaque id.
    let ada = admin.get("/api/v1/session")["person"].as_str().unwrap().to_owned();
    let overview = admin.get("/api/v1/experiments/lab")["overview"].clone();
    assert_eq!(overview["ordered"]["by"], json!(ada));

    let token = json!({ "name": "tool", "scope": ["read"], "days": 1 });
    let (_, made) = admin.json("POST", "/api/v1/tokens", &token);
    let token = made["token"].as_str().unwrap().to_owned();
    let program = client.with(&[("authorization", &format!("Bearer {token}"))]);
    assert_eq!(program.get("/api/v1/experiments")["rows"][0]["experiment"], "lab");
    assert_eq!(program.json("POST", "/api/v1/people", &json!({ "name": "x", "role": "viewer" })).0, 403);

    check_erasure(&lab, &admin, &ben_client, &path);
    // No secret is in the log of the process, in the history or in the metrics.
    let (_, _, metrics) = client.raw("GET", "/metrics", "", b"");
    let history = host.give(&["log", "export"]);
    let secret_of_cookie = cookie.split('=').nth(1).unwrap();
    for kept in [&host.text(), &history, &String::from_utf8_lossy(&metrics).into_owned()] {
        assert!(!kept.contains(&token) && !kept.contains(secret_of_cookie));
    }
    host.stop();
}

/// The client in Python creates, follows, reads and judges.
#[test]
fn the_python_client_works_with_a_server() {
    let learns = Some(Learning { rounds: 1, steps: 2 });
    let Some(lab) = Lab::new(&Setup { prompts: 6, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("source = \"oracle\"", "source = \"people\"")).unwrap();
    let host = Host::start(&lab, "data", &[]);
    let client = Client::of(&host);
    let (configuration, files) = uploaded(&lab, &client);
    let made = lab.data_dir("made.json");
    std::fs::write(&made, json!({ "configuration": configuration, "files": files }).to_string()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3");
    python.arg(root.join("tests/python_client.py")).arg(&client.url).arg(&made);
    python.env("PYTHONPATH", root.join("clients/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    succeeded(python);
    succeeded(lab.dissent("data", &["replay", "--verify"]));
    host.stop();
}
