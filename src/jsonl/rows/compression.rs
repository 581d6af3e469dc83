//! Decompression, within a size limit.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// Largest content of a file, in decompressed bytes: memory holds all rows, and a small file may decompress
/// to any size.
pub(in crate::jsonl) const DECOMPRESSED_BYTES_MAX: u64 = 4 << 30;
/// Largest number of compressions inside one another.
const LAYERS_MAX: usize = 4;
const BUFFER_BYTES: usize = 1 << 16;
/// Bytes that are enough to recognise a container.
const HEAD_BYTES: u64 = 4096;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A decompressed input, with its first bytes.
pub(super) struct Content {
    /// The first bytes; all of them if the input is shorter.
    pub(super) head: Vec<u8>,
    /// All bytes, including the first ones.
    pub(super) reader: Box<dyn BufRead>,
    /// Whether the input was compressed.
    pub(super) is_compressed: bool,
}

/// Decompresses gzip and Zstandard, which are recognised from their first bytes: a pipe has no file name.
pub(super) fn decompress(reader: impl Read + 'static, limit: u64) -> io::Result<Content> {
    let mut content = peek(limited(reader, limit))?;
    for layer in 0..=LAYERS_MAX {
        let is_zstd = content.head.starts_with(ZSTD_MAGIC);
        if !is_zstd && !content.head.starts_with(GZIP_MAGIC) {
            return Ok(Content { is_compressed: layer > 0, ..content });
        }
        let decoder: Box<dyn Read> = if is_zstd {
            Box::new(zstd::stream::read::Decoder::with_buffer(content.reader)?)
        } else {
            Box::new(MultiGzDecoder::new(content.reader))
        };
        content = peek(limited(decoder, limit))?;
    }
    Err(io::Error::other(format!("compressed more than {LAYERS_MAX} times: decompress it first")))
}

fn peek(mut reader: impl BufRead + 'static) -> io::Result<Content> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    let reader = Box::new(Cursor::new(head.clone()).chain(reader));
    Ok(Content { head, reader, is_compressed: false })
}

fn limited<R: Read>(inner: R, limit: u64) -> BufReader<Limited<R>> {
    BufReader::with_capacity(BUFFER_BYTES, Limited { inner, left: limit, limit })
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

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    fn read(bytes: Vec<u8>, limit: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decompress(Cursor::new(bytes), limit)?.reader.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn compressed_and_plain_files_have_the_same_content() {
        let text = b"{\"prompt\": \"a\"}\n".repeat(1000);
        assert_eq!(read(text.clone(), 1 << 20).unwrap(), text);
        for compressed in [gzipped(&text), zstd(&text), gzipped(&gzipped(&text)), zstd(&gzipped(&text))] {
            assert_eq!(read(compressed, 1 << 20).unwrap(), text);
        }
        // Concatenated files.
        for compress in [gzipped, zstd] {
            assert_eq!(read([compress(b"one"), compress(b"two")].concat(), 1 << 20).unwrap(), b"onetwo");
        }
        assert_eq!(read(Vec::new(), 1).unwrap(), b"");
    }

    #[test]
    fn a_small_file_that_decompresses_beyond_the_limit_is_an_error() {
        for compress in [gzipped, zstd] {
            let bomb = compress(&vec![b' '; 1 << 20]);
            assert!(bomb.len() < 1 << 12);
            for bomb in [bomb.clone(), compress(&bomb)] {
                let error = read(bomb, 1 << 16).unwrap_err();
                assert!(error.to_string().contains("exceeds 65536 bytes"), "{error}");
            }
        }
        assert!(read(vec![b'x'; 65_537], 1 << 16).is_err());
        assert!(read(vec![b'x'; 65_536], 1 << 16).is_ok());
    }

    #[test]
    fn nested_compressions_are_limited() {
        let mut nested = b"{}".to_vec();
        for _ in 0..LAYERS_MAX {
            nested = gzipped(&nested);
        }
        assert_eq!(read(nested.clone(), 1 << 20).unwrap(), b"{}");
        assert!(read(gzipped(&nested), 1 << 20).unwrap_err().to_string().contains("more than 4 times"));
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let text = b"{\"prompt\": \"a\"}\n".repeat(100);
        for whole in [gzipped(&text), zstd(&text)] {
            for length in 4..whole.len() {
                assert!(read(whole[..length].to_vec(), 1 << 20).is_err(), "{length}");
            }
        }
    }
}
