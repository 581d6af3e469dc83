//! Recognises the container of rows from its first bytes, and names the containers that are not read.

use std::fs::{self, File};
use std::io::{self, BufRead as _};
use std::path::Path;

use super::array::Elements;
use super::compression::{Content, DECOMPRESSED_BYTES_MAX, decompress};
use super::lines::Lines;
use super::parquet::TableRows;
use super::row::JsonRows;
use super::separated::Records;
use crate::jsonl::error::InputError;

/// A container that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Lines,
    Array,
    Separated(u8),
    Parquet,
}

/// A container that is not read, and the way to convert it. `PATH` stands for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unread {
    kind: &'static str,
    way_out: &'static str,
}

const PARQUET_MAGIC: &[u8] = b"PAR1";

/// Position, bytes, kind and way out of known containers.
const UNREAD: [(usize, &[u8], &str, &str); 24] = [
    (
        0,
        b"ARROW1",
        "an Arrow or Feather file",
        "convert it: python -c \"import pandas; pandas.read_feather('PATH').to_parquet('rows.parquet')\"",
    ),
    (
        0,
        b"\xff\xff\xff\xff",
        "an Arrow stream",
        "convert it: python -c \"import datasets; datasets.Dataset.from_file('PATH').to_parquet('rows.parquet')\"",
    ),
    (
        0,
        b"FEA1",
        "a Feather file",
        "convert it: python -c \"import pandas; pandas.read_feather('PATH').to_parquet('rows.parquet')\"",
    ),
    (
        0,
        b"ORC",
        "an ORC file",
        "convert it: python -c \"import pandas; pandas.read_orc('PATH').to_parquet('rows.parquet')\"",
    ),
    (0, b"Obj\x01", "an Avro file", "convert it to JSON Lines: avro-tools tojson PATH"),
    (0, b"\xfd7zXZ\x00", "compressed with xz", "decompress it: xz -dk PATH"),
    (0, b"BZh", "compressed with bzip2", "decompress it: bzip2 -dk PATH"),
    (0, b"\x04\x22\x4d\x18", "compressed with LZ4", "decompress it: lz4 -dk PATH"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it: 7z x PATH"),
    (0, b"Rar!", "a RAR archive", "unpack it: unrar x PATH"),
    (
        0,
        b"PK\x03\x04",
        "a ZIP archive (also .xlsx, .npz and PyTorch's .pt)",
        "unpack it, or export JSON Lines",
    ),
    (257, b"ustar", "a tar archive", "unpack it: tar -xf PATH"),
    (
        0,
        b"SQLite format 3\x00",
        "a SQLite database",
        "export a table: sqlite3 -json PATH 'SELECT * FROM rows' > rows.json",
    ),
    (
        0,
        b"\x89HDF\r\n",
        "an HDF5 file",
        "convert it: python -c \"import pandas; pandas.read_hdf('PATH').to_parquet('rows.parquet')\"",
    ),
    (0, b"\x93NUMPY", "a NumPy array", "write its rows as JSON Lines"),
    (0, b"GGUF", "a GGUF model", "name a file with rows"),
    (0, b"%PDF", "a PDF document", "write its texts as JSON Lines"),
    (
        0,
        b"version https://git-lfs.github.com/spec",
        "a Git LFS pointer, not the file itself",
        "fetch the file: git lfs pull",
    ),
    (0, b"\xff\xfe", "UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 PATH > rows.jsonl"),
    (0, b"\xfe\xff", "UTF-16", "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 PATH > rows.jsonl"),
    (0, b"{\x00", "UTF-16", "convert it to UTF-8: iconv -f UTF-16LE -t UTF-8 PATH > rows.jsonl"),
    (0, b"\x00{", "UTF-16", "convert it to UTF-8: iconv -f UTF-16BE -t UTF-8 PATH > rows.jsonl"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself, not the page that shows it"),
    (0, b"<html", "a web page", "download the file itself, not the page that shows it"),
];

/// Columns by which a header of separated values is recognised without a file name.
const HEADER_NAMES: [&str; 14] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "text",
    "messages",
    "response_0",
    "prompt_id",
    "conversations",
    "instruction",
    "question",
    "output",
    "label",
    "completions",
];

/// Opens a file in any container.
pub(in crate::jsonl) fn open(path: &Path, name: &str) -> Result<Box<dyn JsonRows>, InputError> {
    let unreadable = |source| InputError::Open { file: name.to_owned(), source };
    if path.is_dir() {
        return Err(folder(path, name));
    }
    let content =
        decompress(File::open(path).map_err(unreadable)?, DECOMPRESSED_BYTES_MAX).map_err(unreadable)?;
    if content.head.starts_with(PARQUET_MAGIC) && !content.is_compressed && path.is_file() {
        return table(File::open(path).map_err(unreadable)?, name);
    }
    rows(content, name, separator_of(path))
}

/// Reads standard input in any container.
pub(in crate::jsonl) fn open_stdin(name: &str) -> Result<Box<dyn JsonRows>, InputError> {
    let unreadable = |source| InputError::Open { file: name.to_owned(), source };
    rows(decompress(io::stdin(), DECOMPRESSED_BYTES_MAX).map_err(unreadable)?, name, None)
}

fn rows(content: Content, name: &str, separator: Option<u8>) -> Result<Box<dyn JsonRows>, InputError> {
    let found = recognise(&content.head, separator);
    let found = found.map_err(|Unread { kind, way_out }| unread(name, kind, way_out))?;
    Ok(match found {
        Container::Lines => Box::new(Lines::new(content.reader)),
        Container::Array => {
            let mut reader = content.reader;
            if content.head.starts_with(BYTE_ORDER_MARK) {
                reader.consume(BYTE_ORDER_MARK.len());
            }
            Box::new(Elements::new(reader))
        }
        Container::Separated(delimiter) => Box::new(Records::new(content.reader, delimiter)),
        Container::Parquet => {
            let copy = TableRows::copy(content.reader);
            return table(copy.map_err(|source| InputError::Open { file: name.to_owned(), source })?, name);
        }
    })
}

fn table(file: File, name: &str) -> Result<Box<dyn JsonRows>, InputError> {
    let rows = TableRows::open(file).map_err(|error| error.of_file(name))?;
    Ok(Box::new(rows))
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the beginning without a byte order mark.
fn text_start(head: &[u8]) -> &[u8] {
    head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head)
}

fn recognise(head: &[u8], separator: Option<u8>) -> Result<Container, Unread> {
    if head.starts_with(PARQUET_MAGIC) {
        return Ok(Container::Parquet);
    }
    let known =
        UNREAD.iter().find(|(at, magic, ..)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some(&(_, _, kind, way_out)) = known {
        return Err(Unread { kind, way_out });
    }
    if is_safetensors(head) {
        return Err(Unread {
            kind: "a safetensors file",
            way_out: "name a file with rows, not with weights",
        });
    }
    if is_pickle(head) {
        let way_out = "convert it where you trust it, because a pickle runs code: python -c \"import pandas; \
                       pandas.read_pickle('PATH').to_parquet('rows.parquet')\"";
        return Err(Unread { kind: "a Python pickle", way_out });
    }
    let text = text_start(head).trim_ascii_start();
    Ok(match (text.first(), separator) {
        (Some(b'['), _) => Container::Array,
        (Some(b'{'), _) => Container::Lines,
        (Some(_), Some(separator)) => Container::Separated(separator),
        (Some(_), None) => separator_of_header(text).map_or(Container::Lines, Container::Separated),
        (None, _) => Container::Lines,
    })
}

/// Returns the separator for which the first line has a column that data sets have.
fn separator_of_header(text: &[u8]) -> Option<u8> {
    let line = text.split(|byte| matches!(byte, b'\n' | b'\r')).next()?;
    let line = std::str::from_utf8(line).ok()?;
    let is_header = |separator: &u8| {
        let mut names = line.split(char::from(*separator)).map(|name| name.trim().trim_matches('"'));
        names.any(|name| HEADER_NAMES.contains(&name))
    };
    [b',', b'\t', b';'].into_iter().find(is_header)
}

/// Returns the separator that a file's name promises, also below a compression's extension.
fn separator_of(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    name.split('.').skip(1).find_map(|extension| match extension {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    })
}

fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    (2..1 << 30).contains(&u64::from_le_bytes(*length)) && rest.starts_with(b"{\"")
}

fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

fn unread(name: &str, kind: &'static str, way_out: &str) -> InputError {
    InputError::Container { file: name.to_owned(), kind, way_out: way_out.replace("PATH", name) }
}

/// Returns the error of a folder, which names the way out if it is a saved data set.
fn folder(path: &Path, name: &str) -> InputError {
    if path.join("dataset_dict.json").exists() {
        let way_out = "convert it: python -c \"import datasets; \
                       datasets.load_from_disk('PATH')['train'].to_parquet('rows.parquet')\"";
        return unread(name, "a folder of several data sets (save_to_disk)", way_out);
    }
    if path.join("state.json").exists() || path.join("dataset_info.json").exists() {
        let way_out = "convert it: python -c \"import datasets; datasets.load_from_disk('PATH').to_parquet('rows.parquet')\"";
        return unread(name, "a folder of a data set (save_to_disk)", way_out);
    }
    let first = fs::read_dir(path).ok().and_then(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).min()
    });
    let way_out = match first {
        Some(first) => format!("name one file in it, such as {}", path.join(first).display()),
        None => "name a file".to_owned(),
    };
    InputError::Container { file: name.to_owned(), kind: "a folder", way_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_recognised_from_their_first_bytes() {
        for (head, separator, expected) in [
            (&b"{\"prompt\": \"a\"}"[..], None, Container::Lines),
            (b"\xef\xbb\xbf\n[ {", None, Container::Array),
            (b"[", Some(b','), Container::Array),
            (b"PAR1\x15", None, Container::Parquet),
            (b"prompt,completion\n", None, Container::Separated(b',')),
            (b"\"id\";\"prompt\"\r\n", None, Container::Separated(b';')),
            (b"prompt\n", None, Container::Separated(b',')),
            (b"id\ttext\n", None, Container::Separated(b'\t')),
            (b"a,b\n", Some(b','), Container::Separated(b',')),
            (b"a,b\n", None, Container::Lines),
            (b"", None, Container::Lines),
        ] {
            assert_eq!(recognise(head, separator), Ok(expected), "{head:?}");
        }
    }

    #[test]
    fn unread_containers_are_named() {
        let mut tar = vec![b'x'; 300];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, kind) in [
            (&tar[..], "tar"),
            (b"\x10\0\0\0\0\0\0\0{\"a\"", "safetensors"),
            (b"\x80\x04\x95", "pickle"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"{\0\"\0", "UTF-16"),
            (b"PK\x03\x04", "ZIP"),
        ] {
            let unread = recognise(head, None).unwrap_err();
            assert!(unread.kind.contains(kind), "{unread:?}");
        }
        let names: Vec<&str> = UNREAD.iter().map(|(_, _, kind, _)| *kind).collect();
        assert!(names.iter().all(|name| !name.is_empty()));
    }

    #[test]
    fn a_name_promises_a_separator_also_when_compressed() {
        for (path, expected) in
            [("a.csv", Some(b',')), ("a/b.TSV.gz", Some(b'\t')), ("a.jsonl", None), ("csv", None)]
        {
            assert_eq!(separator_of(Path::new(path)), expected, "{path}");
        }
    }
}
