//! Address and credentials of RabbitMQ, and the limits of its use.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::error::BrokerError;

/// Longest prefix of the names of queues and exchanges, in bytes.
const PREFIX_BYTES_MAX: usize = 64;
/// Smallest sensible [`RabbitOptions::message_bytes_max`]: a message without a body has a few hundred bytes.
const MESSAGE_BYTES_MIN: usize = 4 << 10;
/// Largest message that RabbitMQ accepts by default, in bytes.
const MESSAGE_BYTES_LIMIT: usize = 128 << 20;

/// A password. Its `Debug` and all errors hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password so that it is never printed.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// Returns the password, for the login.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// TLS settings. Needs the Cargo feature `amqps`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Trusted certificates, PEM; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client certificate and its key, both PEM, if the server requires one.
    pub client: Option<ClientCertificate>,
}

/// A client's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PKCS#8 PEM.
    pub key_file: PathBuf,
}

/// Address of RabbitMQ, and the limits of its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitOptions {
    /// Name or address of the host.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Virtual host.
    pub vhost: String,
    /// User.
    pub user: String,
    /// Password of the user.
    pub password: Secret,
    /// TLS, for `amqps`.
    pub tls: Option<TlsOptions>,
    /// Prefix of the names of all queues and exchanges: 1 to 64 of `[a-z0-9._-]`. Servers that share a
    /// virtual host need different prefixes; a second server of a prefix is refused.
    pub prefix: String,
    /// Longest time for one attempt to connect.
    pub connect_timeout: Duration,
    /// Longest time to connect at the start before that is an error. Later attempts never end.
    pub start_timeout: Duration,
    /// Longest wait of a server at its start while another server serves the same prefix.
    pub lock_timeout: Duration,
    /// Longest wait for the answer to any other operation. Afterwards the channel counts as lost and is
    /// opened again.
    pub operation_timeout: Duration,
    /// Silence after which a connection counts as lost, in whole seconds, at least 1.
    pub heartbeat: Duration,
    /// Largest message that is sent or accepted, in bytes, 4 KiB to 128 MiB.
    pub message_bytes_max: usize,
    /// Maximum number of unconfirmed messages, 1 to 4096; further publications wait.
    pub unconfirmed_max: usize,
    /// Maximum number of undecided remote proposals, 1 to 1024.
    pub proposals_max: usize,
    /// Maximum number of redeliveries of a message after crashes and releases, at least 1. Then RabbitMQ
    /// parks it, because it may kill its workers.
    pub redeliveries_max: u32,
    /// Interval between checks that the queues exist, at least 100 ms; the server also checks after each lost
    /// connection, and soon after a message found no queue. A deleted queue is declared and filled again.
    pub check_interval: Duration,
    /// Longest delay between two attempts.
    pub retry_delay_max: Duration,
}

impl Default for RabbitOptions {
    /// Returns a local RabbitMQ with its default settings.
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 5672,
            vhost: "/".to_owned(),
            user: "guest".to_owned(),
            password: Secret::new("guest"),
            tls: None,
            prefix: "dissent".to_owned(),
            connect_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(20),
            message_bytes_max: 16 << 20,
            unconfirmed_max: 256,
            proposals_max: 64,
            redeliveries_max: 32,
            check_interval: Duration::from_secs(30),
            retry_delay_max: Duration::from_secs(300),
        }
    }
}

impl RabbitOptions {
    /// Reads `amqp://user:password@host:port/vhost`. Each part is optional; a `/` in the name of a virtual
    /// host is written `%2f`. With the Cargo feature `amqps` it also reads `amqps://`, with `?cacertfile=`,
    /// `certfile=` and `keyfile=` for PEM files.
    ///
    /// # Errors
    /// [`BrokerError::InvalidUrl`], with the invalid part and never with the password; otherwise as
    /// [`check`](Self::check).
    pub fn from_url(url: &str) -> Result<Self, BrokerError> {
        // The URL itself may contain a password: do not repeat it.
        let parsed = Url::parse(url.trim())
            .map_err(|error| invalid(format!("{error}; use amqp://user:password@host:5672/vhost")))?;
        let encrypted = match parsed.scheme() {
            "amqp" => false,
            "amqps" => true,
            other => return Err(invalid(format!("unknown scheme {other:?}: use amqp or amqps"))),
        };
        let default = Self::default();
        let mut options = Self {
            host: parsed.host_str().filter(|host| !host.is_empty()).unwrap_or(&default.host).to_owned(),
            port: parsed.port().unwrap_or(if encrypted { 5671 } else { 5672 }),
            tls: encrypted.then(TlsOptions::default),
            ..default
        };
        if !parsed.username().is_empty() {
            options.user = decoded("user", parsed.username())?;
        }
        if let Some(password) = parsed.password() {
            options.password = Secret(decoded("password", password)?);
        }
        if let Some(vhost) = parsed.path().strip_prefix('/').filter(|vhost| !vhost.is_empty()) {
            options.vhost = decoded("virtual host", vhost)?;
        }
        options.read_query(&parsed)?;
        options.check()?;
        Ok(options)
    }

