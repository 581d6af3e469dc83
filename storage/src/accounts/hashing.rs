//! Hashes of passwords: argon2id, on a bounded number of threads.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};

use super::{AccountsError, secret};

/// Shortest and longest password, in bytes.
const BYTES_MIN: usize = 10;
const BYTES_MAX: usize = 1024;
/// Memory, in KiB, and passes of a hash: the first recommendation of OWASP.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
/// Most hashes at the same time, on a machine with many cores. Others have half the cores.
const HASHES_MAX: usize = 4;
/// Calls that run or wait, in all and of one client. Each holds a thread of the caller.
const CALLS_MAX: usize = 64;
const CALLS_OF_CLIENT_MAX: usize = 4;
/// Longest wait for a turn.
const WAIT: Duration = Duration::from_secs(10);

/// Makes and checks hashes of passwords.
pub(super) struct Passwords {
    argon2: Argon2<'static>,
    /// A hash of no password, checked where there is none: an unknown name takes as long as a known one.
    nobody: String,
    hashes_max: usize,
    calls: Mutex<Calls>,
    ended: Condvar,
}

/// Calls that run or wait.
#[derive(Default)]
struct Calls {
    running: usize,
    all: usize,
    by_client: HashMap<String, usize>,
    /// Hashes that were made or checked.
    #[cfg(test)]
    hashes: usize,
}

/// A place among the calls, given back when it is dropped.
struct Place<'a> {
    passwords: &'a Passwords,
    client: Option<&'a str>,
    is_running: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut calls = self.passwords.calls();
        calls.all -= 1;
        calls.running -= usize::from(self.is_running);
        if let Some(client) = self.client
            && let Some(count) = calls.by_client.get_mut(client)
        {
            *count -= 1;
            if *count == 0 {
                calls.by_client.remove(client);
            }
        }
        drop(calls);
        self.passwords.ended.notify_one();
    }
}

