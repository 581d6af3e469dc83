//! Opening a file of rows, and unpacking it with a limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::columns::Columns;
use crate::jsonl::{InputError, JsonLines};

/// Most bytes of a data set, unpacked: all rows are held in memory, and a small file may unpack to anything.
pub(super) const UNPACKED_BYTES_MAX: u64 = 4 << 30;

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
    let unpacked = unpack(reader, UNPACKED_BYTES_MAX).map_err(unreadable)?;
    Ok(JsonLines::new(name, unpacked))
}

/// What a gzipped file says itself to be counts, not its name: it may come through a pipe.
pub(super) fn unpack(mut reader: impl BufRead + 'static, limit: u64) -> io::Result<Box<dyn BufRead>> {
    if reader.fill_buf()?.starts_with(GZIP_MAGIC) {
        let unpacked = Limited { inner: MultiGzDecoder::new(reader), left: limit, limit };
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, Limited { inner: reader, left: limit, limit })))
}

/// Fails, rather than ends, where there is more to read than the limit: an end would look like the end of the
/// rows.
struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("it holds more than {} bytes: split it into several", self.limit))
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

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: Vec<u8>, limit: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        unpack(io::Cursor::new(bytes), limit)?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn packed_and_plain_files_read_the_same() {
        let text = b"{\"prompt\": \"a\"}\n".repeat(1000);
        assert_eq!(read(text.clone(), 1 << 20).unwrap(), text);
        assert_eq!(read(packed(&text), 1 << 20).unwrap(), text);
        // Files that were packed in parts and put together.
        let two = [packed(b"one"), packed(b"two")].concat();
        assert_eq!(read(two, 1 << 20).unwrap(), b"onetwo");
        assert_eq!(read(Vec::new(), 1).unwrap(), b"");
    }

    #[test]
    fn a_small_file_that_unpacks_to_a_large_one_is_an_error() {
        let bomb = packed(&vec![b' '; 1 << 20]);
        assert!(bomb.len() < 1 << 12);
        let error = read(bomb, 1 << 16).unwrap_err();
        assert!(error.to_string().contains("more than 65536 bytes"), "{error}");
        assert!(read(vec![b'x'; 65_537], 1 << 16).is_err());
        assert!(read(vec![b'x'; 65_536], 1 << 16).is_ok());
    }

    #[test]
    fn a_packed_file_that_breaks_off_is_an_error() {
        let whole = packed(&b"{\"prompt\": \"a\"}\n".repeat(100));
        for length in 2..whole.len() {
            assert!(read(whole[..length].to_vec(), 1 << 20).is_err(), "{length}");
        }
    }
}
