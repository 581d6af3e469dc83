//! Sealed comments. The key of a person seals them, and an erasure removes it. The event that holds a sealed
//! comment stays as it is, and nobody can read the comment any more.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use dissent_domain::event::EventId;
use rusqlite::OptionalExtension as _;

use super::{Accounts, AccountsError, PersonId};

/// How a sealed text begins. The number is the version of the form: nonce and ciphertext in base64.
const PREFIX: &str = "sealed:1:";
const NONCE_BYTES: usize = 24;
/// Longest text, in bytes.
const TEXT_BYTES_MAX: usize = 256 << 10;

type Key = [u8; 32];

impl Accounts {
    /// Seals a text of a person for the event that will hold it. The same text in the same event is sealed to
    /// the same bytes, so a repeated request proposes the same event.
    ///
    /// # Errors
    /// If the person is unknown or erased, or the text has more than 256 KiB.
    pub fn seal(&self, person: &PersonId, event: EventId, text: &str) -> Result<String, AccountsError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(AccountsError::bad("text", format!("use at most {TEXT_BYTES_MAX} bytes")));
        }
        let key = self.seal_key(person)?.ok_or(AccountsError::NotFound { what: "person" })?;
        close(&key, event, text).ok_or_else(|| AccountsError::Damaged("a text cannot be sealed".to_owned()))
    }

    /// Returns the text of a sealed comment; `None` if the person is erased or unknown, the comment is
    /// damaged, or it was sealed for another event or person.
    ///
    /// # Errors
    /// If the database fails.
    pub fn unseal(
        &self,
        person: &PersonId,
        event: EventId,
        sealed: &str,
    ) -> Result<Option<String>, AccountsError> {
        Ok(self.seal_key(person)?.and_then(|key| open(&key, event, sealed)))
    }

    fn seal_key(&self, person: &PersonId) -> Result<Option<Key>, AccountsError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT seal_key FROM people WHERE id = ?1")?;
        let found: Option<Option<Key>> =
            statement.query_row([person.as_str()], |row| row.get(0)).optional()?;
        Ok(found.flatten())
    }
}

fn close(key: &Key, event: EventId, text: &str) -> Option<String> {
    let nonce = nonce(key, event, text);
    let payload = Payload { msg: text.as_bytes(), aad: event.0.as_bytes() };
    let sealed = XChaCha20Poly1305::new(&(*key).into()).encrypt(&XNonce::from(nonce), payload).ok()?;
    Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat())))
}

fn open(key: &Key, event: EventId, sealed: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(sealed.strip_prefix(PREFIX)?).ok()?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>()?;
    let payload = Payload { msg: sealed, aad: event.0.as_bytes() };
    let text = XChaCha20Poly1305::new(&(*key).into()).decrypt(&XNonce::from(*nonce), payload).ok()?;
    String::from_utf8(text).ok()
}

/// Derives the nonce from event and text. Two texts that are sealed for one event id, such as those of a
/// rejected and an accepted proposal, have different nonces: with the same one, they would reveal each other.
fn nonce(key: &Key, event: EventId, text: &str) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    let key = blake3::derive_key("dissent accounts: nonces of sealed comments", key);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(event.0.as_bytes()).update(text.as_bytes()).finalize_xof().fill(&mut nonce);
    nonce
}

#[cfg(test)]
mod tests {
    use dissent_domain::id::ExperimentId;
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str) -> EventId {
        EventId::of_experiment(&ExperimentId::new(name).unwrap())
    }

    /// Sealed comments are kept for years: the form does not change.
    #[test]
    fn the_form_is_frozen() {
        let sealed = close(&[7; 32], event("a"), "The first lies.").unwrap();
        let frozen = "sealed:1:d7PcJ1wNhHKqeoviIlTBTIjCD2NevIYHPLH9CQ8porRvrk8nD8DlhEbqTQuJLYdq7K9Hwc2-Rw";
        assert_eq!(sealed, frozen);
        assert_eq!(open(&[7; 32], event("a"), frozen).as_deref(), Some("The first lies."));
    }

    proptest! {
        #[test]
        fn every_text_is_opened_by_its_key_and_event_only(text in ".{0,300}", of in "[a-z]{1,9}", key: Key, bit: usize) {
            let sealed = close(&key, event(&of), &text).unwrap();
            prop_assert_eq!(open(&key, event(&of), &sealed), Some(text.clone()));
            prop_assert_eq!(&close(&key, event(&of), &text).unwrap(), &sealed);
            prop_assert_eq!(open(&key, event("other-event"), &sealed), None);
            let mut other = key;
            other[bit % 32] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&other, event(&of), &sealed), None);
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed[PREFIX.len()..]).unwrap();
            let at = bit % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
            let damaged = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
            prop_assert_eq!(open(&key, event(&of), &damaged), None);
        }
    }
}
