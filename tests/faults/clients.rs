//! Clients of a server's HTTP interfaces, also ones that get stuck.

use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Stuck clients of each interface.
const CLIENTS: usize = 40;
/// Requests that a client sends before it reads.
const PIPELINED: usize = 400;

/// Sends a request with a JSON body, or without one if it is empty. Returns the status and the body of the
/// response, or `None` if it does not come in time.
pub(crate) fn request(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> Option<(u16, String)> {
    let target: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&target, limit).ok()?;
    stream.set_read_timeout(Some(limit)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Sends a GET request.
pub(crate) fn get(address: &str, path: &str, limit: Duration) -> Option<(u16, String)> {
    request(address, "GET", path, "", limit)
}

/// Connects clients to the address and to the socket of a server. Half of them send half a request, the
/// others send many requests and read no answer. They stay until they are dropped.
pub(crate) fn stuck(address: &str, socket: &Path) -> Vec<OwnedFd> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let has_half = number % 2 == 0;
        if let Ok(mut client) = TcpStream::connect(address) {
            client.set_nonblocking(true).unwrap();
            send(&mut client, "/metrics", has_half);
            clients.push(client.into());
        }
        if let Ok(mut client) = UnixStream::connect(socket) {
            client.set_nonblocking(true).unwrap();
            send(&mut client, "/api/v1/log/streams", has_half);
            clients.push(client.into());
        }
    }
    clients
}

fn send(client: &mut impl Write, path: &str, has_half: bool) {
    let text = if has_half {
        "POST /backup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
            .to_owned()
    } else {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(PIPELINED)
    };
    // The server may close the connection, or not take all of it.
    let _full = client.write(text.as_bytes());
}
