//! Sizes and checksums of files, against their pins.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::pins::Pin;

/// Fails unless the file has the pinned size and checksum.
pub(super) fn check(path: &Path, pin: &Pin) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("failed to read {}", path.display()))?.len();
    if bytes != pin.bytes {
        bail!("{} has {bytes} bytes instead of {}", path.display(), pin.bytes);
    }
    let mut digest = Digesting::new(std::io::sink());
    std::io::copy(&mut file, &mut digest).with_context(|| format!("failed to read {}", path.display()))?;
    digest.expect(path, pin)
}

/// A writer that computes the checksum of the bytes that pass through it.
pub(super) struct Digesting<W> {
    inner: W,
    sha256: Sha256,
}

impl<W: Write> Digesting<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, sha256: Sha256::new() }
    }

    /// Fails unless the written bytes have the pinned checksum.
    pub(super) fn expect(self, path: &Path, pin: &Pin) -> Result<()> {
        let found = hexadecimal(&self.sha256.finalize());
        if found != pin.sha256 {
            bail!(
                "{} has SHA-256 {found} instead of the pinned {}: the download is damaged or replaced and was \
                 discarded; fetch again",
                path.display(),
                pin.sha256
            );
        }
        Ok(())
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.sha256.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Returns bytes as lowercase hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
