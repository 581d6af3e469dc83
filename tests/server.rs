//! A server's socket in its data folder, and its HTTP interface under load.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::operator::{Server, TOKEN, give_command, json_output};
use crate::support::{Lab, Learning, Setup, succeeded};

#[test]
fn commands_of_this_host_reach_a_server_at_the_socket_of_its_data_folder() {
    let learns = Some(Learning { rounds: 1, steps: 100_000 });
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    // A token is asked of other hosts only, and the port is not the default one.
    let mut server = Server::start(&lab, "data", "127.0.0.1:0", Some(&TOKEN.replace(' ', "-")));
    server.until(|server| server.metric("training_step").filter(|step| *step >= 1.0));
    assert_eq!(give_command(&lab, "data", "pause", &["--by", "ann"]), ("paused".to_owned(), true));
    assert_eq!(server.metric("paused"), Some(1.0));
    let shown = json_output(&lab, "data", &["experiment", "--json", "show", "lab"])["overview"].clone();
    assert_eq!((&shown["state"], &shown["ordered"]["by"]), (&json!("paused"), &json!("ann")));
    let socket = format!("unix:{}", lab.data_dir("data").join("dissent.sock").display());
    let again = give_command(&lab, "data", "pause", &["--server", &socket]);
    assert_eq!(again, ("paused".to_owned(), false));
    let backup = lab.data_dir("backup");
    succeeded(lab.dissent("data", &["log", "backup", backup.to_str().unwrap()]));
    assert_eq!(give_command(&lab, "data", "resume", &[]), ("going".to_owned(), true));
    server.stops();
    succeeded(lab.dissent("again", &["log", "restore", backup.to_str().unwrap()]));
    assert!(!lab.data_dir("data").join("dissent.sock").exists());
}

#[test]
fn a_server_answers_while_clients_read_nothing() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    succeeded(lab.dissent("data", &["experiment", "create", lab.config().to_str().unwrap()]));
    let server = Server::start(&lab, "data", "127.0.0.1:0", None);
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1500);
    // More than the server has seats for: some send much, some nothing.
    let clients: Vec<TcpStream> = (0..900)
        .map(|number| {
            let mut client = TcpStream::connect(&server.address).unwrap();
            client.set_nonblocking(true).unwrap();
            if number % 2 == 0 {
                let _full = client.write(pipelined.as_bytes());
            }
            client
        })
        .collect();
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(server.send("GET /health HTTP/1.1\r\nHost: localhost\r\n", "").0, 200);
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let begun = Instant::now();
    let cancel = give_command(&lab, "data", "cancel", &["--server", &server.url()]);
    assert_eq!(cancel, ("cancelled".to_owned(), true));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(clients);
    server.ends();
}

#[test]
fn metrics_of_a_loopback_server_are_not_for_pages_of_other_names() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    succeeded(lab.dissent("data", &["experiment", "create", lab.config().to_str().unwrap()]));
    let server = Server::start(&lab, "data", "127.0.0.1:0", None);
    let status =
        |path: &str, host: &str| server.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n"), "").0;
    assert_eq!(status("/metrics", "evil.example"), 403);
    assert_eq!(status("/metrics", "localhost:9464"), 200);
    assert_eq!(status("/health", "evil.example"), 200);
    // It may still be opening its experiment.
    assert!([200, 503].contains(&status("/ready", "evil.example")));
    server.stops();
}
