//! Jinja templates as transformers renders them: minijinja, with the rest of Jinja2's and Python's rules.
//!
//! Templates are untrusted. Their size, run time and output are bounded. A construct whose meaning would
//! differ from Jinja2's is refused by name.

mod date;
mod dialect;
mod filters;
mod json;
mod methods;
mod python;
mod source;

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Map;

pub use date::TemplateDate;
pub(crate) use dialect::Dialect;
use source::SPAN_FILTER;

/// The largest template that is run, in bytes.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The fuel of a template: about one unit per instruction or per 64 bytes of text.
const FUEL: u64 = 4_000_000;

/// Characters that mark the assistant's text: of a private use area, so no text means anything by them.
pub(crate) const SPAN_START: char = '\u{f8f0}';
pub(crate) const SPAN_END: char = '\u{f8f1}';
/// Renders a template, with [`SPAN_START`] and [`SPAN_END`] around its `{% generation %}` if `mark_spans`.
/// The error says what fails, and in which line.
pub(crate) fn render(
    source: &str,
    context: &Map<String, serde_json::Value>,
    dialect: Dialect,
    mark_spans: bool,
) -> Result<String, String> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!("has {} bytes, the limit is {SOURCE_BYTES_MAX}", source.len()));
    }
    let source = source::prepare(source, dialect, mark_spans)?;
    let run = || -> Result<String, Error> {
        let mut environment = environment(dialect)?;
        environment.add_template("chat", &source)?;
        environment.get_template("chat")?.render(Value::from(Serde(context)))
    };
    run().map_err(|error| describe(&error))
}

/// Returns the Jinja environment of transformers.
fn environment(dialect: Dialect) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::display(value)?),
        }
        .map_err(Error::from)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment
        .add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.to_vec()));
    if let Dialect::Jinja2(date) = dialect {
        environment.add_function("strftime_now", move |format: String| {
            date.format(&format).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
        });
    }
    environment.add_filter(SPAN_FILTER, |text: &str| format!("{SPAN_START}{text}{SPAN_END}"));
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", |value: &Value| {
        matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
    });
    filters::add(&mut environment);
    Ok(environment)
}

/// Whether Python's `iter` accepts a value. An undefined value is empty.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined
            | ValueKind::String
            | ValueKind::Seq
            | ValueKind::Map
            | ValueKind::Iterable
            | ValueKind::Bytes
    )
}

/// Whether a value has a length and elements, as Jinja2 tests it. Texts and mappings have both.
fn is_sequence(value: &Value) -> bool {
    is_iterable(value) && (value.is_undefined() || value.len().is_some())
}

fn describe(error: &Error) -> String {
    let mut text = String::from("fails");
    if let Some(line) = error.line() {
        let _ = write!(text, " in line {line}");
    }
    let _ = write!(text, ": {}", error.kind());
    if let Some(detail) = error.detail() {
        let _ = write!(text, ": {detail}");
        if error.kind() == ErrorKind::UnknownFunction && detail.contains("strftime_now") {
            text.push_str("; the template uses the current date, so runs differ: use a text with {prompt}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
