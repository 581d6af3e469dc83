//! Opening and decompressing data sets, within a size limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::columns::Columns;
use crate::jsonl::{InputError, JsonLines};

/// Largest data set, in decompressed bytes: memory holds all rows, and a small file may decompress to any
/// size.
pub(super) const DECOMPRESSED_BYTES_MAX: u64 = 4 << 30;

const BUFFER_BYTES: usize = 1 << 16;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

pub(super) fn open(path: &Path, name: String) -> Result<JsonLines<Columns>, InputError> {
    let unreadable = |source| InputError::Open { file: name.clone(), source };
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let decompressed = decompress(reader, DECOMPRESSED_BYTES_MAX).map_err(unreadable)?;
    Ok(JsonLines::new(name, decompressed))
}

/// Decompresses gzip, which is recognised from its first bytes, because a pipe has no file name.
pub(super) fn decompress(mut reader: impl BufRead + 'static, limit: u64) -> io::Result<Box<dyn BufRead>> {
    if reader.fill_buf()?.starts_with(GZIP_MAGIC) {
        let decompressed = Limited { inner: MultiGzDecoder::new(reader), left: limit, limit };
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decompressed)));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, Limited { inner: reader, left: limit, limit })))
}

/// A reader that fails beyond a limit. If it ended there, the remaining rows would be lost silently.
struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!(
                "the data set exceeds {} bytes: split it into several files",
                self.limit
            ))
        })?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: Vec<u8>, limit: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decompress(io::Cursor::new(bytes), limit)?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn compressed_and_plain_files_have_the_same_content() {
        let text = b"{\"prompt\": \"a\"}\n".repeat(1000);
        assert_eq!(read(text.clone(), 1 << 20).unwrap(), text);
        assert_eq!(read(gzipped(&text), 1 << 20).unwrap(), text);
        // Concatenated gzip files.
        let two = [gzipped(b"one"), gzipped(b"two")].concat();
        assert_eq!(read(two, 1 << 20).unwrap(), b"onetwo");
        assert_eq!(read(Vec::new(), 1).unwrap(), b"");
    }

    #[test]
    fn a_small_file_that_decompresses_beyond_the_limit_is_an_error() {
        let bomb = gzipped(&vec![b' '; 1 << 20]);
        assert!(bomb.len() < 1 << 12);
        let error = read(bomb, 1 << 16).unwrap_err();
        assert!(error.to_string().contains("exceeds 65536 bytes"), "{error}");
        assert!(read(vec![b'x'; 65_537], 1 << 16).is_err());
        assert!(read(vec![b'x'; 65_536], 1 << 16).is_ok());
    }

    #[test]
    fn a_truncated_gzip_file_is_an_error() {
        let whole = gzipped(&b"{\"prompt\": \"a\"}\n".repeat(100));
        for length in 2..whole.len() {
            assert!(read(whole[..length].to_vec(), 1 << 20).is_err(), "{length}");
        }
    }
}
