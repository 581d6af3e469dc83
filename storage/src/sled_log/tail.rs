//! The tail file: the extent of the log, stored outside sled.
//!
//! After the loss of a page or a zeroed tail, sled returns a shorter log and no error. So every commit also
//! writes the high-water mark, the last position of the log, to a file of its own. If a log ends before its
//! mark at open, it is damaged.
//!
//! # Order of writes
//! The mark must be durable before an append is acknowledged. Otherwise a truncation of the newest commit
//! would be missed. Writing it after the database's sync would double the time of a commit. Writing it
//! *beside* the database's sync, from a second thread, costs almost nothing. But a crash between the two
//! leaves a mark ahead of the log, as the loss of an acknowledged commit does. So the mark carries the commit
//! itself, too: its blocks of records, as given to sled. The indices follow from them and from the log
//! before. After any crash, the commit is complete in at least one of the two places, and opening restores
//! it:
//!
//! | durable at the crash | at open |
//! |---|---|
//! | neither | the mark is that of the previous commit: nothing was acknowledged, nothing is missing |
//! | the database only | the log is ahead of its mark by one commit, which is kept |
//! | the tail only | the log ends where the mark's commit began: the commit is written again |
//! | both | nothing to do |
//!
//! A log that ends *before* the mark's commit began has lost acknowledged events: an error. A commit that
//! exceeds its slot ([`REDO_BYTES_MAX`]) has no copy, and its mark is written after the database's sync. So
//! the third row cannot occur.
//!
//! # Layout
//! Two slots of [`SLOT_BYTES`], written alternately, so that a torn write leaves the other intact. The file
//! never changes its size, so a sync is one write and one device flush. A slot has these fields, with
//! little-endian numbers:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic |
//! | 2 | format |
//! | 2 | flags |
//! | 4 | length of the commit |
//! | 8 | identity of the log |
//! | 8 | sequence |
//! | 8 | base: the position of the log before the commit |
//! | 8 | position |
//! | 4 | crc32c over the fields above and the commit |
//! | … | commit: repeated key length (u16), value length (u32), key and value |

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// File name in the log's folder.
pub(super) const FILE_NAME: &str = "tail";
/// Bytes of one slot.
const SLOT_BYTES: usize = 256 << 10;
const HEAD_BYTES: usize = 52;
/// Largest commit that a slot can hold.
pub(super) const REDO_BYTES_MAX: usize = SLOT_BYTES - HEAD_BYTES;
const MAGIC: &[u8; 8] = b"DISSTAIL";
const FORMAT: u16 = 1;

/// The extent of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// The last position before the newest commit.
    pub(super) base: u64,
    /// The last position.
    pub(super) position: u64,
}

/// The content of the tail file at open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) log_id: u64,
    pub(super) mark: Mark,
    /// Keys and values of the records from `base` to `position`; empty if they exceeded the slot.
    pub(super) redo: Vec<(Vec<u8>, Vec<u8>)>,
    sequence: u64,
}

/// The open tail file.
pub(super) struct Tail {
    file: File,
    log_id: u64,
    sequence: u64,
}

impl Tail {
    /// Creates the file of a new log atomically: a partial file would look like damage. The caller syncs the
    /// folder.
    pub(super) fn create(path: &Path, log_id: u64, mark: Mark) -> io::Result<Self> {
        let partial = path.with_extension("new");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&partial)?;
        file.write_all(&vec![0; 2 * SLOT_BYTES])?;
        file.sync_all()?;
        let mut tail = Self { file, log_id, sequence: 0 };
        tail.settle(mark)?;
        std::fs::rename(&partial, path)?;
        Ok(tail)
    }

    /// Reads the file; `None` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read, or neither slot is intact (`InvalidData`).
    pub(super) fn open(path: &Path) -> io::Result<Option<(Self, Found)>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::with_capacity(2 * SLOT_BYTES);
        Read::by_ref(&mut file).take(2 * SLOT_BYTES as u64).read_to_end(&mut bytes)?;
        let newest = bytes.chunks(SLOT_BYTES).filter_map(parse).max_by_key(|found| found.sequence);
        let Some(found) = newest else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "neither of its two slots is intact"));
        };
        Ok(Some((Self { file, log_id: found.log_id, sequence: found.sequence }, found)))
    }

    /// Writes a commit's mark to the older slot and syncs it.
    pub(super) fn write(&mut self, mark: Mark, redo: &[u8]) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = encode(self.log_id, sequence, mark, redo)?;
        let offset = (sequence % 2) * SLOT_BYTES as u64;
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(&slot)?;
        self.file.sync_data()?;
        self.sequence = sequence;
        Ok(())
    }

    /// Writes the mark to both slots, so that the loss of one is survived. For a log at rest.
    pub(super) fn settle(&mut self, mark: Mark) -> io::Result<()> {
        self.write(mark, &[])?;
        self.write(mark, &[])
    }
}

