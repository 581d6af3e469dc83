//! The secret by which a server knows who may give it orders from elsewhere.

use std::fmt;
use std::path::Path;

use crate::error::BadInput;

/// Where it is looked for first.
pub(crate) const VARIABLE: &str = "DISSENT_CONTROL_TOKEN";
/// Shorter ones could be guessed.
const BYTES_MIN: usize = 16;
/// Longest token, in bytes.
const BYTES_MAX: usize = 1024;

/// A control token. It is never shown.
#[derive(Clone)]
pub(crate) struct ControlToken(String);

impl fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlToken")
    }
}

impl ControlToken {
    /// A token of this text, but for white space around it.
    ///
    /// # Errors
    /// If it is too short, too long, or could not stand in a header.
    pub(crate) fn new(text: &str) -> Result<Self, BadInput> {
        let text = text.trim();
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain && (BYTES_MIN..=BYTES_MAX).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadInput(format!(
                "a control token has {BYTES_MIN} to {BYTES_MAX} visible ASCII characters: make one with `openssl rand -hex 32`"
            )))
        }
    }

    /// The token of the environment, else that of a file; none if there is neither.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub(crate) fn find(file: Option<&Path>) -> anyhow::Result<Option<Self>> {
        // An empty one is what a composition makes of one that is not set.
        if let Some(text) = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty()) {
            let token = Self::new(&text).map_err(|error| BadInput(format!("{VARIABLE}: {error}")))?;
            return Ok(Some(token));
        }
        let Some(path) = file else { return Ok(None) };
        let unusable = |reason: String| BadInput(format!("the token file {}: {reason}", path.display()));
        let bytes = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
        if bytes > 2 * BYTES_MAX as u64 {
            return Err(unusable(format!("{bytes} bytes are too many for a token")).into());
        }
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        Ok(Some(Self::new(&text).map_err(|error| unusable(error.to_string()))?))
    }

    /// What a request proves itself with.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}
