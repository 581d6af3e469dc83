//! Python's methods of texts that minijinja's collection lacks or defines otherwise.

use minijinja::value::{Tuple, from_args};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;

/// Calls a method of a value.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = text_method(text, method, args)
    {
        return result;
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// Returns `None` for a method that is not here.
fn text_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "title" => no_arguments(args).map(|()| title(text).into()),
        "swapcase" => no_arguments(args).map(|()| swap_case(text).into()),
        "partition" | "rpartition" => partition(text, method, args),
        "rsplit" => split_from_end(text, args),
        "removeprefix" => {
            from_args(args).map(|(prefix,): (&str,)| text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            from_args(args).map(|(suffix,): (&str,)| text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "zfill" => from_args(args).map(|(width,): (usize,)| zero_filled(text, width).into()),
        "center" | "ljust" | "rjust" => from_args(args).map(|(width, fill): (usize, Option<char>)| {
            let fill = fill.unwrap_or(' ');
            let missing = padding(text, width, fill);
            match method {
                "center" => centre(text, width, fill).into(),
                "ljust" => format!("{text}{missing}").into(),
                _ => format!("{missing}{text}").into(),
            }
        }),
        _ => return None,
    })
}

fn no_arguments(args: &[Value]) -> Result<(), Error> {
    from_args::<()>(args)
}

/// Python's `title`: a letter after another one is small.
fn title(text: &str) -> String {
    let mut titled = String::new();
    let mut after_letter = false;
    for character in text.chars() {
        if after_letter {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        after_letter = character.is_uppercase() || character.is_lowercase();
    }
    titled
}

fn swap_case(text: &str) -> String {
    let mut swapped = String::new();
    for character in text.chars() {
        if character.is_uppercase() {
            swapped.extend(character.to_lowercase());
        } else {
            swapped.extend(character.to_uppercase());
        }
    }
    swapped
}

fn partition(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    let parts = match method {
        "partition" => text.split_once(separator).map(|(head, tail)| [head, separator, tail]),
        _ => text.rsplit_once(separator).map(|(head, tail)| [head, separator, tail]),
    };
    let parts = parts.unwrap_or(if method == "partition" { [text, "", ""] } else { ["", "", text] });
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn split_from_end(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most =
        most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(most, separator).collect(),
        None => return split_words_from_end(text, most),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits at white space, at most into `most` parts; the first may have white space inside.
fn split_words_from_end(text: &str, most: usize) -> Result<Value, Error> {
    let mut rest = text.trim_end();
    let mut parts = Vec::new();
    while !rest.trim().is_empty() {
        if parts.len() + 1 >= most {
            parts.push(rest);
            break;
        }
        let start = rest
            .rfind(char::is_whitespace)
            .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

fn zero_filled(text: &str, width: usize) -> String {
    let zeros = padding(text, width, '0');
    match text.strip_prefix(['+', '-']) {
        Some(digits) => format!("{}{zeros}{digits}", &text[..1]),
        None => format!("{zeros}{text}"),
    }
}

/// The widest padding, in characters.
const WIDTH_MAX: usize = 1 << 16;

fn padding(text: &str, width: usize, fill: char) -> String {
    let missing = width.min(WIDTH_MAX).saturating_sub(text.chars().count());
    std::iter::repeat_n(fill, missing).collect()
}

/// Python's `center`: of an odd rest, the larger part is on the left if the width is odd.
pub(super) fn centre(text: &str, width: usize, fill: char) -> String {
    let missing = padding(text, width, fill).chars().count();
    let left = missing / 2 + (missing & width & 1);
    let side = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    format!("{}{text}{}", side(left), side(missing - left))
}
