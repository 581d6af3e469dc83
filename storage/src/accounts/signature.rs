//! Signatures of deliveries.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Returns the signature of a delivery, for a header: `t=SECONDS,v1=HEX`. It is the HMAC-SHA256, with the
/// secret of the subscription, of the time, a dot and the body.
#[must_use]
pub fn signature(secret: &str, at: u64, body: &str) -> String {
    use std::fmt::Write as _;
    let Some(mac) = mac(secret, at, body) else { return String::new() };
    let mut text = format!("t={at},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Whether a header is the signature of a body, made at most `seconds_max` before or after `now`. Compares in
/// a time that does not depend on the secret.
#[must_use]
pub fn verify_signature(secret: &str, header: &str, body: &str, now: u64, seconds_max: u64) -> bool {
    let parts = header.strip_prefix("t=").and_then(|rest| rest.split_once(",v1="));
    let Some((at, sent)) = parts else { return false };
    let (Ok(at), Some(sent)) = (at.parse::<u64>(), from_hex(sent)) else { return false };
    if now.abs_diff(at) > seconds_max {
        return false;
    }
    mac(secret, at, body).is_some_and(|mac| mac.verify_slice(&sent).is_ok())
}

/// Returns the code of a body. HMAC takes a key of any length.
fn mac(secret: &str, at: u64, body: &str) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(at.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    Some(mac)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? * 16 + pair.get(1)?)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // HMAC-SHA256 with the key "key" of "1.The quick brown fox", from Python's hmac.
        let found = signature("key", 1, "The quick brown fox");
        assert_eq!(found, "t=1,v1=1ef269d2a2a1f8d397e0e25c3e3013fb5687509234565e6e49ea45a138768457");
    }

    #[test]
    fn a_signature_of_another_time_secret_or_form_is_refused() {
        let header = signature("key", 1_000, "{}");
        let verify =
            |secret: &str, header: &str, body: &str, now| verify_signature(secret, header, body, now, 300);
        assert!(verify("key", &header, "{}", 1_000) && verify("key", &header, "{}", 1_300));
        assert!(verify("key", &header, "{}", 700), "clocks differ");
        assert!(!verify("key", &header, "{}", 1_301) && !verify("key", &header, "{}", 699));
        assert!(!verify("other", &header, "{}", 1_000) && !verify("key", &header, "{ }", 1_000));
        let later = header.replace("t=1000", "t=1001");
        let short = &header[..header.len() - 2];
        for wrong in ["", "t=1000", "v1=00", "t=x,v1=00", "t=1000,v1=", "t=1000,v1=zz", short, &later] {
            assert!(!verify("key", wrong, "{}", 1_000), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn only_the_signed_body_is_verified(secret in ".{0,80}", body in ".{0,200}", other in ".{0,200}", at: u64) {
            let header = signature(&secret, at, &body);
            prop_assert!(verify_signature(&secret, &header, &body, at, 0));
            prop_assert_eq!(verify_signature(&secret, &header, &other, at, 0), body == other);
        }
    }
}
