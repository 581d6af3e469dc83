//! Random secrets, and the hashes that are kept of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::AccountsError;

/// Bytes of a secret. Nobody guesses 256 bits, so one fast hash suffices to keep it.
const BYTES: usize = 32;

/// Fills bytes from the system's random numbers.
pub(super) fn random<const N: usize>() -> Result<[u8; N], AccountsError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let got = rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty());
        match got {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(AccountsError::io("read random numbers")(error.into())),
        }
    }
    Ok(bytes)
}

/// Returns a new secret, as text for addresses and headers.
pub(super) fn new() -> Result<String, AccountsError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<BYTES>()?))
}

/// Returns a new id that says nothing: 16 characters, 80 bits.
pub(super) fn name() -> Result<String, AccountsError> {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
    Ok(random::<16>()?.iter().map(letter).collect())
}

/// Returns the hash that is kept of a secret.
pub(super) fn hash(secret: &str) -> Vec<u8> {
    blake3::hash(secret.as_bytes()).as_bytes().to_vec()
}

/// Whether two secrets are equal, in a time that says nothing about them.
pub(super) fn same(a: impl AsRef<[u8]>, b: impl AsRef<[u8]>) -> bool {
    a.as_ref().ct_eq(b.as_ref()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_are_long() {
        let (a, b) = (new().unwrap(), new().unwrap());
        assert!(a != b && a.len() == 43 && same(&a, &a) && !same(&a, &b) && !same(&a, ""));
        assert_eq!(name().unwrap().len(), 16);
        assert_ne!(hash(&a), hash(&b));
    }
}
