//! The control token: the secret that a server requires of control requests from other hosts.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;

use crate::error::BadInput;

/// The environment variable with the token. It overrides the file.
pub(crate) const VARIABLE: &str = "DISSENT_CONTROL_TOKEN";
/// Shortest token, in bytes. A shorter one could be guessed.
const BYTES_MIN: usize = 16;
/// Longest token, in bytes.
const BYTES_MAX: usize = 1024;

/// A control token. Its debug output hides the secret.
#[derive(Clone)]
pub(crate) struct ControlToken(String);

impl fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlToken")
    }
}

impl ControlToken {
    /// Parses a token, and trims the white space around it.
    ///
    /// # Errors
    /// If it is too short, too long, or has characters that a header cannot hold.
    pub(crate) fn new(text: &str) -> Result<Self, BadInput> {
        let text = text.trim();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain && (BYTES_MIN..=BYTES_MAX).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadInput(format!(
                "a control token must have {BYTES_MIN} to {BYTES_MAX} visible ASCII characters: make one with `openssl rand -hex 32`"
            )))
        }
    }

    /// Reads the token of the environment or, without one, of the file; none if there is neither.
    ///
    /// # Errors
    /// If the file cannot be read, or the token is invalid.
    pub(crate) fn find(file: Option<&Path>) -> anyhow::Result<Option<Self>> {
        // A container composition passes an unset variable on as an empty one.
        if let Some(text) = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty()) {
            return Ok(Some(Self::new(&text).context(VARIABLE)?));
        }
        let Some(path) = file else { return Ok(None) };
        let token_file = || BadInput(format!("the token file {}", path.display()));
        let bytes = std::fs::metadata(path).with_context(token_file)?.len();
        if bytes > 2 * BYTES_MAX as u64 {
            let reason = format!("{bytes} bytes exceed the limit: use a token of at most {BYTES_MAX}");
            return Err(BadInput(reason)).with_context(token_file);
        }
        let text = std::fs::read_to_string(path).with_context(token_file)?;
        Ok(Some(Self::new(&text).with_context(token_file)?))
    }

    /// Returns the value of the header `Authorization`.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}
