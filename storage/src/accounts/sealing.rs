//! Sealed comments: with the key of its person, which goes when the person is erased. The event that holds a sealed
//! comment stays as it is, and nobody can read it any more.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use dissent_domain::event::EventId;
use rusqlite::OptionalExtension as _;

use super::{Accounts, AccountsError, PersonId};

/// How a sealed text begins. The number is the version of the form.
const PREFIX: &str = "sealed:1:";

impl Accounts {
    /// Seals a text of a person. The event that holds it gives the nonce, and the seal holds for that event only.
    ///
    /// # Errors
    /// If the person is unknown or erased.
    pub fn seal(&self, person: &PersonId, event: EventId, text: &str) -> Result<String, AccountsError> {
        let key = self.seal_key(person)?.ok_or(AccountsError::NotFound { what: "person" })?;
        let (nonce, event) = (nonce(event), event.0);
        let payload = Payload { msg: text.as_bytes(), aad: event.as_bytes() };
        let sealed = XChaCha20Poly1305::new(&key).encrypt(&nonce, payload);
        let sealed = sealed.map_err(|_| AccountsError::Damaged("a text cannot be sealed".to_owned()))?;
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Returns the text of a sealed comment; `None` if the person is erased, or it was sealed for another event.
    ///
    /// # Errors
    /// If the database fails.
    pub fn unseal(
        &self,
        person: &PersonId,
        event: EventId,
        sealed: &str,
    ) -> Result<Option<String>, AccountsError> {
        let Some(key) = self.seal_key(person)? else { return Ok(None) };
        let bytes = sealed.strip_prefix(PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let Some(bytes) = bytes else { return Ok(None) };
        let (nonce, event) = (nonce(event), event.0);
        let payload = Payload { msg: &bytes, aad: event.as_bytes() };
        let opened = XChaCha20Poly1305::new(&key).decrypt(&nonce, payload).ok();
        Ok(opened.and_then(|text| String::from_utf8(text).ok()))
    }

    fn seal_key(&self, person: &PersonId) -> Result<Option<Key>, AccountsError> {
        let found: Option<Option<[u8; 32]>> = self
            .connection()
            .query_row("SELECT seal_key FROM people WHERE id = ?1", [person.as_str()], |row| row.get(0))
            .optional()?;
        Ok(found.flatten().map(Key::from))
    }
}

/// An event has one comment of one person, so its nonce is used once with a key.
fn nonce(event: EventId) -> XNonce {
    let mut nonce = [0; 24];
    let mut hasher = blake3::Hasher::new_derive_key("dissent accounts: nonce of a sealed comment");
    hasher.update(event.0.as_bytes()).finalize_xof().fill(&mut nonce);
    XNonce::from(nonce)
}
