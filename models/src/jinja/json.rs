//! The filter `tojson`: Python's `json.dumps` with the options that transformers offers.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python;

/// The options of a dump.
struct Dump {
    ensure_ascii: bool,
    /// The text of one level; `None` writes one line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// The filter. Options come by position or by name: `ensure_ascii`, `indent`, `separators`, `sort_keys`.
pub(super) fn filter(value: &Value, by_position: Rest<Value>, by_name: Kwargs) -> Result<String, Error> {
    let options = Dump::new(&by_position, &by_name)?;
    by_name.assert_all_used()?;
    let mut text = String::new();
    options.write(&mut text, value, 0)?;
    Ok(text)
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

impl Dump {
    fn new(by_position: &[Value], by_name: &Kwargs) -> Result<Self, Error> {
        const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
        if by_position.len() > NAMES.len() {
            return Err(invalid("tojson takes at most four options".to_owned()));
        }
        let option = |index: usize| -> Result<Option<Value>, Error> {
            let named: Option<Value> = by_name.get(NAMES[index])?;
            Ok(named.or_else(|| by_position.get(index).cloned()).filter(|value| !value.is_none()))
        };
        let indent = option(1)?.map(|value| indentation(&value)).transpose()?;
        let (item, key) = match option(2)? {
            Some(pair) => separators(&pair)?,
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        let flag = |index| Ok::<_, Error>(option(index)?.is_some_and(|value| value.is_true()));
        Ok(Self { ensure_ascii: flag(0)?, indent, item, key, sort_keys: flag(3)? })
    }

    fn write(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        python::check(text, depth)?;
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&number(value)),
            ValueKind::String => self.write_text(text, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.write_items(text, ['[', ']'], depth, value.try_iter()?, |text, item| {
                    self.write(text, &item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = value
                    .try_iter()?
                    .map(|key| Ok((key_text(&key)?, value.get_item(&key)?)))
                    .collect::<Result<Vec<_>, Error>>()?;
                if self.sort_keys {
                    pairs.sort_by(|one, other| one.0.cmp(&other.0));
                }
                self.write_items(text, ['{', '}'], depth, pairs.into_iter(), |text, (key, item)| {
                    self.write_text(text, &key);
                    text.push_str(&self.key);
                    self.write(text, &item, depth + 1)
                })?;
            }
            kind @ (ValueKind::Undefined | ValueKind::Bytes | ValueKind::Plain | ValueKind::Invalid | _) => {
                return Err(invalid(format!("tojson cannot write a value of type {kind}")));
            }
        }
        Ok(())
    }

    fn write_items<T>(
        &self,
        text: &mut String,
        [open, close]: [char; 2],
        depth: usize,
        items: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut String, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        text.push(open);
        let mut empty = true;
        for item in items {
            if !std::mem::take(&mut empty) {
                text.push_str(&self.item);
            }
            self.new_line(text, depth + 1);
            write(text, item)?;
        }
        if !empty {
            self.new_line(text, depth);
        }
        text.push(close);
        Ok(())
    }

    fn new_line(&self, text: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.push_str(&indent.repeat(depth));
        }
    }

    fn write_text(&self, text: &mut String, content: &str) {
        text.push('"');
        for character in content.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                ' '..='~' => text.push(character),
                '\u{7f}'.. if !self.ensure_ascii => text.push(character),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(text, "\\u{unit:04x}");
                    }
                }
            }
        }
        text.push('"');
    }
}

fn number(value: &Value) -> String {
    match python::number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        plain => plain.to_owned(),
    }
}

/// Returns a key as a text. Numbers, truth values and null become one, as in Python.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(number(key)),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        kind @ (ValueKind::Undefined
        | ValueKind::Bytes
        | ValueKind::Seq
        | ValueKind::Map
        | ValueKind::Iterable
        | ValueKind::Plain
        | ValueKind::Invalid
        | _) => Err(invalid(format!("tojson cannot write a key of type {kind}"))),
    }
}

/// The widest indentation of a level, in characters.
const INDENT_MAX: usize = 64;

fn indentation(value: &Value) -> Result<String, Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let width = i64::try_from(value.clone())?;
            " ".repeat(usize::try_from(width.max(0)).unwrap_or(usize::MAX).min(INDENT_MAX + 1))
        }
    };
    if text.len() > INDENT_MAX {
        return Err(invalid(format!("tojson indents a level by at most {INDENT_MAX} characters")));
    }
    Ok(text)
}

fn separators(pair: &Value) -> Result<(String, String), Error> {
    let parts: Vec<Value> = pair.try_iter()?.collect();
    match parts.iter().map(Value::as_str).collect::<Option<Vec<_>>>().as_deref() {
        Some([item, key]) => Ok(((*item).to_owned(), (*key).to_owned())),
        _ => Err(invalid("the separators of tojson are two texts".to_owned())),
    }
}
