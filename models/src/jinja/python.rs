//! How Python writes values as text.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// The deepest nesting of values that is written.
const DEPTH_MAX: usize = 64;
/// The longest text of a value that is not a text itself, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Python's `str(value)`. An undefined value is empty.
pub(super) fn display(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Number => Ok(number(value)),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let mut text = String::new();
            write_repr(&mut text, value, 0)?;
            Ok(text)
        }
        ValueKind::Undefined
        | ValueKind::None
        | ValueKind::Bool
        | ValueKind::String
        | ValueKind::Bytes
        | ValueKind::Plain
        | ValueKind::Invalid
        | _ => Ok(value.to_string()),
    }
}

/// Fails if a value is nested too deeply, or its text is too long.
pub(super) fn check(text: &str, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value is nested deeper than {DEPTH_MAX}"),
        ));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("the text of a value is longer than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

/// Returns a number as Python writes it.
pub(super) fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

/// Python's `repr` of a float: the shortest digits that give it back.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Appends Python's `repr(value)`.
fn write_repr(text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check(text, depth)?;
    match value.kind() {
        ValueKind::Undefined => text.push_str("Undefined"),
        ValueKind::Number => text.push_str(&number(value)),
        ValueKind::String => write_quoted(text, value.as_str().unwrap_or_default()),
        ValueKind::Map if value.len().is_some() => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(text, &key, depth + 1)?;
                text.push_str(": ");
                write_repr(text, &value.get_item(&key)?, depth + 1)?;
            }
            text.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            text.push(if value.is_tuple() { '(' } else { '[' });
            for (index, item) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(text, &item, depth + 1)?;
            }
            text.push_str(match (value.is_tuple(), value.len()) {
                (true, Some(1)) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::None
        | ValueKind::Bool
        | ValueKind::Bytes
        | ValueKind::Seq
        | ValueKind::Map
        | ValueKind::Iterable
        | ValueKind::Plain
        | ValueKind::Invalid
        | _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

/// Appends Python's `repr` of a text.
fn write_quoted(quoted: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    quoted.push(quote);
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if character == quote => quoted.extend(['\\', quote]),
            _ if is_printable(character) => quoted.push(character),
            _ => {
                let code = u32::from(character);
                quoted.push_str(&match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    quoted.push(quote);
}

/// Whether Python prints a character as itself. Rust escapes the same Unicode categories in debug output. A
/// letter before it, because Rust also escapes a mark at the beginning of a text.
fn is_printable(character: char) -> bool {
    let text = String::from_iter(['a', character]);
    !text.escape_debug().skip(1).take(2).eq(['\\', 'u'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        for (number, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-10, "1.5e-10"),
            (1e300, "1e+300"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(number), expected);
        }
    }

    #[test]
    fn deep_and_long_values_are_refused() {
        let nested = (0..200).fold(Value::from(1), |inner, _| Value::from(vec![inner]));
        assert!(display(&nested).is_err());
        let long = Value::from("x".repeat(TEXT_BYTES_MAX));
        assert!(display(&Value::from(vec![long.clone(), long.clone(), long])).is_err());
    }
}
