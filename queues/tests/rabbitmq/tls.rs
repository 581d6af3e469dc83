//! `amqps` with a private certificate authority and certificates on both sides.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dissent_queues::{Broker, BrokerError, Proposal, ProposalReply, RabbitBroker, RabbitOptions};

use crate::attempt;
use crate::contract::OTHER;
use crate::memory_log::new_event;
use crate::node::{Node, free_ports};
use crate::required::required;

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate authority, and a certificate of it for each side.
fn certify(folder: &Path) {
    let subject = ["-newkey", "rsa:2048", "-nodes", "-subj"];
    let authority = ["req", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(folder, &[&authority[..], &subject, &["/CN=authority"]].concat());
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    for side in ["server", "client"] {
        let (key, request, certificate) =
            (format!("{side}.key"), format!("{side}.csr"), format!("{side}.pem"));
        let name = format!("/CN={side}");
        openssl(folder, &[&["req", "-keyout", &key, "-out", &request], &subject[..], &[&name]].concat());
        openssl(
            folder,
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-extfile",
                "names",
                "-out",
                &certificate,
            ],
        );
    }
}

#[test]
fn amqps_needs_the_authority_and_the_clients_certificate() {
    let [port] = free_ports();
    let mut folder = PathBuf::new();
    let node = Node::with(|its| {
        certify(its);
        folder = its.to_path_buf();
        let file = |name: &str| its.join(name).display().to_string();
        format!(
            "listeners.ssl.default = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = true\n",
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        )
    });
    let Some(_node) = required(node) else { return };
    let file = |name: &str| folder.join(name).display().to_string();
    let address = format!("amqps://guest:guest@localhost:{port}/%2f");
    let authority = format!("cacertfile={}", file("ca.pem"));
    let client = format!("certfile={}&keyfile={}", file("client.pem"), file("client.key"));
    let outcome = attempt(async {
        for (query, connects) in [
            (format!("?{authority}&{client}"), true),
            (format!("?{authority}"), false),
            (format!("?{client}"), false),
        ] {
            let mut options = RabbitOptions::from_url(&format!("{address}{query}")).unwrap();
            options.start_timeout = Duration::from_secs(3);
            let connected = RabbitBroker::connect_worker(options).await;
            assert_eq!(connected.is_ok(), connects, "{query}: {connected:?}");
            match connected {
                Ok(worker) => {
                    let experiment = dissent_domain::id::ExperimentId::new("x").unwrap();
                    let proposal = Proposal { experiment, cause: None, events: vec![new_event(OTHER, 1)] };
                    assert_eq!(worker.propose(proposal).await, Ok(ProposalReply::Queued));
                }
                Err(error) => assert!(matches!(error, BrokerError::Late { .. }), "{error:?}"),
            }
        }
    });
    assert_eq!(outcome, Ok(()));
}