impl Passwords {
    pub(super) fn new() -> Result<Self, AccountsError> {
        let broken = |error: argon2::Error| AccountsError::Damaged(error.to_string());
        let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(broken)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let hashes_max = (cores / 2).clamp(1, HASHES_MAX);
        let (nobody, calls, ended) = (String::new(), Mutex::default(), Condvar::new());
        let mut passwords = Self { argon2, nobody, hashes_max, calls, ended };
        passwords.nobody = passwords.hash(&secret::new()?)?;
        Ok(passwords)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to hash.
    fn turn<'a>(&'a self, client: Option<&'a str>) -> Result<Place<'a>, AccountsError> {
        const BUSY: AccountsError = AccountsError::Throttled { retry_after_seconds: 1 };
        let mut calls = self.calls();
        let of_client = client.and_then(|client| calls.by_client.get(client)).copied().unwrap_or_default();
        if calls.all >= CALLS_MAX || of_client >= CALLS_OF_CLIENT_MAX {
            return Err(BUSY);
        }
        calls.all += 1;
        if let Some(client) = client {
            *calls.by_client.entry(client.to_owned()).or_default() += 1;
        }
        let mut place = Place { passwords: self, client, is_running: false };
        let is_full = |calls: &mut Calls| calls.running >= self.hashes_max;
        let waited = self.ended.wait_timeout_while(calls, WAIT, is_full);
        let (mut calls, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            drop(calls);
            return Err(BUSY);
        }
        calls.running += 1;
        #[cfg(test)]
        {
            calls.hashes += 1;
        }
        place.is_running = true;
        Ok(place)
    }

    /// Returns the hash of a password, as a PHC string.
    ///
    /// # Errors
    /// If too many others hash at the moment.
    pub(super) fn hash(&self, password: &str) -> Result<String, AccountsError> {
        let _turn = self.turn(None)?;
        let salt = secret::random::<16>()?;
        let hashed: Result<PasswordHash, _> = self.argon2.hash_password_with_salt(password.as_bytes(), &salt);
        hashed.map(|hash| hash.to_string()).map_err(|error| AccountsError::Damaged(error.to_string()))
    }

    /// Whether this is the password of a hash. Without a hash it is not, which takes as long.
    ///
    /// # Errors
    /// If too many others hash at the moment, or the client has other calls in progress.
    pub(super) fn is_right(
        &self,
        password: &str,
        hash: Option<&str>,
        client: &str,
    ) -> Result<bool, AccountsError> {
        if password.len() > BYTES_MAX {
            return Ok(false);
        }
        let _turn = self.turn(Some(client))?;
        let parsed = PasswordHash::new(hash.unwrap_or(&self.nobody));
        let is_right =
            parsed.is_ok_and(|parsed| self.argon2.verify_password(password.as_bytes(), &parsed).is_ok());
        Ok(is_right && hash.is_some())
    }

    /// The number of hashes that were made or checked.
    #[cfg(test)]
    pub(super) fn hashes(&self) -> usize {
        self.calls().hashes
    }
}

/// Checks that a password may be set.
///
/// # Errors
/// If it is too short or too long.
pub(super) fn check(password: &str) -> Result<(), AccountsError> {
    if (BYTES_MIN..=BYTES_MAX).contains(&password.len()) {
        Ok(())
    } else {
        Err(AccountsError::bad("password", format!("use {BYTES_MIN} to {BYTES_MAX} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_phc_strings_of_argon2id_with_salts_of_their_own() {
        let passwords = Passwords::new().unwrap();
        let (a, b) = (passwords.hash("correct horse").unwrap(), passwords.hash("correct horse").unwrap());
        assert!(a.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && a != b, "{a}");
        let is_right = |password: &str, hash| passwords.is_right(password, hash, "c").unwrap();
        assert!(is_right("correct horse", Some(&a)) && is_right("correct horse", Some(&b)));
        assert!(!is_right("wrong horse", Some(&a)) && !is_right("correct horse", Some("$argon2id$damaged")));
        assert!(!is_right("correct horse", None) && !is_right(&"x".repeat(2000), Some(&a)));
    }

    #[test]
    fn passwords_have_ten_to_1024_bytes() {
        assert!(check("123456789").is_err() && check("1234567890").is_ok());
        assert!(check(&"x".repeat(1024)).is_ok() && check(&"x".repeat(1025)).is_err());
        assert!(check("öööööß").is_ok(), "bytes, not characters");
    }

    #[test]
    fn one_client_holds_few_places_and_all_together_are_bounded() {
        let mut passwords = Passwords::new().unwrap();
        passwords.hashes_max = 1;
        let passwords = &passwords;
        let wait_for = |all| {
            while passwords.calls().all < all {
                std::thread::yield_now();
            }
        };
        let is_busy = |client: &str| {
            matches!(passwords.turn(Some(client)), Err(AccountsError::Throttled { retry_after_seconds: 1 }))
        };
        let running = passwords.turn(Some("a")).unwrap();
        std::thread::scope(|scope| {
            let same: Vec<_> =
                (1..CALLS_OF_CLIENT_MAX).map(|_| scope.spawn(|| passwords.turn(Some("a")).is_ok())).collect();
            wait_for(CALLS_OF_CLIENT_MAX);
            assert!(is_busy("a"), "a further call of the client is refused at once");
            let others: Vec<_> = (CALLS_OF_CLIENT_MAX..CALLS_MAX)
                .map(|n| scope.spawn(move || passwords.turn(Some(&format!("client {n}"))).is_ok()))
                .collect();
            wait_for(CALLS_MAX);
            assert!(is_busy("b"), "all places are taken");
            drop(running);
            assert!(same.into_iter().chain(others).all(|call| call.join().unwrap()));
        });
        let calls = passwords.calls();
        assert_eq!((calls.running, calls.all, calls.by_client.len()), (0, 0, 0));
    }
}