    fn read_query(&mut self, url: &Url) -> Result<(), BrokerError> {
        let (mut certificate, mut key) = (None, None);
        for (name, value) in url.query_pairs() {
            let Some(tls) = &mut self.tls else {
                return Err(invalid(format!("parameter {name:?} needs amqps: remove it or use amqps")));
            };
            match &*name {
                "cacertfile" => tls.ca_file = Some(PathBuf::from(&*value)),
                "certfile" => certificate = Some(PathBuf::from(&*value)),
                "keyfile" => key = Some(PathBuf::from(&*value)),
                _ => {
                    return Err(invalid(format!(
                        "unknown parameter {name:?}: use cacertfile, certfile and keyfile"
                    )));
                }
            }
        }
        match (certificate, key, &mut self.tls) {
            (Some(certificate_file), Some(key_file), Some(tls)) => {
                tls.client = Some(ClientCertificate { certificate_file, key_file });
                Ok(())
            }
            (None, None, _) => Ok(()),
            _ => Err(invalid("certfile or keyfile is missing: use both or neither")),
        }
    }

    /// Checks the limits of each field.
    ///
    /// # Errors
    /// [`BrokerError::InvalidName`] or [`BrokerError::OutOfRange`]; [`BrokerError::MissingFeature`] if this
    /// build has no TLS.
    pub fn check(&self) -> Result<(), BrokerError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let prefix = &self.prefix;
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX || !prefix.chars().all(allowed) {
            let allowed = format!("1 to {PREFIX_BYTES_MAX} of a-z, 0-9, '.', '_' and '-'");
            return Err(BrokerError::InvalidName { what: "queue prefix", name: prefix.clone(), allowed });
        }
        let out_of_range = |name: &str, value: String, allowed: &str| {
            Err(BrokerError::out_of_range(format!("RabbitMQ option {name}"), value, allowed))
        };
        let in_range = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            out_of_range(name, value.to_string(), &format!("{least} to {most}"))
        };
        in_range("message_bytes_max", self.message_bytes_max, MESSAGE_BYTES_MIN, MESSAGE_BYTES_LIMIT)?;
        in_range("unconfirmed_max", self.unconfirmed_max, 1, 4096)?;
        in_range("proposals_max", self.proposals_max, 1, 1024)?;
        in_range(
            "redeliveries_max",
            usize::try_from(self.redeliveries_max).unwrap_or(usize::MAX),
            1,
            1 << 30,
        )?;
        if self.heartbeat < Duration::from_secs(1) || self.heartbeat > Duration::from_secs(600) {
            return out_of_range("heartbeat", format!("{:?}", self.heartbeat), "1 to 600 s");
        }
        if self.check_interval < Duration::from_millis(100) {
            return out_of_range("check_interval", format!("{:?}", self.check_interval), "at least 100 ms");
        }
        if self.tls.is_some() && !cfg!(feature = "amqps") {
            return Err(BrokerError::MissingFeature { feature: "amqps", instead: "use amqp" });
        }
        Ok(())
    }

    /// Returns the address for messages, without the password.
    pub(super) fn address(&self) -> String {
        format!("{}:{}, virtual host {:?}", self.host, self.port, self.vhost)
    }
}

fn invalid(why: impl fmt::Display) -> BrokerError {
    BrokerError::InvalidUrl { reason: why.to_string() }
}

/// Undoes percent-encoding.
fn decoded(part: &str, text: &str) -> Result<String, BrokerError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit =
            |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(invalid(format!(
                "{part} has a '%' without two hexadecimal digits: write '%' as %25"
            )));
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("{part} is not UTF-8: encode it as UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_a_url_are_read() {
        let options = RabbitOptions::from_url("amqp://me:p%40ss%2f@rabbit.example:5673/%2fprod").unwrap();
        assert_eq!((options.host.as_str(), options.port), ("rabbit.example", 5673));
        assert_eq!((options.user.as_str(), options.password.reveal()), ("me", "p@ss/"));
        assert_eq!(options.vhost, "/prod");
        let default = RabbitOptions::from_url("amqp://").unwrap();
        assert_eq!(default, RabbitOptions::default());
    }

    #[test]
    fn errors_and_debug_never_show_the_password() {
        for url in [
            "amqp://me:hunter2@host:99999/",
            "http://me:hunter2@host/",
            "amqp://me:hunter2%zz@host/",
            "amqp://me:hunter2@host/?certfile=x",
            "me:hunter2@host",
            "amqp://me:hunter2@ho st/",
        ] {
            let error = RabbitOptions::from_url(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let options = RabbitOptions::from_url("amqp://me:hunter2@host/").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn options_out_of_range_are_errors_that_name_them() {
        for (options, hint) in [
            (RabbitOptions { prefix: "No Spaces".to_owned(), ..RabbitOptions::default() }, "prefix"),
            (RabbitOptions { message_bytes_max: 1, ..RabbitOptions::default() }, "message_bytes_max"),
            (RabbitOptions { unconfirmed_max: 0, ..RabbitOptions::default() }, "unconfirmed_max"),
            (RabbitOptions { heartbeat: Duration::ZERO, ..RabbitOptions::default() }, "heartbeat"),
        ] {
            let error = options.check().unwrap_err();
            let is_named = if let BrokerError::OutOfRange { what, .. } = &error {
                what.contains(hint)
            } else {
                matches!(&error, BrokerError::InvalidName { what, .. } if what.contains(hint))
            };
            assert!(is_named, "{error:?}");
        }
    }

    #[cfg(not(feature = "amqps"))]
    #[test]
    fn amqps_without_its_feature_is_an_error_that_names_the_feature() {
        let error = RabbitOptions::from_url("amqps://host/").unwrap_err();
        assert_eq!(error, BrokerError::MissingFeature { feature: "amqps", instead: "use amqp" });
    }
}