/// Appends a key and a value to a commit's copy.
pub(super) fn push_redo(redo: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // Keys and values come from this crate's own encoders, far below both limits.
    redo.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    redo.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    redo.extend_from_slice(key);
    redo.extend_from_slice(value);
}

fn encode(log_id: u64, sequence: u64, mark: Mark, redo: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(redo.len()).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(HEAD_BYTES + redo.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&0_u16.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    for number in [log_id, sequence, mark.base, mark.position] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), redo);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(redo);
    Ok(out)
}

fn parse(slot: &[u8]) -> Option<Found> {
    let (head, rest) = slot.split_first_chunk::<HEAD_BYTES>()?;
    let (fields, crc) = head.split_last_chunk::<4>()?;
    let mut input = fields.strip_prefix(MAGIC)?;
    if take(&mut input)? != FORMAT.to_le_bytes() {
        return None;
    }
    let _flags: [u8; 2] = take(&mut input)?;
    let length = u32::from_le_bytes(take(&mut input)?) as usize;
    let redo = rest.get(..length)?;
    if crc32c::crc32c_append(crc32c::crc32c(fields), redo) != u32::from_le_bytes(*crc) {
        return None;
    }
    let [log_id, sequence, base, position] = [(); 4].map(|()| take(&mut input).map(u64::from_le_bytes));
    Some(Found {
        log_id: log_id?,
        sequence: sequence?,
        mark: Mark { base: base?, position: position? },
        redo: parse_redo(redo)?,
    })
}

fn parse_redo(mut input: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut pairs = Vec::new();
    while !input.is_empty() {
        let key_bytes = usize::from(u16::from_le_bytes(take(&mut input)?));
        let value_bytes = u32::from_le_bytes(take(&mut input)?) as usize;
        let (key, rest) = input.split_at_checked(key_bytes)?;
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        pairs.push((key.to_vec(), value.to_vec()));
        input = rest;
    }
    Some(pairs)
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(base: u64, position: u64) -> Mark {
        Mark { base, position }
    }

    #[test]
    fn the_newest_mark_and_its_commit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail");
        assert!(Tail::open(&path).unwrap().is_none());
        let mut tail = Tail::create(&path, 7, Mark::default()).unwrap();
        let mut redo = Vec::new();
        push_redo(&mut redo, b"k", b"value");
        tail.write(mark(0, 3), &[]).unwrap();
        tail.write(mark(3, 5), &redo).unwrap();
        let (_, found) = Tail::open(&path).unwrap().unwrap();
        assert_eq!((found.log_id, found.mark), (7, mark(3, 5)));
        assert_eq!(found.redo, [(b"k".to_vec(), b"value".to_vec())]);
    }

    #[test]
    fn a_torn_write_leaves_the_previous_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail");
        let mut tail = Tail::create(&path, 7, Mark::default()).unwrap();
        tail.write(mark(0, 3), b"").unwrap();
        let before = std::fs::read(&path).unwrap();
        tail.write(mark(3, 5), b"").unwrap();
        let after = std::fs::read(&path).unwrap();
        let torn_at = (0..after.len()).rfind(|&i| before[i] != after[i]).unwrap();
        let mut torn = after;
        torn[torn_at] = before[torn_at];
        std::fs::write(&path, torn).unwrap();
        assert_eq!(Tail::open(&path).unwrap().unwrap().1.mark, mark(0, 3));
    }

    #[test]
    fn invalid_bytes_are_an_error_and_not_an_empty_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tail");
        for bytes in [vec![], vec![0; 2 * SLOT_BYTES], vec![0xff; 3 * SLOT_BYTES]] {
            std::fs::write(&path, bytes).unwrap();
            let error = Tail::open(&path).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
