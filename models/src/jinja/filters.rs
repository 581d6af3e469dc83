//! Jinja2's filters that minijinja lacks or defines otherwise.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::{json, python};

/// Adds the filters to an environment.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", json::filter);
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, |value: &Value| Ok::<_, Error>(escape(&python::display(value)?)));
    }
    environment.add_filter("string", |value: &Value| python::display(value));
    environment.add_filter("join", join);
    environment.add_filter("title", title);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", word_count);
    environment.add_filter("striptags", strip_tags);
    environment.add_filter("urlencode", url_encode);
    environment.add_filter("xmlattr", xml_attributes);
    environment.add_filter("center", |value: &Value, width: Option<usize>| {
        Ok::<_, Error>(super::methods::centre(&python::display(value)?, width.unwrap_or(80), ' '))
    });
    for name in ["pprint", "random", "filesizeformat", "urlize", "wordwrap"] {
        environment.add_filter(name, move |_: &Value| -> Result<Value, Error> {
            Err(invalid(format!("filter {name} is not supported")))
        });
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// The highest number of items that a filter joins.
const ITEMS_MAX: usize = 1 << 16;

/// Returns the items of a value; an undefined value has none.
fn items_of(value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_undefined() {
        return Ok(Vec::new());
    }
    let items: Vec<Value> = value.try_iter()?.take(ITEMS_MAX + 1).collect();
    if items.len() > ITEMS_MAX {
        return Err(invalid(format!("a filter joins at most {ITEMS_MAX} items")));
    }
    Ok(items)
}

/// Escapes a text for HTML, as markupsafe does.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn join(value: &Value, separator: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let by_name: Option<Value> = options.get("d")?;
    let separator = by_name.or(separator).filter(|value| !value.is_none());
    let attribute: Option<Value> = options.get("attribute")?;
    options.assert_all_used()?;
    let separator = separator.map(|value| python::display(&value)).transpose()?.unwrap_or_default();
    let part = |item: Value| match &attribute {
        Some(path) => python::display(&attribute_of(item, path)?),
        None => python::display(&item),
    };
    let mut joined = String::new();
    for (index, item) in items_of(value)?.into_iter().enumerate() {
        joined.push_str(if index > 0 { &separator } else { "" });
        joined.push_str(&part(item)?);
        python::check(&joined, 0)?;
    }
    Ok(joined)
}

/// Follows a path of attributes, such as `function.name` or an index.
fn attribute_of(item: Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return item.get_item(path) };
    path.split('.').try_fold(item, |item, part| match part.parse::<usize>() {
        Ok(index) => item.get_item(&Value::from(index)),
        Err(_) => item.get_attr(part),
    })
}

/// Begins each word with a capital. Words begin after white space, a hyphen and an opening bracket.
fn title(value: &Value) -> Result<String, Error> {
    let mut titled = String::new();
    let mut begins = true;
    for character in python::display(value)?.chars() {
        if begins {
            titled.extend(character.to_uppercase());
        } else {
            titled.extend(character.to_lowercase());
        }
        begins = character.is_whitespace() || "-({[<".contains(character);
    }
    Ok(titled)
}

fn truncate(value: &Value, by_position: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let (length, kill_words, end, leeway): (Option<usize>, Option<bool>, Option<String>, Option<usize>) =
        from_args(&by_position)?;
    let length = options.get::<Option<usize>>("length")?.or(length).unwrap_or(255);
    let kill_words = options.get::<Option<bool>>("killwords")?.or(kill_words).unwrap_or(false);
    let end = options.get::<Option<String>>("end")?.or(end).unwrap_or_else(|| "...".to_owned());
    let leeway = options.get::<Option<usize>>("leeway")?.or(leeway).unwrap_or(5);
    options.assert_all_used()?;
    let text = python::display(value)?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(invalid(format!("truncate to {length} characters is shorter than its end {end:?}")));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let head: String = text.chars().take(kept).collect();
    let head =
        if kill_words { &head } else { head.rsplit_once(' ').map_or(head.as_str(), |(words, _)| words) };
    Ok(format!("{head}{end}"))
}

/// Counts runs of letters, digits and underscores.
fn word_count(value: &Value) -> Result<usize, Error> {
    let text = python::display(value)?;
    Ok(text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count())
}

/// Removes tags and comments, and collapses white space.
fn strip_tags(value: &Value) -> Result<String, Error> {
    let text = python::display(value)?;
    let (mut plain, mut rest) = (String::new(), text.as_str());
    while let Some(start) = rest.find('<') {
        let (close, from) = if rest[start..].starts_with("<!--") { ("-->", start + 4) } else { (">", start) };
        let Some(end) = rest.get(from..).and_then(|tail| tail.find(close)) else { break };
        plain.push_str(&rest[..start]);
        rest = &rest[from + end + close.len()..];
    }
    plain.push_str(rest);
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    // Python knows 2000 named entities.
    if plain.contains('&') {
        return Err(invalid("filter striptags is not supported on texts with &".to_owned()));
    }
    Ok(plain)
}

fn url_encode(value: &Value) -> Result<String, Error> {
    let quoted =
        |value: &Value| Ok::<_, Error>(url_quote(&python::display(value)?, false).replace("%20", "+"));
    match value.kind() {
        ValueKind::Map => {
            let pair = |key: Value| Ok(format!("{}={}", quoted(&key)?, quoted(&value.get_item(&key)?)?));
            Ok(items_of(value)?.into_iter().map(pair).collect::<Result<Vec<_>, Error>>()?.join("&"))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pair = |item: Value| {
                let (key, value) = (item.get_item_by_index(0)?, item.get_item_by_index(1)?);
                Ok(format!("{}={}", quoted(&key)?, quoted(&value)?))
            };
            Ok(items_of(value)?.into_iter().map(pair).collect::<Result<Vec<_>, Error>>()?.join("&"))
        }
        ValueKind::Undefined
        | ValueKind::None
        | ValueKind::Bool
        | ValueKind::Number
        | ValueKind::String
        | ValueKind::Bytes
        | ValueKind::Plain
        | ValueKind::Invalid
        | _ => Ok(url_quote(&python::display(value)?, true)),
    }
}

fn url_quote(text: &str, keeps_slash: bool) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || (keeps_slash && byte == b'/');
        if plain { quoted.push(byte.into()) } else { quoted.push_str(&format!("%{byte:02X}")) }
    }
    quoted
}

fn xml_attributes(value: &Value, autospace: Option<bool>) -> Result<String, Error> {
    let mut text = String::new();
    for key in items_of(value)? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = python::display(&key)?;
        if name.contains(|c: char| c.is_whitespace() || "/>=".contains(c)) {
            return Err(invalid(format!("invalid character in attribute name {name:?}")));
        }
        text.push_str(&format!(" {}=\"{}\"", escape(&name), escape(&python::display(&item)?)));
    }
    Ok(if autospace.unwrap_or(true) { text } else { text.trim_start_matches(' ').to_owned() })
}
